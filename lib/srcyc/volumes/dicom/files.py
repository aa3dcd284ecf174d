"""DICOM files: told from others by their content, and their headers read within bounds.

Nothing here allocates more than a file can hold: a deflated header is inflated up to a limit, and the pixels that a
header promises are compared with the file before anybody decodes them.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from srcyc.errors import VolumeError

#: File names that say DICOM; whatever else is told by its content.
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")

#: Bytes of a header: those of a thousand frames take about one megabyte.
LARGEST_HEADER = 64 * 2**20
#: Compressed pixels may become this much, or so many times the file; blank frames shrink a thousandfold.
_SMALL = 64 * 2**20
_LARGEST_RATIO = 200
#: Bytes that a compressed frame takes at least: its item's header and something in it.
_LEAST_FRAME = 10
_BLOCK = 2**20

_NATIVE = {
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
}
_PREAMBLE = 128
_MARK = b"DICM"
_HEAD = 4096
_LONGEST_FIRST_VALUE = 1024
_LONGEST_REASON = 200
_PIXELS = 0x7FE00008  # Float Pixel Data: the first of the elements that hold pixels

_TAGS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagesInAcquisition",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "EchoTime",
    "InversionTime",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


def is_dicom_file(path: Path) -> bool:
    """Tell whether a file is DICOM by its first bytes, with or without the preamble; a DICOMDIR does not count."""
    try:
        return not is_directory_file(path) and begins_as_dicom(head_of(path))
    except OSError:
        return False


def is_directory_file(path: Path) -> bool:
    """Tell whether a file is the index of a medium (DICOMDIR), by its name."""
    return path.name.upper().split(";")[0].split(".")[0] == "DICOMDIR"


def head_of(path: Path) -> bytes:
    """Give the first bytes of a file: those by which it is told, and its transfer syntax.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return stream.read(_HEAD)


def begins_as_dicom(head: bytes) -> bool:
    """Tell whether bytes are the beginning of a DICOM file."""
    if head[_PREAMBLE : _PREAMBLE + 4] == _MARK:
        return True
    return _is_element(head) and (head[:2] == b"\2\0" or _is_element(head[_length_of_element(head) :]))


def read_header(path: Path) -> Dataset:
    """Read what is needed of a header, without the pixels.

    Raises:
        VolumeError: not DICOM, empty, truncated, or a header whose promises the file cannot keep.
    """
    with reading(path), path.open("rb") as stream:
        header, syntax = _parsed(stream, path, _TAGS)
        for _ in header:  # what pydicom would convert on access, and fail at there
            pass
    # An image cut off within its header must not pass for a report: the stack would lose an end slice.
    name = getattr(header.get("SOPClassUID"), "name", "")
    if "SOPClassUID" not in header or ("Image Storage" in name and "Rows" not in header):
        raise VolumeError(
            f"{path}: empty, truncated or not DICOM", remedy="copy the file again or take it out"
        )
    if "Rows" in header:
        _require_plausible(path, header, syntax)
    return header


def read_whole_header(path: Path) -> Dataset:
    """Read all of a header but the pixels, of a file that :func:`read_header` has passed.

    Raises:
        VolumeError: it cannot be read.
    """
    with reading(path), path.open("rb") as stream:
        return _parsed(stream, path, None)[0]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Word whatever goes wrong in a block that reads a file.

    Raises:
        VolumeError: it cannot be read.
    """
    try:
        yield
    except VolumeError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # pydicom lets whatever a damaged file causes escape
        raise VolumeError(
            f"{path}: cannot be read as DICOM ({brief(error)})", remedy="copy the file again or take it out"
        ) from error


def unreadable(path: Path, error: OSError) -> VolumeError:
    """Word what the system says about a file."""
    is_link = os.path.islink(path) and not os.path.exists(path)
    reason = "a link to nothing" if is_link else error.strerror or error
    return VolumeError(f"{path}: cannot be read ({reason})", remedy="copy it again or take it out")


def brief(error: Exception) -> str:
    """Give what another library says, as a part of a sentence."""
    return " ".join(str(error).split())[:_LONGEST_REASON].rstrip(".")


def listed(texts: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """Put texts into a sentence: the first ones, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more


def syntax_of(path: Path) -> str:
    """Give the UID of a file's transfer syntax; that of old files, which do not say it, where it is missing.

    Raises:
        VolumeError: the file cannot be read.
    """
    with reading(path):
        return _syntax_in(head_of(path))


def is_compressed(syntax: str) -> bool:
    """Tell whether pixels are compressed in a transfer syntax, known or not."""
    return syntax not in _NATIVE


def pixel_bytes(header: Dataset) -> int:
    """Give how many bytes the pixels of a header take when they are decoded."""
    samples = whole(header, "SamplesPerPixel", 1)
    voxels = whole(header, "Rows", 0) * whole(header, "Columns", 0) * whole(header, "NumberOfFrames", 1)
    return -(-voxels * samples * whole(header, "BitsAllocated", 16) // 8)


def whole(header: Dataset, key: str, default: int) -> int:
    """Give a whole number of a header; the default where it is missing or empty.

    Raises:
        ValueError, TypeError: it is there and is none.
    """
    value = header.get(key)
    return default if value in (None, "") else int(value)


def whole_or_none(header: Dataset, key: str) -> int | None:
    """Give a whole number of a header; None where it is missing or none."""
    try:
        return int(header[key].value)
    except (KeyError, TypeError, ValueError):
        return None


def inflated(stream: BinaryIO, path: Path, limit: int) -> tuple[bytes, bytes]:
    """Give the file meta information and the inflated data set of a deflated file, up to ``limit`` bytes of it.

    Raises:
        VolumeError: damaged.
        OSError: the file cannot be read.
    """
    stream.seek(0)
    head = stream.read(_HEAD)
    start = _PREAMBLE + 4 if head[_PREAMBLE : _PREAMBLE + 4] == _MARK else 0
    # Group length (0002,0000): the bytes that follow its own twelve.
    if head[start : start + 6] != b"\2\0\0\0UL":
        raise VolumeError(
            f"{path}: deflated, and its file meta information has no length",
            remedy="export it again, uncompressed",
        )
    end = start + 12 + struct.unpack("<I", head[start + 8 : start + 12])[0]
    stream.seek(start)
    meta = stream.read(min(end - start, LARGEST_HEADER))
    inflater, parts, size = zlib.decompressobj(-zlib.MAX_WBITS), [], 0
    try:
        while size < limit and not inflater.eof:
            block = inflater.unconsumed_tail or stream.read(_BLOCK)
            if not block:
                break
            parts.append(inflater.decompress(block, limit - size))
            size += len(parts[-1])
    except zlib.error as error:
        raise VolumeError(
            f"{path}: damaged deflated data", remedy="copy the file again or take it out"
        ) from error
    return meta, b"".join(parts)


def _parsed(stream: BinaryIO, path: Path, tags: list[str] | None) -> tuple[Dataset, str]:
    """Read a header and its transfer syntax: some elements of it, or all."""
    wanted = None if tags is None else [pydicom.tag.Tag(tag) for tag in tags]
    syntax = _syntax_in(stream.read(_HEAD))
    if syntax != DeflatedExplicitVRLittleEndian:
        stream.seek(0)
        # Forced: old files lack the mark, and only their suffix tells.
        return pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=wanted), syntax
    _, data = inflated(stream, path, LARGEST_HEADER)
    header = read_dataset(
        io.BytesIO(data),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >= _PIXELS,
        specific_tags=wanted,
    )
    return header, syntax


def _syntax_in(head: bytes) -> str:
    """Find the transfer syntax among the first bytes of a file: always explicit and little endian there."""
    place = head.find(b"\2\0\x10\0UI")
    if place < 0:
        return ImplicitVRLittleEndian
    (length,) = struct.unpack("<H", head[place + 6 : place + 8].ljust(2, b"\0"))
    return head[place + 8 : place + 8 + length].rstrip(b"\0 ").decode("latin-1")


def _require_plausible(path: Path, header: Dataset, syntax: str) -> None:
    """Refuse pixels that cannot be in the file, before anything is allocated for them."""
    try:
        needed, frames = pixel_bytes(header), whole(header, "NumberOfFrames", 1)
        bits = whole(header, "BitsAllocated", 16)
    except (TypeError, ValueError, OverflowError) as error:
        raise VolumeError(
            f"{path}: the header's size is no number ({brief(error)})", remedy="export the series again"
        ) from error
    there = path.stat().st_size
    text = f"{header.get('Columns', 0)} x {header.get('Rows', 0)} x {frames} pixels of {bits} bits"
    if frames < 1 or not 1 <= bits <= 64:
        raise VolumeError(
            f"{path}: the header's size ({text}) is impossible", remedy="export the series again"
        )
    if syntax != DeflatedExplicitVRLittleEndian and not is_compressed(syntax):
        if needed > there:
            raise VolumeError(
                f"{path}: truncated, the header promises {text}, {needed} bytes, and the file has {there}",
                remedy="copy the file again or take it out",
            )
    elif needed > max(_SMALL, _LARGEST_RATIO * there) or frames * _LEAST_FRAME > there:
        raise VolumeError(
            f"{path}: the header promises {text}, {needed} bytes, which {there} bytes of file cannot hold",
            remedy="copy the file again or take it out",
        )


def _is_element(data: bytes) -> bool:
    """Tell whether bytes begin as a data element of the first groups, in explicit or implicit little endian."""
    if len(data) < 8:
        return False
    group, element = struct.unpack("<HH", data[:4])
    return group in (0x0002, 0x0008) and element < 0x2000 and _length_of_element(data) <= _LONGEST_FIRST_VALUE


def _length_of_element(data: bytes) -> int:
    """Give the bytes of the data element that bytes begin with."""
    if data[4:6].isalpha() and data[4:6].isupper():
        return 8 + int.from_bytes(data[6:8], "little")
    return 8 + int.from_bytes(data[4:8], "little")
