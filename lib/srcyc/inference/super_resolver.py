"""The single path from a thick-slice scan to a thin-slice volume: command line, server and tests all call this."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srcyc._version import __version__
from srcyc.device import peak_memory, precision_name, resolve_device, resolve_precision
from srcyc.errors import ConfigError, ModelError, VolumeError
from srcyc.geometry import Grid, TargetSpacing, inverse_order, target_grid, working_flips, working_order
from srcyc.inference.consistency import SlabAcquisition
from srcyc.inference.model_file import DEFAULT_MODEL, ModelCard, PublishedModel, find_model, load_model
from srcyc.inference.preprocessing import correct_bias_field, denoise
from srcyc.inference.refinement import Refiner, squared_norm
from srcyc.inference.report import (
    ConsistencyReport,
    ModelReport,
    Report,
    ResultReport,
    ScalingReport,
    describe_input,
)
from srcyc.inference.tiling import SMALLEST_AXIS, Progress, SlabNetwork
from srcyc.intensity import IntensityScaling, robust_scaling
from srcyc.noise import estimate_noise
from srcyc.volume import Volume

#: Slice thickness over slice spacing that networks are trained for, and the operator's upper limit.
TRAINED_THICKNESS = (0.6, 1.0)
_LARGEST_THICKNESS = 2.0
#: Data consistency leaves differences up to this many noise standard deviations: 95 % of what noise alone makes.
NOISE_TOLERANCE = 2.0
#: How far outside its card's ranges a model is still used without being forced.
_FACTOR_TOLERANCE, _FINER_TOLERANCE, _COARSER_TOLERANCE = 1.5, 0.6, 1.6
#: Grids have whole voxels, so the spacing reached is a little off the one asked for.
_ROUNDING = 0.03
#: In-plane enlargement that counts as such.
_IN_PLANE = 1.25
#: In-plane flips whose answers the uncertainty compares (working axes).
_FLIPS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))
#: Share of the work that is done when the network starts, and when it is through.
_NETWORK_STARTS, _NETWORK_ENDS = 0.05, 0.95


@dataclass(frozen=True, eq=False)
class SuperResolution:
    """What comes out.

    Attributes:
        volume: on the target grid, the scan's axis order and intensity units.
        report: how it was made.
        uncertainty: on the same grid and in the same units, if asked for.
    """

    volume: Volume
    report: Report
    uncertainty: Volume | None = None


class SuperResolver:
    """Super-resolves scans with one published model.

    Holds no state between calls, so threads may share it.

    Args:
        model: from :func:`srcyc.inference.model_file.load_model`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        max_memory: GB (10^9 bytes) that a call may use; None: whatever is fastest.
        tile: planes that go through the network at once; None: chosen. The result does not depend on it.

    Raises:
        ConfigError: a device or precision that is not there, or a budget that is not positive.
        ModelError: a model that is not for volumes of one channel.
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
        config = model.card.network
        if config.spatial_dims != 3 or config.in_channels != 1:
            raise ModelError(
                f"{model.path}: a {config.spatial_dims}D network of {config.in_channels} channels; "
                "give a 3D model of one channel."
            )
        if max_memory is not None and not 0 < max_memory < float("inf"):
            raise ConfigError(f"max memory {max_memory} GB: give a positive number of GB.")
        if tile is not None and tile < 1:
            raise ConfigError(f"tile {tile}: give a positive number of planes.")
        self.model = model
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device)
        self._max_memory = None if max_memory is None else int(max_memory * 1e9)
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
        *,
        target_spacing: TargetSpacing = "isotropic",
        consistency: bool = True,
        denoise: bool = False,
        n4: bool = False,
        force: bool = False,
        uncertainty: bool = False,
        progress: Progress | None = None,
    ) -> SuperResolution:
        """Super-resolve one scan.

        Args:
            volume: ``(1, I, J, K)``, any orientation; the axis with the largest spacing counts as the slice axis.
            target_spacing: ``"isotropic"`` (the scan's finest spacing, but not finer than the model knows), or mm.
            consistency: correct the result so that its thick slices equal the scan's within its noise.
            denoise: smooth the scan by curvature flow first.
            n4: correct the scan's bias field first.
            force: go on far outside the model's range.
            uncertainty: also give the standard deviation over in-plane flips, at four times the cost.
            progress: called with the share done, 0 to 1.

        Raises:
            NothingToDoError: the scan has the spacing already.
            VolumeError: several channels, not finite, or too thin.
            ModelError: the scan is far outside the model's range.
            ConfigError: an unusable target spacing, or too little memory allowed.
            SRCycError: preprocessing or the network failed.
        """
        start = time.perf_counter()
        tell = progress or (lambda share: None)
        _check(volume)
        plan = Plan.of(volume, target_spacing, self.model.card, force=force)
        tell(0.0)
        prepared, steps = _prepare(volume, n4=n4, smooth=denoise)
        if float(np.ptp(prepared.data)) == 0.0:
            outcome = _constant(float(prepared.data.flat[0]), plan)
        else:
            outcome = self._compute(prepared.data[0], plan, consistency, uncertainty, tell)
        result = replace(
            volume, data=outcome.data[None], affine=plan.target.affine, slice_thickness=None, source=None
        )
        spread = None
        if uncertainty:
            data = np.zeros_like(outcome.data) if outcome.spread is None else outcome.spread
            spread = replace(result, data=data[None], stored_dtype=np.dtype(np.float32))
        report = Report(
            software=f"srcyc {__version__}",
            model=ModelReport(
                name=self.model.card.name, sha256=self.model.sha256, licence=self.model.card.licence
            ),
            input=describe_input(volume),
            result=ResultReport(shape=result.shape, spacing=result.spacing),
            thick_axis=plan.order[2],  # type: ignore[arg-type]
            factor=plan.factor,
            thickness_ratio=plan.thickness_ratio,
            scaling=None if outcome.scaling is None else ScalingReport.of(outcome.scaling),
            sigma=outcome.sigma,
            projection_gain=outcome.gain,
            consistency=outcome.consistency,
            preprocessing=steps,
            device=str(self.device),
            precision=precision_name(self.dtype),
            seconds=round(time.perf_counter() - start, 3),
            peak_memory=peak_memory(),
            warnings=plan.warnings,
        )
        tell(1.0)
        return SuperResolution(result, report, spread)

    @torch.inference_mode()
    def _compute(
        self, scan: npt.NDArray[np.float32], plan: Plan, consistency: bool, uncertainty: bool, tell: Progress
    ) -> _Outcome:
        """Do the work on ``scan`` ``(I, J, K)`` in the order of its file."""
        network = self.model.network
        worked = _to_working_order(scan, plan)
        scaling = robust_scaling(worked)
        y = torch.from_numpy(np.ascontiguousarray(scaling.normalise(worked)))
        sigma = estimate_noise(y[None, None], 3, ignore_empty=True)
        x = network.upscale(y[None, None], plan.fine_shape)[0, 0]
        folded = network.folded(plan.factor, plan.told_thickness)
        refiner = Refiner(SlabNetwork(folded, self.device, self.dtype), self._max_memory, self._tile)

        def correction(flip: tuple[int, ...], done: int) -> tuple[Tensor, float]:
            passes = len(_FLIPS) if uncertainty else 1
            share = (_NETWORK_ENDS - _NETWORK_STARTS) / passes

            def within(part: float) -> None:
                tell(_NETWORK_STARTS + share * (done + part))

            residual = refiner.residual(x.flip(flip) if flip else x, progress=within)
            norm = torch.tensor([squared_norm(residual) ** 0.5])
            gain = network.projection_gain(norm, sigma, residual.numel())
            return (residual.mul_(gain).flip(flip) if flip else residual.mul_(gain)), float(gain)

        first, gain = correction(_FLIPS[0], 0)
        spread = None
        if uncertainty:
            others = (correction(flip, done)[0] for done, flip in enumerate(_FLIPS[1:], 1))
            spread = _standard_deviation(first, others).mul_(scaling.scale)
        x -= first
        del first
        if network.clip is not None:
            x.clamp_(*network.clip)
        operator = SlabAcquisition(plan.fine_shape, plan.scan_shape, plan.thickness_ratio)
        tolerance = NOISE_TOLERANCE * float(sigma)
        if consistency:
            before, after = operator.correct_(x, y, tolerance)
        else:
            before = after = operator.residual(x, y)
        tell(0.98)
        # In place: what IntensityScaling.invert does, without its two copies.
        x.mul_(scaling.scale).add_(scaling.offset)
        return _Outcome(
            _to_file_order(x, plan),
            scaling,
            float(sigma),
            gain,
            ConsistencyReport(applied=consistency, tolerance=tolerance, before=before, after=after),
            None if spread is None else _to_file_order(spread, plan),
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """What a scan asks of the model.

    Attributes:
        target: the output grid, axes in the scan's order.
        order: working axis order, slice axis last.
        flips: working axes that are turned round, so that all run towards R, A, S.
        scan_shape: of the scan, working order.
        fine_shape: of the output, working order.
        factor: by how much the slice axis is enlarged.
        thickness_ratio: slice thickness over slice spacing.
        warnings: where the model is not at home.
    """

    target: Grid
    order: tuple[int, int, int]
    flips: tuple[int, ...]
    scan_shape: tuple[int, int, int]
    fine_shape: tuple[int, int, int]
    factor: float
    thickness_ratio: float
    warnings: tuple[str, ...]

    @property
    def told_thickness(self) -> float:
        """The thickness ratio that the network is told: it knows gaps, but no overlap."""
        return min(TRAINED_THICKNESS[1], self.thickness_ratio)

    @classmethod
    def of(cls, volume: Volume, target_spacing: TargetSpacing, card: ModelCard, *, force: bool) -> Plan:
        """Lay out the work on one scan.

        Raises:
            NothingToDoError: there is none.
            ModelError: far outside the card's ranges, and not forced.
            VolumeError: the output would be too thin for the network.
        """
        grid = volume.grid
        target = target_grid(grid, target_spacing, finest=card.spacing_range[0])
        order = working_order(grid)
        scan, fine = grid.permuted(order), target.permuted(order)
        if min(fine.shape) < SMALLEST_AXIS:
            size = " x ".join(map(str, grid.shape))
            raise VolumeError(
                f"{_name(volume)}: {size} voxels; the network needs at least {SMALLEST_AXIS} along each axis of its "
                "output, give a larger part of the scan."
            )
        factor = fine.shape[2] / scan.shape[2]
        ratio, warnings = _thickness_ratio(volume.slice_thickness, scan.spacing[2])
        in_plane = max(fine.shape[0] / scan.shape[0], fine.shape[1] / scan.shape[1])
        if in_plane > _IN_PLANE:
            warnings.append(
                f"voxels within slices are made {in_plane:.3g} times smaller too; the model was trained to restore "
                "the slice axis only."
            )
        for what, far in [*_factor_distance(factor, card), *_spacing_distance(fine.spacing, card)]:
            if far and not force:
                raise ModelError(
                    f"{_name(volume)}: {what} is far outside what model {card.name!r} was trained for; choose another "
                    "target spacing or model, or force it."
                )
            warnings.append(
                f"{what} is outside what model {card.name!r} was trained for; look at the result closely."
            )
        return cls(target, order, working_flips(scan), scan.shape, fine.shape, factor, ratio, tuple(warnings))


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Voxels in the scan's axis order and units, and what the report needs."""

    data: npt.NDArray[np.float32]
    scaling: IntensityScaling | None
    sigma: float
    gain: float
    consistency: ConsistencyReport
    spread: npt.NDArray[np.float32] | None = None


def _name(volume: Volume) -> str:
    return str(volume.source or "volume")


def _check(volume: Volume) -> None:
    if volume.data.shape[0] != 1:
        raise VolumeError(f"{_name(volume)}: {volume.data.shape[0]} channels; give a grey-scale volume.")
    if min(volume.shape) < 2:
        size = " x ".join(map(str, volume.shape))
        raise VolumeError(f"{_name(volume)}: {size} voxels; give a volume of at least 2 along each axis.")
    if not np.isfinite(volume.data).all():
        raise VolumeError(f"{_name(volume)}: NaN or infinite voxels; replace them first.")


def _prepare(volume: Volume, *, n4: bool, smooth: bool) -> tuple[Volume, tuple[str, ...]]:
    steps: list[tuple[str, Callable[[Volume], Volume]]] = []
    if n4:
        steps.append(("N4 bias field correction", correct_bias_field))
    if smooth:
        steps.append(("curvature flow denoising", denoise))
    if float(np.ptp(volume.data)) == 0.0:
        # Nothing to correct, and ITK finds no foreground.
        steps = []
    for _, step in steps:
        volume = step(volume)
    return volume, tuple(name for name, _ in steps)


def _thickness_ratio(thickness: float | None, spacing: float) -> tuple[float, list[str]]:
    """Give slice thickness over slice spacing, 1 if unknown, and what is unusual about it."""
    if thickness is None or not thickness > 0:
        return 1.0, []
    ratio = thickness / spacing
    low, high = TRAINED_THICKNESS
    warnings = []
    # Headers round: a 1 % overlap is none.
    if ratio > high + 0.01:
        warnings.append(
            f"slices overlap: {thickness:.4g} mm thick, {spacing:.4g} mm apart; the model was trained without overlap."
        )
    if ratio < low - 0.01:
        warnings.append(
            f"slices have wide gaps: {thickness:.4g} mm thick, {spacing:.4g} mm apart; what lies between is a guess."
        )
    return min(ratio, _LARGEST_THICKNESS), warnings


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
    data = np.full(plan.target.shape, value, dtype=np.float32)
    return _Outcome(
        data, None, 0.0, 1.0, ConsistencyReport(applied=False, tolerance=0.0, before=0.0, after=0.0)
    )


def _standard_deviation(first: Tensor, others: Iterable[Tensor]) -> Tensor:
    """Population standard deviation over volumes that come one by one (Welford 1962)."""
    mean, squares = first.clone(), torch.zeros_like(first)
    for count, value in enumerate(others, 2):
        delta = value - mean
        mean += delta / count
        squares += delta.mul_(value - mean)
    return squares.div_(len(_FLIPS)).sqrt_()


def _to_working_order(scan: npt.NDArray[np.float32], plan: Plan) -> npt.NDArray[np.float32]:
    """Give a view in which every scan of a head lies alike: how a file stores it must not change the result."""
    return np.flip(scan.transpose(plan.order), plan.flips)


def _to_file_order(x: Tensor, plan: Plan) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(np.flip(x.numpy(), plan.flips).transpose(inverse_order(plan.order)))
