"""Voxel grids in world space: float64, RAS millimetres, voxel centres at integer indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from srcyc.errors import ConfigError, NothingToDoError, VolumeError

TargetSpacing = float | Sequence[float] | Literal["isotropic"]

#: A field of view is kept to this many millimetres (the product's promise, tested).
FIELD_OF_VIEW_TOLERANCE = 1e-3
#: mm; nobody means less than the size of a bacterium, and the voxels could not be counted.
_FINEST = 1e-3
#: Requested spacings this close to the scan's own (relative) leave an axis untouched.
_SAME_SPACING = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels in the world.

    Attributes:
        shape: voxels along each array axis, ``(I, J, K)``.
        affine: ``(4, 4)`` float64, homogeneous voxel index -> RAS mm; columns may be oblique, permuted, flipped.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def field_of_view(self) -> npt.NDArray[np.float64]:
        """World position (RAS mm) of the eight outer corners, ``(8, 3)``: voxel faces, not centres."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T
        return self.index_to_world(corners)

    def index_to_world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map voxel indices ``(..., 3)`` to RAS mm."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def world_to_index(self, world: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map RAS mm ``(..., 3)`` to (fractional) voxel indices."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(world, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def resized(self, shape: Sequence[int]) -> Grid:
        """Give the grid of another shape over exactly the same field of view (same outer voxel faces)."""
        step = np.array(self.shape, dtype=np.float64) / np.array(shape, dtype=np.float64)
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * step
        # Index -0.5 is the outer face in both grids, so new index i sits at old index (i + 0.5) * step - 0.5.
        affine[:3, 3] = self.index_to_world(0.5 * step - 0.5)
        i, j, k = (int(n) for n in shape)
        return Grid((i, j, k), affine)

    def permuted(self, order: Sequence[int]) -> Grid:
        """Give the same voxels with array axes in another order (``order[new] = old``)."""
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, list(order)]
        i, j, k = (self.shape[axis] for axis in order)
        return Grid((i, j, k), affine)

    def flipped(self, axes: Sequence[int]) -> Grid:
        """Give the same voxels with array axes turned round."""
        affine = self.affine.copy()
        for axis in axes:
            affine[:3, 3] += (self.shape[axis] - 1) * affine[:3, axis]
            affine[:3, axis] *= -1
        return Grid(self.shape, affine)

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """Give the grid of the ``shape`` voxels from voxel ``start`` on."""
        affine = self.affine.copy()
        affine[:3, 3] = self.index_to_world(start)
        i, j, k = (int(n) for n in shape)
        return Grid((i, j, k), affine)


def requested_spacing(
    grid: Grid, target: TargetSpacing, *, finest: float | None = None
) -> tuple[float, float, float]:
    """Resolve a user's request to mm per array axis.

    Args:
        grid: the scan's grid.
        target: ``"isotropic"`` (the scan's finest spacing on every axis), one spacing in mm, or three (array axes).
        finest: lower limit in mm for ``"isotropic"`` (what the model was trained for); explicit requests pass.

    Raises:
        ConfigError: not a positive finite spacing, or not one or three of them.
    """
    own = grid.spacing
    if isinstance(target, str):
        if target != "isotropic":
            raise ConfigError(
                f"target_spacing {target!r}: use 'isotropic', one value in mm, or three as X,Y,Z.",
                options=("target_spacing",),
            )
        return (max(min(own), finest or 0.0),) * 3
    values = (target,) * 3 if isinstance(target, (int, float)) else tuple(float(v) for v in target)
    if len(values) != 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise ConfigError(
            f"target_spacing {target!r}: give one or three positive values in mm.",
            options=("target_spacing",),
        )
    if min(values) < _FINEST:
        raise ConfigError(
            f"target_spacing {min(values):g}: finer than {_FINEST:g} mm",
            remedy="give values in mm",
            options=("target_spacing",),
        )
    x, y, z = values
    return float(x), float(y), float(z)


def target_grid(grid: Grid, target: TargetSpacing, *, finest: float | None = None) -> Grid:
    """Lay the output grid: the same field of view, each axis at the requested spacing, none coarsened.

    The number of voxels is whole (the nearest), so the spacing reached differs from the one requested by at most half
    a voxel over the axis, while the outer voxel faces stay exactly where they are.

    Args:
        grid: the scan's grid (any orientation).
        target: see :func:`requested_spacing`.
        finest: see :func:`requested_spacing`.

    Raises:
        ConfigError: an unusable request.
        NothingToDoError: no axis would get more voxels.
    """
    wanted = requested_spacing(grid, target, finest=finest)
    shape = [
        max(n, round(n * own / want)) if want < own * (1 - _SAME_SPACING) else n
        for n, own, want in zip(grid.shape, grid.spacing, wanted, strict=True)
    ]
    if tuple(shape) == grid.shape:
        own_text = " x ".join(f"{s:.4g}" for s in grid.spacing)
        wanted_text = " x ".join(f"{s:.4g}" for s in wanted)
        raise NothingToDoError(
            f"nothing to do: the spacing is already {own_text} mm and {wanted_text} mm was asked",
            remedy="ask for a smaller target_spacing",
            options=("target_spacing",),
        )
    return grid.resized(shape)


def thick_axis(grid: Grid) -> int:
    """Give the array axis with the largest spacing, the slice axis of a thick-slice scan (last one on a tie)."""
    spacing = np.round(grid.spacing, 4)
    return int(2 - np.argmax(spacing[::-1]))


def world_axes(grid: Grid) -> tuple[tuple[int, bool], ...]:
    """Give, for each array axis, the world axis (0 R, 1 A, 2 S) it is closest to, and whether it runs against it."""
    directions = grid.affine[:3, :3] / grid.spacing
    # Rounded: at 45 degrees a header's last digit must not decide.
    closest = np.abs(np.round(directions, 4)).argmax(axis=0)
    return tuple((int(world), bool(directions[world, axis] < 0)) for axis, world in enumerate(closest))


def check_affine(affine: npt.ArrayLike, *, name: str) -> npt.NDArray[np.float64]:
    """Return a usable float64 affine, or raise.

    Raises:
        VolumeError: not 4 x 4, not finite, last row not 0 0 0 1, or singular (``name`` is put in the sentence).
    """
    matrix = np.array(affine, dtype=np.float64)
    if (
        matrix.shape != (4, 4)
        or not np.isfinite(matrix).all()
        or not np.allclose(matrix[3], (0, 0, 0, 1), rtol=0, atol=1e-6)
    ):
        raise VolumeError(
            f"{name}: the affine is not a finite 4 x 4 matrix that ends in 0 0 0 1",
            remedy="repair the header's orientation",
        )
    if is_singular(matrix):
        text = " x ".join(f"{length:g}" for length in np.linalg.norm(matrix[:3, :3], axis=0))
        raise VolumeError(
            f"{name}: the affine is singular (spacing {text} mm)",
            remedy="repair the header's orientation and spacing",
        )
    return matrix


def is_singular(affine: npt.NDArray[np.float64]) -> bool:
    """Tell whether voxel axes have no length, or span no volume."""
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(columns.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-3)
