"""Watching the networks on held-back persons: simulated thick slices with a truth, and real thick scans without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from srcyc.config import ValidationConfig
from srcyc.data.store import TrainingScan
from srcyc.enhancement import Enhanced, enhance
from srcyc.errors import ConfigError, extra
from srcyc.evaluation.lpips import LPIPS
from srcyc.evaluation.metrics import Quality, Truth
from srcyc.networks import DegradationNet, Generator
from srcyc.physics.acquisition import AxisAcquisition, relative_residual
from srcyc.physics.resampling import apply_along, resample
from srcyc.volumes.geometry import Grid
from srcyc.volumes.intensity import FOREGROUND

with extra("evaluate"):
    import skimage  # noqa: F401 - the metrics need it, which shall not turn out after an hour

Image = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

#: Fewest slices that are worth bringing back.
_LEAST_SLICES = 3
#: Pictures shown, each of another scan as far as there are as many.
_PICTURES = 3
#: What to do when a metric cannot be judged, by metric.
_REMEDIES = {
    "psnr": "hold back a person with thin-slice scans (data.held_back), thinner than validation.thicknesses",
    "ssim": "hold back a person whose thin-slice scans have at least 11 voxels along each axis (data.held_back)",
    "lpips": "set validation.lpips to a weight file, and hold back a person with thin-slice scans",
    "cycle": "hold back a person with thick-slice scans, and choose a mode with G_LR",
}


@dataclass(frozen=True)
class Case:
    """A central crop of one held-back scan.

    Attributes:
        name: scan, and thickness if simulated.
        scan: what it is cut from.
        along: axis of ``scan.image`` that is (made) the thick one; it comes last in all that follows.
        start: first voxel of the crop.
        thick: ``(I, J, S)``, shape of the thick-slice crop.
        fine: ``(I, J, K)``, shape it is brought to, over the same field of view.
        simulated: whether the thick slices are simulated from the scan, which then is the truth; else they are its own.
    """

    name: str
    scan: TrainingScan
    along: int
    start: Shape
    thick: Shape
    fine: Shape
    simulated: bool

    @property
    def axis(self) -> AxisAcquisition:
        """The operator along the thick axis."""
        ratio = 1.0 if self.simulated else round(self.scan.thickness_ratio, 2)
        return AxisAcquisition.of(self.fine[2], self.thick[2], ratio)

    @property
    def factor(self) -> float:
        """Thick spacing over fine spacing."""
        return self.axis.factor

    @property
    def grid(self) -> Grid:
        """Where the fine crop lies in the world."""
        whole = self.scan.grid.permuted(_last(self.along))
        return whole.cropped(self.start, self.fine if self.simulated else self.thick).resized(self.fine)

    def truth(self) -> Tensor:
        """Give the fine crop of a simulated case, ``(1, 1, I, J, K)``, normalised intensity."""
        return self._crop(self.fine)

    def measured(self) -> Tensor:
        """Give the thick crop, ``(1, 1, I, J, S)``, normalised intensity."""
        return apply_along(self.truth(), self.axis.matrix, -1) if self.simulated else self._crop(self.thick)

    def _crop(self, shape: Shape) -> Tensor:
        box = tuple(slice(b, b + n) for b, n in zip(self.start, shape, strict=True))
        image = self.scan.image.transpose(_last(self.along))
        # The scan may be a read-only memory map, which a tensor must not share.
        return torch.from_numpy(np.array(image[box], dtype=np.float32))[None, None]


def _last(axis: int) -> tuple[int, int, int]:
    """Give the order of axes with one of them last."""
    i, j = (other for other in range(3) if other != axis)
    return i, j, axis


@dataclass(frozen=True)
class Score:
    """Means over the cases; None where nothing could be measured.

    PSNR, SSIM and LPIPS are of slices simulated from held-back HR scans (:class:`srcyc.evaluation.metrics.Truth`), each
    beside cubic B-spline interpolation's and the classical inverse's (:mod:`srcyc.physics.acquisition`).

    Attributes:
        psnr: dB.
        cubic_psnr: dB.
        classical_psnr: dB.
        ssim: 3D.
        cubic_ssim: the same.
        classical_ssim: the same.
        lpips: less is better.
        cubic_lpips: the same.
        classical_lpips: the same.
        cycle: forward-cycle error ``mean |G_LR(G_HR(y)) - y|`` on held-back LR scans y, normalised intensity.
        correction: ``||delta|| / ||y||`` on the same: by how much G_HR corrects the slices themselves.
    """

    psnr: float | None = None
    cubic_psnr: float | None = None
    classical_psnr: float | None = None
    ssim: float | None = None
    cubic_ssim: float | None = None
    classical_ssim: float | None = None
    lpips: float | None = None
    cubic_lpips: float | None = None
    classical_lpips: float | None = None
    cycle: float | None = None
    correction: float | None = None

    def key(self, metric: str) -> float:
        """Give what a model is chosen by, larger is better.

        Args:
            metric: ``"psnr"`` (dB), ``"ssim"`` or ``"lpips"``: by how much the network is better than the classical
                inverse, which needs none; ``"cycle"``: the negated forward-cycle error.

        Raises:
            ConfigError: it was not measured, or there is no such metric.
        """
        if metric not in _REMEDIES:
            raise ConfigError(f"validation.key_metric {metric!r}: use one of {', '.join(_REMEDIES)}.")
        own: float | None = getattr(self, metric)
        baseline: float | None = 0.0 if metric == "cycle" else getattr(self, f"classical_{metric}")
        if own is None or baseline is None:
            raise ConfigError(
                f"validation.key_metric {metric} cannot be measured on the held-back scans",
                remedy=f"{_REMEDIES[metric]}, or choose another key_metric",
            )
        return own - baseline if metric in ("psnr", "ssim") else baseline - own

    def as_row(self) -> dict[str, float]:
        """Give what was measured by name, as in ``history.csv``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, eq=False)
class Picture:
    """A case to look at; arrays ``(I, J, K)`` on one grid, normalised intensity.

    Attributes:
        name: of the case.
        interpolated: cubic B-spline.
        classical: the classical inverse.
        sr: the network's.
        truth: what was scanned.
        grid: where the voxels lie, thick axis last.
    """

    name: str
    interpolated: Image
    classical: Image
    sr: Image
    truth: Image
    grid: Grid


class Validator:
    """Scores G_HR, and G_LR with it, on central crops of held-back scans.

    Crops are read when they are needed, so that many scans take no memory.

    Args:
        hr: thin-slice scans of held-back persons, to simulate thick slices from.
        lr: thick-slice scans of held-back persons.
        config: thicknesses, crop, LPIPS weights.
        device: where the networks are.

    Raises:
        ModelError: the LPIPS weights cannot be read.
        SRCycError: LPIPS is asked for and cannot be had.
    """

    def __init__(
        self,
        hr: Sequence[TrainingScan],
        lr: Sequence[TrainingScan],
        config: ValidationConfig,
        device: torch.device,
    ) -> None:
        self.simulated = [case for scan in hr for case in simulated_cases(scan, config)]
        self.real = [case for scan in lr for case in real_cases(scan, config)]
        self.device = device
        self._lpips = LPIPS(config.lpips, device) if config.lpips and self.simulated else None
        #: Quality of every simulated case, by method: the network last scored ("own"), and what it is compared with.
        self.qualities: dict[str, list[Quality]] = {}
        self._shown = _shown(self.simulated)
        self._seen: dict[int, Tensor] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to judge by."""
        return bool(self.simulated or self.real)

    def score(self, g_hr: Generator, g_lr: DegradationNet | None = None) -> Score:
        """Score the networks in fp32; they are left in the mode (training or not) in which they came.

        Args:
            g_hr: thick -> fine.
            g_lr: fine -> thick; without it there is no forward-cycle error.
        """
        if not self.qualities:
            # What the networks are compared with never changes.
            self.qualities = {
                name: [self._quality(method(case), Truth(_array(case.truth()))) for case in self.simulated]
                for name, method in (("cubic", cubic), ("classical", classical))
            }
        with _judged(self.device, g_hr, g_lr):
            own: list[Quality] = []
            for number, case in enumerate(self.simulated):
                image = self._enhanced(g_hr, case).image
                own.append(self._quality(image, Truth(_array(case.truth()))))
                if number in self._shown:
                    self._seen[number] = image
            self.qualities["own"] = own
            cycles, corrections = [], []
            for case in self.real:
                measured = case.measured()
                fine, delta = self._enhanced(g_hr, case)
                if delta is not None:
                    corrections.append(relative_residual(measured + delta.cpu(), measured))
                if g_lr is not None:
                    ratio = case.axis.thickness_ratio
                    again = g_lr(fine.to(self.device), size=case.thick, thickness_ratio=ratio).cpu()
                    cycles.append(float((again - measured).abs().mean(dtype=torch.float64)))
        means: dict[str, float | None] = {}
        for name, qualities in self.qualities.items():
            for metric in ("psnr", "ssim", "lpips"):
                key = metric if name == "own" else f"{name}_{metric}"
                means[key] = _mean(getattr(quality, metric) for quality in qualities)
        return Score(**means, cycle=_mean(cycles), correction=_mean(corrections))

    def pictures(self, g_hr: Generator | None = None) -> list[Picture]:
        """Give a few simulated cases to be looked at: the thickest slices of different scans.

        Args:
            g_hr: super-resolves them; None: as :meth:`score` has just seen them.
        """
        shown = self._seen
        if g_hr is not None:
            with _judged(self.device, g_hr):
                shown = {n: self._enhanced(g_hr, self.simulated[n]).image for n in self._shown}
        pictures = []
        for number, image in shown.items():
            case = self.simulated[number]
            interpolated, inverse, sr, truth = map(
                _array, (cubic(case), classical(case), image, case.truth())
            )
            pictures.append(Picture(case.name, interpolated, inverse, sr, truth, case.grid))
        return pictures

    def _enhanced(self, g_hr: Generator, case: Case) -> Enhanced:
        image, delta = enhance(g_hr, case.measured().to(self.device), [case.axis])[0]
        return Enhanced(image.cpu(), delta)

    def _quality(self, image: Tensor, truth: Truth) -> Quality:
        return truth.quality(_array(image), self._lpips)


def cubic(case: Case) -> Tensor:
    """Interpolate a case's slices by cubic B-spline, ``(1, 1, I, J, K)``."""
    return resample(case.measured(), case.fine, "cubic")


def classical(case: Case) -> Tensor:
    """Give the classical inverse of a case's slices, ``(1, 1, I, J, K)``."""
    return apply_along(case.measured(), case.axis.upscaling, -1)


def simulated_cases(scan: TrainingScan, config: ValidationConfig) -> list[Case]:
    """Give the central crop of an HR scan at each thickness; what would not enlarge, or is all air, is left out."""
    along = scan.thin_axes[-1]
    i, j, k = (min(config.crop, scan.image.shape[axis]) for axis in _last(along))
    start = _central(scan, along, (i, j, k))
    spacing = scan.spacing[along]
    cases = []
    for thickness in config.thicknesses:
        slices = int(k * spacing / thickness)
        fine = min(k, round(slices * thickness / spacing))
        if slices < _LEAST_SLICES or fine <= slices:
            continue
        name = f"{scan.name} at {thickness:g} mm"
        case = Case(name, scan, along, start, (i, j, slices), (i, j, fine), True)
        if bool((case.truth() > FOREGROUND).any()):
            cases.append(case)
    return cases


def real_cases(scan: TrainingScan, config: ValidationConfig) -> list[Case]:
    """Give the central crop of an LR scan whose upscaled slices are about as many as the crop is wide."""
    i, j = (min(config.crop, n) for n in scan.image.shape[:2])
    most = max(_LEAST_SLICES, round(config.crop / scan.factor))
    slices = min(most, scan.image.shape[2])
    fine = round(slices * scan.factor)
    if fine <= slices:
        return []
    start = _central(scan, 2, (i, j, slices))
    return [Case(scan.name, scan, 2, start, (i, j, slices), (i, j, fine), False)]


def _shown(cases: Sequence[Case]) -> list[int]:
    """Choose the cases to be looked at: the thickest slices of the first few scans."""
    thickest: dict[int, int] = {}
    for number, case in enumerate(cases):
        other = thickest.setdefault(id(case.scan), number)
        if case.factor > cases[other].factor:
            thickest[id(case.scan)] = number
    return list(thickest.values())[:_PICTURES]


def _central(scan: TrainingScan, along: int, size: Shape) -> Shape:
    i, j, k = ((scan.image.shape[axis] - s) // 2 for axis, s in zip(_last(along), size, strict=True))
    return i, j, k


def _array(image: Tensor) -> Image:
    array: Image = image[0, 0].numpy()
    return array


@contextmanager
def _judged(device: torch.device, *networks: nn.Module | None) -> Iterator[None]:
    """Put networks into eval mode, without gradients and mixed precision, and back into the mode they were in."""
    modules = [module for network in networks if network is not None for module in network.modules()]
    before = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, training in before:
            module.training = training


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
