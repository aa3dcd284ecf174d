"""NRRD and MetaImage, through ITK, whose libraries crash with some headers and take damaged packed voxels for whole.

ITK ignores what their headers say of units and of the slices' thickness: that is read here.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from srcyc.errors import VolumeError
from srcyc.volumes.formats.gzipped import require_whole
from srcyc.volumes.formats.raw import (
    LPS_TO_RAS,
    MILLIMETRES,
    Header,
    Origin,
    RawVolume,
    require_bytes,
    require_room,
    require_scalar,
    volume_shape,
)
from srcyc.volumes.geometry import check_affine

NRRD, META_IMAGE = "NrrdImageIO", "MetaImageIO"

_LONGEST_HEADER_LINE = 1 << 16
#: Lines of a text header that are looked at: segmentations have some dozens for each segment.
_MOST_LINES = 1 << 16
#: How a MetaImage says how many axes it has: ten at most.
_AXES = re.compile(r"\s*NDims\s*[:=]\s*(10|[1-9])(\.0*)?\s*")
#: Characters of a field of an NRRD, and what may be longer: comments, contents, pairs of key and value.
_LONGEST_FIELD, _FREE_TEXT = 512, re.compile(r"#|content: |[^:]+:=")
#: Names of several files with voxels, by their numbers.
_NUMBERED = re.compile(r"[^%]{0,255}%0?\d?d[^%]{0,255}")
#: How an NRRD says that its data is not packed.
_PLAIN = ("raw", "txt", "text", "ascii", "hex")

_log = logging.getLogger(__name__)
_stderr_lock = threading.Lock()


def read_header(path: Path, image_io: str) -> Header:
    """Read what a file says of itself.

    Raises:
        VolumeError: not that format, not one grey-scale volume, without a usable place, or larger than its file.
        OSError: the file cannot be opened.
    """
    return _read(path, image_io)[1]


def read_volume(path: Path, image_io: str) -> RawVolume:
    """Read the voxels too.

    Raises:
        VolumeError: as :func:`read_header`; truncated or damaged voxels.
        OSError: the file cannot be opened.
    """
    reader, header = _read(path, image_io, whole=True)
    shape = header.shape
    require_room(path, shape, 2 * _itemsize(reader))
    try:
        with quiet_itk():
            image = reader.Execute()
    except RuntimeError as error:
        raise VolumeError(
            f"{path}: truncated or damaged, its voxels ({' x '.join(map(str, shape))}) cannot be read",
            remedy="copy the file again (a header of its own together with its data file)",
        ) from error
    voxels = sitk.GetArrayFromImage(image).reshape(shape[::-1]).T  # ITK arrays run z, y, x
    return RawVolume(header, voxels, voxels.dtype)


def write(
    voxels: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    path: Path,
    image_io: str,
    *,
    compressed: bool,
    origin: Origin | None = None,
) -> None:
    """Write ``(I, J, K)`` voxels in their own type; an ``.mhd`` header gets its ``.raw`` beside it.

    Raises:
        OSError: the place is full or cannot be written.
    """
    image = image_of(voxels, affine)
    if origin is not None:
        # A field of MetaImage's own, and in NRRD a key like the others.
        image.SetMetaData("Comment", origin.line)
        for key, text in origin.fields.items():
            image.SetMetaData(f"srcyc_{key}", text)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO(image_io)
    writer.SetFileName(str(path))
    writer.SetUseCompression(compressed)
    try:
        with quiet_itk():
            writer.Execute(image)
    except RuntimeError as error:
        raise OSError("disk full or not writable") from error
    # ITK does not notice when the last bytes find no room: of packed voxels, or of a header, whose last line this is.
    if compressed:
        try:
            require_whole(path, _Text.of(path, image_io).end, voxels.nbytes)
        except VolumeError as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    elif path.suffix == ".mhd" and "ElementDataFile" not in path.read_text(encoding="utf-8"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def image_of(voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> sitk.Image:
    """Give ``(I, J, K)`` voxels, copied, and their affine to RAS mm as an image of SimpleITK."""
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def affine_of(
    direction: npt.NDArray[np.float64], spacing: Sequence[float], origin: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Give the affine to RAS mm of an image's place as ITK tells it."""
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(spacing)
    affine[:3, 3] = origin
    return np.asarray(LPS_TO_RAS @ affine)


def detached_data(path: Path, image_io: str) -> str | None:
    """Give the name of the file that holds the voxels of a header, None if it holds them itself.

    A header may name any file of the machine: whoever reads scans of strangers refuses such a one.

    Raises:
        OSError: the file cannot be opened.
    """
    field = "datafile" if image_io == NRRD else "elementdatafile"
    for text in _lines(path):
        if text is None:  # no header of ours to judge has such a line
            return "unknown"
        if image_io == NRRD and not text:  # a blank line ends the header
            break
        key, value = (*re.split("[:=]", text.strip(), maxsplit=1), "")[:2]
        key = re.sub(r"\s", "", key).lower()
        if image_io == NRRD:
            if field not in key or key.startswith("#"):
                continue
        # MetaIO also takes a field that begins within a line.
        elif field not in key and field not in value.lower():
            continue
        elif key == field and value.strip().lower() == "local":
            return None
        return value.strip()
    return None


# -- header --------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[str | None]:
    """Give the lines of a text header, and what lies behind it; None for one that is too long."""
    with path.open("rb") as stream:
        while line := stream.readline(_LONGEST_HEADER_LINE):
            yield None if len(line) == _LONGEST_HEADER_LINE else line.decode("latin-1").rstrip("\r\n")


def _require_harmless(path: Path, image_io: str) -> None:
    """Refuse a header with which ITK's libraries would write beyond their buffers, and crash.

    MetaIO believes any number of axes. The library of NRRD puts a field that it cannot read into a complaint for which
    it has little room.

    Raises:
        VolumeError: it is one, or may be.
    """
    names = False
    for text in _lines(path):
        if text == "" and image_io == NRRD:  # the end
            return
        if image_io == NRRD:
            is_free = not names and _FREE_TEXT.match(text or "") is not None
            harmless = text is not None and (len(text) <= _LONGEST_FIELD or is_free)
            names = names or re.match(r"data ?file: *LIST", text or "") is not None
        else:
            is_number = _AXES.fullmatch(text or "") is not None
            harmless = text is not None and ("ndims" not in text.lower() or is_number)
        if not harmless:
            raise _unreadable(path)
        if image_io == META_IMAGE and re.match(r"ElementDataFile\s*[:=]", text or ""):  # the last one
            return


@dataclass(frozen=True)
class _Text:
    """The lines of a text header.

    Attributes:
        fields: values by their names in small letters; an NRRD's own key/value pairs too.
        end: byte behind the header.
    """

    fields: dict[str, str]
    end: int

    @classmethod
    def of(cls, path: Path, image_io: str) -> _Text:
        """Read it."""
        separator, last = (":", "") if image_io == NRRD else ("=", "elementdatafile")
        fields: dict[str, str] = {}
        with path.open("rb") as stream:
            for _ in range(_MOST_LINES):
                line = stream.readline(_LONGEST_HEADER_LINE)
                key, _, value = line.decode("latin-1").strip().partition(separator)
                key = key.strip().lower()
                if not line or key == last == "":
                    break
                fields[key] = value.lstrip("=").strip()
                if key == last:
                    break
            return cls(fields, stream.tell())

    def get(self, *names: str) -> str:
        """Give the value of the first field that is there, in small letters; empty if none is."""
        return next((self.fields[name].lower() for name in names if name in self.fields), "")


def _read(path: Path, image_io: str, *, whole: bool = False) -> tuple[sitk.ImageFileReader, Header]:
    """Read and check a header, and with ``whole`` whether packed voxels are; give the reader, ready for them, too."""
    with path.open("rb"):  # a permission problem gets its own sentence; ITK would call it an unknown format
        pass
    data = _data_of(path, image_io)
    if data is not None and not data.is_file():
        raise VolumeError(
            f"{path}: its data file {data.name!r} is not there", remedy="copy it to where the header says"
        )
    _require_harmless(path, image_io)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        if "Zero-valued spacing" in str(error) or "determinant is 0" in str(error):
            raise VolumeError(
                f"{path}: the affine is singular (a zero spacing or axis)",
                remedy="repair the header's orientation and spacing",
            ) from error
        raise _unreadable(path) from error
    shape = volume_shape(tuple(int(n) for n in reader.GetSize()), path)
    text = _Text.of(path, image_io)
    _require_spacing(text, path)
    pixel = reader.GetPixelIDValue()
    complex_ = pixel in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
    require_scalar(path, complex_=complex_, components=1 if complex_ else int(reader.GetNumberOfComponents()))
    _require_data(path, data, image_io, text, math.prod(shape) * _itemsize(reader), whole=whole)
    axes = len(reader.GetSize())
    direction = np.array(reader.GetDirection(), dtype=np.float64).reshape(axes, axes)
    affine = affine_of(direction[:3, :3], reader.GetSpacing()[:3], reader.GetOrigin()[:3])
    # Before the voxels: ITK has no good word for some singular ones when it reads them.
    check_affine(affine, name=str(path))
    units, warnings = _millimetres(text, image_io)
    affine[:3] *= units
    affine = check_affine(affine, name=str(path))
    thickness = _thickness(text, affine, units) if image_io == NRRD else None
    labels = None
    if any(re.match(r"segment\d+_", key) for key in text.fields):
        labels = "its header describes segments"
    return reader, Header(shape, affine, slice_thickness=thickness, labels=labels, warnings=warnings)


def _unreadable(path: Path) -> VolumeError:
    return VolumeError(
        f"{path}: not a readable {path.suffix.lower()} image", remedy="give the right file, or copy it again"
    )


def _require_spacing(text: _Text, path: Path) -> None:
    """Refuse a header that leaves the spacing of an axis open: ITK would take 1 mm."""
    vectors = re.findall(r"\([^()]*\)", text.get("space directions"))
    numbers = text.get("spacings", "elementspacing", "elementsize").split()
    if max(sum("nan" not in part for part in parts) for parts in (vectors, numbers)) < 3:
        raise VolumeError(
            f"{path}: the header gives no spacing for every axis", remedy="add it, or convert the file again"
        )


def _data_of(path: Path, image_io: str) -> Path | None:
    """Give the one file with the voxels; None if there are several, which are left to ITK."""
    name = detached_data(path, image_io)
    if name is None:
        return path
    # Both libraries hand it to printf as it is.
    if "%" in name and not _NUMBERED.fullmatch(name):
        raise _unreadable(path)
    return None if name.upper().startswith("LIST") or "%" in name or name == "unknown" else path.parent / name


def _require_data(
    path: Path, data: Path | None, image_io: str, text: _Text, needed: int, *, whole: bool
) -> None:
    """Refuse a header that promises more than its data file holds; with ``whole`` than is packed in it."""
    if data is None:
        return
    start = text.end if data == path else 0
    encoding = text.get("encoding") if image_io == NRRD else text.get("compresseddata")
    packed = encoding not in _PLAIN if image_io == NRRD else encoding == "true"
    if encoding in _PLAIN[1:]:  # text: a digit and a blank for each voxel at least; ITK counts them
        return
    require_bytes(path, data, start, needed, packed=packed)
    # MetaIO takes what it could unpack for all there is.
    if (
        whole
        and packed
        and not text.get("headersize", "byteskip", "byte skip", "lineskip", "line skip").strip("0")
    ):
        require_whole(data, start, needed)


def _millimetres(text: _Text, image_io: str) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Give the length of the header's unit along each world axis, ``(3, 1)`` mm, and what is doubtful about it."""
    if image_io == META_IMAGE:
        names = [text.get("distanceunits").removeprefix("met_distance_units_")] * 3
    elif "space directions" in text.fields:
        names = re.findall(r'"([^"]*)"', text.get("space units"))
    else:
        names = re.findall(r'"([^"]*)"', text.get("units"))
    names = [name.strip() for name in names][:3]
    unknown = sorted({name for name in names if name not in MILLIMETRES} - {"", "?", "none", "???"})
    warnings = [f"its header's unit {name!r} is unknown and taken as mm." for name in unknown]
    lengths = [MILLIMETRES.get(name, 1.0) for name in names] + [1.0] * (3 - len(names))
    return np.array(lengths)[:, None], tuple(warnings)


def _thickness(text: _Text, affine: npt.NDArray[np.float64], units: npt.NDArray[np.float64]) -> float | None:
    """Give the thickness that an NRRD states for its most widely spaced axis, mm."""
    stated = [_number(value) for value in text.get("thicknesses").split()]
    axis = int(np.argmax(np.linalg.norm(affine[:3, :3], axis=0)))
    # Axes differ in unit only where the spacings do; then the world's axes are the array's.
    value = stated[axis] * float(units[axis, 0]) if len(stated) > axis else math.nan
    return value if 0 < value < math.inf else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _itemsize(reader: sitk.ImageFileReader) -> int:
    pixel = reader.GetPixelIDValue()
    if pixel == sitk.sitkUnknown:
        return 1
    return int(sitk.GetArrayViewFromImage(sitk.Image([1, 1], pixel)).itemsize)


# -- ITK's words -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's C++ libraries off stderr, so that a user sees only our sentence.

    MetaIO and VNL print through the C++ streams, past ITK's own switch; hence the file descriptor. What other
    threads wrote meanwhile is passed on when ITK succeeds (it has nothing to say then), else to the debug log.
    """
    with _stderr_lock:
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            with _captured_stderr():
                yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            capture = stack.enter_context(tempfile.TemporaryFile())
            real = os.dup(2)
        except OSError:  # no temporary folder, or a process without stderr: noise is better than no image
            yield
            return
        stack.callback(os.close, real)
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(capture.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(real, 2)
            capture.seek(0)
            _log.debug("ITK: %s", capture.read().decode(errors="replace").strip())
            raise
        os.dup2(real, 2)
        capture.seek(0)
        if text := capture.read():
            os.write(2, text)
