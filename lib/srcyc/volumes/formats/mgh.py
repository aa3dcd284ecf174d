"""FreeSurfer's .mgh and .mgz, through nibabel."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from srcyc.documents import json_line
from srcyc.errors import VolumeError
from srcyc.volumes.formats.gzipped import is_packed, packed, read_start, read_voxels
from srcyc.volumes.formats.raw import Header, Origin, RawVolume, require_bytes, volume_shape

_HEADER_BYTES = 284
#: Where the header tells whether it tells the place (goodRASFlag).
_PLACE_TOLD = slice(28, 30)
#: Voxel types that the format has.
TYPES = ("uint8", "int16", "int32", "float32")
#: What FreeSurfer keeps behind the voxels: the command that made a volume.
_TAG_COMMAND = 3


def read_header(path: Path) -> Header:
    """Read what a file says of itself.

    Raises:
        VolumeError: not an MGH file, damaged, several volumes, or larger than its file.
        OSError: the file cannot be opened.
    """
    return _read(path)[0]


def read_volume(path: Path) -> RawVolume:
    """Read the voxels too.

    Raises:
        VolumeError: as :func:`read_header`; truncated or damaged voxels.
        OSError: the file cannot be opened.
    """
    header, dtype = _read(path)
    voxels = read_voxels(path, path, _HEADER_BYTES, header.shape, dtype)
    return RawVolume(header, voxels, dtype.newbyteorder("="))


def write(
    voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], path: Path, *, origin: Origin | None = None
) -> None:
    """Write ``(I, J, K)`` voxels of one of :data:`TYPES`; packed unless the name ends in .mgh."""
    raw = nib.MGHImage(voxels, affine).to_bytes()
    if origin is not None:
        text = f"{origin.line} {json_line(origin.fields)}".encode() + b"\0"
        raw += _TAG_COMMAND.to_bytes(4, "big") + len(text).to_bytes(8, "big") + text
    with path.open("wb") as stream:
        stream.writelines([raw] if path.suffix.lower() == ".mgh" else packed([raw], voxels.dtype))


def _read(path: Path) -> tuple[Header, np.dtype[Any]]:
    raw = read_start(path, _HEADER_BYTES)
    try:
        if len(raw) < _HEADER_BYTES or int.from_bytes(raw[:4], "big") != 1:
            raise ValueError("not its first bytes")
        fields = nib.freesurfer.mghformat.MGHHeader.from_fileobj(io.BytesIO(raw))
        dtype = np.dtype(fields.get_data_dtype()).newbyteorder(">")
        affine = np.array(fields.get_affine(), dtype=np.float64)
    except Exception as error:  # nibabel has no common base class for what a damaged header causes
        raise VolumeError(
            f"{path}: not a readable FreeSurfer volume ({error})",
            remedy="give the right file, or copy it again",
        ) from error
    shape = volume_shape(tuple(int(n) for n in fields["dims"]), path)
    require_bytes(path, path, _HEADER_BYTES, math.prod(shape) * dtype.itemsize, packed=is_packed(path))
    # nibabel sets it when it fills the place in.
    if int.from_bytes(raw[_PLACE_TOLD], "big", signed=True) > 0:
        return Header(shape, affine), dtype
    warning = (
        "its header says nothing of its orientation (goodRASFlag is not set): which side is left is unknown, and taken "
        "as FreeSurfer does."
    )
    return Header(shape, affine, warnings=(warning,)), dtype
