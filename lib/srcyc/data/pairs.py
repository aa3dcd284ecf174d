"""Aligned pairs: a thick-slice and a thin-slice scan of one person, brought together in world coordinates.

The grids may differ in any way. What belongs to an LR patch is sampled from the HR scan at the fine voxels that
cover exactly the patch's field of view: one interpolation, nothing shifted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform, spline_filter

from srcyc.data.store import Array, TrainingScan
from srcyc.volumes.geometry import Grid
from srcyc.volumes.intensity import FOREGROUND

Points = npt.NDArray[np.float64]

#: A pair needs at least this share of the LR scan's voxels inside the HR scan's field of view, ...
LEAST_OVERLAP = 0.5
#: ... and at least this correlation there, in the foreground.
LEAST_CORRELATION = 0.3
#: About so many LR voxels are looked at to judge a pair, and at least so many must be foreground.
_LOOKED_AT, _LEAST_VOXELS = 200_000, 50
#: HR voxels around a patch that the spline's coefficients are computed from: 0.27^12, below float32's resolution.
_SPLINE_MARGIN = 12
#: Voxels beyond the outer faces that rounding may claim.
_ROUNDING = 1e-3


class Placement:
    """Where the voxels of an LR scan lie in an HR scan.

    Args:
        lr: grid of the LR scan, thick axis last.
        hr: grid of the HR scan.
    """

    def __init__(self, lr: Grid, hr: Grid) -> None:
        index = np.linalg.inv(hr.affine) @ lr.affine
        self.matrix: Points = index[:3, :3]
        self.origin: Points = index[:3, 3]
        self.lr_shape = lr.shape
        self.hr_shape = np.array(hr.shape)

    def __call__(self, index: npt.ArrayLike) -> Points:
        """Map LR voxel indices ``(..., 3)`` to HR voxel indices."""
        return np.asarray(index, dtype=np.float64) @ self.matrix.T + self.origin

    def inside(self, points: Points) -> npt.NDArray[np.bool_]:
        """Tell which HR voxel indices ``(..., 3)`` lie in the HR scan's field of view."""
        within: npt.NDArray[np.bool_] = (points >= -0.5 - _ROUNDING) & (
            points <= self.hr_shape - 0.5 + _ROUNDING
        )
        return within.all(axis=-1)

    def covers(self, start: Sequence[int], size: Sequence[int]) -> bool:
        """Tell whether an LR patch lies in the HR scan's field of view (its outer voxel faces do)."""
        return bool(self.inside(self(np.array(start) + _corners(size))).all())

    def covered_starts(self, size: Sequence[int]) -> npt.NDArray[np.int_]:
        """List every start ``(N, 3)`` at which an LR patch of a size is covered."""
        counts = [n - s + 1 for n, s in zip(self.lr_shape, size, strict=True)]
        if min(counts) < 1:
            return np.zeros((0, 3), dtype=int)
        # The map is linear: the patch's reach around its start is the same everywhere.
        reach = _corners(size) @ self.matrix.T
        axes = (
            np.arange(count)[:, None] * column for count, column in zip(counts, self.matrix.T, strict=True)
        )
        i, j, k = axes
        first = i[:, None, None] + j[None, :, None] + k[None, None, :] + self.origin
        return np.argwhere(self.inside(first + reach.min(axis=0)) & self.inside(first + reach.max(axis=0)))

    def sample(self, image: Array, start: Sequence[int], size: Sequence[int], fine: int) -> Array:
        """Sample the HR image over exactly the field of view of an LR patch, by cubic B-spline.

        Args:
            image: of the HR scan; the spline's coefficients are computed from a crop around the patch.
            start: first LR voxel of the patch.
            size: LR voxels of the patch, ``(I, J, k)``.
            fine: voxels wanted along the thick axis.

        Returns:
            ``(I, J, fine)``.
        """
        step = size[2] / fine
        matrix = self.matrix * (1, 1, step)
        origin = self((start[0], start[1], start[2] + 0.5 * step - 0.5))
        shape = (size[0], size[1], fine)
        ends = origin + np.array(np.meshgrid(*((0, n - 1) for n in shape))).reshape(3, -1).T @ matrix.T
        low = np.clip(np.floor(ends.min(axis=0)).astype(int) - _SPLINE_MARGIN, 0, self.hr_shape - 1)
        high = np.clip(np.ceil(ends.max(axis=0)).astype(int) + _SPLINE_MARGIN + 1, low + 1, self.hr_shape)
        crop = image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        # Mirrored about the outer voxel faces, as everywhere in the package.
        coefficients = spline_filter(crop, order=3, output=np.float64, mode="reflect")
        sampled: Array = affine_transform(
            coefficients, matrix, origin - low, shape, np.float32, order=3, mode="reflect", prefilter=False
        )
        return sampled


def why_not_a_pair(lr: TrainingScan, hr: TrainingScan, size: Sequence[int]) -> str | None:
    """Say in one sentence why two scans of one person cannot be trained on as a pair; None if they can.

    Args:
        lr: thick-slice scan.
        hr: thin-slice scan.
        size: LR voxels of the largest training patch.
    """
    names = f"{lr.name} and {hr.name}"
    placement = Placement(lr.grid, hr.grid)
    looked_at, there, inside = _side_by_side(lr, hr, placement)
    if inside.mean() < LEAST_OVERLAP:
        return (
            f"{names}: the HR scan covers {inside.mean():.0%} of the LR scan's field of view, less than "
            f"{LEAST_OVERLAP:.0%}; give scans of the same region."
        )
    chosen = inside & (looked_at > FOREGROUND)
    correlation = _correlation(looked_at[chosen], there[chosen])
    if correlation < LEAST_CORRELATION:
        return (
            f"{names}: not aligned in world coordinates (correlation {correlation:.2f}, at least "
            f"{LEAST_CORRELATION:g} is needed); register it first."
        )
    if not len(placement.covered_starts(size)):
        return (
            f"{names}: no training patch of {' x '.join(map(str, size))} voxels fits into what both cover; "
            "set data.size to a smaller patch."
        )
    return None


def gain_of_pair(lr: TrainingScan, hr: TrainingScan) -> float:
    """Give the factor that brings the HR scan to the LR scan's brightness: the ratio of their means over the head.

    Each scan is normalised by its own brightest voxels, which thick slices average away: without it, G_HR would
    learn to darken. Averaging over slices leaves the mean as it is.
    """
    here, there, inside = _side_by_side(lr, hr, Placement(lr.grid, hr.grid))
    chosen = inside & (here > FOREGROUND)
    ours, theirs = (
        float(image[chosen].mean(dtype=np.float64)) if chosen.any() else 0.0 for image in (here, there)
    )
    return ours / theirs if ours > 0 and theirs > 0 else 1.0


def _side_by_side(
    lr: TrainingScan, hr: TrainingScan, placement: Placement
) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Give some LR voxels, the HR scan at their centres, and which of them it covers; ``(I', J', K)`` each."""
    stride = max(1, math.ceil(math.sqrt(lr.image.size / _LOOKED_AT)))
    strides = np.array((stride, stride, 1))
    here = lr.image[::stride, ::stride]
    inside = placement.inside(placement(np.moveaxis(np.indices(here.shape), 0, -1) * strides))
    there: Array = affine_transform(
        hr.image,
        placement.matrix * strides,
        placement.origin,
        here.shape,
        np.float32,
        order=1,
        mode="nearest",
    )
    return here, there, inside


def _correlation(a: Array, b: Array) -> float:
    """Pearson's correlation; 0 where there is nothing to correlate."""
    if a.size < _LEAST_VOXELS or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])


def _corners(size: Sequence[int]) -> Points:
    """Outer corners of a box of voxels whose first one is 0, ``(8, 3)``."""
    return np.array(np.meshgrid(*((-0.5, n - 0.5) for n in size))).reshape(3, -1).T
