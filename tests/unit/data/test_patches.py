from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from srcyc.config import PatchConfig
from srcyc.data.augmentation import draw_contrast, orient
from srcyc.data.patches import (
    AlignedPatches,
    Batch,
    Patches,
    Share,
    SimulatedPatches,
    UnpairedPatches,
)
from srcyc.data.store import TrainingScan
from srcyc.errors import ConfigError, DataError
from srcyc.resampling import resample


def smooth_scan(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int = 0
) -> TrainingScan:
    coarse = torch.from_numpy(
        np.random.default_rng(seed).uniform(0.2, 1, tuple(max(n // 6, 3) for n in shape))
    )
    return TrainingScan(f"scan{seed}", resample(coarse, shape, "cubic").float().numpy(), spacing, 0.01)


HR = [smooth_scan((60, 50, 70), (1, 1, 1), seed) for seed in range(3)]
LR = [smooth_scan((64, 64, 20), (1, 1, 3), 1), smooth_scan((64, 64, 12), (0.9, 0.9, 5.4), 2)]
PLAIN = PatchConfig(size=32, batch_size=2, random_contrast=False, noise_chance=0, gap_chance=0)
#: All that is random is on.
VARIED = PatchConfig(size=24, batch_size=4, noise_chance=0.5, gap_chance=0.5)
KINDS = ["simulated", "aligned", "unpaired"]
WHOLE = Share()


def dataset(kind: str, config: PatchConfig, seed: int = 5, steps: int = 40, share: Share = WHOLE) -> Patches:
    if kind == "simulated":
        return SimulatedPatches(HR, config, "cubic", seed, steps, share)
    if kind == "unpaired":
        return UnpairedPatches(LR, HR, config, "cubic", seed, steps, share)
    pairs = [(lr, smooth_scan((64, 64, 64), (1, 1, 1), n)) for n, lr in enumerate(LR)]
    return AlignedPatches(pairs, config, "cubic", seed, steps, share)


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def assert_equal(one: Batch, other: Batch) -> None:
    assert (one.factor, one.thickness_ratio, one.aligned) == (
        other.factor,
        other.thickness_ratio,
        other.aligned,
    )
    for name, value in tensors(one).items():
        assert torch.equal(value, tensors(other)[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_gives_the_same_batch_however_it_is_reached(kind: str) -> None:
    data = dataset(kind, VARIED)
    data[0]
    first = data[7]
    assert_equal(first, dataset(kind, VARIED)[7])
    assert not torch.equal(first.real_hr, dataset(kind, VARIED, seed=6)[7].real_hr)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_draw_together_what_one_draws(kind: str) -> None:
    whole = dataset(kind, VARIED)
    shares = [dataset(kind, VARIED, share=Share(rank, 2)) for rank in range(2)]
    for step in range(6):
        parts = [share[step] for share in shares]
        joined = {name: torch.cat([tensors(part)[name] for part in parts]) for name in tensors(parts[0])}
        for name, value in tensors(whole[step]).items():
            assert torch.equal(value, joined[name]), name
        assert parts[0].factor == parts[1].factor == whole[step].factor
        assert parts[0].thickness_ratio == parts[1].thickness_ratio == whole[step].thickness_ratio


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size=4 cannot be shared by 3 processes"):
        dataset("simulated", VARIED, share=Share(0, 3))


def test_items_of_a_batch_are_drawn_independently_of_each_other_and_of_the_step() -> None:
    # To NumPy the seeds [a, b] and [a, b, 0] are one: an item must not repeat the draws of its step.
    seen: list[float] = []

    class Recording(SimulatedPatches):
        def prepare(self, rng: np.random.Generator) -> Any:
            seen.append(rng.random())
            return super().prepare(rng)

        def _draw(self, rng: np.random.Generator, *others: Any) -> Any:
            seen.append(rng.random())
            return super()._draw(rng, *others)

    data = Recording(HR, VARIED, "cubic", 0, 5)
    for step in range(5):
        data[step]
    assert len(set(seen)) == len(seen) == 5 * (1 + 4)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_factor_agree(kind: str) -> None:
    data = dataset(kind, VARIED)
    for step in range(20):
        batch = data[step]
        slices, fine = batch.real_lr.shape[-1], batch.real_hr.shape[-1]
        assert batch.real_lr.shape == (4, 1, 24, 24, slices)
        assert batch.upscaled.shape == batch.real_hr.shape == (4, 1, 24, 24, fine)
        assert batch.factor == fine / slices
        assert batch.sigma_lr.shape == batch.sigma_hr.shape == (4,)
        assert batch.aligned == (kind != "unpaired")
        assert all(
            value.dtype == torch.float32 and value.isfinite().all() for value in tensors(batch).values()
        )


def ramp_scan(shape: tuple[int, int, int]) -> TrainingScan:
    """Intensity rises linearly along every axis, by other amounts."""
    i, j, k = np.indices(shape, dtype=np.float64)
    image = 0.3 + 0.002 * i + 0.003 * j + 0.005 * k
    return TrainingScan("ramp", image.astype(np.float32), (1, 1, 1), 0.01)


# In voxels: a thin slice's profile is as narrow as a fine voxel, so its integral over voxels is a little off centre.
@pytest.mark.parametrize(("gap_chance", "tolerance"), [(0.0, 0.005), (1.0, 0.03)])
def test_on_a_ramp_simulated_slices_their_interpolation_and_the_truth_agree_in_position(
    gap_chance: float, tolerance: float
) -> None:
    # METHOD 3.15. A slice of a ramp is the ramp's value at the slab's centre, whatever the factor; linear
    # interpolation of a ramp, with a slice of context beyond the patch, is the ramp.
    config = PLAIN.model_copy(update={"size": 24, "gap_chance": gap_chance})
    data = SimulatedPatches([ramp_scan((120, 130, 140))], config, "linear", seed=0, steps=60)
    factors = set()
    for step in range(60):
        batch = data[step]
        factors.add(batch.factor)
        fine, slices = batch.real_hr.shape[-1], batch.real_lr.shape[-1]
        # The slab's centre in fine voxel indices, and the truth there.
        centre = (np.arange(slices) + 0.5) * batch.factor - 0.5
        first = batch.real_hr[..., :1].double()
        slope = (batch.real_hr[..., -1:].double() - first) / (fine - 1)
        expected = first + slope * torch.from_numpy(centre)
        allowed = tolerance * slope.abs() + 2e-6
        assert bool(((batch.real_lr - expected).abs() < allowed).all())
        assert bool(((batch.upscaled - batch.real_hr).abs() < allowed).all())
    assert len({round(factor % 1, 3) for factor in factors}) > 10
    assert min(factors) < 2
    assert max(factors) > 6


def shifted_errors(batch: Batch) -> list[float]:
    return [
        float((batch.upscaled - batch.real_hr.roll(shift, -1))[..., 4:-4].abs().mean())
        for shift in (-1, 0, 1)
    ]


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_factors_cover_the_range_and_the_upscaled_patch_is_the_truth_blurred_in_place(
    interpolation: str,
) -> None:
    data = SimulatedPatches(HR, PLAIN, interpolation, seed=0, steps=60)  # type: ignore[arg-type]
    factors = []
    for step in range(60):
        batch = data[step]
        factors.append(batch.factor)
        assert np.argmin(shifted_errors(batch)) == 1
    assert min(factors) < 2
    assert max(factors) > 6


@pytest.mark.parametrize("kind", ["simulated", "unpaired"])
def test_the_upscaled_patch_interpolates_the_slices(kind: str) -> None:
    """Without context it is the plain resampling; with it, the same away from the ends."""
    data = dataset(kind, PLAIN)
    for step in range(20):
        batch = data[step]
        plain = resample(batch.real_lr, batch.upscaled.shape[2:], "cubic")
        difference = (plain - batch.upscaled).abs()
        # The influence of a slice falls by 0.27 per slice: only ends may differ.
        ends = 2 * int(np.ceil(batch.factor))
        inner = difference[..., ends:-ends] if difference.shape[-1] > 2 * ends else difference[..., :0]
        assert inner.numel() == 0 or float(inner.max()) < 0.03
        assert float(difference.mean()) < 0.02


@pytest.mark.parametrize("kind", ["aligned", "unpaired"])
def test_real_slices_have_the_context_of_their_scan(kind: str) -> None:
    """A scan linear along its slices: between slice centres the line is met, beyond the outer ones continued."""
    slices = np.broadcast_to(0.2 + 0.02 * np.arange(16), (30, 30, 16)).astype(np.float32)
    lr = TrainingScan("line", slices, (1, 1, 3.3), 0.01)
    hr = TrainingScan("hr", np.full((140, 140, 140), 0.5, np.float32), (1, 1, 1), 0.01)
    config = PLAIN.model_copy(update={"size": 24, "batch_size": 1})
    data: Patches
    if kind == "aligned":
        data = AlignedPatches([(lr, hr)], config, "linear", seed=0, steps=40)
    else:
        data = UnpairedPatches([lr], [hr], config, "linear", seed=0, steps=40)
    continued = []
    for step in range(40):
        batch = data[step]
        thick, line = batch.real_lr[0, 0, 0, 0].double(), batch.upscaled[0, 0, 0, 0].double()
        position = (torch.arange(len(line)) + 0.5) / batch.factor - 0.5
        wrong = (line - (thick[0] + (thick[1] - thick[0]) * position)).abs() > 3e-6
        assert not wrong[(position >= 0) & (position <= len(thick) - 1)].any()
        # A patch at an end of the scan has nothing beyond it: there the edge value holds.
        continued.append((not wrong[position < 0].any(), not wrong[position > len(thick) - 1].any()))
    assert {(True, True), (True, False), (False, True)} == set(continued)


def test_scans_barely_larger_than_a_patch_give_batches_at_every_factor() -> None:
    scan = smooth_scan((32, 32, 32), (1, 1, 1))
    data = SimulatedPatches([scan], PLAIN, "cubic", seed=0, steps=40)
    for step in range(40):
        batch = data[step]
        assert batch.real_hr.shape[-1] >= 2 * PLAIN.least_slices - 4
        assert torch.isfinite(batch.upscaled).all()


def test_unpaired_batches_take_the_factor_of_their_lr_scan() -> None:
    data = UnpairedPatches(LR, HR, PLAIN, "cubic", seed=0, steps=40)
    assert {round(data[step].factor, 1) for step in range(40)} == {3.0, 6.0}


def test_where_hr_scans_are_short_fewer_slices_are_taken_at_the_same_factor() -> None:
    hr = [smooth_scan((32, 32, 32), (1, 1, 1))]
    lr = [smooth_scan((40, 40, 10), (1, 1, 7.5))]
    batch = UnpairedPatches(lr, hr, PLAIN, "cubic", seed=0, steps=1)[0]
    assert batch.factor == pytest.approx(7.5)
    assert batch.real_lr.shape[-1] == 4


def test_mostly_empty_patches_are_redrawn() -> None:
    image = np.zeros((96, 96, 96), np.float32)
    image[:60, :60, :60] = 0.7
    scan = TrainingScan("corner", image, (1, 1, 1), 0.01)
    config = PLAIN.model_copy(update={"batch_size": 8, "factor_range": (2.0, 2.0)})
    batches = [SimulatedPatches([scan], config, "cubic", 0, 10)[step] for step in range(10)]
    filled = torch.cat([(batch.real_hr > 0.1).float().mean(dim=(1, 2, 3, 4)) for batch in batches])
    # Drawn blindly, six in ten would hold that much.
    assert (filled > 0.1).float().mean() > 0.9


def test_contrast_noise_and_gaps_are_drawn_as_configured() -> None:
    off = dataset("simulated", PLAIN)
    assert {off[step].thickness_ratio for step in range(10)} == {1.0}
    gaps = dataset("simulated", PLAIN.model_copy(update={"gap_chance": 1.0}))
    assert all(0.6 <= gaps[step].thickness_ratio < 1 for step in range(10))
    noisy = dataset("simulated", PLAIN.model_copy(update={"noise_chance": 1.0, "largest_noise": 0.5}))
    assert not torch.equal(noisy[0].real_lr, off[0].real_lr)
    assert torch.equal(noisy[0].real_hr[0], off[0].real_hr[0])


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_travel_to_worker_processes(kind: str) -> None:
    data = dataset(kind, VARIED, steps=3)
    assert_equal(pickle.loads(pickle.dumps(data))[1], data[1])  # noqa: S301 - our own bytes
    for step, batch in enumerate(DataLoader(data, batch_size=None, num_workers=1)):
        assert_equal(batch, data[step])


def test_a_pair_without_a_common_patch_is_refused_by_name() -> None:
    lr = smooth_scan((64, 64, 20), (1, 1, 3), 1)
    hr = smooth_scan((30, 30, 30), (1, 1, 1), 2)
    with pytest.raises(DataError, match=r"scan1: no training patch of 32 x 32 x 11 voxels lies within scan2"):
        AlignedPatches([(lr, hr)], PLAIN, "cubic", 0, 1)[0]


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
