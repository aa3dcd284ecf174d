"""The table of the file formats of volumes: a format is one entry; DICOM series have :mod:`srcyc.volumes.dicom`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srcyc.errors import OutputError
from srcyc.volumes.formats import itk, mgh, nifti
from srcyc.volumes.formats.raw import Header, Orientation, Origin, RawVolume, Scaling


@dataclass(frozen=True)
class Format:
    """One entry.

    Attributes:
        suffixes: of its files; a longer one stands before what it ends in.
        header: reads what a file says of itself, never its voxels. Raises VolumeError: not that format, damaged, 2D,
            several volumes, colour, vector or complex voxels; OSError: the file cannot be opened.
        voxels: reads them too. Raises VolumeError also of what only they show, or of more than fits into memory.
        write: takes voxels, affine, path, origin, orientation and scaling; None: the format is only read.
        detached: names the file that holds the voxels of a header; None if it holds them itself.
        types: voxel types that can be written; empty: all integers, float32 and float64.
        holds_scaling: whether integers can be written with a scaling.
        holds_orientation: whether what is known of the place can be told: see
            :class:`~srcyc.volumes.formats.raw.Orientation`.
    """

    suffixes: tuple[str, ...]
    header: Callable[[Path], Header]
    voxels: Callable[[Path], RawVolume]
    write: Callable[..., None] | None
    detached: Callable[[Path], str | None] = lambda _: None
    types: tuple[str, ...] = ()
    holds_scaling: bool = False
    holds_orientation: bool = False


def _itk(*suffixes: str, image_io: str, written: bool = True, compressed: bool = False) -> Format:
    return Format(
        suffixes,
        partial(itk.read_header, image_io=image_io),
        partial(itk.read_volume, image_io=image_io),
        partial(itk.write, image_io=image_io, compressed=compressed) if written else None,
        detached=partial(itk.detached_data, image_io=image_io),
    )


def _image_of(path: Path) -> str:
    return nifti.image_of(path).name


#: All formats, in the order in which sentences name them.
FORMATS = (
    Format(
        (".nii", ".nii.gz"),
        nifti.read_header,
        nifti.read_volume,
        nifti.write,
        holds_scaling=True,
        holds_orientation=True,
    ),
    Format((".hdr", ".hdr.gz"), nifti.read_header, nifti.read_volume, None, detached=_image_of),
    _itk(".nrrd", image_io=itk.NRRD, compressed=True),
    _itk(".nhdr", image_io=itk.NRRD, written=False),
    _itk(".mha", ".mhd", image_io=itk.META_IMAGE),
    Format((".mgz", ".mgh"), mgh.read_header, mgh.read_volume, mgh.write, types=mgh.TYPES),
)

#: Files with the voxels of a pair: its header is the volume.
_IMAGES = {".img": (".hdr", ".HDR", ".hdr.gz"), ".img.gz": (".hdr.gz", ".hdr", ".HDR")}


def volume_suffix(path: Path) -> str | None:
    """Give the known volume suffix of a file name in lower case, or None."""
    name = path.name.lower()
    for suffix in (suffix for entry in FORMATS for suffix in entry.suffixes):
        if name.endswith(suffix) and len(name) > len(suffix):
            return suffix
    return None


def format_of(path: Path) -> Format:
    """Give the entry of a file whose suffix is known."""
    suffix = volume_suffix(path)
    return next(entry for entry in FORMATS if suffix in entry.suffixes)


def known_suffixes() -> str:
    """Spell the readable suffixes for a sentence."""
    return _spelled(
        [suffix for entry in FORMATS for suffix in entry.suffixes if suffix not in (".hdr.gz", ".mgh")]
    )


def written_suffixes() -> str:
    """Spell the suffixes that a volume is written with for a sentence."""
    return _spelled(
        [suffix for entry in FORMATS if entry.write for suffix in entry.suffixes if suffix != ".mgh"]
    )


def is_written(path: Path, dtype: npt.DTypeLike = np.float32) -> bool:
    """Tell whether a name ends in a suffix that is written, with voxels of a type."""
    if volume_suffix(path) is None:
        return False
    entry = format_of(path)
    return entry.write is not None and (not entry.types or np.dtype(dtype).name in entry.types)


def can_scale(path: Path) -> bool:
    """Tell whether a file of this name can hold integers that its header scales."""
    return is_written(path) and format_of(path).holds_scaling


def header_file(path: Path) -> Path:
    """Give the file that stands for a volume: the header for the image file of a pair, else the file itself."""
    name = path.name.lower()
    for suffix, headers in _IMAGES.items():
        if name.endswith(suffix) and len(name) > len(suffix):
            stem = path.name[: -len(suffix)]
            found = [path.with_name(stem + header) for header in headers]
            return next((header for header in found if os.path.isfile(header)), path)
    return path


def data_file(path: Path) -> Path | None:
    """Give the file beside or below a header that holds its voxels; None if it does itself, or it cannot be told."""
    try:
        name = detached_data(path)
    except OSError:
        return None
    place = None if name is None else os.path.normpath(name)
    return None if place is None or os.path.isabs(place) or place.startswith("..") else path.parent / place


def require_writable(path: Path, dtype: npt.DTypeLike = np.float32, scaling: Scaling | None = None) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Args:
        path: of the file.
        dtype: of its voxels.
        scaling: of stored integers.

    Raises:
        OutputError: an unknown suffix, or a format that is not written or has no such voxels.
    """
    suffix = volume_suffix(path)
    if not is_written(path):
        what = "unknown kind of file" if suffix is None else "files of this kind are read, not written"
        raise OutputError(f"{path}: {what}", remedy=f"let the name end in {written_suffixes()}")
    if not is_written(path, dtype):
        raise OutputError(
            f"{path}: the format has no voxels of type {np.dtype(dtype)}", remedy="write float32, or NIfTI"
        )
    if scaling is not None and not can_scale(path):
        raise OutputError(f"{path}: the format has no scaled integers", remedy="write float32, or NIfTI")


def parts_of(path: Path) -> tuple[Path, ...]:
    """Give the files that a volume's file consists of: header and voxels; empty if it is one file."""
    header = header_file(path)
    data = data_file(header)
    return () if data is None else (header, data)


def detached_data(path: Path) -> str | None:
    """Give the name of the file that holds the voxels of a header, None if it holds them itself or is none.

    A header may name any file of the machine: whoever reads scans of strangers refuses such a one.

    Raises:
        OSError: the file cannot be opened.
    """
    return None if volume_suffix(path) is None else format_of(path).detached(path)


def encode(
    voxels: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    path: Path,
    *,
    orientation: Orientation | None = None,
    scaling: Scaling | None = None,
    origin: Origin | None = None,
) -> None:
    """Write ``(I, J, K)`` voxels in their own dtype; an ``.mhd`` header gets its ``.raw`` beside it.

    Args:
        voxels: as they are to be stored.
        affine: voxel index -> RAS mm.
        path: of a suffix that is written.
        orientation: what the scan's file said of its place. A format that cannot tell it gets the place as ITK has it.
        scaling: of stored integers.
        origin: how the volume was made, told within the file.

    Raises:
        OSError: the place cannot be written or is full (what is there by then is garbage).
    """
    entry = format_of(path)
    more: dict[str, Any] = {"origin": origin}
    if entry.holds_scaling:
        more["scaling"] = scaling
    if entry.holds_orientation:
        more["orientation"] = orientation
    elif orientation is not None and not orientation.known and orientation.to_second is not None:
        affine = orientation.to_second @ affine
    entry.write(voxels, affine, path, **more)  # type: ignore[misc]  # only what is written gets here


def _format(path: Path) -> Format:
    """Give the entry of a file whose suffix is known."""
    suffix = volume_suffix(path)
    return next(entry for entry in FORMATS if suffix in entry.suffixes)


def _spelled(suffixes: list[str]) -> str:
    return f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
