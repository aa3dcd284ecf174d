"""A training run: scans in, published model out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from srcyc.config import TrainingConfig
from srcyc.data.gathering import Sources
from srcyc.device import resolve_precision
from srcyc.errors import ModelError, OutputError
from srcyc.models.model_file import PublishedModel, find_model, load_model
from srcyc.training.distributed import Processes
from srcyc.training.folder import Plan, RunFolder
from srcyc.training.loop import Loop, State
from srcyc.training.material import make_material
from srcyc.training.publishing import Verdict, publish_if_better
from srcyc.training.settings import check_same_config
from srcyc.training.step import TrainingStep, build_networks
from srcyc.training.validation import Validator
from srcyc.training.watch.progress import Listener
from srcyc.training.watch.recorder import HISTORY_NAME, read_history
from srcyc.training.watch.report import write_report
from srcyc.training.watch.signals import StopRequest
from srcyc.training.watch.stability import CollapseError


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        model: the best model.
        state: where the run ended.
        validator: what it was judged by, for comparing it with other models.
        report: files of the report.
    """

    model: Path
    state: State
    validator: Validator
    report: list[Path]

    @property
    def got_worse(self) -> bool:
        """Whether the model that training started from was better on the held-back scans (False if unknown)."""
        return self.state.best < self.state.initial


def with_initial_model(config: TrainingConfig) -> tuple[TrainingConfig, PublishedModel | None]:
    """Give the settings with the network of the model that training starts from, and that model.

    Raises:
        ModelError: there is no such model, or it is of another schema.
    """
    initial = load_model(find_model(config.initial_model)) if config.initial_model else None
    if initial is not None:
        # Fine-tuning keeps the network it starts from, whatever the settings say of a new one.
        config = config.model_copy(update={"g_hr": initial.card.network})
    return config, initial


@dataclass(frozen=True)
class Run:
    """One run, by the command line and by a server alike::

        with folder.claimed():
            run = Run.begin(folder, config, Sources(lr, hr))    # or Run.resume(folder)
            outcome = run.train(Listener(report=print, warn=print))
            run.publish(outcome, Path("mine.safetensors"))
            run.tidy()

    Attributes:
        folder: claimed by the first process.
        plan: what the run is, as it was begun or with settings that change no step.
        processes: that train it together; all of them call all of this, but :meth:`publish` and :meth:`tidy`.
        goes_on: from the newest checkpoint.
    """

    folder: RunFolder
    plan: Plan
    processes: Processes
    goes_on: bool = False

    @classmethod
    def begin(
        cls, folder: RunFolder, config: TrainingConfig, sources: Sources, processes: Processes | None = None
    ) -> Run:
        """Gather the scans of a new run, and write down what it is.

        Raises:
            OutputError: the folder holds a run already, or cannot be written.
            InputError: scans or settings cannot be used (see the message).
        """
        processes = processes or Processes()
        processes.items(config.data.batch_size)  # refuses a batch that cannot be shared
        if processes.is_first:
            if folder.holds_a_run:
                raise OutputError(
                    f"{folder.path}: already holds a training run",
                    remedy="add resume, or choose another folder",
                    options=("resume",),
                )
            config, initial = with_initial_model(config)
            folder.write(Plan(config, sources.gather(config, folder.store), initial))
        processes.wait()
        return cls(folder, folder.read(), processes)

    @classmethod
    def resume(
        cls,
        folder: RunFolder,
        settings: Callable[[TrainingConfig], TrainingConfig] = lambda begun: begun,
        processes: Processes | None = None,
    ) -> Run:
        """Take up the run that was begun in a folder.

        Args:
            folder: of the run.
            settings: gives the settings to go on with from those that it was begun with.
            processes: that go on with it.

        Raises:
            ModelError: there is no run, or its checkpoints were removed.
            ConfigError: the settings cannot be read, or change more than may differ.
            DataError: the list of scans cannot be read.
        """
        processes = processes or Processes()
        processes.wait()
        plan = folder.read()
        config = settings(plan.config)
        processes.items(config.data.batch_size)
        check_same_config(plan.config.model_dump(mode="json"), config, folder.path)
        rows = read_history(folder.path) if (folder.path / HISTORY_NAME).exists() else []
        # Further than a run comes that is stopped before its first checkpoint.
        begun = any(row["step"] > min(config.checkpoint_every, config.steps) for row in rows)
        if begun and not folder.checkpoints(config).paths():
            raise ModelError(
                f"{folder.path}: its checkpoints were removed",
                remedy=f"start a new run with initial_model set to {folder.model}",
            )
        return cls(folder, replace(plan, config=config), processes, goes_on=True)

    def train(self, listener: Listener, stop: StopRequest | None = None) -> Outcome:
        """Train to the end.

        Args:
            listener: told how it goes, in the first process.
            stop: by which the run can be asked to stop from another thread; signals do so too.

        Raises:
            InputError: scans, settings or folder cannot be used (see the message).
            CollapseError: training broke down; the last checkpoint and the best model are kept.
            StoppedError: it was asked to stop, and everything is saved.
        """
        config, initial, processes = self.plan.config, self.plan.initial, self.processes
        networks = build_networks(config, processes.device)
        if initial is not None:
            networks.g_hr.load_state_dict(initial.network.state_dict())
            networks.ema_hr.module.load_state_dict(initial.network.state_dict())
        material = make_material(self.plan, self.folder.store, processes)
        precision = resolve_precision(config.precision, processes.device)
        step = TrainingStep(networks, config, processes, precision)
        loop = Loop(self.folder, self.plan, material, step, listener)
        if self.goes_on:
            loop.resume()
        # Faster algorithms that add up in another order each time would make a resumed run another one.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            try:
                loop.run(stop or StopRequest())
            except CollapseError as error:
                self._report(loop, f"the run broke down: {error}")
                raise
        why = []
        if loop.state.done < config.steps:
            why = [f"ended early: no better model for {loop.state.stale} validations"]
        return Outcome(self.folder.model, loop.state, material.validator, self._report(loop, *why))

    def publish(
        self, outcome: Outcome, target: Path, *, even_if_worse: bool = False, incumbent: Path | None = None
    ) -> Verdict:
        """Put the best model in a place, unless a better one is there or in use; see :func:`publish_if_better`.

        Raises:
            ModelError: a file is no model.
            OutputError: the place cannot be written.
        """
        metric = self.plan.config.validation.key_metric
        return publish_if_better(
            outcome.model,
            target,
            outcome.validator,
            metric,
            even_if_worse=even_if_worse,
            incumbent=incumbent,
        )

    def tidy(self) -> None:
        """Remove what only a running training needs."""
        self.folder.remove_prepared_scans()

    def _report(self, loop: Loop, *notes: str) -> list[Path]:
        if not self.processes.is_first or not self.folder.model.exists():
            return []
        best = load_model(self.folder.model).network.to(self.processes.device)
        pictures = loop.validator.pictures(best)
        return write_report(self.folder.path, self.plan.config, loop.state.best_step, pictures, notes)
