"""Resampling: exact against PyTorch, SciPy and SimpleITK, and true to what each operator promises."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates

from srcyc.errors import ConfigError
from srcyc.physics.resampling import apply_along, area_matrix, cubic_matrix, linear_matrix, mirrored, resample

MODES = ("linear", "cubic", "area")
SIZES = [(1, 4), (2, 5), (3, 3), (4, 9), (7, 26), (12, 5), (12, 6), (25, 24), (40, 181)]
TORCH_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def positions(n_in: int, n_out: int) -> np.ndarray:
    """Centres of the output voxels in input indices: outer faces coincide."""
    return (np.arange(n_out) + 0.5) * n_in / n_out - 0.5


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((9,), (36,)),
        ((9,), (23,)),
        ((9,), (5,)),
        ((1,), (4,)),
        ((8, 5), (16, 15)),
        ((8, 5), (11, 23)),
        ((6, 7, 4), (6, 14, 20)),
        ((6, 7, 4), (9, 10, 27)),
        ((6, 7, 4), (3, 10, 4)),
    ],
)
def test_linear_is_torchs(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, size=size, mode=TORCH_MODES[len(shape)], align_corners=False)
    torch.testing.assert_close(resample(x, size, "linear"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
def test_cubic_is_scipys_spline(n_in: int, n_out: int) -> None:
    """SciPy's recursive filter is itself inexact on short axes, so it gets the mirrored copies written out."""
    x = np.random.default_rng(1).standard_normal(n_in)
    copies = 2 * (20 // n_in + 1)  # a whole number of periods on either side
    extended = np.concatenate([x, x[::-1]] * (copies + 1))
    expected = map_coordinates(extended, [positions(n_in, n_out) + copies * n_in], order=3, mode="reflect")
    np.testing.assert_allclose(cubic_matrix(n_in, n_out) @ x, expected, rtol=0, atol=1e-8)


def test_cubic_is_simpleitks_bspline_inside() -> None:
    """At the border ITK mirrors about voxel centres; that has died out ten voxels in."""
    fine, x = 4, np.random.default_rng(2).standard_normal(40)
    image = sitk.GetImageFromArray(np.tile(x, (5, 5, 1)))
    centre = 1 / (2 * fine) - 0.5
    origin, spacing = (centre, 2, 2), (1 / fine, 1, 1)
    bspline = sitk.Resample(image, (40 * fine, 1, 1), sitk.Transform(), sitk.sitkBSpline, origin, spacing)
    expected = sitk.GetArrayFromImage(bspline)[0, 0]
    inside = slice(10 * fine, -10 * fine)
    np.testing.assert_allclose((cubic_matrix(40, 40 * fine) @ x)[inside], expected[inside], rtol=0, atol=2e-5)


@pytest.mark.parametrize("n_out", [96, 100, 117, 211])
def test_cubic_reproduces_cubic_polynomials_inside(n_out: int) -> None:
    def polynomial(t: np.ndarray) -> np.ndarray:
        return 2 - 0.3 * t + 0.02 * t**2 + 0.001 * t**3

    inside = slice(n_out // 3, -n_out // 3)  # the mirrored border's influence falls by 0.27 a voxel
    result = cubic_matrix(48, n_out) @ polynomial(np.arange(48.0))
    np.testing.assert_allclose(result[inside], polynomial(positions(48, n_out))[inside], rtol=1e-7)


@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
@pytest.mark.parametrize("matrix", [linear_matrix, cubic_matrix, area_matrix])
def test_constants_stay_constant(matrix: object, n_in: int, n_out: int) -> None:
    weights = matrix(n_in, n_out)  # type: ignore[operator]
    assert weights.shape == (n_out, n_in)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 31])
@pytest.mark.parametrize("matrix", [linear_matrix, cubic_matrix, area_matrix])
def test_the_same_size_is_the_identity(matrix: object, n: int) -> None:
    np.testing.assert_allclose(matrix(n, n), np.eye(n), rtol=0, atol=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("odd", [3, 5])
@pytest.mark.parametrize("n", [2, 3, 4, 9])
def test_cubic_interpolates_at_old_centres_of_odd_factors(odd: int, n: int) -> None:
    x = np.random.default_rng(3).standard_normal(n)
    np.testing.assert_allclose((cubic_matrix(n, odd * n) @ x)[odd // 2 :: odd], x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size", [60, 61, 83])
def test_a_ramp_stays_where_it_is(mode: str, size: int) -> None:
    x = torch.arange(30, dtype=torch.float64)
    inside = slice(size // 3, -size // 3)
    expected = torch.from_numpy(positions(30, size))
    torch.testing.assert_close(resample(x, (size,), mode)[inside], expected[inside], rtol=0, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n_in", "n_out"), [(12, 6), (12, 5), (40, 7), (25, 24)])
def test_area_preserves_the_mean(n_in: int, n_out: int) -> None:
    np.testing.assert_allclose(area_matrix(n_in, n_out).mean(axis=0), 1 / n_in, rtol=1e-12)
    assert (area_matrix(n_in, n_out) >= 0).all()


def test_area_by_hand() -> None:
    np.testing.assert_allclose(area_matrix(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(area_matrix(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])


def test_area_is_adaptive_pooling_for_whole_factors() -> None:
    x = torch.randn(1, 2, 8, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        resample(x, (4, 3, 3), "area"), F.adaptive_avg_pool3d(x, (4, 3, 3)), rtol=0, atol=1e-12
    )


def test_mirrored_is_about_the_outer_faces() -> None:
    assert mirrored(np.arange(-4, 7), 3).tolist() == [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]
    assert mirrored(np.arange(-3, 4), 1).tolist() == [0] * 7
    np.testing.assert_array_equal(mirrored(np.arange(-9, 14), 5), np.pad(np.arange(5), 9, mode="symmetric"))


@pytest.mark.parametrize("mode", MODES)
def test_gradient_is_the_adjoint(mode: str) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 1, 5, 4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    y = resample(x, (4, 7, 15), mode)  # type: ignore[arg-type]
    cotangent = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad(y, x, cotangent)
    torch.testing.assert_close((y * cotangent).sum(), (x * gradient).sum(), rtol=1e-12, atol=0)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("mode", MODES)
def test_memory_layout_does_not_matter(mode: str) -> None:
    x = torch.randn(2, 3, 5, 4, 6, generator=torch.Generator().manual_seed(6))
    expected = resample(x, (3, 8, 7), mode)  # type: ignore[arg-type]
    strided = torch.zeros(2, 3, 5, 4, 12)[..., ::2].copy_(x)
    for other in (x.to(memory_format=torch.channels_last_3d), strided):
        assert not other.is_contiguous()
        result = resample(other, (3, 8, 7), mode)  # type: ignore[arg-type]
        assert result.is_contiguous()
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_type_is_kept_and_low_precision_does_not_round_the_weights(dtype: torch.dtype) -> None:
    x = torch.linspace(0.1, 1, 300).reshape(1, 1, 300).to(dtype)
    result = resample(x, (731,), "cubic")
    assert result.dtype == dtype
    exact = resample(x.double(), (731,), "cubic")
    rounding = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps / 2)
    assert ((result.double() - exact).abs() / exact).max() <= rounding


def test_autocast_does_not_reach_it() -> None:
    x = torch.randn(1, 1, 20, generator=torch.Generator().manual_seed(7))
    with torch.autocast("cpu", torch.bfloat16):
        result = resample(x, (33,), "cubic")
    torch.testing.assert_close(result, resample(x, (33,), "cubic"), rtol=0, atol=0)


def test_only_the_last_axes_are_resampled() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(8))
    result = resample(x, (10,), "linear")
    assert result.shape == (2, 3, 4, 10)
    torch.testing.assert_close(result[1, 2, 3], resample(x[1, 2, 3], (10,), "linear"))
    assert apply_along(x, np.ones((1, 3)), 1).shape == (2, 1, 4, 5)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="'nearest'"):
        resample(torch.zeros(1, 1, 4), (8,), "nearest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one"):
        resample(torch.zeros(1, 1, 4, 4), (8, 0), "linear")
