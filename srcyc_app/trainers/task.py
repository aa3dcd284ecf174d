"""The trainer `srcyc`: unpaired training on the scans of the studies folder, in a process of its own."""

from __future__ import annotations

import itertools
import logging
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from srcyc.device import resolve_device
from srcyc.errors import InputError, OutputError, SRCycError, StoppedError
from srcyc.files import writing
from srcyc.memory import is_out_of_memory
from srcyc.models.model_file import load_model
from srcyc.training.folder import RunFolder
from srcyc.training.watch.signals import StopRequest
from srcyc_app.models import ModelShelf
from srcyc_app.refusals import refusing, worded
from srcyc_app.studies.datastore import studies_folder
from srcyc_app.trainers.scans import check_scans
from srcyc_app.trainers.status import State, Status, StatusFile, read_status, train_stats
from srcyc_app.trainers.supervision import (
    Asked,
    background_process,
    is_background_process,
    once,
    unwinding,
)
from srcyc_app.trainers.wishes import Wishes, choices

if TYPE_CHECKING:
    from srcyc.training.publishing import Verdict
    from srcyc.training.run import Outcome

_log = logging.getLogger(__name__)

#: Seconds that a process which was stopped or killed just now has to let go of the run folder.
PATIENCE = 30.0
#: What a status keeps when its run goes on.
_KEPT = {"step", "steps", "epoch", "total_epochs", "seconds", "terms", "validation", "history", "scans"}


class UnpairedTraining(TrainTask):
    """Trains on the studies' scans, or goes on with what was stopped, and publishes what is better.

    Called in a process of its own, in the run's folder ``runs/NAME``, of which nothing is ever deleted; a run that
    makes room for another one gets the time to its name.

    Args:
        model_dir: holds ``runs``.
        shelf: models to start from, and where the best one is published.
        supervised: this process is a server's: it ends when its parent is gone, and fails with a sentence as the
            last line of the log instead of a traceback. Default: if MONAI Label started it so.
    """

    def __init__(self, model_dir: Path, shelf: ModelShelf, *, supervised: bool | None = None) -> None:
        super().__init__("Training on the studies' own scans, no pairs needed (SRResCycGAN)")
        self._runs = model_dir / "runs"
        self._shelf = shelf
        self._supervised = supervised

    def config(self) -> dict[str, Any]:
        return choices(self._shelf.names())

    def stats(self) -> Status:
        """Give how the newest training stands; see :func:`srcyc_app.trainers.status.train_stats`."""
        return train_stats(self._runs)

    def check(self, request: Mapping[str, Any], datastore: Datastore) -> None:
        """Refuse at once a training that could not begin.

        Raises:
            Refusal: 4xx, with the reason.
        """
        with refusing():
            wishes = Wishes.of(request)
            self._shelf.target(wishes.name)
            resolve_device(wishes.device)
            studies_folder(datastore, "a training")
            run = RunFolder(self._runs / wishes.name)
            if self._goes_on(run, wishes):
                wishes.config_to_go_on(run.read().config, run.path, self._shelf)
            else:
                check_scans(datastore, wishes.config(self._shelf))

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> Status:
        """Train to the end, or until the process is asked to stop (SIGTERM), which saves everything.

        Returns:
            the status in the end, as :meth:`stats` gives it.

        Raises:
            Refusal: 4xx, what the request is to blame for.
            SRCycError: one sentence; it is the status's ``message`` too.
            StoppedError: it was asked to stop.
            SystemExit: instead of any of these, in a server's process.
        """
        supervised = is_background_process() if self._supervised is None else self._supervised
        with background_process(supervised):
            wishes = Wishes.of(request)
            self._shelf.target(wishes.name)
            stop = StopRequest()
            try:
                with unwinding(stop):
                    self._train(wishes, datastore, stop)
            except Asked as asked:
                # Before the folder was claimed: there is no status to tell it.
                raise StoppedError(f"{asked}; nothing had begun.", asked.number) from None
        return self.stats()

    # -- inside --------------------------------------------------------------------------------------------------

    def _goes_on(self, run: RunFolder, wishes: Wishes) -> bool:
        """Tell whether a request goes on with the run that is in the folder."""
        unfinished = (read_status(run.path) or {}).get("state") != "finished"
        return run.config.exists() and unfinished and wishes.run == "continue"

    def _train(self, wishes: Wishes, datastore: Datastore, stop: StopRequest) -> None:
        # What trains takes seconds to load, and a server asks only how a training stands.
        from srcyc_app.trainers.running import OneTraining

        run = RunFolder(self._runs / wishes.name)
        if run.path.exists():
            with run.claimed(PATIENCE):
                make_room = run.holds_a_run and not self._goes_on(run, wishes)
            if make_room:
                _put_aside(run)
        with run.claimed(PATIENCE):
            status = StatusFile(run.path)
            resume = self._goes_on(run, wishes)
            old = (read_status(run.path) or {}) if resume else {}
            kept = {key: value for key, value in old.items() if key in _KEPT}
            message = "goes on from its last checkpoint." if resume else "begins."
            status.begin(kept | _best_so_far(run), run=wishes.name, message=message, published=None)
            try:
                # The trainer's handlers only make a note of the signal.
                with once(lambda: stop.number, lambda: _tell_that_it_stops(status)):
                    training = OneTraining(run, status, wishes, self._shelf)
                    outcome, verdict = training.go(datastore, resume, stop)
            except BaseException as error:
                raise _ended_badly(run, status, error) from error
            status.end(
                "finished",
                _last_words(run, wishes, outcome, verdict),
                published=verdict.published,
                model=wishes.name if verdict.published else None,
            )
            _log.info("%s", status.values["message"])


def _put_aside(run: RunFolder) -> None:
    """Make room for another run of the same name.

    Raises:
        OutputError: it cannot be renamed.
    """
    # Copies, which are made again if this run should ever go on.
    run.remove_prepared_scans()
    name = f"{run.path.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
    aside = next(path for path in map(run.path.with_name, names) if not path.exists())
    with writing(aside):
        run.path.rename(aside)
    _log.info("the earlier run %s is kept as %s", run.path.name, aside.name)


def _tell_that_it_stops(status: StatusFile) -> None:
    # What is wrong with the disk is said in the end.
    with suppress(OutputError):
        status.update(state="stopping", message="was asked to stop, and saves.")


def _ended_badly(run: RunFolder, status: StatusFile, error: BaseException) -> BaseException:
    """Write down why a training ended before its end, and give what to raise."""
    raised: BaseException = error
    if isinstance(error, Asked | KeyboardInterrupt):
        number = error.number if isinstance(error, Asked) else signal.SIGINT
        raised = StoppedError(
            f"run {run.path.name!r} was stopped by {signal.Signals(number).name}; start it again under this name "
            "to go on.",
            number,
        )
    elif is_out_of_memory(error):
        raised = SRCycError(
            f"run {run.path.name!r}: memory is full; start another one (run: new) with a smaller data.size or "
            "data.batch_size in settings, or on another device; what was saved is kept."
        )
    message = worded(raised) if isinstance(raised, SRCycError) else _unexpected(raised)
    state: State = "stopped" if isinstance(raised, StoppedError) else "failed"
    try:
        status.end(state, message)
    except OutputError:
        # A full disk: what can be made again makes room. Else it reads as interrupted once this process is gone.
        run.remove_prepared_scans()
        with suppress(OutputError):
            status.end(state, message)
    return raised


def _unexpected(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"training failed unexpectedly ({type(error).__name__}: {first}); the server's log has more."


def _last_words(run: RunFolder, wishes: Wishes, outcome: Outcome, verdict: Verdict) -> str:
    said = f"finished after step {outcome.state.done}; "
    if outcome.validator:
        said += f"best after step {outcome.state.best_step}; "
    if verdict.published:
        return (
            f"{said}published as model {wishes.name!r}: {verdict.reason}. It is in use once it is activated."
        )
    return (
        f"{said}not published: {verdict.reason}; train again with publish: always to publish it all the same, or use "
        f"{run.model.relative_to(run.path.parent.parent)} of the server's model folder."
    )


def _best_so_far(run: RunFolder) -> Status:
    """Give what is known of the best model of a run that goes on."""
    training = None
    with suppress(InputError):
        training = load_model(run.model).card.training if run.model.exists() else None
    if training is None:
        return {"best_step": 0, "best_metric": 0.0}
    ssim = training.validation.ssim if training.validation is not None else None
    return {"best_step": training.step, "best_metric": ssim or 0.0}
