"""Which files are DICOM, and their headers by series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from srcyc.errors import VolumeError

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
        return any(is_dicom_file(path) for path in files_in(folder))
    except OSError:
        return False


def files_in(folder: Path) -> list[Path]:
    """List the files that lie directly in a folder, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def series_in(folder: Path) -> dict[str, list[tuple[Path, Dataset]]]:
    """Group the images of a folder by series; reports, presentation states and the like are left out."""
    series: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in files_in(folder):
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


def describe(images: Sequence[tuple[Path, Dataset]]) -> str:
    """Name a series for a sentence."""
    header = images[0][1]
    label = " ".join(
        str(header.get(key, "")).strip() for key in ("SeriesNumber", "SeriesDescription")
    ).strip()
    return f"{label or header.get('SeriesInstanceUID', 'unnamed')}: {len(images)} files, first {images[0][0].name}"
