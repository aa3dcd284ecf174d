"""Thick-slice scans simulated from thin-slice ones, with the truth they cover."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from srcyc.errors import ConfigError
from srcyc.physics.acquisition import Acquisition, slice_profile_matrix
from srcyc.physics.resampling import apply_along
from srcyc.volumes.geometry import Grid
from srcyc.volumes.intensity import IntensityScaling, robust_scaling
from srcyc.volumes.volume import Volume


@dataclass(frozen=True)
class Spoiling:
    """What slices themselves get wrong; the same seed gives the same faults.

    Attributes:
        jitter: standard deviation of the slices' gain, which has mean 1: a fraction, 0.03 means 3 %.
        noise: standard deviation of Gaussian noise, as a fraction of the scan's robust range.
        seed: of the draws.
        blur: FWHM of a Gaussian blur within the slices, in their voxels; it comes before the others.
        box: shape of the slice profile, from 0 (Gaussian) to 1 (box) of the same FWHM.

    Raises:
        ConfigError: jitter or noise below 0 or of 1 and above, a negative blur, or a shape that is none.
    """

    jitter: float = 0.0
    noise: float = 0.0
    seed: int = 0
    blur: float = 0.0
    box: float = 0.0

    def __post_init__(self) -> None:
        for name in ("jitter", "noise"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"{name} {value:g}", remedy="give a fraction from 0 to 1", options=(name,))
        if not 0 <= self.blur < float("inf"):
            raise ConfigError(
                f"blur {self.blur:g}", remedy="give a FWHM in voxels, 0 for none", options=("blur",)
            )
        if not 0 <= self.box <= 1:
            raise ConfigError(
                f"box {self.box:g}", remedy="give a shape from 0 (Gaussian) to 1 (box)", options=("box",)
            )

    def apply(
        self, slices: npt.NDArray[np.float32], axis: int, scaling: IntensityScaling
    ) -> npt.NDArray[np.float32]:
        """Spoil slices.

        Args:
            slices: ``(..., I, J, K)``, any intensity unit; unchanged if there is nothing to spoil.
            axis: spatial axis along which they are stacked.
            scaling: tells black, which gain does not change, and the range.
        """
        rng = np.random.default_rng(self.seed)
        y = slices
        if self.blur:
            for other in {0, 1, 2} - {axis}:
                n = y.shape[other - 3]
                matrix = slice_profile_matrix(n, np.arange(n) + 0.5, self.blur)
                y = apply_along(torch.from_numpy(np.ascontiguousarray(y)), matrix, other - 3).numpy()
        if self.jitter:
            along = axis - 3
            gain = 1 + rng.normal(0, self.jitter, y.shape[along])
            y = scaling.offset + (y - scaling.offset) * gain.reshape(-1, *(1,) * (-along - 1))
        if self.noise:
            y = y + rng.normal(0, self.noise * scaling.scale, y.shape)
        return y.astype(np.float32, copy=False)


#: Slices as the operator gives them.
CLEAN = Spoiling()


def thick_grid(fine: Grid, spacing: float, axis: int) -> tuple[Grid, slice]:
    """Lay a thick-slice grid along one axis of a fine grid.

    Slices must fill the fine voxels they are made of exactly, so the fine grid is cropped (evenly on both sides) to
    the largest whole number of slices, and the spacing reached may differ from the one asked by at most half a fine
    voxel over the whole stack.

    Returns:
        the thick grid, and the slice of fine voxels along ``axis`` that it covers.

    Raises:
        ConfigError: the spacing is not larger than the fine one, or fewer than two slices fit.
    """
    if axis not in (0, 1, 2):
        raise ConfigError(f"slice axis {axis}", remedy="use 0, 1 or 2")
    own, n = fine.spacing[axis], fine.shape[axis]
    if not spacing > own:
        raise ConfigError(f"slice spacing {spacing:g} mm is not thicker than the scan's {own:.4g} mm.")
    slices = int(n * own / spacing + 1e-6)
    if slices < 2:
        raise ConfigError(f"slice spacing {spacing:g} mm leaves fewer than two slices in {n * own:.4g} mm.")
    kept = min(n, round(slices * spacing / own))
    if kept == slices:
        raise ConfigError(f"slice spacing {spacing:g} mm is in whole voxels the scan's own {own:.4g} mm.")
    start = (n - kept) // 2
    covered = crop_grid(fine, axis, slice(start, start + kept))
    shape = list(covered.shape)
    shape[axis] = slices
    return covered.resized(shape), slice(start, start + kept)


def crop_grid(grid: Grid, axis: int, kept: slice) -> Grid:
    """Give the grid of the voxels ``kept`` along ``axis``."""
    shape, start = list(grid.shape), [0, 0, 0]
    shape[axis], start[axis] = kept.stop - kept.start, kept.start
    return grid.cropped(start, shape)


def crop_volume(volume: Volume, axis: int, kept: slice) -> Volume:
    """Give the part of a volume ``(C, I, J, K)`` inside ``kept`` along a spatial axis, at its place in the world."""
    index: list[slice] = [slice(None)] * 4
    index[1 + axis] = kept
    padding = None if volume.padding is None else volume.padding[tuple(index[1:])]
    affine = crop_grid(volume.grid, axis, kept).affine
    return replace(volume, data=volume.data[tuple(index)], affine=affine, padding=padding)


def simulate_thick(
    volume: Volume,
    spacing: float,
    *,
    thickness: float | None = None,
    axis: int | None = None,
    spoiling: Spoiling = CLEAN,
) -> tuple[Volume, Volume]:
    """Simulate a thick-slice scan of a thin-slice one.

    Args:
        volume: ``(C, I, J, K)``, any intensity unit.
        spacing: distance between slice centres, mm; what is reached, see :func:`thick_grid`, is in the result's grid.
        thickness: FWHM of the slice profile, mm; below ``spacing`` there is a gap. Default: ``spacing``. Their ratio
            is kept exactly, and the result's ``slice_thickness`` is the one reached.
        axis: array axis to thicken; default: the axis closest to world head-foot (S).
        spoiling: what the slices get wrong.

    Returns:
        the thick scan, and the part of ``volume`` that it covers (the truth to compare with).

    Raises:
        ConfigError: an impossible spacing, thickness or axis.
    """
    if axis is None:
        axis = int(np.argmax(np.abs(volume.affine[2, :3]) / np.array(volume.spacing)))
    grid, kept = thick_grid(volume.grid, spacing, axis)
    truth = crop_volume(volume, axis, kept)
    ratio = 1.0 if thickness is None else thickness / spacing
    # Checks the ratio, and is the Gaussian case.
    operator = Acquisition(truth.shape, grid.shape, ratio, slice_axis=axis)
    profiles = operator.axes[axis].matrix
    if spoiling.box:
        factor = truth.shape[axis] / grid.shape[axis]
        centres = (np.arange(grid.shape[axis]) + 0.5) * factor
        profiles = slice_profile_matrix(truth.shape[axis], centres, factor * ratio, box=spoiling.box)
    data = apply_along(torch.from_numpy(np.ascontiguousarray(truth.data)), profiles, axis - 3).numpy()
    data = spoiling.apply(data, axis, robust_scaling(truth.data))
    thick = replace(
        volume,
        data=data,
        affine=grid.affine,
        slice_thickness=ratio * grid.spacing[axis],
        stored_dtype=np.dtype("f4"),
        padding=None,
    )
    return thick, truth
