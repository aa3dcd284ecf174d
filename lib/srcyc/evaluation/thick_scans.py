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
from srcyc.evaluation.regions import Regions
from srcyc.evaluation.rows import ThickRow
from srcyc.inference.super_resolver import SuperResolution
from srcyc.models.card import contrast_of
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


@dataclass(frozen=True, eq=False)
class Examination:
    """All methods on one real scan.

    Attributes:
        scan: as it came.
        result: the first model's.
        axis: array axis of the slices.
        thickness: of the slices, and who says so.
        rows: the scan, the classical inverse, then one per model.
        images: cubic B-spline, classical inverse and models -> ``(I, J, K)`` on the result's grid.
    """

    scan: Volume
    result: Volume
    axis: int
    thickness: SliceThickness
    rows: list[ThickRow]
    images: dict[str, Image]


def examine(
    scan: Volume,
    models: Mapping[str, Model],
    *,
    name: str = "scan",
    regions: Volume | None = None,
    progress: Callable[[str], None] | None = None,
) -> Examination:
    """Super-resolve a real thick scan by every model, and measure what became of its slices.

    Args:
        scan: ``(1, I, J, K)``.
        models: name -> model, at least one; the grid is the first one's.
        name: of the scan; it may tell the contrast.
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
    for key, model in models.items():
        if progress:
            progress(key)
        start = time.perf_counter()
        results[key] = model(scan, spacing)
        seconds[key] = time.perf_counter() - start
        spacing = results[key].volume.spacing
    first = next(iter(results.values()))
    fine, axis, thickness = first.volume, first.report.thick_axis, first.report.thickness
    operator = Acquisition(fine.shape, scan.shape, thickness.ratio, slice_axis=axis)
    scaling = robust_scaling(scan.data)
    marked = None if regions is None else Regions.of(regions, scan.grid, foreground_mask(scan.data[0]), axis)

    def gain_of(slices: Image) -> float | None:
        return slice_gain(scaling.normalise(np.moveaxis(slices, axis, -1)))

    own = gain_of(scan.data[0])

    def row(method: str, slices: Tensor, **more: Any) -> ThickRow:
        image = slices.numpy()
        gain = own if method == SCAN else gain_of(image)
        kept = {} if marked is None else marked.kept(image, scan.data[0])._asdict()
        return ThickRow(
            scan=name,
            contrast=contrast_of(name),
            method=method,
            factor=first.report.factor,
            axis=axis,
            slice_spacing=scan.spacing[axis],
            thickness=thickness.millimetres,
            thickness_source=thickness.source,
            slice_gain=gain,
            slice_gain_over_scan=None if gain is None or not own else gain / own,
            **kept,
            **more,
        )

    y = _tensor(scan)
    start = time.perf_counter()
    classical = operator.upscale(y)
    taken = time.perf_counter() - start
    rows = [
        row(SCAN, y),
        row(CLASSICAL, operator.apply(classical), seconds=taken),
        *(
            row(
                key,
                operator.apply(_tensor(result.volume)),
                correction=result.report.consistency.correction,
                seconds=seconds[key],
                warnings=tuple(result.report.warnings),
            )
            for key, result in results.items()
        ),
    ]
    images = {
        CUBIC: resample(y[None], fine.shape, "cubic")[0].numpy(),
        CLASSICAL: classical.numpy(),
        **{key: result.volume.data[0] for key, result in results.items()},
    }
    return Examination(scan, fine, axis, thickness, rows, images)


def _tensor(volume: Volume) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume.data[0]))
