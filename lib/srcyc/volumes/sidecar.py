"""What the JSON file beside a scan says of it: BIDS, dcm2niix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from srcyc.documents import json_line, read_json

#: Marks the root of a BIDS data set, above which nothing is inherited.
_ROOT = "dataset_description.json"
#: Folders between a scan and that root: subject, session, modality, and what derivatives put above.
_MOST_LEVELS = 6


def read_thickness(path: Path, stem: str) -> tuple[float | None, tuple[str, ...]]:
    """Give the slice thickness (mm) that stands in a scan's sidecar, and what is doubtful about it.

    Args:
        path: the scan.
        stem: its name without the volume's suffix.

    Returns:
        None where no sidecar says it.
    """
    warnings = []
    for sidecar in _sidecars(path.parent, stem):
        try:
            document = read_json(sidecar)
        except (OSError, ValueError):
            warnings.append(f"its sidecar {sidecar.name} cannot be read: what it says is not known.")
            continue
        if "SliceThickness" not in document:
            continue
        value = document["SliceThickness"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            warnings.append(
                f"the SliceThickness {json_line(value)[:40]} in {sidecar.name} is no length in mm and is not used."
            )
            continue
        return float(value), tuple(warnings)
    return None, tuple(warnings)


def _sidecars(folder: Path, stem: str) -> Iterator[Path]:
    """Give the files that speak of a scan, nearest first (the inheritance principle of BIDS)."""
    own = folder / f"{stem}.json"
    if own.is_file():
        yield own
    parts = stem.split("_")
    if len(parts) < 2 or "-" not in parts[0]:
        return
    levels = [folder, *folder.absolute().parents][: _MOST_LEVELS + 1]
    root = next((depth for depth, level in enumerate(levels) if (level / _ROOT).is_file()), None)
    if root is None:
        return
    entities, suffix = set(parts[:-1]), parts[-1]
    for level in levels[: root + 1]:
        for other in sorted(level.glob(f"*{suffix}.json"), key=lambda file: -len(file.name)):
            *said, its_suffix = other.stem.split("_")
            if other != own and its_suffix == suffix and entities.issuperset(said):
                yield other
