from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from srcyc.documents import json_text
from srcyc.errors import OutputError
from srcyc.evaluation.benchmark import CLASSICAL, CUBIC, TRILINEAR, Simulation, compare
from srcyc.evaluation.metrics import Quality, Truth
from srcyc.evaluation.report import means_of, report_of, scores_of, write_report
from srcyc.files import write_text
from srcyc.physics.simulation import Spoiling
from srcyc.volumes.volume import Volume


@pytest.fixture(scope="module")
def rows(phantom):
    found = []
    for name, seed in (("one", 0), ("two", 1)):
        scan = Volume(phantom((24, 24, 30), seed=seed), np.eye(4))
        found += compare(scan, Simulation(3.0), {}, name=f"{name}_T1w").rows
    return found


def test_differences_are_to_cubic_and_to_the_classical_inverse(rows):
    linear, cubic, classical = rows[:3]
    assert [row.method for row in rows[:3]] == [TRILINEAR, CUBIC, CLASSICAL]
    assert cubic.psnr_over_cubic == cubic.ssim_over_cubic == 0
    assert classical.psnr_over_classical == classical.ssim_over_classical == 0
    assert linear.psnr_over_cubic == pytest.approx(linear.psnr - cubic.psnr)
    assert linear.psnr_over_classical == pytest.approx(linear.psnr - classical.psnr)
    assert linear.ssim_over_classical == pytest.approx(linear.ssim - classical.ssim)


def test_means_are_over_scans(rows):
    means = {mean.method: mean for mean in means_of(rows)}
    cubic = [row for row in rows if row.method == CUBIC]
    assert means[CUBIC].rows == 2
    assert means[CUBIC].psnr == pytest.approx((cubic[0].psnr + cubic[1].psnr) / 2)


def test_the_files_hold_every_score_and_what_it_means(rows, tmp_path):
    report = report_of(rows, models=[{"name": "m"}], figures=["a.png"])
    write_report(tmp_path, rows, report)
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [line["method"] for line in table] == [row.method for row in rows]
    assert float(table[0]["psnr"]) == pytest.approx(rows[0].psnr)
    document = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert len(document["scores"]) == len(rows)
    assert {"mask", "data_range", "psnr", "ssim"} <= set(document["definitions"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.json"]


def test_lpips_is_empty_unless_measured(rows, tmp_path):
    assert all(row.lpips is None and row.lpips_over_cubic is None for row in rows)
    assert all(mean.lpips is None for mean in means_of(rows))
    write_report(tmp_path, rows, report_of(rows, models=[], figures=[]))
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as stream:
        assert all(line["lpips"] == line["lpips_over_classical"] == "" for line in csv.DictReader(stream))


class Told:
    """LPIPS of images one after the other, as it is told."""

    def __init__(self, *values: float) -> None:
        self._values = iter(values)

    def fits(self, shape: tuple[int, ...]) -> bool:
        return True

    def __call__(self, *images: object) -> float:
        return next(self._values)


def test_lpips_is_averaged_over_the_scans_that_have_it_beside_cubic(phantom):
    scan = Volume(phantom((24, 24, 30)), np.eye(4))
    found = [
        row
        for lpips in (Told(0.1, 0.2, 0.3), Told(0.3, 0.4, 0.5), None)
        for row in compare(scan, Simulation(3.0), {}, lpips=lpips).rows
    ]
    means = {mean.method: mean for mean in means_of(found)}
    assert [mean.lpips for mean in means.values()] == pytest.approx([0.2, 0.3, 0.4])
    assert means[CUBIC].lpips_over_cubic == 0
    assert means[TRILINEAR].lpips_over_cubic == pytest.approx(-0.1)
    assert means[TRILINEAR].lpips_over_classical == pytest.approx(-0.2)
    assert means[TRILINEAR].rows == 3


def test_several_thicknesses_have_a_mean_over_all(rows):
    thicker = [row.model_copy(update={"thickness": 5.0, "psnr_over_classical": 1.0}) for row in rows]
    means = means_of([*rows, *thicker])
    assert [mean.thickness for mean in means] == [3.0] * 3 + [5.0] * 3 + [None] * 3
    overall = means[-1]
    assert overall.method == CLASSICAL
    assert (overall.rows, overall.psnr_over_classical, overall.least_over_classical) == (4, 0.5, 0.0)
    assert all(mean.thickness == 3.0 for mean in means_of(rows))


@pytest.mark.parametrize("fault", ["jitter", "noise", "blur", "box"])
def test_spoiled_slices_are_averaged_apart(rows, fault):
    spoiled = [row.model_copy(update={fault: 0.03, "psnr": 0.0}) for row in rows]
    means = means_of([*rows, *spoiled])
    assert [(getattr(mean, fault), mean.rows) for mean in means] == [(0.0, 2)] * 3 + [(0.03, 2)] * 3
    assert means[0].psnr == means_of(rows)[0].psnr
    assert means[-1].psnr == 0


def test_a_row_says_how_its_slices_were_made(phantom):
    scan = Volume(phantom((24, 24, 30)), np.eye(4))
    spoiling = Spoiling(jitter=0.03, noise=0.02, blur=1.2, box=0.5)
    simulation = Simulation(3.0, gap=0.5, axis=1, spoiling=spoiling, told_ratio=0.7)
    row = compare(scan, simulation, {}, name="x_FLAIR").rows[0]
    assert (row.thickness, row.gap, row.axis, row.told_ratio) == (3.0, 0.5, 1, 0.7)
    assert (row.jitter, row.noise, row.blur, row.box) == (0.03, 0.02, 1.2, 0.5)
    assert row.contrast == "FLAIR"


def test_a_method_s_rows_become_the_scores_of_a_card(rows):
    scores = scores_of(rows, TRILINEAR)
    assert [score.scan for score in scores] == ["one_T1w", "two_T1w"]
    assert all(score.contrast == "T1w" for score in scores)
    assert scores[0].psnr_over_classical == pytest.approx(rows[0].psnr_over_classical, abs=1e-4)
    assert scores[0].psnr_over_classical < 0


def test_a_scan_too_small_for_ssim_is_judged_by_the_rest(phantom, tmp_path):
    found = compare(Volume(phantom((30, 30, 10)), np.eye(4)), Simulation(2.5), {}).rows
    assert all(row.ssim is None and row.ssim_over_cubic is None and row.psnr > 5 for row in found)
    write_report(tmp_path, found, report_of(found, models=[], figures=[]))
    assert means_of(found)[0].ssim is None


def test_a_perfect_score_is_valid_json(phantom, monkeypatch):
    monkeypatch.setattr(Truth, "quality", lambda self, image, lpips: Quality(float("inf"), 1.0))
    found = compare(Volume(phantom((24, 24, 30)), np.eye(4)), Simulation(3.0), {}).rows
    document = json.loads(json_text(report_of(found, models=[], figures=[])))
    assert document["scores"][0]["psnr"] is None
    assert document["scores"][0]["psnr_over_classical"] == 0


def test_an_unwritable_place_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        write_text(tmp_path / "file" / "metrics.csv", "x")
