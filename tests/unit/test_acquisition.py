"""The acquisition operator: slices lie where they should, are as thick as they should be, and A has its exact kin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift

from srcyc.acquisition import Acquisition, slice_profile_matrix
from srcyc.errors import ConfigError
from srcyc.resampling import resample

#: fine voxels, slices: even, odd and fractional factors.
SAMPLINGS = [(48, 12), (60, 12), (48, 16), (45, 10), (61, 13)]
OPERATORS = [
    Acquisition((7, 6, 24), (7, 6, 6)),
    Acquisition((7, 6, 23), (7, 6, 5), 0.7),
    Acquisition((8, 24, 9), (8, 7, 9), 1.0),
    Acquisition((9, 8, 26), (6, 5, 6), 0.8),
    Acquisition((10, 24), (10, 5), 0.5),
    Acquisition((8, 8, 20), (8, 8, 10), 2.0),
]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def smooth_phantom(shape: tuple[int, ...], width: float, seed: int) -> np.ndarray:
    image = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), width, mode="wrap")
    return image / image.std()


@pytest.mark.parametrize(("fine", "slices"), SAMPLINGS)
@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0])
def test_a_ramp_is_seen_at_the_slabs_centres(fine: int, slices: int, ratio: float) -> None:
    """METHOD 3.15: alignment to a small fraction of a voxel."""
    ramp = torch.arange(fine, dtype=torch.float64).expand(2, 3, fine)
    seen = Acquisition((2, 3, fine), (2, 3, slices), ratio).apply(ramp)
    centres = (torch.arange(slices, dtype=torch.float64) + 0.5) * (fine / slices) - 0.5
    inside = slice(3, -3)  # where the profile's tails lie inside the object
    assert (seen - centres)[..., inside].abs().max() < 1e-3
    # The ends lose a tail each, symmetrically.
    torch.testing.assert_close(seen[..., 0], fine - 1 - seen[..., -1], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("fine", "slices"), [(96, 24), (96, 16), (96, 32), (96, 21), (97, 20)])
def test_interpolation_is_best_without_a_shift(fine: int, slices: int) -> None:
    """METHOD 3.15: a shift sweep of what cubic interpolation makes of a simulated scan peaks at zero."""
    half = smooth_phantom((8, 8, fine), width=2.0, seed=fine + slices)
    truth = np.concatenate(
        [half, half[..., ::-1]]
    )  # each object and its mirror image: chance prefers no side
    operator = Acquisition(truth.shape, (16, 8, slices))
    interpolated = resample(operator.apply(torch.from_numpy(truth)), truth.shape, "cubic").numpy()
    psnr = {}
    for offset in (-1.0, -0.5, -0.25, -0.1, -0.05, 0.0, 0.05, 0.1, 0.25, 0.5, 1.0):
        moved = shift(interpolated, (0, 0, offset), order=3, mode="nearest")
        error = (moved - truth)[:, :, 12:-12]
        psnr[offset] = -10 * math.log10(np.mean(error**2))
    assert max(psnr, key=lambda offset: psnr[offset]) == 0.0
    assert psnr[0.0] > psnr[0.5] + 0.1
    assert psnr[0.0] > psnr[-0.5] + 0.1


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_adjoint_identity(operator: Acquisition) -> None:
    x = random(2, *operator.fine_shape)
    y = random(2, *operator.scan_shape, seed=1)
    forward, backward = (operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum()
    assert abs(float(forward - backward)) <= 1e-10 * float(x.norm() * y.norm())
    assert abs(float(forward)) > 1e-3


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_autograd_gives_the_adjoint(operator: Acquisition) -> None:
    x = random(*operator.fine_shape).requires_grad_()
    y = random(*operator.scan_shape, seed=1)
    (gradient,) = torch.autograd.grad(operator.apply(x), x, y)
    torch.testing.assert_close(gradient, operator.adjoint(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_pseudo_inverse_explains_every_scan(operator: Acquisition) -> None:
    y = random(*operator.scan_shape)
    torch.testing.assert_close(operator.apply(operator.pseudo_inverse(y)), y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_pseudo_inverse_adds_nothing_that_the_scanner_cannot_see(operator: Acquisition) -> None:
    """A^+ y lies in the range of A^T (Penrose), so it is the smallest explanation."""
    y, other = random(*operator.scan_shape), random(*operator.fine_shape, seed=2)
    invisible = other - operator.pseudo_inverse(operator.apply(other))
    assert operator.apply(invisible).abs().max() < 1e-9
    explanation = operator.pseudo_inverse(y)
    assert abs(float((explanation * invisible).sum())) <= 1e-9 * float(explanation.norm() * invisible.norm())
    assert invisible.norm() > 0.1 * other.norm()


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_correct_makes_an_image_consistent(operator: Acquisition) -> None:
    x, y = random(*operator.fine_shape), random(*operator.scan_shape, seed=1)
    corrected = operator.correct(x, y)
    assert operator.residual(x, y) > 0.1
    assert operator.residual(corrected, y) < 1e-9
    torch.testing.assert_close(operator.correct(corrected, y), corrected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_correct_leaves_consistent_images_alone(operator: Acquisition) -> None:
    x = random(*operator.fine_shape)
    torch.testing.assert_close(operator.correct(x, operator.apply(x)), x, rtol=0, atol=1e-12)


def test_correct_in_float32_is_consistent_to_rounding() -> None:
    operator = Acquisition((8, 8, 60), (8, 8, 12))
    x, y = random(1, 1, 8, 8, 60).float(), random(1, 1, 8, 8, 12, seed=1).float()
    corrected = operator.correct(x, y)
    assert corrected.dtype == torch.float32
    assert operator.residual(corrected, y) < 1e-5


def test_profiles_thinner_than_a_fine_voxel_lie_within_an_eighth_of_it() -> None:
    """The fine voxels are constant inside: what falls into one is seen at its centre."""
    seen = slice_profile_matrix(50, 47, 0.5 * 50 / 47) @ np.arange(50.0)
    centres = (np.arange(47) + 0.5) * 50 / 47 - 0.5
    assert np.abs(seen - centres)[1:-1].max() < 0.125


def full_width_at_half_maximum(profile: np.ndarray) -> float:
    """By linear interpolation between samples one voxel apart."""
    half, top = profile.max() / 2, int(profile.argmax())
    left = np.flatnonzero(profile[:top] < half)[-1]
    right = top + np.flatnonzero(profile[top:] < half)[0]
    start = left + (half - profile[left]) / (profile[left + 1] - profile[left])
    end = right - (half - profile[right]) / (profile[right - 1] - profile[right])
    return float(end - start)


@pytest.mark.parametrize("ratio", [0.4, 0.6, 0.8, 1.0, 1.5])
@pytest.mark.parametrize("factor", [20, 22.5])
def test_gaps_narrow_the_profile_to_the_slice_thickness(factor: float, ratio: float) -> None:
    """The answer of a middle slice to impulses all along the axis is its profile, as wide as the slice is thick."""
    slices = 8
    fine = round(factor * slices)
    impulses = torch.eye(fine, dtype=torch.float64)  # one object a row
    profile = Acquisition((1, fine), (1, slices), ratio).apply(impulses)[:, 3].numpy()
    assert full_width_at_half_maximum(profile) == pytest.approx(ratio * factor, rel=0.02)
    assert float(np.sum(profile * np.arange(fine))) == pytest.approx(3.5 * factor - 0.5, abs=0.02)


@pytest.mark.parametrize(("fine", "slices"), [*SAMPLINGS, (50, 47), (300, 2), (9, 9)])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0, 2.0])
def test_profiles_are_means(fine: int, slices: int, ratio: float) -> None:
    matrix = slice_profile_matrix(fine, slices, ratio * fine / slices)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], rtol=0, atol=1e-12)


def test_the_ratio_is_the_slice_axis_business_alone() -> None:
    """A coarser in-plane axis has no gaps between its voxels."""
    x = random(9, 8, 30)
    both = Acquisition((9, 8, 30), (6, 8, 6), 0.5).apply(x)
    in_plane = Acquisition((9, 8, 30), (6, 8, 30)).apply(x)
    torch.testing.assert_close(both, Acquisition((6, 8, 30), (6, 8, 6), 0.5).apply(in_plane))
    named = Acquisition((9, 8, 30), (6, 8, 6), 0.5, slice_axis=0).apply(x)
    assert (named - both).abs().max() > 1e-3
    narrow = Acquisition((9, 8, 30), (6, 8, 30), 0.5).apply(x)
    torch.testing.assert_close(named, Acquisition((6, 8, 30), (6, 8, 6)).apply(narrow))
    torch.testing.assert_close(named, Acquisition((9, 8, 30), (6, 8, 6), 0.5, slice_axis=-3).apply(x))


def test_axes_as_fine_as_the_scan_are_left_alone() -> None:
    x = random(5, 4, 6)
    same = Acquisition((5, 4, 6), (5, 4, 6), 0.5)
    assert torch.equal(same.apply(x), x)
    assert torch.equal(same.correct(x, x), x)


def test_residual_is_relative() -> None:
    operator = Acquisition((4, 20), (4, 5))
    x, y = torch.ones(4, 20), torch.full((4, 5), 2.0)
    assert operator.residual(x, y) == pytest.approx(0.5)
    assert operator.residual(1000 * x, 1000 * y) == pytest.approx(0.5)
    assert operator.residual(0 * x, 0 * y) == 0.0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (((4, 4, 8), (4, 4)), "equal dimensions"),
        (((4, 4, 8), (4, 4, 9)), "cannot be finer"),
        (((4, 4, 8), (4, 4, 4), 0.0), "0, 2"),
        (((4, 4, 8), (4, 4, 4), -1.0), "0, 2"),
        (((4, 4, 8), (4, 4, 4), 2.1), "2.1"),
        (((4, 4, 8), (4, 4, 4), math.nan), "nan"),
        (((4, 4, 8), (4, 4, 4), 1.0, 3), "slice axis 3"),
    ],
)
def test_impossible_acquisitions_are_refused(arguments: tuple, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Acquisition(*arguments)
