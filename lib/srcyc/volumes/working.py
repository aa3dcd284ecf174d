"""A scan prepared for the networks, and the way back: the one preparation of inference, validation and training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from srcyc.volumes.geometry import Grid, thick_axis, world_axes
from srcyc.volumes.intensity import IntensityScaling, robust_scaling
from srcyc.volumes.missing import Missing
from srcyc.volumes.volume import Volume

Array = npt.NDArray[np.float32]
Voxels = TypeVar("Voxels", npt.NDArray[np.float32], npt.NDArray[np.bool_])


@dataclass(frozen=True)
class WorkingOrder:
    """How a scan's axes are turned: slice axis last, all towards R, A and S, however its file stores them.

    Attributes:
        order: ``order[new] = old``.
        flips: axes, in the new order, that are turned round.
    """

    order: tuple[int, int, int]
    flips: tuple[int, ...]

    @classmethod
    def of(cls, grid: Grid) -> WorkingOrder:
        """Give the order for a scan on ``grid``: thick axis last, the others as R, A, S come."""
        world, thick = world_axes(grid), thick_axis(grid)
        first, second = sorted((axis for axis in range(3) if axis != thick), key=lambda axis: world[axis][0])
        order = first, second, thick
        return cls(order, tuple(new for new, old in enumerate(order) if world[old][1]))

    def grid(self, grid: Grid) -> Grid:
        """Give a grid in the file's order as the networks see it."""
        return grid.permuted(self.order).flipped(self.flips)

    def apply(self, image: Voxels) -> Voxels:
        """Turn ``(I, J, K)`` from the file's order into the working one; a view."""
        return np.flip(image.transpose(self.order), self.flips)

    def undo(self, image: Tensor) -> Array:
        """Turn ``(I, J, K)`` back into the file's order; contiguous."""
        return np.ascontiguousarray(np.flip(image.numpy(), self.flips).transpose(np.argsort(self.order)))


@dataclass(frozen=True, eq=False)
class WorkingScan:
    """A scan as the networks see it.

    Attributes:
        image: ``(I, J, S)`` normalised intensity, slice axis last, axes towards R, A, S.
        grid: of ``image``.
        scaling: of the intensities.
        order: of the axes.
    """

    image: Array
    grid: Grid
    scaling: IntensityScaling
    order: WorkingOrder


def prepare(volume: Volume, missing: Missing | None = None) -> WorkingScan:
    """Turn and scale a scan of one channel; what was not measured is replaced, and does not count for the scaling.

    Args:
        volume: the scan.
        missing: what was not measured of it, if that is replaced in ``volume`` already.
    """
    if missing is None:
        missing = Missing.of(volume)
        volume = missing.filled(volume)
    order = WorkingOrder.of(volume.grid)
    turned = order.apply(volume.data[0])
    scaling = robust_scaling(turned, order.apply(missing.measured))
    image = np.ascontiguousarray(turned, dtype=np.float32)
    if np.shares_memory(image, volume.data):
        image = image.copy()
    # In place: a large scan is held once more, not twice.
    image -= np.float32(scaling.offset)
    image /= np.float32(scaling.scale)
    return WorkingScan(image, order.grid(volume.grid), scaling, order)
