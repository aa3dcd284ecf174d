"""Noise level by the wavelet median absolute deviation (WMAD)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from srcyc.physics.resampling import Matrix, apply_along

#: Daubechies-7 decomposition high-pass filter (Daubechies, Ten Lectures on Wavelets, 1992, table 6.1).
DB7_HIGH_PASS = (
    -0.07785205408500918,
    0.3965393194819173,
    -0.7291320908462351,
    0.4697822874051931,
    0.14390600392856498,
    -0.22403618499387498,
    -0.07130921926683026,
    0.08061260915108308,
    0.03802993693501441,
    -0.01657454163066688,
    -0.01255099855609984,
    0.0004295779729213665,
    0.0018016407040474908,
    0.00035371379997452024,
)
#: Median of |N(0, 1)|.
_MEDIAN_OF_ABSOLUTE_NORMAL = 0.6745
#: Share of a filter's energy that must lie outside empty regions.
_LEAST_INSIDE = 0.99


@lru_cache(maxsize=64)
def _high_pass_matrix(n: int) -> Matrix:
    """High-pass filter and keep every second sample, ``(ceil(n / 2), n)``, mirrored about the outer voxel centres.

    Where taps fall on the same voxel twice, the row is brought back to unit norm: white noise then has the same
    standard deviation in every coefficient, which scans of few slices need (five slices: 18% too little otherwise).
    """
    taps = np.array(DB7_HIGH_PASS)
    matrix = np.zeros(((n + 1) // 2, n))
    period = max(2 * (n - 1), 1)
    for row in range(matrix.shape[0]):
        index = np.abs(2 * row + np.arange(taps.size) - taps.size // 2) % period
        np.add.at(matrix[row], np.where(index < n, index, period - index), taps)
    norm = np.linalg.norm(matrix, axis=1, keepdims=True)
    # A single voxel has no high frequencies: its row is rounding, and stays.
    return matrix / np.where(norm > 1e-6, norm, 1)


def wavelet_coefficients(x: Tensor, spatial_dims: int) -> Tensor:
    """Finest-scale db7 coefficients, high-pass along every spatial axis; ``(..., I, J, K)`` -> about half of each."""
    for axis in range(-spatial_dims, 0):
        x = apply_along(x, _high_pass_matrix(x.shape[axis]), axis)
    return x


def estimate_noise(x: Tensor, spatial_dims: int, *, ignore_empty: bool = False) -> Tensor:
    """Estimate the noise standard deviation of every image in a batch.

    ``sigma = median |high-pass coefficients| / 0.6745``, mean over channels (Donoho, Johnstone 1994: Ideal spatial
    adaptation by wavelet shrinkage; generalised to 3D by filtering along every axis).

    Args:
        x: ``(B, C, *spatial)``, any intensity unit.
        spatial_dims: 2 or 3.
        ignore_empty: leave out coefficients whose filter reaches into exactly flat regions. A masked background
            would otherwise be more than half of a brain-extracted scan and make the median, so the noise, zero.

    Returns:
        ``(B,)`` in the unit and on the device of ``x``, float32.
    """
    x = x.detach().float()
    magnitudes = wavelet_coefficients(x, spatial_dims).flatten(2).abs()
    if not ignore_empty:
        return magnitudes.median(dim=2).values.mean(dim=1) / _MEDIAN_OF_ABSOLUTE_NORMAL
    inside = _energy_inside(~_empty(x, spatial_dims), spatial_dims).flatten(2)
    # Relative to the best covered one: in a thin mask no filter is inside entirely.
    kept = (inside > 0) & (inside >= _LEAST_INSIDE * inside.amax(dim=2, keepdim=True))
    occupied = magnitudes.masked_fill(~kept, torch.nan)
    return occupied.nanmedian(dim=2).values.nan_to_num(0.0).mean(dim=1) / _MEDIAN_OF_ABSOLUTE_NORMAL


def _empty(x: Tensor, spatial_dims: int) -> Tensor:
    """Mark voxels of exactly flat regions, three voxels wide at least."""
    # Along one axis after the other, which is much quicker than three-dimensional windows, and the same.
    high, low, axes = x, x, range(-spatial_dims, 0)
    for axis in axes:
        high, low = _over_three(high, axis, torch.maximum), _over_three(low, axis, torch.minimum)
    flat = high == low
    # Neighbours of flat voxels have the same value: the region's rim.
    for axis in axes:
        flat = _over_three(flat, axis, torch.logical_or)
    return flat


def _over_three(x: Tensor, axis: int, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Join every voxel with its two neighbours along an axis; at the ends with the one there is."""
    n = x.shape[axis] - 1
    if n < 1:
        return x
    pairs = join(x.narrow(axis, 0, n), x.narrow(axis, 1, n))
    ends = (pairs.narrow(axis, 0, 1), pairs.narrow(axis, n - 1, 1))
    middle = join(pairs.narrow(axis, 0, n - 1), pairs.narrow(axis, 1, n - 1))
    return torch.cat([ends[0], middle, ends[1]], dim=axis)


def _energy_inside(occupied: Tensor, spatial_dims: int) -> Tensor:
    """Share of every coefficient's filter energy that falls on occupied voxels, in the coefficients' shape."""
    share = occupied.float()
    for axis in range(-spatial_dims, 0):
        share = apply_along(share, _high_pass_matrix(share.shape[axis]) ** 2, axis)
    return share
