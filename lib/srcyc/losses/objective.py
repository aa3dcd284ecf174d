"""The generators' objective: the weighted sum of the loss terms, in which an unused term costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field

from srcyc.errors import ConfigError, InputError
from srcyc.losses._checks import full_precision
from srcyc.schema import Schema

GeneratorTerm = Literal[
    "adversarial_hr",
    "adversarial_lr",
    "cycle_hr",
    "cycle_lr",
    "identity_hr",
    "identity_lr",
    "content",
    "perceptual",
    "total_variation",
    "spectrum_lr",
]


class LossWeights(Schema):
    """Weights of the generators' loss terms; a term of weight 0 costs nothing.

    In paired and generator-only training content and perceptual compare fake_hr with its truth; in unpaired training
    they compare rec_hr with its. A training file's defaults depend on its mode: see
    :data:`srcyc.config.DEFAULTS_OF_MODE`.
    """

    lambda_adversarial: float = Field(default=1.0, ge=0)
    lambda_adversarial_lr: float | None = Field(
        default=None, ge=0, description="of the term by D_LR; default: lambda_adversarial"
    )
    lambda_cycle: float = Field(default=10.0, ge=0)
    lambda_identity: float = Field(default=5.0, ge=0)
    lambda_content: float = Field(default=0.0, ge=0)
    lambda_perceptual: float = Field(default=0.0, ge=0)
    lambda_tv: float = Field(default=0.0, ge=0)
    lambda_spectrum: float = Field(
        default=0.0, ge=0, description="of fake_lr's power spectrum against real_lr's"
    )


#: Which weight a term has; the HR and the LR term of one kind share theirs, if no other is set.
_WEIGHT_NAMES: dict[str, str] = {
    "adversarial_hr": "lambda_adversarial",
    "adversarial_lr": "lambda_adversarial_lr",
    "cycle_hr": "lambda_cycle",
    "cycle_lr": "lambda_cycle",
    "identity_hr": "lambda_identity",
    "identity_lr": "lambda_identity",
    "content": "lambda_content",
    "perceptual": "lambda_perceptual",
    "total_variation": "lambda_tv",
    "spectrum_lr": "lambda_spectrum",
}


def weight_of(weights: LossWeights, term: GeneratorTerm) -> float:
    """Return the weight of a term.

    Raises:
        InputError: for an unknown term.
    """
    if term not in _WEIGHT_NAMES:
        choices = ", ".join(_WEIGHT_NAMES)
        raise InputError(f"the generators' objective has no term {term!r}", remedy=f"choose among {choices}")
    weight: float | None = getattr(weights, _WEIGHT_NAMES[term])
    return weights.lambda_adversarial if weight is None else weight


class GeneratorObjective:
    """Weighted sum of the generators' loss terms, each given as a function that computes it.

    loss_G = λ_adv (adv_HR + adv_LR) + λ_cyc (cyc_HR + cyc_LR) + λ_id (id_HR + id_LR) + λ_content · content
    + λ_perc · perceptual + λ_tv · TV + λ_spectrum · spectrum_LR. The function of a term with weight 0 is never
    called, so neither the loss nor the network pass inside it happens.

    Args:
        weights: the λ of every term.

    Example:
        Two terms that need the same image share it through ``functools.cache``:

        >>> real_hr = torch.rand(1, 1, 8, 8, 8)
        >>> rec_hr = functools.cache(lambda: g_hr(fake_lr, size=real_hr.shape[2:]))   # doctest: +SKIP
        >>> total, terms = GeneratorObjective(LossWeights(lambda_tv=0.1)).total({
        ...     "adversarial_hr": lambda: adversarial.generator(d_hr(fake_hr)),
        ...     "cycle_hr": lambda: reconstruction(rec_hr(), real_hr),
        ...     "perceptual": lambda: perceptual(rec_hr(), real_hr),
        ...     "total_variation": lambda: total_variation(fake_hr),
        ... })   # doctest: +SKIP
        >>> total.backward()   # doctest: +SKIP
    """

    def __init__(self, weights: LossWeights) -> None:
        self.weights = weights

    def is_active(self, *terms: GeneratorTerm) -> bool:
        """Return whether any of the terms has a weight above 0, so that what they need must be computed.

        Raises:
            InputError: for an unknown term.
        """
        weights = [
            weight_of(self.weights, term) for term in terms
        ]  # all of them, so that no misspelt one hides
        return max(weights, default=0.0) > 0

    def total(
        self, terms: Mapping[GeneratorTerm, Callable[[], torch.Tensor]]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the terms with a weight above 0, in the order given, and their weighted sum.

        Args:
            terms: for every term of this step, a function without arguments that returns it as a scalar.

        Returns:
            The sum, a scalar with gradient in float32, and the computed terms **without** their weights,
            detached and left on their device, so that reading them costs no synchronisation in the step.

        Raises:
            InputError: for an unknown term or one that is no scalar.
            ConfigError: when no term is active, so that there is nothing to minimise.
        """
        weights = {term: weight_of(self.weights, term) for term in terms}
        values: dict[str, torch.Tensor] = {}
        weighted: list[torch.Tensor] = []
        for term, compute in terms.items():
            if weights[term] == 0:
                continue
            value = full_precision(compute())
            if value.ndim != 0:
                raise InputError(
                    f"the loss term {term} has shape {tuple(value.shape)}", remedy="reduce it to a scalar"
                )
            values[term] = value.detach()
            weighted.append(weights[term] * value)
        if not weighted:
            names = ", ".join(terms) or "(none given)"
            raise ConfigError(
                f"every weight of the loss terms {names} is 0", remedy="set at least one above 0"
            )
        return torch.stack(weighted).sum(), values
