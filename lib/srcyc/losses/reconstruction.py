"""Distance between an image and what it should be: cycle, identity and content terms."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from srcyc.losses._checks import full_precision, require_same_shape

#: Mean squared error, normalised intensity, below which a baseline counts as perfect: about 1 % of the range, squared.
_PERFECT = 1e-4


class ReconstructionLoss(nn.Module):
    """Mean voxel-wise distance ``|x - t|``, used for ``rec ~ real`` (cycle) and ``idt ~ real`` (identity).

    L1, because a squared distance would blur what has no unique answer.

    Example:
        >>> float(ReconstructionLoss()(torch.zeros(1, 1, 4, 4, 4), torch.full((1, 1, 4, 4, 4), 0.25)))
        0.25
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the distance of ``input`` from ``target``, both ``(B, C, *spatial)``.

        Raises:
            InputError: when the shapes differ.
        """
        require_same_shape(input, target)
        return F.l1_loss(full_precision(input), full_precision(target))


class RelativeLoss(nn.Module):
    """Squared error over that of a baseline: ``mean (x - t)^2 / (mean (x0 - t)^2 + eps)``, the content term.

    Most of what an estimate has left to gain over the classical inverse x0 hides below the truth's own noise: L1 learns
    from the sign of that noise, a squared error from the mean. Divided by the baseline's, every patch and factor counts
    alike, and 1 means that nothing was gained (METHOD, section 4).

    Example:
        >>> truth = torch.zeros(1, 1, 4, 4, 4)
        >>> round(float(RelativeLoss()(truth + 0.1, truth, truth + 0.2)), 2)
        0.25
    """

    def forward(self, input: Tensor, target: Tensor, baseline: Tensor) -> Tensor:
        """Return the relative error of ``input``; all ``(B, C, *spatial)``, normalised intensity.

        Raises:
            InputError: when the shapes differ.
        """
        require_same_shape(input, target)
        require_same_shape(baseline, target)
        truth = full_precision(target)
        allowed = F.mse_loss(full_precision(baseline), truth).detach()
        return F.mse_loss(full_precision(input), truth) / (allowed + _PERFECT)
