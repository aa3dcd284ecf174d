"""Simulated thick slices lie at the right place in the world, and so does the truth they are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from srcyc.errors import ConfigError
from srcyc.physics.simulation import Spoiling, crop_volume, simulate_thick, thick_grid
from srcyc.volumes.geometry import Grid
from srcyc.volumes.volume import Volume

OBLIQUE = np.array([[0.8, -0.6, 0.0], [0.36, 0.48, -0.8], [0.48, 0.64, 0.6]])
AXES = {
    "identity": np.eye(3),
    "lps": np.diag([-1.0, -1.0, 1.0]),
    "head to foot": np.diag([1.0, 1.0, -1.0]),
    "oblique": OBLIQUE,
    "oblique flipped": OBLIQUE @ np.diag([-1.0, 1.0, -1.0]),
    "permuted": np.eye(3)[:, [2, 0, 1]],
}
SPACING = (1.0, 1.1, 0.9)
SHAPE = (26, 31, 28)


def make_affine(axes: np.ndarray, spacing: Sequence[float] = SPACING) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing)
    affine[:3, 3] = (-80.25, 12.5, 40.125)
    return affine


def make_volume(axes: np.ndarray, data: np.ndarray | None = None) -> Volume:
    if data is None:
        data = np.random.default_rng(0).uniform(0, 500, (1, *SHAPE))
    return Volume(data.astype(np.float32), make_affine(axes), source=Path("fine.nii.gz"))


@pytest.fixture(params=AXES, ids=str)
def volume(request: pytest.FixtureRequest) -> Volume:
    return make_volume(AXES[request.param])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [3.0, 4.3, 6.5])
def test_scan_and_truth_cover_the_same_field_of_view(volume: Volume, axis: int, spacing: float) -> None:
    thick, truth = simulate_thick(volume, spacing, axis=axis)
    np.testing.assert_allclose(thick.grid.field_of_view, truth.grid.field_of_view, rtol=0, atol=1e-9)
    others = [a for a in range(3) if a != axis]
    assert [thick.shape[a] for a in others] == [volume.shape[a] for a in others]
    # Whole fine voxels are left out, evenly on both sides.
    left_out = volume.shape[axis] - truth.shape[axis]
    inner = volume.grid.index_to_world(np.eye(3)[axis] * (left_out // 2))
    np.testing.assert_allclose(truth.affine[:3, 3], inner, rtol=0, atol=1e-9)
    assert left_out * volume.spacing[axis] < spacing + volume.spacing[axis]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_truth_is_the_sources_voxels_at_their_world_positions(volume: Volume, axis: int) -> None:
    _, truth = simulate_thick(volume, 4.7, axis=axis)
    index = np.argwhere(np.ones(truth.shape, dtype=bool))[::7]
    there = volume.grid.world_to_index(truth.grid.index_to_world(index))
    np.testing.assert_allclose(there, np.rint(there), rtol=0, atol=1e-9)
    i, j, k = np.rint(there).astype(int).T
    np.testing.assert_array_equal(truth.data[0][tuple(index.T)], volume.data[0][i, j, k])
    assert truth.shape[axis] < volume.shape[axis]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [3.0, 4.3])
def test_a_world_coordinate_is_seen_where_it_is(axis: int, spacing: float) -> None:
    """A volume that holds each voxel's own position: the scan must hold its slices' positions."""
    grid = Grid(SHAPE, make_affine(OBLIQUE))
    positions = grid.index_to_world(np.argwhere(np.ones(SHAPE, dtype=bool))).reshape(*SHAPE, 3)
    for component in range(3):
        volume = make_volume(OBLIQUE, positions[None, ..., component])
        thick, _ = simulate_thick(volume, spacing, axis=axis)
        index = np.argwhere(np.ones(thick.shape, dtype=bool))
        expected = thick.grid.index_to_world(index)[:, component].reshape(thick.shape)
        inside = tuple(slice(2, -2) if a == axis else slice(None) for a in range(3))
        np.testing.assert_allclose(thick.data[0][inside], expected[inside], rtol=0, atol=2e-3)


@pytest.mark.parametrize("spacing", [2.0, 3.0, 4.0, 5.0, 6.5])
def test_spacing_reached_is_the_one_asked_to_half_a_fine_voxel_over_the_stack(spacing: float) -> None:
    thick, truth = simulate_thick(make_volume(np.eye(3)), spacing)
    slices, own = thick.shape[2], SPACING[2]
    assert abs(slices * thick.spacing[2] - slices * spacing) <= own / 2 + 1e-9
    assert thick.spacing[2] * slices == pytest.approx(truth.shape[2] * own)
    assert slices == int(SHAPE[2] * own / spacing + 1e-6)


@pytest.mark.parametrize(("thickness", "spacing"), [(None, 5.0), (5.0, 5.0), (3.0, 5.0), (4.0, 8.0)])
def test_slice_thickness_is_that_of_the_profile_in_mm(thickness: float | None, spacing: float) -> None:
    """Measured from impulses in a 0.1 mm object: the middle slice's answer along the axis."""
    n, own = 400, 0.1
    affine = make_affine(np.eye(3), (1, 1, own))
    impulses = Volume(np.eye(n, dtype=np.float32)[None, None], affine)  # one object a row of J
    thick, _ = simulate_thick(impulses, spacing, thickness=thickness, axis=2)
    profile = thick.data[0, 0, :, thick.shape[2] // 2]
    width = own * np.count_nonzero(profile > profile.max() / 2)
    assert width == pytest.approx(thickness or spacing, abs=0.11)
    assert thick.slice_thickness == pytest.approx(thickness or spacing, rel=1e-3)


def test_the_default_axis_is_head_foot() -> None:
    for name, expected in (("identity", 2), ("head to foot", 2), ("permuted", 0)):
        thick, _ = simulate_thick(make_volume(AXES[name]), 5.0)
        changed = [a for a in range(3) if thick.shape[a] != SHAPE[a]]
        assert changed == [expected], name


def test_the_scan_is_a_float_volume_of_its_own(volume: Volume) -> None:
    before = volume.data.copy()
    thick, truth = simulate_thick(volume, 4.0)
    assert thick.data.dtype == np.float32
    assert thick.stored_dtype == np.float32
    assert thick.source == volume.source
    thick.data[...] = 0
    np.testing.assert_array_equal(volume.data, before)
    assert truth.slice_thickness is None


def test_intensity_is_kept(volume: Volume) -> None:
    thick, truth = simulate_thick(volume, 4.3)
    assert thick.data.mean() == pytest.approx(truth.data.mean(), rel=0.01)
    assert thick.data.std() < truth.data.std()


def test_crop_volume_keeps_voxels_in_place(volume: Volume) -> None:
    cropped = crop_volume(volume, 1, slice(4, 20))
    assert cropped.shape == (SHAPE[0], 16, SHAPE[2])
    np.testing.assert_array_equal(cropped.data[0, 3, 5], volume.data[0, 3, 9])
    np.testing.assert_allclose(
        cropped.grid.index_to_world((3, 5, 2)), volume.grid.index_to_world((3, 9, 2)), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(
    ("spacing", "options", "reason"),
    [
        (0.9, {}, "not thicker"),
        (0.5, {}, "not thicker"),
        (math.nan, {}, "not thicker"),
        (-3.0, {}, "not thicker"),
        (13.0, {}, "fewer than two"),
        (math.inf, {}, "fewer than two"),
        (0.905, {}, "whole voxels"),
        (4.0, {"axis": 3}, "slice axis 3"),
        (4.0, {"axis": -1}, "slice axis -1"),
        (4.0, {"thickness": 0.0}, "0, 2"),
        (4.0, {"thickness": 9.0}, "0, 2"),
    ],
)
def test_impossible_simulations_are_refused(spacing: float, options: dict, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        simulate_thick(make_volume(np.eye(3)), spacing, **options)


def test_thick_grid_tells_which_voxels_it_covers() -> None:
    grid, kept = thick_grid(Grid(SHAPE, make_affine(np.eye(3))), 4.0, 1)  # 34.1 mm: 8 slices, 29 voxels of 31
    assert (grid.shape, kept) == ((26, 8, 28), slice(1, 30))
    assert grid.spacing[1] == pytest.approx(29 * 1.1 / 8)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gain_jitter_changes_whole_slices_alone_and_leaves_black(axis: int) -> None:
    data = np.full((1, *SHAPE), 400.0)
    data[:, :13] = 100.0  # black is not 0
    volume = make_volume(np.eye(3), data)
    clean, _ = simulate_thick(volume, 4.0, axis=axis)
    spoiled, _ = simulate_thick(volume, 4.0, axis=axis, spoiling=Spoiling(jitter=0.05))
    signal, changed = (np.moveaxis(x.data[0], axis, 2) - 100 for x in (clean, spoiled))
    head = signal > 50
    for number in range(signal.shape[2]):
        inside = head[..., number]
        if inside.any():
            ratio = changed[..., number][inside] / signal[..., number][inside]
            assert np.ptp(ratio) < 1e-4
    np.testing.assert_allclose(changed[signal < 0.01], 0, atol=1e-2)
    assert np.abs(changed - signal).max() > 1


def test_noise_is_as_large_as_asked_and_the_seed_fixes_it() -> None:
    volume = make_volume(np.eye(3))
    scale = np.ptp(volume.data)  # uniform: its robust range is nearly that
    clean, _ = simulate_thick(volume, 4.0)
    first, again, other = (
        simulate_thick(volume, 4.0, spoiling=Spoiling(noise=0.02, seed=seed))[0].data for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.std(first - clean.data) == pytest.approx(0.02 * scale, rel=0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blur_spreads_a_point_within_its_slice(axis: int) -> None:
    data = np.zeros((1, *SHAPE))
    data[0, 13, 15, 14] = 100.0
    volume = make_volume(np.eye(3), data)
    clean, _ = simulate_thick(volume, 4.0, axis=axis)
    blurred, _ = simulate_thick(volume, 4.0, axis=axis, spoiling=Spoiling(blur=2.0))
    before, after = (np.moveaxis(x.data[0].astype(float), axis, 2) for x in (clean, blurred))
    # Brightness stays in its slice, and spreads with the variance of the Gaussian, and of the voxels averaged over.
    np.testing.assert_allclose(after.sum(axis=(0, 1)), before.sum(axis=(0, 1)), rtol=1e-4, atol=1e-4)
    image = after.sum(axis=2)
    for along in (0, 1):
        line = image.sum(axis=1 - along) / image.sum()
        position = np.arange(len(line))
        spread = (line * (position - (line * position).sum()) ** 2).sum()
        assert spread == pytest.approx((2.0 / 2.3548) ** 2 + 1 / 12, rel=0.02)


def test_a_box_is_sharper_than_a_gaussian_of_its_width() -> None:
    volume = make_volume(np.eye(3), np.random.default_rng(0).uniform(0, 100, (1, *SHAPE)))
    gaussian, box, nearly = (
        simulate_thick(volume, 4.0, spoiling=Spoiling(box=shape))[0].data for shape in (0.0, 1.0, 0.01)
    )
    assert box.std() > 1.05 * gaussian.std()
    assert np.abs(nearly - gaussian).max() < 0.01 * np.abs(box - gaussian).max()


def test_nothing_asked_is_nothing_spoiled() -> None:
    volume = make_volume(np.eye(3))
    clean, spoiled = simulate_thick(volume, 4.0)[0], simulate_thick(volume, 4.0, spoiling=Spoiling(seed=5))[0]
    np.testing.assert_array_equal(clean.data, spoiled.data)


@pytest.mark.parametrize("wrong", [{"jitter": -0.1}, {"noise": 1.0}, {"jitter": math.nan}])
def test_impossible_faults_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        Spoiling(**wrong)


@pytest.mark.parametrize("wrong", [{"blur": -1.0}, {"blur": math.inf}, {"box": 1.1}, {"box": math.nan}])
def test_an_impossible_blur_or_shape_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Spoiling(**wrong)
