from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from srcyc.errors import ConfigError, SRCycError
from srcyc.evaluation.benchmark import CLASSICAL, CUBIC, TRILINEAR, Answer, Simulation, baselines, compare
from srcyc.evaluation.lpips import LPIPS
from srcyc.physics.acquisition import Acquisition
from srcyc.physics.simulation import Spoiling, simulate_thick
from srcyc.volumes.volume import Volume


@pytest.fixture(scope="module")
def scan(phantom) -> Volume:
    oblique = np.array([[0.9, -0.1, 0.0, -20.0], [0.1, 0.9, 0.0, 5.0], [0.0, 0.0, 1.1, 7.0], [0, 0, 0, 1]])
    return Volume(phantom((30, 32, 60)), oblique)


def _to_itk(data: np.ndarray, affine: np.ndarray) -> sitk.Image:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(data.transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


@pytest.mark.parametrize(
    ("name", "interpolator", "margin"), [(TRILINEAR, sitk.sitkLinear, 1), (CUBIC, sitk.sitkBSpline, 7)]
)
def test_the_interpolations_equal_itks_in_the_interior(scan, name, interpolator, margin):
    thick, truth = simulate_thick(scan, 3.0)
    methods = baselines(truth.grid, Acquisition(truth.shape, thick.shape))
    ours = methods[name](thick, truth.spacing).volume
    reference = _to_itk(truth.data[0], truth.affine)
    theirs = sitk.Resample(
        _to_itk(thick.data[0], thick.affine), reference, sitk.Transform(), interpolator, 0.0
    )
    theirs = sitk.GetArrayFromImage(theirs).transpose(2, 1, 0)
    # The ends differ by design (ITK's spline is mirrored elsewhere); a slice here is 3 mm / 1.1 mm.
    inner = slice(margin * 3, -margin * 3)
    np.testing.assert_allclose(ours.data[0][:, :, inner], theirs[:, :, inner], atol=2e-4)


def test_scores_rank_interpolation_below_a_better_method(scan):
    truth_of = {}

    def oracle(thick, spacing):
        data = 0.5 * truth_of["cubic"] + 0.5 * truth_of["truth"]
        return Answer(Volume(data[None], truth_of["affine"]), ["made of the truth"])

    thick, truth = simulate_thick(scan, 4.0)
    truth_of["truth"], truth_of["affine"] = truth.data[0], truth.affine
    methods = baselines(truth.grid, Acquisition(truth.shape, thick.shape))
    truth_of["cubic"] = methods[CUBIC](thick, truth.spacing)[0].data[0]
    heard = []
    comparison = compare(scan, Simulation(4.0), {"oracle": oracle}, progress=heard.append)
    rows = {row.method: row for row in comparison.rows}
    assert list(rows) == [TRILINEAR, CUBIC, CLASSICAL, "oracle"] == heard
    assert rows[TRILINEAR].psnr < rows[CUBIC].psnr < rows["oracle"].psnr
    assert rows["oracle"].psnr - rows[CUBIC].psnr == pytest.approx(20 * np.log10(2), abs=0.01)
    assert rows[CUBIC].ssim < rows["oracle"].ssim
    assert rows["oracle"].consistency < rows[CUBIC].consistency
    assert rows[CLASSICAL].consistency < 1e-3
    assert rows[CLASSICAL].psnr > rows[CUBIC].psnr
    assert rows["oracle"].warnings == ("made of the truth",)
    assert comparison.axis == 2
    assert all(row.aligned for row in comparison.rows)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_can_be_made_thick(scan, axis):
    comparison = compare(scan, Simulation(3.0, axis=axis), {})
    assert comparison.axis == axis
    assert comparison.thick.shape[axis] < comparison.truth.shape[axis]
    assert all(row.aligned for row in comparison.rows)


def test_spoiled_slices_cost_every_method(scan):
    clean, jitter, noise = (
        {row.method: row.psnr for row in compare(scan, Simulation(3.0, spoiling=spoiling), {}).rows}
        for spoiling in (Spoiling(), Spoiling(jitter=0.05), Spoiling(noise=0.05))
    )
    for method in clean:
        assert jitter[method] < clean[method] - 0.1
        assert noise[method] < clean[method] - 0.1


def test_methods_are_told_the_thickness_and_may_be_told_a_wrong_one(scan):
    told = []

    def listening(thick, spacing):
        told.append(thick.slice_thickness / thick.spacing[2])
        return Answer(simulate_thick(scan, 4.0)[1])

    true, narrow, wide = (
        compare(scan, Simulation(4.0, told_ratio=ratio), {"listening": listening})
        for ratio in (None, 0.8, 1.5)
    )
    assert told == pytest.approx([1.0, 0.8, 1.5])
    classical = [found.rows[2].psnr for found in (true, narrow, wide)]
    assert classical[0] > classical[1]
    assert classical[0] > classical[2]
    # What is compared with does not change.
    assert (true.rows[1].psnr, true.rows[1].ssim) == (wide.rows[1].psnr, wide.rows[1].ssim)
    np.testing.assert_array_equal(true.thick.data, wide.thick.data)


def test_a_ratio_that_no_scan_has_is_refused():
    with pytest.raises(ConfigError, match="told_ratio"):
        Simulation(4.0, told_ratio=3.0)


def test_lpips_is_measured_when_asked_for_whatever_the_intensity_unit(scan, shared_dir):
    lpips = LPIPS(shared_dir / "data" / "perceptual" / "lpips_vgg16_alexnet_fp16.npz")
    found = []
    for unit in (scan, replace(scan, data=900 * scan.data - 300)):
        comparison = compare(unit, Simulation(4.0), {}, lpips=lpips)
        found.append([row.lpips for row in comparison.rows])
    linear, cubic, _ = found[0]
    assert 0.01 < cubic < linear < 0.7
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert [row.lpips for row in compare(scan, Simulation(4.0), {}).rows] == [None] * 3


def test_a_scan_too_small_for_lpips_is_judged_by_the_rest(phantom, shared_dir):
    lpips = LPIPS(shared_dir / "data" / "perceptual" / "lpips_vgg16_alexnet_fp16.npz")
    rows = compare(Volume(phantom((24, 24, 40)), np.eye(4)), Simulation(4.0), {}, lpips=lpips).rows
    assert all(row.lpips is None and row.psnr > 10 for row in rows)


def test_the_truth_itself_is_consistent_also_with_a_gap(scan):
    def perfect(thick, spacing):
        return Answer(simulate_thick(scan, 4.5, thickness=3.0)[1])

    row = compare(scan, Simulation(3.0, gap=1.5), {"perfect": perfect}).rows[-1]
    assert row.psnr == np.inf
    assert row.consistency < 1e-6


def test_a_shifted_result_fails_the_audit(scan):
    def shifted(thick, spacing):
        _, truth = simulate_thick(scan, 4.0)
        return Answer(replace(truth, data=np.roll(truth.data, 1, axis=3)))

    row = compare(scan, Simulation(4.0), {"shifted": shifted}).rows[-1]
    assert not row.aligned
    assert row.shift_k == pytest.approx(1.0, abs=0.1)


def test_another_grid_is_an_error(scan):
    def smaller(thick, spacing):
        return Answer(thick)

    def elsewhere(thick, spacing):
        _, truth = simulate_thick(scan, 4.0)
        affine = truth.affine.copy()
        affine[0, 3] += 0.4
        return Answer(replace(truth, affine=affine))

    with pytest.raises(SRCycError, match="smaller"):
        compare(scan, Simulation(4.0), {"smaller": smaller})
    with pytest.raises(SRCycError, match="field of view"):
        compare(scan, Simulation(4.0), {"elsewhere": elsewhere})


def test_slices_thinner_than_the_scan_are_refused(scan):
    with pytest.raises(ConfigError, match="not thicker"):
        compare(scan, Simulation(1.0), {})
