"""The acquisition operator A: how a 2D multi-slice scan samples the object, and what of the object it does not see.

Each thick slice is the mean of the object weighted by a Gaussian slice profile whose full width at half maximum is
the slice thickness; slices lie one slice spacing apart, so a thickness below the spacing is a gap. A is one small
matrix per axis, hence its adjoint, its pseudo-inverse and its null space are exact, for any real factor.

This is the only place that knows A. Simulation, training, inference and evaluation all ask it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr
from torch import Tensor

from srcyc.errors import ConfigError
from srcyc.physics.resampling import Matrix, apply_along, cubic_matrix

#: FWHM = 2 sqrt(2 ln 2) standard deviations of a Gaussian.
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
#: Slice thickness over slice spacing where nobody says: most 2D scans have gaps, and a profile told too wide is
#: deconvolved into ringing, while one told too narrow costs little.
ASSUMED_THICKNESS = 0.8
#: Largest slice thickness over slice spacing: half of each slice is the next one's.
LARGEST_THICKNESS = 2.0
#: Least eigenvalue that the pseudo-inverse trusts, over the mean one of A A^T: overlapping slices are inverted no
#: further, so that their noise is not blown up.
_REGULARISATION = 1e-4


def slice_profile_matrix(n_fine: int, centres: npt.ArrayLike, fwhm: float, *, box: float = 0.0) -> Matrix:
    """Slice profiles integrated over fine voxels, ``(len(centres), n_fine)``, rows sum to 1.

    Args:
        n_fine: fine voxels along the axis.
        centres: of the slices, in fine voxels from the outer face of the first one.
        fwhm: full width at half maximum in fine voxels.
        box: shape of the profile, from 0 (Gaussian) to 1 (box): a box of this share of the width, blurred.
    """
    edges = np.arange(n_fine + 1)[None, :] - np.asarray(centres, dtype=np.float64)[:, None]
    width, sigma = _box_and_sigma(box)
    width, sigma = fwhm * width, fwhm * sigma
    if width == 0:
        integral = ndtr(edges / sigma)
    else:
        # A box blurred by a Gaussian is the difference of two Phi, whose integral is z Phi(z) + phi(z).
        integral = sigma * (
            _integral_of_phi((edges + width / 2) / sigma) - _integral_of_phi((edges - width / 2) / sigma)
        )
    weights = np.diff(integral, axis=1)
    # The profile's tail outside the field of view has nothing to average: renormalise what is inside.
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@lru_cache(maxsize=128)
def _box_and_sigma(box: float) -> tuple[float, float]:
    """Give the box width and the standard deviation of a profile of unit FWHM."""
    if not 0 <= box <= 1:
        raise ConfigError(f"box {box:g}: a slice profile lies between 0 (Gaussian) and 1 (box).")
    if box == 0:
        return 0.0, 1 / FWHM_PER_SIGMA
    sigma = max(1 - box, 1e-3) / FWHM_PER_SIGMA
    # Its half maximum has no closed form: bisection.
    peak = 2 * ndtr(box / 2 / sigma) - 1
    low, high = 0.0, 2.0
    for _ in range(50):
        middle = (low + high) / 2
        above = ndtr((middle + box / 2) / sigma) - ndtr((middle - box / 2) / sigma) > peak / 2
        low, high = (middle, high) if above else (low, middle)
    return box / (2 * low), sigma / (2 * low)


def _integral_of_phi(z: Matrix) -> Matrix:
    return np.asarray(z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class AxisAcquisition:
    """A along one axis, as matrices; both fields of view are the same.

    Attributes:
        fine: voxels of the object.
        scan: samples of the scan, at most as many.
        thickness_ratio: width of a sample's profile over the distance of the samples.
    """

    fine: int
    scan: int
    thickness_ratio: float = 1.0

    @classmethod
    @lru_cache(maxsize=512)
    def of(cls, fine: int, scan: int, thickness_ratio: float = 1.0) -> AxisAcquisition:
        """Give the operator, from the cache if it was asked for before: its matrices are computed once."""
        return cls(fine, scan, thickness_ratio)

    @property
    def factor(self) -> float:
        """Distance of the samples in fine voxels."""
        return self.fine / self.scan

    @cached_property
    def matrix(self) -> Matrix:
        """A, ``(scan, fine)``."""
        if self.fine == self.scan:
            return np.eye(self.scan)
        centres = (np.arange(self.scan) + 0.5) * self.factor
        return slice_profile_matrix(self.fine, centres, self.factor * self.thickness_ratio)

    @cached_property
    def pseudo_inverse(self) -> Matrix:
        """A^+ = A^T (A A^T + lambda I)^-1, ``(fine, scan)``: gives the smallest image whose acquisition is the scan."""
        gram = self.matrix @ self.matrix.T
        floor = _REGULARISATION * float(np.trace(gram)) / self.scan
        return np.asarray(np.linalg.solve(gram + floor * np.eye(self.scan), self.matrix).T)

    @cached_property
    def upscaling(self) -> Matrix:
        """M = B + A^+ (I - A B), ``(fine, scan)``: B-spline interpolation, corrected so that A M y = y."""
        spline = cubic_matrix(self.scan, self.fine)
        missing = np.eye(self.scan) - self.matrix @ spline
        return np.asarray(spline + self.pseudo_inverse @ missing)

    @cached_property
    def null_space(self) -> Matrix:
        """P = I - A^+ A, ``(fine, fine)``: leaves of an image what the scan does not see of it."""
        return np.eye(self.fine) - self.pseudo_inverse @ self.matrix


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
        if not 0 < self.thickness_ratio <= LARGEST_THICKNESS:
            raise ConfigError(
                f"slice thickness over spacing is {self.thickness_ratio:g}",
                remedy=f"it must be in (0, {LARGEST_THICKNESS:g}]",
            )
        dims = len(self.fine_shape)
        if self.slice_axis is not None and not -dims <= self.slice_axis < dims:
            raise ConfigError(f"slice axis {self.slice_axis} of {dims} axes", remedy=f"use 0 to {dims - 1}")

    @cached_property
    def axes(self) -> tuple[AxisAcquisition, ...]:
        """The operator along each axis."""
        dims = len(self.fine_shape)
        factors = [fine / scan for fine, scan in zip(self.fine_shape, self.scan_shape, strict=True)]
        stacked = (
            dims - 1 - int(np.argmax(factors[::-1])) if self.slice_axis is None else self.slice_axis % dims
        )
        return tuple(
            AxisAcquisition.of(fine, scan, self.thickness_ratio if axis == stacked else 1.0)
            for axis, (fine, scan) in enumerate(zip(self.fine_shape, self.scan_shape, strict=True))
        )

    def _along_each_axis(self, x: Tensor, matrix: Callable[[AxisAcquisition], Matrix]) -> Tensor:
        dims = len(self.axes)
        for axis, operator in enumerate(self.axes):
            if operator.fine != operator.scan:
                x = apply_along(x, matrix(operator), axis - dims)
        return x

    def apply(self, x: Tensor) -> Tensor:
        """A x: fine ``(..., I, J, K)`` -> scan, any intensity unit."""
        return self._along_each_axis(x, lambda axis: axis.matrix)

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, exactly: ``<A x, y> = <x, A^T y>``."""
        return self._along_each_axis(y, lambda axis: axis.matrix.T)

    def upscale(self, y: Tensor) -> Tensor:
        """The classical inverse x0 = M y, what is known without any network: see :attr:`AxisAcquisition.upscaling`."""
        return self._along_each_axis(y, lambda axis: axis.upscaling)

    def residual(self, x: Tensor, y: Tensor) -> float:
        """Relative data-consistency residual ``||A x - y|| / ||y||``, see :func:`relative_residual`."""
        return relative_residual(self.apply(x), y)


def relative_residual(acquired: Tensor, y: Tensor) -> float:
    """``||acquired - y|| / ||y||`` in float64; the numerator alone for a scan of zeros."""
    difference = torch.linalg.vector_norm(acquired - y, dtype=torch.float64)
    norm = torch.linalg.vector_norm(y, dtype=torch.float64)
    return float(difference / norm) if norm > 0 else float(difference)
