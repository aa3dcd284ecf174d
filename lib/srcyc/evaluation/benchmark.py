"""Simulated thick slices of a thin-slice scan, brought back by every method, each compared with the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from srcyc.errors import ConfigError, SRCycError, extra
from srcyc.evaluation.lpips import LPIPS
from srcyc.evaluation.metrics import Image, Quality, Truth, alignment, beside_baselines, foresight
from srcyc.evaluation.regions import Regions
from srcyc.evaluation.rows import Row
from srcyc.models.card import contrast_of
from srcyc.physics.acquisition import LARGEST_THICKNESS, Acquisition
from srcyc.physics.resampling import resample
from srcyc.physics.simulation import CLEAN, Spoiling, simulate_thick
from srcyc.volumes.geometry import FIELD_OF_VIEW_TOLERANCE, Grid
from srcyc.volumes.volume import Volume

with extra("evaluate"):
    import skimage  # noqa: F401 - the metrics need it, which shall not turn out after an hour

#: What needs no network, and every model is compared with; a model has to beat the last one.
TRILINEAR, CUBIC, CLASSICAL = "trilinear", "cubic B-spline", "classical inverse"


class Answer(NamedTuple):
    """What a method made of a thick scan.

    Attributes:
        volume: the result.
        warnings: raised on the way.
        uncertainty: map on the same grid, in the same unit; None from a method that gives none.
    """

    volume: Volume
    warnings: Sequence[str] = ()
    uncertainty: Volume | None = None


#: Brings a thick scan to the given spacing (mm per array axis).
Method = Callable[[Volume, tuple[float, float, float]], Answer]


@dataclass(frozen=True)
class Simulation:
    """How thick slices are made, and what methods are told of them.

    Attributes:
        thickness: FWHM of the slice profile, mm.
        gap: distance between neighbouring slices, mm; slice centres lie ``thickness + gap`` apart.
        axis: array axis that is made thick; None: the one closest to head-foot.
        spoiling: what the slices get wrong.
        told_ratio: thickness over slice distance that methods are told; None: the true one.

    Raises:
        ConfigError: a ratio that no scan has.
    """

    thickness: float
    gap: float = 0.0
    axis: int | None = None
    spoiling: Spoiling = CLEAN
    told_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.told_ratio is not None and not 0 < self.told_ratio <= LARGEST_THICKNESS:
            raise ConfigError(
                f"told_ratio {self.told_ratio:g}",
                remedy=f"give a slice thickness over slice distance up to {LARGEST_THICKNESS:g}",
                options=("told_ratio",),
            )

    @property
    def ratio(self) -> float:
        """Slice thickness over slice distance, as methods are told."""
        return self.told_ratio or self.thickness / (self.thickness + self.gap)

    def of(self, scan: Volume) -> tuple[Volume, Volume]:
        """Simulate: give the thick scan, whose ``slice_thickness`` is the one told, and the truth it covers.

        Raises:
            ConfigError: see :func:`srcyc.physics.simulation.simulate_thick`.
        """
        thick, truth = simulate_thick(
            scan,
            self.thickness + self.gap,
            thickness=self.thickness,
            axis=self.axis,
            spoiling=self.spoiling,
        )
        return replace(thick, slice_thickness=self.ratio * thick.spacing[thick_axis(thick, truth)]), truth


@dataclass(frozen=True, eq=False)
class Comparison:
    """All methods on one simulated scan.

    Attributes:
        simulation: how it was made.
        thick: the simulated scan.
        truth: what it was simulated from, cropped to whole slices.
        axis: array axis that was thickened.
        rows: one per method, those without a network first.
        images: method -> ``(I, J, K)`` on the truth's grid.
    """

    simulation: Simulation
    thick: Volume
    truth: Volume
    axis: int
    rows: list[Row]
    images: dict[str, Image]


def compare(
    scan: Volume,
    simulation: Simulation,
    methods: Mapping[str, Method],
    *,
    name: str = "scan",
    lpips: LPIPS | None = None,
    regions: Volume | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Simulate thick slices, run what needs no network and ``methods``, and score each against the truth.

    The interpolations continue the outer slices beyond their centres (linear: constant, cubic: mirrored about the
    outer voxel faces), so that the half slice at either end, where ITK would write zeros, is judged fairly.

    Args:
        scan: thin-slice scan, ``(1, I, J, K)``.
        simulation: of the thick slices.
        methods: name -> method, none with the name of one that needs no network.
        name: of the scan; it may tell the contrast.
        lpips: measure LPIPS too.
        regions: a label map whose regions' contrast is measured too.
        progress: called with the name of each method when it starts.

    Raises:
        ConfigError: a thickness that cannot be simulated from this scan.
        DataError: a scan without a foreground, or regions without a surround.
        VolumeError: regions of another scan.
        SRCycError: a method returned another grid than the truth's.
    """
    thick, covered = simulation.of(scan)
    axis = thick_axis(thick, covered)
    truth = Truth(covered.data[0])
    operator = Acquisition(covered.shape, thick.shape, simulation.ratio, slice_axis=axis)
    measured = _tensor(thick)
    marked = None if regions is None else Regions.of(regions, covered.grid, truth.mask, axis)

    qualities: dict[str, Quality] = {}
    others: dict[str, dict[str, Any]] = {}
    images: dict[str, Image] = {}
    for key, method in {**baselines(covered.grid, operator), **methods}.items():
        if progress:
            progress(key)
        start = time.perf_counter()
        result, warnings, uncertainty = method(thick, covered.spacing)
        seconds = time.perf_counter() - start
        _check_grid(result.grid, covered.grid, key)
        image = images[key] = result.data[0]
        qualities[key] = truth.quality(image, lpips)
        place = alignment(image, truth.image)
        others[key] = {
            "consistency": operator.residual(_tensor(result), measured),
            **dict(zip(("shift_i", "shift_j", "shift_k"), place.shift, strict=True)),
            "flipped": bool(place.flipped),
            "aligned": place.ok,
            "seconds": seconds,
            "warnings": tuple(warnings),
        }
        if marked is not None:
            others[key] |= marked.kept(image, truth.image)._asdict()
        if uncertainty is not None:
            seen = foresight(uncertainty.data[0], image - truth.image, truth.mask)
            others[key] |= {"uncertainty_rank": seen.rank, "uncertainty_share": seen.share}
    spoiling = simulation.spoiling
    rows = [
        Row(
            scan=name,
            contrast=contrast_of(name),
            thickness=simulation.thickness,
            gap=simulation.gap,
            axis=axis,  # type: ignore[arg-type]
            slice_spacing=thick.spacing[axis],
            told_ratio=simulation.ratio,
            jitter=spoiling.jitter,
            noise=spoiling.noise,
            blur=spoiling.blur,
            box=spoiling.box,
            method=key,
            **beside_baselines(quality, qualities[CUBIC], qualities[CLASSICAL]),
            **others[key],
        )
        for key, quality in qualities.items()
    ]
    return Comparison(simulation, thick, covered, axis, rows, images)


def thick_axis(thick: Volume, fine: Volume) -> int:
    """Give the array axis along which a thick scan has fewer slices."""
    return next(axis for axis in range(3) if thick.shape[axis] != fine.shape[axis])


def baselines(fine: Grid, operator: Acquisition) -> dict[str, Method]:
    """Give the methods that need no network.

    Args:
        fine: the grid wanted, over the same field of view as the scan.
        operator: the scan's acquisition of that grid.
    """

    def method(upscale: Callable[[Tensor], Tensor]) -> Method:
        return lambda thick, spacing: Answer(Volume(upscale(_tensor(thick)).numpy(), fine.affine))

    return {
        TRILINEAR: method(lambda y: resample(y, fine.shape, "linear")),
        CUBIC: method(lambda y: resample(y, fine.shape, "cubic")),
        CLASSICAL: method(operator.upscale),
    }


def _tensor(volume: Volume) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume.data))


def _check_grid(found: Grid, expected: Grid, name: str) -> None:
    """Refuse to compare voxels that do not lie at the same place.

    Raises:
        SRCycError: another shape, or corners that differ by more than the tolerance of the field of view.
    """
    if found.shape != expected.shape:
        raise SRCycError(
            f"{name}: gave {found.shape} voxels where the truth has {expected.shape}",
            remedy="report this defect",
        )
    distance = float(np.abs(found.field_of_view - expected.field_of_view).max())
    if distance > FIELD_OF_VIEW_TOLERANCE:
        raise SRCycError(
            f"{name}: its field of view is {distance:.3g} mm off the truth's", remedy="report this defect"
        )
