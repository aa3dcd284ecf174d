"""The acquisition operator A: how a 2D multi-slice scan samples the object along its thick axis.

Each thick slice is the mean of the object weighted by a Gaussian slice profile whose full width at half maximum is
the slice thickness; slices lie one slice spacing apart, so a thickness below the spacing is a gap. A is one small
matrix per axis, hence its adjoint and pseudo-inverse are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from srcyc.errors import ConfigError
from srcyc.resampling import Matrix, apply_along

#: FWHM = 2 sqrt(2 ln 2) standard deviations of a Gaussian.
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


@lru_cache(maxsize=128)
def slice_profile_matrix(n_fine: int, n_thick: int, fwhm: float) -> Matrix:
    """Gaussian slice profiles integrated over fine voxels, ``(n_thick, n_fine)``, rows sum to 1.

    Args:
        n_fine: fine voxels over the field of view.
        n_thick: thick slices over the same field of view; slice ``s`` is centred at ``(s + 0.5) n_fine / n_thick``.
        fwhm: full width at half maximum in fine voxels.
    """
    centres = (np.arange(n_thick) + 0.5) * (n_fine / n_thick)
    edges = (np.arange(n_fine + 1)[None, :] - centres[:, None]) * (FWHM_PER_SIGMA / fwhm)
    weights = np.diff(ndtr(edges), axis=1)
    # The profile's tail outside the field of view has nothing to average: renormalise what is inside.
    return weights / weights.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Acquisition:
    """The operator A from a fine grid to a scan's grid over the same field of view, and what belongs to it.

    Axes on which the scan is as fine as the fine grid are left alone. A coarser in-plane axis has contiguous voxels
    whose profile is as wide as their spacing.

    Attributes:
        fine_shape: spatial shape of the object, ``(I, J, K)`` or ``(I, J)``.
        scan_shape: spatial shape of the scan.
        thickness_ratio: slice thickness over slice spacing; 1 means contiguous slices, less a gap.
        slice_axis: axis along which slices are stacked; default: the most coarsened one (the last on a tie).

    Raises:
        ConfigError: shapes of unequal dimensions, a scan finer than the object, a ratio outside (0, 2], a slice
            axis that is none.
    """

    fine_shape: tuple[int, ...]
    scan_shape: tuple[int, ...]
    thickness_ratio: float = 1.0
    slice_axis: int | None = None

    def __post_init__(self) -> None:
        if len(self.fine_shape) != len(self.scan_shape):
            raise ConfigError(
                f"acquisition from {self.fine_shape} to {self.scan_shape}: give equal dimensions."
            )
        if any(s > f for f, s in zip(self.fine_shape, self.scan_shape, strict=True)):
            raise ConfigError(
                f"acquisition from {self.fine_shape} to {self.scan_shape}: a scan cannot be finer."
            )
        if not 0 < self.thickness_ratio <= 2:
            raise ConfigError(
                f"slice thickness over spacing is {self.thickness_ratio:g}; it must be in (0, 2]."
            )
        dims = len(self.fine_shape)
        if self.slice_axis is not None and not -dims <= self.slice_axis < dims:
            raise ConfigError(f"slice axis {self.slice_axis} of {dims} axes; use 0 to {dims - 1}.")

    def _matrices(self) -> list[tuple[int, Matrix]]:
        dims = len(self.fine_shape)
        factors = [fine / scan for fine, scan in zip(self.fine_shape, self.scan_shape, strict=True)]
        stacked = (
            dims - 1 - int(np.argmax(factors[::-1])) if self.slice_axis is None else self.slice_axis % dims
        )
        widths = [
            factor * (self.thickness_ratio if axis == stacked else 1) for axis, factor in enumerate(factors)
        ]
        return [
            (axis - dims, slice_profile_matrix(fine, scan, width))
            for axis, (fine, scan, width) in enumerate(
                zip(self.fine_shape, self.scan_shape, widths, strict=True)
            )
            if fine != scan
        ]

    def apply(self, x: Tensor) -> Tensor:
        """A x: fine ``(..., I, J, K)`` -> scan, any intensity unit."""
        for axis, matrix in self._matrices():
            x = apply_along(x, matrix, axis)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, exactly: ``<A x, y> = <x, A^T y>``."""
        for axis, matrix in self._matrices():
            y = apply_along(y, matrix.T, axis)
        return y

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y: the smallest fine image whose acquisition is y."""
        for axis, matrix in self._matrices():
            y = apply_along(y, np.linalg.pinv(matrix, rcond=1e-3), axis)
        return y

    def correct(self, x: Tensor, y: Tensor) -> Tensor:
        """Data consistency, x + A^+ (y - A x): the nearest image to x that the scanner would have seen as y."""
        return x + self.pseudo_inverse(y - self.apply(x))

    def residual(self, x: Tensor, y: Tensor) -> float:
        """Relative data-consistency residual ``||A x - y|| / ||y||`` (0 when y is all zero and so is A x)."""
        difference = torch.linalg.vector_norm(self.apply(x) - y, dtype=torch.float64)
        norm = torch.linalg.vector_norm(y, dtype=torch.float64)
        return float(difference / norm) if norm > 0 else float(difference)
