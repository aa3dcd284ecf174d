"""The training loop: steps, moving averages, validation, checkpoints, history."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from srcyc.data.patches import Batch
from srcyc.device import precision_name
from srcyc.documents import json_line, json_object
from srcyc.errors import DataError, StoppedError
from srcyc.models.model_file import publish_model
from srcyc.training.folder import Plan, RunFolder
from srcyc.training.material import Material
from srcyc.training.publishing import make_card
from srcyc.training.settings import check_same_config
from srcyc.training.step import TrainingStep
from srcyc.training.step.optimisation import learning_rate_scale
from srcyc.training.validation import Score
from srcyc.training.watch.progress import Listener, Progress
from srcyc.training.watch.recorder import Recorder
from srcyc.training.watch.signals import STOPPING, StopRequest, listening
from srcyc.training.watch.stability import StabilityMonitor, check_weights


@dataclass
class State:
    """Where a run is.

    Attributes:
        done: steps.
        seconds: of training.
        initial: key metric before the first step, or NaN.
        best: of the key metric so far, or NaN.
        best_step: where that was.
        stale: validations since then.
    """

    done: int = 0
    seconds: float = 0.0
    initial: float = math.nan
    best: float = math.nan
    best_step: int = 0
    stale: int = 0


class Loop:
    """Takes the steps of one run and never loses more than a checkpoint interval.

    Of several processes the first one validates and writes; the others take their share of each step.

    Args:
        folder: of the run.
        plan: of the run.
        material: what it learns from and is judged by.
        step: one optimisation step.
        listener: told how it goes.
    """

    def __init__(
        self, folder: RunFolder, plan: Plan, material: Material, step: TrainingStep, listener: Listener
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.config = plan.config
        self.material = material
        self.validator = material.validator
        self.step = step
        self.networks = step.networks
        self.processes = step.processes
        self.listener = listener
        self.checkpoints = folder.checkpoints(plan.config)
        self.state = State()
        self.monitor = StabilityMonitor(plan.config)
        self._sums: dict[str, Tensor] = {}
        self._since = 0

    # -- resuming ------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on from the newest readable checkpoint, or from the start if the run ended before it wrote one.

        Raises:
            ModelError: no checkpoint can be read.
            ConfigError: it belongs to another configuration.
            DataError: it was trained on other scans.
        """
        folder, warn = self.checkpoints.folder, self.listener.warn
        saved = self.checkpoints.latest(warn)
        if saved is None:
            warn(f"{folder}: no checkpoint was written yet, so the run begins at its first step.")
            return
        check_same_config(json_object(saved["config"]), self.config, folder)
        if changed := sorted(set(saved["scans"]) ^ set(self.material.names)):
            raise DataError(
                f"{folder}: this run was trained on other scans ({changed[0]} is one that differs)",
                remedy="bring the scans back, or start a new run with initial_model set to this one's model",
            )
        if saved["precision"] != self._precision:
            warn(
                f"this device trains in {self._precision}, the run has trained in {saved['precision']} so far: it "
                "goes on, but not to the same weights."
            )
        for name, network in self.networks.named():
            network.load_state_dict(saved["networks"][name])
        self.step.load_state_dict(saved["step"])
        self.monitor.load_state_dict(saved["monitor"])
        self.state = State(**saved["state"])
        self._sums = {name: value.to(self.processes.device) for name, value in saved["sums"].items()}
        self._since = saved["since"]

    def save(self) -> Path | None:
        """Write a checkpoint of everything; the first process does."""
        # Each process has the sums of its own share.
        sums = self.processes.mean({name: float(value) for name, value in self._sums.items()})
        if not self.processes.is_first:
            return None
        state = {
            "config": json_line(self.config.model_dump(mode="json")),
            "scans": self.material.names,
            "precision": self._precision,
            "networks": {name: network.state_dict() for name, network in self.networks.named()},
            "step": self.step.state_dict(),
            "monitor": self.monitor.state_dict(),
            "state": vars(self.state),
            "sums": {name: torch.tensor(value) for name, value in sums.items()},
            "since": self._since,
        }
        return self.checkpoints.save(self.state.done, state)

    @property
    def _precision(self) -> str:
        return precision_name(self.step.dtype)

    # -- running -------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or no better model has come for too long."""
        patience = self.config.early_stopping
        exhausted = bool(self.validator) and 0 < patience <= self.state.stale
        return self.state.done >= self.config.steps or bool(self.processes.largest(int(exhausted)))

    def run(self, stop: StopRequest) -> None:
        """Train from where the run is to its end.

        Raises:
            CollapseError: training broke down; the last checkpoint and the best model are kept.
            StoppedError: it was asked to stop, and everything is saved.
            OutputError: the disk is full or cannot be written; earlier checkpoints are intact.
        """
        with listening(stop):
            if not self.processes.is_first:
                self._run(stop, None)
                return
            with closing(Recorder(self.folder.path, self.state.done)) as recorder:
                self._run(stop, recorder)

    def _run(self, stop: StopRequest, recorder: Recorder | None) -> None:
        before, started, first = self.state.seconds, time.monotonic(), self.state.done
        if first == 0 and recorder is not None:
            self._score_the_start(recorder)
        if self.finished:
            return
        for batch in self._loader():
            state, config = self.state, self.config
            scale = learning_rate_scale(state.done, config.optimiser, config.steps)
            alone = state.done < config.degradation_first
            terms = self.step(batch.to(self.processes.device), scale, degradation_alone=alone)
            self.networks.update_averages()
            state.done += 1
            self._since += 1
            for name, value in terms.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value
            state.seconds = before + time.monotonic() - started

            last = state.done == config.steps
            asked = self.processes.largest(stop.number)
            due = last or state.done % config.validate_every == 0
            save = last or asked or state.done % config.checkpoint_every == 0
            if due or state.done % config.report_every == 0:
                speed = (time.monotonic() - started) / (state.done - first)
                self._report(recorder, due, scale, remaining=speed * (config.steps - state.done))
            if save:
                check_weights(state.done, self.networks.named())
                self.save()
            if asked and not last:
                raise StoppedError(
                    f"stopped by {signal.Signals(asked).name} after step {state.done} of "
                    f"{config.steps}, everything is saved",
                    asked,
                    remedy="start it again with resume to go on",
                    options=("resume",),
                )
            if due and self.finished:
                if not save:
                    self.save()
                return

    def _loader(self) -> Iterable[Batch]:
        steps = range(self.state.done, self.config.steps)
        workers = min(self.config.data.workers, len(steps))
        return DataLoader(
            self.material.batches,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            worker_init_fn=_leave_signals_to_the_trainer,
        )

    def _report(self, recorder: Recorder | None, due: bool, scale: float, remaining: float) -> None:
        state = self.state
        means = self.processes.mean({name: float(value) / self._since for name, value in self._sums.items()})
        self._sums, self._since = {}, 0
        self.monitor.check(state.done, means)
        if due:
            # In every process: the others would wait for one that stops alone.
            check_weights(state.done, self.networks.named())
        if recorder is None:
            return
        score, best = self._validate() if due else (None, False)
        progress = Progress(
            *(state.done, self.config.steps, state.seconds, means),
            learning_rate=scale * self.config.optimiser.learning_rate,
            score=score,
            degradation=self.networks.degradation,
            best=best,
            remaining=remaining,
        )
        if best:
            card = make_card(self.plan, self.material, progress)
            publish_model(self.networks.averages[0], card, self.folder.model, overwrite=True)
            recorder.pictures(state.done, self.validator.pictures())
        recorder.report(progress)
        self.listener.report(progress)

    def _score_the_start(self, recorder: Recorder) -> None:
        """What training starts from, to be seen beside what it leads to; not a candidate for the best."""
        if self.validator:
            score = self.validator.score(*self.networks.averages)
            self.state.initial = score.key(self.config.validation.key_metric)
            progress = Progress(0, self.config.steps, 0.0, score=score)
            recorder.report(progress)
            self.listener.report(progress)

    def _validate(self) -> tuple[Score | None, bool]:
        """Score the moving averages, and tell whether they are the best so far."""
        state = self.state
        score = self.validator.score(*self.networks.averages) if self.validator else None
        key = score.key(self.config.validation.key_metric) if score else math.nan
        # Nothing is worse than a key metric that is no number; anything is better than none at all.
        best = score is None or (not math.isnan(key) and not key <= state.best)
        state.stale = 0 if best else state.stale + 1
        if best:
            state.best, state.best_step = key, state.done
        return score, best


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process of a group; a batch that is being drawn is still needed."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
