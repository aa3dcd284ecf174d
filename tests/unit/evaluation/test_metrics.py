from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from srcyc.errors import DataError
from srcyc.evaluation.metrics import (
    Quality,
    Truth,
    alignment,
    evaluation_mask,
    foresight,
    psnr,
    ssim,
)
from srcyc.physics.resampling import resample


@pytest.fixture(scope="module")
def head(phantom) -> np.ndarray:
    return phantom((40, 48, 36))[0]


def test_psnr_is_the_textbook_value_inside_the_mask_only():
    truth = np.zeros((4, 4, 4), np.float32)
    image = truth.copy()
    image[0] = 100.0
    image[1:] = 0.5
    mask = np.zeros(truth.shape, bool)
    mask[1:] = True
    assert psnr(image, truth, mask, peak=5.0) == pytest.approx(20 * math.log10(5.0 / 0.5))


def test_an_equal_image_is_perfect(head):
    quality = Truth(head).quality(head)
    assert quality.psnr == math.inf
    assert quality.ssim == pytest.approx(1.0)


def test_more_blur_costs_more(head):
    truth = Truth(head)
    slight, clear, strong = (
        truth.quality(ndimage.gaussian_filter(head, (0, 0, sigma))) for sigma in (0.5, 1.0, 2.0)
    )
    assert slight.psnr > clear.psnr > strong.psnr
    assert slight.ssim > clear.ssim > strong.ssim


@pytest.mark.parametrize("wrong", [lambda x: np.roll(x, 1, axis=2), lambda x: np.flip(x, 2)])
def test_a_shifted_or_flipped_result_is_worse_than_a_blurred_one(head, wrong):
    truth = Truth(head)
    blurred, misplaced = truth.quality(ndimage.gaussian_filter(head, (0, 0, 0.5))), truth.quality(wrong(head))
    assert misplaced.psnr < blurred.psnr
    assert misplaced.ssim < blurred.ssim


def test_metrics_do_not_depend_on_the_intensity_unit(head):
    blurred = ndimage.gaussian_filter(head, (0, 0, 1))
    one, other = Truth(head).quality(blurred), Truth(700 * head - 50).quality(700 * blurred - 50)
    assert (other.psnr, other.ssim) == pytest.approx((one.psnr, one.ssim), rel=1e-3)


def test_the_data_range_leaves_single_bright_voxels_out(head):
    bright = head.copy()
    bright[20, 24, 18] = 50.0
    assert Truth(bright).peak == pytest.approx(Truth(head).peak, rel=0.01)
    assert Truth(head).black == pytest.approx(0.0, abs=0.05)


def test_air_does_not_count(head):
    truth = Truth(head)
    wrong = np.where(truth.mask, head, head + 5)
    assert truth.quality(wrong.astype(np.float32)).psnr == math.inf


def test_lpips_sees_black_at_zero_where_it_fits(head):
    seen = []

    class Recorder:
        def __init__(self, fits: bool) -> None:
            self.fits = lambda shape: fits

        def __call__(self, image, truth, mask, peak):
            seen.append((float(truth[mask].min()), peak))
            return 0.25

    truth = Truth(700 * head + 300)
    assert truth.quality(truth.image, Recorder(False)).lpips is None
    assert truth.quality(truth.image, Recorder(True)).lpips == 0.25
    assert seen[0][0] == pytest.approx(truth.image[truth.mask].min() - truth.black)
    assert seen[0][1] == truth.peak


def test_a_truth_smaller_than_the_window_has_no_ssim(head):
    thin = np.ascontiguousarray(head[:, :, :6])
    assert Truth(thin).quality(thin) == Quality(math.inf, None, None)


def test_a_constant_truth_is_refused_by_quality():
    flat = np.full((12, 12, 12), 3.0, np.float32)
    with pytest.raises(DataError, match="constant"):
        Truth(flat).quality(flat)


def test_the_mask_holds_the_head_without_holes_and_leaves_out_air(head):
    mask = evaluation_mask(head)
    assert not mask[0, 0, 0]
    assert mask[20, 24, 18]
    assert np.array_equal(ndimage.binary_fill_holes(mask), mask)
    assert 0.2 < mask.mean() < 0.8


def test_the_mask_reaches_the_border_where_the_scan_cuts_the_head(head):
    cut = head[:, :, 10:24]
    assert evaluation_mask(cut)[20, 24, [0, -1]].all()


def test_a_constant_truth_is_refused():
    with pytest.raises(DataError, match="constant"):
        evaluation_mask(np.full((12, 12, 12), 3.0, np.float32))


def test_ssim_refuses_what_is_smaller_than_its_window(head):
    thin = np.ascontiguousarray(head[:, :, :6])
    with pytest.raises(DataError, match="11 voxels"):
        ssim(thin, thin, evaluation_mask(thin), 1.0)


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.5), (0.3, 0.0, 0.0), (0.0, -2.0, 1.0)])
def test_alignment_finds_a_shift_and_flags_it(head, shift):
    moved = ndimage.shift(head, shift, order=3, mode="nearest")
    found = alignment(moved, head)
    assert found.shift == pytest.approx(shift, abs=0.1)
    assert not found.ok


def test_interpolation_is_aligned(head):
    thick = resample(torch.from_numpy(head), (40, 48, 9), "area")
    for mode in ("linear", "cubic"):
        found = alignment(resample(thick, head.shape, mode).numpy(), head)
        assert max(map(abs, found.shift)) <= 0.05
        assert found.ok


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_result_is_flagged(head, axis):
    found = alignment(np.flip(head, axis), head)
    assert axis in found.flipped
    assert not found.ok


def test_an_image_that_is_not_finite_is_never_perfect(head):
    truth = Truth(head)
    broken = head.copy()
    broken[20, 24, 18] = np.nan
    assert math.isnan(truth.quality(broken).psnr)
    broken[20, 24, 18] = np.inf
    assert truth.quality(broken).psnr == -math.inf


class TestForesight:
    def test_a_map_that_knows_and_one_that_does_not(self) -> None:
        rng = np.random.default_rng(0)
        spread = rng.uniform(0.01, 1, (20, 20, 20)) ** 3
        error = (spread * rng.standard_normal(spread.shape)).astype(np.float32)
        mask = np.ones(spread.shape, bool)
        knowing = foresight(spread.astype(np.float32), error, mask)
        ignorant = foresight(rng.uniform(size=spread.shape).astype(np.float32), error, mask)
        assert knowing.rank > 0.6 and knowing.share > 0.35
        assert abs(ignorant.rank) < 0.05
        assert ignorant.share == pytest.approx(0.1, abs=0.04)

    def test_a_map_that_is_the_same_everywhere_knows_nothing(self) -> None:
        error = np.random.default_rng(2).standard_normal((20, 20, 20)).astype(np.float32)
        mask = np.ones(error.shape, bool)
        assert foresight(np.zeros_like(error), error, mask) == pytest.approx((0.0, 0.1))
        # Of the many that are not uncertain at all each counts for its part: 400 of 8000 are, and 400 of 7600 count.
        few = np.zeros_like(error)
        few[0] = 1
        expected = np.sum(error[0] ** 2) + np.mean(error[1:] ** 2) * 400
        assert foresight(few, error, mask).share == pytest.approx(expected / np.sum(error**2))

    def test_only_the_mask_counts_and_the_unit_does_not(self) -> None:
        rng = np.random.default_rng(1)
        doubt, error = rng.uniform(size=(2, 16, 16, 16)).astype(np.float32)
        mask = np.zeros(doubt.shape, bool)
        mask[4:12] = True
        found = foresight(doubt, error, mask)
        doubt[:4], error[12:] = 9, 9
        assert foresight(100 * doubt, 100 * error, mask) == pytest.approx(found)
