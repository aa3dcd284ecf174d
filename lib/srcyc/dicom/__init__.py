"""Read a folder that holds one DICOM series as a volume.

Geometry comes from the headers (pydicom, float64); voxels from GDCM through ITK, which decodes the compressed
transfer syntaxes, masks overlay bits, applies the rescale slope and intercept of each file, and refuses truncated
files. ITK's own series reader is not used: it only warns about missing slices and stacks repeated positions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from srcyc.dicom.files import describe, is_dicom_file, is_dicom_folder, series_in
from srcyc.dicom.frames import Frame, frames_of
from srcyc.dicom.pixels import read_voxels
from srcyc.dicom.stack import affine_of, ordered
from srcyc.errors import VolumeError
from srcyc.image_files import RawVolume

__all__ = ["is_dicom_file", "is_dicom_folder", "read_dicom_folder", "read_dicom_header"]


def read_dicom_folder(folder: Path) -> RawVolume:
    """Read the one image series in a folder (not its subfolders).

    Slices are sorted along their normal; the spacing between them is (last - first) / (n - 1) of their positions,
    never Slice Thickness or Spacing Between Slices, which scanners fill differently.

    Raises:
        VolumeError: no series or several, colour, a single slice, repeated positions, gaps that differ by more than
            5 % from their mean, a leaning stack (gantry tilt), files that cannot be read or decoded.
        OSError: the folder cannot be listed.
    """
    slices, affine = _stack(folder)
    voxels = read_voxels(slices)
    thicknesses = {s.thickness for s in slices}
    thickness = thicknesses.pop() if len(thicknesses) == 1 else None
    return RawVolume(voxels, affine, voxels.dtype, thickness)


def read_dicom_header(folder: Path) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
    """Read shape and affine (voxel index -> RAS mm) of the one image series in a folder, without its pixels.

    Raises:
        VolumeError: as :func:`read_dicom_folder`, except for pixels that cannot be decoded.
        OSError: the folder cannot be listed.
    """
    slices, affine = _stack(folder)
    rows, columns = slices[0].size
    return (columns, rows, len(slices)), affine


def _stack(folder: Path) -> tuple[list[Frame], npt.NDArray[np.float64]]:
    """Give the slices of the one series in a folder, in order, and where they lie."""
    series = series_in(folder)
    if not series:
        raise VolumeError(
            f"{folder}: no DICOM image series in this folder", remedy="give the folder that holds the slices"
        )
    if len(series) > 1:
        raise VolumeError(
            f"{folder}: holds {len(series)} DICOM series ({'; '.join(describe(s) for s in series.values())})",
            remedy="put each in a folder of its own and give one of them",
        )
    (headers,) = series.values()
    slices = ordered([s for file, header in headers for s in frames_of(file, header)], folder)
    affine = affine_of(slices, folder)
    if len({s.rescale for s in slices}) > 1 and any(s.rescale for s in slices):
        raise VolumeError(
            f"{slices[0].file}: the frames have different rescale slopes",
            remedy="export the scan as single-frame DICOM",
        )
    return slices, affine
