"""Anisotropic total variation, the regulariser of the generated high-resolution image."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.modules.loss import _Loss

from srcyc.errors import ConfigError
from srcyc.losses._checks import full_precision, require_image, require_spatial_dims


class TotalVariationLoss(_Loss):
    r"""Sum of the absolute differences of neighbouring voxels along every axis, per voxel.

    .. math:: TV(x) = \frac{1}{N} \sum_{a} \sum_{v} |x_{v + e_a} - x_v|

    with the axes a, the voxels v and N values per sample (voxels times channels). TensorFlow's
    ``image.total_variation`` is the sum without 1/N; divided by N, the term's weight does not depend on the
    size of the patch. Definition: Rudin, Osher & Fatemi 1992, https://doi.org/10.1016/0167-2789(92)90242-F,
    in its anisotropic form.

    Args:
        spatial_dims: 2 for ``(B, C, I, J)``, 3 for ``(B, C, I, J, K)``.
        reduction: over the batch: ``"mean"``, ``"sum"``, or ``"none"`` for ``(B,)``.

    Raises:
        ConfigError: when ``spatial_dims`` is neither 2 nor 3, or for an unknown reduction.

    Example:
        >>> step = torch.cat([torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 4, 2)], dim=-1)
        >>> float(TotalVariationLoss(spatial_dims=2)(step))
        0.25
    """

    def __init__(self, spatial_dims: int, *, reduction: Literal["mean", "sum", "none"] = "mean") -> None:
        super().__init__(reduction=reduction)
        require_spatial_dims(spatial_dims)
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(f"the reduction is {reduction!r}", remedy="choose one of mean, sum, none")
        self.spatial_dims = spatial_dims

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the total variation of ``input``, ``(B, C, *spatial)`` in normalised intensity.

        Raises:
            InputError: when ``input`` does not have ``spatial_dims + 2`` axes or is empty.
        """
        require_image(input, self.spatial_dims)
        image = full_precision(input)
        spatial_axes = range(2, 2 + self.spatial_dims)
        variation = torch.stack(
            [image.diff(dim=axis).abs().flatten(1).sum(dim=1) for axis in spatial_axes]
        ).sum(dim=0)
        variation = variation / image[0].numel()
        if self.reduction == "mean":
            return variation.mean()
        return variation.sum() if self.reduction == "sum" else variation
