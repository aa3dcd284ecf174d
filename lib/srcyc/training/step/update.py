"""One optimisation step on one batch, the same code for every mode."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from srcyc.config import TrainingConfig
from srcyc.data.image_pool import ImagePool
from srcyc.data.patches import Batch
from srcyc.losses import AdversarialLoss, weighted_sum
from srcyc.training.distributed import Processes
from srcyc.training.step.networks import Networks
from srcyc.training.step.optimisation import Optimiser
from srcyc.training.step.passes import Passes
from srcyc.training.step.terms import TERMS


class TrainingStep:
    """Updates the generators by :data:`srcyc.training.step.terms.TERMS`, then the discriminators.

    A term of weight 0 is not computed, nor any pass that only it needs, and its discriminator does not learn; what
    several terms look at is computed once.

    Args:
        networks: those of the run.
        config: of the run.
        processes: that share a batch.
        dtype: of the forward passes.
    """

    def __init__(
        self,
        networks: Networks,
        config: TrainingConfig,
        processes: Processes = Processes(),  # noqa: B008 - frozen
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.networks = networks
        self.processes = processes
        self.dtype = dtype
        self.weights = config.losses
        self.terms = {
            name: term.make(config)
            for name, term in TERMS.items()
            if self.weights.of(name) and not (term.cyclic and networks.g_lr is None)
        }
        self.adversarial = AdversarialLoss(config.adversarial)
        self.pools = {
            "d_hr": ImagePool(config.pool_size, seed=config.seed),
            "d_lr": ImagePool(config.pool_size, seed=config.seed + 1),
        }
        settings = config.optimiser
        generators = [g for g in (networks.g_hr, networks.g_lr) if g is not None]
        self.generators = Optimiser(
            generators, settings.learning_rate, settings, processes, dtype, inner_of=networks.g_hr
        )
        self.discriminators: Optimiser | None = None
        if networks.d_hr is not None and networks.d_lr is not None:
            self.discriminators = Optimiser(
                [networks.d_hr, networks.d_lr],
                settings.discriminator_learning_rate,
                settings,
                processes,
                dtype,
            )

    def __call__(self, batch: Batch, scale: float, *, degradation_alone: bool = False) -> dict[str, Tensor]:
        """Take one step.

        Args:
            batch: of the step.
            scale: multiplies the learning rates.
            degradation_alone: only G_LR learns (and D_LR, where it judges).

        Returns:
            the loss terms by name, detached and unweighted.
        """
        passes = Passes(self.networks, batch)
        wanted = {
            name: partial(compute, passes)
            for name, compute in self.terms.items()
            if not (TERMS[name].unrelated and batch.aligned)
            and (TERMS[name].g_lr_alone or not degradation_alone)
        }
        self._judged(False)
        with self._autocast():
            loss, terms = weighted_sum(wanted, self.weights)
        self.generators.minimise(loss, scale)
        if self.discriminators is None:
            return terms
        self._judged(True)
        judged: dict[str, Tensor] = {}
        for name, term in (("d_hr", "adversarial_hr"), ("d_lr", "adversarial_lr")):
            if term in terms:
                judge = getattr(self.networks, name)
                fake, real = passes.judged(name)
                earlier = self._earlier(name, fake)
                with self._autocast():
                    judged[name] = self.adversarial.discriminator(judge(real), judge(earlier))
        if not judged:
            return terms
        self.discriminators.minimise(torch.stack(list(judged.values())).sum(), scale)
        return {**terms, **{name: loss.detach() for name, loss in judged.items()}}

    def _earlier(self, name: str, fake: Tensor) -> Tensor:
        """Exchange fakes with the pool, which is the same one in every process."""
        return self.processes.own(self.pools[name].query(self.processes.gather(fake.detach())))

    def _judged(self, trained: bool) -> None:
        """Let the discriminators learn, or hold them still while the generators do."""
        for discriminator in (self.networks.d_hr, self.networks.d_lr):
            if discriminator is not None:
                discriminator.requires_grad_(trained)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.processes.device.type, self.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs besides the networks."""
        state = {
            "generators": self.generators.state_dict(),
            "pools": {name: pool.state_dict() for name, pool in self.pools.items()},
        }
        if self.discriminators is not None:
            state["discriminators"] = self.discriminators.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.generators.load_state_dict(state["generators"])
        for name, pool in self.pools.items():
            pool.load_state_dict(state["pools"][name])
        if self.discriminators is not None:
            self.discriminators.load_state_dict(state["discriminators"])
