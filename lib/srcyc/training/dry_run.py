"""What a run would take, measured on a few steps that are thrown away."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from srcyc.config import TrainingConfig
from srcyc.data.gathering import TrainingSet
from srcyc.data.store import ScanStore
from srcyc.device import peak_memory, resolve_precision
from srcyc.training.distributed import Processes
from srcyc.training.material import make_batches
from srcyc.training.step import TrainingStep, build_networks

_WARM_UP, _TIMED = 1, 3


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        factors: least and greatest factor among the batches looked at.
        parameters: trained numbers, by network.
        seconds_per_step: drawing the batch included, unless worker processes draw ahead.
        memory: greatest use so far, bytes: of the GPU, or of this process; None where the system does not tell.
    """

    factors: tuple[float, float]
    parameters: dict[str, int]
    seconds_per_step: float
    memory: int | None


def estimate(config: TrainingConfig, scans: TrainingSet, store: ScanStore, device: torch.device) -> Estimate:
    """Take a few steps on networks that nobody keeps.

    Raises:
        InputError: as the run itself would.
    """
    processes = Processes(device=device)
    batches = make_batches(config, scans, store, processes)
    networks = build_networks(config, device)
    step = TrainingStep(networks, config, processes, resolve_precision(config.precision, device))
    seconds, factors = [], []
    for number in range(_WARM_UP + _TIMED):
        drawing = time.monotonic()
        batch = batches[number % config.steps]
        started = time.monotonic()
        step(batch.to(device), 1.0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.monotonic() - (started if config.data.workers else drawing))
        factors += [axis.factor for axis in batch.axes]
    trained = {name: network for name, network in networks.named() if not name.startswith("ema")}
    return Estimate(
        (min(factors), max(factors)),
        {name: sum(p.numel() for p in network.parameters()) for name, network in trained.items()},
        median(seconds[_WARM_UP:]),
        torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory(),
    )
