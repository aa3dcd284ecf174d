from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srcyc.config import (
    DegradationNetConfig,
    DiscriminatorConfig,
    LossWeights,
    LowResolutionDiscriminatorConfig,
    OptimiserConfig,
    PatchConfig,
    SRResDNetConfig,
    TrainingConfig,
    ValidationConfig,
)
from srcyc.data.patches import SimulatedPatches, TrainingScan, UnpairedPatches
from srcyc.errors import ConfigError, SRCycError
from srcyc.training.networks import build_networks
from srcyc.training.step import UnpairedStep, learning_rate_scale
from srcyc.training.trainer import HISTORY_NAME, Progress, Trainer
from srcyc.training.validation import prepare_cases

CPU = torch.device("cpu")


def config(mode: str, steps: int = 6, **changes: object) -> TrainingConfig:
    return TrainingConfig(
        mode=mode,  # type: ignore[arg-type]
        steps=steps,
        checkpoint_every=2,
        validate_every=2,
        precision="fp32",
        pool_size=2,
        data=PatchConfig(size=16, batch_size=1, least_slices=4, factor_range=(2, 4)),
        g_hr=SRResDNetConfig(features=4, depth=1),
        g_lr=DegradationNetConfig(features=4, blocks=1, head_kernel=3),
        d_hr=DiscriminatorConfig(features=4, layers=2),
        d_lr=LowResolutionDiscriminatorConfig(features=4, layers=1),
        optimiser=OptimiserConfig(warm_up=2),
        validation=ValidationConfig(thicknesses=(3.0,), crop=32),
        **changes,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def scans(phantom) -> dict[str, list[TrainingScan]]:  # type: ignore[no-untyped-def]
    def scan(shape: tuple[int, int, int], thick: float, seed: int) -> TrainingScan:
        return TrainingScan(f"scan{seed}", phantom(shape, seed)[0], (1, 1, thick), 0.01)

    return {
        "hr": [scan((40, 44, 48), 1, seed) for seed in (0, 1)],
        "lr": [scan((40, 40, 14), 3, 2), scan((40, 40, 10), 4, 3)],
    }


def trainer(
    settings: TrainingConfig,
    scans: dict[str, list[TrainingScan]],
    folder: Path,
    reports: list[Progress] | None = None,
) -> Trainer:
    folder.mkdir(exist_ok=True)
    networks = build_networks(settings, CPU)
    if settings.mode == "generator-only":
        batches = SimulatedPatches(scans["hr"], settings.data, "cubic", settings.seed, settings.steps)
    else:
        batches = UnpairedPatches(scans["lr"], scans["hr"], settings.data, settings.seed, settings.steps)  # type: ignore[assignment]
    cases = prepare_cases(scans["hr"][:1], settings.validation, networks.g_hr)
    report = reports.append if reports is not None else lambda progress: None
    return Trainer(settings, networks, batches, cases, folder, CPU, lambda *_: None, report)


def weights(run: Trainer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, network in run.networks.named()
        for key, value in network.state_dict().items()
    }


@pytest.mark.parametrize("mode", ["generator-only", "unpaired"])
def test_resuming_equals_never_having_stopped(
    mode: str, scans: dict[str, list[TrainingScan]], tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    settings = config(mode)
    straight = trainer(settings, scans, tmp_path / "straight")
    straight.run()

    stopped = trainer(settings, scans, tmp_path / "stopped")

    def stop_late(progress: Progress) -> None:
        if progress.step == 4:
            raise Stop

    stopped.report = stop_late
    with pytest.raises(Stop):
        stopped.run()
    resumed = trainer(settings, scans, tmp_path / "stopped")
    resumed.resume()
    assert resumed.done == 2, "stopped before the checkpoint of step 4 was written"
    resumed.run()

    expected, found = weights(straight), weights(resumed)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_a_seed_gives_the_same_run_and_another_seed_another(
    scans: dict[str, list[TrainingScan]], tmp_path: Path
) -> None:
    runs = []
    for index, seed in enumerate((3, 3, 4)):
        run = trainer(config("unpaired", steps=2, seed=seed), scans, tmp_path / str(index))
        run.run()
        runs.append(weights(run))
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
    assert not torch.equal(runs[0]["g_hr.resdnet.head.conv.bias"], runs[2]["g_hr.resdnet.head.conv.bias"])


def test_all_four_networks_learn_from_a_step(scans: dict[str, list[TrainingScan]], tmp_path: Path) -> None:
    run = trainer(config("unpaired", steps=1), scans, tmp_path)
    before = {name: value.clone() for name, value in weights(run).items()}
    run.run()
    after = weights(run)
    for network in ("g_hr", "g_lr", "d_hr", "d_lr"):
        changed = [
            name
            for name in before
            if name.startswith(f"{network}.") and not torch.equal(before[name], after[name])
        ]
        assert changed, network


def test_the_discriminators_are_not_touched_by_the_generators_step(
    scans: dict[str, list[TrainingScan]], tmp_path: Path
) -> None:
    settings = config("unpaired", steps=1)
    run = trainer(settings, scans, tmp_path)
    step = run.step
    assert isinstance(step, UnpairedStep)
    loss = step._generator_pass(run.batches[0])[1][0]
    for discriminator in (step.d_hr, step.d_lr):
        discriminator.requires_grad_(False)
    loss = step._generator_pass(run.batches[0])[1][0]
    loss.backward()
    assert all(p.grad is None for d in (step.d_hr, step.d_lr) for p in d.parameters())
    assert all(p.grad is not None for p in step.g_lr.parameters())


def test_switched_off_terms_are_absent_and_cost_no_pass(
    scans: dict[str, list[TrainingScan]], tmp_path: Path
) -> None:
    settings = config(
        "unpaired", steps=1, losses=LossWeights(lambda_adversarial=0, lambda_identity=0, lambda_cycle=1)
    )
    run = trainer(settings, scans, tmp_path)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    run.networks.g_hr.resdnet.register_forward_hook(count)
    terms = run.step(run.batches[0], 1.0)  # type: ignore[arg-type]
    assert set(terms) == {"cycle_hr", "cycle_lr"}
    assert calls == 2, "fake_hr and rec_hr, no identity"


def test_generator_only_training_learns(scans: dict[str, list[TrainingScan]], tmp_path: Path) -> None:
    reports: list[Progress] = []
    run = trainer(config("generator-only", steps=60), scans, tmp_path, reports)
    run.run()
    gains = [progress.score.gain for progress in reports if progress.score]
    assert gains[-1] > gains[0] + 0.05
    assert (tmp_path / HISTORY_NAME).read_text().splitlines()[0].startswith("step,seconds,content")
    assert any(progress.best for progress in reports)


def test_a_loss_that_is_not_finite_stops_with_a_reason(
    scans: dict[str, list[TrainingScan]], tmp_path: Path
) -> None:
    run = trainer(config("generator-only"), scans, tmp_path)
    with torch.no_grad():
        run.networks.g_hr.resdnet.head.conv.bias.fill_(math.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(SRCycError, match="step 2: the loss content is not finite"):
        run.run()


def test_a_checkpoint_of_another_configuration_is_refused(
    scans: dict[str, list[TrainingScan]], tmp_path: Path
) -> None:
    trainer(config("generator-only", steps=2), scans, tmp_path).run()
    with pytest.raises(ConfigError, match="another configuration"):
        trainer(config("generator-only", steps=4), scans, tmp_path).resume()


def test_the_learning_rate_warms_up_and_decays() -> None:
    settings = TrainingConfig(steps=1000, optimiser=OptimiserConfig(warm_up=100, final_fraction=0.02))
    scales = [learning_rate_scale(step, settings) for step in range(1001)]
    assert scales[0] == pytest.approx(0.01)
    assert max(scales) == pytest.approx(1.0)
    assert scales.index(max(scales)) in (99, 100)
    assert scales[-1] == pytest.approx(0.02)
    assert all(a >= b for a, b in pairwise(scales[100:]))
