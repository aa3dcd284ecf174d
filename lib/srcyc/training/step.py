"""One optimisation step on one batch, the same code for every mode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from srcyc.config import TrainingConfig
from srcyc.data.image_pool import ImagePool
from srcyc.data.patches import Batch
from srcyc.losses import (
    AdversarialLoss,
    GeneratorObjective,
    GeneratorTerm,
    PerceptualLoss,
    ReconstructionLoss,
    TotalVariationLoss,
)
from srcyc.training.distributed import Processes
from srcyc.training.networks import Networks
from srcyc.training.optimisation import Optimiser

#: Loss terms of a step by name, detached and unweighted.
Terms = dict[str, Tensor]


class TrainingStep:
    """Updates the generators, then the discriminators.

    unpaired (Zhu et al. 2017, arXiv:1703.10593), both cycles on unrelated patches:
        forward:  real_lr -> G_HR -> fake_hr (judged by D_HR) -> G_LR -> rec_lr  ~ real_lr
        backward: real_hr -> G_LR -> fake_lr (judged by D_LR) -> G_HR -> rec_hr  ~ real_hr
        content and perceptual terms compare rec_hr with its truth, real_hr
    paired (SRResCycGAN: Umer, Micheloni 2020, arXiv:2009.03693), real_hr is the truth of real_lr:
        forward:  real_lr -> G_HR -> fake_hr ~ real_hr (judged by D_HR) -> G_LR -> fake_lr ~ real_lr (judged by D_LR)
    generator-only: the content (and perceptual, total variation) terms of paired alone.
    identity: G_HR.refine(real_hr) at factor 1 ~ real_hr, G_LR(real_lr) at factor 1 ~ real_lr

    A term of weight 0 is not computed, nor any pass that only it needs; what several terms look at is computed once.

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
        self.objective = GeneratorObjective(config.losses)
        self.adversarial = AdversarialLoss(config.adversarial)
        self.reconstruction = ReconstructionLoss()
        dims = config.g_hr.spatial_dims
        self.total_variation = TotalVariationLoss(dims)
        self.perceptual = PerceptualLoss(
            dims,
            backbone=config.perceptual.backbone,
            layer=config.perceptual.layer,
            weights=config.perceptual.weights,
            slices_per_axis=config.perceptual.slices_per_axis,
        )
        self.pools = {
            "d_hr": ImagePool(config.pool_size, seed=config.seed),
            "d_lr": ImagePool(config.pool_size, seed=config.seed + 1),
        }
        settings = config.optimiser
        generators = [g for g in (networks.g_hr, networks.g_lr) if g is not None]
        self.generators = Optimiser(generators, settings.learning_rate, settings, processes, dtype)
        self.discriminators: Optimiser | None = None
        if networks.d_hr is not None and networks.d_lr is not None:
            self.discriminators = Optimiser(
                [networks.d_hr, networks.d_lr],
                settings.discriminator_learning_rate,
                settings,
                processes,
                dtype,
            )

    def __call__(self, batch: Batch, scale: float) -> Terms:
        """Take one step; ``scale`` multiplies the learning rates."""
        passes = _passes(self.networks, batch)
        self._judged(False)
        with self._autocast():
            loss, terms = self.objective.total(self._terms(passes, batch))
        self.generators.minimise(loss, scale)
        d_hr, d_lr = self.networks.d_hr, self.networks.d_lr
        if self.discriminators is None or d_hr is None or d_lr is None:
            return terms
        if not self.objective.is_active("adversarial_hr"):
            return terms
        self._judged(True)
        fake_hr, fake_lr = self._earlier("d_hr", passes.fake_hr()), self._earlier("d_lr", passes.fake_lr())
        with self._autocast():
            judged_hr = self.adversarial.discriminator(d_hr(batch.real_hr), d_hr(fake_hr))
            judged_lr = self.adversarial.discriminator(d_lr(batch.real_lr), d_lr(fake_lr))
        self.discriminators.minimise(judged_hr + judged_lr, scale)
        return {**terms, "d_hr": judged_hr.detach(), "d_lr": judged_lr.detach()}

    def _terms(self, passes: _Passes, batch: Batch) -> dict[GeneratorTerm, Callable[[], Tensor]]:
        """Give the terms that the networks of this mode can have, each as a function."""
        same = self.reconstruction
        estimate = passes.fake_hr if batch.aligned else passes.rec_hr
        terms: dict[GeneratorTerm, Callable[[], Tensor]] = {
            "content": lambda: same(estimate(), batch.real_hr),
            "perceptual": lambda: self.perceptual(estimate(), batch.real_hr),
            "total_variation": lambda: self.total_variation(passes.fake_hr()),
        }
        d_hr, d_lr = self.networks.d_hr, self.networks.d_lr
        if d_hr is None or d_lr is None:
            return terms
        terms |= {
            "adversarial_hr": lambda: self._fool(d_hr, passes.fake_hr(), batch.real_hr),
            "adversarial_lr": lambda: self._fool(d_lr, passes.fake_lr(), batch.real_lr),
            "cycle_lr": lambda: same(passes.rec_lr(), batch.real_lr),
            "identity_hr": lambda: same(passes.identity_hr(), batch.real_hr),
            "identity_lr": lambda: same(passes.identity_lr(), batch.real_lr),
        }
        if not batch.aligned:
            terms["cycle_hr"] = lambda: same(passes.rec_hr(), batch.real_hr)
        return terms

    def _fool(self, discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        judged_real = discriminator(real) if self.adversarial.needs_real_logits else None
        return self.adversarial.generator(discriminator(fake), judged_real)

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


@dataclass(frozen=True)
class _Passes:
    """The forward passes of one batch, each computed when first asked for and then kept."""

    fake_hr: Callable[[], Tensor]
    rec_lr: Callable[[], Tensor]
    fake_lr: Callable[[], Tensor]
    rec_hr: Callable[[], Tensor]
    identity_hr: Callable[[], Tensor]
    identity_lr: Callable[[], Tensor]


def _passes(networks: Networks, batch: Batch) -> _Passes:
    # Local names, no object that refers to itself: the tensors go as soon as the step is over.
    g_hr, g_lr = networks.g_hr, networks.g_lr
    lr_size, hr_size = batch.real_lr.shape[2:], batch.real_hr.shape[2:]

    def degraded(hr: Tensor, ratio: float = batch.thickness_ratio) -> Tensor:
        if g_lr is None:
            raise ValueError("this mode has no G_LR")
        result: Tensor = g_lr(hr, size=lr_size, thickness_ratio=ratio)
        return result

    def refined(upscaled: Tensor, sigma: Tensor) -> Tensor:
        return g_hr.refine(upscaled, factor=batch.factor, thickness_ratio=batch.thickness_ratio, sigma=sigma)

    fake_hr = cache(lambda: refined(batch.upscaled, batch.sigma_lr))
    rec_lr = cache(lambda: degraded(fake_hr()))
    # With pairs the degraded image that D_LR judges is that of fake_hr, as in the paper: one pass for two terms.
    fake_lr = rec_lr if batch.aligned else cache(lambda: degraded(batch.real_hr))
    return _Passes(
        fake_hr,
        rec_lr,
        fake_lr,
        rec_hr=cache(lambda: refined(g_hr.upscale(fake_lr(), hr_size), batch.sigma_hr)),
        identity_hr=cache(lambda: g_hr.refine(batch.real_hr, sigma=batch.sigma_hr)),
        identity_lr=cache(lambda: degraded(batch.real_lr, ratio=1.0)),
    )
