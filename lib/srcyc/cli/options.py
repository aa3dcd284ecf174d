"""Options that several commands share, and those that are made of the library's own declaration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from srcyc.cli.console import flag
from srcyc.errors import ConfigError
from srcyc.inference.options import InferenceOptions

if TYPE_CHECKING:
    from srcyc.inference.super_resolver import SuperResolver


def with_inference_options(
    after: str, *, but: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every field of :class:`InferenceOptions`, in place of its ``**wishes``.

    Args:
        after: name of the parameter that they follow in the help.
        but: fields that the command has no use for.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            command(**given)

        parameters = []
        for each in inspect.signature(command, eval_str=True).parameters.values():
            if each.kind is not each.VAR_KEYWORD:
                parameters.append(each.replace(kind=each.KEYWORD_ONLY))
            if each.name == after:
                fields = InferenceOptions.model_fields.items()
                parameters += [_parameter(name, field) for name, field in fields if name not in but]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


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
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


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
    typer.Option("--model", metavar="NAME|PATH", help="A model that `srcyc models` lists, or a model file."),
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
    typer.Option(
        metavar="I/N", help="Do the I-th of N parts of the scans only, for job arrays.", show_default=False
    ),
]
PacsLogin = Annotated[
    Path | None,
    typer.Option(
        "--pacs-login",
        metavar="FILE",
        help="A file with one line for these servers, NAME:PASSWORD or Bearer TOKEN. Default: $SRCYC_PACS_LOGIN.",
        show_default=False,
    ),
]


def model_digest(model: str | None) -> str:
    """Hash a model's file by name or path; None is the default one.

    Raises:
        ModelError: there is no such model.
    """
    from srcyc.files import sha256
    from srcyc.models.model_file import DEFAULT_MODEL, find_model

    return sha256(find_model(DEFAULT_MODEL if model is None else model))


def load_resolver(
    model: str | Path | None,
    *,
    device: str = "auto",
    precision: str = "auto",
    max_memory: float | None = None,
) -> SuperResolver:
    """Load a model by name or path; None is the default one.

    Raises:
        ModelError: there is no such model, or the file is not one.
    """
    from srcyc.inference.super_resolver import SuperResolver
    from srcyc.models.model_file import DEFAULT_MODEL, find_model

    path = find_model(DEFAULT_MODEL if model is None else str(model))
    return SuperResolver.load(path, device=device, precision=precision, max_memory=max_memory)
