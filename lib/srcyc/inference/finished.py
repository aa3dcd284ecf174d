"""Whether a result is there already: told by the hashes in its sidecar, never by its name or its date."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from srcyc.errors import InputError
from srcyc.files import sha256


class Standing(str, Enum):
    """How an output stands to the scan and the model that it is to be made of."""

    ABSENT = "absent"
    FINISHED = "finished"
    OTHER_SCAN = "made of another scan"
    OTHER_MODEL = "made by another model"
    FOREIGN = "not made by srcyc"


@dataclass(frozen=True)
class Made:
    """What a sidecar says that its volume was made of.

    Attributes:
        inputs: SHA-256 of the scans.
        model: SHA-256 of the weights.
    """

    inputs: tuple[str | None, ...]
    model: str | None

    @classmethod
    def of(cls, sidecar: dict[str, Any]) -> Made:
        """Read it."""
        stacks = sidecar.get("stacks")
        told = [one.get("input") for one in stacks] if isinstance(stacks, list) else [sidecar.get("input")]
        inputs = tuple(one.get("sha256") if isinstance(one, dict) else None for one in told)
        model = sidecar.get("model")
        return cls(inputs, model.get("sha256") if isinstance(model, dict) else None)


def standing(volume: Path, sidecar: Path, scans: list[Path], model: str | None = None) -> Standing:
    """Tell how an output stands.

    A sidecar without its volume, which a killed process leaves behind, is no output.

    Args:
        volume: the output.
        sidecar: beside it.
        scans: it is to be made of.
        model: SHA-256 of the weights; None: any will do.
    """
    if not volume.exists():
        return Standing.ABSENT
    document = read_sidecar(sidecar)
    if document.get("output") != volume.name:
        return Standing.FOREIGN
    made = Made.of(document)
    if model is not None and made.model != model:
        return Standing.OTHER_MODEL
    return Standing.FINISHED if made.inputs == tuple(map(digest, scans)) else Standing.OTHER_SCAN


def digest(source: Path) -> str | None:
    """Hash a scan's files as its sidecar would; None where they cannot be told, which its reader will say."""
    from srcyc.volumes.dicom import files_of
    from srcyc.volumes.image_files import parts_of

    try:
        return sha256(source, parts_of(source) if source.is_file() else files_of(source))
    except (InputError, OSError):
        return None


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a sidecar; empty if there is none, or it is not one of ours."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    ours = isinstance(document, dict) and str(document.get("software", "")).startswith("srcyc")
    return document if ours else {}
