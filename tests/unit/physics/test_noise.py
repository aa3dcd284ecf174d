"""The noise estimate recovers what was added, in 2D, in 3D, on few slices and beside a masked background."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from scipy.ndimage import gaussian_filter

from srcyc.physics.noise import DB7_HIGH_PASS, estimate_noise, wavelet_coefficients


def white(*shape: int, sigma: float = 1.0, seed: int = 0) -> torch.Tensor:
    return sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_filter_is_pywavelets() -> None:
    np.testing.assert_allclose(DB7_HIGH_PASS, pywt.Wavelet("db7").dec_hi, rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [3, 5, 9, 33])
def test_coefficients_are_pywavelets(n: int) -> None:
    """PyWavelets convolves, the published code correlates: the same on the reversed signal, one phase of two."""
    ours = wavelet_coefficients(torch.eye(n, dtype=torch.float64)[:, None], 1)[:, 0].numpy()
    theirs = pywt.dwt(np.eye(n)[:, ::-1], "db7", mode="reflect")[1]
    # Reversed, our row r (voxels 2 r - 7 to 2 r + 6) is PyWavelets' coefficient (n + 5) / 2 - r.
    expected = theirs[:, (n + 5) // 2 - np.arange(n // 2 + 1)]
    inside = slice(4, -4)
    np.testing.assert_allclose(ours[:, inside], expected[:, inside], rtol=0, atol=1e-10)
    # At the border, the same but for its length: white noise has the same spread in every coefficient.
    np.testing.assert_allclose(ours, expected / np.linalg.norm(expected, axis=0), rtol=0, atol=1e-10)


def test_coefficients_in_3d_are_those_of_each_axis_in_turn() -> None:
    x = white(1, 1, 20, 18, 22).double()
    expected = x.clone()
    for axis in (2, 3, 4):
        expected = wavelet_coefficients(expected.movedim(axis, -1), 1).movedim(-1, axis)
    torch.testing.assert_close(wavelet_coefficients(x, 3), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(128, 128), (101, 150), (32, 32, 32), (40, 41, 21), (64, 64, 8)])
@pytest.mark.parametrize("sigma", [0.02, 17.0])
def test_white_noise_is_recovered(shape: tuple[int, ...], sigma: float) -> None:
    estimate = estimate_noise(white(4, 1, *shape, sigma=sigma) + 3 * sigma, len(shape))
    assert estimate.shape == (4,)
    assert estimate.dtype == torch.float32
    assert float(estimate.mean()) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("slices", [2, 3, 4, 5])
def test_few_slices_do_not_bias_the_estimate(slices: int) -> None:
    assert float(estimate_noise(white(4, 1, 96, 96, slices), 3).mean()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_smooth_phantom_does_not_count_as_noise(dims: int) -> None:
    shape = (128, 128) if dims == 2 else (36, 36, 36)
    smooth = gaussian_filter(np.random.default_rng(1).standard_normal(shape), 3, mode="nearest")
    smooth = torch.from_numpy(smooth / np.ptp(smooth)).float()[None, None]
    noisy = smooth + white(4, 1, *shape, sigma=0.02)
    assert float(estimate_noise(noisy, dims).mean()) == pytest.approx(0.02, rel=0.05)
    assert float(estimate_noise(smooth, dims)) < 0.001


def test_images_of_a_batch_are_told_apart_and_channels_averaged() -> None:
    x = torch.stack(
        [
            white(2, 128, 128),
            torch.stack([white(128, 128, sigma=2, seed=1), white(128, 128, sigma=4, seed=2)]),
        ]
    )
    estimate = estimate_noise(x, 2)
    assert estimate.tolist() == pytest.approx([1, 3], rel=0.05)
    for image, one in zip(x, estimate, strict=True):
        assert float(estimate_noise(image[None], 2)) == pytest.approx(float(one), rel=1e-6)


def test_a_masked_background_can_be_left_out() -> None:
    x = torch.zeros(1, 1, 48, 48, 48)
    x[..., 8:40, 8:40, 8:40] = 5 + white(32, 32, 32, sigma=0.1)
    assert float(estimate_noise(x, 3)) < 0.01  # more than half is empty: the median is zero
    alone = float(estimate_noise(x[..., 8:40, 8:40, 8:40], 3))
    assert alone == pytest.approx(0.1, rel=0.05)
    assert float(estimate_noise(x, 3, ignore_empty=True)) == pytest.approx(0.1, rel=0.05)
    # The background's value is of no consequence, nor is where the mask ends.
    assert float(estimate_noise(x - 1, 3, ignore_empty=True)) == pytest.approx(0.1, rel=0.05)
    odd = x[..., 1:, 3:, :47]
    assert float(estimate_noise(odd, 3, ignore_empty=True)) == pytest.approx(0.1, rel=0.05)


def test_a_thin_mask_still_gives_an_estimate() -> None:
    x = torch.zeros(1, 1, 48, 48, 48)
    x[..., 20:28, 20:28, :] = white(8, 8, 48)
    assert 0.5 < float(estimate_noise(x, 3, ignore_empty=True)) < 1.5


def test_leaving_out_nothing_changes_little() -> None:
    x = white(2, 1, 40, 40, 40)
    torch.testing.assert_close(
        estimate_noise(x, 3, ignore_empty=True), estimate_noise(x, 3), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("ignore_empty", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.3, -7000.0])
def test_a_constant_image_has_no_noise(value: float, ignore_empty: bool) -> None:
    estimate = estimate_noise(torch.full((2, 1, 12, 9, 7), value), 3, ignore_empty=ignore_empty)
    assert torch.isfinite(estimate).all()
    assert float(estimate.abs().max()) <= 1e-6 * abs(value)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 2, 2), (3, 5, 2), (1, 1, 1)])
def test_short_axes_give_a_finite_estimate(shape: tuple[int, int, int]) -> None:
    estimate = estimate_noise(white(3, 1, *shape), 3)
    assert torch.isfinite(estimate).all()
    assert (estimate >= 0).all()


def test_gradients_do_not_flow_and_types_do_not_matter() -> None:
    x = white(1, 1, 64, 64).requires_grad_()
    assert not estimate_noise(x, 2).requires_grad
    assert float(estimate_noise(x.bfloat16(), 2)) == pytest.approx(float(estimate_noise(x, 2)), rel=0.01)
    double = estimate_noise(x.double(), 2)
    assert double.dtype == torch.float32
