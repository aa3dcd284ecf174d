"""What a client may ask of an inference, as MONAI Label's clients send it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import Field, field_validator

from srcyc.inference.options import InferenceOptions
from srcyc_app.refusals import validated

#: Longest text taken for a value.
_LONGEST = 200


class Options(InferenceOptions):
    """One request's wishes: the library's, and those that only a server has."""

    weights: str | None = Field(
        default=None,
        max_length=_LONGEST,
        title="Model",
        description="The network that computes the thin slices; default: the first one.",
    )
    device: str = Field(
        default="auto",
        max_length=_LONGEST,
        title="Device",
        description="Where the server computes: auto takes a GPU if it has one.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        title="Precision",
        description="Arithmetic of the network: auto is the fastest that the device can do well.",
    )
    result_dtype: Literal["float32", "int16", "uint16", "uint8", "input"] = Field(
        default="float32", title="Voxel type", description="Of the result; input: the scan's own."
    )
    result_extension: Literal[".nrrd", ".nii.gz", ".nii", ".mha", ".zip"] = Field(
        default=".nrrd",
        title="File format",
        description="Of the result and its maps; .zip: DICOM series derived from the scan's, which has to be one.",
    )
    series: str | None = Field(
        default=None,
        max_length=_LONGEST,
        title="DICOM series",
        description="Which series of a folder or an archive, by its number, description or UID; default: the only "
        "one.",
    )
    fill_gaps: bool = Field(
        default=False,
        title="Fill missing slices",
        description="Interpolate slices that a DICOM series lacks between others, instead of refusing it.",
    )
    labels: str | None = Field(
        default=None,
        max_length=_LONGEST,
        title="Label map",
        description="Tag of a label map that is saved with the scan: it is brought to the result's grid too.",
    )
    store: bool = Field(
        default=False,
        title="Keep the result in the studies folder",
        description="Only results of scans in the studies folder can be kept there.",
    )

    @field_validator("weights", "slice_thickness", "series", "labels", mode="before")
    @classmethod
    def _none_is_default(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("series", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("result_extension", mode="before")
    @classmethod
    def _dot(cls, value: Any) -> Any:
        return f".{value}" if isinstance(value, str) and not value.startswith(".") else value

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """Read a request.

        Raises:
            Refusal: 422, names the key and what is wrong with its value.
        """
        return validated(cls, values, lambda key, value: key == "target_spacing" and len(value) == 3)


def choices(weights: list[str]) -> dict[str, Any]:
    """Give the options as MONAI Label's clients show them: lists to choose from (first: the default), switches, text.

    Args:
        weights: names of the models, the default first.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    known = {"weights": weights, "device": ["auto", "cpu", *gpus]}
    return {name: known.get(name, _choice(name)) for name in Options.model_fields}


def descriptions() -> dict[str, dict[str, Any]]:
    """Give each option's label and help, the kind of value it takes (switch, number, choice, text), what none means."""
    return {
        name: {
            "label": field.title,
            "help": field.description,
            "kind": _kind(name),
            "empty": extra.get("empty", "") if isinstance(extra := field.json_schema_extra, dict) else "",
        }
        for name, field in Options.model_fields.items()
    }


def _choice(name: str) -> Any:
    field = Options.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return [field.default, *(value for value in get_args(field.annotation) if value != field.default)]
    return "" if field.default is None else field.default


def _kind(name: str) -> str:
    field = Options.model_fields[name]
    if isinstance(field.default, bool):
        return "switch"
    if name in ("weights", "device") or get_origin(field.annotation) is Literal:
        return "choice"
    return "number" if set(get_args(field.annotation)) == {float, type(None)} else "text"
