"""The processes of one run: one, or those that ``torchrun`` started, which together take the steps that one would."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from srcyc.device import resolve_device
from srcyc.errors import ConfigError, SRCycError

#: The others wait while the first process reads hundreds of scans; torchrun ends them if it fails.
_PATIENCE = timedelta(hours=2)


class LostProcessError(SRCycError):
    """Another process of the run has ended; it, or torchrun, says why."""


@contextmanager
def _talking() -> Iterator[None]:
    """Tell the failure of a message to the other processes from all other failures."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of this run has ended, so this one does too",
            remedy="start it again with resume to go on",
            options=("resume",),
        ) from error


@dataclass(frozen=True)
class Processes:
    """Which process this is, and what all of them do together; with one process, everything is a no-op.

    Gradients are averaged here and not by DistributedDataParallel: a step runs each network several times before it
    looks at a gradient, once for every loss term, and only the sum is worth sending.

    Every message to the others raises :class:`LostProcessError` if one of them has ended.

    Attributes:
        rank: number of this process, from 0.
        world: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that reads scans, validates, and writes files."""
        return self.rank == 0

    def items(self, batch_size: int) -> range:
        """Give the items of every batch that this process draws.

        Raises:
            ConfigError: the batch cannot be shared equally.
        """
        if batch_size % self.world:
            raise ConfigError(
                f"data.batch_size={batch_size} cannot be shared by {self.world} processes",
                remedy="use a multiple of it",
            )
        count = batch_size // self.world
        return range(self.rank * count, (self.rank + 1) * count)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in one message."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with _talking():
            dist.all_reduce(flat)
        flat /= self.world
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def gather(self, images: Tensor) -> Tensor:
        """Give the batches of all processes, ``(B, ...)`` each, as one ``(world * B, ...)`` in order of rank."""
        if self.world == 1:
            return images
        images = images.contiguous()
        parts = [torch.empty_like(images) for _ in range(self.world)]
        with _talking():
            dist.all_gather(parts, images)
        return torch.cat(parts)

    def own(self, images: Tensor) -> Tensor:
        """Give this process's part of what :meth:`gather` gave."""
        return images.chunk(self.world)[self.rank]

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Average numbers of the same names over the processes."""
        if self.world == 1 or not values:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        with _talking():
            dist.all_reduce(numbers)
        return dict(zip(values, (numbers / self.world).tolist(), strict=True))

    def largest(self, value: int) -> int:
        """Give the largest of the processes' values."""
        if self.world == 1:
            return value
        number = torch.tensor(value, device=self.device)
        with _talking():
            dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.world > 1:
            with _talking():
                dist.barrier()


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Join the run that ``torchrun`` started, or be the only process.

    Args:
        device: where to train; of several processes on GPUs, each takes the GPU of its local rank.

    Raises:
        ConfigError: there are more processes than GPUs.
    """
    if not dist.is_torchelastic_launched():
        yield Processes(device=device)
        return
    if device.type == "cuda":
        device = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
