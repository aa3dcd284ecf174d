"""Separable resampling between grids with the same field of view, by one small matrix per axis.

Every operator here maps ``n_in`` samples to ``n_out`` samples whose outer voxel faces coincide (PyTorch calls it
``align_corners=False``), for any real factor ``n_out / n_in``. As matrices they are exact, differentiable, equal on
every device, and have exact adjoints and pseudo-inverses, which the acquisition operator builds upon.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srcyc.errors import ConfigError

Matrix = npt.NDArray[np.float64]
Interpolation = Literal["linear", "cubic"]


def _source_positions(n_in: int, n_out: int) -> Matrix:
    """Position of the output voxel centres in input voxel indices."""
    return (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5


def interpolation_matrix(position: Matrix, n: int, mode: Interpolation) -> Matrix:
    """Interpolation of ``n`` samples at any positions, ``(len(position), n)``.

    Args:
        position: in sample indices.
        n: number of samples.
        mode: ``"linear"``, beyond the outer samples the edge value holds; or ``"cubic"``, the interpolating B-spline,
            mirrored about the outer voxel faces (Unser, Aldroubi, Eden: B-spline signal processing, IEEE Trans. Signal
            Processing 41(2), 1993).
    """
    if mode == "linear":
        position = np.clip(position, 0, n - 1)
        low = np.minimum(np.floor(position).astype(int), max(n - 2, 0))
        weight = position - low
        matrix = np.zeros((len(position), n))
        rows = np.arange(len(position))
        matrix[rows, low] = 1 - weight
        matrix[rows, np.minimum(low + 1, n - 1)] += weight
        return matrix
    # Solved, not filtered: recursive filters (SciPy's too) truncate the mirrored boundary, which with two slices is
    # an intensity error of 6e-4. The spline's values at the samples must be the samples: S c = x.
    at_samples = _spline_basis(np.arange(n, dtype=np.float64), n)
    return np.linalg.solve(at_samples.T, _spline_basis(position, n).T).T


@lru_cache(maxsize=64)
def linear_matrix(n_in: int, n_out: int) -> Matrix:
    """Linear interpolation over the same field of view, ``(n_out, n_in)``: see :func:`interpolation_matrix`."""
    return interpolation_matrix(_source_positions(n_in, n_out), n_in, "linear")


@lru_cache(maxsize=64)
def cubic_matrix(n_in: int, n_out: int) -> Matrix:
    """Cubic B-spline over the same field of view, ``(n_out, n_in)``: see :func:`interpolation_matrix`."""
    return interpolation_matrix(_source_positions(n_in, n_out), n_in, "cubic")


def _spline_basis(position: Matrix, n: int) -> Matrix:
    """Values of the ``n`` cubic B-splines at ``position`` (sample indices), ``(len(position), n)``."""
    base = np.floor(position).astype(int)
    t = position - base
    taps = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    basis = np.zeros((len(position), n))
    rows = np.arange(len(position))
    for offset, weight in enumerate(taps):
        np.add.at(basis, (rows, mirrored(base + offset - 1, n)), weight)
    return basis


@lru_cache(maxsize=64)
def area_matrix(n_in: int, n_out: int) -> Matrix:
    """Mean over each output voxel's extent, ``(n_out, n_in)``: anti-aliased down-sampling by any real factor."""
    edges = np.arange(n_out + 1) * (n_in / n_out)
    low = np.maximum(edges[:-1, None], np.arange(n_in)[None, :])
    high = np.minimum(edges[1:, None], np.arange(1, n_in + 1)[None, :])
    overlap = np.clip(high - low, 0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


def mirrored(index: npt.NDArray[np.int_], n: int) -> npt.NDArray[np.int_]:
    """Fold indices outside ``[0, n)`` back, mirrored about the outer voxel faces (``c b a | a b c | c b a``)."""
    folded = np.mod(index, 2 * n)
    return np.where(folded < n, folded, 2 * n - 1 - folded)


_MATRICES = {"linear": linear_matrix, "cubic": cubic_matrix, "area": area_matrix}


def apply_along(x: Tensor, matrix: Matrix | Tensor, axis: int) -> Tensor:
    """Multiply one axis of ``x`` by ``matrix`` ``(n_out, n_in)``, at least in float32; differentiable in both.

    Returns:
        a contiguous tensor of the type of ``x``.
    """
    # bf16 would round the weights to 8 bits, a visible intensity error in smooth regions.
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    weights = torch.as_tensor(matrix, dtype=kind, device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        moved = x.to(kind).movedim(axis, -1) @ weights.T
    return moved.movedim(-1, axis).contiguous().to(x.dtype)


def resample(x: Tensor, size: Sequence[int], mode: Literal["linear", "cubic", "area"]) -> Tensor:
    """Resample the last ``len(size)`` axes to ``size`` voxels over the same field of view.

    Args:
        x: ``(..., I, J, K)`` or ``(..., I, J)``, any intensity unit.
        size: voxels wanted on each of the last axes.
        mode: ``"linear"`` and ``"cubic"`` (B-spline) interpolate; ``"area"`` averages and is meant for shrinking.

    Raises:
        ConfigError: an unknown mode, or a size below one voxel.
    """
    if mode not in _MATRICES:
        raise ConfigError(f"resampling mode {mode!r}: use one of {', '.join(_MATRICES)}.")
    if min(size) < 1:
        raise ConfigError(
            f"resampling to {tuple(size)} voxels", remedy="ask for at least one along each axis"
        )
    # Shrinking axes first keeps the intermediate images small.
    axes = sorted(range(-len(size), 0), key=lambda axis: size[axis] / x.shape[axis])
    for axis in axes:
        if size[axis] != x.shape[axis]:
            x = apply_along(x, _MATRICES[mode](x.shape[axis], size[axis]), axis)
    return x
