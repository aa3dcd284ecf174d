"""Frames that share a place: exact copies of each other, or told apart by what their headers say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from srcyc.dicom.frames import Frame
from srcyc.dicom.pixels import equal_pixels
from srcyc.dicom.stack import repeated

#: Stacks that share their places have at least this share of each other's slices.
_LEAST_PART = 0.5


def without_copies(frames: Sequence[Frame]) -> tuple[list[Frame], list[tuple[Frame, Frame]]]:
    """Leave out frames that are exact copies of another at their place: a file that was copied twice.

    Returns:
        the frames that are left, and each copy with what it is a copy of.

    Raises:
        VolumeError: pixels that cannot be read; only those of frames that share a place are looked at.
    """
    kept = list(frames)
    copies: list[tuple[Frame, Frame]] = []
    while True:
        found = [(first, second) for first, second in repeated(kept) if equal_pixels(first, second)]
        if not found:
            return kept, copies
        for first, second in found:
            # The longer name is that of the copy: "IM4 (1)", "Copy of IM4".
            first, second = sorted((first, second), key=lambda frame: (len(str(frame.file)), str(frame.file)))
            if first in kept and second in kept:
                kept.remove(second)
                copies.append((second, first))


def told_apart(frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Split parallel frames that share places by what their headers say; as they are if nothing tells them apart."""
    if not repeated(frames):
        return [("", frames)]
    varying = dict.fromkeys(name for frame in frames for name in frame.traits)
    names = [name for name in varying if len({frame.traits.get(name, "") for frame in frames}) > 1]

    def by_traits(wanted: Sequence[str]) -> Callable[[Frame], str]:
        return lambda frame: ", ".join(f"{name} {frame.traits.get(name, 'unknown')}" for name in wanted)

    ways: list[Callable[[Frame], str]] = [by_traits([name]) for name in names]
    ways += [by_traits(names)] if len(names) > 1 else []
    ways.append(lambda frame: f"folder {frame.file.parent.name}")
    if all(frame.enhanced for frame in frames):
        ways.append(lambda frame: f"file {frame.file.name}")
    for way in ways:
        parts: dict[str, list[Frame]] = defaultdict(list)
        for frame in frames:
            parts[way(frame)].append(frame)
        sizes = [len(part) for part in parts.values()]
        # A few slices that were acquired again are no second scan.
        alike = len(parts) > 1 and min(sizes) > 1 and min(sizes) >= _LEAST_PART * max(sizes)
        if alike and not any(repeated(part) for part in parts.values()):
            # Exact copies in another folder are no second scan.
            first, *others = parts.values()
            if any(without_copies([*first, *other])[1] for other in others):
                return [("", frames)]
            return list(parts.items())
    return [("", frames)]
