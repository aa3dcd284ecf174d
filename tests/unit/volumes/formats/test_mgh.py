"""FreeSurfer's volumes, against nibabel."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from factories import make_affine, rotation
from srcyc.errors import VolumeError
from srcyc.volumes.volume import read_grid, read_volume, write_volume

SHAPE = (6, 5, 4)
AFFINE = make_affine(rotation(0.3, -0.2, 0.4), (0.9, 1.0, 5.0), (-11.0, 7.0, -3.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_read_as_nibabel_does(tmp_path: Path, dtype: type, suffix: str) -> None:
    data = np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)
    path = tmp_path / f"scan{suffix}"
    nib.save(nib.MGHImage(data, AFFINE), path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data[0], data)
    np.testing.assert_allclose(volume.affine, nib.load(path).affine, atol=1e-6)
    np.testing.assert_allclose(read_grid(path).affine, volume.affine)
    assert volume.stored_dtype == dtype and volume.stored_dtype.isnative
    back = nib.load(write_volume(volume, tmp_path / f"copy{suffix}", dtype=dtype))
    np.testing.assert_array_equal(np.asarray(back.dataobj), data)
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-5)


def test_a_place_that_is_not_told_is_taken_as_freesurfer_does_and_told(tmp_path: Path) -> None:
    raw = bytearray(nib.MGHImage(np.zeros(SHAPE, np.float32), AFFINE).to_bytes())
    raw[28:30] = bytes(2)  # goodRASFlag
    path = tmp_path / "scan.mgh"
    path.write_bytes(raw)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, nib.load(path).affine)
    (warning,) = volume.warnings
    assert "orientation" in warning


@pytest.mark.parametrize(
    "raw",
    [b"", b"text" * 200, bytes(400), nib.MGHImage(np.zeros(SHAPE, np.int16), AFFINE).to_bytes()[:-5000]],
)
def test_damaged_files_are_refused(tmp_path: Path, raw: bytes) -> None:
    for name, content in (("scan.mgh", raw), ("scan.mgz", gzip.compress(raw))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VolumeError, match="scan"):
            read_volume(tmp_path / name)


def test_several_frames_are_refused(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(np.zeros((*SHAPE, 3), np.float32), AFFINE), tmp_path / "scan.mgz")
    with pytest.raises(VolumeError, match="several volumes"):
        read_grid(tmp_path / "scan.mgz")
