"""One frame of a DICOM image and its place, as its header tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from srcyc.errors import VolumeError

#: Direction cosines of the slices of one series agree to this.
COSINE_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame and its place: LPS mm."""

    file: Path
    frame: int
    position: npt.NDArray[np.float64]  # (3,), centre of the first pixel
    row: npt.NDArray[np.float64]  # (3,), direction of increasing column index
    column: npt.NDArray[np.float64]  # (3,), direction of increasing row index
    pixel_spacing: tuple[float, float]  # between rows, between columns
    size: tuple[int, int]  # rows, columns
    thickness: float | None
    rescale: tuple[float, float] | None  # enhanced images only: of this frame


def frames_of(file: Path, header: Dataset) -> Iterable[Frame]:
    """Give the frames of a classic image (one) or an enhanced one."""
    if int(header.get("SamplesPerPixel", 1) or 1) != 1:
        raise VolumeError(
            f"{file}: {header.SamplesPerPixel} values per pixel (colour)", remedy="give a grey-scale series"
        )
    frames = int(header.get("NumberOfFrames", 1) or 1)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        if frames > 1:
            raise VolumeError(
                f"{file}: {frames} frames without positions in space",
                remedy="export the scan as a normal or enhanced series",
            )
        yield _frame(file, 0, header, header, header, header, None)
        return
    if len(groups) != frames:
        raise VolumeError(
            f"{file}: {frames} frames but {len(groups)} frame headers", remedy="export the series again"
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for number, group in enumerate(groups):

        def macro(name: str, group: Dataset = group) -> Dataset:
            found: Dataset = (group.get(name) or shared.get(name) or [Dataset()])[0]
            return found

        values = macro("PixelValueTransformationSequence")
        rescale = (float(values.get("RescaleSlope", 1)), float(values.get("RescaleIntercept", 0)))
        yield _frame(
            file,
            number,
            header,
            macro("PlanePositionSequence"),
            macro("PlaneOrientationSequence"),
            macro("PixelMeasuresSequence"),
            rescale,
        )


def _frame(
    file: Path,
    frame: int,
    image: Dataset,
    plane: Dataset,
    orientation: Dataset,
    measures: Dataset,
    rescale: tuple[float, float] | None,
) -> Frame:
    position = _numbers(plane.get("ImagePositionPatient"), 3, file, "Image Position (Patient)")
    cosines = _numbers(orientation.get("ImageOrientationPatient"), 6, file, "Image Orientation (Patient)")
    spacing = _numbers(measures.get("PixelSpacing"), 2, file, "Pixel Spacing")
    row, column = cosines[:3], cosines[3:]
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(row @ column))) > COSINE_TOLERANCE:
        raise VolumeError(
            f"{file}: Image Orientation (Patient) {cosines.tolist()} is no rotation", remedy="export it again"
        )
    if spacing.min() <= 0:
        raise VolumeError(
            f"{file}: Pixel Spacing {spacing.tolist()} is not positive", remedy="repair the header"
        )
    column = column - (row @ column) / lengths[0] ** 2 * row  # header rounding only, see the check above
    thickness = measures.get("SliceThickness")
    return Frame(
        file=file,
        frame=frame,
        position=position,
        row=row / lengths[0],
        column=column / np.linalg.norm(column),
        pixel_spacing=(float(spacing[0]), float(spacing[1])),
        size=(int(image.Rows), int(image.get("Columns", 0) or 0)),
        thickness=float(thickness) if thickness not in (None, "") and float(thickness) > 0 else None,
        rescale=rescale,
    )


def _numbers(value: Any, count: int, file: Path, name: str) -> npt.NDArray[np.float64]:
    try:
        numbers = np.array([float(v) for v in value], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise VolumeError(
            f"{file}: {name} is {('missing' if value is None else 'unusable')}",
            remedy="export the series again",
        )
    return numbers
