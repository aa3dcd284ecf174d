"""`srcyc infer` on scans as people have them: what is odd about a file is read right, contained, or said."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from factories import make_head
from srcyc.volumes.volume import Volume, read_volume, write_volume

AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])
#: A head of which every slice holds something, in whole numbers.
HEAD = make_head((24, 26, 16)).data[0, :, :, 4:12].copy()
Infer = Callable[..., tuple[np.ndarray, dict[str, Any]]]


def nifti(path: Path, data: np.ndarray = HEAD, dtype: Any = np.float32, **fields: Any) -> Path:
    """A file whose header fields are overwritten as they are."""
    image = nib.Nifti1Image(data.astype(dtype), AFFINE)
    image.header.set_qform(AFFINE, 1)
    image.header.set_sform(AFFINE, 1)
    raw, names = bytearray(image.to_bytes()), nib.nifti1.header_dtype.fields
    for key, value in fields.items():
        field = np.zeros((), names[key][0])
        field[...] = value
        raw[names[key][1] : names[key][1] + field.nbytes] = field.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(raw)) if path.name.endswith(".gz") else bytes(raw))
    return path


@pytest.fixture
def infer(srcyc, tiny_model, tmp_path) -> Infer:
    """Super-resolve one scan: voxels and sidecar of the result."""

    def run(path: Path, *options: object, name: str = "out.nii.gz") -> tuple[np.ndarray, dict[str, Any]]:
        out = tmp_path / "results" / path.name / name
        shutil.rmtree(out.parent, ignore_errors=True)
        ran = srcyc("infer", path, "-o", out, "--model", tiny_model, "--precision", "fp32", *options)
        assert ran.code == 0, ran.err
        return read_volume(out).data[0], json.loads((out.parent / "out.json").read_text())

    return run


@pytest.fixture
def clean(infer, tmp_path) -> np.ndarray:
    """What the head gives when nothing is wrong with it."""
    return infer(nifti(tmp_path / "clean.nii"))[0]


def test_an_offset_into_the_header_is_the_byte_behind_it(infer, clean, tmp_path):
    np.testing.assert_array_equal(infer(nifti(tmp_path / "scan.nii", vox_offset=0))[0], clean)


def test_absurd_voxels_stay_local_and_are_told(infer, clean, tmp_path):
    data = HEAD.copy()
    data[5, 6, 3] = data[15, 18, 5] = 1e6
    result, sidecar = infer(nifti(tmp_path / "scan.nii", data))
    assert any("2 of 4992 voxels" in warning for warning in sidecar["warnings"])
    away = np.ones(result.shape, bool)
    for i, j, k in ((5, 6, 3), (15, 18, 5)):
        away[i - 2 : i + 3, j - 2 : j + 3, 4 * (k - 2) : 4 * (k + 3)] = False
    assert np.abs(result - clean)[away].max() < 0.02 * np.ptp(clean)
    assert np.argwhere(result > 1e5)[:, :2].tolist() == [[5, 6]] * 4 + [[15, 18]] * 4


@pytest.mark.parametrize("value", [-32768, -1000, 65535])
def test_padding_is_put_back_and_disturbs_nothing(infer, clean, tmp_path, value):
    data = HEAD.copy()
    data[:6] = value
    result, sidecar = infer(nifti(tmp_path / "scan.nii", data, np.int32), "--keep-type")
    assert (result[:6] == value).all()
    assert np.abs(result - clean)[8:].max() < 0.03 * np.ptp(clean)
    assert any("padding" in warning for warning in sidecar["warnings"])


def test_nan_is_left_out_and_put_back(infer, clean, tmp_path):
    empty = HEAD < 200
    data = np.where(empty, np.nan, HEAD)
    maps = ("--uncertainty", "--correction-map", "--preview")
    result, sidecar = infer(nifti(tmp_path / "scan.nii.gz", data), *maps)
    where = np.repeat(empty, 4, axis=2)
    np.testing.assert_array_equal(np.isnan(result), where)
    assert np.abs(result - clean)[~where].mean() < 0.02 * np.ptp(clean)
    assert any("NaN" in warning for warning in sidecar["warnings"])
    spread = read_volume(tmp_path / "results" / "scan.nii.gz" / "out_uncertainty.nii.gz").data[0]
    np.testing.assert_array_equal(np.isnan(spread), where)


def test_a_blank_slice_is_contained_and_told(infer, clean, tmp_path):
    data = HEAD.copy()
    data[..., 4] = 0
    result, sidecar = infer(nifti(tmp_path / "scan.nii", data))
    assert any("slice 5 of 8 is blank" in warning for warning in sidecar["warnings"])
    error = np.abs(result - clean).mean(axis=(0, 1)) / np.ptp(clean)
    assert error[:8].max() < 0.01 and error[-8:].max() < 0.01
    assert error.max() < 0.2


@pytest.mark.parametrize("option", ["--n4", "--denoise"])
def test_preparation_does_not_depend_on_unit_and_offset(infer, tmp_path, option):
    head = make_head((60, 64, 16)).data[0, :, :, 4:12] * np.linspace(0.6, 1.4, 60)[:, None, None]
    reference, sidecar = infer(nifti(tmp_path / "a.nii", head), option)
    assert len(sidecar["preprocessing"]) == 1
    shifted, _ = infer(nifti(tmp_path / "b.nii", head - 350), option)
    scaled, _ = infer(nifti(tmp_path / "c.nii", 1e-6 * head), option)
    plain, _ = infer(nifti(tmp_path / "a.nii", head))
    effect = np.abs(plain - reference)
    assert effect.max() > 5
    # N4 fits step by step, so rounding grows.
    for other in (shifted + 350, 1e6 * scaled):
        assert np.abs(other - reference).mean() < 0.02 * effect.mean()


def test_nothing_is_reported_that_was_not_done(infer, tmp_path):
    _, sidecar = infer(nifti(tmp_path / "flat.nii", np.full_like(HEAD, 7)), "--n4", "--denoise")
    assert sidecar["preprocessing"] == []
    assert [text for text in sidecar["warnings"] if "changed nothing" in text] == [
        "N4 bias field correction changed nothing.",
        "curvature flow denoising changed nothing.",
    ]


def test_the_thickness_of_a_sidecar_is_used(infer, tmp_path):
    (tmp_path / "scan.json").write_text(json.dumps({"SliceThickness": 3}))
    _, sidecar = infer(nifti(tmp_path / "scan.nii.gz"))
    assert sidecar["thickness"] == {"millimetres": 3.0, "ratio": 0.75, "source": "read"}


@pytest.mark.parametrize("thickness", [12, 6, 40])
def test_an_overlap_in_a_header_is_not_undone(infer, tmp_path, thickness):
    (tmp_path / "scan.json").write_text(json.dumps({"SliceThickness": thickness}))
    result, sidecar = infer(nifti(tmp_path / "scan.nii.gz"))
    assert sidecar["thickness"]["ratio"] == 1.0
    assert any("overlap" in warning for warning in sidecar["warnings"])
    assert np.ptp(result) < 1.5 * np.ptp(HEAD)


def test_a_scan_without_orientation_gives_a_result_without(infer, tmp_path):
    scan = nifti(tmp_path / "scan.nii", qform_code=0, sform_code=0)
    result, sidecar = infer(scan)
    assert any("orientation" in warning for warning in sidecar["warnings"])
    out = tmp_path / "results" / "scan.nii" / "out.nii.gz"
    header = nib.load(out).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
    # Whatever place a reader makes up, the first and the last slice lie where the scan's do.
    ends = np.array([[0, 0, 0], [n - 1 for n in nib.load(scan).shape]])
    far = np.array([[0, 0, 0], [n - 1 for n in nib.load(out).shape]])
    nib_ends = [
        nib.affines.apply_affine(nib.load(file).affine, corner) for file, corner in ((scan, ends), (out, far))
    ]
    np.testing.assert_allclose(*nib_ends, atol=1e-3)
    images = sitk.ReadImage(str(scan)), sitk.ReadImage(str(out))
    itk_ends = [
        [image.TransformIndexToPhysicalPoint(corner.tolist()) for corner in corners]
        for image, corners in zip(images, (ends, far), strict=True)
    ]
    np.testing.assert_allclose(*itk_ends, atol=1e-3)
    # And so does the anatomy.
    profile = np.corrcoef(result[..., :: (result.shape[2] - 1) // (HEAD.shape[2] - 1)].ravel(), HEAD.ravel())
    assert profile[0, 1] > 0.98


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_scaled_integers_are_kept(infer, tmp_path, name):
    scan = nifti(tmp_path / "scan.nii", HEAD, np.int16, scl_slope=2, scl_inter=1)
    result, sidecar = infer(scan, "--keep-type", name=name)
    out = nib.load(tmp_path / "results" / "scan.nii" / name)
    assert out.header.get_data_dtype() == np.int16
    assert sidecar["output_type"] == "int16"
    assert result.mean() == pytest.approx(2 * HEAD.mean() + 1, rel=0.01)


def test_a_format_without_scaling_says_so(infer, tmp_path):
    scan = nifti(tmp_path / "scan.nii", HEAD, np.int16, scl_slope=2, scl_inter=1)
    _, sidecar = infer(scan, "--keep-type", name="out.nrrd")
    assert sidecar["output_type"] == "float32"
    assert any("int16" in warning and "NIfTI" in warning for warning in sidecar["warnings"])


# -- folders -------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path) -> Path:
    """A folder as people have it."""
    folder = tmp_path / "in"
    nifti(folder / "a.nii", dtype=np.int16)
    nifti(folder / "sub-01" / "anat" / "sub-01_T2w.nii.gz", dtype=np.int16)
    nifti(folder / "sub-01" / "anat" / "sub-01_mask.nii.gz", HEAD > 300, np.uint8)
    nib.save(nib.Nifti1Pair(HEAD.astype(np.int16), AFFINE), folder / "c.img")
    nib.save(nib.MGHImage(HEAD.astype(np.float32), AFFINE), folder / "d.mgz")
    (folder / "notes.txt").write_text("hello")
    return folder


def test_a_tree_is_done_to_the_bottom_and_kept(srcyc, tiny_model, tree, tmp_path):
    out = tmp_path / "out"
    ran = srcyc("infer", tree, "-o", out, "--model", tiny_model, "--json")
    assert ran.code == 0, ran.err
    written = {result["output"] for result in ran.json["results"] if result["status"] == "written"}
    assert {Path(path).relative_to(out).as_posix() for path in written} == {
        *("a_sr.nii.gz", "c_sr.nii.gz", "d_sr.nii.gz", "sub-01/anat/sub-01_T2w_sr.nii.gz")
    }
    left_out = {Path(file).name: one["reason"] for one in ran.json["left_out"] for file in one["files"]}
    assert set(left_out) == {"sub-01_mask.nii.gz", "notes.txt"}
    assert "label map" in left_out["sub-01_mask.nii.gz"]


def test_the_summary_names_what_is_left_out(srcyc, tiny_model, tree, tmp_path):
    ran = srcyc("infer", tree, "-o", tmp_path / "out", "--model", tiny_model)
    assert "4 written, 0 skipped, 0 refused, 0 failed, 2 left out" in ran.out
    for name, reason in (("sub-01_mask.nii.gz", "label map"), ("notes.txt", "no volume")):
        (line,) = [line for line in ran.out.splitlines() if line.startswith("left out") and name in line]
        assert reason in line
    for number in range(24):
        (tree / f"note {number}.txt").write_text("hello")
    again = srcyc("infer", tree, "-o", tmp_path / "out", "--model", tiny_model)
    assert "left out 5 more (--json names them): no volume" in again.out


def test_results_below_the_input_are_not_taken_again(srcyc, tiny_model, tree):
    assert srcyc("infer", tree, "-o", tree / "out", "--model", tiny_model).code == 0
    before = sorted(tree.rglob("*"))
    ran = srcyc("infer", tree, "-o", tree / "out", "--model", tiny_model)
    assert ran.code == 0
    assert "0 written, 4 skipped" in ran.out
    assert sorted(tree.rglob("*")) == before


def test_a_folder_of_label_maps_holds_no_scan(srcyc, tiny_model, tmp_path):
    nifti(tmp_path / "in" / "x" / "a_dseg.nii.gz", HEAD > 300, np.uint8)
    ran = srcyc("infer", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny_model)
    assert ran.code == 2
    assert "no scan in this folder" in ran.err
    assert not (tmp_path / "out").exists()


def test_two_scans_of_one_stem_are_both_done(srcyc, tiny_model, tmp_path):
    nifti(tmp_path / "in" / "T1.nii")
    nifti(tmp_path / "in" / "T1.nii.gz")
    assert srcyc("infer", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny_model).code == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        *("T1_nii_gz_sr.nii.gz", "T1_nii_sr.nii.gz")
    ]


# -- labels --------------------------------------------------------------------------------------------------


def test_a_label_map_is_refused_as_a_scan_unless_forced(srcyc, tiny_model, tmp_path):
    mask = nifti(tmp_path / "mask.nii", HEAD > 300, np.uint8)
    arguments = ("infer", mask, "-o", tmp_path / "out.nii", "--model", tiny_model)
    ran = srcyc(*arguments)
    assert ran.code == 2
    assert "label map" in ran.sentence and "--labels" in ran.sentence
    assert srcyc(*arguments, "--force").code == 0


def test_label_maps_are_no_training_data(srcyc, tmp_path):
    nifti(tmp_path / "sub-01_T1w.nii")
    nifti(tmp_path / "sub-01_mask.nii", HEAD > 300, np.uint8)
    ran = srcyc("domains", tmp_path, "--json")
    domains = {Path(scan["path"]).name: (scan["domain"], scan["reason"]) for scan in ran.json}
    assert domains["sub-01_T1w.nii"][0] == "LR"
    assert domains["sub-01_mask.nii"][0] == "neither"
    assert "label map" in domains["sub-01_mask.nii"][1]


@pytest.mark.parametrize("name", ["thin.nii.gz", "thin.nrrd", "thin.mgz"])
def test_labels_come_to_the_results_grid(srcyc, tiny_model, tmp_path, name):
    scan = nifti(tmp_path / "scan.nii", dtype=np.int16)
    tissues = (HEAD > 300).astype(np.uint8) + 40 * (HEAD > 700)
    labels = nifti(tmp_path / "labels.nii", tissues, np.uint8)
    out = tmp_path / "out" / name
    ran = srcyc("infer", scan, "--labels", labels, "-o", out, "--model", tiny_model, "--json")
    assert ran.code == 0, ran.err
    (result,) = ran.json["results"]
    here = read_volume(result["labels"])
    thin = read_volume(out)
    assert Path(result["labels"]).name == name.replace("thin", "thin_labels")
    np.testing.assert_allclose(here.affine, thin.affine, atol=1e-5)
    assert here.shape == thin.shape == (24, 26, 32)
    assert set(np.unique(here.data)) == set(np.unique(tissues))
    assert here.stored_dtype == np.uint8
    # Each slice's own labels stand in its middle.
    assert (here.data[0, :, :, 1::4] == tissues).mean() > 0.97
    # They are a result, not a scan.
    again = srcyc("infer", out.parent, "-o", tmp_path / "again", "--model", tiny_model)
    assert "only volumes that srcyc made" in again.sentence


def test_labels_are_of_one_scan(srcyc, tiny_model, tmp_path):
    scans = [nifti(tmp_path / name, dtype=np.int16) for name in ("a.nii", "b.nii")]
    labels = nifti(tmp_path / "labels.nii", HEAD > 300, np.uint8)
    ran = srcyc("infer", *scans, "--labels", labels, "-o", tmp_path / "out", "--model", tiny_model)
    assert ran.code == 2 and "one label map for 2 scans" in ran.sentence


@pytest.mark.parametrize("wrong", ["the scan", "elsewhere", "missing", "a scan"])
def test_labels_that_are_none_are_refused(srcyc, tiny_model, tmp_path, wrong):
    scan = nifti(tmp_path / "scan.nii", dtype=np.int16)
    labels = tmp_path / "labels.nii"
    if wrong == "the scan":
        labels = scan
    elif wrong == "elsewhere":
        far = replace(read_volume(scan), data=(HEAD[None] > 300).astype(np.float32), orientation=None)
        affine = far.affine.copy()
        affine[:3, 3] += 900
        write_volume(Volume(far.data, affine), labels, dtype=np.uint8)
    elif wrong == "a scan":
        nifti(labels, HEAD[::-1], np.int16)
    ran = srcyc("infer", scan, "--labels", labels, "-o", tmp_path / "out.nii", "--model", tiny_model)
    assert ran.code == 2
    assert labels.name in ran.err
    assert not (tmp_path / "out.nii").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_utf8(srcyc, tiny_model, tmp_path):
    """Of a disk of the nineties: results have the name too, and the sidecar tells it so that it can be found again."""
    path = tmp_path / os.fsdecode(b"sc\xe4n.nii")
    nifti(tmp_path / "scan.nii").rename(path)
    ran = srcyc("infer", path, "-o", tmp_path / "out", "--model", tiny_model, "--preview", "--json")
    assert ran.code == 0, ran.err
    made = {file.suffix: file for file in (tmp_path / "out").iterdir()}
    assert len(made) == 3
    sidecar = json.loads(made[".json"].read_bytes())
    assert (sidecar["input"]["name"], sidecar["output"][:3]) == (path.name, path.name[:3])
    assert ran.json["results"][0]["input"] == str(path)
