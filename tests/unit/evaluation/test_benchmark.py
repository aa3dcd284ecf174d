from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from srcyc.errors import ConfigError, SRCycError
from srcyc.evaluation.benchmark import CORRECTED, CUBIC, TRILINEAR, compare, interpolation
from srcyc.evaluation.lpips import LPIPS
from srcyc.simulation import simulate_thick
from srcyc.volume import Volume


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
    ("mode", "interpolator", "margin"), [("linear", sitk.sitkLinear, 1), ("cubic", sitk.sitkBSpline, 7)]
)
def test_the_interpolations_equal_itks_in_the_interior(scan, mode, interpolator, margin):
    thick, truth = simulate_thick(scan, 3.0)
    ours, _ = interpolation(mode, truth.grid)(thick, truth.spacing)
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
        return Volume(data[None], truth_of["affine"]), ["made of the truth"]

    thick, truth = simulate_thick(scan, 4.0)
    truth_of["truth"], truth_of["affine"] = truth.data[0], truth.affine
    truth_of["cubic"] = interpolation("cubic", truth.grid)(thick, truth.spacing)[0].data[0]
    heard = []
    comparison = compare(scan, 4.0, {"oracle": oracle}, progress=heard.append)
    scores = {score.method: score for score in comparison.scores}
    assert list(scores) == [TRILINEAR, CUBIC, CORRECTED, "oracle"] == heard
    assert scores[TRILINEAR].psnr < scores[CUBIC].psnr < scores["oracle"].psnr
    assert scores["oracle"].psnr - scores[CUBIC].psnr == pytest.approx(20 * np.log10(2), abs=0.01)
    assert scores[CUBIC].ssim < scores["oracle"].ssim
    assert scores["oracle"].consistency < scores[CUBIC].consistency
    assert scores[CORRECTED].consistency < 1e-5
    assert scores[CORRECTED].psnr > scores[CUBIC].psnr
    assert scores["oracle"].warnings == ["made of the truth"]
    assert comparison.axis == 2
    assert all(score.alignment.ok for score in comparison.scores)


def test_lpips_is_measured_when_asked_for_whatever_the_intensity_unit(scan, shared_dir):
    lpips = LPIPS(shared_dir / "data" / "perceptual" / "lpips_vgg16_alexnet_fp16.npz")
    found = []
    for unit in (scan, replace(scan, data=900 * scan.data - 300)):
        comparison = compare(unit, 4.0, {}, lpips=lpips)
        found.append([score.lpips for score in comparison.scores])
    linear, cubic, _ = found[0]
    assert 0.01 < cubic < linear < 0.7
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert [score.lpips for score in compare(scan, 4.0, {}).scores] == [None] * 3


def test_a_scan_too_small_for_lpips_is_judged_by_the_rest(phantom, shared_dir):
    lpips = LPIPS(shared_dir / "data" / "perceptual" / "lpips_vgg16_alexnet_fp16.npz")
    scores = compare(Volume(phantom((24, 24, 40)), np.eye(4)), 4.0, {}, lpips=lpips).scores
    assert all(score.lpips is None and score.psnr > 10 for score in scores)


def test_the_truth_itself_is_consistent_also_with_a_gap(scan):
    def perfect(thick, spacing):
        return simulate_thick(scan, 4.5, thickness=3.0)[1], []

    score = compare(scan, 3.0, {"perfect": perfect}, gap=1.5).scores[-1]
    assert score.psnr == np.inf
    assert score.consistency < 1e-6


def test_a_shifted_result_fails_the_audit(scan):
    def shifted(thick, spacing):
        _, truth = simulate_thick(scan, 4.0)
        return replace(truth, data=np.roll(truth.data, 1, axis=3)), []

    score = compare(scan, 4.0, {"shifted": shifted}).scores[-1]
    assert not score.alignment.ok
    assert score.alignment.shift[2] == pytest.approx(1.0, abs=0.1)


def test_another_grid_is_an_error(scan):
    def smaller(thick, spacing):
        return thick, []

    def elsewhere(thick, spacing):
        _, truth = simulate_thick(scan, 4.0)
        affine = truth.affine.copy()
        affine[0, 3] += 0.4
        return replace(truth, affine=affine), []

    with pytest.raises(SRCycError, match="smaller"):
        compare(scan, 4.0, {"smaller": smaller})
    with pytest.raises(SRCycError, match="field of view"):
        compare(scan, 4.0, {"elsewhere": elsewhere})


def test_slices_thinner_than_the_scan_are_refused(scan):
    with pytest.raises(ConfigError, match="not thicker"):
        compare(scan, 1.0, {})
