"""The seam of the generators: a name, its configuration, and nothing else that knows one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from pydantic import ValidationError

from srcyc.errors import ConfigError
from srcyc.networks import (
    AnyGeneratorConfig,
    GeneratorConfig,
    SliceResDNet,
    SliceResDNetConfig,
    SRResDNet,
    SRResDNetConfig,
    build_generator,
    generators,
    register,
)
from srcyc.networks import generator as seam
from srcyc.schema import Schema


class Holder(Schema):
    """As a model card or a training file holds a generator."""

    network: AnyGeneratorConfig = SliceResDNetConfig()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten."""
    monkeypatch.setattr(seam, "_GENERATORS", dict(seam._GENERATORS))
    yield


def test_the_products_generators_are_known_by_name() -> None:
    assert generators() == ["sliceresdnet", "srresdnet"]
    assert type(build_generator(SliceResDNetConfig(features=8, depth=1))) is SliceResDNet
    assert type(build_generator(SRResDNetConfig(features=4, depth=1))) is SRResDNet


def test_a_generator_is_built_as_its_configuration_says() -> None:
    network = build_generator(SliceResDNetConfig(features=16, depth=3))
    assert network.config == SliceResDNetConfig(features=16, depth=3)
    assert (len(network.blocks), network.head.out_channels) == (3, 16)  # type: ignore[arg-type, union-attr]
    published = build_generator(SRResDNetConfig(features=5, depth=2, spatial_dims=2, interpolation="cubic"))
    assert published.config.interpolation == "cubic"  # type: ignore[attr-defined]
    assert published.resdnet.head.kernel().ndim == 4  # type: ignore[union-attr]


def test_defaults_stand_once_below_the_class() -> None:
    assert SliceResDNet(depth=1).config == SliceResDNetConfig(depth=1)
    assert SRResDNet(features=4).config.model_dump() == SRResDNetConfig(features=4).model_dump()
    assert Holder().network == SliceResDNetConfig()


@pytest.mark.parametrize(
    "config", [SliceResDNetConfig(features=16, depth=2), SRResDNetConfig(features=5, clip=(0, 1))]
)
def test_a_configuration_comes_back_from_json_as_what_it_was(config: GeneratorConfig) -> None:
    held = Holder(network=config)
    again = Holder.model_validate_json(held.model_dump_json())
    assert again == held
    assert type(again.network) is type(config)
    assert Holder.model_validate(held.model_dump(mode="json")) == held
    # All arguments are written, not those that every generator has.
    assert held.model_dump()["network"] == config.model_dump()


def test_who_names_none_means_the_products() -> None:
    assert Holder.model_validate({"network": {"features": 16}}).network == SliceResDNetConfig(features=16)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"name": "unet"}, "no generator is called 'unet': use one of sliceresdnet, srresdnet"),
        ({"name": ["sliceresdnet"]}, "network"),
        ({"name": None}, "network"),
        ({"name": "sliceresdnet", "interpolation": "cubic"}, "interpolation"),
        ({"name": "srresdnet", "planes": 4}, "planes"),
        ("sliceresdnet", "give the generator's name and arguments"),
        (None, "give the generator's name and arguments"),
        *(({"features": n}, "features") for n in (0, 4, 12, 2048, "many")),
        *(({"depth": n}, "depth") for n in (0, 65, -1, 1.5)),
        *(({"name": "srresdnet", "features": n}, "features") for n in (0, 1025)),
        *(({"name": "srresdnet", "depth": n}, "depth") for n in (0, 65)),
    ],
)
def test_what_is_no_generator_is_refused(given: object, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Holder.model_validate({"network": given})


@pytest.mark.usefixtures("registry")
def test_a_name_is_taken_once() -> None:
    class Config(GeneratorConfig):
        name: Literal["sliceresdnet"] = "sliceresdnet"

    class Other(SliceResDNet):
        pass

    Other.Config = Config  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="'sliceresdnet' is registered already"):
        register(Other)
    assert type(build_generator(SliceResDNetConfig(features=8, depth=1))) is SliceResDNet
    # The same class again is no other one.
    assert register(SliceResDNet) is SliceResDNet


@pytest.mark.usefixtures("registry")
def test_a_registered_name_is_known_at_once_to_everything_that_holds_a_generator() -> None:
    class MineConfig(GeneratorConfig):
        name: Literal["mine"] = "mine"
        width: int = 3

    @register
    class Mine(SliceResDNet):
        Config = MineConfig  # type: ignore[assignment]

        def __init__(self, **arguments: int | str) -> None:
            super(SliceResDNet, self).__init__(**arguments)

    assert "mine" in generators()
    held = Holder.model_validate({"network": {"name": "mine", "width": 5}})
    assert held.network == MineConfig(width=5)
    assert type(build_generator(held.network)) is Mine
