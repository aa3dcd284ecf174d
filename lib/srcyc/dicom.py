"""Read a folder that holds one DICOM series as a volume.

Geometry comes from the headers (pydicom, float64); voxels from GDCM through ITK, which decodes the compressed
transfer syntaxes, masks overlay bits, applies the rescale slope and intercept of each file, and refuses truncated
files. ITK's own series reader is not used: it only warns about missing slices and stacks repeated positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset

from srcyc.errors import VolumeError
from srcyc.image_files import LPS_TO_RAS, RawVolume, quiet_itk

#: A gap between slices may differ from the mean gap by this fraction of it.
GAP_TOLERANCE = 0.05
#: Direction cosines of the slices of one series agree to this.
_COSINE_TOLERANCE = 1e-3
#: Slices closer than this fraction of the mean gap share a position (echoes, time points, b-values).
_SAME_POSITION = 0.01
#: A stack may lean by this fraction of an in-plane pixel over all its slices before it counts as sheared.
_LEAN_TOLERANCE = 0.5

_SUFFIXES = (".dcm", ".ima", ".dicom")
_HEADER_TAGS = [
    "SOPClassUID",
    "Modality",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


@dataclass(frozen=True, eq=False)
class _Slice:
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


def is_dicom_file(path: Path) -> bool:
    """Tell whether a file carries DICOM's mark; a DICOMDIR (an index) does not count."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_dicom_folder(folder: Path) -> bool:
    """Tell whether DICOM files lie directly in a folder (by content: their names often have no suffix)."""
    try:
        return any(is_dicom_file(path) for path in _files(folder))
    except OSError:
        return False


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
    voxels = _voxels(slices)
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


def _stack(folder: Path) -> tuple[list[_Slice], npt.NDArray[np.float64]]:
    """Give the slices of the one series in a folder, in order, and where they lie."""
    series = _series_in(folder)
    if not series:
        raise VolumeError(
            f"{folder}: no DICOM image series in this folder", remedy="give the folder that holds the slices"
        )
    if len(series) > 1:
        raise VolumeError(
            f"{folder}: holds {len(series)} DICOM series "
            f"({'; '.join(_describe(s) for s in series.values())})",
            remedy="put each in a folder of its own and give one of them",
        )
    (headers,) = series.values()
    slices = _ordered([s for file, header in headers for s in _slices(file, header)], folder)
    affine = _affine(slices, folder)
    if len({s.rescale for s in slices}) > 1 and any(s.rescale for s in slices):
        raise VolumeError(
            f"{slices[0].file}: the frames have different rescale slopes",
            remedy="export the scan as single-frame DICOM",
        )
    return slices, affine


# -- headers -------------------------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _series_in(folder: Path) -> dict[str, list[tuple[Path, Dataset]]]:
    """Group the images of a folder by series; reports, presentation states and the like are left out."""
    series: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in _files(folder):
        named = path.suffix.lower() in _SUFFIXES
        if not (named or is_dicom_file(path)):
            continue
        try:
            # Forced: old files lack the mark, and only their suffix tells.
            header = pydicom.dcmread(path, stop_before_pixels=True, force=named, specific_tags=_HEADER_TAGS)
        except Exception as error:  # pydicom lets whatever a damaged file causes escape
            raise VolumeError(
                f"{path}: cannot be read as DICOM ({error})", remedy="copy the file again or take it out"
            ) from error
        # An image cut off within its header must not pass for a report: the stack would lose an end slice.
        if "SOPClassUID" not in header or (
            "Image Storage" in header.SOPClassUID.name and "Rows" not in header
        ):
            raise VolumeError(
                f"{path}: empty, truncated or not DICOM", remedy="copy the file again or take it out"
            )
        if "Rows" in header:
            series[str(header.get("SeriesInstanceUID", ""))].append((path, header))
    return series


def _describe(images: Sequence[tuple[Path, Dataset]]) -> str:
    header = images[0][1]
    label = " ".join(
        str(header.get(key, "")).strip() for key in ("SeriesNumber", "SeriesDescription")
    ).strip()
    return f"{label or header.get('SeriesInstanceUID', 'unnamed')}: {len(images)} files, first {images[0][0].name}"


def _slices(file: Path, header: Dataset) -> Iterable[_Slice]:
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
        yield _slice(file, 0, header, header, header, header, None)
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
        yield _slice(
            file,
            number,
            header,
            macro("PlanePositionSequence"),
            macro("PlaneOrientationSequence"),
            macro("PixelMeasuresSequence"),
            rescale,
        )


def _slice(
    file: Path,
    frame: int,
    image: Dataset,
    plane: Dataset,
    orientation: Dataset,
    measures: Dataset,
    rescale: tuple[float, float] | None,
) -> _Slice:
    position = _numbers(plane.get("ImagePositionPatient"), 3, file, "Image Position (Patient)")
    cosines = _numbers(orientation.get("ImageOrientationPatient"), 6, file, "Image Orientation (Patient)")
    spacing = _numbers(measures.get("PixelSpacing"), 2, file, "Pixel Spacing")
    row, column = cosines[:3], cosines[3:]
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(row @ column))) > _COSINE_TOLERANCE:
        raise VolumeError(
            f"{file}: Image Orientation (Patient) {cosines.tolist()} is no rotation", remedy="export it again"
        )
    if spacing.min() <= 0:
        raise VolumeError(
            f"{file}: Pixel Spacing {spacing.tolist()} is not positive", remedy="repair the header"
        )
    column = column - (row @ column) / lengths[0] ** 2 * row  # header rounding only, see the check above
    thickness = measures.get("SliceThickness")
    return _Slice(
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


# -- geometry ------------------------------------------------------------------------------------------------


def _ordered(slices: list[_Slice], folder: Path) -> list[_Slice]:
    """Sort along the normal after checking that the slices make one regular stack."""
    first = slices[0]
    for other in slices[1:]:
        turned = max(np.abs(other.row - first.row).max(), np.abs(other.column - first.column).max())
        if turned > _COSINE_TOLERANCE:
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


def _affine(slices: Sequence[_Slice], folder: Path) -> npt.NDArray[np.float64]:
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


def _text(part: _Slice) -> str:
    rows, columns = part.size
    return f"{columns} x {rows} at {part.pixel_spacing[1]:g} x {part.pixel_spacing[0]:g} mm"


# -- voxels --------------------------------------------------------------------------------------------------


def _voxels(slices: Sequence[_Slice]) -> npt.NDArray[Any]:
    """Decode the slices in the given order as ``(I, J, K)``; the dtype holds every slice's own."""
    decoded: dict[Path, npt.NDArray[Any]] = {}
    planes = []
    for part in slices:
        if part.file not in decoded:
            decoded = {part.file: _decode(part)}  # files hold whole runs of frames: keep only the current one
        planes.append(decoded[part.file][part.frame])
    return np.stack(planes).T  # (slice, row, column) -> (column, row, slice)


def _decode(part: _Slice) -> npt.NDArray[Any]:
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
