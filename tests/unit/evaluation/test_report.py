from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from srcyc.errors import OutputError
from srcyc.evaluation.benchmark import CUBIC, compare
from srcyc.evaluation.report import means_of, report_of, rows_of, write_report, write_text
from srcyc.volume import Volume


@pytest.fixture(scope="module")
def rows(phantom):
    found = []
    for name, seed in (("one", 0), ("two", 1)):
        scan = Volume(phantom((24, 24, 30), seed=seed), np.eye(4))
        found += rows_of(compare(scan, 3.0, {}), scan=name, thickness=3.0, gap=0.0)
    return found


def test_differences_are_to_cubic(rows):
    cubic = [row for row in rows if row.method == CUBIC]
    assert len(cubic) == 2
    assert all(row.delta_psnr == 0 and row.delta_ssim == 0 for row in cubic)
    linear = rows[0]
    assert linear.delta_psnr == pytest.approx(linear.psnr - rows[1].psnr)


def test_means_are_over_scans(rows):
    means = {mean.method: mean for mean in means_of(rows)}
    cubic = [row for row in rows if row.method == CUBIC]
    assert means[CUBIC].scans == 2
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
    assert all(row.lpips is None and row.delta_lpips is None for row in rows)
    assert all(mean.lpips is None for mean in means_of(rows))
    write_report(tmp_path, rows, report_of(rows, models=[], figures=[]))
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as stream:
        assert all(line["lpips"] == line["delta_lpips"] == "" for line in csv.DictReader(stream))


def test_lpips_is_averaged_over_the_scans_that_have_it_beside_cubic(phantom):
    found = []
    comparison = compare(Volume(phantom((24, 24, 30)), np.eye(4)), 3.0, {})
    for scan, offset in (("one", 0.0), ("two", 0.2)):
        scores = [replace(s, lpips=0.1 * n + offset) for n, s in enumerate(comparison.scores, 1)]
        found += rows_of(replace(comparison, scores=scores), scan=scan, thickness=3.0, gap=0.0)
    found += rows_of(comparison, scan="small", thickness=3.0, gap=0.0)
    cubic_at = [mean.method for mean in means_of(found)].index(CUBIC)
    means = means_of(found)
    assert [mean.lpips for mean in means] == pytest.approx([0.2, 0.3, 0.4])
    assert means[cubic_at].delta_lpips == 0
    assert means[0].delta_lpips == pytest.approx(-0.1 * cubic_at)
    assert means[0].scans == 3


def test_a_perfect_score_is_valid_json(rows):
    perfect = rows[0].model_copy(update={"psnr": float("inf"), "delta_psnr": float("inf")})
    report = report_of([perfect], models=[], figures=[])
    assert json.loads(json.dumps(report, allow_nan=False))["scores"][0]["psnr"] is None


def test_an_unwritable_place_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        write_text(tmp_path / "file" / "metrics.csv", "x")
