"""Real thick scans: no truth is known, but what is wrong with their slices, and what a model makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srcyc.evaluation.benchmark import CLASSICAL, CUBIC
from srcyc.evaluation.metrics import Image
from srcyc.evaluation.regions import Kept, Regions
from srcyc.inference.super_resolver import SuperResolution
from srcyc.physics.acquisition import Acquisition
from srcyc.physics.resampling import resample
from srcyc.physics.slice_gain import slice_gain
from srcyc.physics.thickness import SliceThickness
from srcyc.volumes.intensity import foreground_mask, robust_scaling
from srcyc.volumes.volume import Volume

#: Name of the scan's own row.
SCAN = "scan"

#: Super-resolves a scan; the spacing is given by the first one's result, which is asked for None.
Model = Callable[[Volume, tuple[float, float, float] | None], SuperResolution]


@dataclass(frozen=True)
class ThickScore:
    """What one method did to one scan.

    Attributes:
        method: name; :data:`SCAN` is the scan as it came.
        slice_gain: slice-to-slice gain of A x, per cent (:func:`srcyc.physics.slice_gain.slice_gain`); None if it
            cannot be told.
        correction: ``||delta|| / ||y||``, by how much the slices were corrected.
        seconds: wall clock.
        warnings: what the method warned of.
        kept: contrast of marked regions in A x, of the scan's; None if none are marked.
    """

    method: str
    slice_gain: float | None
    correction: float = 0.0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    kept: Kept | None = None


@dataclass(frozen=True, eq=False)
class Examination:
    """All methods on one real scan.

    Attributes:
        scan: as it came.
        result: the first model's.
        axis: array axis of the slices.
        factor: by how much that axis was enlarged.
        thickness: of the slices, and who says so.
        scores: the scan, the classical inverse, then one per model.
        images: cubic B-spline, classical inverse and models -> ``(I, J, K)`` on the result's grid.
    """

    scan: Volume
    result: Volume
    axis: int
    factor: float
    thickness: SliceThickness
    scores: list[ThickScore]
    images: dict[str, Image]


def examine(
    scan: Volume,
    models: Mapping[str, Model],
    *,
    regions: Volume | None = None,
    progress: Callable[[str], None] | None = None,
) -> Examination:
    """Super-resolve a real thick scan by every model, and measure what became of its slices.

    Args:
        scan: ``(1, I, J, K)``.
        models: name -> model, at least one; the grid is the first one's.
        regions: a label map whose regions' contrast is measured too.
        progress: called with the name of each method when it starts.

    Raises:
        InputError: the scan cannot be super-resolved (see the message).
    """
    # Of a scan whose place is unknown, too, the result has to have its field of view.
    scan = replace(scan, orientation=None)
    results: dict[str, SuperResolution] = {}
    seconds: dict[str, float] = {}
    spacing = None
    for name, model in models.items():
        if progress:
            progress(name)
        start = time.perf_counter()
        results[name] = model(scan, spacing)
        seconds[name] = time.perf_counter() - start
        spacing = results[name].volume.spacing
    first = next(iter(results.values()))
    fine, axis, thickness = first.volume, first.report.thick_axis, first.report.thickness
    operator = Acquisition(fine.shape, scan.shape, thickness.ratio, slice_axis=axis)
    scaling = robust_scaling(scan.data)
    marked = None if regions is None else Regions.of(regions, scan.grid, foreground_mask(scan.data[0]), axis)

    def score(method: str, slices: Tensor, **more: Any) -> ThickScore:
        image = slices.numpy()
        kept = None if marked is None else marked.kept(image, scan.data[0])
        return ThickScore(
            method, slice_gain(scaling.normalise(np.moveaxis(image, axis, -1))), kept=kept, **more
        )

    y = _tensor(scan)
    start = time.perf_counter()
    classical = operator.upscale(y)
    taken = time.perf_counter() - start
    scores = [
        score(SCAN, y),
        score(CLASSICAL, operator.apply(classical), seconds=taken),
        *(
            score(
                name,
                operator.apply(_tensor(result.volume)),
                correction=result.report.consistency.correction,
                seconds=seconds[name],
                warnings=tuple(result.report.warnings),
            )
            for name, result in results.items()
        ),
    ]
    images = {
        CUBIC: resample(y[None], fine.shape, "cubic")[0].numpy(),
        CLASSICAL: classical.numpy(),
        **{name: result.volume.data[0] for name, result in results.items()},
    }
    return Examination(scan, fine, axis, first.report.factor, thickness, scores, images)


def _tensor(volume: Volume) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume.data[0]))
