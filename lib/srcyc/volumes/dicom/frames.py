"""One frame of a DICOM image: its place, its values' scale and what sets it apart, as its header tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.files import whole

#: Direction cosines of the slices of one series agree to this.
COSINE_TOLERANCE = 1e-3

#: What tells frames at one place apart: name, sequence in an enhanced frame's header, element there, element in a
#: classic header, unit.
_TRAITS = (
    ("stack", "FrameContentSequence", "StackID", "", ""),
    ("echo time", "MREchoSequence", "EffectiveEchoTime", "EchoTime", " ms"),
    ("image type", "MRImageFrameTypeSequence", "FrameType", "ImageType", ""),
    ("b-value", "MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue", ""),
    ("inversion time", "", "", "InversionTime", " ms"),
    ("time point", "FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier", ""),
    ("acquisition", "FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber", ""),
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: lengths in mm, directions and positions in LPS.

    Attributes:
        file: that it lies in.
        index: of the frame in the file.
        instance: SOP Instance UID of the file.
        person: Patient ID.
        position: ``(3,)``, centre of the first pixel.
        row: ``(3,)``, direction of increasing column index.
        column: ``(3,)``, direction of increasing row index.
        pixel_spacing: between rows, between columns.
        size: rows, columns.
        thickness: Slice Thickness, or None.
        distance: Spacing Between Slices, or None.
        rescale: slope and intercept from stored values to the scan's.
        enhanced: the rescale comes from the frame's own header.
        padding: lowest and highest stored value that mean "no pixel here", or None.
        traits: what may tell it apart from another frame at its place, by name.
    """

    file: Path
    index: int
    instance: str
    person: str
    position: npt.NDArray[np.float64]
    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    pixel_spacing: tuple[float, float]
    size: tuple[int, int]
    thickness: float | None
    distance: float | None
    rescale: tuple[float, float]
    enhanced: bool
    padding: tuple[int, int] | None
    traits: dict[str, str]

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """``(3,)``, what slices are sorted along."""
        return np.cross(self.row, self.column)

    @property
    def label(self) -> str:
        """Name it for a sentence."""
        return f"{self.file.name} frame {self.index + 1}" if self.enhanced else self.file.name

    def lies_as(self, other: Frame) -> bool:
        """Tell whether two frames are parallel: rows and columns run alike."""
        turned = max(np.abs(self.row - other.row).max(), np.abs(self.column - other.column).max())
        return bool(turned <= COSINE_TOLERANCE)

    def sampled_as(self, other: Frame) -> bool:
        """Tell whether two frames have the same size and pixel spacing."""
        return self.size == other.size and np.allclose(self.pixel_spacing, other.pixel_spacing, rtol=1e-3)


def frames_of(file: Path, header: Dataset) -> Iterator[Frame]:
    """Give the frames of a classic image (one) or an enhanced one.

    Raises:
        VolumeError: colour, frames without a place, a header that is incomplete or contradicts itself.
    """
    if whole(header, "SamplesPerPixel", 1) != 1:
        raise VolumeError(
            f"{file}: {header.SamplesPerPixel} values per pixel (colour)", remedy="give a grey-scale series"
        )
    frames = whole(header, "NumberOfFrames", 1)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        if frames > 1:
            raise VolumeError(
                f"{file}: {frames} frames without positions in space",
                remedy="export the scan as a normal or enhanced series",
            )
        yield _frame(file, 0, header, lambda _: header, enhanced=False)
        return
    if len(groups) != frames:
        raise VolumeError(
            f"{file}: {frames} frames but {len(groups)} frame headers", remedy="export the series again"
        )
    shared = _first(header.get("SharedFunctionalGroupsSequence"))
    for index, group in enumerate(groups):

        def macro(name: str, group: Dataset = group) -> Dataset:
            return _first(group.get(name) or shared.get(name))

        yield _frame(file, index, header, macro, enhanced=True)


def _first(sequence: Any) -> Dataset:
    found: Dataset = (sequence or [Dataset()])[0]
    return found


def _frame(
    file: Path, index: int, image: Dataset, macro: Callable[[str], Dataset], *, enhanced: bool
) -> Frame:
    """Give a frame.

    Args:
        file: that it lies in.
        index: of it.
        image: the whole header.
        macro: gives the item of a sequence in which an enhanced image tells something of the frame, or of all of them;
            a classic image's header tells all of its only frame itself.
        enhanced: which of the two it is.
    """
    measures = macro("PixelMeasuresSequence")
    position = _numbers(
        macro("PlanePositionSequence").get("ImagePositionPatient"), 3, file, "Image Position (Patient)"
    )
    cosines = _numbers(
        macro("PlaneOrientationSequence").get("ImageOrientationPatient"),
        6,
        file,
        "Image Orientation (Patient)",
    )
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
    traits = {}
    for name, sequence, theirs, ours, unit in _TRAITS:
        key = theirs if enhanced else ours
        value = macro(sequence).get(key) if key else None
        if value not in (None, ""):
            traits[name] = _trait(value, unit)
    column = column - (row @ column) / lengths[0] ** 2 * row  # header rounding only, see the check above
    return Frame(
        file=file,
        index=index,
        instance=str(image.get("SOPInstanceUID", "")),
        person=str(image.get("PatientID", "") or ""),
        position=position,
        row=row / lengths[0],
        column=column / np.linalg.norm(column),
        pixel_spacing=(float(spacing[0]), float(spacing[1])),
        size=(whole(image, "Rows", 0), whole(image, "Columns", 0)),
        thickness=_length(measures.get("SliceThickness")),
        distance=_length(measures.get("SpacingBetweenSlices", image.get("SpacingBetweenSlices"))),
        rescale=_rescale(macro("PixelValueTransformationSequence"), file),
        enhanced=enhanced,
        padding=_padding(image),
        traits=traits,
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


def _length(value: Any) -> float | None:
    """Give a positive length, or None: what is optional and unusable counts as missing."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < np.inf else None


def _rescale(values: Dataset, file: Path) -> tuple[float, float]:
    found = []
    for key, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        value = values.get(key)
        try:
            number = default if value in (None, "") else float(value)
        except (TypeError, ValueError):
            number = np.nan
        if not np.isfinite(number):
            raise VolumeError(f"{file}: {key} {value!r} is no number", remedy="export the series again")
        found.append(number)
    return found[0], found[1]


def _padding(image: Dataset) -> tuple[int, int] | None:
    """Give the range of stored values that are padding (Pixel Padding Value, and Range Limit where there is one)."""
    ends = []
    for key in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = image.get(key)
        try:
            number = int(value)  # type: ignore[arg-type]  # what is no number is caught
        except (TypeError, ValueError):
            continue
        # Writers take the unsigned VR for signed pixels, and the other way round.
        modulus = 1 << whole(image, "BitsAllocated", 16)
        number %= modulus
        if whole(image, "PixelRepresentation", 0) == 1 and number >= modulus // 2:
            number -= modulus
        ends.append(number)
    if not ends or image.get("PixelPaddingValue") in (None, ""):
        return None
    return min(ends), max(ends)


def _trait(value: Any, unit: str) -> str:
    """Spell a value for a label; of an image type only what follows its first two values."""
    if isinstance(value, str):
        return value.strip() + unit
    try:
        text = f"{float(value):g}"
    except (TypeError, ValueError):
        text = " ".join(str(part) for part in list(value)[2:]).strip()
    return text + unit
