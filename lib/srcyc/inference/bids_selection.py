"""Which scans of a BIDS data set are super-resolved: anatomical ones with thick slices, of the entities wanted.

Names are split at their entities, no more is needed: PyBIDS brings a data base and some ten packages for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srcyc.documents import read_json
from srcyc.errors import InputError
from srcyc.inference import bids
from srcyc.volumes.volume import read_grid, volume_stem

#: Names of entities in a filter file, which are those of PyBIDS, as they stand in file names.
_SHORT = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
    "inversion": "inv",
    "space": "space",
    "run": "run",
    "part": "part",
    "echo": "echo",
    "desc": "desc",
}
#: What a filter may ask of a file besides its entities; scans are anatomical, NIfTI.
_BESIDES = ("datatype", "suffix", "extension", "scope", "return_type")


@dataclass(frozen=True)
class Selection:
    """What was found.

    Attributes:
        scans: to be super-resolved, sorted.
        left_out: scans that are not, and why.
    """

    scans: list[Path]
    left_out: dict[Path, str] = field(default_factory=dict)


def select(
    root: Path,
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    filters: Mapping[str, Mapping[str, Any]] | None = None,
    least_factor: float = 2.0,
) -> Selection:
    """Find the thick anatomical scans of a data set.

    Args:
        root: the data set, with its `dataset_description.json`.
        participants: labels, with or without `sub-`; empty: all.
        sessions: the same with `ses-`.
        filters: what a scan's entities have to be, one or several queries, one of which has to fit.
        least_factor: slices this many times as far apart as voxels are wide are thick.

    Raises:
        InputError: no BIDS data set, or a participant that is not in it.
    """
    if not (root / bids.DESCRIPTION).is_file():
        raise InputError(
            f"{root}: has no {bids.DESCRIPTION}, it is no BIDS data set", remedy="give its folder"
        )
    wanted = {label.removeprefix("sub-") for label in participants}
    there = {folder.name.removeprefix("sub-") for folder in root.glob("sub-*") if folder.is_dir()}
    if lacking := sorted(wanted - there):
        raise InputError(
            f"{root}: has no participant {', '.join(lacking)}",
            remedy="give labels of its sub- folders",
            options=("participant_label",),
        )
    visits = {label.removeprefix("ses-") for label in sessions}
    found = Selection([])
    for label in sorted(wanted or there):
        for path in sorted((root / f"sub-{label}").rglob("*.nii*")):
            if path.name.startswith(".") or not path.name.endswith((".nii", ".nii.gz")):
                continue
            if bids.why_no_scan(path, root) is not None:
                continue
            entities = _entities(path)
            if visits and entities.get("ses") not in visits:
                continue
            if filters and not any(_fits(entities, query) for query in filters.values()):
                continue
            if (reason := _not_thick(path, least_factor)) is None:
                found.scans.append(path)
            else:
                found.left_out[path] = reason
    return found


def read_filters(path: Path) -> dict[str, dict[str, Any]]:
    """Read a filter file, as fMRIPrep has it: ``{"t2w": {"suffix": "T2w", "acquisition": "ax"}}``.

    Raises:
        InputError: not that, or an entity that is not known.
    """
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error})",
            remedy="give a filter file",
            options=("bids_filter_file",),
        ) from error
    if not all(isinstance(query, dict) for query in document.values()):
        raise InputError(f"{path}: is no object of queries", remedy='write {"t2w": {"suffix": "T2w"}}')
    known = {*_SHORT, *_SHORT.values(), *_BESIDES}
    for query in document.values():
        if unknown := sorted(query.keys() - known):
            raise InputError(
                f"{path}: {', '.join(unknown)} is no entity that is known", remedy=f"use {', '.join(_SHORT)}"
            )
    return document


def _entities(path: Path) -> dict[str, str]:
    entities, suffix = bids.parsed(volume_stem(path))
    return {**entities, "suffix": suffix, "datatype": "anat"}


def _fits(entities: Mapping[str, str], query: Mapping[str, Any]) -> bool:
    """Tell whether a scan is what a query asks for: a value, one of several, or none (null)."""
    for name, wanted in query.items():
        if name in ("extension", "scope", "return_type"):
            continue
        own = entities.get(_SHORT.get(name, name))
        allowed = wanted if isinstance(wanted, list) else [wanted]
        if not any(own is None if one is None else own == str(one) for one in allowed):
            return False
    return True


def _not_thick(path: Path, least_factor: float) -> str | None:
    """Say why a scan needs no super-resolution, None if it does; of one that cannot be read, its reader will say it."""
    try:
        spacing = read_grid(path).spacing
    except (InputError, OSError):
        return None
    if max(spacing) >= 0.97 * least_factor * min(spacing):
        return None
    return f"thin slices ({' x '.join(f'{mm:.3g}' for mm in spacing)} mm)"
