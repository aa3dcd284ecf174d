"""The networks of a training run, and the moving averages of its generators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from srcyc.config import TrainingConfig
from srcyc.networks import Degradation, DegradationNet, Generator, PatchDiscriminator, build_generator


@dataclass(frozen=True)
class Networks:
    """The four networks; generator-only training has G_HR alone.

    Attributes:
        g_hr: LR -> HR.
        ema_hr: moving average of ``g_hr``: what is validated and published.
        g_lr: HR -> LR.
        d_hr: judges HR.
        d_lr: judges LR.
    """

    g_hr: Generator
    ema_hr: AveragedModel
    g_lr: DegradationNet | None
    ema_lr: AveragedModel | None
    d_hr: PatchDiscriminator | None
    d_lr: PatchDiscriminator | None

    @property
    def averages(self) -> tuple[Generator, DegradationNet | None]:
        """The moving averages of the generators."""
        g_lr = None if self.ema_lr is None else self.ema_lr.module
        return self.ema_hr.module, g_lr  # type: ignore[return-value]

    def update_averages(self) -> None:
        """Let the moving averages follow one step of the generators."""
        self.ema_hr.update_parameters(self.g_hr)
        if self.g_lr is not None and self.ema_lr is not None:
            self.ema_lr.update_parameters(self.g_lr)

    @property
    def degradation(self) -> Degradation | None:
        """What the moving average of G_LR has found out about the LR scans; None without a G_LR that does."""
        _, g_lr = self.averages
        return None if g_lr is None else g_lr.learned

    def named(self) -> Iterator[tuple[str, nn.Module]]:
        """Give the networks there are, with the names of their fields."""
        for name in self.__dataclass_fields__:
            network = getattr(self, name)
            if network is not None:
                yield name, network


def build_networks(config: TrainingConfig, device: torch.device) -> Networks:
    """Build the networks of a run from its seed, so that the same configuration gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        g_hr = build_generator(config.g_hr)
        both = config.mode != "generator-only"
        g_lr = DegradationNet(**dict(config.g_lr)) if both else None
        d_hr = PatchDiscriminator(**dict(config.d_hr)) if both else None
        d_lr = PatchDiscriminator(**dict(config.d_lr)) if both else None
    for network in (g_hr, g_lr, d_hr, d_lr):
        if network is not None:
            network.to(device)
    return Networks(g_hr, _average(g_hr, config), g_lr, _average(g_lr, config) if g_lr else None, d_hr, d_lr)


def _average(network: nn.Module, config: TrainingConfig) -> AveragedModel:
    largest = config.optimiser.ema_decay

    @torch.no_grad()
    def update(averages: Any, parameters: Any, updates: Tensor | int) -> None:
        # A constant decay would keep the untrained weights in the average for thousands of steps.
        decay = min(largest, (1 + int(updates)) / (10 + int(updates)))
        torch._foreach_lerp_(averages, parameters, 1 - decay)

    return AveragedModel(network, multi_avg_fn=update)
