"""One training while it runs: what loads all that trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from monailabel.interfaces.datastore import Datastore

from srcyc.device import resolve_device
from srcyc.errors import OutputError
from srcyc.training.distributed import Processes
from srcyc.training.folder import RunFolder
from srcyc.training.publishing import Verdict
from srcyc.training.run import Outcome, Run
from srcyc.training.watch.progress import Listener, Progress, progress_line
from srcyc.training.watch.recorder import read_history
from srcyc.training.watch.signals import StopRequest
from srcyc_app.models import ModelShelf
from srcyc_app.trainers.scans import check_scans, given_scans
from srcyc_app.trainers.status import Status, StatusFile, shown_history
from srcyc_app.trainers.wishes import Wishes

_log = logging.getLogger(__name__)


class OneTraining:
    """One run in the folder that this process holds."""

    def __init__(self, folder: RunFolder, status: StatusFile, wishes: Wishes, shelf: ModelShelf) -> None:
        self.folder = folder
        self.status = status
        self.wishes = wishes
        self.shelf = shelf

    def go(self, datastore: Datastore, resume: bool, stop: StopRequest) -> tuple[Outcome, Verdict]:
        """Begin, or go on, to the end, and put the best model on the shelf unless the one in use is better."""
        processes = Processes(device=resolve_device(self.wishes.device))
        run = self._resumed(processes) if resume else self._begun(datastore, processes)
        outcome = run.train(Listener(partial(self._report, run), _log.warning), stop)
        self.status.update(message="compares its best model with the one in use.")
        verdict = run.publish(
            outcome,
            self.shelf.target(self.wishes.name),
            even_if_worse=self.wishes.publish == "always",
            incumbent=self.shelf.incumbent(),
        )
        run.tidy()
        return outcome, verdict

    def _begun(self, datastore: Datastore, processes: Processes) -> Run:
        config = self.wishes.config(self.shelf)
        check_scans(datastore, config)
        self.status.update(state="preparing", message="reads and prepares the scans.")
        sources, left_out = given_scans(datastore, config)
        run = Run.begin(self.folder, config, sources, processes)
        self._tell(run, left_out)
        return run

    def _resumed(self, processes: Processes) -> Run:
        settings = partial(self.wishes.config_to_go_on, folder=self.folder.path, shelf=self.shelf)
        run = Run.resume(self.folder, settings, processes)
        _log.info("run %s goes on with the scans that it was begun with", self.wishes.name)
        self._tell(run, {})
        return run

    def _tell(self, run: Run, left_out: Mapping[str, str]) -> None:
        """Say what the run is.

        Args:
            run: of which is told.
            left_out: scans that it was not given, and why.
        """
        config, scans, device = run.plan.config, run.plan.scans, str(run.processes.device)
        _log.info("%s training of %s: %d steps on %s", config.mode, self.wishes.name, config.steps, device)
        self.status.update(
            state="running",
            message="trains.",
            mode=config.mode,
            device=device,
            step=self.status.values.get("step") or 0,
            steps=config.steps,
            epoch=self.status.values.get("epoch") or 0,
            total_epochs=max(1, math.ceil(config.steps / config.validate_every)),
            scans={
                "LR": len(scans.lr),
                "HR": len(scans.hr),
                "held_back": {"LR": len(scans.validation_lr), "HR": len(scans.validation_hr)},
                "left_out": {**left_out, **{scan.path.name: scan.reason for scan in scans.left_out}},
            },
        )

    def _report(self, run: Run, progress: Progress) -> None:
        _log.info("%s", progress_line(progress))
        changes: Status = {
            "step": progress.step,
            "epoch": math.ceil(progress.step / run.plan.config.validate_every),
            "seconds": round(progress.seconds, 1),
            "remaining": progress.remaining,
            "history": _history(run.folder),
        }
        if progress.terms:
            changes["terms"] = dict(progress.terms)
        if progress.score is not None:
            changes["validation"] = {"step": progress.step, **progress.score.as_row()}
        if progress.best:
            ssim = progress.score.ssim if progress.score is not None else None
            changes |= {"best_step": progress.step, "best_metric": ssim or 0.0}
        self.status.update(**changes)


def _history(folder: RunFolder) -> list[dict[str, float]]:
    # Whatever is wrong with the folder, the trainer says it.
    with suppress(OutputError):
        return shown_history(read_history(folder.path))
    return []
