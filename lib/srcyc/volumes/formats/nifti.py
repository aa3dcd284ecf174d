"""NIfTI-1 and NIfTI-2, as one file or as a pair of header and image.

ITK is not trusted with NIfTI: it takes the spacing from ``pixdim`` where the sform says otherwise, swaps a sheared
sform for the qform without a word, fills a truncated file with zeros, and reports success when the disk was full.
nibabel's header code follows the standard, and the voxels are a plain buffer.
"""

from __future__ import annotations

import io
import itertools
import logging
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.quaternions import quat2mat

from srcyc.documents import json_line
from srcyc.errors import VolumeError
from srcyc.volumes.formats.gzipped import is_packed, packed, read_start, read_voxels
from srcyc.volumes.formats.raw import (
    LPS_TO_RAS,
    Header,
    Orientation,
    Origin,
    RawVolume,
    Scaling,
    require_bytes,
    require_scalar,
    volume_shape,
)
from srcyc.volumes.geometry import is_singular

_HEADER_BYTES = 540  # of the second version; the first has 348
_MILLIMETRES_PER_UNIT = {1: 1e3, 2: 1.0, 3: 1e-3}  # the spatial codes of xyzt_units
#: Intent codes of label maps: NIFTI_INTENT_LABEL and NIFTI_INTENT_NEURONAME.
_LABEL_INTENTS = (1002, 1005)
#: By how much a quaternion may leave the unit sphere: writers round to float32, and some to fewer digits.
_QUATERNION_TOLERANCE = 1e-2
#: By how much its squares have to fall short of 1 to be more than rounding.
_HALF_TURN = 1e-7
#: Two forms whose corners differ by less than this share of a voxel say the same.
_SAME_FORM = 0.01

#: Characters of `descrip`, which ends with a zero.
_DESCRIPTION = 79
#: NIFTI_ECODE_COMMENT: text in UTF-8.
_COMMENT = 6

#: Takes what nibabel says of a header; its own logger writes to stderr, also where nobody listens to it.
_UNHEARD = logging.Logger("nibabel", logging.CRITICAL + 1)  # noqa: LOG001 - of nobody's tree

_Affine = npt.NDArray[np.float64]


def image_of(path: Path) -> Path:
    """Give the file that holds the voxels: the other one of a pair, else the file itself."""
    name = path.name
    for ending in (".hdr.gz", ".hdr"):
        if name.lower().endswith(ending):
            stem = name[: -len(ending)]
            found = [path.with_name(stem + other) for other in (".img", ".IMG", ".img.gz")]
            return next((other for other in found if other.is_file()), found[0])
    return path


def read_header(path: Path) -> Header:
    """Read what a file says of itself; of a pair, ``path`` is the header.

    Raises:
        VolumeError: not NIfTI, damaged, not one grey-scale volume, without a usable place, or larger than its file.
        OSError: the file cannot be opened.
    """
    return _read(path)[0]


def read_volume(path: Path) -> RawVolume:
    """Read the voxels too, scaled as the header says.

    Raises:
        VolumeError: as :func:`read_header`; truncated or damaged voxels.
        OSError: the file cannot be opened.
    """
    header, fields, start = _read(path)
    dtype = fields.get_data_dtype()
    voxels = read_voxels(path, image_of(path), start, header.shape, dtype)
    kind = dtype.newbyteorder("=")
    slope, intercept = fields.get_slope_inter()
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        voxels = voxels * np.float64(slope) + np.float64(intercept or 0.0)
        kind = np.dtype(np.float64 if kind == np.float64 else np.float32)
    return RawVolume(header, voxels, kind)


def write(
    voxels: npt.NDArray[Any],
    affine: _Affine,
    path: Path,
    *,
    orientation: Orientation | None = None,
    scaling: Scaling | None = None,
    origin: Origin | None = None,
) -> None:
    """Write ``(I, J, K)`` voxels in their own type as a single file; see :func:`srcyc.volumes.image_files.encode`."""
    place = orientation or Orientation()
    header = nib.Nifti1Header()
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    # Both forms unless the scan's file had only one: readers differ in which of the two they prefer.
    second = affine if place.to_second is None or not place.known else place.to_second @ affine
    header.set_qform(second, code=place.qform_code)
    header.set_sform(affine if place.sform_code > 0 else None, code=place.sform_code)
    if not place.qform_code:
        header["pixdim"][0] = 1
        header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header.set_xyzt_units("mm", "sec")
    behind = bytes(4) if origin is None else _extension(origin)
    header["vox_offset"] = header.sizeof_hdr + len(behind)
    if origin is not None:
        header["descrip"] = origin.line[:_DESCRIPTION]
    if scaling is not None:
        header.set_slope_inter(scaling.slope, scaling.intercept)
    planes = (voxels[..., k].tobytes(order="F") for k in range(voxels.shape[2]))
    content: Iterable[bytes] = itertools.chain([header.binaryblock + behind], planes)
    if path.name.lower().endswith(".gz"):
        content = packed(content, voxels.dtype)
    with path.open("wb") as stream:
        stream.writelines(content)


def _extension(origin: Origin) -> bytes:
    """Give what stands between header and voxels: the mark of an extension, and one of JSON."""
    extension = io.BytesIO()
    nib.nifti1.Nifti1Extension(_COMMENT, json_line(origin.fields).encode()).write_to(extension, False)
    return b"\1\0\0\0" + extension.getvalue()


# -- header --------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[Header, nib.Nifti1Header, int]:
    """Give the header, nibabel's view of it, and where the voxels begin in their file."""
    fields, start = _fields(path)
    shape = volume_shape(tuple(int(n) for n in fields.get_data_shape()), path)
    dtype = fields.get_data_dtype()
    require_scalar(path, complex_=dtype.kind == "c", components=len(dtype.fields or (0,)))
    image = image_of(path)
    if not image.is_file():
        raise VolumeError(
            f"{path}: its voxels should lie beside it in {image.name}, which is not there",
            remedy=f"copy {image.name} to it",
        )
    require_bytes(path, image, start, math.prod(shape) * dtype.itemsize, packed=is_packed(image))
    affine, orientation, warnings = _place(fields, path)
    are_labels = int(fields["intent_code"]) in _LABEL_INTENTS
    header = Header(
        shape,
        affine,
        orientation=orientation,
        scaling=_scaling(fields),
        labels="its header's intent is labels" if are_labels else None,
        warnings=warnings,
    )
    return header, fields, start


def _fields(path: Path) -> tuple[nib.Nifti1Header, int]:
    raw = read_start(path, _HEADER_BYTES)
    pair = image_of(path) != path
    versions = (
        (nib.Nifti1Header, nib.nifti1.Nifti1PairHeader, 348, raw[344:348]),
        (nib.Nifti2Header, nib.nifti2.Nifti2PairHeader, 540, raw[4:8]),
    )
    found = [one for one in versions if re.fullmatch(rb"n[+i].\0", one[3], re.DOTALL) and len(raw) >= one[2]]
    if not found:
        raise _not_nifti(path, raw, pair=pair)
    kind_of_single, kind_of_pair, size, magic = found[0]
    kind = kind_of_pair if pair else kind_of_single
    single = magic[1:2] == b"+"
    if single == pair:
        raise VolumeError(
            f"{path}: its header says that the voxels are {'in this file' if single else 'in a second file'}",
            remedy=f"give it the suffix {'.nii' if single else '.hdr, and .img to the voxels'}",
        )
    try:
        header: nib.Nifti1Header = kind.from_fileobj(io.BytesIO(raw[:size] + bytes(4)), check=False)
        pixdim = np.array(header["pixdim"][1:4])
        start = _start(header, path, least=0 if pair else size + 4)
        header["vox_offset"] = 0 if pair else start
        # Mends what the standard lets be mended, raises for the rest. A quaternion is judged where it is used.
        header.check_fix(logger=_UNHEARD, error_level=40)
        header.get_data_dtype(), header.get_slope_inter()
    except VolumeError:
        raise
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
    return header, start


def _not_nifti(path: Path, raw: bytes, *, pair: bool) -> VolumeError:
    sizes = {int.from_bytes(raw[:4], order) for order in ("little", "big")}
    if pair and 348 in sizes and len(raw) >= 348:
        return VolumeError(
            f"{path}: an Analyze 7.5 header, which does not say which side is left",
            remedy="convert it to NIfTI with the program that wrote it",
        )
    return VolumeError(
        f"{path}: not a NIfTI image", remedy="give the right file, or the suffix that it really has"
    )


def _start(header: nib.Nifti1Header, path: Path, *, least: int) -> int:
    """Give where the voxels begin: the standard reads any offset into the header as the first byte behind it."""
    offset = float(header["vox_offset"])
    if not 0 <= offset < 2**62:  # also of NaN
        raise VolumeError(
            f"{path}: its voxels are said to begin at byte {offset:g} (vox_offset)",
            remedy="convert or copy the file again",
        )
    return max(int(offset), least)


def _scaling(header: nib.Nifti1Header) -> Scaling | None:
    slope, intercept = header.get_slope_inter()
    dtype = header.get_data_dtype().newbyteorder("=")
    if slope is None or (slope, intercept) == (1.0, 0.0) or dtype.kind not in "iu":
        return None
    return Scaling(dtype, float(slope), float(intercept or 0.0))


# -- place ---------------------------------------------------------------------------------------------------


def _place(header: nib.Nifti1Header, path: Path) -> tuple[_Affine, Orientation, tuple[str, ...]]:
    """Give the affine to RAS mm (sform, else qform, else the bare spacing), what of it is known, and warnings."""
    sform_code, qform_code = max(int(header["sform_code"]), 0), max(int(header["qform_code"]), 0)
    sform = np.array(header.get_sform(), dtype=np.float64) if sform_code else None
    qform, problem = _qform(header) if qform_code else (None, "")
    warnings = []
    if sform is not None and not _usable(sform) and qform is not None:
        warnings.append("the sform in its header is no place in space: the qform counts.")
        sform, sform_code = None, 0
    if sform is None and qform_code and qform is None:
        raise VolumeError(
            f"{path}: unusable orientation in the header ({problem})", remedy="repair its qform"
        )
    if qform is None:
        qform_code = 0
    unit = int(header["xyzt_units"]) % 8
    millimetres = np.diag([*([_MILLIMETRES_PER_UNIT.get(unit, 1.0)] * 3), 1.0])
    if sform is None and qform is None:
        # As nibabel has it; ITK puts the first voxel at 0 and lets the axes run to the left, the back and the top.
        affine = millimetres @ header.get_base_affine()
        as_itk_has_it = LPS_TO_RAS @ np.diag([*np.linalg.norm(affine[:3, :3], axis=0), 1.0])
        warnings.append(
            "its header says nothing of its orientation (qform_code and sform_code are 0): which side is left is "
            "unknown, and the result's header says no more; it ends at the centres of the outer slices, so that "
            "viewers show both in one place."
        )
        return affine, Orientation(0, 0, as_itk_has_it @ np.linalg.inv(affine)), tuple(warnings)
    affine = millimetres @ (qform if sform is None else sform)  # type: ignore[operator]
    second = None
    if sform is not None and qform is not None and _usable(affine):
        other = millimetres @ qform
        if not _same(affine, other, header.get_data_shape()[:3]):
            second = other @ np.linalg.inv(affine)
    return affine, Orientation(sform_code, qform_code, second), tuple(warnings)


def _qform(header: nib.Nifti1Header) -> tuple[_Affine | None, str]:
    """Give the qform, None and why if it has none."""
    b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
    squares = b * b + c * c + d * d
    offsets = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    if not np.isfinite([squares, *offsets]).all():
        return None, "its qform is not finite"
    if squares > 1 + _QUATERNION_TOLERANCE:
        return None, f"its quaternion has the length {math.sqrt(squares):.3g}, more than 1"
    # Within rounding of the unit sphere it is a half turn, as the standard's own code has it.
    half_turn = 1 - squares < _HALF_TURN
    scale = 1 / math.sqrt(squares) if half_turn else 1.0
    rotation = quat2mat([0.0 if half_turn else math.sqrt(1 - squares), scale * b, scale * c, scale * d])
    spacing = np.abs(np.array(header["pixdim"][1:4], dtype=np.float64))
    if float(header["pixdim"][0]) < 0:  # qfac
        spacing[2] *= -1
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = offsets
    return (affine, "") if _usable(affine) else (None, "its spacing is 0")


def _usable(affine: _Affine) -> bool:
    return bool(np.isfinite(affine).all()) and not is_singular(affine)


def _same(first: _Affine, second: _Affine, shape: tuple[int, ...]) -> bool:
    """Tell whether two affines put the corners of a volume to the same places."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    apart = (first - second)[:3, :3] @ ends + (first - second)[:3, 3:]
    voxel = float(np.linalg.norm(first[:3, :3], axis=0).min())
    return bool(np.abs(apart).max() <= _SAME_FORM * voxel)
