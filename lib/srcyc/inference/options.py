"""What may be asked of an inference, declared once: command line, server, Slicer and page are made from it or checked.

Nothing heavy is imported here: `srcyc infer --help` needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import Field, ValidationError, field_validator

from srcyc.errors import ConfigError
from srcyc.schema import Schema
from srcyc.volumes.geometry import TargetSpacing

#: Characters of a value that are shown back.
_SHOWN = 200

Wanted = TypeVar("Wanted", bound="InferenceOptions")


class InferenceOptions(Schema):
    """One request's wishes.

    Each field's title is its label, its description the help; ``form`` says how a value is written, ``empty`` what is
    done without one.
    """

    target_spacing: TargetSpacing = Field(
        default="isotropic",
        title="Target spacing",
        description="Voxel size wanted, mm: the scan's finest on every axis ('isotropic'), one value, or one per array "
        "axis. No axis is made coarser.",
        json_schema_extra={"form": "isotropic|MM|X,Y,Z"},
    )
    slice_thickness: float | None = Field(
        default=None,
        gt=0,
        title="Slice thickness (mm)",
        description="Thickness of the scan's slices, mm, without the gap between them; default: what the file says, "
        "else an estimate from the scan.",
        json_schema_extra={"form": "MM", "empty": "as the file says, else estimated from the scan"},
    )
    consistency: bool = Field(
        default=True,
        title="Keep to the scan (data consistency)",
        description="Add only what the scan does not see: acquired again, the result is the scan.",
    )
    correct_slices: bool = Field(
        default=True,
        title="Correct the slices",
        description="Correct what the slices themselves have wrong (brightness from slice to slice, noise); off: every "
        "slice is reproduced exactly.",
    )
    uncertainty: bool = Field(
        default=False,
        title="Uncertainty map",
        description="Also make a map of the standard deviation over flips, at four times the cost.",
    )
    correction_map: bool = Field(
        default=False,
        title="Correction map",
        description="Also make a map, on the scan's own slices, of what was corrected in them.",
    )
    denoise: bool = Field(
        default=False, title="Denoise the scan first", description="Reduce the scan's noise first."
    )
    n4: bool = Field(
        default=False,
        title="Correct its bias field first (N4)",
        description="Correct the scan's bias field (N4) first.",
    )
    force: bool = Field(
        default=False,
        title="Go on far outside the model's range",
        description="Super-resolve scans too that are refused for lying far from what the model was trained for.",
    )

    @field_validator("target_spacing", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Take text too: 'isotropic', 'MM' or 'X,Y,Z'."""
        if isinstance(value, str):
            if value == "isotropic":
                return value
            parts: list[Any] = value.split(",")
        else:
            parts = list(value) if isinstance(value, Iterable) else [value]
        try:
            numbers = [] if any(isinstance(part, bool) for part in parts) else [float(part) for part in parts]
        except (TypeError, ValueError, OverflowError):
            numbers = []
        if len(numbers) not in (1, 3) or not all(0 < number < math.inf for number in numbers):
            raise ValueError("give 'isotropic', one value in mm, or three as X,Y,Z")
        return numbers[0] if len(numbers) == 1 else tuple(numbers)

    @classmethod
    def of(cls: type[Wanted], values: Mapping[str, Any]) -> Wanted:
        """Check wishes that come from outside.

        Raises:
            ConfigError: names the first option that is wrong, its value, and why.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            name, reason = first_problem(error)
            shown = repr(values.get(name))[:_SHOWN]
            raise ConfigError(f"{name} {shown}: {reason}.", options=(name,)) from error


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Give the name of the first option that is wrong, and what to give instead."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    for said, meant in (
        ("Input should be greater", "give a value greater"),
        ("Input should be less", "give a value less"),
        ("Input should be", "give"),
        ("Extra inputs are not permitted", "there is no such option"),
    ):
        reason = reason.replace(said, meant)
    return (str(first["loc"][0]) if first["loc"] else "request"), reason
