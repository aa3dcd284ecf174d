"""The acquisition operator: slices lie where they should, are as thick as they should be, and A has its exact kin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift

from srcyc.errors import ConfigError
from srcyc.physics.acquisition import Acquisition, AxisAcquisition, relative_residual, slice_profile_matrix
from srcyc.physics.resampling import area_matrix, cubic_matrix, resample

#: fine voxels, slices: even, odd and fractional factors.
SAMPLINGS = [(48, 12), (60, 12), (48, 16), (45, 10), (61, 13)]
#: Factors from 1 to 9, and profiles with gaps, contiguous and overlapping.
AXES = [(12, 12, 1.0), (13, 12, 0.8), (30, 16, 0.6), (45, 13, 1.0), (50, 8, 0.8), (81, 9, 1.1), (20, 10, 1.5)]
#: Eigenvalues of A A^T are inverted down to this share of their mean; a result is off by about as much.
REGULARISATION = 1e-4
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


@pytest.mark.parametrize("method", ["spline", "classical inverse"])
@pytest.mark.parametrize(("fine", "slices"), [(96, 24), (96, 16), (96, 32), (96, 21), (97, 20)])
def test_what_a_scan_is_brought_back_to_is_best_without_a_shift(fine: int, slices: int, method: str) -> None:
    """METHOD 3.15: a shift sweep of what is made of a simulated scan peaks at zero."""
    half = smooth_phantom((8, 8, fine), width=2.0, seed=fine + slices)
    truth = np.concatenate(
        [half, half[..., ::-1]]
    )  # each object and its mirror image: chance prefers no side
    operator = Acquisition(truth.shape, (16, 8, slices))
    scan = operator.apply(torch.from_numpy(truth))
    found = resample(scan, truth.shape, "cubic") if method == "spline" else operator.upscale(scan)
    psnr = {}
    for offset in (-1.0, -0.5, -0.25, -0.1, -0.05, 0.0, 0.05, 0.1, 0.25, 0.5, 1.0):
        moved = shift(found.numpy(), (0, 0, offset), order=3, mode="nearest")
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


# -- along one axis --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fine", "scan", "ratio"), AXES)
def test_pseudo_inverse_is_the_regularised_formula(fine: int, scan: int, ratio: float) -> None:
    """A^+ = A^T (A A^T + lambda I)^-1, lambda being a share of the mean eigenvalue."""
    axis = AxisAcquisition.of(fine, scan, ratio)
    values, vectors = np.linalg.eigh(axis.matrix @ axis.matrix.T)
    inverse = vectors @ np.diag(1 / (values + REGULARISATION * values.mean())) @ vectors.T
    np.testing.assert_allclose(axis.pseudo_inverse, axis.matrix.T @ inverse, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("fine", "scan", "ratio"), AXES[:-1])
def test_pseudo_inverse_explains_every_scan_with_nothing_that_the_scanner_cannot_see(
    fine: int, scan: int, ratio: float
) -> None:
    """A A^+ = I, but for the regularisation: an eigenvalue's answer is short of lambda over that value. And A^+ y lies
    in the range of A^T (Penrose), so it is the smallest explanation."""
    axis = AxisAcquisition.of(fine, scan, ratio)
    y, other = random(scan).numpy(), random(fine, seed=2).numpy()
    explanation, invisible = axis.pseudo_inverse @ y, axis.null_space @ other
    assert np.linalg.norm(axis.matrix @ explanation - y) < 30 * REGULARISATION * np.linalg.norm(y)
    product = abs(float(explanation @ invisible))
    assert product <= 30 * REGULARISATION * np.linalg.norm(explanation) * np.linalg.norm(other)


@pytest.mark.parametrize(("fine", "scan", "ratio"), AXES)
def test_the_classical_inverse_is_the_spline_corrected(fine: int, scan: int, ratio: float) -> None:
    axis = AxisAcquisition.of(fine, scan, ratio)
    y = np.random.default_rng(0).standard_normal(scan)
    spline = cubic_matrix(scan, fine) @ y
    expected = spline + axis.pseudo_inverse @ (y - axis.matrix @ spline)
    np.testing.assert_allclose(axis.upscaling @ y, expected, rtol=0, atol=1e-9)
    # A M y = y: the scan is reproduced, whatever it shows, within the regularisation.
    assert np.linalg.norm(axis.matrix @ axis.upscaling @ y - y) < 2e-2 * np.linalg.norm(y)
    smooth = np.cos(np.linspace(0, 5, scan))
    assert np.linalg.norm(axis.matrix @ axis.upscaling @ smooth - smooth) < 5e-4 * np.linalg.norm(smooth)


@pytest.mark.parametrize(("fine", "scan", "ratio"), AXES[:-1])
def test_the_projection_is_one_and_the_scan_does_not_see_what_it_leaves(
    fine: int, scan: int, ratio: float
) -> None:
    axis = AxisAcquisition.of(fine, scan, ratio)
    p = axis.null_space
    np.testing.assert_allclose(p, p.T, rtol=0, atol=1e-9)
    assert np.abs(p @ p - p).max() < 10 * REGULARISATION
    assert np.abs(axis.matrix @ p).max() < 10 * REGULARISATION
    # Nothing is lost but what the scan sees: as many dimensions as the object has more than the scan.
    assert np.trace(p) == pytest.approx(fine - scan, abs=0.1)


def test_the_multi_axis_operator_is_the_axes_matrices() -> None:
    operator = Acquisition((9, 8, 26), (6, 5, 6), 0.8)
    i, j, k = operator.axes
    assert [axis.thickness_ratio for axis in operator.axes] == [1.0, 1.0, 0.8]
    x, y = random(9, 8, 26), random(6, 5, 6)
    for found, given, name in (
        (operator.apply(x), x, "matrix"),
        (operator.upscale(y), y, "upscaling"),
    ):
        matrices = [torch.from_numpy(getattr(axis, name)) for axis in (i, j, k)]
        expected = torch.einsum("ijk,ai,bj,ck->abc", given, *matrices)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_an_axis_is_looked_up_and_its_matrices_are_computed_once() -> None:
    assert AxisAcquisition.of(40, 8, 0.7) is AxisAcquisition.of(40, 8, 0.7)
    assert AxisAcquisition.of(40, 8, 0.7) is not AxisAcquisition.of(40, 8, 0.8)
    axis = AxisAcquisition.of(40, 8, 0.7)
    assert axis.matrix is axis.matrix
    assert axis.factor == 5.0


@pytest.mark.parametrize("factor", np.round(np.linspace(1.1, 9, 14), 2))
@pytest.mark.parametrize("ratio", [0.6, 1.0])
def test_any_real_factor_has_its_operator(factor: float, ratio: float) -> None:
    """Of a smooth object, the classical inverse finds back nearly all, at every factor alike."""
    scan = 12
    fine = round(scan * factor)
    axis = AxisAcquisition.of(fine, scan, ratio)
    assert axis.factor == pytest.approx(factor, abs=0.5 / scan)
    smooth = np.cos(np.pi * 2 * (np.arange(fine) + 0.5) / fine)
    found = axis.upscaling @ (axis.matrix @ smooth)
    assert np.abs(found - smooth).max() < 0.02
    np.testing.assert_allclose(axis.matrix.sum(axis=1), 1, rtol=0, atol=1e-12)


# -- the slice profile -----------------------------------------------------------------------------------------


def test_profiles_thinner_than_a_fine_voxel_lie_within_an_eighth_of_it() -> None:
    """The fine voxels are constant inside: what falls into one is seen at its centre."""
    centres = (np.arange(47) + 0.5) * 50 / 47
    seen = slice_profile_matrix(50, centres, 0.5 * 50 / 47) @ np.arange(50.0)
    assert np.abs(seen + 0.5 - centres)[1:-1].max() < 0.125


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


@pytest.mark.parametrize("box", [0.0, 0.1, 0.5, 0.8, 0.97, 1.0])
@pytest.mark.parametrize("fwhm", [40.0, 63.7])
def test_a_profile_of_any_shape_is_as_wide_as_said(box: float, fwhm: float) -> None:
    (profile,) = slice_profile_matrix(401, [200.5], fwhm, box=box)
    assert full_width_at_half_maximum(profile) == pytest.approx(fwhm, rel=0.01)
    np.testing.assert_allclose(profile, profile[::-1], rtol=0, atol=1e-12)


def test_the_ends_of_the_range_of_shapes_are_a_gaussian_and_a_box() -> None:
    centre, fwhm = 50.5, 20.0
    gaussian, box = (slice_profile_matrix(101, [centre], fwhm, box=box)[0] for box in (0.0, 1.0))
    offset = np.arange(101) + 0.5 - centre
    fine = np.exp(-4 * math.log(2) * (np.linspace(0, 101, 101 * 200 + 1) - centre) ** 2 / fwhm**2)
    exact = np.array([fine[200 * i : 200 * i + 201].mean() for i in range(101)])
    np.testing.assert_allclose(gaussian, exact / exact.sum(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(box, (np.abs(offset) < 10) / 20 + 0.5 * (np.abs(offset) == 10) / 20, atol=1e-4)


@pytest.mark.parametrize("phase", [0.0, 0.1, 0.37, 0.5, 0.93])
@pytest.mark.parametrize("fwhm", [1.0, 2.6, 5.0])
def test_a_box_covers_voxels_by_their_share_wherever_it_lies(phase: float, fwhm: float) -> None:
    """Sub-voxel phases: what a box profile sees of a voxel is their overlap."""
    centre = 10 + phase
    edges = np.arange(21)
    overlap = np.clip(
        np.minimum(edges[1:], centre + fwhm / 2) - np.maximum(edges[:-1], centre - fwhm / 2), 0, None
    )
    (profile,) = slice_profile_matrix(20, [centre], fwhm, box=1.0)
    np.testing.assert_allclose(profile, overlap / fwhm, rtol=0, atol=2e-3)


def test_contiguous_boxes_are_the_area_mean() -> None:
    centres = (np.arange(7) + 0.5) * 45 / 7
    boxes = slice_profile_matrix(45, centres, 45 / 7, box=1.0)
    np.testing.assert_allclose(boxes, area_matrix(45, 7), rtol=0, atol=1e-3)


@pytest.mark.parametrize("box", [-0.1, 1.1, math.nan])
def test_a_shape_that_is_none_is_refused(box: float) -> None:
    with pytest.raises(ConfigError, match=r"0 \(Gaussian\) and 1 \(box\)"):
        slice_profile_matrix(10, [5.0], 2.0, box=box)


@pytest.mark.parametrize(("fine", "slices"), [*SAMPLINGS, (50, 47), (300, 2), (9, 9)])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("box", [0.0, 0.4, 1.0])
def test_profiles_are_means(fine: int, slices: int, ratio: float, box: float) -> None:
    centres = (np.arange(slices) + 0.5) * fine / slices
    matrix = slice_profile_matrix(fine, centres, ratio * fine / slices, box=box)
    assert matrix.shape == (slices, fine)
    assert (matrix >= -1e-12).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], rtol=0, atol=1e-9)


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


def test_residual_is_relative() -> None:
    operator = Acquisition((4, 20), (4, 5))
    x, y = torch.ones(4, 20), torch.full((4, 5), 2.0)
    assert operator.residual(x, y) == pytest.approx(0.5)
    assert operator.residual(1000 * x, 1000 * y) == pytest.approx(0.5)
    assert operator.residual(0 * x, 0 * y) == 0.0
    assert relative_residual(x, 0 * x) == pytest.approx(float(x.norm()))
    # In float64: a large scan's squares do not fit float32's digits.
    many = torch.full((3_000_000,), 1.0)
    assert relative_residual(many * 1.001, many) == pytest.approx(0.001, rel=1e-4)


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
