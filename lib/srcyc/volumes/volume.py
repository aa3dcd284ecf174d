"""MR volumes with their place in the world, and their files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srcyc.errors import OutputError, VolumeError
from srcyc.files import publish, staging, writing
from srcyc.volumes.dicom import (
    DicomSeries,
    is_dicom_file,
    is_dicom_folder,
    listing_of,
    read_dicom_folder,
    read_dicom_header,
)
from srcyc.volumes.finding import survey
from srcyc.volumes.formats.raw import Origin, Scaling, Told
from srcyc.volumes.geometry import Grid, check_affine
from srcyc.volumes.image_files import (
    encode,
    format_of,
    header_file,
    known_suffixes,
    parts_of,
    require_writable,
    volume_suffix,
)
from srcyc.volumes.sidecar import read_thickness

#: Smallest number of voxels along an axis.
MINIMUM_SIZE = 2
#: Cosine of the angle between two voxel axes above which a grid counts as sheared (headers round to about 1e-6).
SHEAR_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Volume(Told):
    """A grey-scale volume on a regular grid, and what its file says of it (:class:`~srcyc.volumes.formats.raw.Told`).

    Attributes:
        data: ``(1, I, J, K)`` float32; array axes as in NIfTI (first index fastest on disk). NaN: no value there.
        affine: ``(4, 4)`` float64, voxel index -> RAS mm.
        stored_dtype: voxel type on disk (after the header's scaling, if any).
        source: where it was read from.

    Raises:
        VolumeError: data without the four axes, an affine that is not finite or singular.
    """

    data: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    stored_dtype: np.dtype[Any] = np.dtype(np.float32)  # noqa: RUF009 - it never changes
    source: Path | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Bring the arrays to their types."""
        data = np.asarray(self.data, dtype=np.float32)
        if data.ndim != 4:
            raise VolumeError(f"{self.name}: data of shape {data.shape}", remedy="give (channels, I, J, K)")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", check_affine(self.affine, name=self.name))
        object.__setattr__(self, "stored_dtype", np.dtype(self.stored_dtype))

    @property
    def name(self) -> str:
        """What it is called in sentences: its file, if there is one."""
        return str(self.source or "volume")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the array axes, ``(I, J, K)``."""
        i, j, k = self.data.shape[1:]
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis, mm."""
        return self.grid.spacing

    @property
    def grid(self) -> Grid:
        """Shape and affine."""
        return Grid(self.shape, self.affine)


def read_volume(
    path: str | os.PathLike[str], *, series: str | DicomSeries | None = None, fill_gaps: bool = False
) -> Volume:
    """Read a file of a volume (docs/formats.md lists them), or one DICOM series of a folder.

    NIfTI: the sform if its code is set, else the qform, else the bare spacing (the standard's order, as nibabel,
    FSL and SPM have it; ITK at times prefers the qform). Voxels become float32: integers beyond 2**24 and
    double-precision values are rounded to its 24 bits. Scaling in the header is applied. The slice thickness is the
    header's, else that of a JSON sidecar.

    Args:
        path: the file or folder; of DICOM also a file of many frames, and FOLDER/NAME for one of several series (see
            :func:`find_volumes`).
        series: which DICOM series of it: its number, description or UID, or an entry of
            :func:`srcyc.volumes.dicom.list_series`; None: the only scan that there is.
        fill_gaps: slices that a DICOM series lacks between others are interpolated, instead of refusing it; a warning
            says which share of the volume that is.

    Raises:
        VolumeError: anything that is not one three-dimensional, grey-scale volume without infinite voxels on an
            orthogonal grid of at least two voxels along each axis.
    """
    path = Path(path)
    with _explained(path):
        if _is_dicom(path, series):
            raw = read_dicom_folder(path, series=series, fill_gaps=fill_gaps)
            told = raw.header.told()
        else:
            file = header_file(path)
            raw = format_of(file).voxels(file)
            told = {**raw.header.told(), "files": parts_of(path)}
        grid = checked_grid(raw.header.shape, raw.header.affine, path)
        if raw.header.slice_thickness is None and not path.is_dir():
            told["slice_thickness"], doubts = read_thickness(path, volume_stem(header_file(path)))
            told["warnings"] = (*raw.header.warnings, *doubts)
        data = checked_voxels(raw.voxels, path)
    return Volume(data, grid.affine, raw.stored_dtype, source=path, **told)


def read_grid(
    path: str | os.PathLike[str], *, series: str | DicomSeries | None = None, fill_gaps: bool = False
) -> Grid:
    """Read the place of a volume in the world from its header alone: for lists of many scans.

    Voxels are not looked at: a file that passes may still turn out truncated or not finite. Arguments as for
    :func:`read_volume`.

    Raises:
        VolumeError: what :func:`read_volume` refuses and a header shows.
    """
    path = Path(path)
    with _explained(path):
        if _is_dicom(path, series):
            header = read_dicom_header(path, series=series, fill_gaps=fill_gaps)
        else:
            file = header_file(path)
            header = format_of(file).header(file)
    return checked_grid(header.shape, header.affine, path)


def write_volume(
    volume: Volume,
    path: str | os.PathLike[str],
    *,
    dtype: npt.DTypeLike | None = None,
    scaling: Scaling | None = None,
    origin: Origin | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a single-channel volume; the suffix decides the format (an ``.mhd`` gets its ``.raw`` beside it).

    The file appears under its name only when it is complete. Missing parent folders are created. NIfTI keeps the
    affine to float32, in both sform and qform unless ``volume.orientation`` says otherwise; the other formats to
    float64.

    Args:
        volume: ``(1, I, J, K)``.
        path: ends in .nii, .nii.gz, .nrrd, .mha, .mhd or .mgz.
        dtype: float32 if None; for an integer type voxels are rounded, half to even.
        scaling: of the integers that are stored, instead of ``dtype``; NIfTI only.
        origin: how the volume was made, told within the file.
        overwrite: replace what is there.

    Returns:
        The path written.

    Raises:
        OutputError: unknown suffix or type, a sheared grid, voxels outside the integer type's range, an existing
            file, a place that cannot be written or is full. Nothing partial is left behind.
    """
    path = Path(path)
    suffix = volume_suffix(path)
    if volume.data.shape[0] != 1:
        raise OutputError(
            f"{path}: the volume has {volume.data.shape[0]} channels", remedy="write them one by one"
        )
    if shear := _shear(volume.affine):
        raise OutputError(
            f"{path}: the voxel axes are sheared by {shear:.3g} degrees",
            remedy="resample to an orthogonal grid",
        )
    data = volume.data[0] if scaling is None else (volume.data[0] - scaling.intercept) / scaling.slope
    voxels = _typed(data, dtype if scaling is None else scaling.dtype, path)
    require_writable(path, voxels.dtype, scaling)
    finals = [path.with_suffix(".raw"), path] if suffix == ".mhd" else [path]
    with staging(path.parent, path.name) as folder:
        _refuse_existing(finals, overwrite)
        staged = folder / f"{volume_stem(path)}{suffix}"
        with writing(path):
            encode(
                voxels,
                volume.affine,
                staged,
                orientation=volume.orientation,
                scaling=scaling,
                origin=origin,
            )
        staged.rename(folder / path.name)
        _refuse_existing(finals, overwrite)
        publish([folder / final.name for final in finals], path.parent)
    return path


def volume_stem(path: Path) -> str:
    """Give a file name without its volume suffix (``.nii.gz`` is one suffix); any other name as it is."""
    suffix = volume_suffix(path)
    return path.name if suffix is None else path.name[: -len(suffix)]


def is_volume_path(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path names a volume: by suffix in any case (it need not exist), or a folder of DICOM files.

    Of a pair of files the header is the volume.
    """
    path = Path(path)
    return is_dicom_folder(path) if path.is_dir() else volume_suffix(path) is not None


def find_volumes(folder: str | os.PathLike[str]) -> list[Path]:
    """List the volumes at and below a folder, sorted: files by suffix, and DICOM series.

    A series that is the only one of its folder is given as that folder, another as FOLDER/NAME, which
    :func:`read_volume` takes like a path of its own. Localizers, captures and derived maps are left out (see
    :func:`srcyc.volumes.dicom.list_series`), hidden files and folders too. :func:`srcyc.volumes.finding.survey` tells
    what else there is.

    Raises:
        VolumeError: not a folder, or not readable.
    """
    return survey(Path(folder)).volumes


# -- reading -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's errors while reading into sentences."""
    try:
        yield
    except OSError as error:
        raise VolumeError(
            f"{path}: cannot be read ({error.strerror or error})", remedy="check the path and its permissions"
        ) from error
    except MemoryError as error:
        raise VolumeError(
            f"{path}: too large for this machine's memory", remedy="crop it or use another machine"
        ) from error


def _is_dicom(path: Path, series: str | DicomSeries | None) -> bool:
    """Tell DICOM from other volumes.

    Raises:
        VolumeError: neither a folder nor a non-empty file of a known kind, or a series of what has none.
    """
    if path.is_dir():
        return True
    if not path.exists():
        if listing_of(path) is not None:
            return True
        if path.is_symlink():
            raise VolumeError(
                f"{path}: a link to {os.readlink(path)}, which is not there",
                remedy="fetch the file (of a DataLad data set: datalad get)",
            )
        raise VolumeError(f"{path}: no such file or folder", remedy="check the path")
    if is_dicom_file(path):
        return True
    if series is not None:
        raise VolumeError(
            f"{path}: no DICOM, it has no series", remedy="leave series out", options=("series",)
        )
    if volume_suffix(header_file(path)) is None:
        if path.name.lower().endswith((".img", ".img.gz")):
            raise VolumeError(f"{path}: its header (.hdr) does not lie beside it", remedy="copy it there")
        raise VolumeError(
            f"{path}: unknown kind of file",
            remedy=f"give {known_suffixes()}, or the folder of a DICOM series",
        )
    if path.stat().st_size == 0:
        raise VolumeError(f"{path}: the file is empty", remedy="copy it again")
    return False


def checked_grid(shape: tuple[int, ...], affine: npt.ArrayLike, name: str | Path) -> Grid:
    """Give the grid of ``(I, J, K)`` voxels if it is regular, orthogonal and thick enough.

    Raises:
        VolumeError: it is not; ``name`` is put in the sentence.
    """
    matrix = check_affine(affine, name=str(name))
    i, j, k = shape
    if min(i, j, k) < MINIMUM_SIZE:
        size = " x ".join(map(str, shape))
        raise VolumeError(
            f"{name}: {size} voxels",
            remedy=f"at least {MINIMUM_SIZE} along each axis are needed, give all slices of the scan",
        )
    if shear := _shear(matrix):
        raise VolumeError(
            f"{name}: the voxel axes are sheared by {shear:.3g} degrees",
            remedy="resample it onto an orthogonal grid first",
        )
    return Grid((i, j, k), matrix)


def _shear(affine: npt.NDArray[np.float64]) -> float:
    """Give the largest departure of two voxel axes from a right angle in degrees, 0.0 within the tolerance."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    return float(np.degrees(np.arcsin(min(cosine, 1.0)))) if cosine > SHEAR_TOLERANCE else 0.0


def checked_voxels(voxels: npt.NDArray[Any], name: str | Path) -> npt.NDArray[np.float32]:
    """Copy ``(I, J, K)`` voxels to ``(1, I, J, K)`` float32.

    Raises:
        VolumeError: infinite ones, or nothing but NaN.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        data: npt.NDArray[np.float32] = np.array(voxels, dtype=np.float32, order="C")[None]
    if voxels.dtype.kind != "f":
        return data
    bad = int(np.count_nonzero(np.isinf(data)))
    if bad:
        raise VolumeError(
            f"{name}: {bad} of {data.size} voxels are infinite or beyond float32",
            remedy="replace them with finite values, or with NaN where there is none",
        )
    if np.isnan(data).all():
        raise VolumeError(f"{name}: all voxels are NaN", remedy="give a scan with values")
    return data


# -- writing -------------------------------------------------------------------------------------------------


def _typed(voxels: npt.NDArray[np.float32], wanted: npt.DTypeLike | None, path: Path) -> npt.NDArray[Any]:
    try:
        dtype = np.dtype(np.float32 if wanted is None else wanted)
    except TypeError as error:
        raise OutputError(
            f"{path}: {wanted!r} is no voxel type", remedy="use float32 or an integer type"
        ) from error
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        return voxels.astype(dtype, copy=False)
    if dtype.kind not in "iu":
        raise OutputError(
            f"{path}: voxels of type {dtype} are not supported", remedy="use float32 or an integer type"
        )
    limits = np.iinfo(dtype)
    rounded = np.rint(voxels)
    for value in (float(rounded.min()), float(rounded.max())):
        if not limits.min <= value <= limits.max:  # also true of NaN
            raise OutputError(
                f"{path}: the voxel value {value:g} does not fit {dtype} ({limits.min} to {limits.max})",
                remedy="write float32",
            )
    return rounded.astype(dtype)


def _refuse_existing(finals: list[Path], overwrite: bool) -> None:
    for final in finals:
        if final.is_dir():
            raise OutputError(f"{final}: is a folder", remedy="give a file name")
        if final.exists() and not overwrite:
            raise OutputError(f"{final}: already exists", remedy="choose another name or allow overwriting")
