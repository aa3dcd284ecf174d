"""Decode and encode the single-file volume formats: NIfTI through nibabel, NRRD and MetaImage through ITK.

Why two libraries. ITK is not trusted with NIfTI: it takes the spacing from ``pixdim`` where the sform says
otherwise, swaps a sheared sform for the qform without a word, fills a truncated file with zeros, and reports
success when the disk was full. nibabel's header code follows the standard, and the voxels are a plain buffer.
For NRRD and MetaImage it raises in those cases (almost: see :func:`_verify_gzip`).
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import logging
import math
import os
import re
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from nibabel.imageglobals import LoggingOutputSuppressor

from srcyc.errors import VolumeError
from srcyc.geometry import check_affine

#: ITK and DICOM world axes (left, posterior, superior) to ours (right, anterior, superior); its own inverse.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_ITK_FORMATS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_NIFTI_SUFFIXES = (".nii.gz", ".nii")
_NIFTI_HEADER_BYTES = 540  # of the second version; the first has 348
_LONGEST_HEADER_LINE = 1 << 16
_MILLIMETRES_PER_UNIT = {1: 1e3, 2: 1.0, 3: 1e-3}  # the spatial codes of NIfTI's xyzt_units

_log = logging.getLogger(__name__)
_stderr_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class RawVolume:
    """What a file holds, before the checks that every format shares.

    Attributes:
        voxels: ``(I, J, K)``, any real dtype, scaling of the header applied.
        affine: ``(4, 4)`` float64, voxel index -> RAS mm.
        stored_dtype: voxel type on disk; the type after scaling when the header scales.
        slice_thickness: nominal, mm, or None.
        padding: ``(I, J, K)`` bool, True where the file says that a voxel is no anatomy; None: it says nothing.
        warnings: reasons for distrust that reading found, in sentences.
    """

    voxels: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    stored_dtype: np.dtype[Any]
    slice_thickness: float | None = None
    padding: npt.NDArray[np.bool_] | None = None
    warnings: tuple[str, ...] = ()


def volume_suffix(path: Path) -> str | None:
    """Give the known volume suffix of a file name in lower case, or None."""
    name = path.name.lower()
    for suffix in (*_NIFTI_SUFFIXES, *_ITK_FORMATS):
        if name.endswith(suffix) and len(name) > len(suffix):
            return suffix
    return None


def known_suffixes() -> str:
    """Spell the readable suffixes for a sentence."""
    return ".nii, .nii.gz, .nrrd, .mha or .mhd"


def decode(path: Path) -> RawVolume:
    """Read one file of a known suffix.

    Raises:
        VolumeError: not that format, truncated, 2D, several volumes, colour, vector or complex voxels.
        OSError: the file cannot be opened.
    """
    suffix = volume_suffix(path)
    return _decode_nifti(path) if suffix in _NIFTI_SUFFIXES else _decode_itk(path, _ITK_FORMATS[str(suffix)])


def decode_header(path: Path) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
    """Read shape and affine (voxel index -> RAS mm) of one file of a known suffix, without its voxels.

    Raises:
        VolumeError: as :func:`decode`, except for damage that only the voxels show.
        OSError: the file cannot be opened.
    """
    suffix = volume_suffix(path)
    if suffix in _NIFTI_SUFFIXES:
        return _decode_nifti_header(path)
    _, shape, affine = _itk_reader(path, _ITK_FORMATS[str(suffix)])
    return shape, affine


def detached_data(path: Path) -> str | None:
    """Give the name of the file that holds the voxels of an NRRD or MetaImage header, None if it holds them itself.

    A header may name any file of the machine: whoever reads scans of strangers refuses such a one.

    Raises:
        OSError: the file cannot be opened.
    """
    image_io = _ITK_FORMATS.get(volume_suffix(path) or "")
    if image_io is None:
        return None
    field = "datafile" if image_io == "NrrdImageIO" else "elementdatafile"
    with path.open("rb") as stream:
        while line := stream.readline(_LONGEST_HEADER_LINE):
            text = line.decode("latin-1").strip()
            if len(line) == _LONGEST_HEADER_LINE:  # no header of ours to judge has such a line
                return "unknown"
            if image_io == "NrrdImageIO" and not text:  # a blank line ends the header
                break
            key, value = (*re.split("[:=]", text, maxsplit=1), "")[:2]
            key = re.sub(r"\s", "", key).lower()
            if image_io == "NrrdImageIO":
                if field not in key or key.startswith("#"):
                    continue
            # MetaIO also takes a field that begins within a line.
            elif field not in key and field not in value.lower():
                continue
            elif key == field and value.strip().lower() == "local":
                return None
            return value.strip()
    return None


def encode(voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], path: Path) -> None:
    """Write ``(I, J, K)`` voxels in their own dtype; an ``.mhd`` header gets its ``.raw`` beside it.

    Raises:
        OSError, RuntimeError: the place cannot be written or is full (what is there by then is garbage).
    """
    suffix = volume_suffix(path)
    if suffix in _NIFTI_SUFFIXES:
        _encode_nifti(voxels, affine, path)
    else:
        _encode_itk(voxels, affine, path, _ITK_FORMATS[str(suffix)], compressed=suffix == ".nrrd")


# -- NIfTI ---------------------------------------------------------------------------------------------------


def _decode_nifti(path: Path) -> RawVolume:
    raw = _file_bytes(path)
    header = _nifti_header(raw, path)
    shape = _nifti_shape(header, path)
    _require_bytes(len(raw), header, shape, path)
    dtype = header.get_data_dtype()
    voxels = np.frombuffer(raw, dtype=dtype, count=math.prod(shape), offset=int(header.get_data_offset()))
    voxels = voxels.reshape(shape, order="F")
    stored = dtype.newbyteorder("=")
    slope, intercept = header.get_slope_inter()
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        voxels = voxels * np.float64(slope) + np.float64(intercept or 0.0)
        stored = np.dtype(np.float64 if stored == np.float64 else np.float32)
    return RawVolume(voxels, _nifti_affine(header, path), stored)


def _decode_nifti_header(path: Path) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            raw = stream.read(_NIFTI_HEADER_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"{path}: truncated or damaged gzip data ({path.stat().st_size} bytes)",
            remedy="copy the file again",
        ) from error
    header = _nifti_header(raw, path)
    shape = _nifti_shape(header, path)
    if not packed:
        _require_bytes(path.stat().st_size, header, shape, path)
    return shape, _nifti_affine(header, path)


def _nifti_shape(header: nib.Nifti1Header, path: Path) -> tuple[int, int, int]:
    """Give the shape, after the checks that the header allows."""
    shape = _volume_shape(tuple(int(n) for n in header.get_data_shape()), path)
    dtype = header.get_data_dtype()
    _require_scalar(path, complex_=dtype.kind == "c", components=len(dtype.fields or (0,)))
    return shape


def _require_bytes(there: int, header: nib.Nifti1Header, shape: tuple[int, int, int], path: Path) -> None:
    needed = int(header.get_data_offset()) + math.prod(shape) * header.get_data_dtype().itemsize
    if there < needed:
        raise VolumeError(
            f"{path}: truncated, the header promises {needed} bytes and {there} are there",
            remedy="copy the file again",
        )


def _nifti_affine(header: nib.Nifti1Header, path: Path) -> npt.NDArray[np.float64]:
    try:
        affine = np.array(header.get_best_affine(), dtype=np.float64)
    except Exception as error:  # nibabel raises several unrelated types for an unusable quaternion
        raise VolumeError(
            f"{path}: unusable orientation in the header ({error})", remedy="repair its qform"
        ) from error
    affine[:3] *= _MILLIMETRES_PER_UNIT.get(int(header["xyzt_units"]) % 8, 1.0)
    return affine


def _file_bytes(path: Path) -> bytes:
    """Read a whole file, unpacked if it is gzip (told by content, so that the checksum guards the voxels)."""
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"{path}: truncated or damaged gzip data ({len(raw)} bytes)", remedy="copy the file again"
        ) from error


def _nifti_header(raw: bytes, path: Path) -> nib.Nifti1Header:
    if raw[344:348] == b"n+1\0":
        kind, size = nib.Nifti1Header, 348
    elif raw[4:8] == b"n+2\0":
        kind, size = nib.Nifti2Header, 540
    else:
        raise VolumeError(
            f"{path}: not a NIfTI image", remedy="give the right file, or the suffix that it really has"
        )
    try:
        with LoggingOutputSuppressor():  # nibabel's own handler would write to stderr
            stream = io.BytesIO(raw[:size] + bytes(4))
            header: nib.Nifti1Header = kind.from_fileobj(stream, check=False)
            pixdim = np.array(header["pixdim"][1:4])
            header.check_fix(error_level=40)  # mends what the standard lets be mended, raises for the rest
            header.get_data_dtype(), header.get_slope_inter()
    except Exception as error:  # nibabel has no common base class for what a damaged header causes
        raise VolumeError(
            f"{path}: damaged NIfTI header ({error})", remedy="convert or copy the file again"
        ) from error
    # nibabel mends a zero to 1 mm: harmless beside an sform, invented without one.
    if int(header["sform_code"]) <= 0 and not (np.isfinite(pixdim).all() and pixdim.all()):
        text = " x ".join(f"{value:g}" for value in pixdim)
        raise VolumeError(
            f"{path}: the affine is singular (spacing {text} mm)", remedy="repair the header's spacing"
        )
    return header


def _encode_nifti(voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    image = nib.Nifti1Image(voxels, affine, header)
    # Both forms, so that readers which prefer the qform (ITK, 3D Slicer) agree with those that prefer the sform.
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)


# -- NRRD and MetaImage --------------------------------------------------------------------------------------


def _decode_itk(path: Path, image_io: str) -> RawVolume:
    reader, shape, affine = _itk_reader(path, image_io)
    try:
        with quiet_itk():
            image = reader.Execute()
    except RuntimeError as error:
        raise VolumeError(
            f"{path}: truncated or damaged, its voxels ({' x '.join(map(str, shape))}) cannot be read",
            remedy="copy the file again (an .mhd together with its data file)",
        ) from error
    voxels = sitk.GetArrayFromImage(image).reshape(shape[::-1]).T  # ITK arrays run z, y, x
    return RawVolume(voxels, affine, voxels.dtype)


def _itk_reader(
    path: Path, image_io: str
) -> tuple[sitk.ImageFileReader, tuple[int, int, int], npt.NDArray[np.float64]]:
    """Read and check a header; give the reader, ready for the voxels, the shape, and the affine to RAS mm."""
    with path.open("rb"):  # a permission problem gets its own sentence; ITK would call it an unknown format
        pass
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _itk_header_problem(path, str(error)) from error
    shape = _volume_shape(tuple(int(n) for n in reader.GetSize()), path)
    _require_spacing(path, image_io)
    pixel = reader.GetPixelIDValue()
    complex_ = pixel in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
    _require_scalar(
        path, complex_=complex_, components=1 if complex_ else int(reader.GetNumberOfComponents())
    )
    axes = len(reader.GetSize())
    direction = np.array(reader.GetDirection(), dtype=np.float64).reshape(axes, axes)
    affine = np.eye(4)
    affine[:3, :3] = direction[:3, :3] * np.array(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    # Before the voxels: ITK has no good word for some singular ones when it reads them.
    return reader, shape, check_affine(LPS_TO_RAS @ affine, name=str(path))


def _itk_header_problem(path: Path, message: str) -> VolumeError:
    if "Zero-valued spacing" in message or "determinant is 0" in message:
        return VolumeError(
            f"{path}: the affine is singular (a zero spacing or axis)",
            remedy="repair the header's orientation and spacing",
        )
    return VolumeError(
        f"{path}: not a readable {path.suffix.lower()} image", remedy="give the right file, or copy it again"
    )


def _require_spacing(path: Path, image_io: str) -> None:
    """Refuse a header that leaves the spacing of an axis open: ITK would take 1 mm."""
    separator, last = (":", "") if image_io == "NrrdImageIO" else ("=", "ElementDataFile")
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        for line in stream:
            key, _, value = line.decode("latin-1").strip().partition(separator)
            fields[key.strip().lower()] = value.strip().lower()
            if key.strip() == last:
                break
    vectors = re.findall(r"\([^()]*\)", fields.get("space directions", ""))
    numbers = next(
        (fields[k] for k in ("spacings", "elementspacing", "elementsize") if k in fields), ""
    ).split()
    if max(sum("nan" not in text for text in texts) for texts in (vectors, numbers)) < 3:
        raise VolumeError(
            f"{path}: the header gives no spacing for every axis", remedy="add it, or convert the file again"
        )


def _encode_itk(
    voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], path: Path, image_io: str, *, compressed: bool
) -> None:
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    writer = sitk.ImageFileWriter()
    writer.SetImageIO(image_io)
    writer.SetFileName(str(path))
    writer.SetUseCompression(compressed)
    with quiet_itk():
        writer.Execute(image)
    if compressed:
        _verify_gzip(path)


def _verify_gzip(path: Path) -> None:
    """Unpack the data of a written NRRD: its library does not notice when the last bytes find no room.

    Raises:
        OSError: the compressed data is incomplete.
    """
    with path.open("rb") as stream:
        while stream.readline() not in (b"\n", b""):  # a blank line ends the header
            pass
        try:
            with gzip.GzipFile(fileobj=stream) as packed:
                while packed.read(1 << 20):
                    pass
        except (EOFError, zlib.error) as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


# -- shared --------------------------------------------------------------------------------------------------


def _volume_shape(size: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """Reduce a stored size to three axes; extra axes of one entry are dropped."""
    text = " x ".join(map(str, size))
    if len(size) < 3:
        raise VolumeError(
            f"{path}: a {len(size)}D image ({text}), not a volume", remedy="give all slices of a scan"
        )
    if any(n != 1 for n in size[3:]):
        raise VolumeError(
            f"{path}: holds several volumes ({text})", remedy="extract one of them and give that"
        )
    i, j, k = size[:3]
    if min(i, j, k) < 1:
        raise VolumeError(
            f"{path}: the header's size {text} is impossible", remedy="convert or copy the file again"
        )
    return i, j, k


def _require_scalar(path: Path, *, complex_: bool, components: int) -> None:
    if complex_:
        raise VolumeError(f"{path}: complex voxels", remedy="give the magnitude image")
    if components != 1:
        raise VolumeError(
            f"{path}: {components} values per voxel (colour or vectors)", remedy="give a grey-scale volume"
        )


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
