"""Descent: Adam and Muon, clipped gradients, loss scaling where fp16 needs it, the learning rate over the steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Adam, Optimizer

from srcyc.config import OptimiserConfig
from srcyc.training.distributed import Processes


class Muon(Optimizer):
    """Steps along orthogonalised momentum (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    The momentum of a convolution's weights, as a matrix ``(out, in * kernel)``, is replaced by about the nearest one
    with orthonormal rows: every direction of a layer learns equally fast. PyTorch's own takes matrices only.

    Args:
        parameters: weights of convolutions with as many channels in as out.
        lr: learning rate.
        momentum: of the Nesterov kind.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                mean = state.setdefault("momentum", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                along = weight.grad.lerp(mean, group["momentum"]).flatten(1)
                weight.sub_(group["lr"] * _orthogonalised(along.float()).reshape(weight.shape))


def _orthogonalised(matrix: Tensor) -> Tensor:
    """Bring the singular values of ``(rows, columns)``, rows <= columns, close to 1 by five Newton-Schulz steps."""
    x = matrix / (torch.linalg.vector_norm(matrix) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


class Optimiser:
    """Adam (Kingma, Ba 2015, arXiv:1412.6980) over some networks; the inner layers of one may have Muon.

    Args:
        networks: trained together.
        learning_rate: of Adam, before the schedule.
        config: algorithm, betas and clipping.
        processes: whose gradients are averaged.
        dtype: of the forward passes; fp16 has too narrow a range for gradients, so the loss is scaled then.
        inner_of: the network whose convolutions with as many channels in as out are Muon's, if that is asked for.
    """

    def __init__(
        self,
        networks: Iterable[nn.Module],
        learning_rate: float,
        config: OptimiserConfig,
        processes: Processes,
        dtype: torch.dtype,
        *,
        inner_of: nn.Module | None = None,
    ) -> None:
        self.parameters = [p for network in networks for p in network.parameters()]
        inner: list[nn.Parameter] = []
        if config.algorithm == "muon" and inner_of is not None:
            inner = [p for p in inner_of.parameters() if p.ndim > 2 and p.shape[0] == p.shape[1]]
        known = set(map(id, inner))
        rest = [p for p in self.parameters if id(p) not in known]
        self.algorithms: dict[str, tuple[Optimizer, float]] = {
            "adam": (Adam(rest, lr=learning_rate, betas=config.betas), learning_rate)
        }
        if inner:
            self.algorithms["muon"] = (Muon(inner, config.muon_learning_rate), config.muon_learning_rate)
        self.clip = config.gradient_clip
        self.processes = processes
        self.scaler = GradScaler(processes.device.type, enabled=dtype == torch.float16)

    def minimise(self, loss: Tensor, scale: float) -> None:
        """Step down the gradient of ``loss`` with ``scale`` times the learning rates."""
        for algorithm, rate in self.algorithms.values():
            algorithm.zero_grad(set_to_none=True)
            for group in algorithm.param_groups:
                group["lr"] = rate * scale
        self.scaler.scale(loss).backward()
        self.processes.average_gradients(self.parameters)
        for algorithm, _ in self.algorithms.values():
            self.scaler.unscale_(algorithm)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        # The scaler leaves out the step of that algorithm alone whose gradients overflowed, but clipping has brought
        # the norm, which is no number then, into the other one's.
        if not self.scaler.is_enabled() or norm.isfinite():
            for algorithm, _ in self.algorithms.values():
                self.scaler.step(algorithm)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs."""
        states = {name: algorithm.state_dict() for name, (algorithm, _) in self.algorithms.items()}
        return {**states, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for name, (algorithm, _) in self.algorithms.items():
            algorithm.load_state_dict(state[name])
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
