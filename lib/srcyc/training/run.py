"""A training run: scans in, published model out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from srcyc.config import TrainingConfig
from srcyc.data.domains import AssignedScan, ManifestEntry
from srcyc.data.gathering import TrainingSet, gather
from srcyc.data.patches import AlignedPatches, Patches, Share, SimulatedPatches, UnpairedPatches
from srcyc.data.store import ScanStore, TrainingScan
from srcyc.device import resolve_precision
from srcyc.errors import ConfigError, ModelError, OutputError
from srcyc.models.model_file import PublishedModel, find_model, load_model, publish_model
from srcyc.networks import Generator
from srcyc.training.distributed import Processes
from srcyc.training.folder import RunFolder
from srcyc.training.loop import Progress, State, Trainer
from srcyc.training.publishing import held_back_scores, make_card
from srcyc.training.step import TrainingStep, build_networks
from srcyc.training.validation import Score, Validator
from srcyc.training.watch.recorder import HISTORY_NAME, Recorder, read_history
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
        ConfigError: a network that does not fit volumes.
    """
    initial = load_model(find_model(config.initial_model)) if config.initial_model else None
    if initial is not None:
        # Fine-tuning keeps the network it starts from, whatever the settings say of a new one.
        config = config.model_copy(update={"g_hr": initial.card.network})
    for name in ("g_lr", "d_hr", "d_lr"):
        if getattr(config, name).spatial_dims != 3:
            raise ConfigError(f"{name}.spatial_dims is 2", remedy="training on volumes needs 3")
    return config, initial


def begin(
    run: RunFolder,
    config: TrainingConfig,
    lr: Sequence[Path],
    hr: Sequence[Path],
    manifest: dict[Path, ManifestEntry] | None,
) -> TrainingSet:
    """Gather the scans of a new run and write down what it is, inside :meth:`RunFolder.claimed`.

    Raises:
        OutputError: the folder holds a run already, or cannot be written.
        InputError: scans or settings cannot be used (see the message).
    """
    if run.holds_a_run:
        raise OutputError(
            f"{run.path}: already holds a training run",
            remedy="add resume, or choose another folder",
            options=("resume",),
        )
    config, initial = with_initial_model(config)
    scans = gather(config, lr, hr, manifest, run.store)
    run.begin(config, scans, initial)
    return scans


def train(
    run: RunFolder,
    processes: Processes,
    *,
    config: TrainingConfig | None = None,
    resume: bool = False,
    report: Callable[[Progress], None],
    warn: Callable[[str], None],
    stop: StopRequest | None = None,
) -> Outcome:
    """Train the run that was begun in a folder, to its end.

    Args:
        run: begun by the first process.
        processes: all of them call this.
        config: the run's, of which those settings may differ that change no step; default: as begun.
        resume: go on from the newest checkpoint.
        report: called at each report, in the first process.
        warn: told what is unusual.
        stop: by which the run can be asked to stop from another thread; signals do so too.

    Raises:
        InputError: scans, settings or folder cannot be used (see the message).
        CollapseError: training broke down; the last checkpoint and the best model are kept.
        StoppedError: it was asked to stop, and everything is saved.
    """
    begun, scans, initial = run.reopen()
    config = config or begun
    device = processes.device
    networks = build_networks(config, device)
    if initial is not None:
        networks.g_hr.load_state_dict(initial.network.state_dict())
        networks.ema_hr.module.load_state_dict(initial.network.state_dict())
    if not processes.is_first:
        # The first process prepares what is not prepared yet.
        processes.wait()
    batches = make_batches(config, scans, run.store, processes.share)
    hr, lr = _load(run.store, scans.hr), _load(run.store, scans.lr)
    validator = _validator(config, scans, run.store, processes)
    if processes.is_first:
        processes.wait()

    def publish(network: Generator, step: int, score: Score | None) -> None:
        scores = held_back_scores(validator.simulated, **validator.qualities) if score is not None else ()
        seconds = round(trainer.state.seconds, 1)
        card = make_card(
            config,
            initial,
            hr,
            lr,
            step,
            score,
            scores=scores,
            seconds=seconds,
            degradation=networks.degradation,
        )
        publish_model(network, card, run.model, overwrite=True)

    trainer = Trainer(
        config,
        networks,
        TrainingStep(networks, config, processes, resolve_precision(config.precision, device)),
        batches,
        validator,
        run.checkpoints(config),
        lambda step: Recorder(run.path, step),
        processes,
        scans=[f"{scan.name} {scan.image.shape} {scan.spacing}" for scan in (*lr, *hr)],
        on_best=publish,
        report=report,
    )
    if resume:
        _check_nothing_was_removed(run, config)
        trainer.resume(warn)
    # Faster algorithms that add up in another order each time would make a resumed run another one.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        try:
            trainer.run(stop or StopRequest())
        except CollapseError as error:
            if processes.is_first:
                _report(run, config, validator, [f"the run broke down: {error}"])
            raise
    if not processes.is_first:
        return Outcome(run.model, trainer.state, validator, [])
    early = trainer.state.done < config.steps
    why = [f"ended early: no better model for {trainer.state.stale} validations"] if early else []
    return Outcome(run.model, trainer.state, validator, _report(run, config, validator, why))


def _check_nothing_was_removed(run: RunFolder, config: TrainingConfig) -> None:
    """Refuse to begin again in the place of a run whose checkpoints are gone.

    Raises:
        ModelError: its history is longer than that of a run that was stopped before its first checkpoint.
    """
    rows = read_history(run.path) if (run.path / HISTORY_NAME).exists() else []
    first = min(config.checkpoint_every, config.steps)
    if not run.checkpoints(config).paths() and any(row["step"] > first for row in rows):
        raise ModelError(
            f"{run.path}: its checkpoints were removed",
            remedy=f"start a new run with initial_model set to {run.model}",
        )


def make_batches(config: TrainingConfig, scans: TrainingSet, store: ScanStore, share: Share) -> Patches:
    """Give the batches of a run: real pairs, unrelated scans, or simulated pairs.

    Raises:
        ConfigError: the batch cannot be shared equally by the processes.
    """
    settings = (config.data, config.seed, config.steps, share)
    if scans.pairs:
        pairs = [(store.get(lr.path), store.get(hr.path)) for lr, hr in scans.pairs]
        return AlignedPatches(pairs, *settings)
    if config.mode == "unpaired":
        return UnpairedPatches(_load(store, scans.lr), _load(store, scans.hr), *settings)
    # An adversary judges the images of a step side by side: they have one factor then.
    return SimulatedPatches(_load(store, scans.hr), *settings, mixed=config.mode == "generator-only")


def _load(store: ScanStore, scans: Sequence[AssignedScan]) -> list[TrainingScan]:
    return [store.get(scan.path) for scan in scans]


def _validator(
    config: TrainingConfig, scans: TrainingSet, store: ScanStore, processes: Processes
) -> Validator:
    """Give what the first process judges by; the others judge nothing.

    Raises:
        ConfigError: the key metric cannot be measured on these scans.
    """
    hr = scans.validation_hr if processes.is_first else []
    lr = scans.validation_lr if processes.is_first else []
    validator = Validator(_load(store, hr), _load(store, lr), config.validation, processes.device)
    needs_lr = config.validation.key_metric == "cycle"
    if processes.is_first and hr and not (validator.real if needs_lr else validator.simulated):
        kind, remedy = (
            ("LR", "give LR scans of more persons") if needs_lr else ("HR", "set validation.thicknesses")
        )
        raise ConfigError(
            f"validation.key_metric {config.validation.key_metric} cannot be measured on the "
            f"held-back {kind} scans",
            remedy=f"{remedy}, or choose another key_metric",
        )
    return validator


def _report(run: RunFolder, config: TrainingConfig, validator: Validator, notes: list[str]) -> list[Path]:
    if not run.model.exists():
        return []
    pictures = validator.pictures(load_model(run.model).network.to(validator.device))
    return write_report(run.path, config, pictures, notes)
