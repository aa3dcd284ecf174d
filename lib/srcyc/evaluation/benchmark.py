"""Simulated thick slices of a thin-slice scan, brought back by every method, each compared with the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from srcyc.acquisition import Acquisition
from srcyc.errors import SRCycError
from srcyc.evaluation.lpips import LPIPS
from srcyc.evaluation.metrics import Alignment, Image, alignment, evaluation_mask, psnr, ssim
from srcyc.geometry import FIELD_OF_VIEW_TOLERANCE, Grid
from srcyc.intensity import robust_scaling
from srcyc.resampling import resample
from srcyc.simulation import simulate_thick
from srcyc.volume import Volume

#: The interpolations that every model is compared with; differences are given to plain cubic.
TRILINEAR, CUBIC = "trilinear", "cubic B-spline"
#: Cubic, corrected to agree with the scan: what data consistency gains without any network.
CORRECTED = "cubic + consistency"

#: Brings a thick scan to the given spacing (mm per array axis); returns the result and the warnings it raised.
Method = Callable[[Volume, tuple[float, float, float]], tuple[Volume, list[str]]]


@dataclass(frozen=True)
class Score:
    """How one method did on one simulated scan.

    Attributes:
        method: name.
        psnr: dB inside the mask.
        ssim: 3D, inside the mask.
        consistency: relative residual ``||A x - y|| / ||y||`` of the result x for the thick scan y.
        alignment: shift and flips against the truth.
        seconds: wall clock.
        warnings: what the method warned of.
        lpips: of the mask's bounding box (less is better); None if not asked for, or the scan is too small.
    """

    method: str
    psnr: float
    ssim: float
    consistency: float
    alignment: Alignment
    seconds: float
    warnings: list[str] = field(default_factory=list)
    lpips: float | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """All methods on one simulated scan.

    Attributes:
        thick: the simulated scan.
        truth: what it was simulated from, cropped to whole slices.
        axis: array axis that was thickened.
        slice_spacing: distance of the slice centres reached, mm.
        data_range: the truth's robust range, its intensity unit.
        mask_fraction: share of the truth's voxels that were evaluated.
        scores: one per method, the interpolations first.
        images: method -> ``(I, J, K)`` on the truth's grid.
    """

    thick: Volume
    truth: Volume
    axis: int
    slice_spacing: float
    data_range: float
    mask_fraction: float
    scores: list[Score]
    images: dict[str, Image]


def compare(
    scan: Volume,
    thickness: float,
    methods: Mapping[str, Method],
    *,
    gap: float = 0.0,
    lpips: LPIPS | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Simulate thick slices, run the interpolations and ``methods``, and score each against the truth.

    The interpolations continue the outer slices beyond their centres (linear: constant, cubic: mirrored about the
    outer voxel faces), so that the half slice at either end, where ITK would write zeros, is judged fairly.

    Args:
        scan: thin-slice scan, ``(1, I, J, K)``.
        thickness: FWHM of the slice profile, mm.
        methods: name -> method, none with an interpolation's name.
        gap: distance between neighbouring slices, mm; slice centres lie ``thickness + gap`` apart.
        lpips: measure LPIPS too, with the truth's 0.5th percentile as black and its data range as white.
        progress: called with the name of each method when it starts.

    Raises:
        ConfigError: a thickness that cannot be simulated from this scan.
        DataError: a scan without a foreground, or too small.
        SRCycError: a method returned another grid than the truth's.
    """
    thick, truth = simulate_thick(scan, thickness + gap, thickness=thickness)
    axis = next(a for a in range(3) if thick.shape[a] != truth.shape[a])
    target = truth.data[0]
    perceptual = lpips if lpips and lpips.fits(target.shape) else None
    mask, scaling = evaluation_mask(target), robust_scaling(target)
    peak = scaling.scale
    operator = Acquisition(truth.shape, thick.shape, thickness / (thickness + gap))
    measured = torch.from_numpy(np.ascontiguousarray(thick.data))

    scores, images = [], {}
    for name, method in {**_interpolations(truth.grid, operator), **methods}.items():
        if progress:
            progress(name)
        start = time.perf_counter()
        result, warnings = method(thick, truth.spacing)
        seconds = time.perf_counter() - start
        _check_grid(result.grid, truth.grid, name)
        image = result.data[0]
        residual = operator.residual(torch.from_numpy(np.ascontiguousarray(result.data)), measured)
        scores.append(
            Score(
                method=name,
                psnr=psnr(image, target, mask, peak),
                ssim=ssim(image, target, mask, peak),
                consistency=residual,
                alignment=alignment(image, target),
                seconds=seconds,
                warnings=warnings,
                lpips=perceptual(image - scaling.offset, target - scaling.offset, mask, peak)
                if perceptual
                else None,
            )
        )
        images[name] = image
    return Comparison(
        thick, truth, axis, thick.spacing[axis], peak, float(mask.mean(dtype=np.float64)), scores, images
    )


def interpolation(
    mode: Literal["linear", "cubic"], truth: Grid, operator: Acquisition | None = None
) -> Method:
    """Give the method that interpolates a thick scan onto the truth's grid.

    Args:
        mode: ``"linear"`` or ``"cubic"`` (B-spline).
        truth: the grid wanted, over the same field of view as the scan.
        operator: correct the result so that its acquisition equals the scan.
    """

    def method(thick: Volume, spacing: tuple[float, float, float]) -> tuple[Volume, list[str]]:
        data = torch.from_numpy(np.ascontiguousarray(thick.data))
        image = resample(data, truth.shape, mode)
        if operator is not None:
            image = operator.correct(image, data)
        return Volume(image.numpy(), truth.affine), []

    return method


def _interpolations(truth: Grid, operator: Acquisition) -> dict[str, Method]:
    return {
        TRILINEAR: interpolation("linear", truth),
        CUBIC: interpolation("cubic", truth),
        CORRECTED: interpolation("cubic", truth, operator),
    }


def _check_grid(found: Grid, expected: Grid, name: str) -> None:
    """Refuse to compare voxels that do not lie at the same place.

    Raises:
        SRCycError: another shape, or corners that differ by more than the tolerance of the field of view.
    """
    if found.shape != expected.shape:
        raise SRCycError(
            f"{name}: gave {found.shape} voxels where the truth has {expected.shape}; report this defect."
        )
    distance = float(np.abs(found.field_of_view - expected.field_of_view).max())
    if distance > FIELD_OF_VIEW_TOLERANCE:
        raise SRCycError(
            f"{name}: its field of view is {distance:.3g} mm off the truth's; report this defect."
        )
