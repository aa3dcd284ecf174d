"""One optimisation step on one batch, the same code for every mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from srcyc.config import TrainingConfig
from srcyc.data.image_pool import ImagePool
from srcyc.data.patches import Batch
from srcyc.enhancement import enhance
from srcyc.losses import (
    AdversarialLoss,
    GeneratorObjective,
    GeneratorTerm,
    PerceptualLoss,
    ReconstructionLoss,
    RelativeLoss,
    SpectrumLoss,
    TotalVariationLoss,
)
from srcyc.physics.acquisition import AxisAcquisition
from srcyc.physics.resampling import apply_along
from srcyc.training.distributed import Processes
from srcyc.training.step.networks import Networks
from srcyc.training.step.optimisation import Optimiser

#: Loss terms of a step by name, detached and unweighted.
Terms = dict[str, Tensor]


class TrainingStep:
    """Updates the generators, then the discriminators.

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

    A term of weight 0 is not computed, nor any pass that only it needs, and its discriminator does not learn; what
    several terms look at is computed once. A random G_LR makes noise where D_LR looks; where its result is compared
    with a scan voxel by voxel, it gives the mean.

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
        self.relative = RelativeLoss() if config.content == "relative" else None
        self.total_variation = TotalVariationLoss(3)
        self.spectrum = SpectrumLoss()
        self.perceptual: PerceptualLoss | None = None
        if self.objective.is_active("perceptual"):
            self.perceptual = PerceptualLoss(3, **dict(config.perceptual))
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

    def __call__(self, batch: Batch, scale: float, *, degradation_alone: bool = False) -> Terms:
        """Take one step.

        Args:
            batch: of the step.
            scale: multiplies the learning rates.
            degradation_alone: only G_LR learns (and D_LR, where it judges).
        """
        passes = _passes(self.networks, batch)
        self._judged(False)
        with self._autocast():
            possible = self._terms(passes, batch)
            if degradation_alone:
                possible = {name: possible[name] for name in ("adversarial_lr", "spectrum_lr")}
            loss, terms = self.objective.total(possible)
        self.generators.minimise(loss, scale)
        if self.discriminators is None:
            return terms
        # All items of a step with an adversary have one factor, so they are one batch.
        pairs: dict[
            str, tuple[nn.Module | None, GeneratorTerm, Callable[[], Tensor], Callable[[], Tensor]]
        ] = {
            "d_hr": (
                self.networks.d_hr,
                "adversarial_hr",
                lambda: torch.cat(passes.real_hr),
                lambda: torch.cat(passes.fake_hr()),
            ),
            "d_lr": (self.networks.d_lr, "adversarial_lr", lambda: batch.real_lr, passes.fake_lr),
        }
        self._judged(True)
        judged: dict[str, Tensor] = {}
        for name, (judge, term, real, fake) in pairs.items():
            if judge is not None and term in terms:
                earlier = self._earlier(name, fake())
                with self._autocast():
                    judged[name] = self.adversarial.discriminator(judge(real()), judge(earlier))
        if not judged:
            return terms
        self.discriminators.minimise(torch.stack(list(judged.values())).sum(), scale)
        return {**terms, **{name: loss.detach() for name, loss in judged.items()}}

    def _terms(self, passes: _Passes, batch: Batch) -> dict[GeneratorTerm, Callable[[], Tensor]]:
        """Give the terms that the networks of this mode can have, each as a function."""
        same = self.reconstruction
        real_hr = passes.real_hr
        # Where there is a truth: of the real slices if aligned, else of those that G_LR made.
        estimate, baseline = (
            (passes.fake_hr, passes.baseline_of_real)
            if batch.aligned
            else (passes.learned_hr, passes.baseline_of_fake)
        )

        def content() -> Tensor:
            if self.relative is None:
                return _mean(same, estimate(), real_hr)
            return _mean(self.relative, estimate(), real_hr, baseline())

        terms: dict[GeneratorTerm, Callable[[], Tensor]] = {"content": content}
        if (perceptual := self.perceptual) is not None:
            terms["perceptual"] = lambda: _mean(
                perceptual, estimate(), real_hr, *([baseline()] if perceptual.relative else [])
            )
        terms["total_variation"] = lambda: _mean(self.total_variation, passes.fake_hr())
        d_hr, d_lr = self.networks.d_hr, self.networks.d_lr
        if d_hr is None or d_lr is None:
            return terms
        terms |= {
            "adversarial_hr": lambda: self._fool(d_hr, torch.cat(passes.fake_hr()), torch.cat(real_hr)),
            "adversarial_lr": lambda: self._fool(d_lr, passes.fake_lr(), batch.real_lr),
            "cycle_lr": lambda: same(passes.rec_lr(), batch.real_lr),
            "identity_hr": lambda: _mean(same, *passes.identity_hr()),
            "identity_lr": lambda: same(passes.identity_lr(), batch.real_lr),
            "spectrum_lr": lambda: self.spectrum(passes.fake_lr(), batch.real_lr),
        }
        if not batch.aligned:
            terms["cycle_hr"] = lambda: _mean(same, passes.rec_hr(), real_hr)
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


#: One image ``(1, 1, I, J, planes)`` per item, of those planes that count.
_Images = list[Tensor]


@dataclass(frozen=True)
class _Passes:
    """The forward passes of one batch, each computed when first asked for and then kept.

    ``learned_hr`` is ``rec_hr`` without a gradient in G_LR.
    """

    real_hr: _Images
    fake_hr: Callable[[], _Images]
    rec_lr: Callable[[], Tensor]
    fake_lr: Callable[[], Tensor]
    rec_hr: Callable[[], _Images]
    learned_hr: Callable[[], _Images]
    identity_hr: Callable[[], tuple[_Images, _Images]]
    identity_lr: Callable[[], Tensor]
    baseline_of_real: Callable[[], _Images]
    baseline_of_fake: Callable[[], _Images]


def _passes(networks: Networks, batch: Batch) -> _Passes:
    # Local names, no object that refers to itself: the tensors go as soon as the step is over.
    g_hr, g_lr, axes = networks.g_hr, networks.g_lr, batch.axes

    def counted(images: Sequence[Tensor]) -> _Images:
        return [image[..., batch.counted(item)] for item, image in enumerate(images)]

    def degraded(images: Sequence[Tensor], ratio: float | None = None, *, noisy: bool = False) -> Tensor:
        if g_lr is None:
            raise ValueError("this mode has no G_LR")
        size = batch.real_lr.shape[2:]
        fakes = [
            g_lr(
                image,
                size=size,
                thickness_ratio=axis.thickness_ratio if ratio is None else ratio,
                noise=noise if noisy else None,
            )
            for image, axis, noise in zip(images, axes, batch.noise.split(1), strict=True)
        ]
        return torch.cat(fakes)

    def baseline(slices: Tensor) -> _Images:
        pairs = zip(slices.detach().split(1), axes, strict=True)
        return counted([apply_along(one.float(), axis.upscaling, -1) for one, axis in pairs])

    def identity() -> tuple[_Images, _Images]:
        """A thin scan's planes are slices of factor 1: nothing lies between them, and nothing is wrong with them."""
        planes = batch.real_lr.shape[-1]
        thin = torch.cat([image[..., _central(image.shape[-1], planes)] for image in batch.real_hr])
        same = [AxisAcquisition.of(planes, planes)] * len(thin)
        return [one.image for one in enhance(g_hr, thin, same)], list(thin.split(1))

    fake_hr = cache(lambda: [one.image for one in enhance(g_hr, batch.real_lr, axes)])
    rec_lr = cache(lambda: degraded(fake_hr()))
    # With pairs the degraded image that D_LR judges is that of fake_hr, as in the paper: one pass for two terms.
    shared = batch.aligned and not (g_lr is not None and g_lr.is_noisy)
    fake_lr = (
        rec_lr
        if shared
        else cache(lambda: degraded(fake_hr() if batch.aligned else batch.real_hr, noisy=True))
    )
    return _Passes(
        counted(batch.real_hr),
        cache(lambda: counted(fake_hr())),
        rec_lr,
        fake_lr,
        rec_hr=cache(lambda: counted([one.image for one in enhance(g_hr, fake_lr(), axes)])),
        learned_hr=cache(lambda: counted([one.image for one in enhance(g_hr, fake_lr().detach(), axes)])),
        identity_hr=cache(identity),
        identity_lr=cache(lambda: degraded(batch.real_lr.split(1), ratio=1.0)),
        baseline_of_real=cache(lambda: baseline(batch.real_lr)),
        baseline_of_fake=cache(lambda: baseline(fake_lr())),
    )


def _central(n: int, size: int) -> slice:
    start = (n - size) // 2
    return slice(start, start + size)


def _mean(loss: Callable[..., Tensor], *images: Sequence[Tensor]) -> Tensor:
    """Give the mean of a loss over the items of a batch."""
    return torch.stack([loss(*item) for item in zip(*images, strict=True)]).mean()
