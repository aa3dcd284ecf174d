from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from srcyc.volume import Volume, write_volume


@pytest.fixture
def fine_file(phantom, tmp_path):
    affine = np.array([[0.0, 0.0, 1.0, 3.0], [-1.0, 0.0, 0.0, 40.0], [0.0, -1.0, 0.0, 9.0], [0, 0, 0, 1]])
    return write_volume(Volume(phantom((26, 36, 24)), affine), tmp_path / "head.nii.gz")


def test_models_are_compared_with_interpolation(srcyc, fine_file, tiny_model, tmp_path):
    out = tmp_path / "out"
    ran = srcyc("evaluate", "--hr", fine_file, "--thickness", "3,4", "--model", tiny_model, "-o", out)
    assert (ran.code, ran.err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == [
        *("head_3mm.png", "head_4mm.png", "metrics.csv", "metrics.json")
    ]
    for text in ("trilinear", "cubic B-spline", "tiny", "3 mm", "4 mm", "PSNR"):
        assert text in ran.out
    with (out / "metrics.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 4
    assert all(row["aligned"] == "True" for row in rows)
    by_method = {row["method"]: row for row in rows if float(row["thickness"]) == 3}
    assert float(by_method["trilinear"]["delta_psnr"]) < 0 == float(by_method["cubic B-spline"]["delta_psnr"])
    # The correction makes even an untrained model consistent with the scan.
    assert float(by_method["tiny"]["consistency"]) < 0.7 * float(by_method["cubic B-spline"]["consistency"])


def test_several_models_scans_and_json(srcyc, phantom, tiny_model, fine_file, tmp_path):
    other_model = shutil.copy(tiny_model, tmp_path / "other.safetensors")
    second = write_volume(Volume(phantom((24, 24, 30), seed=3), np.eye(4)), tmp_path / "second.nrrd")
    ran = srcyc(
        *(
            "evaluate",
            "--hr",
            fine_file,
            second,
            "--thickness",
            "3",
            "--gap",
            "0.5",
            "--no-figures",
            "--json",
        ),
        *("--model", tiny_model, "--model", other_model, "-o", tmp_path / "out"),
    )
    assert ran.code == 0, ran.err
    report = ran.json
    assert report == json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    methods = [mean["method"] for mean in report["means"]]
    assert len(set(methods)) == len(methods) == 5
    assert {score["scan"] for score in report["scores"]} == {"head", "second"}
    assert all(score["gap"] == 0.5 for score in report["scores"])
    assert report["figures"] == []
    assert len(report["models"]) == 2


def test_lpips_is_added_when_asked_for(srcyc, phantom, tiny_model, shared_dir, tmp_path):
    scan = write_volume(Volume(phantom((40, 42, 44)), np.eye(4)), tmp_path / "head.nii.gz")
    weights = shared_dir / "data" / "perceptual" / "lpips_vgg16_alexnet_fp16.npz"
    arguments = ("evaluate", "--hr", scan, "--thickness", "4", "--no-figures", "--model", tiny_model)
    ran = srcyc(*arguments, "--lpips", weights, "-o", tmp_path / "with")
    assert (ran.code, ran.err) == (0, "")
    assert "LPIPS" in ran.out
    report = json.loads((tmp_path / "with" / "metrics.json").read_text(encoding="utf-8"))
    means = {mean["method"]: mean for mean in report["means"]}
    assert means["trilinear"]["delta_lpips"] > 0 == means["cubic B-spline"]["delta_lpips"]
    for mean in means.values():
        assert f"{mean['lpips']:.4f}" in ran.out
    assert "lpips" in report["definitions"]
    ran = srcyc(*arguments, "-o", tmp_path / "without")
    assert ran.code == 0
    assert "LPIPS" not in ran.out


def test_bad_lpips_weights_are_a_sentence(srcyc, fine_file, tiny_model, tmp_path):
    (tmp_path / "alexnet.npz").write_bytes(b"x")
    ran = srcyc(
        *("evaluate", "--hr", fine_file, "--thickness", "3", "--model", tiny_model),
        *("--lpips", tmp_path / "alexnet.npz", "-o", tmp_path / "out"),
    )
    assert ran.code == 2
    assert "alexnet.npz" in ran.sentence
    assert not (tmp_path / "out").exists()


def test_results_are_not_replaced_unless_asked(srcyc, fine_file, tiny_model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("mine")
    arguments = (
        "evaluate",
        "--hr",
        fine_file,
        "--thickness",
        "3",
        "--model",
        tiny_model,
        "-o",
        tmp_path / "out",
    )
    ran = srcyc(*arguments)
    assert ran.code == 2
    assert "--overwrite" in ran.sentence
    assert (tmp_path / "out" / "metrics.json").read_text() == "mine"
    assert srcyc(*arguments, "--overwrite", "--no-figures").code == 0


@pytest.mark.parametrize("thickness", ["0.5", "30"])
def test_an_impossible_thickness_is_a_sentence(srcyc, fine_file, tiny_model, tmp_path, thickness):
    ran = srcyc(
        "evaluate", "--hr", fine_file, "--thickness", thickness, "--model", tiny_model, "-o", tmp_path / "out"
    )
    assert ran.code == 2
    assert f"{thickness} mm" in ran.sentence
    assert not (tmp_path / "out").exists()


def test_a_bad_scan_does_not_stop_the_rest(srcyc, fine_file, tiny_model, tmp_path):
    (tmp_path / "bad.nii").write_text("")
    ran = srcyc(
        *("evaluate", "--hr", tmp_path / "bad.nii", fine_file, "--thickness", "3", "--no-figures"),
        *("--model", tiny_model, "-o", tmp_path / "out"),
    )
    assert ran.code == 2
    assert "bad.nii" in ran.sentence
    assert (tmp_path / "out" / "metrics.json").exists()
