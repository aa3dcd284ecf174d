"""Which scans are LR, which HR, which neither, and why; and who is held back for validation."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from srcyc.errors import ConfigError, OutputError, SRCycError
from srcyc.volumes.labels import require_scan
from srcyc.volumes.volume import find_volumes, read_volume

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
        spacing: mm per axis (thick one last if prepared for training); None for a scan that was not or cannot be read.
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
        # Spreadsheets begin UTF-8 with a mark of their own, which is no part of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
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
            raise ConfigError(f"{path} line {number}: domain {text!r}", remedy="use LR, HR or neither")
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


def read_spacing(path: Path) -> tuple[float, float, float]:
    """Read a whole scan, to be sure that it can be read and is one, and give its spacing in mm.

    Raises:
        VolumeError: it cannot be read, or is a label map.
    """
    volume = read_volume(path)
    require_scan(volume)
    return volume.spacing


def assign_domains(
    paths: Iterable[Path],
    *,
    domain: Domain | None = None,
    manifest: dict[Path, ManifestEntry] | None = None,
    spacing_of: Callable[[Path], tuple[float, float, float]] = read_spacing,
) -> list[AssignedScan]:
    """Assign a domain to every scan: what the caller or the manifest says, else by spacing.

    Unreadable scans come back as neither, with the reader's sentence as the reason.

    Args:
        paths: volumes, DICOM series directories, or folders of them.
        domain: the domain of all of them, when the caller knows (``--lr``, ``--hr``).
        manifest: see :func:`read_manifest`.
        spacing_of: reads a scan's spacing, mm per axis; one that keeps what it reads saves reading it again.

    Raises:
        OutputError: ``spacing_of`` keeps what it reads, and has no room for it.
    """
    assigned = []
    for path in expand(paths):
        entry = (manifest or {}).get(path.resolve(), ManifestEntry(None, None))
        person = entry.person or person_of(path)
        try:
            spacing = spacing_of(path)
        except OutputError:
            # A full disk is no fault of the scan.
            raise
        except SRCycError as error:
            assigned.append(AssignedScan(path, Domain.NEITHER, str(error), person, None))
            continue
        chosen, reason = domain_of_spacing(spacing)
        if entry.domain is not None:
            chosen, reason = entry.domain, f"{reason}; the manifest says so"
        elif domain is not None:
            chosen, reason = domain, f"{reason}; given as such"
        assigned.append(AssignedScan(path, chosen, reason, person, spacing))
    return assigned


def domain_of_spacing(spacing: Sequence[float]) -> tuple[Domain, str]:
    """Assign by spacing (mm): one thick axis is LR, thin on all axes is HR.

    Returns:
        the domain, and the spacing and what it means in words.
    """
    finest, coarsest = min(spacing), max(spacing)
    text = " x ".join(f"{s:.3g}" for s in spacing) + " mm"
    if coarsest / finest >= LR_LEAST_FACTOR:
        return Domain.LR, f"{text}: slices {coarsest / finest:.1f} times thicker than its pixels"
    if coarsest <= HR_COARSEST_SPACING and coarsest / finest <= HR_LARGEST_FACTOR:
        return Domain.HR, f"{text}: thin on every axis"
    return Domain.NEITHER, f"{text}: neither thick slices nor thin on every axis"


def draw_held_back(hr: AbstractSet[str], lr: AbstractSet[str], fraction: float, seed: int) -> frozenset[str]:
    """Draw the persons to hold back for validation, in both domains alike.

    Of each domain with at least two persons the fraction is held back, at least one; whoever is held back for the
    one counts for the other too. A domain's last person is never held back.

    Args:
        hr: persons with HR scans.
        lr: persons with LR scans; empty if none are trained on.
        fraction: share of persons held back; 0: nobody.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    chosen: frozenset[str] = frozenset()
    for persons, others in ((hr, lr), (lr, hr)):
        wanted = max(1, round(fraction * len(persons))) if fraction > 0 and len(persons) > 1 else 0
        order: list[str] = rng.permutation(sorted(persons)).tolist()
        if persons is lr:
            # First those whom the other domain does not lose.
            order.sort(key=lambda person: person in hr)
        for person in order:
            if len(chosen & persons) >= wanted:
                break
            more = chosen | {person}
            if not persons <= more and not (others and others <= more):
                chosen = more
    return chosen
