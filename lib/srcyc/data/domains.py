"""Which scans are LR, which HR, which neither, and why; and who is held back for validation."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from srcyc.errors import ConfigError, DataError, SRCycError
from srcyc.volume import find_volumes, read_volume

#: An LR scan's thick axis is at least this many times its finest one.
LR_LEAST_FACTOR = 1.8
#: An HR scan's coarsest axis: in mm, and relative to its finest one.
HR_COARSEST_SPACING = 1.3
HR_LARGEST_FACTOR = 1.5


class Domain(str, Enum):
    """LR: thick slices, y. HR: thin slices, x. NEITHER: not used."""

    LR = "LR"
    HR = "HR"
    NEITHER = "neither"


@dataclass(frozen=True)
class AssignedScan:
    """One scan with its domain.

    Attributes:
        path: file or DICOM series directory.
        domain: LR, HR or neither.
        reason: one clause that says why.
        person: whose scan it is; every person is on one side of the split.
        spacing: mm along the array axes, or None for an unreadable scan.
    """

    path: Path
    domain: Domain
    reason: str
    person: str
    spacing: tuple[float, float, float] | None


@dataclass(frozen=True)
class ManifestEntry:
    """One row of a manifest: ``path,domain,person``; domain and person may be empty."""

    domain: Domain | None
    person: str | None


def read_manifest(path: Path) -> dict[Path, ManifestEntry]:
    """Read a CSV manifest with the columns path, domain, person; paths relative to the manifest.

    Raises:
        ConfigError: missing file or column, or a domain that is not LR, HR or neither.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: the manifest cannot be read ({error}).") from error
    entries: dict[Path, ManifestEntry] = {}
    for number, row in enumerate(rows, start=2):
        if not row.get("path"):
            raise ConfigError(f"{path} line {number}: no value in the column 'path'.")
        text = (row.get("domain") or "").strip()
        names = {domain.value.lower(): domain for domain in Domain}
        if text and text.lower() not in names:
            raise ConfigError(f"{path} line {number}: domain {text!r}; use LR, HR or neither.")
        entries[(path.parent / row["path"]).resolve()] = ManifestEntry(
            names.get(text.lower()), (row.get("person") or "").strip() or None
        )
    return entries


def person_of(path: Path) -> str:
    """Guess whose scan it is: the BIDS label ``sub-X`` in the path, else the file's own name."""
    for part in reversed(path.parts):
        for piece in part.split("_"):
            if piece.lower().startswith("sub-") and len(piece) > 4:
                return piece.split(".")[0]
    return path.name.split(".")[0]


def expand(paths: Iterable[Path]) -> list[Path]:
    """Give every volume named, folders expanded to the volumes in them."""
    found: list[Path] = []
    for path in paths:
        found.extend(find_volumes(path) if path.is_dir() else [path])
    return list(dict.fromkeys(found))


def assign_domains(
    paths: Iterable[Path],
    *,
    domain: Domain | None = None,
    manifest: dict[Path, ManifestEntry] | None = None,
) -> list[AssignedScan]:
    """Assign a domain to every scan: what the caller or the manifest says, else by spacing.

    Unreadable scans come back as neither, with the reader's sentence as the reason.

    Args:
        paths: volumes, DICOM series directories, or folders of them.
        domain: the domain of all of them, when the caller knows (``--lr``, ``--hr``).
        manifest: see :func:`read_manifest`.
    """
    assigned = []
    for path in expand(paths):
        entry = (manifest or {}).get(path.resolve(), ManifestEntry(None, None))
        person = entry.person or person_of(path)
        try:
            spacing = read_volume(path).spacing
        except SRCycError as error:
            assigned.append(AssignedScan(path, Domain.NEITHER, str(error), person, None))
            continue
        if entry.domain is not None:
            scan = AssignedScan(path, entry.domain, "the manifest says so", person, spacing)
        elif domain is not None:
            scan = AssignedScan(path, domain, "given as such", person, spacing)
        else:
            by_spacing, reason = domain_of_spacing(spacing)
            scan = AssignedScan(path, by_spacing, reason, person, spacing)
        assigned.append(scan)
    return assigned


def domain_of_spacing(spacing: Sequence[float]) -> tuple[Domain, str]:
    """Assign by spacing (mm): one thick axis is LR, thin on all axes is HR."""
    finest, coarsest = min(spacing), max(spacing)
    text = " x ".join(f"{s:.3g}" for s in spacing) + " mm"
    if coarsest / finest >= LR_LEAST_FACTOR:
        return Domain.LR, f"{text}: slices {coarsest / finest:.1f} times thicker than its pixels"
    if coarsest <= HR_COARSEST_SPACING and coarsest / finest <= HR_LARGEST_FACTOR:
        return Domain.HR, f"{text}: thin on every axis"
    return Domain.NEITHER, f"{text}: neither thick slices nor thin on every axis"


def split_by_person(
    scans: Sequence[AssignedScan], fraction: float, seed: int, held_back: Sequence[str] = ()
) -> tuple[list[AssignedScan], list[AssignedScan]]:
    """Split scans into training and validation so that no person is on both sides.

    Args:
        scans: of one domain.
        fraction: share of persons held back (at least one person when above 0).
        seed: of the draw.
        held_back: persons to hold back instead of drawing.

    Returns:
        training scans, validation scans.

    Raises:
        DataError: nobody would be left to train on, or a person to hold back has no scan.
    """
    persons = sorted({scan.person for scan in scans})
    if held_back:
        if unknown := set(held_back) - set(persons):
            raise DataError(
                f"data.held_back names {', '.join(sorted(unknown))}: no HR scan of them; known: {', '.join(persons)}."
            )
        chosen = set(held_back)
    elif fraction > 0:
        count = max(1, round(fraction * len(persons)))
        chosen = set(np.random.default_rng(seed).permutation(persons)[:count].tolist())
    else:
        chosen = set()
    if persons and len(chosen) == len(persons):
        kind = scans[0].domain.value
        raise DataError(
            f"{len(persons)} person(s) with {kind} scans and {len(chosen)} held back for validation: nobody is left "
            "to train on; give scans of more persons, or set data.validation_fraction=0."
        )
    training = [scan for scan in scans if scan.person not in chosen]
    return training, [scan for scan in scans if scan.person in chosen]
