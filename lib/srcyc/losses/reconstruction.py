"""Voxel-wise distance between an image and what it should be: cycle, identity and content terms."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch.nn.modules.loss import _Loss

from srcyc.errors import ConfigError
from srcyc.losses._checks import full_precision, require_same_shape

ReconstructionCriterion = Literal["l1", "charbonnier"]


class ReconstructionLoss(_Loss):
    r"""Mean voxel-wise distance, used for ``rec ≈ real`` (cycle), ``idt ≈ real`` (identity) and content.

    ``"l1"`` (default): :math:`|x - t|`; a squared distance would blur.
    ``"charbonnier"`` (Lai et al. 2017, https://arxiv.org/abs/1704.03915):
    :math:`\sqrt{(x - t)^2 + ε^2} - ε`, L1 that is smooth around zero. The shift by ε, which the paper does
    not have, makes a perfect image cost nothing and leaves the gradient as it is.

    Args:
        criterion: ``"l1"`` or ``"charbonnier"``.
        epsilon: ε of Charbonnier, in units of normalised intensity.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (the voxel-wise map).

    Raises:
        ConfigError: for an unknown criterion or reduction, or an ``epsilon`` that is not positive.

    Example:
        >>> float(ReconstructionLoss()(torch.zeros(1, 1, 4, 4, 4), torch.full((1, 1, 4, 4, 4), 0.25)))
        0.25
    """

    def __init__(
        self,
        criterion: ReconstructionCriterion = "l1",
        *,
        epsilon: float = 1e-3,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        if criterion not in get_args(ReconstructionCriterion):
            choices = ", ".join(get_args(ReconstructionCriterion))
            raise ConfigError(f"the reconstruction criterion is {criterion!r}, choose one of {choices}")
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(f"the reduction is {reduction!r}, choose one of mean, sum, none")
        if not epsilon > 0:
            raise ConfigError(f"the epsilon of the Charbonnier loss is {epsilon!r}, choose a number above 0")
        self.criterion: ReconstructionCriterion = criterion
        self.epsilon = float(epsilon)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the distance of ``input`` from ``target``, both ``(B, C, *spatial)``.

        Raises:
            InputError: when the shapes differ.
        """
        require_same_shape(input, target)
        distance = (full_precision(input) - full_precision(target)).abs()
        if self.criterion == "charbonnier":
            distance = torch.sqrt(distance.square() + self.epsilon**2) - self.epsilon
        if self.reduction == "mean":
            return distance.mean()
        return distance.sum() if self.reduction == "sum" else distance
