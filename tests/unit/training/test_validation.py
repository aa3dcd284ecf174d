from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from srcyc.acquisition import Acquisition
from srcyc.config import ValidationConfig
from srcyc.data.store import TrainingScan
from srcyc.errors import ConfigError, ModelError
from srcyc.geometry import Grid
from srcyc.networks import DegradationNet, SRResDNet
from srcyc.resampling import resample
from srcyc.training.validation import Score, Validator

CPU = torch.device("cpu")
CONFIG = ValidationConfig(thicknesses=(3.0, 5.0), crop=32)


@pytest.fixture(scope="module")
def fine(phantom) -> TrainingScan:
    return TrainingScan("fine", phantom((40, 44, 48))[0], (1, 1, 1), 0.01)


@pytest.fixture(scope="module")
def thick(phantom) -> TrainingScan:
    return TrainingScan("thick", phantom((40, 40, 14), 2)[0], (1, 1, 3.3), 0.01)


def network(seed: int = 0) -> SRResDNet:
    torch.manual_seed(seed)
    return SRResDNet(features=4, depth=1, interpolation="cubic", knows_sampling=True)


def degradation() -> DegradationNet:
    torch.manual_seed(1)
    return DegradationNet(features=4, blocks=1, head_kernel=3, skip="profile")


class Interpolation(SRResDNet):
    """Refines nothing: cubic interpolation."""

    def refine(self, upscaled: Tensor, **_: object) -> Tensor:
        return upscaled


class Corrected(Interpolation):
    """Agrees with the thick scan exactly, as data consistency does."""

    def refine(self, upscaled: Tensor, *, factor: float, **_: object) -> Tensor:  # type: ignore[override]
        slices = round(upscaled.shape[-1] / factor)
        operator = Acquisition(tuple(upscaled.shape[2:]), (*upscaled.shape[2:4], slices))
        thick = resample(upscaled, (*upscaled.shape[2:4], slices), "area")
        return operator.correct(upscaled, thick)


class Projection(nn.Module):
    """The acquisition itself as G_LR."""

    def forward(self, hr: Tensor, *, size: tuple[int, ...]) -> Tensor:
        return Acquisition(tuple(hr.shape[2:]), tuple(size)).apply(hr)


def interpolation() -> Interpolation:
    return Interpolation(features=2, depth=1, interpolation="cubic")


def test_cubic_interpolation_gains_nothing_over_itself(fine: TrainingScan) -> None:
    score = Validator([fine], [], CONFIG, interpolation(), CPU).score(interpolation())
    assert score.key("psnr") == 0
    assert score.key("ssim") == 0
    assert score.psnr is not None and 15 < score.psnr < 50
    assert score.cycle is score.consistency is None
    assert set(score.as_row()) == {"psnr", "cubic_psnr", "ssim", "cubic_ssim"}


def test_linear_interpolation_is_worse_than_cubic(fine: TrainingScan) -> None:
    linear = Interpolation(features=2, depth=1, interpolation="linear")
    score = Validator([fine], [], CONFIG, linear, CPU).score(linear)
    assert score.key("psnr") < -0.1
    assert score.key("ssim") < 0


def test_scores_are_means_over_scans_and_thicknesses(fine: TrainingScan, phantom) -> None:  # type: ignore[no-untyped-def]
    other = TrainingScan("other", phantom((40, 44, 48), 5)[0], (1, 1, 1), 0.01)
    g_hr = network()

    def psnr(scans: list[TrainingScan], *thicknesses: float) -> float:
        config = ValidationConfig(thicknesses=thicknesses, crop=32)
        value = Validator(scans, [], config, g_hr, CPU).score(g_hr).psnr
        assert value is not None
        return value

    parts = [psnr([scan], mm) for scan in (fine, other) for mm in (3.0, 5.0)]
    assert psnr([fine, other], 3.0, 5.0) == pytest.approx(np.mean(parts))
    assert max(parts) - min(parts) > 0.5


def test_a_score_repeats_exactly_and_leaves_the_networks_as_they_were(
    fine: TrainingScan, thick: TrainingScan
) -> None:
    g_hr, g_lr = network(), degradation()
    g_hr.train()
    g_hr.resdnet.eval()
    g_lr.eval()
    modes = [module.training for module in (*g_hr.modules(), *g_lr.modules())]
    random = torch.random.get_rng_state()
    validator = Validator([fine], [thick], CONFIG, g_hr, CPU)
    first = validator.score(g_hr, g_lr)
    assert validator.score(g_hr, g_lr) == first
    assert Validator([fine], [thick], CONFIG, g_hr, CPU).score(g_hr, g_lr) == first
    assert [module.training for module in (*g_hr.modules(), *g_lr.modules())] == modes
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(p.grad is None for p in g_hr.parameters())


def test_scores_are_in_full_precision_also_within_mixed(fine: TrainingScan, thick: TrainingScan) -> None:
    g_hr, g_lr = network(), degradation()
    validator = Validator([fine], [thick], CONFIG, g_hr, CPU)
    expected = validator.score(g_hr, g_lr)
    with torch.autocast("cpu", torch.bfloat16):
        assert validator.score(g_hr, g_lr) == expected


def test_lr_scans_are_judged_by_coming_back(thick: TrainingScan) -> None:
    plain, projection = interpolation(), Projection()
    validator = Validator([], [thick], CONFIG, plain, CPU)
    score = validator.score(plain, projection)  # type: ignore[arg-type]
    assert score.psnr is None
    assert set(score.as_row()) == {"cycle", "consistency"}
    # By hand: all of the scan's slices that fill the crop, brought to the in-plane spacing.
    case = validator.real[0]
    assert case.thick == (32, 32, 10)
    assert case.fine == (32, 32, 33)
    y = torch.from_numpy(thick.image[4:36, 4:36, 2:12].copy())[None, None]
    back = Acquisition(case.fine, case.thick).apply(resample(y, case.fine, "cubic"))
    assert score.cycle == pytest.approx(float((back - y).abs().mean()), rel=1e-5)
    assert score.consistency == pytest.approx(float((back - y).norm() / y.norm()), rel=1e-5)
    assert score.key("cycle") == -score.cycle  # type: ignore[operator]
    assert validator.score(plain).cycle is None, "no G_LR"


def test_a_generator_that_agrees_with_the_scan_scores_better(thick: TrainingScan) -> None:
    scores = []
    for generator in (interpolation(), Corrected(features=2, depth=1, interpolation="cubic")):
        validator = Validator([], [thick], CONFIG, generator, CPU)
        scores.append(validator.score(generator, Projection()))  # type: ignore[arg-type]
    assert scores[1].cycle is not None and scores[0].cycle is not None
    assert scores[1].key("cycle") > scores[0].key("cycle")
    assert scores[1].consistency < 0.9 * scores[0].consistency  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(40, 40, 5), (6, 7, 40), (5, 5, 3), (12, 40, 9)])
def test_scans_too_small_for_a_metric_are_scored_by_the_others(phantom, shape: tuple[int, int, int]) -> None:  # type: ignore[no-untyped-def]
    small = TrainingScan("small", np.abs(phantom(shape)[0]) + 0.2, (1, 1, 1), 0.01)
    g_hr = network()
    lr = TrainingScan("small lr", small.image, (1, 1, 4), 0.01)
    config = ValidationConfig(thicknesses=(1.5,), crop=64)
    validator = Validator([small], [lr], config, g_hr, CPU)
    score = validator.score(g_hr, degradation())
    assert score.ssim is None
    assert score.cycle is not None and math.isfinite(score.cycle)
    assert (score.psnr is None) == (not validator.simulated)
    with pytest.raises(ConfigError, match="11 voxels"):
        score.key("ssim")


def test_thicknesses_that_do_not_enlarge_and_air_are_no_cases(fine: TrainingScan) -> None:
    air = TrainingScan("air", np.zeros((40, 40, 40), np.float32), (1, 1, 1), 0.01)
    config = ValidationConfig(thicknesses=(0.5, 1.0, 30.0, 4.0), crop=32)
    validator = Validator([fine, air], [], config, network(), CPU)
    assert [case.name for case in validator.cases] == ["fine at 4 mm"]
    nothing = Validator([air], [], config, network(), CPU)
    assert not nothing
    assert nothing.score(network()) == Score()
    assert nothing.pictures(network()) == []


def test_a_read_only_scan_will_do_and_stays_as_it_is(fine: TrainingScan, tmp_path) -> None:  # type: ignore[no-untyped-def]
    np.save(tmp_path / "fine.npy", fine.image)
    mapped = TrainingScan("fine", np.load(tmp_path / "fine.npy", mmap_mode="r"), (1, 1, 1), 0.01)
    g_hr = network()
    with np.testing.suppress_warnings() as warned:
        found = warned.record(UserWarning)
        score = Validator([mapped], [], CONFIG, g_hr, CPU).score(g_hr)
    assert not found
    assert score == Validator([fine], [], CONFIG, g_hr, CPU).score(g_hr)


def test_a_broken_network_is_not_mistaken_for_a_perfect_one(fine: TrainingScan) -> None:
    g_hr = network()
    with torch.no_grad():
        g_hr.alpha.fill_(math.nan)
    score = Validator([fine], [], CONFIG, g_hr, CPU).score(g_hr)
    assert math.isnan(score.key("psnr"))


@pytest.mark.parametrize("metric", ["psnr", "ssim", "lpips", "cycle", "beauty"])
def test_a_metric_that_was_not_measured_is_one_sentence(metric: str) -> None:
    with pytest.raises(ConfigError, match=rf"validation\.key_metric .*{metric}"):
        Score().key(metric)


def test_the_key_is_larger_for_the_better() -> None:
    score = Score(31, 30, 0.9, 0.8, 0.1, 0.3, 0.02, 0.01)
    assert [score.key(m) for m in ("psnr", "ssim", "lpips", "cycle")] == pytest.approx([1, 0.1, 0.2, -0.02])
    assert list(score.as_row()) == [
        *("psnr", "cubic_psnr", "ssim", "cubic_ssim", "lpips", "cubic_lpips", "cycle", "consistency")
    ]


def test_pictures_lie_where_the_scan_lies(phantom) -> None:  # type: ignore[no-untyped-def]
    affine = np.array([[0.0, 0.0, 1.0, 3.0], [-1.0, 0.0, 0.0, 40.0], [0.0, -1.0, 0.0, 9.0], [0, 0, 0, 1]])
    scans = [
        TrainingScan(
            f"scan{seed}", phantom((40, 44, 48), seed)[0], (1, 1, 1), 0.01, Grid((40, 44, 48), affine)
        )
        for seed in range(5)
    ]
    g_hr = network()
    pictures = Validator(scans, [], CONFIG, g_hr, CPU).pictures(g_hr)
    assert [picture.name for picture in pictures] == [f"scan{seed} at 5 mm" for seed in range(3)]
    picture = pictures[0]
    assert (
        picture.truth.shape
        == picture.sr.shape
        == picture.interpolated.shape
        == picture.grid.shape
        == (32, 32, 30)
    )
    # The marked voxel is found in the scan at the place that the picture's grid gives.
    place = picture.grid.index_to_world((5, 6, 7))
    i, j, k = np.round(scans[0].grid.world_to_index(place)).astype(int)
    assert picture.truth[5, 6, 7] == scans[0].image[i, j, k]
    assert np.abs(picture.interpolated - picture.truth).max() > 0.05
    assert not np.array_equal(picture.sr, picture.interpolated)


def test_a_real_case_covers_the_slices_it_is_cut_from(thick: TrainingScan) -> None:
    case = Validator([], [thick], CONFIG, network(), CPU).real[0]
    i, j, k = case.start
    cut = Grid(case.thick, thick.grid.affine)
    corner = thick.grid.index_to_world((i - 0.5, j - 0.5, k - 0.5))
    far = thick.grid.index_to_world(np.array(case.start) + np.array(case.thick) - 0.5)
    assert cut.shape == case.thick
    np.testing.assert_allclose(case.grid.field_of_view[[0, -1]], [corner, far], atol=1e-6)


def test_bad_lpips_weights_are_refused_before_training(fine: TrainingScan, tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = ValidationConfig(crop=32, lpips=str(tmp_path / "none.npz"))
    with pytest.raises(ModelError, match=r"none\.npz"):
        Validator([fine], [], config, network(), CPU)


def test_lpips_is_measured_beside_cubic(fine: TrainingScan, shared_dir) -> None:  # type: ignore[no-untyped-def]
    weights = shared_dir / "data" / "perceptual" / "lpips_vgg16_alexnet_fp16.npz"
    config = ValidationConfig(thicknesses=(3.0, 5.0), crop=40, lpips=str(weights))
    linear = Interpolation(features=2, depth=1, interpolation="linear")
    score = Validator([fine], [], config, linear, CPU).score(linear)
    assert score.key("lpips") < 0, "linear interpolation blurs more than cubic"
    assert score.cubic_lpips is not None and 0.01 < score.cubic_lpips < 0.5


def test_pictures_are_of_the_present_weights_and_cost_no_second_pass(fine: TrainingScan) -> None:
    g_hr = network()
    average = AveragedModel(g_hr, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    averaged: SRResDNet = average.module  # type: ignore[assignment]
    validator = Validator([fine], [], CONFIG, g_hr, CPU)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    averaged.resdnet.register_forward_hook(count)
    validator.score(averaged)
    assert calls == 2
    kept = validator.pictures(averaged)
    assert calls == 2, "already super-resolved"
    fresh = Validator([fine], [], CONFIG, g_hr, CPU).pictures(averaged)
    assert np.array_equal(kept[0].sr, fresh[0].sr)
    # One step of training reaches the average.
    with torch.no_grad():
        for parameter in g_hr.parameters():
            parameter.add_(0.1)
    for step in range(2):
        average.update_parameters(g_hr)
        assert not np.array_equal(validator.pictures(averaged)[0].sr, kept[0].sr), step
    other = network(seed=7)
    assert not np.array_equal(validator.pictures(other)[0].sr, kept[0].sr)
