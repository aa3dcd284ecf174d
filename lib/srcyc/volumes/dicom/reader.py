"""One series as a volume, or as its grid alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.files import listed
from srcyc.volumes.dicom.frames import Frame
from srcyc.volumes.dicom.listing import listing_of
from srcyc.volumes.dicom.pixels import read_voxels
from srcyc.volumes.dicom.repeats import without_copies
from srcyc.volumes.dicom.series import DicomSeries, Listing, the_one
from srcyc.volumes.dicom.stack import Stack, repeated
from srcyc.volumes.dicom.tree import NO_DICOM
from srcyc.volumes.formats.raw import Header, RawVolume, require_room

#: Bytes of a rescaled voxel.
_LARGEST_VOXEL = 8
#: A slice thinner than this fraction of the slices' distance is a mistake, not a gap.
_THINNEST = 0.05
#: Voxels of MR scans, mm: what lies outside is a unit that was mistaken.
_PLAUSIBLE_SPACING = (0.02, 50.0)
#: Spacing Between Slices and the distance of the slices agree to this fraction.
_DISTANCE_TOLERANCE = 0.05


def read_dicom_folder(
    path: Path, *, series: str | DicomSeries | None = None, fill_gaps: bool = False
) -> RawVolume:
    """Read one series of a folder, wherever below it its files lie, or a file of many frames.

    Slices are sorted along their normal; the spacing between them is (last - first) / (n - 1) of their positions,
    never Slice Thickness or Spacing Between Slices, which scanners fill differently. Padding is what Pixel Padding
    Value says.

    Args:
        path: the folder, a file of many frames, or either with the name of one of its series behind it, as if that were
            a file in it.
        series: number, description or UID of the one to read, or an entry of a listing; None: the only scan. Those with
            a file directly in the folder go before those in its subfolders.
        fill_gaps: missing slices between others are interpolated linearly, and a warning says so.

    Raises:
        VolumeError: no series or several, colour, a single slice, repeated positions (exact copies are dropped with a
            warning), gaps that differ by more than 5 % from their mean, a leaning stack (gantry tilt), files that
            cannot be read or decoded, or that lie among the slices and are no DICOM, more than fits into memory.
        OSError: the folder cannot be listed.
    """
    found, listing = _found(path, series)
    stack, warnings = _stack(found, fill_gaps=fill_gaps)
    require_room(path, stack.shape, _LARGEST_VOXEL)
    voxels, padding = read_voxels(stack.frames)
    stored = voxels.dtype
    if stack.filling is not None:
        voxels = _filled(voxels, stack.filling)
        # A plane made of two is padding where either is.
        padding = None if padding is None else _filled(padding, stack.filling) > 0
    thickness, doubts = _thickness(stack)
    warnings += [*doubts, *_doubts(found, stack), *_left_out(listing)]
    header = Header(
        stack.shape,
        stack.affine,
        slice_thickness=thickness,
        padding=padding,
        warnings=tuple(warnings),
        series=found.uid or None,
        files=found.files,
    )
    return RawVolume(header, voxels, stored)


def read_dicom_header(
    path: Path, *, series: str | DicomSeries | None = None, fill_gaps: bool = False
) -> Header:
    """Read the place of what :func:`read_dicom_folder` would read, without its pixels.

    Raises:
        VolumeError: as :func:`read_dicom_folder`, except for pixels that cannot be decoded.
        OSError: the folder cannot be listed.
    """
    found, _ = _found(path, series)
    stack, _ = _stack(found, fill_gaps=fill_gaps)
    return Header(stack.shape, stack.affine)


def files_of(path: Path) -> tuple[Path, ...]:
    """Give the files of the series that :func:`read_dicom_folder` would read, sorted.

    Raises:
        VolumeError: none or several.
        OSError: the folder cannot be listed.
    """
    return _found(path, None)[0].files


def parts_of_one_series(paths: Iterable[Path]) -> list[list[Path]]:
    """Find scans that are parts of one stack: of one series, parallel, sampled alike, at different places.

    Args:
        paths: as for :func:`read_dicom_folder`; others, and those that cannot be read, are no parts.

    Returns:
        groups of at least two paths.
    """
    groups: dict[str, list[tuple[Path, DicomSeries]]] = defaultdict(list)
    for path in paths:
        try:
            found = _found(path, None)[0]
        except (VolumeError, OSError):
            continue
        if found.uid and found.problem is None:
            groups[found.uid].append((path, found))
    return [[path for path, _ in group] for group in groups.values() if _is_one_stack([s for _, s in group])]


def _is_one_stack(parts: Sequence[DicomSeries]) -> bool:
    frames = [frame for part in parts for frame in part.frames]
    alike = all(frame.lies_as(frames[0]) and frame.sampled_as(frames[0]) for frame in frames)
    return len(parts) > 1 and alike and not repeated(frames)


def _found(path: Path, series: str | DicomSeries | None) -> tuple[DicomSeries, Listing | None]:
    if isinstance(series, DicomSeries):
        return series, None
    found = listing_of(path)
    if found is None:
        raise VolumeError(f"{path}: no such file, folder or series", remedy="check the path")
    listing, name = found
    return the_one(listing, name if series is None else series, path), None if name else listing


def _stack(series: DicomSeries, *, fill_gaps: bool) -> tuple[Stack, list[str]]:
    """Give the slices of a series in order, and what was dropped or is made up.

    Raises:
        VolumeError: they make no stack.
    """
    if series.problem is not None:
        raise series.problem
    frames, copies = without_copies(series.frames)
    stack = Stack.of(frames, series.folder, fill_gaps=fill_gaps)
    warnings = []
    if copies:
        named = [
            f"{_relative(copy, series.folder)} of {_relative(kept, series.folder)}" for copy, kept in copies
        ]
        warnings.append(f"exact copies of slices were dropped: {listed(named)}.")
    if stack.filling is not None:
        made = int(np.count_nonzero(stack.filling.max(axis=1) < 1))
        warnings.append(
            f"{made} of {len(stack.filling)} slices were missing or out of place and are interpolated from their "
            "neighbours; nothing in them was measured."
        )
    return stack, warnings


def _relative(frame: Frame, folder: Path) -> str:
    """Name a frame by its path within the folder of its series."""
    file = frame.file.relative_to(folder) if folder in frame.file.parents else frame.file
    return frame.label.replace(frame.file.name, str(file), 1)


def _filled(voxels: npt.NDArray[np.generic], filling: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Interpolate planes ``(I, J, frames)`` to ``(I, J, planes)``."""
    planes: npt.NDArray[np.float32] = (voxels.astype(np.float32) @ filling.T.astype(np.float32)).astype(
        np.float32
    )
    for plane, weights in enumerate(filling):
        if weights.max() == 1:  # exact, whatever lies beside it
            planes[..., plane] = voxels[..., int(np.argmax(weights))]
    return planes


# -- what is doubtful ----------------------------------------------------------------------------------------


def _thickness(stack: Stack) -> tuple[float | None, list[str]]:
    """Give the slices' thickness where the frames agree on one that can be."""
    found = {frame.thickness for frame in stack.frames}
    if len(found) != 1:
        return None, ["the slices differ in Slice Thickness; it counts as unknown."]
    thickness = found.pop()
    if thickness is not None and thickness < _THINNEST * stack.distance:
        return None, [
            f"a Slice Thickness of {thickness:g} mm where slices are {stack.distance:.4g} mm apart is a mistake; it "
            "counts as unknown."
        ]
    return thickness, []


def _doubts(series: DicomSeries, stack: Stack) -> list[str]:
    """Say what in the headers speaks against the volume."""
    warnings = []
    first = stack.frames[0]
    low, high = _PLAUSIBLE_SPACING
    if not all(low <= length <= high for length in (*first.pixel_spacing, stack.distance)):
        text = " x ".join(f"{length:.4g}" for length in (*first.pixel_spacing[::-1], stack.distance))
        warnings.append(f"voxels of {text} mm are no MR scan's; look whether a unit was mistaken.")
    told = {frame.distance for frame in stack.frames}
    if len(told) == 1 and (distance := told.pop()) is not None and stack.filling is None:
        # Some scanners give the gap, others the distance, and overlapping slabs a negative gap.
        thickness = first.thickness or 0.0
        meant = (distance, distance + thickness)
        if min(abs(stack.distance - length) for length in meant) > _DISTANCE_TOLERANCE * stack.distance:
            warnings.append(
                f"slices are {stack.distance:.4g} mm apart where the header says {distance:.4g} mm: perhaps some are "
                "missing all over the series."
            )
    if series.announced is not None and series.announced > len(series.frames) and not series.part:
        warnings.append(
            f"the header counts {series.announced} images in the acquisition, {len(series.frames)} are here: perhaps "
            "some are missing at an end."
        )
    if series.mosaic:
        warnings.append("each image is a mosaic of slices, which are not taken apart.")
    return warnings


def _left_out(listing: Listing | None) -> list[str]:
    if listing is None:
        return []
    told = [f"{len(one.files)} file(s) ({one.reason})" for one in listing.told() if one.reason != NO_DICOM]
    return [f"left out of the folder: {listed(told, between='; ')}."] if told else []
