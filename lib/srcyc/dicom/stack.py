"""The stack that the frames of one series make: their order, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from srcyc.dicom.frames import COSINE_TOLERANCE, Frame
from srcyc.errors import VolumeError
from srcyc.image_files import LPS_TO_RAS

#: A gap between slices may differ from the mean gap by this fraction of it.
GAP_TOLERANCE = 0.05
#: Slices closer than this fraction of the mean gap share a position (echoes, time points, b-values).
_SAME_POSITION = 0.01
#: A stack may lean by this fraction of an in-plane pixel over all its slices before it counts as sheared.
_LEAN_TOLERANCE = 0.5


def ordered(slices: list[Frame], folder: Path) -> list[Frame]:
    """Sort along the normal after checking that the slices make one regular stack."""
    first = slices[0]
    for other in slices[1:]:
        turned = max(np.abs(other.row - first.row).max(), np.abs(other.column - first.column).max())
        if turned > COSINE_TOLERANCE:
            raise VolumeError(
                f"{folder}: the slices {first.file.name} and {other.file.name} lie in different "
                "directions (a localiser?)",
                remedy="give the folder of one stack of parallel slices",
            )
        if other.size != first.size or not np.allclose(other.pixel_spacing, first.pixel_spacing, rtol=1e-3):
            raise VolumeError(
                f"{folder}: the slices {first.file.name} and {other.file.name} differ in size "
                f"or pixel spacing ({_text(first)} and {_text(other)})",
                remedy="give the folder of one stack",
            )
    if len(slices) == 1:
        raise VolumeError(
            f"{folder}: the DICOM series has a single slice",
            remedy="at least 2 slices are needed, give the whole series",
        )
    normal = np.cross(first.row, first.column)
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    places = np.array([s.position @ normal for s in slices])
    gaps = np.diff(places)
    mean = float((places[-1] - places[0]) / len(gaps))
    repeated = int((gaps <= max(_SAME_POSITION * mean, 1e-4)).sum())
    if repeated:
        raise VolumeError(
            f"{folder}: {repeated} of the {len(slices)} slices repeat the position of another "
            "(echoes, time points or diffusion weightings in one series)",
            remedy="export one of them as a series of its own",
        )
    worst = int(np.argmax(np.abs(gaps - mean)))
    if abs(gaps[worst] - mean) > GAP_TOLERANCE * mean:
        raise VolumeError(
            f"{folder}: missing or irregular slices, the gap between {slices[worst].file.name} "
            f"and {slices[worst + 1].file.name} is {gaps[worst]:.4g} mm where the mean is "
            f"{mean:.4g} mm",
            remedy="give the complete series",
        )
    return slices


def affine_of(slices: Sequence[Frame], folder: Path) -> npt.NDArray[np.float64]:
    """Voxel index -> RAS mm; array axes run along the columns, the rows and the normal."""
    first = slices[0]
    normal = np.cross(first.row, first.column)
    offsets = np.array([s.position - first.position for s in slices])
    lean = float(np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1).max())
    if lean > _LEAN_TOLERANCE * min(first.pixel_spacing):
        raise VolumeError(
            f"{folder}: the stack leans by {lean:.3g} mm against the slices' normal (gantry tilt)",
            remedy="resample it onto an orthogonal grid first",
        )
    lps = np.eye(4)
    between_rows, between_columns = first.pixel_spacing
    lps[:3, 0] = first.row * between_columns
    lps[:3, 1] = first.column * between_rows
    lps[:3, 2] = normal * (offsets[-1] @ normal) / (len(slices) - 1)
    lps[:3, 3] = first.position
    affine: npt.NDArray[np.float64] = LPS_TO_RAS @ lps
    return affine


def _text(part: Frame) -> str:
    rows, columns = part.size
    return f"{columns} x {rows} at {part.pixel_spacing[1]:g} x {part.pixel_spacing[0]:g} mm"
