"""Descent: Adam with clipped gradients, loss scaling where fp16 needs it, and the learning rate over the steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Adam

from srcyc.config import OptimiserConfig
from srcyc.training.distributed import Processes


class Optimiser:
    """Adam (Kingma, Ba 2015, arXiv:1412.6980) over some networks.

    Args:
        networks: trained together.
        learning_rate: before the schedule.
        config: betas and clipping.
        processes: whose gradients are averaged.
        dtype: of the forward passes; fp16 has too narrow a range for gradients, so the loss is scaled then.
    """

    def __init__(
        self,
        networks: Iterable[nn.Module],
        learning_rate: float,
        config: OptimiserConfig,
        processes: Processes,
        dtype: torch.dtype,
    ) -> None:
        self.parameters = [p for network in networks for p in network.parameters()]
        self.learning_rate = learning_rate
        self.adam = Adam(self.parameters, lr=learning_rate, betas=config.betas)
        self.clip = config.gradient_clip
        self.processes = processes
        self.scaler = GradScaler(processes.device.type, enabled=dtype == torch.float16)

    def minimise(self, loss: Tensor, scale: float) -> None:
        """Step down the gradient of ``loss`` with ``scale`` times the learning rate."""
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * scale
        self.adam.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.processes.average_gradients(self.parameters)
        self.scaler.unscale_(self.adam)
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.adam)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs."""
        return {"adam": self.adam.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.adam.load_state_dict(state["adam"])
        # Empty from a run in another type, which needed no scaling.
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def learning_rate_scale(step: int, config: OptimiserConfig, steps: int) -> float:
    """Give the factor of the learning rate at a step of ``steps``: a linear rise, then the schedule.

    ``cosine``: Loshchilov, Hutter 2017, arXiv:1608.03983. ``linear``: a straight line; both end at the final fraction.
    ``step``: multiplied by gamma at each milestone. It depends on the step alone, so there is no state to resume.
    """
    if step < config.warm_up:
        return (step + 1) / config.warm_up
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return config.gamma ** bisect_right(config.milestones, step)
    progress = min((step - config.warm_up) / max(steps - config.warm_up, 1), 1.0)
    remaining = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_fraction + (1 - config.final_fraction) * remaining
