"""The training loop: steps, moving averages, validation, checkpoints, history."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from srcyc.config import TrainingConfig
from srcyc.device import resolve_precision
from srcyc.errors import ConfigError, SRCycError
from srcyc.networks import SRResDNet
from srcyc.training.checkpoint import load_checkpoint, save_checkpoint
from srcyc.training.networks import Networks
from srcyc.training.step import GeneratorOnlyStep, UnpairedStep, learning_rate_scale
from srcyc.training.validation import Case, Score, validate

CHECKPOINT_NAME = "checkpoint.pt"
HISTORY_NAME = "history.csv"


@dataclass(frozen=True)
class Progress:
    """What a run reports at each validation.

    Attributes:
        step: steps done.
        steps: steps in all.
        terms: mean of each loss term since the last report, unweighted.
        score: on held-back persons, or None without any.
        best: whether this is the best so far.
        seconds: since the run (or its resumption) began.
    """

    step: int
    steps: int
    terms: dict[str, float]
    score: Score | None
    best: bool
    seconds: float


class Trainer:
    """Runs the steps of one configuration and never loses more than a checkpoint interval.

    Args:
        config: of the run.
        networks: from :func:`~srcyc.training.networks.build_networks`.
        batches: one batch per step (see :mod:`srcyc.data.patches`).
        cases: validation cases; empty: the last step counts as the best.
        folder: for checkpoint and history; exists.
        device: where the networks are.
        on_best: called with the moving average of G_HR, the step and the score whenever it is the best so far.
        report: called at each validation.
    """

    def __init__(
        self,
        config: TrainingConfig,
        networks: Networks,
        batches: Dataset[Any],
        cases: Sequence[Case],
        folder: Path,
        device: torch.device,
        on_best: Callable[[SRResDNet, int, Score | None], None],
        report: Callable[[Progress], None],
    ) -> None:
        self.config = config
        self.networks = networks
        self.batches = batches
        self.cases = cases
        self.folder = folder
        self.device = device
        dtype = resolve_precision(config.precision, device)
        # fp16 would need loss scaling; a GPU without bf16 trains in fp32.
        self.dtype = torch.float32 if dtype == torch.float16 else dtype
        self.on_best = on_best
        self.report = report
        kind = GeneratorOnlyStep if config.mode == "generator-only" else UnpairedStep
        self.step: GeneratorOnlyStep | UnpairedStep = kind(networks, config, self._autocast)
        self.done = 0
        self.best_gain = -math.inf

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self.folder / CHECKPOINT_NAME

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises:
            ModelError: it cannot be read.
            ConfigError: it belongs to another configuration.
        """
        state = load_checkpoint(self.checkpoint)
        if state["config"] != self._config_text():
            raise ConfigError(
                f"{self.checkpoint}: written by a run with another configuration; resume with the same "
                "configuration, or choose another output folder."
            )
        for name, network in self.networks.named():
            network.load_state_dict(state["networks"][name])
        self.step.load_state_dict(state["step"])
        self.done, self.best_gain = state["done"], state["best_gain"]

    def run(self) -> None:
        """Train from where the run is to its last step.

        Raises:
            SRCycError: a loss is not finite; the checkpoint and the best model before it are kept.
        """
        started = time.monotonic()
        if self.done == 0 and self.cases:
            # What training starts from, to be seen beside what it leads to; not a candidate for the best.
            self.report(Progress(0, self.config.steps, {}, self._score(), best=False, seconds=0.0))
        sums: dict[str, Tensor] = {}
        since = 0
        for batch in self._loader():
            terms = self.step(_to(batch, self.device), learning_rate_scale(self.done, self.config))
            self._update_averages()
            self.done += 1
            since += 1
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            last = self.done == self.config.steps
            if last or self.done % self.config.validate_every == 0:
                means = {name: float(value) / since for name, value in sums.items()}
                sums, since = {}, 0
                self._check_finite(means)
                self._validate(means, time.monotonic() - started)
            if last or self.done % self.config.checkpoint_every == 0:
                self._save()

    def _loader(self) -> Iterable[Any]:
        steps = range(self.done, self.config.steps)
        return DataLoader(self.batches, batch_size=None, sampler=steps, num_workers=self.config.workers)

    def _update_averages(self) -> None:
        networks = self.networks
        networks.ema_hr.update_parameters(networks.g_hr)
        if networks.g_lr is not None and networks.ema_lr is not None:
            networks.ema_lr.update_parameters(networks.g_lr)

    def _check_finite(self, means: dict[str, float]) -> None:
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise SRCycError(
                f"step {self.done}: the loss {', '.join(broken)} is not finite; the last checkpoint and the best "
                "model are kept: lower optimiser.learning_rate, or set precision=fp32."
            )

    def _validate(self, terms: dict[str, float], seconds: float) -> None:
        score = self._score() if self.cases else None
        best = score is None or score.gain > self.best_gain
        if best:
            self.best_gain = score.gain if score else -math.inf
            self.on_best(self._averaged(), self.done, score)
        progress = Progress(self.done, self.config.steps, terms, score, best, seconds)
        self._write_history(progress)
        self.report(progress)

    def _averaged(self) -> SRResDNet:
        network: SRResDNet = self.networks.ema_hr.module  # type: ignore[assignment]
        return network.eval()

    def _score(self) -> Score:
        return validate(self._averaged(), self.cases, self.device)

    def _write_history(self, progress: Progress) -> None:
        row: dict[str, float] = {
            "step": progress.step,
            "seconds": round(progress.seconds, 1),
            **progress.terms,
        }
        if progress.score is not None:
            row |= {"psnr": progress.score.psnr, "cubic_psnr": progress.score.cubic_psnr}
        path = self.folder / HISTORY_NAME
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _save(self) -> None:
        state = {
            "config": self._config_text(),
            "networks": {name: network.state_dict() for name, network in self.networks.named()},
            "step": self.step.state_dict(),
            "done": self.done,
            "best_gain": self.best_gain,
        }
        save_checkpoint(state, self.checkpoint)

    def _config_text(self) -> str:
        return json.dumps(self.config.model_dump(mode="json"), sort_keys=True)


def _to(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch; images in the layout that convolutions are fastest in."""
    if not is_dataclass(batch) or isinstance(batch, type):
        raise TypeError(f"a batch is a dataclass, not {type(batch).__name__}")
    moved = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            value = value.to(device, non_blocking=True)
            if value.ndim == 5:
                value = value.contiguous(memory_format=torch.channels_last_3d)
        moved[field.name] = value
    return replace(batch, **moved)
