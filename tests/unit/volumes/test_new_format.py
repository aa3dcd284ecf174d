"""A format is one entry of the table: this file adds one, NumPy's archives, and all that reads and writes knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factories import make_head
from srcyc.errors import OutputError, VolumeError
from srcyc.volumes import image_files
from srcyc.volumes.formats.raw import Header, RawVolume
from srcyc.volumes.volume import find_volumes, is_volume_path, read_grid, read_volume, write_volume


def header(path: Path) -> Header:
    with np.load(path) as archive:
        return Header(tuple(archive["voxels"].shape), archive["affine"])


def voxels(path: Path) -> RawVolume:
    with np.load(path) as archive:
        return RawVolume(header(path), archive["voxels"], archive["voxels"].dtype)


def write(voxels: np.ndarray, affine: np.ndarray, path: Path, **more: Any) -> None:
    with path.open("wb") as stream:
        np.savez(stream, voxels=voxels, affine=affine)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = image_files.Format((".npz",), header, voxels, write, types=("int16", "float32"))
    monkeypatch.setattr(image_files, "FORMATS", (*image_files.FORMATS, entry))


def test_without_its_entry_nobody_knows_it(tmp_path: Path) -> None:
    assert not is_volume_path(tmp_path / "scan.npz")
    with pytest.raises(OutputError, match=r"unknown kind of file"):
        write_volume(make_head((6, 7, 5)), tmp_path / "scan.npz")


@pytest.mark.usefixtures("added")
def test_its_entry_makes_it_known_everywhere(tmp_path: Path) -> None:
    scan = make_head((6, 7, 5), peak=100)
    path = write_volume(scan, tmp_path / "scan.npz", dtype=np.int16)
    assert [found.name for found in find_volumes(tmp_path)] == ["scan.npz"]
    again, grid = read_volume(path), read_grid(path)
    np.testing.assert_array_equal(again.data, scan.data)
    np.testing.assert_array_equal(grid.affine, scan.affine)
    assert (again.shape, grid.shape, again.stored_dtype) == (scan.shape, scan.shape, np.int16)
    # What its entry says that it cannot hold is refused, and sentences name it.
    with pytest.raises(OutputError, match="no voxels of type uint8"):
        write_volume(scan, tmp_path / "other.npz", dtype=np.uint8)
    (tmp_path / "scan.xyz").write_bytes(b"?")
    with pytest.raises(VolumeError, match=r"\.npz"):
        read_volume(tmp_path / "scan.xyz")
