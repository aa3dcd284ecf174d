"""One optimisation step on one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from srcyc.config import TrainingConfig
from srcyc.data.image_pool import ImagePool
from srcyc.data.patches import SimulatedBatch, UnpairedBatch
from srcyc.losses import (
    AdversarialLoss,
    GeneratorObjective,
    PerceptualLoss,
    ReconstructionLoss,
    TotalVariationLoss,
)
from srcyc.training.networks import Networks

#: Loss terms of a step by name, detached and unweighted.
Terms = dict[str, Tensor]
AutocastFactory = Callable[[], AbstractContextManager[Any]]


class _Optimiser:
    """Adam over some networks, with gradient clipping."""

    def __init__(self, networks: Iterable[nn.Module], learning_rate: float, config: TrainingConfig) -> None:
        self.parameters = [p for network in networks for p in network.parameters()]
        self.learning_rate = learning_rate
        self.adam = Adam(self.parameters, lr=learning_rate, betas=config.optimiser.betas)
        self.clip = config.optimiser.gradient_clip

    def minimise(self, loss: Tensor, scale: float) -> None:
        """Step down the gradient of ``loss`` with ``scale`` times the learning rate."""
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * scale
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.adam.step()


class GeneratorOnlyStep:
    """G_HR alone on simulated acquisitions: mean absolute difference to the truth, the honest baseline.

    Args:
        networks: those of the run.
        config: of the run.
        autocast: gives the context of the forward passes.
    """

    def __init__(self, networks: Networks, config: TrainingConfig, autocast: AutocastFactory) -> None:
        self.networks = networks
        self.autocast = autocast
        self.content = ReconstructionLoss()
        self.optimiser = _Optimiser([networks.g_hr], config.optimiser.learning_rate, config)

    def __call__(self, batch: SimulatedBatch, scale: float) -> Terms:
        """Update G_HR; ``scale`` multiplies the learning rate."""
        with self.autocast():
            fake_hr = self.networks.g_hr.refine(
                batch.upscaled, factor=batch.factor, thickness_ratio=batch.thickness_ratio, sigma=batch.sigma
            )
            content = self.content(fake_hr, batch.truth)
        self.optimiser.minimise(content, scale)
        return {"content": content.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs besides the networks."""
        return {"adam": self.optimiser.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.optimiser.adam.load_state_dict(state["adam"])


class UnpairedStep:
    """Both cycles of SRResCycGAN on unrelated LR and HR patches, updating all four networks.

    forward:  real_lr -> G_HR -> fake_hr (judged by D_HR) -> G_LR -> rec_lr  ~ real_lr
    backward: real_hr -> G_LR -> fake_lr (judged by D_LR) -> G_HR -> rec_hr  ~ real_hr
    identity: G_HR.refine(real_hr) at factor 1 ~ real_hr, G_LR(real_lr) at factor 1 ~ real_lr

    rec_hr has a ground truth, the real HR, so the content and perceptual terms are taken there (unpaired cycles:
    Zhu et al. 2017, arXiv:1703.10593; SRResCycGAN: Umer, Micheloni 2020, arXiv:2009.03693).

    Args:
        networks: all four.
        config: of the run.
        autocast: gives the context of the forward passes.
    """

    def __init__(self, networks: Networks, config: TrainingConfig, autocast: AutocastFactory) -> None:
        if networks.g_lr is None or networks.d_hr is None or networks.d_lr is None:
            raise ValueError("unpaired training needs all four networks")
        self.g_hr, self.g_lr = networks.g_hr, networks.g_lr
        self.d_hr, self.d_lr = networks.d_hr, networks.d_lr
        self.autocast = autocast
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
        self.pool_hr = ImagePool(config.pool_size, seed=config.seed)
        self.pool_lr = ImagePool(config.pool_size, seed=config.seed + 1)
        settings = config.optimiser
        self.generators = _Optimiser([self.g_hr, self.g_lr], settings.learning_rate, config)
        self.discriminators = _Optimiser([self.d_hr, self.d_lr], settings.discriminator_learning_rate, config)

    def __call__(self, batch: UnpairedBatch, scale: float) -> Terms:
        """Update the generators, then the discriminators; ``scale`` multiplies the learning rates."""
        for discriminator in (self.d_hr, self.d_lr):
            discriminator.requires_grad_(False)
        with self.autocast():
            fakes, (loss, terms) = self._generator_pass(batch)
        self.generators.minimise(loss, scale)
        if not self.objective.is_active("adversarial_hr"):
            return terms
        for discriminator in (self.d_hr, self.d_lr):
            discriminator.requires_grad_(True)
        fake_hr, fake_lr = fakes
        with self.autocast():
            judged_hr = self._judge(self.d_hr, batch.real_hr, self.pool_hr.query(fake_hr))
            judged_lr = self._judge(self.d_lr, batch.real_lr, self.pool_lr.query(fake_lr))
        self.discriminators.minimise(judged_hr + judged_lr, scale)
        return {**terms, "d_hr": judged_hr.detach(), "d_lr": judged_lr.detach()}

    def _generator_pass(self, batch: UnpairedBatch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Terms]]:
        real_lr, real_hr = batch.real_lr, batch.real_hr
        lr_size, hr_size = real_lr.shape[2:], real_hr.shape[2:]
        fake_hr = self.g_hr(real_lr, size=hr_size, sigma=batch.sigma_lr)
        fake_lr = self.g_lr(real_hr, size=lr_size)
        # Several terms look at the reconstruction: it is computed once, and only if one of them counts.
        rec_hr = cache(lambda: self.g_hr(fake_lr, size=hr_size, sigma=batch.sigma_hr))
        total = self.objective.total(
            {
                "adversarial_hr": lambda: self._fool(self.d_hr, fake_hr, real_hr),
                "adversarial_lr": lambda: self._fool(self.d_lr, fake_lr, real_lr),
                "cycle_lr": lambda: self.reconstruction(self.g_lr(fake_hr, size=lr_size), real_lr),
                "cycle_hr": lambda: self.reconstruction(rec_hr(), real_hr),
                "identity_hr": lambda: self.reconstruction(
                    self.g_hr.refine(real_hr, sigma=batch.sigma_hr), real_hr
                ),
                "identity_lr": lambda: self.reconstruction(self.g_lr(real_lr, size=lr_size), real_lr),
                "content": lambda: self.reconstruction(rec_hr(), real_hr),
                "perceptual": lambda: self.perceptual(rec_hr(), real_hr),
                "total_variation": lambda: self.total_variation(fake_hr),
            }
        )
        return (fake_hr, fake_lr), total

    def _fool(self, discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        judged_real = discriminator(real) if self.adversarial.needs_real_logits else None
        return self.adversarial.generator(discriminator(fake), judged_real)

    def _judge(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return self.adversarial.discriminator(discriminator(real), discriminator(fake))

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs besides the networks."""
        return {
            "generators": self.generators.adam.state_dict(),
            "discriminators": self.discriminators.adam.state_dict(),
            "pool_hr": self.pool_hr.state_dict(),
            "pool_lr": self.pool_lr.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.generators.adam.load_state_dict(state["generators"])
        self.discriminators.adam.load_state_dict(state["discriminators"])
        self.pool_hr.load_state_dict(state["pool_hr"])
        self.pool_lr.load_state_dict(state["pool_lr"])


def learning_rate_scale(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then cosine decay to the final fraction (Loshchilov, Hutter 2017, arXiv:1608.03983)."""
    settings = config.optimiser
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    progress = (step - settings.warm_up) / max(config.steps - settings.warm_up, 1)
    cosine = 0.5 * (1 + float(torch.cos(torch.tensor(min(progress, 1.0) * torch.pi))))
    return settings.final_fraction + (1 - settings.final_fraction) * cosine
