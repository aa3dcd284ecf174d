"""The voxels of a stack, decoded by GDCM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from srcyc.dicom.frames import Frame
from srcyc.errors import VolumeError
from srcyc.image_files import quiet_itk


def read_voxels(slices: Sequence[Frame]) -> npt.NDArray[Any]:
    """Decode the slices in the given order as ``(I, J, K)``; the dtype holds every slice's own."""
    decoded: dict[Path, npt.NDArray[Any]] = {}
    planes = []
    for part in slices:
        if part.file not in decoded:
            decoded = {part.file: _decode(part)}  # files hold whole runs of frames: keep only the current one
        planes.append(decoded[part.file][part.frame])
    return np.stack(planes).T  # (slice, row, column) -> (column, row, slice)


def _decode(part: Frame) -> npt.NDArray[Any]:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(part.file))
    try:
        with quiet_itk():
            frames = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise VolumeError(
            f"{part.file}: its pixels are truncated or cannot be decoded",
            remedy="copy or export the series again",
        ) from error
    # A trailing axis would be colour that the header did not announce; the reshape refuses it.
    if frames.size % (part.size[0] * part.size[1]) or frames.shape[-2:] != part.size:
        raise VolumeError(
            f"{part.file}: the pixels do not fit the header's size", remedy="export the series again"
        )
    return frames.reshape(-1, *part.size)
