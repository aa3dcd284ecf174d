"""Grids: the field of view is kept exactly, no axis is coarsened, axes are reordered without moving a voxel."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import make_affine, rotation
from srcyc.errors import ConfigError, InputError, NothingToDoError, VolumeError
from srcyc.volumes.geometry import (
    Grid,
    check_affine,
    requested_spacing,
    target_grid,
)

ORIGIN = (-110.5, 78.3063, -72.7575)
#: Spacings 0.9 x 0.859375 x 6.5 mm: neither factor nor field of view is a whole number.
SPACING = (0.9, 0.859375, 6.5)
AXES = {
    "identity": np.eye(3),
    "lps": np.diag([-1.0, -1.0, 1.0]),
    "oblique": rotation(0.31, -0.17, 0.46),
    "oblique flipped": rotation(-0.2, 0.6, 0.1) @ np.diag([1.0, -1.0, -1.0]),
    "permuted": np.eye(3)[:, [2, 0, 1]],
    "left-handed": np.eye(3)[:, [1, 0, 2]] @ np.diag([-1.0, 1.0, 1.0]),
}
SHAPE = (31, 40, 7)


@pytest.fixture(params=AXES, ids=str)
def grid(request: pytest.FixtureRequest) -> Grid:
    return Grid(SHAPE, make_affine(AXES[request.param], SPACING, ORIGIN))


def corners(grid: Grid) -> np.ndarray:
    """Outer corners by hand, from the affine alone."""
    return np.array(
        [
            (grid.affine @ [i, j, k, 1])[:3]
            for i in (-0.5, grid.shape[0] - 0.5)
            for j in (-0.5, grid.shape[1] - 0.5)
            for k in (-0.5, grid.shape[2] - 0.5)
        ]
    )


def test_spacing_is_that_of_the_array_axes(grid: Grid) -> None:
    assert grid.spacing == pytest.approx(SPACING, abs=1e-12)


def test_field_of_view_is_the_outer_corners(grid: Grid) -> None:
    np.testing.assert_allclose(grid.field_of_view, corners(grid), rtol=0, atol=1e-9)


def test_index_and_world_are_inverse(grid: Grid) -> None:
    index = np.array([[0, 0, 0], [3, 5, 1], [-0.5, 39.5, 6.25]])
    world = grid.index_to_world(index)
    np.testing.assert_allclose(world[1], (grid.affine @ [3, 5, 1, 1])[:3], rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.world_to_index(world), index, rtol=0, atol=1e-10)


@pytest.mark.parametrize("target", ["isotropic", 0.8, 0.61, (0.45, 0.7, 1.3), (2.0, 2.0, 1.0)])
def test_target_grid_keeps_the_field_of_view(grid: Grid, target: object) -> None:
    result = target_grid(grid, target)  # type: ignore[arg-type]
    np.testing.assert_allclose(corners(result), corners(grid), rtol=0, atol=1e-9)
    assert result.affine.dtype == np.float64
    directions = grid.affine[:3, :3] / grid.spacing
    np.testing.assert_allclose(result.affine[:3, :3] / result.spacing, directions, rtol=0, atol=1e-12)


@pytest.mark.parametrize("target", ["isotropic", 0.8, (0.45, 0.7, 1.3), (2.0, 2.0, 1.0), (9.0, 0.2, 9.0)])
def test_target_grid_never_coarsens(grid: Grid, target: object) -> None:
    result = target_grid(grid, target)  # type: ignore[arg-type]
    assert all(new >= old for new, old in zip(result.shape, grid.shape, strict=True))
    assert all(new <= old + 1e-12 for new, old in zip(result.spacing, grid.spacing, strict=True))


def test_isotropic_reaches_the_finest_spacing_to_half_a_voxel_over_the_axis(grid: Grid) -> None:
    result = target_grid(grid, "isotropic")
    assert result.shape == (32, 40, 53)  # 31 * 0.9, 40 * 0.859375 and 7 * 6.5 mm over 0.859375 mm
    for n, reached in zip(result.shape, result.spacing, strict=True):
        assert abs(n * reached / 0.859375 - n) <= 0.5


def test_an_axis_that_is_asked_for_what_it_has_is_left_alone(grid: Grid) -> None:
    result = target_grid(grid, (0.9, 0.859375 * 0.9995, 1.0))
    assert result.shape[:2] == SHAPE[:2]
    assert result.shape[2] == 46  # 45.5 mm, round half to even


def test_a_headers_rounding_adds_no_voxel_to_a_long_axis() -> None:
    long = Grid((2000, 4, 4), make_affine(np.eye(3), (1, 1, 2), (0, 0, 0)))
    assert target_grid(long, (0.9995, 1.0, 1.0)).shape == (2000, 4, 8)
    assert target_grid(long, (0.998, 1.0, 1.0)).shape == (2004, 4, 8)


def test_finest_limits_isotropic_but_not_an_explicit_request(grid: Grid) -> None:
    assert target_grid(grid, "isotropic", finest=1.0).shape == (31, 40, 46)
    assert target_grid(grid, 0.5, finest=1.0).shape == (56, 69, 91)


@pytest.mark.parametrize("target", ["isotropic", 1.0, 2.5, (1.0, 1.0, 0.97)])
def test_nothing_to_do(target: object) -> None:
    isotropic = Grid((5, 6, 7), make_affine(np.eye(3), (1, 1, 1), (0, 0, 0)))
    with pytest.raises(NothingToDoError, match="already 1 x 1 x 1 mm"):
        target_grid(isotropic, target)  # type: ignore[arg-type]
    assert issubclass(NothingToDoError, InputError)


def test_finest_can_leave_nothing_to_do() -> None:
    with pytest.raises(NothingToDoError, match="1 x 1 x 1 mm was asked"):
        target_grid(
            Grid((9, 9, 9), make_affine(np.eye(3), (0.5, 0.5, 1), (0, 0, 0))), "isotropic", finest=1.0
        )


@pytest.mark.parametrize(
    "target",
    [
        "isotropisch",
        0,
        -1.0,
        math.nan,
        math.inf,
        1e-300,
        (1.0, 1.0, 1e-4),
        (1.0, 1.0),
        (1.0, 0.0, 1.0),
        (1.0, 1.0, math.nan),
        (),
    ],
)
def test_unusable_spacings_are_refused(target: object) -> None:
    grid = Grid(SHAPE, make_affine(np.eye(3), SPACING, ORIGIN))
    with pytest.raises(ConfigError, match="target_spacing"):
        requested_spacing(grid, target)  # type: ignore[arg-type]


def test_requested_spacing_resolves_every_form() -> None:
    grid = Grid(SHAPE, make_affine(np.eye(3), SPACING, ORIGIN))
    assert requested_spacing(grid, "isotropic") == pytest.approx((0.859375,) * 3)
    assert requested_spacing(grid, 2) == (2.0, 2.0, 2.0)
    assert requested_spacing(grid, [1, 2, 3]) == (1.0, 2.0, 3.0)
    assert requested_spacing(grid, np.array([1.0, 2.0, 3.0])) == (1.0, 2.0, 3.0)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 300)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8.0)] * 3),
    wanted=st.tuples(*[st.floats(0.2, 8.0)] * 3),
    angles=st.tuples(*[st.floats(-3.0, 3.0)] * 3),
)
def test_any_grid_keeps_its_field_of_view(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    wanted: tuple[float, float, float],
    angles: tuple[float, float, float],
) -> None:
    grid = Grid(shape, make_affine(rotation(*angles), spacing, ORIGIN))
    try:
        result = target_grid(grid, wanted)
    except NothingToDoError:
        return
    np.testing.assert_allclose(corners(result), corners(grid), rtol=0, atol=1e-9)
    assert all(new >= old for new, old in zip(result.shape, grid.shape, strict=True))


def test_resized_places_voxels_where_their_parts_were(grid: Grid) -> None:
    finer = grid.resized((93, 80, 35))  # 3 x 2 x 5 parts of each voxel
    first = finer.index_to_world([[i, j, k] for i in range(3) for j in range(2) for k in range(5)])
    np.testing.assert_allclose(first.mean(axis=0), grid.index_to_world((0, 0, 0)), rtol=0, atol=1e-10)
    np.testing.assert_allclose(finer.index_to_world((4, 0, 2)) - finer.index_to_world((1, 0, 2)),
                               grid.affine[:3, 0], rtol=0, atol=1e-10)  # fmt: skip


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_permuted_moves_no_voxel(grid: Grid, order: tuple[int, int, int]) -> None:
    permuted = grid.permuted(order)
    index = np.array([3, 5, 1])
    np.testing.assert_allclose(
        permuted.index_to_world(index[list(order)]), grid.index_to_world(index), rtol=0, atol=1e-12
    )
    assert permuted.shape == tuple(SHAPE[axis] for axis in order)
    back = permuted.permuted(np.argsort(order))
    assert back.shape == grid.shape
    np.testing.assert_array_equal(back.affine, grid.affine)


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_flipped_moves_no_voxel(grid: Grid, axes: tuple[int, ...]) -> None:
    turned = grid.flipped(axes)
    rng = np.random.default_rng(0)
    index = np.array([rng.integers(0, n, 8) for n in grid.shape]).T
    other = index.copy()
    for axis in axes:
        other[:, axis] = grid.shape[axis] - 1 - other[:, axis]
    assert turned.shape == grid.shape
    np.testing.assert_allclose(turned.index_to_world(other), grid.index_to_world(index), atol=1e-9)
    np.testing.assert_allclose(turned.flipped(axes).affine, grid.affine, atol=1e-9)


def test_cropped_moves_no_voxel(grid: Grid) -> None:
    before = grid.affine.copy()
    start, shape = (1, 0, 1), [n - 1 for n in grid.shape]
    part = grid.cropped(start, shape)
    assert part.shape == tuple(shape)
    assert all(type(n) is int for n in part.shape)
    for index in ((0, 0, 0), (shape[0] - 1, 1, shape[2] - 1)):
        np.testing.assert_allclose(
            part.index_to_world(index), grid.index_to_world(np.add(index, start)), atol=1e-9
        )
    assert part.spacing == pytest.approx(grid.spacing)
    np.testing.assert_array_equal(grid.affine, before)


def test_check_affine_gives_a_float64_copy() -> None:
    own = np.diag([1.0, 2.0, 3.0, 1.0]).astype(np.float32)
    checked = check_affine(own, name="scan.nii")
    assert checked.dtype == np.float64
    checked[0, 0] = 7
    assert own[0, 0] == 1


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.eye(3), "not a finite 4 x 4"),
        (np.diag([1.0, math.nan, 1, 1]), "not a finite 4 x 4"),
        (np.diag([1.0, math.inf, 1, 1]), "not a finite 4 x 4"),
        (np.diag([1.0, 1.0, 1.0, 2.0]), "0 0 0 1"),
        (np.zeros((4, 4)), "0 0 0 1"),
        (np.diag([1.0, 0.0, 1.0, 1.0]), "singular"),
        (make_affine(np.array([[1.0, 1, 0], [0, 1e-5, 0], [0, 0, 1]]), (1, 1, 1), (0, 0, 0)), "singular"),
    ],
)
def test_unusable_affines_are_refused(affine: np.ndarray, reason: str) -> None:
    with pytest.raises(VolumeError, match=reason) as error:
        check_affine(affine, name="scan.nii")
    assert "scan.nii" in str(error.value)


def test_fine_and_coarse_spacings_are_not_singular() -> None:
    check_affine(np.diag([1e-4, 2e-4, 50.0, 1.0]), name="microscope")
