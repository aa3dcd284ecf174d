"""What can be had from a scan without a network, on the grid of a result: what every result should be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum

import numpy as np
import torch

from srcyc.physics.acquisition import Acquisition
from srcyc.physics.resampling import resample
from srcyc.physics.slice_profile import estimate_profile
from srcyc.physics.thickness import slice_thickness
from srcyc.volumes.geometry import Grid, thick_axis
from srcyc.volumes.missing import Missing
from srcyc.volumes.volume import Volume
from srcyc.volumes.working import prepare
from srcyc_app.refusals import unusable
from srcyc_app.studies.decoding import free_memory

#: Bytes that are needed at the peak per voxel of the answer: it, what it is made from, and both copied.
_BYTES_PER_VOXEL = 20


class Method(str, Enum):
    """How it is computed."""

    #: B-spline interpolation of the third order.
    CUBIC = "cubic"
    #: M of :mod:`srcyc.physics.acquisition`: the slice profile undone.
    CLASSICAL = "classical"


def baseline(
    scan: Volume,
    shape: Sequence[int],
    method: Method,
    thickness: float | None = None,
    tell: Callable[[float], None] = lambda share: None,
) -> Volume:
    """Bring a scan to the grid of a result over the same field of view.

    Args:
        scan: of one channel; where it has no values, the answer has none.
        shape: of the result, axes in the scan's order.
        method: how.
        thickness: of the slices, mm, as the result was made with; None: what the file says, else an estimate.
        tell: told the share done; what it raises ends the work.

    Raises:
        Refusal: 422, a shape that no result of this scan has, or too large a one.
        ConfigError: a thickness that slices cannot have.
    """
    fine = _grid(scan, shape)
    missing = Missing.of(scan)
    filled = missing.filled(scan)
    tell(0.2)
    y = torch.from_numpy(np.ascontiguousarray(filled.data[0]))
    if method is Method.CUBIC:
        image = resample(y, fine.shape, "cubic")
    else:
        axis = thick_axis(scan.grid)
        said, _ = slice_thickness(
            thickness,
            scan.slice_thickness,
            scan.spacing[axis],
            lambda: estimate_profile((told := prepare(filled, missing)).image, told.grid.spacing),
        )
        image = Acquisition(fine.shape, scan.shape, said.ratio, slice_axis=axis).upscale(y)
    tell(0.9)
    data = image.numpy()
    missing.put_back(data, scan.data[0])
    return replace(scan, data=data[None], affine=fine.affine, padding=None, stored_dtype=np.dtype(np.float32))


def _grid(scan: Volume, shape: Sequence[int]) -> Grid:
    """Lay the answer's grid.

    Raises:
        Refusal: see :func:`baseline`.
    """
    given, own = " x ".join(map(str, shape)), " x ".join(map(str, scan.shape))
    if scan.data.shape[0] != 1:
        raise unusable(f"a scan of {scan.data.shape[0]} channels is not interpolated here.")
    if len(shape) != 3 or any(fine < n for fine, n in zip(shape, scan.shape, strict=False)):
        raise unusable(
            f"shape {given}: no result of this scan of {own} voxels has it; a result is coarser along no axis."
        )
    # Python's integers: a grid that nobody can hold overflows numpy's.
    needed = int(shape[0]) * int(shape[1]) * int(shape[2]) * _BYTES_PER_VOXEL
    free = free_memory()
    if needed > free:
        raise unusable(
            f"shape {given}: needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free."
        )
    return scan.grid.resized(shape)
