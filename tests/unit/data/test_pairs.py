from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from srcyc.config import PatchConfig
from srcyc.data.pairs import Placement, gain_of_pair, why_not_a_pair
from srcyc.data.patches import AlignedPatches, Batch
from srcyc.data.store import TrainingScan
from srcyc.physics.acquisition import slice_profile_matrix
from srcyc.physics.resampling import apply_along
from srcyc.volumes.geometry import Grid

SIZE = (24, 24, 6)


def anatomy(world: np.ndarray) -> np.ndarray:
    """Smooth blobs and waves of 15 mm and more, different along every axis; ``(..., 3)`` mm -> normalised intensity."""
    x, y, z = np.moveaxis(world, -1, 0)
    waves = (
        0.12 * np.sin(0.31 * x + 0.4) + 0.1 * np.cos(0.27 * y + 0.11 * z) + 0.12 * np.sin(0.35 * z + 0.1 * x)
    )
    return 0.6 + waves


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        result = result @ turn
    return result


def grid(
    shape: tuple[int, int, int],
    directions: np.ndarray,
    spacing: tuple[float, float, float],
    centre: tuple[float, float, float] = (0, 0, 0),
) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def index(shape: tuple[int, ...]) -> np.ndarray:
    return np.moveaxis(np.indices(shape), 0, -1)


def hr_scan(directions: np.ndarray | None = None, shift: float = 0.0, n: int = 90) -> TrainingScan:
    """Sampled at 1 mm; ``shift`` moves the anatomy against the header by so many mm along world z."""
    place = grid((n, n + 4, n - 6), np.eye(3) if directions is None else directions, (1, 1, 1))
    image = anatomy(place.index_to_world(index(place.shape)) - (0, 0, shift)).astype(np.float32)
    return TrainingScan("hr", image, place, 1.0)


def lr_scan(
    directions: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (0.9, 0.9, 4.0),
    shape: tuple[int, int, int] = (60, 56, 14),
    centre: tuple[float, float, float] = (1.3, -2.2, 0.7),
) -> TrainingScan:
    """Thick slices of the anatomy, each averaged with its Gaussian profile."""
    place = grid(shape, np.eye(3) if directions is None else directions, spacing, centre)
    # Ten points through each slice, and two slices more at either end for the profile's tails.
    fine = grid(
        (shape[0], shape[1], 10 * (shape[2] + 4)),
        np.eye(3) if directions is None else directions,
        (spacing[0], spacing[1], spacing[2] / 10),
        centre,
    )
    profile = slice_profile_matrix(fine.shape[2], (np.arange(shape[2] + 4) + 0.5) * 10, 10.0)[2:-2]
    image = (anatomy(fine.index_to_world(index(fine.shape))) @ profile.T).astype(np.float32)
    return TrainingScan("lr", image, place, 1.0)


OBLIQUE = rotation((12, -8, 20))
PERMUTED = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])
ORIENTATIONS = {
    "as the HR scan": (np.eye(3), np.eye(3)),
    "LR oblique": (OBLIQUE, np.eye(3)),
    "LR permuted and flipped": (PERMUTED, np.eye(3)),
    "HR permuted and flipped, LR oblique": (OBLIQUE, PERMUTED @ rotation((3, 2, 1))),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_the_truth_is_sampled_where_the_patch_lies(name: str) -> None:
    lr_directions, hr_directions = ORIENTATIONS[name]
    lr, hr = lr_scan(lr_directions), hr_scan(hr_directions)
    placement = Placement(lr.grid, hr.grid)
    start, fine = (17, 14, 4), 27
    assert placement.covers(start, SIZE)
    truth = placement.sample(hr.image, start, SIZE, fine)
    # The fine voxels fill the patch's field of view: outer faces coincide.
    patch = Grid(SIZE, lr.grid.affine.copy())
    patch.affine[:3, 3] = lr.grid.index_to_world(start)
    expected = anatomy(patch.resized((24, 24, fine)).index_to_world(index((24, 24, fine))))
    assert truth.shape == (24, 24, fine)
    assert np.abs(truth - expected).max() < 1e-3
    # 2 mm off, it is noticed.
    shifted = placement.sample(hr_scan(hr_directions, shift=2.0).image, start, SIZE, fine)
    assert np.abs(shifted - expected).mean() > 0.02


def upscaled(batch: Batch, item: int) -> np.ndarray:
    """The classical inverse of an item's slices, the planes that count."""
    image = apply_along(batch.real_lr[item, 0], batch.axes[item].upscaling, -1)
    return image[..., batch.counted(item)].numpy()


def truth(batch: Batch, item: int) -> np.ndarray:
    return batch.real_hr[item][0, 0, ..., batch.counted(item)].numpy()


def measured_shift(batch: Batch) -> float:
    """Fit the upscaled patches by the truth, its three derivatives and a constant: the largest shift, fine voxels."""
    shifts = []
    for item in range(len(batch.axes)):
        image, true = upscaled(batch, item), truth(batch, item)
        terms = [true, *np.gradient(true), np.ones_like(true)]
        fit = np.linalg.lstsq(np.stack([term.ravel() for term in terms], 1), image.ravel(), rcond=None)[0]
        shifts.append(float(np.linalg.norm(fit[1:4] / fit[0])))
    return max(shifts)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_batches_of_pairs_are_aligned(name: str) -> None:
    lr_directions, hr_directions = ORIENTATIONS[name]
    config = PatchConfig(size=24, batch_size=2, slices=(6, 8))
    for shift, low, high in ((0.0, 0.0, 0.3), (2.0, 1.5, 3.0)):
        pair = (lr_scan(lr_directions), hr_scan(hr_directions, shift))
        data = AlignedPatches([pair], config, seed=0, steps=3)
        for step in range(3):
            batch = data[step]
            assert batch.aligned
            assert batch.axes[0].factor == pytest.approx(4 / 0.9, rel=0.03)
            assert low <= measured_shift(batch) < high


def test_the_truth_has_the_brightness_of_the_slices() -> None:
    config = PatchConfig(size=24, batch_size=2, slices=(6, 8))
    hr = hr_scan()
    brighter = replace(hr, image=1.3 * hr.image)
    assert gain_of_pair(lr_scan(), brighter) == pytest.approx(1 / 1.3, rel=0.003)
    plain, corrected = (AlignedPatches([(lr_scan(), scan)], config, 0, 1)[0] for scan in (hr, brighter))
    for one, other in zip(plain.real_hr, corrected.real_hr, strict=True):
        torch.testing.assert_close(one, other)
    air = replace(hr, image=np.zeros_like(hr.image))
    assert gain_of_pair(lr_scan(), air) == 1


def test_at_the_edge_of_the_hr_scan_the_crop_does_not_matter() -> None:
    hr = hr_scan()
    # The same voxels: nothing is interpolated, up to the outermost.
    lr = TrainingScan("lr", hr.image, hr.grid, 1.0)
    truth = Placement(lr.grid, hr.grid).sample(hr.image, (0, 0, 60), (24, 24, 24), 24)
    np.testing.assert_allclose(truth, hr.image[:24, :24, 60:84], atol=2e-6)


def test_patches_are_drawn_only_where_the_hr_scan_is() -> None:
    hr = hr_scan()
    # Half of the LR scan lies beyond the HR scan.
    lr = lr_scan(OBLIQUE, centre=(38.0, 2.0, 0.7))
    placement = Placement(lr.grid, hr.grid)
    starts = {tuple(start) for start in placement.covered_starts(SIZE)}
    every = [
        tuple(start)
        for start in np.argwhere(np.ones([n - s + 1 for n, s in zip(lr.image.shape, SIZE, strict=True)]))
    ]
    assert 0 < len(starts) < len(every) / 2
    assert starts == {start for start in every if placement.covers(start, SIZE)}
    data = AlignedPatches([(lr, hr)], PatchConfig(size=24, batch_size=8, slices=(6, 6)), 0, 3)
    for step in range(3):
        batch = data[step]
        for item in range(8):
            assert float(np.abs(upscaled(batch, item) - truth(batch, item)).mean()) < 0.02


def test_a_single_covered_place_is_found() -> None:
    hr = hr_scan()
    place = grid((60, 56, 14), np.eye(3), (1, 1, 4))
    # The HR scan's first voxel coincides with LR voxel (36, 32, 8): just one patch fits.
    place.affine[:3, 3] = hr.grid.affine[:3, 3] - place.affine[:3, :3] @ (36, 32, 8) + (0, 0, 1.5)
    image = anatomy(place.index_to_world(index(place.shape))).astype(np.float32)
    lr = TrainingScan("lr", image, place, 1.0)
    assert Placement(place, hr.grid).covered_starts(SIZE).tolist() == [[36, 32, 8]]
    batch = AlignedPatches([(lr, hr)], PatchConfig(size=24, batch_size=1, slices=(6, 6)), 0, 1)[0]
    assert torch.isfinite(batch.real_hr[0]).all()


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_an_aligned_pair_is_accepted(name: str) -> None:
    lr_directions, hr_directions = ORIENTATIONS[name]
    assert why_not_a_pair(lr_scan(lr_directions), hr_scan(hr_directions), SIZE) is None


def test_a_pair_that_is_not_aligned_is_refused() -> None:
    reason = why_not_a_pair(lr_scan(), hr_scan(shift=10.0), SIZE)
    assert reason is not None
    assert "lr and hr: not aligned in world coordinates" in reason
    assert "register it first" in reason


def test_a_pair_with_little_overlap_is_refused() -> None:
    reason = why_not_a_pair(lr_scan(centre=(50.0, 0, 0)), hr_scan(), SIZE)
    assert reason is not None
    assert "of the LR scan's field of view, less than 50%" in reason


def test_a_pair_without_room_for_a_patch_or_without_tissue_is_refused() -> None:
    reason = why_not_a_pair(lr_scan(), hr_scan(), (58, 56, 6))
    assert reason is None
    reason = why_not_a_pair(lr_scan(), hr_scan(), (61, 56, 6))
    assert reason is not None
    assert "no training patch of 61 x 56 x 6 voxels" in reason
    lr = lr_scan()
    air = TrainingScan("air", np.zeros_like(lr.image), lr.grid, 1.0)
    assert "not aligned" in str(why_not_a_pair(air, hr_scan(), SIZE))
