"""Options that several commands share, and those that are made of the library's own declaration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from srcyc.cli.console import flag
from srcyc.errors import ConfigError
from srcyc.inference.options import InferenceOptions

if TYPE_CHECKING:
    from srcyc.inference.super_resolver import SuperResolver


@dataclass(frozen=True)
class Inference:
    """The model of a command, where and how it is computed, and what is asked of it."""

    model: str | None = None
    device: str = "auto"
    precision: str = "auto"
    max_memory: float | None = None
    options: InferenceOptions = field(default_factory=InferenceOptions)

    @property
    def path(self) -> Path:
        """The model's file.

        Raises:
            ModelError: there is no such model.
        """
        from srcyc.models.model_file import DEFAULT_MODEL, find_model

        return find_model(DEFAULT_MODEL if self.model is None else self.model)

    def digest(self) -> str:
        """Hash the model's file; raises as :attr:`path` does."""
        from srcyc.files import sha256

        return sha256(self.path)

    def load(self) -> SuperResolver:
        """Load the model.

        Raises:
            ModelError: there is no such model, or the file is not one.
        """
        from srcyc.inference.super_resolver import SuperResolver

        return SuperResolver.load(
            self.path, device=self.device, precision=self.precision, max_memory=self.max_memory
        )


def with_inference(*, but: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options for all that an :class:`Inference` says, where its parameter ``inference`` stands.

    Args:
        but: fields of :class:`InferenceOptions` that the command has no use for.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = {name: field for name, field in InferenceOptions.model_fields.items() if name not in but}

        def run(**given: Any) -> None:
            wishes = {name: given.pop(name) for name in fields}
            chosen = {name: given.pop(name) for name in ("model", "device", "precision", "max_memory")}
            command(inference=Inference(**chosen, options=InferenceOptions.of(wishes)), **given)

        parameters = []
        for each in inspect.signature(command, eval_str=True).parameters.values():
            if each.name != "inference":
                parameters.append(each.replace(kind=each.KEYWORD_ONLY))
                continue
            parameters.append(_keyword("model", ModelName, None))
            parameters += [_parameter(name, field) for name, field in fields.items()]
            parameters.append(_keyword("device", Device, "auto"))
            parameters.append(_keyword("precision", Precision, "auto"))
            parameters.append(_keyword("max_memory", MaxMemory, None))
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    default = field.default
    if isinstance(default, bool):
        kind: Any = bool
        names = f"{flag(name)}/--no-{flag(name)[2:]}" if default else flag(name)
    else:
        # What is no number is text, which the declaration reads.
        kind = float if float in get_args(field.annotation) and default is None else str
        kind = kind if default is not None else kind | None
        names = flag(name)
    option = typer.Option(
        names, metavar=str(extra["form"]) if "form" in extra else None, help=field.description
    )
    return _keyword(name, Annotated[kind, option], default)


def parse_numbers(text: str, *, option: str, example: str) -> list[float]:
    """Read positive numbers separated by commas.

    Raises:
        ConfigError: not that.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    # The comparison is false for NaN.
    if not values or not all(0 < value < float("inf") for value in values):
        raise ConfigError(f"{option} {text!r}: give positive values in mm, for example {example}.")
    return values


def _checked_device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise ConfigError(f"--device {text!r}: give auto, cpu, cuda, or cuda:N.")
    return text


def _checked_precision(text: str) -> str:
    if text not in ("auto", "fp32", "bf16", "fp16"):
        raise ConfigError(f"--precision {text!r}: give auto, fp32, bf16 or fp16.")
    return text


def _checked_memory(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise ConfigError(f"--max-memory {value:g}: give a positive number of GB.")
    return value


ModelName = Annotated[
    str | None,
    typer.Option(metavar="NAME|PATH", help="A model that `srcyc models` lists, or a model file."),
]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to compute.", callback=_checked_device)
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="auto|fp32|bf16|fp16",
        help="Arithmetic of the network; auto: as fast as is safe.",
        callback=_checked_precision,
    ),
]
MaxMemory = Annotated[
    float | None, typer.Option(metavar="GB", help="Memory the network may use.", callback=_checked_memory)
]
#: A part of many scans.
Shard = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Do the I-th of N parts of the scans only, for job arrays."),
]
PacsLogin = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file with one line for these servers, NAME:PASSWORD or Bearer TOKEN. Default: $SRCYC_PACS_LOGIN.",
    ),
]
