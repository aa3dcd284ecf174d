from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from factories import training_scan
from srcyc.config import PatchConfig, SpoilConfig
from srcyc.data.augmentation import draw_contrast, draw_softness, orient, soften
from srcyc.data.patches import (
    AlignedPatches,
    Batch,
    Patches,
    SimulatedPatches,
    UnpairedPatches,
)
from srcyc.data.store import TrainingScan
from srcyc.errors import DataError
from srcyc.physics.acquisition import AxisAcquisition
from srcyc.physics.resampling import apply_along, resample


def smooth_scan(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = (1, 1, 1),
    seed: int = 0,
    ratio: float = 0.8,
) -> TrainingScan:
    coarse = torch.from_numpy(
        np.random.default_rng(seed).uniform(0.2, 1, tuple(max(n // 6, 3) for n in shape))
    )
    return training_scan(f"scan{seed}", resample(coarse, shape, "cubic").float().numpy(), spacing, ratio)


HR = [smooth_scan((60, 50, 70), (1, 1, 1), seed) for seed in range(3)]
LR = [
    smooth_scan((64, 64, 20), (1, 1, 3), 1, ratio=0.9),
    smooth_scan((64, 64, 12), (0.9, 0.9, 5.4), 2, ratio=0.7),
]
CLEAN = SpoilConfig(chance=0, told_chance=0, profile_chance=0)
PLAIN = PatchConfig(size=32, slices=(4, 6), batch_size=2, random_contrast=False, gap_chance=0, spoil=CLEAN)
#: All that is random is on.
VARIED = PatchConfig(size=24, slices=(4, 8), batch_size=4, soft_chance=0.5)
SOFT = PLAIN.model_copy(update={"soft_chance": 1.0})
KINDS = ["simulated", "aligned", "unpaired"]


def dataset(
    kind: str, config: PatchConfig, seed: int = 5, steps: int = 40, items: range | None = None
) -> Patches:
    if kind == "simulated":
        return SimulatedPatches(HR, config, seed, steps, items)
    if kind == "unpaired":
        return UnpairedPatches(LR, HR, config, seed, steps, items)
    pairs = [(lr, smooth_scan((64, 64, 64), (1, 1, 1), n)) for n, lr in enumerate(LR)]
    return AlignedPatches(pairs, config, seed, steps, items)


def assert_equal(one: Batch, other: Batch) -> None:
    assert (one.axes, one.aligned) == (other.axes, other.aligned)
    assert torch.equal(one.real_lr, other.real_lr)
    assert torch.equal(one.noise, other.noise)
    assert len(one.real_hr) == len(other.real_hr)
    assert all(torch.equal(a, b) for a, b in zip(one.real_hr, other.real_hr, strict=True))


def acquired(batch: Batch, item: int) -> Tensor:
    """What the operator told makes of an item's truth, ``(1, I, J, S)``."""
    return apply_along(batch.real_hr[item][0], batch.axes[item].matrix, -1)


# -- the seed, the step and the item -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_gives_the_same_batch_however_it_is_reached(kind: str) -> None:
    data = dataset(kind, VARIED)
    data[0]
    first = data[7]
    assert_equal(first, dataset(kind, VARIED)[7])
    other = dataset(kind, VARIED, seed=6)[7]
    assert first.real_lr.shape != other.real_lr.shape or not torch.equal(first.real_lr, other.real_lr)
    assert len(data) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_standard_normal_and_each_items_own(kind: str) -> None:
    batch = dataset(kind, VARIED)[3]
    assert batch.noise.shape == batch.real_lr.shape and batch.noise.dtype == torch.float32
    assert abs(float(batch.noise.mean())) < 0.05 and abs(float(batch.noise.std()) - 1) < 0.05
    assert not torch.equal(batch.noise[0], batch.noise[1])
    assert not torch.equal(batch.noise.flatten()[:99], dataset(kind, VARIED)[4].noise.flatten()[:99])


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_draw_together_what_one_draws(kind: str) -> None:
    whole = dataset(kind, VARIED)
    shares = [dataset(kind, VARIED, items=items) for items in (range(2), range(2, 4))]
    for step in range(6 if kind != "aligned" else 2):
        first, second = (share[step] for share in shares)
        joined = Batch(
            torch.cat([first.real_lr, second.real_lr]),
            first.real_hr + second.real_hr,
            first.axes + second.axes,
            first.aligned,
            torch.cat([first.noise, second.noise]),
        )
        assert_equal(joined, whole[step])


def test_items_of_a_batch_are_drawn_independently_of_each_other_and_of_the_step() -> None:
    # To NumPy the seeds [a, b] and [a, b, 0] are one: an item must not repeat the draws of its step.
    seen: list[float] = []

    class Recording(SimulatedPatches):
        def prepare(self, rng: np.random.Generator, step: int) -> Any:
            seen.append(rng.random())
            return super().prepare(rng, step)

        def _draw(self, rng: np.random.Generator, *others: Any) -> Any:
            seen.append(rng.random())
            return super()._draw(rng, *others)

    data = Recording(HR, VARIED, 0, 5)
    for step in range(5):
        data[step]
    assert len(set(seen)) == len(seen) == 5 * (1 + 4)


# -- what a batch holds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_operators_agree(kind: str) -> None:
    data = dataset(kind, VARIED)
    numbers = set()
    for step in range(20 if kind != "aligned" else 8):
        batch = data[step]
        slices = batch.real_lr.shape[-1]
        numbers.add(slices)
        assert batch.real_lr.shape == (4, 1, 24, 24, slices)
        assert batch.real_lr.dtype == torch.float32 and batch.real_lr.isfinite().all()
        for image, axis in zip(batch.real_hr, batch.axes, strict=True):
            assert image.shape == (1, 1, 24, 24, axis.fine)
            assert axis.scan == slices
            assert image.dtype == torch.float32 and image.isfinite().all()
        assert batch.aligned == (kind != "unpaired")
    assert {4, 8} <= numbers <= set(range(4, 9)) or (kind == "aligned" and len(numbers) > 2)


@pytest.mark.parametrize(
    ("fine", "slices", "planes"),
    [
        (32, 8, slice(4, 28)),
        (33, 8, slice(5, 28)),
        (8, 8, slice(1, 7)),
        (27, 3, slice(9, 18)),
        (12, 2, slice(5, 7)),  # both slices are ends: the middle counts
        (8, 1, slice(3, 5)),
    ],
)
def test_one_slice_at_either_end_does_not_count(fine: int, slices: int, planes: slice) -> None:
    axes = (AxisAcquisition.of(9, 3), AxisAcquisition.of(fine, slices))
    empty = torch.zeros(2, 1, 1, 1, slices)
    batch = Batch(empty, (torch.zeros(1), torch.zeros(1)), axes, True, empty)
    assert batch.counted(1) == planes
    assert batch.counted(0) == slice(3, 6)


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        PLAIN.model_copy(update={"gap_chance": 1.0}),
        PLAIN.model_copy(update={"random_contrast": True}),
        SOFT,
    ],
    ids=["contiguous", "gaps", "contrast", "soft"],
)
def test_without_spoiling_the_slices_are_the_truth_as_the_operator_sees_it(config: PatchConfig) -> None:
    """METHOD 3.15: nothing is shifted, however a patch is turned and recoloured; ends know what lies beyond."""
    data = SimulatedPatches(HR, config.model_copy(update={"slices": (5, 7)}), seed=0, steps=12)
    beyond = []
    for step in range(12):
        batch = data[step]
        for item in range(2):
            difference = (batch.real_lr[item] - acquired(batch, item)).abs()
            assert float(difference[..., 1:-1].max()) < 2e-3
            assert float(difference[..., 2:-2].max()) < 1e-5
            beyond.append(float(difference.max()))
    assert max(beyond) > 0.01, "the margin's object counts at the ends"


def ramp_scan(shape: tuple[int, int, int]) -> TrainingScan:
    """Intensity rises linearly along every axis, by other amounts."""
    i, j, k = np.indices(shape, dtype=np.float64)
    image = 0.3 + 0.002 * i + 0.003 * j + 0.005 * k
    return training_scan("ramp", image.astype(np.float32))


# In voxels: a thin slice's profile is as narrow as a fine voxel, so its integral over voxels is a little off centre.
@pytest.mark.parametrize(("gap_chance", "tolerance"), [(0.0, 0.005), (1.0, 0.06)])
@pytest.mark.parametrize("profiles", [0.0, 1.0])
def test_on_a_ramp_slices_lie_at_the_centres_of_their_slabs(
    gap_chance: float, tolerance: float, profiles: float
) -> None:
    # A slice of a ramp is the ramp's value at the slab's centre, whatever the factor and the profile.
    spoil = CLEAN.model_copy(update={"profile_chance": profiles, "told_chance": profiles})
    config = PLAIN.model_copy(update={"size": 24, "gap_chance": gap_chance, "spoil": spoil})
    data = SimulatedPatches([ramp_scan((60, 65, 70))], config, seed=0, steps=12)
    if profiles:
        tolerance = 0.15
    for step in range(12):
        batch = data[step]
        for item, axis in enumerate(batch.axes):
            truth = batch.real_hr[item][0].double()
            centre = torch.from_numpy((np.arange(axis.scan) + 0.5) * axis.factor - 0.5)
            slope = (truth[..., -1:] - truth[..., :1]) / (axis.fine - 1)
            expected = truth[..., :1] + slope * centre
            allowed = tolerance * slope.abs() + 2e-6
            error = (batch.real_lr[item] - expected).abs()
            # At an end of the scan the profile's tail has nothing to average.
            assert bool((error < allowed)[..., 1:-1].all())


# -- factors -----------------------------------------------------------------------------------------------------


def test_the_patches_of_a_step_have_factors_of_their_own_over_the_whole_range() -> None:
    config = VARIED.model_copy(update={"slices": (4, 4), "factor_range": (2.0, 9.0)})
    data = SimulatedPatches(HR, config, seed=0, steps=60)
    steps = [[axis.factor for axis in data[step].axes] for step in range(60)]
    factors = np.array(steps).ravel()
    assert factors.min() == pytest.approx(2.0, abs=0.13)
    assert factors.max() == pytest.approx(9.0, abs=0.2)
    # As many between 2 and 3 as between 6 and 9: their logarithm is uniform.
    assert np.median(factors) == pytest.approx(np.sqrt(18), rel=0.1)
    assert np.mean([len(set(step)) for step in steps]) > 3


def test_with_an_adversary_the_patches_of_a_step_have_one_factor() -> None:
    data = SimulatedPatches(HR, VARIED, seed=0, steps=20, mixed=False)
    shapes = set()
    for step in range(20):
        batch = data[step]
        assert len({image.shape for image in batch.real_hr}) == 1
        assert len({(axis.fine, axis.scan) for axis in batch.axes}) == 1
        shapes.add(batch.axes[0].factor)
    assert len(shapes) > 10


def test_thickness_ratios_are_told_in_their_range() -> None:
    contiguous = SimulatedPatches(HR, PLAIN, 0, 10)
    assert {axis.thickness_ratio for step in range(10) for axis in contiguous[step].axes} == {1.0}
    config = VARIED.model_copy(update={"gap_chance": 0.7, "thickness_ratio_range": (0.6, 1.1), "size": 16})
    data = SimulatedPatches(HR, config, 0, 40)
    ratios = np.array([axis.thickness_ratio for step in range(40) for axis in data[step].axes])
    assert np.mean(ratios == 1.0) == pytest.approx(0.31, abs=0.1)
    assert 0.6 <= ratios.min() < 0.63
    assert 1.07 < ratios.max() <= 1.1


def test_the_thick_axis_is_any_at_which_the_scan_is_at_its_finest() -> None:
    i, j, k = np.indices((40, 40, 40), dtype=np.float64) / 40
    turned = {
        axis: training_scan("scan", (0.3 + 0.5 * ramp).astype(np.float32))
        for axis, ramp in enumerate((i, j, k))
    }
    config = PLAIN.model_copy(update={"size": 16, "batch_size": 1})

    def rises(scan: TrainingScan) -> set[bool]:
        """Whether the image changes along the axis that was made the thick one."""
        data = SimulatedPatches([scan], config, seed=0, steps=24)
        return {bool(data[step].real_hr[0].diff(dim=-1).abs().max() > 1e-3) for step in range(24)}

    assert all(rises(scan) == {True, False} for scan in turned.values())
    # Slices 2 mm apart in a scan of 1 mm: they are not made thicker still.
    coarse = training_scan("coarse", turned[2].image, (1, 1, 2))
    assert rises(coarse) == {False}


def test_scans_barely_larger_than_a_patch_give_batches_at_every_factor() -> None:
    scan = smooth_scan((32, 32, 32))
    for mixed in (True, False):
        data = SimulatedPatches([scan], PLAIN, seed=0, steps=40, mixed=mixed)
        for step in range(40):
            batch = data[step]
            assert all(axis.fine <= 32 and axis.fine >= 2 * axis.scan - 1 for axis in batch.axes)
            assert torch.isfinite(batch.real_lr).all()


# -- spoiling ----------------------------------------------------------------------------------------------------


def off_by(batch: Batch) -> float:
    """How far the slices are from what the operator told says, inside the stack."""
    return max(
        float((batch.real_lr[item] - acquired(batch, item))[..., 2:-2].abs().max())
        for item in range(len(batch.axes))
    )


def test_spoiling_changes_the_slices_and_never_the_truth() -> None:
    spoil = SpoilConfig(chance=1, jitter_chance=1, told_chance=1)
    config = PLAIN.model_copy(update={"slices": (6, 8)})
    clean = SimulatedPatches(HR, config, 0, 8)
    spoiled = SimulatedPatches(HR, config.model_copy(update={"spoil": spoil}), 0, 8)
    for step in range(8):
        one, other = clean[step], spoiled[step]
        assert all(torch.equal(a, b) for a, b in zip(one.real_hr, other.real_hr, strict=True))
        # What is told is what the scan was asked for, not what was done to it.
        assert one.axes == other.axes
        assert not torch.equal(one.real_lr, other.real_lr)
        assert off_by(one) < 1e-5 < 3e-3 < off_by(other)


def test_soft_patches_are_soft_in_truth_and_slices_alike() -> None:
    """Another scanner's image, not another acquisition: the operator told still makes the slices of the truth."""

    def detail(batch: Batch) -> float:
        return float(sum(image.diff(dim=-1).square().mean() for image in batch.real_hr))

    noisy = [
        training_scan(
            "noisy", np.random.default_rng(0).uniform(0.2, 1, (60, 60, 70)).astype(np.float32), (1, 1, 1)
        )
    ]
    sharp, soft = (
        SimulatedPatches(noisy, config.model_copy(update={"slices": (6, 6)}), 0, 12)
        for config in (PLAIN, SOFT)
    )
    ratios = [detail(soft[step]) / detail(sharp[step]) for step in range(12)]
    assert min(ratios) < 0.1
    assert sum(ratios) / len(ratios) < 0.8
    assert max(off_by(soft[step]) for step in range(12)) < 1e-5


def test_spoiling_sets_in_with_the_steps() -> None:
    spoil = SpoilConfig(begin=10, full=20, chance=1, jitter_chance=1, told_chance=0, profile_chance=0)
    data = SimulatedPatches(HR, PLAIN.model_copy(update={"spoil": spoil, "slices": (6, 8)}), 0, 40)
    assert max(off_by(data[step]) for step in range(11)) < 1e-5
    assert min(off_by(data[step]) for step in range(20, 40)) > 1e-4
    some = [off_by(data[step]) > 1e-4 for step in range(11, 20)]
    assert any(some)


# -- unpaired ----------------------------------------------------------------------------------------------------


def test_unpaired_batches_take_the_factor_and_the_thickness_of_their_lr_scan() -> None:
    data = UnpairedPatches(LR, HR, PLAIN, seed=0, steps=40)
    seen = {(round(axis.factor, 1), axis.thickness_ratio) for step in range(40) for axis in data[step].axes}
    assert {ratio for _, ratio in seen} == {0.9, 0.7}
    for factor, ratio in seen:
        assert factor == pytest.approx({0.9: 3.0, 0.7: 6.0}[ratio], abs=0.15)


def test_where_hr_scans_are_short_fewer_slices_are_taken_at_the_same_factor() -> None:
    lr = [smooth_scan((40, 40, 10), (1, 1, 7.5))]
    for length, slices in ((32, 4), (16, 2)):
        hr = [smooth_scan((length, length, length))]
        config = PLAIN.model_copy(update={"size": 16})
        batch = UnpairedPatches(lr, hr, config, seed=0, steps=1)[0]
        assert batch.axes[0].factor == pytest.approx(7.5)
        assert batch.real_lr.shape[-1] == slices
        assert batch.real_hr[0][..., batch.counted(0)].numel() > 0


def test_unpaired_domains_share_a_contrast_and_are_turned_for_themselves() -> None:
    """D must not tell them apart by their contrast."""
    flat = [training_scan("flat", np.full((40, 40, 40), 0.5, np.float32))]
    thick = [training_scan("thick", np.full((40, 40, 12), 0.5, np.float32), (1, 1, 3))]
    data = UnpairedPatches(thick, flat, PLAIN.model_copy(update={"random_contrast": True}), 0, 60)
    pairs = [(float(data[n].real_lr.mean()), float(data[n].real_hr[0].mean())) for n in range(60)]
    # Brightness differs by at most 1.2 / 0.8; a contrast curve of one domain alone would differ by more.
    assert max(abs(np.log(a / b)) for a, b in pairs if min(a, b) > 0.1) < 0.75
    assert max(a for a, _ in pairs) / min(a for a, _ in pairs) > 1.6


# -- patches -----------------------------------------------------------------------------------------------------


def test_mostly_empty_patches_are_redrawn() -> None:
    image = np.zeros((96, 96, 96), np.float32)
    image[:60, :60, :60] = 0.7
    scan = training_scan("corner", image)
    config = PLAIN.model_copy(update={"batch_size": 8, "factor_range": (2.0, 2.0)})
    batches = [SimulatedPatches([scan], config, 0, 10)[step] for step in range(10)]
    filled = torch.tensor(
        [float((image > 0.1).float().mean()) for batch in batches for image in batch.real_hr]
    )
    # Drawn blindly, six in ten would hold that much.
    assert (filled > 0.1).float().mean() > 0.9


def test_where_all_is_background_a_patch_is_drawn_all_the_same() -> None:
    air = training_scan("air", np.zeros((64, 64, 20), np.float32), (1, 1, 3))
    corner = smooth_scan((33, 33, 64))  # covers few of the patches
    batch = AlignedPatches([(air, corner)], PLAIN, 0, 1)[0]
    assert not batch.real_lr.any() and batch.real_hr[0].any()
    thin = training_scan("air", np.zeros((64, 64, 64), np.float32))
    assert not SimulatedPatches([thin], PLAIN, 0, 1)[0].real_lr.any()


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_travel_to_worker_processes(kind: str) -> None:
    data = dataset(kind, VARIED, steps=3)
    assert_equal(pickle.loads(pickle.dumps(data))[1], data[1])  # noqa: S301 - our own bytes
    for step, batch in enumerate(DataLoader(data, batch_size=None, num_workers=1)):
        assert_equal(batch, data[step])


def test_a_pair_without_a_common_patch_is_refused_by_name() -> None:
    lr = smooth_scan((64, 64, 20), (1, 1, 3), 1)
    hr = smooth_scan((30, 30, 30), (1, 1, 1), 2)
    with pytest.raises(DataError, match=r"scan1: no training patch of 32 x 32 x 4 voxels lies within scan2"):
        AlignedPatches([(lr, hr)], PLAIN.model_copy(update={"slices": (4, 4)}), 0, 1)[0]


def test_contrast_curves_keep_background_and_carry_bright_voxels() -> None:
    rng = np.random.default_rng(0)
    curves = [curve for curve in (draw_contrast(rng) for _ in range(200)) if curve is not None]
    assert 40 < len(curves) < 120
    values = np.array([0.0, 1.5, 2.5], np.float32)
    for curve in curves:
        mapped = curve(values)
        assert mapped[0] == pytest.approx(0, abs=1e-6)
        assert mapped[2] - mapped[1] == pytest.approx(1.0, abs=1e-5)


def test_softness_is_a_gaussian_of_the_width_drawn() -> None:
    point = np.zeros((1, 25, 25, 25), np.float32)
    point[0, 12, 12, 12] = 1
    soft = soften(point, np.array([0, 2.0, 4.0], np.float32))[0]
    assert soft.sum() == pytest.approx(1, abs=1e-4)
    for axis, width in enumerate((0, 2.0, 4.0)):
        along = soft.sum(axis=tuple(other for other in range(3) if other != axis))
        spread = math.sqrt((along * (np.arange(25) - 12) ** 2).sum())
        assert spread * 2.3548 == pytest.approx(width, rel=0.05, abs=1e-6)
    rng = np.random.default_rng(0)
    drawn = np.array([draw_softness(rng, 2.0) for _ in range(300)])
    assert drawn.max() <= 2.4 and drawn.min() == 0
    assert 0.1 < (drawn[:, :2] == 0).all(axis=1).mean() < 0.3


def test_orientation_keeps_the_thick_axis_last() -> None:
    image = np.arange(2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)
    turned = orient(image, (True, False, True), transpose=True)
    assert turned.shape == (1, 3, 2, 4)
    assert turned[0, 0, 0, 0] == image[0, 1, 0, 3]
