"""A file that lost its sidecar still says how it was made: read here by other libraries than those that wrote it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from srcyc.volumes.formats.raw import Origin
from srcyc.volumes.volume import Volume, read_volume, write_volume

ORIGIN = Origin(
    "srcyc 9 some-model 0123456789ab not for diagnostic use",
    {"model": "some-model\nsrcyc_evil = 1", "model_sha256": "ab" * 32, "note": "für nichts"},
)
MODEL = "some-model srcyc_evil = 1"


@pytest.fixture
def volume() -> Volume:
    data = np.random.default_rng(0).normal(size=(1, 5, 6, 7)).astype(np.float32)
    return Volume(data, np.array([[0, 0, 2.0, 3], [1, 0, 0, -4], [0, 1.5, 0, 5], [0, 0, 0, 1]]))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mgz", ".mgh"])
def test_voxels_and_place_are_as_without_it(tmp_path: Path, volume: Volume, suffix: str) -> None:
    path = write_volume(volume, tmp_path / f"a{suffix}", origin=ORIGIN)
    plain = read_volume(write_volume(volume, tmp_path / f"b{suffix}"))
    for found in (read_volume(path), plain):
        np.testing.assert_array_equal(found.data, volume.data)
        np.testing.assert_allclose(found.affine, plain.affine, atol=0)
        assert found.labels is None and not found.warnings
    if "mg" not in suffix:  # ITK does not read FreeSurfer's
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, volume.data[0])
    if suffix not in (".nrrd", ".mha", ".mhd"):
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), volume.data[0])


def test_nifti(tmp_path: Path, volume: Volume) -> None:
    image = nib.load(write_volume(volume, tmp_path / "a.nii.gz", origin=ORIGIN))
    assert image.header["descrip"].item().decode() == ORIGIN.line
    (extension,) = image.header.extensions
    assert extension.get_code() == 6
    fields = json.loads(extension.get_content())
    assert (fields["model"], fields["model_sha256"]) == (MODEL, "ab" * 32)
    assert int(image.header["vox_offset"]) % 16 == 0


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_nrrd_and_meta_image(tmp_path: Path, volume: Volume, suffix: str) -> None:
    path = write_volume(volume, tmp_path / f"a{suffix}", origin=ORIGIN)
    text = path.read_bytes().decode("latin-1")
    equals = ":=" if suffix == ".nrrd" else " = "
    lines = text.splitlines()
    assert f"Comment{equals}{ORIGIN.line}" in lines
    assert f"srcyc_model{equals}{MODEL}" in lines  # one line, whatever the model is called
    image = sitk.ReadImage(str(path))
    assert image.GetMetaData("srcyc_model_sha256") == "ab" * 32


def test_freesurfer_keeps_it_as_the_command_that_made_the_volume(tmp_path: Path, volume: Volume) -> None:
    raw = gzip.decompress(write_volume(volume, tmp_path / "a.mgz", origin=ORIGIN).read_bytes())
    tag = raw[
        284 + 4 * volume.data.size + 20 :
    ]  # behind the header, the voxels and five parameters of the scan
    assert int.from_bytes(tag[:4], "big") == 3
    assert int.from_bytes(tag[4:12], "big") == len(tag) - 12
    assert tag[12:].decode().startswith(ORIGIN.line) and tag[-1] == 0
