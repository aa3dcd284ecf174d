from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from srcyc.volumes.volume import Volume, read_volume, write_volume


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
    linear, cubic, classical, tiny = by_method.values()
    assert classical["method"] == "classical inverse"
    assert float(linear["psnr_over_cubic"]) < 0 == float(cubic["psnr_over_cubic"])
    assert float(classical["psnr_over_classical"]) == 0 < float(classical["psnr_over_cubic"])
    assert float(tiny["psnr_over_classical"]) == pytest.approx(
        float(tiny["psnr"]) - float(classical["psnr"]), abs=1e-6
    )
    # The projection keeps even an untrained model consistent with the scan, but for what it says of the slices.
    assert float(tiny["consistency"]) < 0.7 * float(cubic["consistency"])


def test_slices_can_be_spoiled_and_any_axis_made_thick(srcyc, fine_file, tiny_model, tmp_path):
    arguments = ("evaluate", "--hr", fine_file, "--thickness", "3", "--model", tiny_model, "--json")
    clean = srcyc(*arguments, "--axis", "0,2", "-o", tmp_path / "clean").json
    spoiled = srcyc(
        *(*arguments, "--axis", "0", "--jitter", "0.05", "--noise", "0.03", "--told-ratio", "0.8"),
        *("--blur", "1.5", "--box", "0.7", "--no-figures", "-o", tmp_path / "spoiled"),
    ).json
    assert clean["figures"] == ["head_3mm_axis0.png", "head_3mm_axis2.png"]
    assert [score["axis"] for score in clean["scores"]] == [0] * 4 + [2] * 4
    for score, worse in zip(clean["scores"], spoiled["scores"], strict=False):
        assert worse["psnr"] < score["psnr"]
        assert (worse["jitter"], worse["noise"], worse["told_ratio"]) == (0.05, 0.03, 0.8)
        assert (score["jitter"], score["noise"], score["told_ratio"]) == (0, 0, 1)
        assert (worse["blur"], worse["box"], score["blur"], score["box"]) == (1.5, 0.7, 0, 0)
    assert clean["means"][0]["rows"] == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--axis", "3"), ("--axis", "S"), ("--jitter", "2"), ("--noise", "-1"), ("--told-ratio", "5")),
        *(("--blur", "-1"), ("--box", "1.5"), ("--gap", "inf")),
    ],
)
def test_impossible_simulations_are_a_sentence(srcyc, fine_file, tmp_path, option, value):
    ran = srcyc("evaluate", "--hr", fine_file, "--thickness", "3", option, value, "-o", tmp_path / "out")
    assert ran.code == 2
    assert value in ran.sentence
    assert not (tmp_path / "out").exists()


def test_real_thick_scans_are_examined_without_a_truth(srcyc, thick_file, tiny_model, tmp_path):
    out = tmp_path / "out"
    ran = srcyc("evaluate", "--lr", thick_file, "--model", tiny_model, "-o", out)
    assert (ran.code, ran.err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == [
        "metrics.json",
        "scan_thick.png",
        "thick_scans.csv",
    ]
    assert "slice gain" in ran.out
    assert "PSNR" not in ran.out
    with (out / "thick_scans.csv").open(encoding="utf-8") as stream:
        scan, classical, tiny = csv.DictReader(stream)
    assert [row["method"] for row in (scan, classical, tiny)] == ["scan", "classical inverse", "tiny"]
    assert float(classical["slice_gain"]) == pytest.approx(float(scan["slice_gain"]), rel=0.05)
    assert (scan["thickness_source"], float(scan["thickness"])) == ("assumed", pytest.approx(3.2))
    assert float(tiny["correction"]) > 0
    # Told, and with the slices left alone.
    ran = srcyc(
        *("evaluate", "--lr", thick_file, "--model", tiny_model, "-o", out, "--overwrite", "--json"),
        *("--slice-thickness", "4", "--no-correct-slices", "--no-figures"),
    )
    report = ran.json
    assert report["scores"] == report["figures"] == []
    assert [row["thickness_source"] for row in report["thick_scans"]] == ["stated"] * 3
    assert report["thick_scans"][2]["correction"] == pytest.approx(0, abs=1e-6)


def test_thin_and_thick_scans_in_one_run(srcyc, fine_file, thick_file, tiny_model, tmp_path):
    ran = srcyc(
        *("evaluate", "--hr", fine_file, "--lr", thick_file, "--thickness", "3", "--model", tiny_model),
        *("--no-figures", "--json", "-o", tmp_path),
        "--overwrite",
    )
    assert ran.code == 0
    assert len(ran.json["scores"]) == 4
    assert len(ran.json["thick_scans"]) == 3


def test_no_scan_at_all_is_a_sentence(srcyc, tmp_path):
    ran = srcyc("evaluate", "-o", tmp_path / "out")
    assert ran.code == 2
    assert "--hr" in ran.sentence
    assert "--lr" in ran.sentence


def test_a_thin_scan_among_the_thick_ones_does_not_stop_the_rest(
    srcyc, fine_file, thick_file, tiny_model, tmp_path
):
    ran = srcyc(
        *(
            "evaluate",
            "--lr",
            fine_file,
            thick_file,
            "--model",
            tiny_model,
            "--no-figures",
            "-o",
            tmp_path / "out",
        )
    )
    assert ran.code == 2
    assert "head.nii.gz" in ran.sentence
    assert (tmp_path / "out" / "thick_scans.csv").exists()


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
    assert means["trilinear"]["lpips_over_cubic"] > 0 == means["cubic B-spline"]["lpips_over_cubic"]
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


def test_without_any_usable_scan_nothing_is_written(srcyc, tiny_model, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = srcyc("evaluate", "--hr", tmp_path / "empty", "--model", tiny_model, "-o", tmp_path / "out")
    assert ran.code == 2 and "no volume" in ran.sentence
    assert not (tmp_path / "out").exists()


def test_a_scan_with_holes_is_no_truth(srcyc, fine_file, tiny_model, tmp_path):
    scan = read_volume(fine_file)
    scan.data[0, 3, 4, 5] = np.nan
    holes = write_volume(scan, tmp_path / "holes.nii.gz")
    given = ("--thickness", "3", "--model", tiny_model, "-o", tmp_path / "out", "--no-figures")
    ran = srcyc("evaluate", "--hr", holes, *given)
    assert ran.code == 2 and "no value (NaN)" in ran.sentence


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


def test_regions_keep_their_contrast_or_lose_it(srcyc, fine_file, tiny_model, tmp_path):
    scan = read_volume(fine_file)
    scan.data[0, 10:16, 14:20, 9:15] += 0.4 * scan.data.max()
    scan.data[0, 6, 20, 16] += scan.data.max()
    marked = np.zeros_like(scan.data)
    marked[0, 10:16, 14:20, 9:15] = 1
    marked[0, 6, 20, 16] = 2
    hr = write_volume(scan, tmp_path / "sub-1_T1w.nii.gz")
    regions = write_volume(Volume(marked, scan.affine), tmp_path / "lesions.nii.gz", dtype=np.uint8)
    given = ("evaluate", "--hr", hr, "--thickness", "5", "--axis", "0", "--model", tiny_model, "--no-figures")
    ran = srcyc(*given, "--regions", regions, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "regions" in ran.out and "contrast" in ran.out
    with (tmp_path / "out" / "metrics.csv").open(encoding="utf-8") as stream:
        linear, cubic, classical, _ = csv.DictReader(stream)
    assert float(linear["kept"]) < float(cubic["kept"]) < float(classical["kept"]) < 1.2
    assert float(cubic["kept_small"]) < float(cubic["kept"])
    assert srcyc(*given, "-o", tmp_path / "none", "--json").json["scores"][0]["kept"] is None


def test_regions_of_another_scan_are_refused(srcyc, fine_file, tiny_model, tmp_path):
    elsewhere = np.eye(4)
    elsewhere[:3, 3] = 500
    marked = np.zeros((1, 8, 8, 8), np.float32)
    marked[0, 2:5, 2:5, 2:5] = 1
    regions = write_volume(Volume(marked, elsewhere), tmp_path / "lesions.nii.gz", dtype=np.uint8)
    given = ("--model", tiny_model, "--thickness", "3", "-o", tmp_path / "out", "--no-figures")
    ran = srcyc("evaluate", "--hr", fine_file, "--regions", regions, *given)
    assert ran.code == 2
    assert "lesions" in ran.err and "outside" in ran.err
    assert srcyc("evaluate", "--hr", fine_file, "--regions", tmp_path / "none.nii", *given).code == 2


def test_the_uncertainty_is_held_against_the_error(srcyc, fine_file, tiny_model, tmp_path):
    given = ("evaluate", "--hr", fine_file, "--thickness", "4", "--model", tiny_model, "--no-figures")
    scores = srcyc(*given, "--uncertainty", "--json", "-o", tmp_path / "out").json["scores"]
    assert [score["uncertainty_rank"] for score in scores[:3]] == [None] * 3
    assert -1 < scores[3]["uncertainty_rank"] < 1
    assert 0 < scores[3]["uncertainty_share"] < 1
    assert "Uncertainty" in srcyc(*given, "--uncertainty", "-o", tmp_path / "words").out
