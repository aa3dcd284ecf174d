"""What a run learns from and is judged by: its scans as they are drawn and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from srcyc.config import TrainingConfig
from srcyc.data.domains import AssignedScan
from srcyc.data.gathering import TrainingSet
from srcyc.data.patches import AlignedPatches, Batch, Patches, SimulatedPatches, UnpairedPatches
from srcyc.data.store import ScanStore, TrainingScan
from srcyc.errors import ConfigError
from srcyc.training.distributed import Processes
from srcyc.training.folder import Plan
from srcyc.training.validation import Validator


@dataclass(frozen=True)
class Material:
    """What a run learns from and is judged by.

    Attributes:
        batches: one per step (see :mod:`srcyc.data.patches`).
        hr: HR scans that are trained on.
        lr: the same.
        validator: without any case, the last step counts as the best.
    """

    batches: Dataset[Batch]
    hr: Sequence[TrainingScan]
    lr: Sequence[TrainingScan]
    validator: Validator

    @property
    def names(self) -> list[str]:
        """One line per scan that is trained on; a checkpoint of other scans is refused."""
        return [f"{scan.name} {scan.image.shape} {scan.spacing}" for scan in (*self.lr, *self.hr)]


def make_material(plan: Plan, store: ScanStore, processes: Processes) -> Material:
    """Prepare what is not prepared yet; all processes call this.

    Raises:
        ConfigError: the batch cannot be shared equally, or the key metric cannot be measured on these scans.
        InputError: a scan or the LPIPS weights cannot be read.
    """
    config, scans = plan.config, plan.scans
    if not processes.is_first:
        # The first process prepares what is not prepared yet.
        processes.wait()
    batches = make_batches(config, scans, store, processes)
    hr, lr = _load(store, scans.hr), _load(store, scans.lr)
    # The first process judges, the others judge nothing.
    held_hr = _load(store, scans.validation_hr if processes.is_first else [])
    held_lr = _load(store, scans.validation_lr if processes.is_first else [])
    validator = Validator(held_hr, held_lr, config.validation, processes.device)
    needs_lr = config.validation.key_metric == "cycle"
    if held_hr and not (validator.real if needs_lr else validator.simulated):
        kind, remedy = (
            ("LR", "give LR scans of more persons") if needs_lr else ("HR", "set validation.thicknesses")
        )
        raise ConfigError(
            f"validation.key_metric {config.validation.key_metric} cannot be measured on the "
            f"held-back {kind} scans",
            remedy=f"{remedy}, or choose another key_metric",
        )
    if processes.is_first:
        processes.wait()
    return Material(batches, hr, lr, validator)


def make_batches(
    config: TrainingConfig, scans: TrainingSet, store: ScanStore, processes: Processes
) -> Patches:
    """Give the batches of a run: real pairs, unrelated scans, or simulated pairs.

    Raises:
        ConfigError: the batch cannot be shared equally by the processes.
    """
    settings = (config.data, config.seed, config.steps, processes.items(config.data.batch_size))
    if scans.pairs:
        pairs = [(store.get(lr.path), store.get(hr.path)) for lr, hr in scans.pairs]
        return AlignedPatches(pairs, *settings)
    if config.mode == "unpaired":
        return UnpairedPatches(_load(store, scans.lr), _load(store, scans.hr), *settings)
    # An adversary judges the images of a step side by side: they have one factor then.
    return SimulatedPatches(_load(store, scans.hr), *settings, mixed=config.mode == "generator-only")


def _load(store: ScanStore, scans: Sequence[AssignedScan]) -> list[TrainingScan]:
    return [store.get(scan.path) for scan in scans]
