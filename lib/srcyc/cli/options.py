"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srcyc.errors import ConfigError

if TYPE_CHECKING:
    from srcyc.inference.super_resolver import SuperResolver


def parse_spacing(text: str) -> str | float | tuple[float, ...]:
    """Read ``isotropic``, ``MM`` or ``X,Y,Z``.

    Raises:
        ConfigError: none of these.
    """
    if text == "isotropic":
        return text
    values = parse_numbers(text, option="--target-spacing", example="isotropic, 1, or 0.9,0.9,1")
    if len(values) not in (1, 3):
        raise ConfigError(f"--target-spacing {text!r}: give 'isotropic', one value in mm, or three as X,Y,Z.")
    return values[0] if len(values) == 1 else tuple(values)


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
    from srcyc.inference.model_file import DEFAULT_MODEL, find_model
    from srcyc.inference.super_resolver import SuperResolver

    path = find_model(DEFAULT_MODEL if model is None else str(model))
    return SuperResolver.load(path, device=device, precision=precision, max_memory=max_memory)
