"""Adversarial losses on the logits of a (patch) discriminator."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from srcyc.errors import ConfigError, InputError
from srcyc.losses._checks import full_precision

AdversarialCriterion = Literal["bce", "lsgan", "relativistic"]


class AdversarialLoss:
    r"""The two sides of the adversarial game, for logits of any shape ``(B, 1, ...)``.

    With the discriminator's logits :math:`r` of real and :math:`f` of fake images, :math:`\sigma` the sigmoid
    and E the mean over the batch and the positions of the patch map:

    ``"bce"`` (default; Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, non-saturating):
        D: ½ (−E log σ(r) − E log(1 − σ(f)));  G: −E log σ(f).
    ``"lsgan"`` (Mao et al. 2017, https://arxiv.org/abs/1611.04076, with a = 0, b = c = 1):
        D: ½ (E (r − 1)² + E f²);  G: E (f − 1)², without the paper's ½, as CycleGAN weighs it.
    ``"relativistic"`` (average, with BCE; Jolicoeur-Martineau 2018, https://arxiv.org/abs/1807.00734):
        D: ½ (−E log σ(r − E f) − E log(1 − σ(f − E r)));  G: the same with r and f exchanged.
        The ½ on both sides keeps the loss of an undecided discriminator at ln 2, as for ``"bce"``.

    The real and the fake logits may differ in shape (their terms are averaged separately). Everything is
    reduced in float32 at least, also under autocast.

    Args:
        criterion: which of the three.

    Raises:
        ConfigError: when ``criterion`` is none of the three.

    Example:
        >>> loss = AdversarialLoss("bce")
        >>> undecided = torch.zeros(2, 1, 6, 6, 6)
        >>> round(float(loss.discriminator(undecided, undecided)), 4)
        0.6931
    """

    def __init__(self, criterion: AdversarialCriterion = "bce") -> None:
        if criterion not in get_args(AdversarialCriterion):
            choices = ", ".join(get_args(AdversarialCriterion))
            raise ConfigError(
                f"the adversarial criterion is {criterion!r}", remedy=f"choose one of {choices}"
            )
        self.criterion: AdversarialCriterion = criterion

    @property
    def needs_real_logits(self) -> bool:
        """Whether the generator's side needs the logits of real images too."""
        return self.criterion == "relativistic"

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the discriminator's loss, a scalar: the mean of its real and its fake term.

        Args:
            real_logits: ``(B, 1, ...)``, of real images.
            fake_logits: ``(B, 1, ...)``, of generated images that are detached from their generator.
        """
        real, fake = full_precision(real_logits), full_precision(fake_logits)
        if self.criterion == "relativistic":
            real, fake = real - fake.mean(), fake - real.mean()
        return 0.5 * (self._distance(real, is_real=True) + self._distance(fake, is_real=False))

    def generator(self, fake_logits: torch.Tensor, real_logits: torch.Tensor | None = None) -> torch.Tensor:
        """Return the generator's loss, a scalar: small when the discriminator takes the fake images for real.

        Args:
            fake_logits: ``(B, 1, ...)``, of generated images, with gradient.
            real_logits: ``(B, 1, ...)``, of real images; only the relativistic criterion reads them.

        Raises:
            InputError: when the relativistic criterion gets no ``real_logits``.
        """
        fake = full_precision(fake_logits)
        if self.criterion != "relativistic":
            return self._distance(fake, is_real=True)
        if real_logits is None:
            raise InputError(
                "the relativistic adversarial loss compares fake with real images and got no real_logits",
                remedy="pass the discriminator's logits of the real images, or choose the "
                "criterion bce or lsgan",
            )
        real = full_precision(real_logits)
        return 0.5 * (
            self._distance(fake - real.mean(), is_real=True)
            + self._distance(real - fake.mean(), is_real=False)
        )

    def _distance(self, logits: torch.Tensor, *, is_real: bool) -> torch.Tensor:
        target = torch.ones_like(logits) if is_real else torch.zeros_like(logits)
        if self.criterion == "lsgan":
            return F.mse_loss(logits, target)
        return F.binary_cross_entropy_with_logits(logits, target)
