"""Anisotropic total variation, the regulariser of the generated high-resolution image."""

from __future__ import annotations

import torch
from torch import nn

from srcyc.losses._checks import full_precision, require_image


class TotalVariationLoss(nn.Module):
    r"""Sum of the absolute differences of neighbouring voxels along every axis, per voxel; mean over the batch.

    .. math:: TV(x) = \frac{1}{N} \sum_{a} \sum_{v} |x_{v + e_a} - x_v|

    with the axes a, the voxels v and N values per sample (voxels times channels). TensorFlow's
    ``image.total_variation`` is the sum without 1/N; divided by N, the term's weight does not depend on the
    size of the patch. Definition: Rudin, Osher & Fatemi 1992, https://doi.org/10.1016/0167-2789(92)90242-F,
    in its anisotropic form.

    Example:
        >>> step = torch.cat([torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 4, 2)], dim=-1)
        >>> float(TotalVariationLoss()(step))
        0.25
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the total variation of ``input``, ``(B, C, *spatial)`` in normalised intensity.

        Raises:
            InputError: when ``input`` has no spatial axis or is empty.
        """
        require_image(input)
        image = full_precision(input)
        variation = torch.stack(
            [image.diff(dim=axis).abs().flatten(1).sum(dim=1) for axis in range(2, image.ndim)]
        ).sum(dim=0)
        return (variation / image[0].numel()).mean()
