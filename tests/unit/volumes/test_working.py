"""Preparation: however a file stores a scan, the networks see the same, and nothing moves in the world."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch

from factories import make_affine, rotation
from srcyc.volumes.geometry import Grid, thick_axis
from srcyc.volumes.volume import Volume
from srcyc.volumes.working import WorkingOrder, prepare

#: R, A, S in any order, each either way.
ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
SPACING = np.array([1.0, 1.1, 3.0])


def canonical(seed: int = 0) -> Volume:
    """A scan along R, A, S with thick slices along S; no two voxels are alike."""
    data = np.random.default_rng(seed).uniform(-5, 95, (1, 5, 6, 4)).astype(np.float32)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-7, 12, 30)
    return Volume(data, affine)


def stored(volume: Volume, order: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same voxels at the same places of the world, as another file would store them."""
    grid, data = volume.grid, volume.data[0].transpose(order)
    affine = grid.permuted(order).affine
    for axis, sign in enumerate(signs):
        if sign < 0:
            data = np.flip(data, axis)
            affine[:3, 3] += (data.shape[axis] - 1) * affine[:3, axis]
            affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(data)[None], affine)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_the_networks_see_the_same_however_it_is_stored(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    volume = canonical()
    reference, found = prepare(volume), prepare(stored(volume, order, signs))
    assert np.array_equal(found.image, reference.image)
    assert found.scaling == reference.scaling
    np.testing.assert_allclose(found.grid.affine, reference.grid.affine, atol=1e-12)
    # Along R, A, S, slices last: nothing was to be turned in the first place.
    np.testing.assert_allclose(reference.grid.affine, volume.affine, atol=1e-12)
    expected = (volume.data[0] - found.scaling.offset) / found.scaling.scale
    np.testing.assert_allclose(reference.image, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_the_way_back_is_the_file_s_order(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    volume = stored(canonical(), order, signs)
    scan = prepare(volume)
    back = scan.order.undo(torch.from_numpy(scan.image))
    assert back.flags.c_contiguous
    assert back.shape == volume.shape
    np.testing.assert_allclose(scan.scaling.invert(back), volume.data[0], rtol=0, atol=1e-4)
    assert np.array_equal(
        scan.order.undo(torch.from_numpy(scan.order.apply(volume.data[0]).copy())), volume.data[0]
    )
    assert scan.image.shape == scan.grid.shape
    # A finer grid over the same field of view is turned as the scan is.
    fine = volume.grid.resized([2 * n for n in volume.shape])
    turned = scan.order.grid(fine)
    np.testing.assert_allclose(turned.affine, scan.grid.resized(turned.shape).affine, atol=1e-12)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_voxels_stay_where_they_are_in_the_world(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Also of an oblique scan, whose axes lie near R, A and S only."""
    volume = canonical()
    turn = np.eye(4)
    angle = np.radians(20)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    scan = stored(Volume(volume.data, turn @ volume.affine), order, signs)
    working = prepare(scan)
    for index in product((0, 3), (1, 4), (0, 2)):
        raw = float(working.scaling.invert(working.image[index]))
        place = np.round(scan.grid.world_to_index(working.grid.index_to_world(index)), 6)
        i, j, k = (int(n) for n in place)
        assert np.abs(place - (i, j, k)).max() < 1e-5
        assert scan.data[0, i, j, k] == pytest.approx(raw, abs=1e-3)
    directions = working.grid.affine[:3, :3] / working.grid.spacing
    assert (np.diag(directions) > 0.9).all()
    assert working.grid.spacing == pytest.approx(tuple(SPACING))


@pytest.mark.parametrize(
    ("spacing", "thick", "order"),
    [
        ((1, 1, 5), 2, (0, 1, 2)),
        ((1, 5, 0.9), 1, (0, 2, 1)),
        ((5, 0.9, 1), 0, (1, 2, 0)),
        ((1, 1, 1), 2, (0, 1, 2)),
        ((2, 2, 1), 1, (0, 2, 1)),
        ((1.00001, 1, 1), 2, (0, 1, 2)),  # a header's rounding is no thick axis
    ],
)
def test_working_order_puts_the_thick_axis_last(
    spacing: tuple[float, float, float], thick: int, order: tuple[int, int, int]
) -> None:
    grid = Grid((4, 5, 6), make_affine(rotation(0.1, 0.2, 0.3), spacing))
    assert thick_axis(grid) == thick
    assert WorkingOrder.of(grid).order == order


@pytest.mark.parametrize(
    ("columns", "order", "flips"),
    [
        ([(-1, 0, 0), (0, 1, 0), (0, 0, 5)], (0, 1, 2), (0,)),
        ([(0, -1, 0), (0, 0, 1), (5, 0, 0)], (0, 1, 2), (0,)),  # sagittal slices: A, S within
        ([(0, 0, 1), (1, 0, 0), (0, -5, 0)], (1, 0, 2), (2,)),
        ([(0, 0.7071, 0.7071), (0, -0.7071, 0.7071), (-5, 0, 0)], (0, 1, 2), (1, 2)),
        # A header's last digit decides nothing at 45 degrees.
        ([(0, 0.70710, 0.70711), (0, -0.70711, 0.70710), (-5, 0, 0)], (0, 1, 2), (1, 2)),
    ],
)
def test_axes_are_turned_towards_r_a_s(
    columns: list[tuple[float, float, float]], order: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(columns)
    grid = Grid((4, 5, 6), affine)
    assert WorkingOrder.of(grid) == WorkingOrder(order, flips)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_the_scan_handed_in_stays_as_it_is(dtype: type) -> None:
    for order, signs in (((0, 1, 2), (1, 1, 1)), ((2, 1, 0), (-1, 1, 1))):
        volume = stored(canonical(), order, signs)
        volume = Volume(volume.data.astype(dtype), volume.affine)
        before, affine = volume.data.copy(), volume.affine.copy()
        working = prepare(volume)
        assert working.image.dtype == np.float32
        assert not np.shares_memory(working.image, volume.data)
        working.image[:] = 1
        assert np.array_equal(volume.data, before)
        assert np.array_equal(volume.affine, affine)


def test_a_constant_scan_keeps_its_value() -> None:
    working = prepare(Volume(np.full((1, 4, 4, 4), 7.0, np.float32), np.eye(4)))
    assert np.array_equal(working.scaling.invert(working.image), np.full((4, 4, 4), 7.0))
