"""LearnedAcquisition: the acquisition operator with what nobody tells of it as parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from srcyc.physics.acquisition import FWHM_PER_SIGMA, LARGEST_THICKNESS, Acquisition
from srcyc.physics.resampling import apply_along
from srcyc.schema import Schema

#: A parameter p stands for start * exp(_GAIN p): Adam moves every parameter by its learning rate a step, whatever the
#: gradient, and at 2e-4 this is two per cent of the value.
_GAIN = 100.0
#: In-plane blur at the start, FWHM in voxels: hardly any, but enough for a gradient.
_BLUR = 0.8
#: Noise at the start, normalised intensity.
_NOISE = 0.01


class Degradation(Schema):
    """What a degradation generator found out about the scans of the LR domain.

    Attributes:
        width: of the slice profile, over the width that is told.
        blur: in-plane, FWHM of a Gaussian in the scan's voxels.
        noise: standard deviation, normalised intensity.
    """

    width: float = Field(gt=0)
    blur: float = Field(ge=0)
    noise: float = Field(ge=0)

    def as_row(self) -> dict[str, float]:
        """Give the values by the names that they have in ``history.csv``."""
        return {"profile_width": self.width, "blur": self.blur, "noise": self.noise}

    def __str__(self) -> str:
        """Say it."""
        return (
            f"slice profiles {self.width:.2f} times as wide as told, blur within the slices {self.blur:.2f} voxels "
            f"(FWHM), noise {100 * self.noise:.1f} %"
        )


class LearnedAcquisition(nn.Module):
    """The operator A of :mod:`srcyc.physics.acquisition`, differentiable in what it does not know, plus noise.

    A slice is the mean of the object weighted by a Gaussian profile, ``width`` times as wide as told; each slice is
    blurred by a Gaussian along the other axes and has white Gaussian noise. At factor 1 the image is a scan already,
    and nothing happens to it.

    Example:
        >>> operator = LearnedAcquisition()
        >>> operator(torch.rand(1, 1, 8, 8, 20), size=(8, 8, 5), thickness_ratio=0.8).shape
        torch.Size([1, 1, 8, 8, 5])
    """

    def __init__(self) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.zeros(()))
        self.blur = nn.Parameter(torch.zeros(()))
        self.noise = nn.Parameter(torch.zeros(()))

    @property
    def learned(self) -> Degradation:
        """The values that the parameters stand for."""
        return Degradation(
            width=math.exp(_GAIN * float(self.width.detach())),
            blur=_BLUR * math.exp(_GAIN * float(self.blur.detach())),
            noise=_NOISE * math.exp(_GAIN * float(self.noise.detach())),
        )

    def forward(
        self, hr: Tensor, *, size: Sequence[int], thickness_ratio: float = 1.0, noise: Tensor | None = None
    ) -> Tensor:
        """Acquire an image.

        Args:
            hr: ``(B, C, *spatial)``, normalised intensity, thick axis last.
            size: scan voxels per axis over the same field of view.
            thickness_ratio: slice thickness over slice spacing, as told.
            noise: a standard normal field ``(B, C, *size)``; None: the mean acquisition, without noise.

        Returns:
            ``(B, C, *size)``.

        Raises:
            ConfigError: a scan finer than the image.
        """
        fine, scan = hr.shape[-1], size[-1]
        known = Acquisition(tuple(hr.shape[2:]), tuple(size), thickness_ratio, slice_axis=-1)
        if fine == scan:
            return known.apply(hr)
        y = hr
        for axis, operator in enumerate(known.axes[:-1]):
            if operator.fine != operator.scan:
                y = apply_along(y, operator.matrix, 2 + axis)
        factor = fine / scan
        width = torch.exp(_GAIN * self.width.double()) * (factor * thickness_ratio)
        centres = (torch.arange(scan, dtype=torch.float64, device=hr.device) + 0.5) * factor
        y = apply_along(y, gaussian_profiles(fine, centres, width.clamp(max=LARGEST_THICKNESS * factor)), -1)
        blur = _BLUR * torch.exp(_GAIN * self.blur.double())
        for axis in range(2, hr.ndim - 1):
            n = y.shape[axis]
            voxels = torch.arange(n, dtype=torch.float64, device=hr.device) + 0.5
            y = apply_along(y, gaussian_profiles(n, voxels, blur), axis)
        if noise is not None:
            y = y + _NOISE * torch.exp(_GAIN * self.noise) * noise
        return y


def gaussian_profiles(n_fine: int, centres: Tensor, fwhm: Tensor) -> Tensor:
    """Give :func:`~srcyc.physics.acquisition.slice_profile_matrix` of Gaussians, differentiably.

    Args:
        n_fine: fine voxels along the axis.
        centres: in fine voxels from the outer face of the first one, float64.
        fwhm: full width at half maximum in fine voxels, a scalar.
    """
    edges = torch.arange(n_fine + 1, dtype=torch.float64, device=centres.device) - centres[:, None]
    weights = torch.special.ndtr(edges * (FWHM_PER_SIGMA / fwhm)).diff(dim=1)
    return weights / weights.sum(dim=1, keepdim=True)
