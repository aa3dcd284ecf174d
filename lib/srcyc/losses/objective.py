"""The generators' objective: the weighted sum of the loss terms, in which an unused term costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field

from srcyc.errors import ConfigError, InputError
from srcyc.losses._checks import full_precision
from srcyc.schema import Schema


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

    def of(self, term: str) -> float:
        """Give a term's weight; that of ``cycle_lr`` is ``lambda_cycle_lr`` if there is one, else ``lambda_cycle``.

        Raises:
            InputError: no weight has its name.
        """
        for name in (term, term.removesuffix("_hr").removesuffix("_lr")):
            weight: float | None = getattr(self, f"lambda_{name}", None)
            if weight is not None:
                return weight
        names = ", ".join(name.removeprefix("lambda_") for name in type(self).model_fields)
        raise InputError(f"the generators' objective has no term {term!r}", remedy=f"choose among {names}")


def weighted_sum(
    terms: Mapping[str, Callable[[], torch.Tensor]], weights: LossWeights
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute the terms with a weight above 0, in the order given, and their weighted sum.

    loss_G = λ_adv (adv_HR + adv_LR) + λ_cyc (cyc_HR + cyc_LR) + λ_id (id_HR + id_LR) + λ_content · content
    + λ_perc · perceptual + λ_tv · TV + λ_spectrum · spectrum_LR. The function of a term with weight 0 is never
    called, so neither the loss nor the network pass inside it happens.

    Args:
        terms: for every term of this step, a function without arguments that returns it as a scalar.
        weights: the λ of every term.

    Returns:
        The sum, a scalar with gradient in float32, and the computed terms **without** their weights,
        detached and left on their device, so that reading them costs no synchronisation in the step.

    Raises:
        InputError: for an unknown term or one that is no scalar.
        ConfigError: when no term has a weight above 0, so that there is nothing to minimise.
    """
    factors = {term: weights.of(term) for term in terms}
    values: dict[str, torch.Tensor] = {}
    weighted: list[torch.Tensor] = []
    for term, compute in terms.items():
        if factors[term] == 0:
            continue
        value = full_precision(compute())
        if value.ndim != 0:
            raise InputError(
                f"the loss term {term} has shape {tuple(value.shape)}", remedy="reduce it to a scalar"
            )
        values[term] = value.detach()
        weighted.append(factors[term] * value)
    if not weighted:
        names = ", ".join(terms) or "(none given)"
        raise ConfigError(f"every weight of the loss terms {names} is 0", remedy="set at least one above 0")
    return torch.stack(weighted).sum(), values
