"""One training while it runs: what loads all that trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore

from srcyc.config import TrainingConfig
from srcyc.data.gathering import TrainingSet
from srcyc.device import resolve_device
from srcyc.errors import OutputError
from srcyc.training.distributed import Processes
from srcyc.training.folder import RunFolder
from srcyc.training.loop import Progress
from srcyc.training.publishing import Verdict, publish_if_better
from srcyc.training.run import Outcome, begin, train
from srcyc.training.watch.progress import progress_line
from srcyc.training.watch.recorder import read_history
from srcyc.training.watch.signals import StopRequest
from srcyc_app.models import ModelShelf
from srcyc_app.trainers.scans import check_scans, given_scans
from srcyc_app.trainers.status import Status, StatusFile, shown_history
from srcyc_app.trainers.wishes import Wishes, in_words_of_the_server

_log = logging.getLogger(__name__)


class OneTraining:
    """One run in the folder that this process holds."""

    def __init__(self, run: RunFolder, status: StatusFile, wishes: Wishes, shelf: ModelShelf) -> None:
        self.run = run
        self.status = status
        self.wishes = wishes
        self.shelf = shelf
        self.config = TrainingConfig()

    def train(self, datastore: Datastore, resume: bool, stop: StopRequest) -> Outcome:
        """Begin, or go on, to the end."""
        device = resolve_device(self.wishes.device)
        if resume:
            base, scans, _ = self.run.reopen()
            self.config = self.wishes.config_to_go_on(base, self.run.path, self.shelf)
            _log.info("run %s goes on with the scans that it was begun with", self.wishes.name)
            left_out = {scan.path.name: scan.reason for scan in scans.left_out}
        else:
            wished = self.wishes.config(self.shelf)
            check_scans(datastore, wished)
            self.status.update(state="preparing", message="reads and prepares the scans.")
            given = given_scans(datastore, wished)
            scans = begin(self.run, wished, given.lr, given.hr, given.manifest)
            self.config, _, _ = self.run.reopen()
            left_out = given.left_out | {scan.path.name: scan.reason for scan in scans.left_out}
        config = self.config
        _log.info("%s training of %s: %d steps on %s", config.mode, self.wishes.name, config.steps, device)
        self.status.update(
            state="running",
            message="trains.",
            mode=config.mode,
            device=str(device),
            step=self.status.values.get("step") or 0,
            steps=config.steps,
            epoch=self.status.values.get("epoch") or 0,
            total_epochs=max(1, math.ceil(config.steps / config.validate_every)),
            scans=_counted(scans, left_out),
        )
        return train(
            self.run,
            Processes(device=device),
            config=config,
            resume=resume,
            report=self._report,
            warn=lambda sentence: _log.warning("%s", in_words_of_the_server(sentence)),
            stop=stop,
        )

    def publish(self, outcome: Outcome) -> Verdict:
        """Put the best model on the shelf, unless the one in use is better."""
        self.status.update(message="compares its best model with the one in use.")
        verdict = publish_if_better(
            outcome.model,
            self.shelf.target(self.wishes.name),
            outcome.validator,
            self.config.validation.key_metric,
            even_if_worse=self.wishes.publish == "always",
            incumbent=self.shelf.incumbent(),
        )
        self.run.remove_prepared_scans()
        return verdict

    def _report(self, progress: Progress) -> None:
        _log.info("%s", progress_line(progress))
        changes: Status = {
            "step": progress.step,
            "epoch": math.ceil(progress.step / self.config.validate_every),
            "seconds": round(progress.seconds, 1),
            "remaining": progress.remaining,
            "history": _history(self.run),
        }
        if progress.terms:
            changes["terms"] = progress.terms
        if progress.score is not None:
            changes["validation"] = {"step": progress.step, **progress.score.as_row()}
        if progress.best:
            ssim = progress.score.ssim if progress.score is not None else None
            changes |= {"best_step": progress.step, "best_metric": ssim or 0.0}
        self.status.update(**changes)


def _counted(scans: TrainingSet, left_out: Mapping[str, str]) -> Status:
    """Say how many scans there are of which kind."""
    return {
        "LR": len(scans.lr),
        "HR": len(scans.hr),
        "held_back": {"LR": len(scans.validation_lr), "HR": len(scans.validation_hr)},
        "left_out": dict(left_out),
    }


def _history(run: RunFolder) -> Any:
    """Give the rows of the run's history that a plot needs."""
    try:
        rows = read_history(run.path)
    except OutputError:
        # The status goes without; whatever is wrong with the folder, the trainer says it.
        return []
    return shown_history(rows, lambda row: any(key in row for key in ("psnr", "cycle", "correction")))
