"""Everything a user may hand over by mistake: one sentence, exit code 2, nothing written, nothing overwritten."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from srcyc.volumes.volume import Volume, write_volume

THICK = np.diag([1.0, 1.0, 4.0, 1.0])
RNG = np.random.default_rng(0)


def _nifti(path: Path, data: np.ndarray, affine: np.ndarray = THICK) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def _head() -> np.ndarray:
    return RNG.uniform(0, 100, (12, 14, 6)).astype(np.float32)


def _bytes(name: str, content: bytes):
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _truncated(name: str):
    def make(folder: Path) -> Path:
        whole = write_volume(Volume(_head()[None], THICK), folder / f"whole-{name}")
        cut = folder / name
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        whole.unlink()
        return cut

    return make


def _with_value(value: float):
    def make(folder: Path) -> Path:
        data = _head()
        data[3, 4, 2] = value
        return _nifti(folder / "odd.nii.gz", data)

    return make


def _array(data: np.ndarray):
    return lambda folder: _nifti(folder / "odd.nii.gz", data)


def _rgb(folder: Path) -> Path:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return _nifti(folder / "odd.nii.gz", np.zeros((12, 14, 6), kind))


def _rgb_nrrd(folder: Path) -> Path:
    image = sitk.GetImageFromArray(np.zeros((6, 14, 12, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(folder / "odd.nrrd"))
    return folder / "odd.nrrd"


def _flat_png(folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8), np.uint8)), str(folder / "odd.png"))
    return folder / "odd.png"


def _affine(columns: list[list[float]]):
    def make(folder: Path) -> Path:
        affine = np.eye(4)
        affine[:3, :3] = columns
        image = nib.Nifti1Image(_head(), np.eye(4))
        image.header.set_sform(affine, code=1)
        image.header.set_qform(None, code=0)
        path = folder / "odd.nii"
        # Written by hand: nibabel would repair the header.
        path.write_bytes(image.header.binaryblock + b"\0" * 4 + np.asfortranarray(_head()).tobytes(order="F"))
        return path

    return make


def _dicom_without_slices(folder: Path) -> Path:
    (folder / "odd").mkdir()
    (folder / "odd" / "readme.txt").write_text("no images here")
    return folder / "odd"


BAD = {
    "empty": _bytes("odd.nii.gz", b""),
    "empty, uncompressed": _bytes("odd.nii", b""),
    "empty nrrd": _bytes("odd.nrrd", b""),
    "text": _bytes("odd.nii", b"this is not an image\n" * 40),
    "text in gzip": _bytes("odd.nii.gz", gzip.compress(b"this is not an image\n" * 40)),
    "text named nrrd": _bytes("odd.nrrd", b"this is not an image\n" * 40),
    "text named mha": _bytes("odd.mha", b"this is not an image\n" * 40),
    "jpeg": _bytes("odd.jpg", b"\xff\xd8\xff\xe0" + b"\0" * 100),
    "truncated nii": _truncated("odd.nii"),
    "truncated nii.gz": _truncated("odd.nii.gz"),
    "truncated nrrd": _truncated("odd.nrrd"),
    "truncated mha": _truncated("odd.mha"),
    "missing": lambda folder: folder / "odd.nii.gz",
    "missing folder": lambda folder: folder / "odd",
    "folder without images": _dicom_without_slices,
    "nothing but NaN": _array(np.full((12, 14, 6), np.nan, np.float32)),
    "infinite": _with_value(np.inf),
    "4D": _array(np.zeros((8, 8, 6, 3), np.float32)),
    "RGB": _rgb,
    "RGB nrrd": _rgb_nrrd,
    "2D": _array(np.zeros((16, 16), np.float32)),
    "2D png": _flat_png,
    "one voxel thin": _array(np.zeros((16, 16, 1), np.float32)),
    "one voxel wide": _array(np.zeros((1, 16, 16), np.float32)),
    "singular affine": _affine([[1, 1, 0], [0, 0, 0], [0, 0, 4]]),
    "zero affine": _affine([[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "NaN affine": _affine([[np.nan, 0, 0], [0, 1, 0], [0, 0, 4]]),
    "already isotropic": lambda folder: _nifti(folder / "odd.nii.gz", _head(), np.eye(4)),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_bad_volumes_are_refused(srcyc, tiny_model, tmp_path, make):
    bad = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ran = srcyc("infer", bad, "-o", tmp_path / "out" / "thin.nii.gz", "--model", tiny_model)
    assert ran.code == 2
    assert bad.name in ran.sentence
    assert ";" in ran.sentence, "no remedy is named"
    assert sorted(tmp_path.rglob("*")) == before


def _pickle(path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(3)}, path)


def _foreign(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, path)


MODELS = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "pickle": _pickle,
    "foreign safetensors": _foreign,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_unusable_models_are_refused(srcyc, thick_file, tmp_path, make):
    model = tmp_path / "model.safetensors"
    make(model)
    before = sorted(tmp_path.rglob("*"))
    ran = srcyc("infer", thick_file, "-o", tmp_path / "out", "--model", model)
    assert ran.code == 2
    assert "model.safetensors" in ran.sentence
    assert ";" in ran.sentence
    assert sorted(tmp_path.rglob("*")) == before


def test_a_truncated_model_is_refused(srcyc, thick_file, tiny_model, tmp_path):
    model = tmp_path / "cut.safetensors"
    model.write_bytes(tiny_model.read_bytes()[:-50])
    ran = srcyc("infer", thick_file, "-o", tmp_path / "out", "--model", model)
    assert ran.code == 2
    assert "cut.safetensors" in ran.sentence


def test_an_unknown_model_name_is_refused(srcyc, thick_file, tmp_path):
    ran = srcyc("infer", thick_file, "-o", tmp_path / "out", "--model", "no-such-model")
    assert ran.code == 2
    assert "no-such-model" in ran.sentence


def test_an_unusable_model_is_told_once_for_many_scans(srcyc, thick_file, tmp_path):
    other = shutil.copy(thick_file, tmp_path / "other.nii.gz")
    ran = srcyc("infer", thick_file, other, "-o", tmp_path / "out", "--model", "no-such-model")
    assert ran.code == 2
    assert "no-such-model" in ran.sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["file/out", "file/out/thin.nii.gz"])
def test_an_output_place_below_a_file_is_refused(srcyc, thick_file, tiny_model, tmp_path, name):
    (tmp_path / "file").write_text("keep me")
    ran = srcyc("infer", thick_file, "-o", tmp_path / name, "--model", tiny_model)
    assert ran.code == 2
    assert "file" in ran.sentence
    assert "choose another" in ran.sentence
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where not even root can write")
def test_an_output_folder_that_cannot_be_written_is_refused(srcyc, thick_file, tiny_model):
    ran = srcyc("infer", thick_file, "-o", "/proc/self/srcyc-out", "--model", tiny_model)
    assert ran.code == 2
    assert "/proc/self/srcyc-out" in ran.sentence


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_the_input_is_never_overwritten(srcyc, thick_file, tiny_model, tmp_path, overwrite):
    before = thick_file.read_bytes()
    ran = srcyc("infer", thick_file, "-o", thick_file, "--model", tiny_model, *overwrite)
    assert ran.code == 2
    assert "input itself" in ran.sentence
    assert thick_file.read_bytes() == before


def test_a_foreign_sidecar_is_never_overwritten(srcyc, thick_file, tiny_model, tmp_path):
    (tmp_path / "thin.json").write_text('{"EchoTime": 0.1}')
    ran = srcyc("infer", thick_file, "-o", tmp_path / "thin.nii.gz", "--model", tiny_model)
    assert ran.code == 2
    assert "thin.json" in ran.sentence
    assert (tmp_path / "thin.json").read_text() == '{"EchoTime": 0.1}'
    assert not (tmp_path / "thin.nii.gz").exists()


def test_a_spacing_that_is_coarser_has_nothing_to_do(srcyc, thick_file, tiny_model, tmp_path):
    ran = srcyc("infer", thick_file, "-o", tmp_path / "out", "--model", tiny_model, "--target-spacing", "5")
    assert ran.code == 2
    assert "nothing to do" in ran.sentence
    assert not (tmp_path / "out").exists()


def test_an_output_of_an_unknown_kind_is_refused(srcyc, thick_file, tiny_model, tmp_path):
    ran = srcyc("infer", thick_file, "-o", tmp_path / "thin.jpg", "--model", tiny_model)
    assert ran.code == 2
    assert "thin.jpg" in ran.sentence


def test_one_file_for_two_scans_is_refused(srcyc, thick_file, tiny_model, tmp_path):
    other = shutil.copy(thick_file, tmp_path / "other.nii.gz")
    ran = srcyc("infer", thick_file, other, "-o", tmp_path / "thin.nii.gz", "--model", tiny_model)
    assert ran.code == 2
    assert "give a folder" in ran.sentence


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    srcyc, thick_file, tiny_model, tmp_path, file_size_limit, suffix, overwrite
):
    out = tmp_path / "out"
    out.mkdir()
    thin = out / f"thin{suffix}"
    if overwrite:
        thin.write_text("old")
    with file_size_limit(30_000):  # the sidecar fits, the volume does not
        ran = srcyc("infer", thick_file, "-o", thin, "--model", tiny_model, "--overwrite")
    assert ran.code == 2
    assert "thin" in ran.sentence
    assert "free some space" in ran.sentence
    assert [path.name for path in out.iterdir()] == ([thin.name] if overwrite else [])
    if overwrite:
        assert thin.read_text() == "old"
