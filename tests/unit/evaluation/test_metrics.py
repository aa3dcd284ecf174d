from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from srcyc.errors import DataError
from srcyc.evaluation.metrics import alignment, data_range, evaluation_mask, psnr, ssim
from srcyc.resampling import resample


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
    mask, peak = evaluation_mask(head), data_range(head)
    assert psnr(head, head, mask, peak) == math.inf
    assert ssim(head, head, mask, peak) == pytest.approx(1.0)


def test_more_blur_costs_more(head):
    mask, peak = evaluation_mask(head), data_range(head)
    scores = [
        (psnr(blurred, head, mask, peak), ssim(blurred, head, mask, peak))
        for blurred in (ndimage.gaussian_filter(head, (0, 0, sigma)) for sigma in (0.5, 1.0, 2.0))
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0][1] > scores[1][1] > scores[2][1]


def test_metrics_do_not_depend_on_the_intensity_unit(head):
    blurred = ndimage.gaussian_filter(head, (0, 0, 1))
    one = [f(blurred, head, evaluation_mask(head), data_range(head)) for f in (psnr, ssim)]
    raw, raw_blurred = 700 * head - 50, 700 * blurred - 50
    other = [f(raw_blurred, raw, evaluation_mask(raw), data_range(raw)) for f in (psnr, ssim)]
    assert other == pytest.approx(one, rel=1e-3)


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
    mask, peak = evaluation_mask(head), data_range(head)
    broken = head.copy()
    broken[20, 24, 18] = np.nan
    assert math.isnan(psnr(broken, head, mask, peak))
    broken[20, 24, 18] = np.inf
    assert psnr(broken, head, mask, peak) == -math.inf
