"""The single path from a thick-slice scan to a thin-slice volume: command line, server and tests all call this."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srcyc._version import __version__
from srcyc.device import peak_memory, precision_name, resolve_device, resolve_precision
from srcyc.enhancement import Progress, enhance_in_slabs, take_back
from srcyc.errors import ConfigError, ModelError, SRCycError, VolumeError
from srcyc.inference.options import InferenceOptions
from srcyc.inference.preprocessing import correct_bias_field, denoise
from srcyc.inference.report import (
    ConsistencyReport,
    ModelReport,
    Report,
    ResultReport,
    describe_input,
)
from srcyc.models.model_file import DEFAULT_MODEL, ModelCard, PublishedModel, find_model, load_model
from srcyc.networks import Generator
from srcyc.physics.acquisition import Acquisition, AxisAcquisition, relative_residual
from srcyc.physics.noise import estimate_noise
from srcyc.physics.slice_gain import correction_share, slice_gain
from srcyc.physics.slice_profile import ProfileEstimate, estimate_profile
from srcyc.physics.thickness import Estimate, SliceThickness, slice_thickness
from srcyc.volumes.geometry import Grid, target_grid
from srcyc.volumes.intensity import IntensityScaling, robust_scaling
from srcyc.volumes.labels import require_scan
from srcyc.volumes.missing import Missing
from srcyc.volumes.volume import Volume
from srcyc.volumes.working import WorkingOrder, WorkingScan, prepare

#: How far outside its card's ranges a model is still used without being forced.
_FACTOR_TOLERANCE, _FINER_TOLERANCE, _COARSER_TOLERANCE = 1.5, 0.6, 1.6
#: Grids have whole voxels, so the spacing reached is a little off the one asked for.
_ROUNDING = 0.03
#: In-plane enlargement that counts as such.
_IN_PLANE = 1.25
#: In-plane flips whose answers the uncertainty compares (working axes).
_FLIPS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))
#: Share of a scan's range by which a step of preparation has to change some voxel to have been done.
_CHANGED = 1e-4
#: Share of the work that is done when the network starts, and when it is through.
_NETWORK_STARTS, _NETWORK_ENDS = 0.05, 0.95
#: A slab's features, so that all layers find them in the processor's cache; and on a GPU. Not bytes: half as many rows
#: in fp32 can be too few for PyTorch, which leaves a small image's convolution to code that takes four times as long.
_CACHE_FEATURES, _GPU_FEATURES = 4 * 2**20, 256 * 2**20
#: Bytes of whole-volume buffers per voxel of the result: the image, its copy in the file's order, and conversions.
_VOLUME_BYTES = 12
#: The same per voxel of the scan on the result's in-plane grid: scan, its copy, delta, and the result acquired again.
_SCAN_BYTES = 24
#: Buffers of a slab's features that a layer needs at a time: input of block and layer, window, output, products.
_LAYER_BUFFERS = 6
#: Numbers that what the C library keeps of freed buffers could hold, however small the slabs are (measured).
_HEAP_NUMBERS = 40_000_000


@dataclass(frozen=True, eq=False)
class SuperResolution:
    """What comes out.

    Attributes:
        volume: on the target grid, the scan's axis order and intensity units.
        report: how it was made.
        uncertainty: on the same grid and in the same units, if asked for.
        correction: delta, what was added to the scan's voxels before they were used: on the scan's grid (in-plane the
            result's), in its units, if asked for.
    """

    volume: Volume
    report: Report
    uncertainty: Volume | None = None
    correction: Volume | None = None


class SuperResolver:
    """Super-resolves scans with one published model.

    Holds no state between calls, so threads may share it.

    Args:
        model: from :func:`srcyc.models.model_file.load_model`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        max_memory: GB (10^9 bytes) that a call may use; None: whatever is fastest.
        tile: planes that go through the network at once; None: chosen. The result does not depend on it.

    Raises:
        ConfigError: a device or precision that is not there, or a budget that is not positive.
    """

    def __init__(
        self,
        model: PublishedModel,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_memory: float | None = None,
        tile: int | None = None,
    ) -> None:
        if max_memory is not None and not 0 < max_memory < float("inf"):
            raise ConfigError(
                f"max_memory {max_memory} GB: give a positive number of GB.", options=("max_memory",)
            )
        if tile is not None and tile < 1:
            raise ConfigError(f"tile {tile}: give a positive number of planes.")
        self.model = model
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device)
        self._network: Generator = copy.deepcopy(model.network).to(self.device, self.dtype).eval()
        #: Bytes that a call may use; None: whatever is fastest.
        self.max_memory = None if max_memory is None else int(max_memory * 1e9)
        self._tile = tile

    @classmethod
    def from_pretrained(
        cls,
        name: str = DEFAULT_MODEL,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_memory: float | None = None,
        tile: int | None = None,
    ) -> SuperResolver:
        """Load a packaged model by name; arguments as for the class.

        Raises:
            ModelError: there is no such model.
        """
        return cls.load(
            find_model(name), device=device, precision=precision, max_memory=max_memory, tile=tile
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: str = "auto",
        max_memory: float | None = None,
        tile: int | None = None,
    ) -> SuperResolver:
        """Load a model file; arguments as for the class.

        Raises:
            ModelError: the file is not a usable model.
        """
        return cls(load_model(path), device=device, precision=precision, max_memory=max_memory, tile=tile)

    def __call__(
        self,
        volume: Volume,
        options: InferenceOptions | None = None,
        *,
        progress: Progress | None = None,
        **wishes: Any,
    ) -> SuperResolution:
        """Super-resolve one scan.

        Args:
            volume: ``(1, I, J, K)``, any orientation; the axis with the largest spacing counts as the slice axis.
            options: what is asked for; or
            progress: called with the share done, 0 to 1.
            wishes: the fields of :class:`~srcyc.inference.options.InferenceOptions`, as keywords.

        Raises:
            NothingToDoError: the scan has the spacing already.
            LabelMapError: a label map, and not forced.
            VolumeError: several channels, infinite voxels, or too thin.
            ModelError: the scan is far outside the model's range.
            ConfigError: an unusable option, or too little memory allowed.
            SRCycError: preprocessing or the network failed.
        """
        start = time.perf_counter()
        if options is not None and wishes:
            raise ConfigError(
                f"options are given, and {', '.join(wishes)} too", remedy="give one or the other"
            )
        options = options or InferenceOptions.of(wishes)
        tell = progress or (lambda share: None)
        _check(volume)
        if not options.force:
            require_scan(volume)
        missing = Missing.of(volume)
        filled = missing.filled(volume)
        # As acquired, before any preprocessing: what the slice profile is told from, and what the network gets
        # where nothing is changed first.
        acquired = cache(lambda: prepare(filled, missing))
        plan = Plan.of(volume, options, self.model.card, lambda: _profile(acquired()))
        tell(0.0)
        prepared, steps, doubts = _prepare(filled, options)
        if float(np.ptp(prepared.data)) == 0.0:
            outcome = _constant(float(prepared.data.flat[0]), plan)
        else:
            working = acquired() if prepared is filled else prepare(prepared, missing)
            outcome = self._compute(working, plan, options, tell)
        missing.put_back(outcome.data, volume.data[0])
        kept = plan.kept()
        result = replace(
            volume,
            data=outcome.data[kept][None],
            affine=plan.target.cropped([part.start for part in kept], plan.target.shape).affine,
            slice_thickness=None,
            source=None,
            padding=None,
            warnings=(),
            series=None,
            files=(),
        )
        fp32 = np.dtype(np.float32)
        spread = correction = None
        if options.uncertainty:
            missing.blanked(outcome.spread)
            spread = replace(result, data=outcome.spread[kept][None], stored_dtype=fp32)
        if options.correction_map:
            correction = replace(
                result,
                data=outcome.correction[None],
                affine=plan.sliced.affine,
                slice_thickness=volume.slice_thickness,
                stored_dtype=fp32,
            )
        report = Report(
            **self.made(start),
            input=describe_input(volume),
            result=ResultReport(shape=result.shape, spacing=result.spacing),
            options=options,
            thick_axis=plan.order.order[2],  # type: ignore[arg-type]
            factor=plan.factor,
            thickness=plan.thickness,
            scaling=outcome.scaling,
            sigma=outcome.sigma,
            consistency=outcome.consistency,
            preprocessing=steps,
            warnings=(*volume.warnings, *missing.warnings(volume.data[0]), *doubts, *plan.warnings),
        )
        tell(1.0)
        return SuperResolution(result, report, spread, correction)

    def made(self, start: float) -> dict[str, Any]:
        """Give what every report on a result says of who made it, where, and how long it took.

        Args:
            start: of the work, as ``time.perf_counter()`` gave it.
        """
        card = self.model.card
        return {
            "software": f"srcyc {__version__}",
            "model": ModelReport(name=card.name, sha256=self.model.sha256, licence=card.licence),
            "device": str(self.device),
            "precision": precision_name(self.dtype),
            "seconds": round(time.perf_counter() - start, 3),
            "peak_memory": peak_memory(),
        }

    @torch.inference_mode()
    def _compute(
        self, working: WorkingScan, plan: Plan, options: InferenceOptions, tell: Progress
    ) -> _Outcome:
        y = torch.from_numpy(working.image)
        scaling, back = working.scaling, working.order.undo
        sigma = float(estimate_noise(y[None, None], 3, ignore_empty=True))
        # Within the slices no network is needed: they are brought to the result's in-plane grid consistently.
        sliced = plan.in_plane.upscale(y)
        slab = self._slab(plan)
        gain = slice_gain(working.image) if options.correct_slices else None

        def enhanced(flip: tuple[int, ...], done: int) -> tuple[Tensor, Tensor, float]:
            each = (_NETWORK_ENDS - _NETWORK_STARTS) / (len(_FLIPS) if options.uncertainty else 1)
            image = torch.empty(plan.fine_shape)
            delta = enhance_in_slabs(
                self._network,
                sliced,
                plan.axis,
                image,
                slab=slab,
                project=options.consistency,
                correct_slices=options.correct_slices,
                flip=flip,
                progress=lambda part: tell(_NETWORK_STARTS + each * (done + part)),
            )
            share = correction_share(working.image, plan.in_plane.apply(delta).numpy(), gain)
            if share < 1:
                take_back(image, delta, plan.axis, 1 - share)
            return image, delta, share

        x, delta, share = enhanced(_FLIPS[0], 0)
        if not bool(torch.isfinite(torch.linalg.vector_norm(x, dtype=torch.float64))):
            raise SRCycError("the network's output is not finite", remedy="run it with precision fp32")
        spread = None
        if options.uncertainty:
            others = (enhanced(flip, done)[0] for done, flip in enumerate(_FLIPS[1:], 1))
            spread = _standard_deviation(x, others).mul_(scaling.scale)
        again = plan.in_plane.apply(plan.through_plane.apply(x))
        changed = plan.in_plane.apply(delta)
        consistency = ConsistencyReport(
            applied=options.consistency,
            slices_corrected=options.correct_slices,
            correction=relative_residual(y + changed, y),
            residual=relative_residual(again, y + changed),
            correction_share=share,
        )
        tell(0.98)
        # In place: what IntensityScaling.invert does, without its two copies.
        x.mul_(scaling.scale).add_(scaling.offset)
        return _Outcome(
            back(x),
            scaling,
            sigma,
            consistency,
            None if spread is None else back(spread),
            back(delta.mul_(scaling.scale)) if options.correction_map else None,
        )

    def _slab(self, plan: Plan) -> int:
        """Choose the planes per slab.

        Raises:
            ConfigError: ``max_memory`` is too small even for the smallest slabs.
        """
        network, (n, columns, fine), slices = self._network, plan.fine_shape, plan.scan_shape[2]
        features = network.features_per_row(columns, fine, slices)
        target = _CACHE_FEATURES if self.device.type == "cpu" else _GPU_FEATURES
        slab = min(n, max(network.row_step, self._tile or target // features))
        if self.max_memory is None:
            return slab
        planes = sum(network.planes(fine, slices)) + 3 * fine
        bytes_per_row = features * self.dtype.itemsize
        per_row = _LAYER_BUFFERS * bytes_per_row + 4 * columns * planes
        # What layers and shortcuts remember, and the first slab, which also fills them all.
        held = network.reach * (3 * bytes_per_row + per_row)
        heap = _HEAP_NUMBERS * self.dtype.itemsize if self.device.type == "cpu" else 0
        fixed = n * columns * (_VOLUME_BYTES * fine + _SCAN_BYTES * slices) + held + heap
        affordable = (self.max_memory - fixed) // per_row
        if affordable < network.row_step:
            # Rounded up: what is told must do.
            needed = (fixed + network.row_step * per_row) / 1e9
            digit = 10.0 ** (math.floor(math.log10(needed)) - 2)
            least = math.ceil(needed / digit) * digit
            size = " x ".join(map(str, plan.fine_shape))
            raise ConfigError(
                f"max_memory {self.max_memory / 1e9:g} GB: an output of {size} voxels needs {least:.3g} GB",
                remedy="allow more or ask for a coarser target_spacing",
                options=("max_memory", "target_spacing"),
            )
        return int(min(slab, affordable))


@dataclass(frozen=True, eq=False)
class Plan:
    """What a scan asks of the model.

    Attributes:
        target: the output grid, axes in the scan's order.
        sliced: the scan's slices on the output's in-plane grid, axes in the scan's order.
        order: of the working axes, slice axis last.
        scan_shape: of the scan, working order.
        fine_shape: of the output, working order.
        thickness: of the slices, and who says so.
        warnings: where the model is not at home.
        to_centres: the result ends at the centres of the scan's outer voxels. Of a scan whose place is unknown some
            viewers put the middle at 0, others the first voxel: only so do both show scan and result in one place.
    """

    target: Grid
    sliced: Grid
    order: WorkingOrder
    scan_shape: tuple[int, int, int]
    fine_shape: tuple[int, int, int]
    thickness: SliceThickness
    warnings: tuple[str, ...]
    to_centres: bool = False

    def kept(self) -> tuple[slice, slice, slice]:
        """Give the part of the target grid that is delivered."""
        coarse = [n for _, n in sorted(zip(self.order.order, self.scan_shape, strict=True))]
        multiples = [
            fine // n if self.to_centres else 1 for fine, n in zip(self.target.shape, coarse, strict=True)
        ]
        cut = [(multiple - 1) // 2 for multiple in multiples]
        i, j, k = (slice(less, fine - less) for less, fine in zip(cut, self.target.shape, strict=True))
        return i, j, k

    @property
    def factor(self) -> float:
        """By how much the slice axis is enlarged."""
        return self.axis.factor

    @property
    def axis(self) -> AxisAcquisition:
        """The operator along the slice axis."""
        return AxisAcquisition.of(self.fine_shape[2], self.scan_shape[2], self.thickness.ratio)

    @property
    def in_plane(self) -> Acquisition:
        """The operator within slices: from the output's in-plane grid to the scan's."""
        return Acquisition((*self.fine_shape[:2], self.scan_shape[2]), self.scan_shape, slice_axis=2)

    @property
    def through_plane(self) -> Acquisition:
        """The operator along the slice axis, for whole volumes."""
        sliced = (*self.fine_shape[:2], self.scan_shape[2])
        return Acquisition(self.fine_shape, sliced, self.thickness.ratio, slice_axis=2)

    @classmethod
    def of(
        cls,
        volume: Volume,
        options: InferenceOptions,
        card: ModelCard,
        estimate: Estimate = lambda: None,
    ) -> Plan:
        """Lay out the work on one scan.

        Args:
            volume: the scan.
            options: what is asked for.
            card: of the model.
            estimate: tells the slice profile from the scan, where nobody says the thickness; takes a moment.

        Raises:
            NothingToDoError: there is none.
            ModelError: far outside the card's ranges, and not forced.
            ConfigError: an unusable target spacing or slice thickness.
        """
        grid = volume.grid
        target = target_grid(grid, options.target_spacing, finest=card.spacing_range[0])
        to_centres = volume.orientation is not None and not volume.orientation.known
        if to_centres:
            target = grid.resized(
                [_odd_multiple(n, fine) for n, fine in zip(grid.shape, target.shape, strict=True)]
            )
        order = WorkingOrder.of(grid)
        scan, fine = order.grid(grid), order.grid(target)
        factor = fine.shape[2] / scan.shape[2]
        thickness, warnings = slice_thickness(
            options.slice_thickness, volume.slice_thickness, scan.spacing[2], estimate
        )
        in_plane = max(fine.shape[0] / scan.shape[0], fine.shape[1] / scan.shape[1])
        if in_plane > _IN_PLANE:
            warnings.append(
                f"voxels within slices are made {in_plane:.3g} times smaller too; the model was trained to restore "
                "the slice axis only."
            )
        for what, far in [*_factor_distance(factor, card), *_spacing_distance(fine.spacing, card)]:
            if far and not options.force:
                raise ModelError(
                    f"{volume.name}: {what} is far outside what model {card.name!r} was trained for",
                    remedy="choose another target_spacing or model, or force it",
                    options=("target_spacing",),
                )
            warnings.append(
                f"{what} is outside what model {card.name!r} was trained for; look at the result closely."
            )
        shape = [*target.shape]
        shape[order.order[2]] = scan.shape[2]
        return cls(
            target,
            grid.resized(shape),
            order,
            scan.shape,
            fine.shape,
            thickness,
            tuple(warnings),
            to_centres,
        )


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Voxels in the scan's axis order and units, and what the report needs."""

    data: npt.NDArray[np.float32]
    scaling: IntensityScaling | None
    sigma: float
    consistency: ConsistencyReport
    spread: Any = None
    correction: Any = None


def _odd_multiple(coarse: int, fine: int) -> int:
    """Give the odd multiple of ``coarse`` next to ``fine``: the coarse centres are among the fine ones."""
    return coarse if fine == coarse else coarse * max(3, 2 * round((fine / coarse - 1) / 2) + 1)


def _check(volume: Volume) -> None:
    if volume.data.shape[0] != 1:
        raise VolumeError(
            f"{volume.name}: {volume.data.shape[0]} channels", remedy="give a grey-scale volume"
        )
    if min(volume.shape) < 2:
        size = " x ".join(map(str, volume.shape))
        raise VolumeError(
            f"{volume.name}: {size} voxels", remedy="give a volume of at least 2 along each axis"
        )
    if np.isinf(volume.data).any() or np.isnan(volume.data).all():
        raise VolumeError(f"{volume.name}: infinite voxels, or none but NaN", remedy="replace them first")


def _prepare(volume: Volume, options: InferenceOptions) -> tuple[Volume, tuple[str, ...], tuple[str, ...]]:
    """Do the steps asked for; give the volume, those that changed it, and a warning for each that did not."""
    steps: list[tuple[str, Callable[[Volume], Volume]]] = []
    if options.n4:
        steps.append(("N4 bias field correction", correct_bias_field))
    if options.denoise:
        steps.append(("curvature flow denoising", denoise))
    done, doubts = [], []
    for name, step in steps:
        # In a constant scan there is nothing to correct, and ITK finds no foreground.
        after = volume if float(np.ptp(volume.data)) == 0.0 else step(volume)
        least = _CHANGED * robust_scaling(volume.data).scale
        if float(np.abs(after.data - volume.data).max()) > least:
            volume = after
            done.append(name)
        else:
            doubts.append(f"{name} changed nothing.")
    return volume, tuple(done), tuple(doubts)


def _profile(scan: WorkingScan) -> ProfileEstimate | None:
    """Tell the slice profile from a scan."""
    return estimate_profile(scan.image, scan.grid.spacing)


def _factor_distance(factor: float, card: ModelCard) -> list[tuple[str, bool]]:
    """Tell a factor outside the model's range, and whether it is far outside."""
    low, high = card.factor_range
    if low * (1 - _ROUNDING) <= factor <= high * (1 + _ROUNDING):
        return []
    what = f"the factor {factor:.3g} along the slice axis (range {low:g} to {high:g})"
    return [(what, factor > _FACTOR_TOLERANCE * high)]


def _spacing_distance(spacing: tuple[float, float, float], card: ModelCard) -> list[tuple[str, bool]]:
    """Tell output voxel sizes (mm) outside the model's range, and whether they are far outside."""
    low, high = card.spacing_range
    values = f"(range {low:g} to {high:g} mm)"
    found = []
    if min(spacing) < low * (1 - _ROUNDING):
        found.append(
            (f"the output voxel size {min(spacing):.3g} mm {values}", min(spacing) < _FINER_TOLERANCE * low)
        )
    if max(spacing) > high * (1 + _ROUNDING):
        found.append(
            (
                f"the output voxel size {max(spacing):.3g} mm {values}",
                max(spacing) > _COARSER_TOLERANCE * high,
            )
        )
    return found


def _constant(value: float, plan: Plan) -> _Outcome:
    """A constant image comes back constant, exactly, and says nothing about noise."""
    consistency = ConsistencyReport(applied=True, slices_corrected=False, correction=0.0, residual=0.0)
    spread, correction = (np.zeros(grid.shape, np.float32) for grid in (plan.target, plan.sliced))
    return _Outcome(np.full(plan.target.shape, value, np.float32), None, 0.0, consistency, spread, correction)


def _standard_deviation(first: Tensor, others: Iterable[Tensor]) -> Tensor:
    """Population standard deviation over volumes that come one by one (Welford 1962)."""
    mean, squares = first.clone(), torch.zeros_like(first)
    for count, value in enumerate(others, 2):
        delta = value - mean
        mean += delta / count
        squares += delta.mul_(value - mean)
    return squares.div_(len(_FLIPS)).sqrt_()
