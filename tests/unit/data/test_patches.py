from __future__ import annotations

import numpy as np
import pytest
import torch

from srcyc.config import PatchConfig
from srcyc.data.augmentation import draw_contrast, orient
from srcyc.data.patches import SimulatedPatches, TrainingScan, UnpairedPatches, check_sizes
from srcyc.errors import DataError
from srcyc.resampling import resample


def smooth_scan(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int = 0
) -> TrainingScan:
    coarse = torch.from_numpy(
        np.random.default_rng(seed).uniform(0.2, 1, tuple(max(n // 6, 3) for n in shape))
    )
    return TrainingScan(f"scan{seed}", resample(coarse, shape, "cubic").float().numpy(), spacing, 0.01)


HR = [smooth_scan((60, 50, 70), (1, 1, 1), seed) for seed in range(3)]
PLAIN = PatchConfig(size=32, batch_size=2, random_contrast=False, noise_chance=0, gap_chance=0)


def test_a_step_gives_the_same_batch_however_it_is_reached() -> None:
    data = SimulatedPatches(HR, PLAIN, "cubic", seed=5, steps=10)
    data[0]
    first, again = data[7], SimulatedPatches(HR, PLAIN, "cubic", seed=5, steps=10)[7]
    assert torch.equal(first.upscaled, again.upscaled)
    assert torch.equal(first.truth, again.truth)
    assert not torch.equal(first.truth, SimulatedPatches(HR, PLAIN, "cubic", seed=6, steps=10)[7].truth)


def test_factors_cover_the_range_and_the_upscaled_patch_is_the_truth_blurred_in_place() -> None:
    data = SimulatedPatches(HR, PLAIN, "cubic", seed=0, steps=60)
    factors = []
    for step in range(60):
        batch = data[step]
        factors.append(batch.factor)
        assert batch.upscaled.shape == batch.truth.shape
        assert batch.truth.shape[:4] == (2, 1, 32, 32)
        error = [
            float((batch.upscaled - batch.truth.roll(shift, -1))[..., 4:-4].abs().mean())
            for shift in (-1, 0, 1)
        ]
        # METHOD 3.15: a patch shifted against its truth would teach the network to shift.
        assert np.argmin(error) == 1
    assert min(factors) < 2
    assert max(factors) > 6


def test_scans_barely_larger_than_a_patch_give_batches_at_every_factor() -> None:
    scan = smooth_scan((32, 32, 32), (1, 1, 1))
    data = SimulatedPatches([scan], PLAIN, "cubic", seed=0, steps=40)
    for step in range(40):
        batch = data[step]
        assert batch.truth.shape[-1] >= 2 * PLAIN.least_slices - 4
        assert torch.isfinite(batch.upscaled).all()


def test_unpaired_batches_take_the_factor_of_their_lr_scan() -> None:
    lr = [smooth_scan((64, 64, 20), (1, 1, 3), 1), smooth_scan((64, 64, 12), (0.9, 0.9, 5.4), 2)]
    data = UnpairedPatches(lr, HR, PLAIN, seed=0, steps=40)
    seen = set()
    for step in range(40):
        batch = data[step]
        slices, fine = batch.real_lr.shape[-1], batch.real_hr.shape[-1]
        assert batch.factor == pytest.approx(fine / slices)
        assert batch.real_lr.shape[:4] == batch.real_hr.shape[:4] == (2, 1, 32, 32)
        seen.add(round(batch.factor))
    assert seen == {3, 6}


def test_contrast_curves_keep_background_and_carry_bright_voxels() -> None:
    rng = np.random.default_rng(0)
    curves = [curve for curve in (draw_contrast(rng) for _ in range(200)) if curve is not None]
    assert 40 < len(curves) < 120
    values = np.array([0.0, 1.5, 2.5], np.float32)
    for curve in curves:
        mapped = curve(values)
        assert mapped[0] == pytest.approx(0, abs=1e-6)
        assert mapped[2] - mapped[1] == pytest.approx(1.0, abs=1e-5)


def test_orientation_keeps_the_thick_axis_last() -> None:
    image = np.arange(2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)
    turned = orient(image, (True, False, True), transpose=True)
    assert turned.shape == (1, 3, 2, 4)
    assert turned[0, 0, 0, 0] == image[0, 1, 0, 3]


def test_scans_smaller_than_a_patch_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="scan9: 20 x 50 x 70 voxels is smaller"):
        check_sizes([smooth_scan((20, 50, 70), (1, 1, 1), 9)], PLAIN, lr=False)
    check_sizes([smooth_scan((64, 64, 6), (1, 1, 6), 1)], PLAIN, lr=True)
