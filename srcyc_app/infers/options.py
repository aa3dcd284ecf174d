"""What a client may ask of an inference, as MONAI Label's clients send it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from srcyc.config import Schema
from srcyc.geometry import TargetSpacing
from srcyc_app.refusals import validated

DTYPES = ("float32", "int16", "uint16", "uint8", "input")
EXTENSIONS = (".nrrd", ".nii.gz", ".nii", ".mha")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

#: Longest text taken for a value.
_LONGEST = 200


class Options(Schema):
    """One request's wishes.

    Attributes:
        weights: model name; None: the server's default.
        target_spacing: ``isotropic``, mm, or mm per array axis.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: arithmetic of the network.
        consistency: correct the result towards the scan.
        uncertainty: also make the map.
        denoise: smooth the scan first.
        n4: correct its bias field first.
        force: go on far outside the model's range.
        result_dtype: voxel type of the result; ``input``: the scan's own.
        result_extension: file format of the result.
        store: keep the result in the datastore too.
    """

    weights: str | None = Field(default=None, max_length=_LONGEST)
    target_spacing: TargetSpacing | str = "isotropic"
    device: str = Field(default="auto", max_length=_LONGEST)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    consistency: bool = True
    uncertainty: bool = False
    denoise: bool = False
    n4: bool = False
    force: bool = False
    result_dtype: Literal["float32", "int16", "uint16", "uint8", "input"] = "float32"
    result_extension: Literal[".nrrd", ".nii.gz", ".nii", ".mha"] = ".nrrd"
    store: bool = False

    @field_validator("weights", mode="before")
    @classmethod
    def _none_is_default(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("target_spacing", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("give 'isotropic', one value in mm, or three")
        if isinstance(value, str) and value != "isotropic":
            try:
                numbers = [float(part) for part in value.split(",")]
            except ValueError:
                raise ValueError("give 'isotropic', one value in mm, or three as X,Y,Z") from None
            return numbers[0] if len(numbers) == 1 else tuple(numbers)
        return value

    @field_validator("result_extension", mode="before")
    @classmethod
    def _dot(cls, value: Any) -> Any:
        return f".{value}" if isinstance(value, str) and not value.startswith(".") else value

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Options:
        """Read a request; what is none of these is left to others.

        The stock client sends the lists of :func:`choices` back as they are, Slicer sends the item chosen: of a
        list the first item counts.

        Raises:
            Refusal: 422, names the key and what is wrong with its value.
        """
        values = {}
        for key in cls.model_fields:
            if key not in request:
                continue
            value = request[key]
            if isinstance(value, list | tuple) and not (key == "target_spacing" and len(value) == 3):
                value = value[0] if value else None
            if value is not None:
                values[key] = value
        return validated(cls, values)


def choices(weights: list[str]) -> dict[str, Any]:
    """Give the options as MONAI Label's clients show them: lists to choose from (first: the default), switches, text.

    Args:
        weights: names of the models, the default first.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return {
        "weights": weights,
        "target_spacing": "isotropic",
        "device": ["auto", "cpu", *gpus],
        "precision": list(PRECISIONS),
        "consistency": True,
        "uncertainty": False,
        "denoise": False,
        "n4": False,
        "force": False,
        "result_dtype": list(DTYPES),
        "result_extension": list(EXTENSIONS),
        "store": False,
    }
