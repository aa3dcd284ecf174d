"""What every G_HR has in common: upscale, then refine. A new one is a class with a name; nothing else knows it.

The upscaling and the projection need no network (:mod:`srcyc.physics.acquisition`). A generator gets the consistently
upscaled scan and gives what is left: r, what lies between the slices, and, if it wants, delta, what the slices
themselves have wrong. :mod:`srcyc.enhancement` puts the three together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor, nn

from srcyc.errors import ConfigError
from srcyc.schema import Schema

#: What a configuration that names none means.
DEFAULT_GENERATOR = "sliceresdnet"
_GENERATORS: dict[str, type[Generator]] = {}
_Class = TypeVar("_Class", bound="type[Generator]")


@dataclass(frozen=True)
class Sampling:
    """How a scan samples its slice axis, as a generator is told.

    Attributes:
        factor: slice spacing over the spacing wanted.
        thickness_ratio: slice thickness over slice spacing.
    """

    factor: float
    thickness_ratio: float


class Estimate(NamedTuple):
    """What a generator gives.

    Attributes:
        between: r, ``(B, 1, I, J, planes)``, see :meth:`Generator.planes`; normalised intensity.
        slices: delta, ``(B, 1, I, J, S)``, one value per voxel of the scan; None from a generator that trusts the scan.
    """

    between: Tensor
    slices: Tensor | None


#: Takes the next planes along I of the upscaled scan ``(1, 1, n, J, P)``, and whether they are the last; gives the
#: estimate for those planes that are now known.
EstimateStream = Callable[[Tensor, bool], Estimate]


class GeneratorConfig(Schema):
    """Arguments of a generator; each declares its own below the class that takes them.

    Attributes:
        name: under which the generator is registered.
    """

    name: str

    @property
    def is_for_volumes(self) -> bool:
        """Whether it takes volumes of one channel, as scans are."""
        return True


class Generator(nn.Module, ABC):
    """Super-resolution generator G_HR: estimates what a consistently upscaled scan lacks.

    Layers see the scan with its slice axis last. They are local, so that slabs are exact.

    Args:
        arguments: of the class's ``Config``.
    """

    Config: ClassVar[type[GeneratorConfig]]

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.config = self.Config(**arguments)

    @abstractmethod
    def planes(self, fine: int, slices: int) -> tuple[int, int]:
        """Give the planes that :meth:`estimate` takes along the slice axis, and those that it gives.

        Args:
            fine: planes wanted in the end.
            slices: of the scan.
        """

    @abstractmethod
    def estimate(self, upscaled: Tensor, samplings: Sequence[Sampling]) -> Estimate:
        """Estimate what is missing.

        Args:
            upscaled: ``(B, 1, I, J, planes)``, normalised intensity.
            samplings: one per item.
        """

    @property
    @abstractmethod
    def reach(self) -> int:
        """Voxels along I around a place that the estimate there depends on; a first slab has more planes than these."""

    @property
    def row_step(self) -> int:
        """Slabs, but for the last, have a multiple of so many planes along I."""
        return 1

    @abstractmethod
    def features_per_row(self, columns: int, fine: int, slices: int) -> int:
        """Count the numbers that a layer gives for one row ``(J, S)`` of the scan: a slab's memory depends on it."""

    @abstractmethod
    def stream(self, sampling: Sampling) -> EstimateStream:
        """Give :meth:`estimate` for one image that comes slab by slab, in the network's own type and place."""


def register(generator: _Class) -> _Class:
    """Make a generator known by the default ``name`` of its ``Config`` (class decorator).

    Raises:
        ConfigError: there is another one of that name.
    """
    name = generator.Config.model_fields["name"].default
    if _GENERATORS.setdefault(name, generator) is not generator:
        raise ConfigError(f"generator {name!r} is registered already", remedy="choose another name")
    return generator


def generators() -> list[str]:
    """List the names of all generators."""
    return sorted(_GENERATORS)


def build_generator(config: GeneratorConfig) -> Generator:
    """Build the (untrained) generator that a configuration describes."""
    return _GENERATORS[config.name](**config.model_dump())


def _as_config(value: Any) -> Any:
    """Check a mapping against the configuration of the generator it names, and that this one takes scans."""
    if isinstance(value, dict):
        name = value.get("name", DEFAULT_GENERATOR)
        if not isinstance(name, str) or name not in _GENERATORS:
            raise ValueError(f"no generator is called {name!r}: use one of {', '.join(generators())}")
        value = _GENERATORS[name].Config(**value)
    if not isinstance(value, GeneratorConfig):
        raise ValueError("give the generator's name and arguments")
    if not value.is_for_volumes:
        raise ValueError(f"this {value.name} is for other images, but scans are volumes of one channel")
    return value


#: A field of a schema that holds any registered generator's configuration.
AnyGeneratorConfig = Annotated[SerializeAsAny[GeneratorConfig], BeforeValidator(_as_config)]
