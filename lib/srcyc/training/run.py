"""A training run: scans in, published model out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import torch
import yaml

from srcyc._version import __version__
from srcyc.config import TrainingConfig
from srcyc.data.domains import AssignedScan, Domain, ManifestEntry, assign_domains, split_by_person
from srcyc.data.patches import (
    SimulatedPatches,
    TrainingScan,
    UnpairedPatches,
    check_sizes,
    load_training_scan,
)
from srcyc.errors import ConfigError, DataError, OutputError
from srcyc.inference.model_file import ModelCard, PublishedModel, find_model, load_model, publish_model
from srcyc.networks import SRResDNet
from srcyc.training.networks import build_networks
from srcyc.training.trainer import Progress, Trainer
from srcyc.training.validation import Score, prepare_cases

MODEL_NAME = "model.safetensors"
CONFIG_NAME = "config.yaml"


@dataclass(frozen=True)
class TrainingSet:
    """The scans of a run.

    Attributes:
        lr: LR scans to train on; empty in generator-only mode.
        hr: HR scans to train on.
        validation: HR scans of held-back persons.
        left_out: scans that are not used, each with its reason.
    """

    lr: list[AssignedScan]
    hr: list[AssignedScan]
    validation: list[AssignedScan]
    left_out: list[AssignedScan]


def gather(
    config: TrainingConfig,
    lr: Sequence[Path],
    hr: Sequence[Path],
    manifest: dict[Path, ManifestEntry] | None = None,
) -> TrainingSet:
    """Find the scans, assign domains, and hold persons back.

    LR scans of a held-back person are left out too: nothing of that person is trained on.

    Raises:
        DataError: a domain that the mode needs has no scan, or nobody would be left to train on.
    """
    scans = assign_domains(lr, domain=Domain.LR, manifest=manifest)
    scans += assign_domains(hr, domain=Domain.HR, manifest=manifest)
    of_domain = {domain: [scan for scan in scans if scan.domain is domain] for domain in Domain}
    left_out = of_domain[Domain.NEITHER]
    training, validation = split_by_person(
        of_domain[Domain.HR], config.data.validation_fraction, config.seed, config.data.held_back
    )
    held_back = {scan.person for scan in validation}
    used_lr = [scan for scan in of_domain[Domain.LR] if scan.person not in held_back]
    left_out += [
        replace(scan, reason=f"{scan.person} is held back for validation")
        for scan in of_domain[Domain.LR]
        if scan.person in held_back
    ]
    if not training:
        raise DataError("no HR scan to train on: give at least two persons' thin-slice scans with --hr.")
    if config.mode == "unpaired" and not used_lr:
        raise DataError(
            "no LR scan to train on: give thick-slice scans with --lr, or train with --set mode=generator-only."
        )
    return TrainingSet(used_lr if config.mode == "unpaired" else [], training, validation, left_out)


def train(
    config: TrainingConfig,
    scans: TrainingSet,
    folder: Path,
    *,
    device: torch.device,
    resume: bool = False,
    report: Callable[[Progress], None],
) -> Path:
    """Train and publish the best model.

    Args:
        config: of the run.
        scans: from :func:`gather`.
        folder: gets the configuration, checkpoint, history and the published model.
        device: where to train.
        resume: go on from the folder's checkpoint.
        report: called at each validation.

    Returns:
        the published model's path.

    Raises:
        InputError: scans, configuration or folder cannot be used (see the message).
        SRCycError: training broke down.
    """
    initial = load_model(find_model(config.initial_model)) if config.initial_model else None
    if initial is not None:
        # Fine-tuning keeps the network it starts from, whatever the configuration says of a new one.
        config = config.model_copy(update={"g_hr": initial.card.network})
    if config.g_hr.spatial_dims != 3:
        raise ConfigError("g_hr.spatial_dims is 2; training on volumes needs 3.")
    lr = [load_training_scan(scan.path) for scan in scans.lr]
    hr = [load_training_scan(scan.path) for scan in scans.hr]
    check_sizes(hr, config.data, lr=False)
    check_sizes(lr, config.data, lr=True)
    held_back = [load_training_scan(scan.path) for scan in scans.validation]
    networks = build_networks(config, device)
    if initial is not None:
        networks.g_hr.load_state_dict(initial.network.state_dict())
        networks.ema_hr.module.load_state_dict(initial.network.state_dict())
    batches: SimulatedPatches | UnpairedPatches
    if config.mode == "generator-only":
        batches = SimulatedPatches(hr, config.data, config.g_hr.interpolation, config.seed, config.steps)
    else:
        batches = UnpairedPatches(lr, hr, config.data, config.seed, config.steps)

    def publish(network: SRResDNet, step: int, score: Score | None) -> None:
        card = _card(config, initial, hr, lr, step, score)
        publish_model(network, card, folder / MODEL_NAME, overwrite=True)

    cases = prepare_cases(held_back, config.validation, networks.g_hr)
    trainer = Trainer(config, networks, batches, cases, folder, device, publish, report)
    _claim(folder, config, trainer, resume=resume)
    trainer.run()
    return folder / MODEL_NAME


def _claim(folder: Path, config: TrainingConfig, trainer: Trainer, *, resume: bool) -> None:
    """Make the folder this run's own, or take the run in it up again."""
    if resume:
        trainer.resume()
        return
    if trainer.checkpoint.exists() or (folder / MODEL_NAME).exists():
        raise OutputError(f"{folder}: already holds a training run; add --resume, or choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder."
        ) from error


def _card(
    config: TrainingConfig,
    initial: PublishedModel | None,
    hr: Sequence[TrainingScan],
    lr: Sequence[TrainingScan],
    step: int,
    score: Score | None,
) -> ModelCard:
    sizes = [min(scan.spacing) for scan in hr]
    factors = [scan.factor for scan in lr] or list(config.data.factor_range)
    if initial is not None:
        sizes += initial.card.spacing_range
        factors += initial.card.factor_range
    metrics: dict[str, object] = {"mode": config.mode, "step": step}
    if initial is not None:
        metrics["started_from"] = {"name": initial.card.name, "sha256": initial.sha256}
    if score is not None:
        metrics |= {
            "validation_psnr": round(score.psnr, 3),
            "validation_gain_over_cubic": round(score.gain, 3),
        }
    default = f"{len(hr)} HR and {len(lr)} LR scans"
    return ModelCard(
        name=config.card.name,
        title=config.card.title,
        network=config.g_hr,
        spacing_range=(round(min(sizes), 3), round(max(sizes), 3)),
        factor_range=(round(min(factors), 2), round(max(factors), 2)),
        contrasts=config.card.contrasts,
        trained_on=config.card.trained_on or default,
        metrics=metrics,
        licence=config.card.licence,
        created=datetime.now(timezone.utc).date().isoformat(),
        software=f"srcyc {__version__}",
    )
