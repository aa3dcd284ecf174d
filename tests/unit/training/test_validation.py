from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from factories import training_scan
from srcyc.config import ValidationConfig
from srcyc.data.store import TrainingScan
from srcyc.enhancement import enhance
from srcyc.errors import ConfigError, ModelError
from srcyc.evaluation.metrics import Truth
from srcyc.networks import DegradationNet, SliceResDNet
from srcyc.physics.acquisition import Acquisition, AxisAcquisition
from srcyc.physics.resampling import apply_along, resample
from srcyc.training.validation import Score, Validator
from srcyc.volumes.geometry import Grid

CPU = torch.device("cpu")
CONFIG = ValidationConfig(thicknesses=(3.0, 5.0), crop=32)


@pytest.fixture(scope="module")
def fine(phantom) -> TrainingScan:
    return training_scan("fine", phantom((40, 44, 48))[0])


@pytest.fixture(scope="module")
def thick(phantom) -> TrainingScan:
    return training_scan("thick", phantom((40, 40, 14), 2)[0], (1, 1, 3.3), 0.7)


def network(seed: int = 0) -> SliceResDNet:
    """As if it had been trained: every layer does something."""
    torch.manual_seed(seed)
    made = SliceResDNet(features=8, depth=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.08 * torch.randn_like(parameter))
    return made


def untrained() -> SliceResDNet:
    """The classical inverse."""
    return SliceResDNet(features=8, depth=1)


def degradation() -> DegradationNet:
    torch.manual_seed(1)
    return DegradationNet(features=4, blocks=1, head_kernel=3)


class Projection(nn.Module):
    """The acquisition itself as G_LR."""

    def forward(self, hr: Tensor, *, size: tuple[int, ...], thickness_ratio: float) -> Tensor:
        return Acquisition(tuple(hr.shape[2:]), tuple(size), thickness_ratio).apply(hr)


def test_an_untrained_network_gains_nothing_over_the_classical_inverse(fine: TrainingScan) -> None:
    score = Validator([fine], [], CONFIG, CPU).score(untrained())
    assert score.key("psnr") == 0
    assert score.key("ssim") == 0
    assert score.psnr is not None and 15 < score.psnr < 50
    assert score.cycle is score.correction is None
    assert set(score.as_row()) == {
        *("psnr", "cubic_psnr", "classical_psnr", "ssim", "cubic_ssim", "classical_ssim")
    }


def test_the_baselines_are_the_spline_and_the_classical_inverse(fine: TrainingScan) -> None:
    """By hand: the central crop, thick slices simulated with contiguous profiles, both brought back."""
    config = ValidationConfig(thicknesses=(3.0,), crop=32)
    validator = Validator([fine], [], config, CPU)
    (case,) = validator.simulated
    assert (case.start, case.thick, case.fine) == ((4, 6, 8), (32, 32, 10), (32, 32, 30))
    truth = torch.from_numpy(fine.image[4:36, 6:38, 8:38].copy())
    axis = AxisAcquisition.of(30, 10, 1.0)
    slices = apply_along(truth, axis.matrix, -1)
    by_hand = Truth(truth.numpy())
    score = validator.score(network())
    for name, image in (
        ("cubic", resample(slices, (32, 32, 30), "cubic")),
        ("classical", apply_along(slices, axis.upscaling, -1)),
    ):
        quality = by_hand.quality(image.numpy())
        row = score.as_row()
        assert (row[f"{name}_psnr"], row[f"{name}_ssim"]) == pytest.approx((quality.psnr, quality.ssim))
    own = enhance(network().eval(), slices[None, None], [axis])[0].image[0, 0].detach()
    assert score.psnr == pytest.approx(by_hand.quality(own.numpy()).psnr)
    assert score.key("psnr") == pytest.approx(score.psnr - score.classical_psnr)  # type: ignore[operator]


def test_scores_are_means_over_scans_and_thicknesses(fine: TrainingScan, phantom) -> None:  # type: ignore[no-untyped-def]
    other = training_scan("other", phantom((40, 44, 48), 5)[0])
    g_hr = network()

    def psnr(scans: list[TrainingScan], *thicknesses: float) -> float:
        config = ValidationConfig(thicknesses=thicknesses, crop=32)
        value = Validator(scans, [], config, CPU).score(g_hr).psnr
        assert value is not None
        return value

    parts = [psnr([scan], mm) for scan in (fine, other) for mm in (3.0, 5.0)]
    assert psnr([fine, other], 3.0, 5.0) == pytest.approx(np.mean(parts))
    assert max(parts) - min(parts) > 0.5


def test_slices_are_simulated_along_an_axis_at_which_the_scan_is_fine(phantom) -> None:  # type: ignore[no-untyped-def]
    """A scan of coarser slices has a truth within them only."""
    scan = training_scan("coarse", phantom((40, 44, 20))[0], (1, 1, 2))
    (case, _) = Validator([scan], [], CONFIG, CPU).simulated
    assert case.along == 1
    assert case.fine[:2] == (32, 20)
    assert case.truth().shape[2:] == case.fine
    expected = scan.image.transpose(0, 2, 1)[4:36, :, 6 : 6 + case.fine[2]]
    np.testing.assert_array_equal(case.truth()[0, 0].numpy(), expected)


def test_a_score_repeats_exactly_and_leaves_the_networks_as_they_were(
    fine: TrainingScan, thick: TrainingScan
) -> None:
    g_hr, g_lr = network(), degradation()
    g_hr.train()
    g_hr.blocks.eval()
    g_lr.eval()
    modes = [module.training for module in (*g_hr.modules(), *g_lr.modules())]
    random = torch.random.get_rng_state()
    validator = Validator([fine], [thick], CONFIG, CPU)
    first = validator.score(g_hr, g_lr)
    assert validator.score(g_hr, g_lr) == first
    assert Validator([fine], [thick], CONFIG, CPU).score(g_hr, g_lr) == first
    assert [module.training for module in (*g_hr.modules(), *g_lr.modules())] == modes
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(p.grad is None for p in g_hr.parameters())


def test_scores_are_in_full_precision_also_within_mixed(fine: TrainingScan, thick: TrainingScan) -> None:
    g_hr, g_lr = network(), degradation()
    validator = Validator([fine], [thick], CONFIG, CPU)
    expected = validator.score(g_hr, g_lr)
    with torch.autocast("cpu", torch.bfloat16):
        assert validator.score(g_hr, g_lr) == expected


def test_lr_scans_are_judged_by_coming_back(thick: TrainingScan) -> None:
    g_hr = network()
    validator = Validator([], [thick], CONFIG, CPU)
    score = validator.score(g_hr, Projection())  # type: ignore[arg-type]
    assert score.psnr is None
    assert set(score.as_row()) == {"cycle", "correction"}
    # By hand: all of the scan's slices that fill the crop, brought to the in-plane spacing, as thick as the file says.
    case = validator.real[0]
    assert case.thick == (32, 32, 10)
    assert case.fine == (32, 32, 33)
    axis = AxisAcquisition.of(33, 10, 0.7)
    assert case.axis == axis
    y = torch.from_numpy(thick.image[4:36, 4:36, 2:12].copy())[None, None]
    with torch.no_grad():
        ((image, delta),) = enhance(g_hr.eval(), y, [axis])
    assert delta is not None
    back = apply_along(image, axis.matrix, -1)
    assert score.cycle == pytest.approx(float((back - y).abs().mean()), rel=1e-4)
    assert score.correction == pytest.approx(float(delta.norm() / y.norm()), rel=1e-4)
    assert score.correction > 1e-3  # type: ignore[operator]
    assert score.key("cycle") == -score.cycle  # type: ignore[operator]
    assert validator.score(g_hr).cycle is None, "no G_LR"
    # The slices uncorrected, the acquisition gives them back.
    assert validator.score(untrained(), Projection()).cycle < 1e-3  # type: ignore[arg-type, operator]


@pytest.mark.parametrize("shape", [(40, 40, 5), (6, 7, 40), (5, 5, 3), (12, 40, 9)])
def test_scans_too_small_for_a_metric_are_scored_by_the_others(phantom, shape: tuple[int, int, int]) -> None:  # type: ignore[no-untyped-def]
    small = training_scan("small", np.abs(phantom(shape)[0]) + 0.2)
    g_hr = network()
    lr = training_scan("small lr", small.image, (1, 1, 4))
    config = ValidationConfig(thicknesses=(1.5,), crop=64)
    validator = Validator([small], [lr], config, CPU)
    score = validator.score(g_hr, degradation())
    assert score.ssim is None
    assert score.cycle is not None and math.isfinite(score.cycle)
    assert (score.psnr is None) == (not validator.simulated)
    with pytest.raises(ConfigError, match="11 voxels"):
        score.key("ssim")


def test_an_lr_scan_that_is_as_fine_as_it_gets_is_no_case(fine: TrainingScan) -> None:
    assert Validator([], [fine], CONFIG, CPU).real == []


def test_thicknesses_that_do_not_enlarge_and_air_are_no_cases(fine: TrainingScan) -> None:
    air = training_scan("air", np.zeros((40, 40, 40), np.float32))
    config = ValidationConfig(thicknesses=(0.5, 1.0, 30.0, 4.0), crop=32)
    validator = Validator([fine, air], [], config, CPU)
    assert [case.name for case in validator.simulated] == ["fine at 4 mm"]
    nothing = Validator([air], [], config, CPU)
    assert not nothing
    assert nothing.score(network()) == Score()
    assert nothing.pictures(network()) == []


def test_a_read_only_scan_will_do_and_stays_as_it_is(fine: TrainingScan, tmp_path) -> None:  # type: ignore[no-untyped-def]
    np.save(tmp_path / "fine.npy", fine.image)
    mapped = training_scan("fine", np.load(tmp_path / "fine.npy", mmap_mode="r"))
    g_hr = network()
    with np.testing.suppress_warnings() as warned:
        found = warned.record(UserWarning)
        score = Validator([mapped], [], CONFIG, CPU).score(g_hr)
    assert not found
    assert score == Validator([fine], [], CONFIG, CPU).score(g_hr)


def test_a_broken_network_is_not_mistaken_for_a_perfect_one(fine: TrainingScan) -> None:
    g_hr = network()
    with torch.no_grad():
        g_hr.tail.bias.fill_(math.nan)  # type: ignore[union-attr]
    score = Validator([fine], [], CONFIG, CPU).score(g_hr)
    assert math.isnan(score.key("psnr"))


@pytest.mark.parametrize("metric", ["psnr", "ssim", "lpips", "cycle", "beauty"])
def test_a_metric_that_was_not_measured_is_one_sentence(metric: str) -> None:
    with pytest.raises(ConfigError, match=rf"validation\.key_metric .*{metric}"):
        Score().key(metric)


def test_the_key_is_larger_for_the_better_and_measured_from_the_classical_inverse() -> None:
    score = Score(
        **{"psnr": 31, "cubic_psnr": 29, "classical_psnr": 30},
        **{"ssim": 0.9, "cubic_ssim": 0.7, "classical_ssim": 0.8},
        **{"lpips": 0.1, "cubic_lpips": 0.4, "classical_lpips": 0.3},
        cycle=0.02,
        correction=0.01,
    )
    assert [score.key(m) for m in ("psnr", "ssim", "lpips", "cycle")] == pytest.approx([1, 0.1, 0.2, -0.02])
    assert list(score.as_row()) == [
        *("psnr", "cubic_psnr", "classical_psnr", "ssim", "cubic_ssim", "classical_ssim"),
        *("lpips", "cubic_lpips", "classical_lpips", "cycle", "correction"),
    ]
    with pytest.raises(ConfigError, match="psnr cannot be measured"):
        Score(psnr=31, cubic_psnr=29).key("psnr")


def test_pictures_lie_where_the_scan_lies(phantom) -> None:  # type: ignore[no-untyped-def]
    affine = np.array([[0.0, 0.0, 1.0, 3.0], [-1.0, 0.0, 0.0, 40.0], [0.0, -1.0, 0.0, 9.0], [0, 0, 0, 1]])
    scans = [
        TrainingScan(f"scan{seed}", phantom((40, 44, 48), seed)[0], Grid((40, 44, 48), affine), 0.8)
        for seed in range(5)
    ]
    g_hr = network()
    pictures = Validator(scans, [], CONFIG, CPU).pictures(g_hr)
    assert [picture.name for picture in pictures] == [f"scan{seed} at 5 mm" for seed in range(3)]
    picture = pictures[0]
    assert (
        picture.truth.shape
        == picture.sr.shape
        == picture.interpolated.shape
        == picture.classical.shape
        == picture.grid.shape
        == (32, 32, 30)
    )
    # The marked voxel is found in the scan at the place that the picture's grid gives.
    place = picture.grid.index_to_world((5, 6, 7))
    i, j, k = np.round(scans[0].grid.world_to_index(place)).astype(int)
    assert picture.truth[5, 6, 7] == scans[0].image[i, j, k]
    assert np.abs(picture.interpolated - picture.truth).max() > 0.05
    assert not np.array_equal(picture.sr, picture.interpolated)
    assert not np.array_equal(picture.sr, picture.classical)
    case = Validator(scans[:1], [], CONFIG, CPU).simulated[1]
    spline = resample(case.measured(), case.fine, "cubic")[0, 0].numpy()
    inverse = apply_along(case.measured(), case.axis.upscaling, -1)[0, 0].numpy()
    np.testing.assert_array_equal(picture.interpolated, spline)
    np.testing.assert_array_equal(picture.classical, inverse)


def test_a_real_case_covers_the_slices_it_is_cut_from(thick: TrainingScan) -> None:
    case = Validator([], [thick], CONFIG, CPU).real[0]
    i, j, k = case.start
    cut = Grid(case.thick, thick.grid.affine)
    corner = thick.grid.index_to_world((i - 0.5, j - 0.5, k - 0.5))
    far = thick.grid.index_to_world(np.array(case.start) + np.array(case.thick) - 0.5)
    assert cut.shape == case.thick
    np.testing.assert_allclose(case.grid.field_of_view[[0, -1]], [corner, far], atol=1e-6)


def test_bad_lpips_weights_are_refused_before_training(fine: TrainingScan, tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = ValidationConfig(crop=32, lpips=str(tmp_path / "none.npz"))
    with pytest.raises(ModelError, match=r"none\.npz"):
        Validator([fine], [], config, CPU)


def test_lpips_is_measured_beside_the_baselines(fine: TrainingScan, shared_dir) -> None:  # type: ignore[no-untyped-def]
    weights = shared_dir / "data" / "perceptual" / "lpips_vgg16_alexnet_fp16.npz"
    config = ValidationConfig(thicknesses=(5.0,), crop=40, lpips=str(weights))
    score = Validator([fine], [], config, CPU).score(untrained())
    assert score.key("lpips") == pytest.approx(0, abs=1e-6)
    assert score.cubic_lpips is not None and 0.01 < score.cubic_lpips < 0.7
    assert score.cubic_lpips > score.classical_lpips  # type: ignore[operator]


def test_pictures_are_what_was_scored_last_or_of_another_network(fine: TrainingScan) -> None:
    g_hr, other = network(), network(seed=7)
    validator = Validator([fine], [], CONFIG, CPU)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    g_hr.tail.register_forward_hook(count)
    for seen in (other, g_hr):
        validator.score(seen)
    assert calls == 2
    kept = validator.pictures()
    assert calls == 2, "already super-resolved"
    fresh = Validator([fine], [], CONFIG, CPU)
    assert fresh.pictures() == []
    assert [np.array_equal(kept[0].sr, fresh.pictures(one)[0].sr) for one in (g_hr, other)] == [True, False]
    assert np.array_equal(validator.pictures()[0].sr, kept[0].sr)
