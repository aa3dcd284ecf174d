"""Whether a result is there already: told by what its sidecar says it was made of, never by its name or its date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srcyc.documents import known
from srcyc.errors import InputError, OutputError
from srcyc.files import sha256
from srcyc.inference.options import InferenceOptions

if TYPE_CHECKING:
    from srcyc.inference.results import Place

#: Options without a say in what voxels a result has.
_NO_SAY = ("force",)
#: Options that ask for a file of its own: one more than is asked for does no harm.
_FILES = ("uncertainty", "correction_map", "labels")


@dataclass(frozen=True)
class Asked:
    """What a result is asked to be, whatever scan it is made of; device and precision do not count.

    Attributes:
        model: SHA-256 of the weights.
        options: of the inference.
        more: options of whoever reads and writes, as :func:`srcyc.inference.results.write_result` has them.
    """

    model: str
    options: InferenceOptions
    more: Mapping[str, bool] = field(default_factory=dict)


def is_finished(place: Place, scans: Sequence[Path], asked: Asked) -> bool:
    """Tell whether a result is there already, made of just this; False: nothing is there.

    A sidecar without its volume, which a killed process leaves behind, is no result.

    Args:
        place: of the result.
        scans: it is to be made of.
        asked: and how.

    Raises:
        OutputError: something else is there; says what.
        InputError: a scan cannot be read.
    """
    if not place.volume.exists():
        return False
    if why := _why_another(place, scans, asked):
        raise OutputError(
            f"{place.volume}: exists already and {why}",
            remedy="choose another place, or overwrite it",
            options=("overwrite",),
        )
    return True


def _why_another(place: Place, scans: Sequence[Path], asked: Asked) -> str | None:
    """Say of what another origin an output is, a clause; None: it is what is wanted."""
    told = read_sidecar(place.sidecar)
    if told.get("output") != place.volume.name:
        return "was not made by srcyc"
    stacks = told["stacks"] if isinstance(told.get("stacks"), list) else [told]
    inputs = [_entry(stack, "input") for stack in stacks]
    if [one.get("sha256") for one in inputs] != [digest(scan) for scan in scans]:
        names = [str(one.get("name")) for one in inputs]
        if names == [scan.name for scan in scans]:
            return f"was made of another {', '.join(names)}"
        return f"was made of {', '.join(names)}, not of {', '.join(map(str, scans))}"
    weights = _entry(told, "model")
    if weights.get("sha256") != asked.model:
        return f"was made by other weights, of the model {weights.get('name')!r}"
    made = _entry(told, "options")
    if not made:  # made before sidecars said them
        return None
    wanted = dict.fromkeys(made, False) | asked.options.model_dump(mode="json") | dict(asked.more)
    made = dict.fromkeys(asked.more, False) | made
    other = [
        f"{name} {made.get(name, 'unknown')}, not {value}"
        for name, value in wanted.items()
        if made.get(name, "unknown") != value and name not in _NO_SAY and (value or name not in _FILES)
    ]
    return f"was made with other options ({'; '.join(other)})" if other else None


def _entry(document: Any, name: str) -> dict[str, Any]:
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def digest(source: Path) -> str:
    """Hash a scan's files as its sidecar would.

    Raises:
        InputError: they cannot be read.
    """
    from srcyc.volumes.dicom import files_of
    from srcyc.volumes.image_files import parts_of

    try:
        return sha256(source, parts_of(source) if source.is_file() else files_of(source))
    except OSError as error:
        raise InputError(
            f"{source}: cannot be read ({error.strerror or error})", remedy="check its permissions"
        ) from error


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a sidecar; empty if there is none, or it is not one of ours."""
    document = known(path)
    return document if str(document.get("software", "")).startswith("srcyc") else {}
