"""Scans ready for training: read and normalised once, kept on disk, and from there on memory-mapped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srcyc.documents import read_json, write_json
from srcyc.errors import DataError, OutputError, VolumeError
from srcyc.files import written
from srcyc.physics.slice_profile import estimate_profile
from srcyc.physics.thickness import slice_thickness
from srcyc.volumes.dicom import is_series_address
from srcyc.volumes.geometry import Grid
from srcyc.volumes.image_files import parts_of
from srcyc.volumes.labels import require_scan
from srcyc.volumes.missing import Missing
from srcyc.volumes.volume import read_volume
from srcyc.volumes.working import prepare

Array = npt.NDArray[np.float32]

#: Part of every entry's key: raised when what an entry holds, or how a scan is prepared, changes.
_FORMAT = 4
#: An axis with voxels so much larger than the finest is coarser, and slightly blurred.
_AS_FINE = 1.05
#: Voxels written at a time.
_BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class TrainingScan:
    """A scan ready for drawing patches.

    Pickling a scan of a :class:`ScanStore` passes on where its voxels lie, not the voxels, so that worker processes
    share one copy.

    Attributes:
        name: file name.
        image: ``(I, J, K)`` normalised intensity, thick axis last, axes towards R, A, S.
        grid: of ``image`` in the world.
        thickness_ratio: slice thickness over slice spacing: as the file says, else estimated from the scan (see
            :mod:`srcyc.physics.slice_profile`), else what is assumed.
    """

    name: str
    image: Array
    grid: Grid
    thickness_ratio: float
    _file: Path | None = field(default=None, init=False, repr=False)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of the voxels, mm per axis of ``image``."""
        return self.grid.spacing

    @property
    def factor(self) -> float:
        """Thick spacing over in-plane spacing."""
        return self.spacing[2] / min(self.spacing)

    @property
    def thin_axes(self) -> tuple[int, ...]:
        """Axes along which the scan is as fine as it gets: only they show what thick slices took away."""
        spacing = self.spacing
        return tuple(axis for axis in range(3) if spacing[axis] <= _AS_FINE * min(spacing))

    @classmethod
    def mapped(cls, name: str, file: Path, grid: Grid, thickness_ratio: float) -> TrainingScan:
        """Give a scan whose image is memory-mapped from a ``.npy`` file.

        Raises:
            OSError, ValueError: the file is not a float32 array of the grid's shape.
        """
        scan = cls(name, _map(file, grid.shape), grid, thickness_ratio)
        # Not an argument of __init__: a copy with another image (dataclasses.replace) must not refer to this file.
        object.__setattr__(scan, "_file", file)
        return scan

    def __getstate__(self) -> dict[str, Any]:
        """Leave mapped voxels where they are."""
        return {**self.__dict__, "image": self.image if self._file is None else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map them again.

        Raises:
            DataError: the file of a mapped scan is gone or another one.
        """
        if state["image"] is None:
            try:
                state["image"] = _map(state["_file"], state["grid"].shape)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{state['_file']}: the prepared copy of {state['name']} is gone", remedy="start again"
                ) from error
        self.__dict__.update(state)


class ScanStore:
    """Prepared scans in a folder: hundreds of volumes are trained on without holding them in memory.

    An entry is a pair of files, ``KEY.npy`` with the normalised voxels and ``KEY.json`` with the rest. The key covers
    the scan's path, size and time of modification, so a scan that changed is read again. Processes may share a
    folder: each writes complete files, and those of one key are equal.

    Args:
        folder: made when the first scan is put into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, path: Path) -> TrainingScan:
        """Give a scan, reading and normalising it the first time; a damaged entry is made again.

        Args:
            path: volume file or DICOM series directory.

        Raises:
            VolumeError: the scan cannot be read, is a label map, or has lost slices.
            OutputError: the folder cannot be written, or the disk is full.
        """
        key = _key(path)
        scan = self._load(path, key)
        if scan is None:
            self._put(path, key)
            scan = self._load(path, key)
        if scan is None:
            raise OutputError(
                f"{self.folder}: what was written cannot be read again", remedy="choose another folder"
            )
        return scan

    def _load(self, path: Path, key: str) -> TrainingScan | None:
        try:
            entry = read_json(self.folder / f"{key}.json")
            i, j, k = (int(n) for n in entry["shape"])
            grid = Grid((i, j, k), np.array(entry["affine"], dtype=np.float64).reshape(4, 4))
            ratio = float(entry["ratio"])
            return TrainingScan.mapped(path.name, self.folder / f"{key}.npy", grid, ratio)
        except (OSError, ValueError, LookupError, TypeError):
            # Missing, or cut off by whatever happened to the disk.
            return None

    def _put(self, path: Path, key: str) -> None:
        volume = read_volume(path)
        require_scan(volume)
        missing = Missing.of(volume)
        missing.require_whole(path)
        scan = prepare(missing.filled(volume), missing)
        image, grid = scan.image, scan.grid
        with written(self.folder / f"{key}.npy") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": grid.shape}
            np.lib.format.write_array_header_1_0(stream, header)
            rows = max(1, _BLOCK // (image.shape[1] * image.shape[2]))
            for start in range(0, len(image), rows):
                stream.write(np.ascontiguousarray(image[start : start + rows], dtype="<f4").data)
        spacing = scan.grid.spacing
        thickness, _ = slice_thickness(
            None, volume.slice_thickness, spacing[2], lambda: estimate_profile(scan.image, spacing)
        )
        entry = {
            "shape": grid.shape,
            "affine": grid.affine.tolist(),
            "ratio": thickness.ratio,
            "scan": str(path),
        }
        # Written last: where it stands, the voxels are complete.
        write_json(self.folder / f"{key}.json", entry)


def _map(file: Path, shape: tuple[int, int, int]) -> Array:
    # Copy on write: PyTorch takes no read-only arrays, and nothing can get back into the file.
    image = np.load(file, mmap_mode="c", allow_pickle=False)
    if image.shape != shape or image.dtype != np.dtype("<f4"):
        raise ValueError(f"{file}: not a float32 array of {shape}")
    return np.asarray(image)


def _key(path: Path) -> str:
    """Name a scan in its present state.

    Raises:
        VolumeError: it does not exist, or cannot be listed.
    """
    try:
        state = [str(path.resolve()), str(_FORMAT)]
        for file in _files_of(path):
            status = file.stat()
            state += [file.name, str(status.st_size), str(status.st_mtime_ns)]
    except OSError as error:
        read_volume(path)  # has a sentence for what is missing
        raise VolumeError(
            f"{path}: cannot be read ({error.strerror or error})", remedy="check the path and its permissions"
        ) from error
    return hashlib.sha256("\0".join(state).encode()).hexdigest()[:32]


def _files_of(path: Path) -> list[Path]:
    """List the files that a scan is stored in."""
    if path.is_dir() or is_series_address(path):
        # DICOM: a series may go on in subfolders, and one of several is named as if it were a file of their folder.
        folder = path if path.is_dir() else path.parent
        return sorted(file for file in folder.rglob("*") if file.is_file())
    return list(parts_of(path) or (path,))
