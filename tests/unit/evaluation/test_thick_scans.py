"""Real thick scans: what is measured of their slices before and after."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from srcyc.evaluation.benchmark import CLASSICAL, CUBIC
from srcyc.evaluation.report import report_of, thick_scores_of, write_report
from srcyc.evaluation.thick_scans import SCAN, examine
from srcyc.inference.super_resolver import SuperResolver
from srcyc.models.model_file import load_model
from srcyc.networks import SliceResDNet
from srcyc.physics.acquisition import Acquisition
from srcyc.physics.simulation import Spoiling, simulate_thick
from srcyc.volumes.volume import Volume


@pytest.fixture(scope="module")
def resolver(tiny_model):
    """Of a new network, which adds nothing: its result is the classical inverse."""
    model = replace(load_model(tiny_model), network=SliceResDNet(features=8, depth=1))
    return SuperResolver(model, device="cpu", precision="fp32")


@pytest.fixture(params=[0, 2])
def banded(request, phantom) -> Volume:
    """A scan of something that is the same in every slice, whose slices differ in gain by 4 %."""
    axis = request.param
    section = np.expand_dims(phantom((40, 44), noise=0.0)[0], axis)
    volume = Volume(np.repeat(section, 48, axis)[None], np.eye(4))
    return simulate_thick(volume, 4.0, axis=axis, spoiling=Spoiling(jitter=0.04))[0]


def as_model(resolver):
    return lambda scan, spacing: resolver(scan, target_spacing=spacing or "isotropic", force=True)


def smoothed(resolver):
    """A model that takes a third of the bands away, and says so."""

    def model(scan, spacing):
        axis = int(np.argmax(scan.spacing)) + 1
        slices = scan.data
        evened = (np.roll(slices, 1, axis) + 4 * slices + np.roll(slices, -1, axis)) / 6
        result = as_model(resolver)(replace(scan, data=evened.astype(np.float32)), spacing)
        consistency = result.report.consistency.model_copy(update={"correction": 0.02})
        return replace(result, report=result.report.model_copy(update={"consistency": consistency}))

    return model


def test_the_classical_inverse_keeps_the_bands_and_a_model_may_take_them(banded, resolver):
    heard = []
    found = examine(banded, {"tiny": as_model(resolver), "smooth": smoothed(resolver)}, progress=heard.append)
    scan, classical, tiny, smooth = found.rows
    assert [row.method for row in found.rows] == [SCAN, CLASSICAL, "tiny", "smooth"]
    assert heard == ["tiny", "smooth"]
    assert scan.slice_gain > 1.5
    assert classical.slice_gain == pytest.approx(scan.slice_gain, rel=0.02)
    assert tiny.slice_gain == pytest.approx(classical.slice_gain, rel=1e-3)
    assert smooth.slice_gain < 0.8 * scan.slice_gain
    assert (tiny.correction, smooth.correction) == (pytest.approx(0, abs=1e-6), 0.02)
    assert found.axis == int(np.argmax(banded.spacing))
    assert set(found.images) == {CUBIC, CLASSICAL, "tiny", "smooth"}
    assert all(image.shape == found.result.shape for image in found.images.values())


def test_the_classical_inverse_is_told_what_the_model_is_told(banded, resolver):
    found = examine(replace(banded, slice_thickness=2.4), {"tiny": as_model(resolver)})
    assert found.thickness.source == "read"
    operator = Acquisition(found.result.shape, banded.shape, found.thickness.ratio, slice_axis=found.axis)
    expected = operator.upscale(torch.from_numpy(np.ascontiguousarray(banded.data[0]))).numpy()
    np.testing.assert_allclose(found.images[CLASSICAL], expected, atol=1e-5)
    np.testing.assert_allclose(found.images["tiny"], expected, atol=1e-3)


def test_the_numbers_are_written(banded, resolver, tmp_path):
    rows = examine(banded, {"tiny": as_model(resolver)}, name="brain_T2w").rows
    assert [row.slice_gain_over_scan for row in rows] == pytest.approx([1, 1, 1], rel=0.02)
    files = write_report(tmp_path, [], report_of([], rows, models=[], figures=[]), rows)
    assert [path.name for path in files] == ["thick_scans.csv", "metrics.json"]
    with files[0].open(encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [line["method"] for line in table] == [SCAN, CLASSICAL, "tiny"]
    assert float(table[0]["slice_gain"]) == pytest.approx(rows[0].slice_gain)
    (score,) = thick_scores_of(rows, "tiny")
    assert (score.scan, score.contrast) == ("brain_T2w", "T2w")
    assert score.slice_gain == pytest.approx(rows[0].slice_gain, abs=1e-4)


def test_air_has_no_gain(resolver):
    noise = np.random.default_rng(0).normal(0, 1, (1, 24, 24, 8)).astype(np.float32)
    noise[0, 0, 0, 0] = 1000.0
    scan = Volume(noise, np.diag([1.0, 1.0, 4.0, 1.0]))
    rows = examine(scan, {"tiny": as_model(resolver)}).rows
    assert all(row.slice_gain is None or row.slice_gain > 0 for row in rows)
