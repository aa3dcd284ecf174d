"""Frames that share a place: exact copies of each other, or told apart by what their headers say."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence

from srcyc.volumes.dicom.frames import Frame
from srcyc.volumes.dicom.pixels import equal_pixels
from srcyc.volumes.dicom.stack import repeated

#: Stacks that share their places have at least this share of each other's slices.
_LEAST_PART = 0.5
#: And they are at most so many: hundreds of time points or directions are no scans to look at one by one.
_MOST_PARTS = 12


def without_copies(frames: Sequence[Frame]) -> tuple[list[Frame], list[tuple[Frame, Frame]]]:
    """Leave out frames that are exact copies of another at their place: a file that was copied twice.

    Returns:
        the frames that are left, and each copy with what it is a copy of.

    Raises:
        VolumeError: pixels that cannot be read; only those of frames that share a place are looked at.
    """
    kept = list(frames)
    copies: list[tuple[Frame, Frame]] = []
    while pairs := repeated(kept):
        for pair in pairs:
            # The longer name is that of the copy: "IM4 (1)", "Copy of IM4".
            original, copy = sorted(pair, key=lambda frame: (len(str(frame.file)), str(frame.file)))
            if original not in kept or copy not in kept:
                continue
            if not equal_pixels(original, copy):
                return kept, copies  # no stack anyway: thousands of files may follow
            kept.remove(copy)
            copies.append((copy, original))
    return kept, copies


def told_apart(frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Split parallel frames that share places by what their headers say; as they are if nothing tells them apart."""
    if not repeated(frames):
        return [("", frames)]
    varying = dict.fromkeys(name for frame in frames for name in frame.traits)
    names = [name for name in varying if len({frame.traits.get(name, "") for frame in frames}) > 1]

    def by_traits(wanted: Sequence[str]) -> Callable[[Frame], str]:
        return lambda frame: ", ".join(f"{name} {frame.traits.get(name, 'unknown')}" for name in wanted)

    by_header: list[Callable[[Frame], str]] = [by_traits([name]) for name in names]
    by_header += [by_traits(names)] if len(names) > 1 else []
    root = os.path.commonpath([frame.file.parent for frame in frames])
    by_place: list[Callable[[Frame], str]] = [
        lambda frame: f"folder {os.path.relpath(frame.file.parent, root)}"
    ]
    if all(frame.enhanced for frame in frames):
        by_place.append(lambda frame: f"file {frame.file.name}")
    for way in (*by_header, *by_place):
        parts = _split(frames, way)
        # Exact copies in another place are no second scan.
        if parts and (way in by_header or not _holds_copies(list(parts.values()))):
            return list(parts.items())
    return [("", frames)]


def _split(frames: Sequence[Frame], way: Callable[[Frame], str]) -> dict[str, list[Frame]]:
    """Split frames by label; empty unless that makes a few stacks of about one size and the same places."""
    parts: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        parts[way(frame)].append(frame)
    sizes = [len(part) for part in parts.values()]
    if not 1 < len(parts) <= _MOST_PARTS or min(sizes) < 2 or any(repeated(part) for part in parts.values()):
        return {}
    # A few slices that were acquired again are no second scan, nor are interleaved slices and one of them twice.
    alike = min(sizes) >= _LEAST_PART * max(sizes)
    shared = len(repeated(frames)) >= _LEAST_PART * min(sizes) * (len(parts) - 1)
    return parts if alike and shared else {}


def _holds_copies(parts: Sequence[list[Frame]]) -> bool:
    """Tell whether a part holds copies of another's frames."""
    first, *others = parts
    return any(without_copies([*first, *other])[1] for other in others)
