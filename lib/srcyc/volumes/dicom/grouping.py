"""The images of one series as stacks of parallel slices; most series are one."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.files import reading, whole_or_none
from srcyc.volumes.dicom.frames import Frame, frames_of
from srcyc.volumes.dicom.kinds import COLOUR, image_type, plain_text, why_no_scan, why_phase
from srcyc.volumes.dicom.repeats import told_apart, without_copies
from srcyc.volumes.dicom.series import SINGLE, DicomSeries
from srcyc.volumes.dicom.stack import Stack
from srcyc.volumes.dicom.tree import Image


def stacks_of(where: Path, images: Sequence[Image]) -> list[DicomSeries]:
    """Give the stacks of one series: those that may be scans, and those that are none for one reason or another.

    Args:
        where: the folder that was given, or the file.
        images: of the series.
    """
    return [stack for reason, members in _by_reason(images) for stack in _series_of(where, members, reason)]


def _by_reason(images: Sequence[Image]) -> list[tuple[str | None, list[Image]]]:
    """Split a series into what may be a scan, and what is none for one reason or another (a capture, projections)."""
    groups: dict[str | None, list[Image]] = defaultdict(list)
    for image in images:
        groups[why_no_scan(image.header)].append(image)
    if COLOUR in groups and None in groups:
        groups[None] += groups.pop(COLOUR)
    return list(groups.items())


def _series_of(where: Path, images: Sequence[Image], unfit: str | None) -> list[DicomSeries]:
    """Give the stacks of the images of one series, all of which are no scan for the reason given, if there is one."""
    header = images[0].header
    files = [image.file for image in images]
    folder = _folder_of(files, where)
    announced = [whole_or_none(image.header, "ImagesInAcquisition") for image in images]
    whole_series = DicomSeries(
        folder=folder,
        uid=str(header.get("SeriesInstanceUID", "") or ""),
        number=whole_or_none(header, "SeriesNumber"),
        description=plain_text(header.get("SeriesDescription")) or plain_text(header.get("ProtocolName")),
        files=tuple(sorted(files)),
        unfit=unfit,
        announced=max((n for n in announced if n is not None), default=None),
        mosaic=all("MOSAIC" in image_type(image.header) for image in images),
    )
    try:
        frames = [frame for image in images for frame in _frames_of(image)]
    except VolumeError as error:
        return [replace(whole_series, problem=error)]
    whole_series = replace(whole_series, frames=tuple(frames))
    try:
        parts = _parts(frames, folder)
    except VolumeError as error:
        return [replace(whole_series, problem=error)]
    scans = [part for part in parts if len(part[1]) > 1]
    if len(parts) > 1 and not scans:
        no_stack = (
            whole_series.unfit or f"{len(parts)} slices in different directions, no stack (a localizer?)"
        )
        return [replace(whole_series, unfit=no_stack, problem=_directions(frames, folder))]
    if len(frames) == 1:
        return [replace(whole_series, unfit=unfit or SINGLE)]
    found = []
    for label, members in parts:
        why = unfit or why_phase(members)
        if len(members) == 1:
            why = why or f"{SINGLE} beside others of its series"
        files = sorted({frame.file for frame in members})
        part = replace(whole_series, part=label, files=tuple(files), frames=tuple(members), unfit=why)
        found.append(replace(part, folder=_folder_of(files, where)))
    return found


def _frames_of(image: Image) -> list[Frame]:
    """Give the frames of an image.

    Raises:
        VolumeError: its header is unusable.
    """
    with reading(image.file):  # pydicom converts the frames' headers only now
        return list(frames_of(image.file, image.header))


def _folder_of(files: Sequence[Path], where: Path) -> Path:
    """Give the innermost folder that holds all files; a file that was given is its own."""
    return where if where in files else Path(os.path.commonpath([file.parent for file in files]))


def _parts(frames: Sequence[Frame], where: Path) -> list[tuple[str, list[Frame]]]:
    """Split the frames of a series into stacks.

    Raises:
        VolumeError: that leaves stacks with holes, or pixels that have to be compared cannot be read.
    """
    planes: list[list[Frame]] = []
    for frame in frames:
        for plane in planes:
            if frame.lies_as(plane[0]) and frame.sampled_as(plane[0]):
                plane.append(frame)
                break
        else:
            planes.append([frame])
    parts: list[tuple[str, list[Frame]]] = []
    for number, plane in enumerate(planes, 1):
        name = f"stack {number}" if len(planes) > 1 else ""
        for label, members in told_apart(plane):
            parts.append((", ".join(text for text in (name, label) if text), members))
    # A slice that was turned or resized by mistake leaves a hole: that series is damaged, not two.
    if len(planes) > 1 and any(len(members) > 1 and not _regular(members, where) for _, members in parts):
        raise _directions(frames, where)
    return parts


def _directions(frames: Sequence[Frame], where: Path) -> VolumeError:
    """Say which slices do not fit together."""
    first = frames[0]
    other = next(frame for frame in frames if not (frame.lies_as(first) and frame.sampled_as(first)))
    if not other.lies_as(first):
        return VolumeError(
            f"{where}: the slices {first.label} and {other.label} lie in different directions (a localiser?)",
            remedy="give the folder of one stack of parallel slices",
        )
    return VolumeError(
        f"{where}: the slices {first.label} and {other.label} differ in size or pixel spacing "
        f"({_sampling(first)} and {_sampling(other)})",
        remedy="give the folder of one stack",
    )


def _regular(frames: Sequence[Frame], where: Path) -> bool:
    try:
        Stack.of(without_copies(frames)[0], where)
    except VolumeError:
        return False
    return True


def _sampling(frame: Frame) -> str:
    rows, columns = frame.size
    return f"{columns} x {rows} at {frame.pixel_spacing[1]:g} x {frame.pixel_spacing[0]:g} mm"
