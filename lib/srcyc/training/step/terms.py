"""The terms of the generators' objective, one row each; a new one is a loss, its weight, and a row here.

unpaired (Zhu et al. 2017, arXiv:1703.10593), both cycles on unrelated patches:
    forward:  real_lr -> G_HR -> fake_hr (judged by D_HR) -> G_LR -> rec_lr  ~ real_lr
    backward: real_hr -> G_LR -> fake_lr (judged by D_LR) -> G_HR -> rec_hr  ~ real_hr
    content and perceptual terms compare rec_hr with its truth, real_hr. Only G_HR learns from them: G_LR would hide
    in fake_lr what G_HR needs (Chu et al. 2017, arXiv:1712.02950). The cycle term of the formula teaches both.
paired (SRResCycGAN: Umer, Micheloni 2020, arXiv:2009.03693), real_hr is the truth of real_lr:
    forward:  real_lr -> G_HR -> fake_hr ~ real_hr (judged by D_HR) -> G_LR -> fake_lr ~ real_lr (judged by D_LR)
generator-only: the content (and perceptual, total variation) terms of paired alone.
identity: G_HR(real_hr) at factor 1 ~ real_hr, G_LR(real_lr) at factor 1 ~ real_lr
spectrum: fake_lr is as sharp and as noisy as real_lr, whoever is in them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srcyc.config import TrainingConfig
from srcyc.losses import (
    AdversarialLoss,
    PerceptualLoss,
    ReconstructionLoss,
    RelativeLoss,
    SpectrumLoss,
    TotalVariationLoss,
)
from srcyc.training.step.passes import Passes

Compute = Callable[[Passes], Tensor]


@dataclass(frozen=True)
class Term:
    """A row of :data:`TERMS`.

    Attributes:
        make: gives, for the settings of a run, what computes the term, a scalar.
        cyclic: it needs all four networks.
        unrelated: it is one of unpaired training alone.
        g_lr_alone: it is what teaches G_LR while G_HR does not learn yet.
    """

    make: Callable[[TrainingConfig], Compute]
    cyclic: bool = True
    unrelated: bool = False
    g_lr_alone: bool = False


def _content(config: TrainingConfig) -> Compute:
    if config.content == "relative":
        relative = RelativeLoss()
        return lambda passes: _mean(relative, passes.estimate, passes.real_hr, passes.baseline)
    return _same(lambda passes: (passes.estimate, passes.real_hr))(config)


def _perceptual(config: TrainingConfig) -> Compute:
    loss = PerceptualLoss(**dict(config.perceptual))
    if loss.relative:
        return lambda passes: _mean(loss, passes.estimate, passes.real_hr, passes.baseline)
    return lambda passes: _mean(loss, passes.estimate, passes.real_hr)


def _total_variation(config: TrainingConfig) -> Compute:
    loss = TotalVariationLoss()
    return lambda passes: _mean(loss, passes.fake_hr)


def _fooling(judge: str) -> Callable[[TrainingConfig], Compute]:
    def make(config: TrainingConfig) -> Compute:
        loss = AdversarialLoss(config.adversarial)

        def compute(passes: Passes) -> Tensor:
            discriminator = getattr(passes.networks, judge)
            fake, real = passes.judged(judge)
            judged_real = discriminator(real) if loss.needs_real_logits else None
            return loss.generator(discriminator(fake), judged_real)

        return compute

    return make


def _same(
    pair: Callable[[Passes], tuple[Sequence[Tensor], Sequence[Tensor]]],
) -> Callable[[TrainingConfig], Compute]:
    loss = ReconstructionLoss()
    return lambda config: lambda passes: _mean(loss, *pair(passes))


def _spectrum(config: TrainingConfig) -> Compute:
    loss = SpectrumLoss()
    return lambda passes: loss(passes.fake_lr, passes.real_lr)


#: By the name under which a term is recorded; its weight is ``lambda_`` and that name (see :class:`LossWeights`).
TERMS: dict[str, Term] = {
    "content": Term(_content, cyclic=False),
    "perceptual": Term(_perceptual, cyclic=False),
    "tv": Term(_total_variation, cyclic=False),
    "adversarial_hr": Term(_fooling("d_hr")),
    "adversarial_lr": Term(_fooling("d_lr"), g_lr_alone=True),
    "cycle_lr": Term(_same(lambda passes: ([passes.rec_lr], [passes.real_lr]))),
    "identity_hr": Term(_same(lambda passes: passes.identity_hr)),
    "identity_lr": Term(_same(lambda passes: ([passes.identity_lr], [passes.real_lr]))),
    "spectrum_lr": Term(_spectrum, g_lr_alone=True),
    "cycle_hr": Term(_same(lambda passes: (passes.rec_hr, passes.real_hr)), unrelated=True),
}


def _mean(loss: Callable[..., Tensor], *images: Sequence[Tensor]) -> Tensor:
    """Give the mean of a loss over the items of a batch."""
    return torch.stack([loss(*item) for item in zip(*images, strict=True)]).mean()
