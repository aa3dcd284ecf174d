from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from factories import tiny_settings, training_scan
from srcyc.config import PatchConfig, SpoilConfig, TrainingConfig, ValidationConfig
from srcyc.data.gathering import TrainingSet
from srcyc.data.patches import Patches, SimulatedPatches, UnpairedPatches
from srcyc.data.store import TrainingScan
from srcyc.errors import ConfigError, DataError, ModelError, StoppedError
from srcyc.models.model_file import load_model
from srcyc.networks import DegradationNetConfig
from srcyc.training.distributed import Processes
from srcyc.training.folder import Plan, RunFolder
from srcyc.training.loop import Loop
from srcyc.training.material import Material
from srcyc.training.step import TrainingStep, build_networks
from srcyc.training.validation import Validator
from srcyc.training.watch.progress import Listener, Progress
from srcyc.training.watch.recorder import HISTORY_NAME
from srcyc.training.watch.signals import StopRequest
from srcyc.training.watch.stability import CollapseError

CPU = torch.device("cpu")
Scans = dict[str, list[TrainingScan]]


def config(mode: str, steps: int = 6, **changes: Any) -> TrainingConfig:
    every = {"checkpoint_every": 2, "validate_every": 2}
    drawn = {"data__slices": (4, 6), "data__batch_size": 2, "data__factor_range": (2, 4)}
    learnt = {"optimiser__warm_up": 2, "optimiser__learning_rate": 1e-3}
    values = tiny_settings(
        mode=mode, steps=steps, pool_size=2, data__spoil={"full": 4}, **every, **drawn, **learnt
    )
    return TrainingConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def scans(phantom: Callable[..., np.ndarray]) -> Scans:
    def scan(shape: tuple[int, int, int], thick: float, seed: int) -> TrainingScan:
        return training_scan(f"scan{seed}", phantom(shape, seed)[0], (1, 1, thick))

    return {
        "hr": [scan((40, 44, 48), 1, seed) for seed in (0, 1)],
        "lr": [scan((40, 40, 14), 3, 2), scan((40, 40, 10), 4, 3)],
    }


class Run(Loop):
    """A loop on phantoms that remembers what it reports."""

    def __init__(self, settings: TrainingConfig, scans: Scans, folder: Path, *, held_back: int = 1) -> None:
        folder.mkdir(exist_ok=True)
        processes = Processes()
        networks = build_networks(settings, CPU)
        plan = (settings.data, settings.seed, settings.steps)
        unpaired = settings.mode == "unpaired"
        batches: Patches = (
            UnpairedPatches(scans["lr"], scans["hr"], *plan)
            if unpaired
            else SimulatedPatches(scans["hr"], *plan, mixed=settings.mode == "generator-only")
        )
        self.reports: list[Progress] = []
        self.warnings: list[str] = []
        validator = Validator(scans["hr"][:held_back], [], settings.validation, CPU)
        super().__init__(
            RunFolder(folder),
            Plan(settings, TrainingSet([], [], [], [], []), None),
            Material(batches, scans["hr"], scans["lr"] if unpaired else [], validator),
            TrainingStep(networks, settings, processes),
            Listener(self.reports.append, self.warnings.append),
        )

    @property
    def published(self) -> list[int]:
        """The steps whose models were the best so far; the last one's is in the folder."""
        steps = [progress.step for progress in self.reports if progress.best]
        if steps:
            training = load_model(self.folder.model).card.training
            assert training is not None and training.step == steps[-1]
        return steps

    @property
    def weights(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name, network in self.networks.named()
            for key, value in network.state_dict().items()
        }

    def go(self, stop: StopRequest | None = None) -> Run:
        self.run(stop or StopRequest())
        return self


class Watched:
    """A step that tells how many it has taken; everything else is the step's own."""

    def __init__(self, step: TrainingStep, after: Callable[[int], object]) -> None:
        self.step, self.after, self.done = step, after, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        terms = self.step(*arguments, **options)
        self.done += 1
        self.after(self.done)
        return terms

    def __getattr__(self, name: str) -> Any:
        return getattr(self.step, name)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / HISTORY_NAME).open() as file:
        return [
            {name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["adam", "muon"])
@pytest.mark.parametrize("mode", ["generator-only", "paired", "unpaired"])
def test_resuming_equals_never_having_stopped_at_any_step(
    scans: Scans, tmp_path: Path, mode: str, algorithm: str
) -> None:
    settings = config(mode, optimiser={"algorithm": algorithm, "warm_up": 2, "learning_rate": 1e-3})
    straight = Run(settings, scans, tmp_path / "straight").go()
    for at in (1, 4, 5):
        folder = tmp_path / str(at)
        stop = StopRequest()
        stopped = Run(settings, scans, folder)
        stopped.step = Watched(stopped.step, lambda done, at=at, stop=stop: done == at and stop.stop())
        with pytest.raises(StoppedError, match=f"after step {at} of 6"):
            stopped.go(stop)
        resumed = Run(settings, scans, folder)
        resumed.resume()
        assert not resumed.warnings
        assert resumed.state.done == at
        resumed.go()
        expected, found = straight.weights, resumed.weights
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(value, found[name]), (at, name)
        assert rows_of(folder) == rows_of(tmp_path / "straight"), at


def test_the_degradation_learns_first_and_a_resumed_run_is_the_same(scans: Scans, tmp_path: Path) -> None:
    losses = {"adversarial": 0, "cycle": 0, "identity": 0, "content": 1, "spectrum": 1}
    settings = config(
        "unpaired",
        degradation_first=4,
        g_lr=DegradationNetConfig(skip="learned", features=0),
        losses={f"lambda_{name}": weight for name, weight in losses.items()},
    )
    straight = Run(settings, scans, tmp_path / "straight").go()
    rows = rows_of(tmp_path / "straight")
    assert [bool(row["content"]) for row in rows if row["spectrum_lr"]] == [False, False, True]
    assert rows[-1]["blur"] != rows[1]["blur"] and rows[-1]["noise"] != rows[1]["noise"]
    for at in (2, 5):
        folder, stop = tmp_path / str(at), StopRequest()
        stopped = Run(settings, scans, folder)
        untrained = {
            name: value.clone() for name, value in stopped.weights.items() if name.startswith("g_hr")
        }
        stopped.step = Watched(stopped.step, lambda done, at=at, stop=stop: done == at and stop.stop())
        with pytest.raises(StoppedError):
            stopped.go(stop)
        same = all(torch.equal(value, stopped.weights[name]) for name, value in untrained.items())
        assert same == (at <= settings.degradation_first)
        resumed = Run(settings, scans, folder)
        resumed.resume()
        resumed.go()
        for name, value in straight.weights.items():
            assert torch.equal(value, resumed.weights[name]), (at, name)


def test_a_seed_gives_the_same_run_and_another_seed_another(scans: Scans, tmp_path: Path) -> None:
    runs = [
        Run(config("unpaired", steps=2, seed=seed), scans, tmp_path / str(index)).go().weights
        for index, seed in enumerate((3, 3, 4))
    ]
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
    assert not torch.equal(runs[0]["g_hr.head.bias"], runs[2]["g_hr.head.bias"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores
def test_loader_processes_change_nothing(scans: Scans, tmp_path: Path) -> None:
    alone = config("unpaired", steps=4)
    ahead = alone.model_copy(update={"data": alone.data.model_copy(update={"workers": 2})})
    first, second = Run(alone, scans, tmp_path / "0").go(), Run(ahead, scans, tmp_path / "2").go()
    assert all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())


@pytest.mark.parametrize("algorithm", ["adam", "muon"])
def test_generator_only_training_beats_the_classical_inverse(
    phantom: Callable[..., np.ndarray], tmp_path: Path, algorithm: str
) -> None:
    """An untrained network is the classical inverse, gain 0; a few steps on phantoms gain something."""
    heads = [training_scan(f"head{seed}", phantom((40, 44, 48), seed, 0.0)[0]) for seed in (0, 1)]
    settings = config(
        "generator-only",
        steps=40,
        validate_every=20,
        data=PatchConfig(
            **{"size": 24, "slices": (4, 6), "batch_size": 4, "factor_range": (2.5, 5)},
            **{"gap_chance": 0, "random_contrast": False, "workers": 0},
            spoil=SpoilConfig(chance=0, told_chance=0, profile_chance=0),
        ),
        optimiser={
            **{"algorithm": algorithm, "learning_rate": 5e-3, "muon_learning_rate": 1e-2},
            **{"warm_up": 5, "ema_decay": 0.9},
        },
        validation=ValidationConfig(thicknesses=(4.0,), crop=40),
    )
    run = Run(settings, {"hr": heads}, tmp_path).go()
    gains = [progress.score.key("psnr") for progress in run.reports if progress.score]
    assert gains[0] == run.state.initial == 0
    assert gains[-1] > 0.05
    assert run.state.best == max(gains[1:])
    assert run.state.best_step in run.published


def test_the_last_checkpoints_are_kept(scans: Scans, tmp_path: Path) -> None:
    Run(config("generator-only", steps=7, keep_checkpoints=2), scans, tmp_path).go()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000006.pt", "step-00000007.pt"]


def test_training_ends_early_when_nothing_gets_better(scans: Scans, tmp_path: Path) -> None:
    # With a learning rate of practically 0 no validation after the first is better.
    settings = config(
        "generator-only",
        steps=40,
        early_stopping=3,
        checkpoint_every=5,  # not where it ends
        optimiser={"learning_rate": 1e-30, "warm_up": 0},
    )
    run = Run(settings, scans, tmp_path).go()
    assert run.published == [2]
    assert run.state.done == 2 + 3 * 2
    again = Run(settings, scans, tmp_path)
    again.resume()
    assert again.go().state.done == run.state.done, "a run that ended early stays ended"


def test_without_anybody_held_back_the_last_step_is_published(scans: Scans, tmp_path: Path) -> None:
    run = Run(config("generator-only"), scans, tmp_path, held_back=0).go()
    assert run.published[-1] == 6
    assert math.isnan(run.state.best)


def test_a_loss_that_is_not_finite_stops_with_a_reason(scans: Scans, tmp_path: Path) -> None:
    run = Run(config("generator-only"), scans, tmp_path)
    with torch.no_grad():
        run.networks.g_hr.head.bias.fill_(math.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(CollapseError, match="step 2: the loss content is not finite"):
        run.go()
    assert not (tmp_path / "checkpoints").exists()
    assert run.published == []


def test_weights_that_are_not_finite_are_never_saved(scans: Scans, tmp_path: Path) -> None:
    """The losses are those before the step: a step that breaks the weights shows in them one report later."""
    run = Run(config("generator-only", report_every=5, validate_every=5), scans, tmp_path)

    def breaking(done: int) -> None:
        if done == 4:
            with torch.no_grad():
                run.networks.g_hr.head.bias.fill_(math.nan)  # type: ignore[union-attr, operator]

    run.step = Watched(run.step, breaking)
    with pytest.raises(CollapseError, match="step 4: the weights of g_hr are not finite"):
        run.go()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.pt"]


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"steps": 8}, "steps was 2, now 8"),
        (
            {"optimiser": {"learning_rate": 1e-5, "warm_up": 2}},
            "optimiser.learning_rate was 0.001, now 1e-05",
        ),
        ({"keep_checkpoints": 5, "checkpoint_every": 1}, None),
    ],
)
def test_only_settings_that_change_no_step_may_change(
    scans: Scans, tmp_path: Path, changes: dict[str, Any], refused: str | None
) -> None:
    Run(config("generator-only", steps=2), scans, tmp_path).go()
    other = Run(config("generator-only", **{"steps": 2, **changes}), scans, tmp_path)
    if refused is None:
        other.resume()
        return
    with pytest.raises(ConfigError, match=refused):
        other.resume()


def test_a_checkpoint_of_other_scans_is_refused(scans: Scans, tmp_path: Path) -> None:
    Run(config("generator-only", steps=2), scans, tmp_path).go()
    other = Run(config("generator-only", steps=2), {**scans, "hr": scans["lr"] + scans["hr"]}, tmp_path)
    with pytest.raises(DataError, match="other scans"):
        other.resume()


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(scans: Scans, tmp_path: Path) -> None:
    straight = Run(config("generator-only"), scans, tmp_path).go()
    newest = tmp_path / "checkpoints" / "step-00000006.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = Run(config("generator-only"), scans, tmp_path)
    resumed.resume()
    told = resumed.warnings
    assert resumed.state.done == 4
    assert len(told) == 1 and "step-00000006.pt: not a readable checkpoint" in told[0]
    resumed.go()
    assert all(torch.equal(value, resumed.weights[name]) for name, value in straight.weights.items())


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(scans: Scans, tmp_path: Path) -> None:
    straight = Run(config("generator-only"), scans, tmp_path / "straight").go()
    again = Run(config("generator-only"), scans, tmp_path / "again")
    again.resume()
    told = again.warnings
    assert len(told) == 1 and "no checkpoint was written yet" in told[0]
    again.go()
    assert all(torch.equal(value, again.weights[name]) for name, value in straight.weights.items())


def test_if_no_checkpoint_can_be_read_nothing_is_trained_over(scans: Scans, tmp_path: Path) -> None:
    Run(config("generator-only", steps=2), scans, tmp_path).go()
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="no checkpoint can be read"):
        Run(config("generator-only", steps=2), scans, tmp_path).resume()


def test_another_precision_is_told(scans: Scans, tmp_path: Path) -> None:
    settings = config("generator-only", steps=4)
    Run(settings, scans, tmp_path).go()
    other = Run(settings, scans, tmp_path)
    other.step.dtype = torch.bfloat16
    other.resume()
    assert other.warnings == [
        "this device trains in bf16, the run has trained in fp32 so far: it goes on, but not to the same weights."
    ]
