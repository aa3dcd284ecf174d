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

from srcyc.acquisition import Acquisition
from srcyc.config import ValidationConfig
from srcyc.data.store import TrainingScan
from srcyc.errors import ConfigError
from srcyc.evaluation.lpips import LPIPS
from srcyc.evaluation.metrics import SSIM_WINDOW, psnr, ssim
from srcyc.geometry import Grid
from srcyc.intensity import FOREGROUND
from srcyc.networks import DegradationNet, SRResDNet
from srcyc.resampling import resample

Image = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

#: Fewest slices that are worth bringing back.
_LEAST_SLICES = 3
#: Pictures shown, each of another scan as far as there are as many.
_PICTURES = 3
#: Normalised intensity: the scan's robust range.
_PEAK = 1.0
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
        start: first voxel of the crop, of ``scan.image``.
        thick: ``(I, J, k)``, shape of the thick-slice crop.
        fine: ``(I, J, K)``, shape it is brought to, over the same field of view.
        simulated: whether the thick slices are simulated from the scan, which then is the truth; else they are its own.
    """

    name: str
    scan: TrainingScan
    start: Shape
    thick: Shape
    fine: Shape
    simulated: bool

    @property
    def factor(self) -> float:
        """Thick spacing over fine spacing."""
        return self.fine[2] / self.thick[2]

    @property
    def acquisition(self) -> Acquisition:
        """From the fine to the thick crop."""
        return Acquisition(self.fine, self.thick)

    @property
    def grid(self) -> Grid:
        """Where the fine crop lies in the world."""
        affine = self.scan.grid.affine.copy()
        affine[:3, 3] = self.scan.grid.index_to_world(self.start)
        return Grid(self.fine if self.simulated else self.thick, affine).resized(self.fine)

    def truth(self) -> Tensor:
        """Give the fine crop of a simulated case, ``(1, 1, I, J, K)``, normalised intensity."""
        return self._crop(self.fine)

    def measured(self) -> Tensor:
        """Give the thick crop, ``(1, 1, I, J, k)``, normalised intensity."""
        return self.acquisition.apply(self.truth()) if self.simulated else self._crop(self.thick)

    def _crop(self, shape: Shape) -> Tensor:
        box = tuple(slice(b, b + n) for b, n in zip(self.start, shape, strict=True))
        # The scan may be a read-only memory map, which a tensor must not share.
        return torch.from_numpy(np.array(self.scan.image[box], dtype=np.float32))[None, None]


@dataclass(frozen=True)
class Score:
    """Means over the cases; None where nothing could be measured.

    PSNR, SSIM and LPIPS are of slices simulated from held-back HR scans, over the foreground, data range 1 (the scan's
    robust range), each beside cubic B-spline interpolation's on the same cases.

    Attributes:
        psnr: dB.
        cubic_psnr: dB.
        ssim: 3D (:func:`srcyc.evaluation.metrics.ssim`).
        cubic_ssim: the same.
        lpips: :class:`srcyc.evaluation.lpips.LPIPS`; less is better.
        cubic_lpips: the same.
        cycle: forward-cycle error ``mean |G_LR(G_HR(y)) - y|`` on held-back LR scans y, normalised intensity.
        consistency: ``||A G_HR(y) - y|| / ||y||`` on the same, A being :class:`srcyc.acquisition.Acquisition`.
    """

    psnr: float | None = None
    cubic_psnr: float | None = None
    ssim: float | None = None
    cubic_ssim: float | None = None
    lpips: float | None = None
    cubic_lpips: float | None = None
    cycle: float | None = None
    consistency: float | None = None

    def key(self, metric: str) -> float:
        """Give what a model is chosen by, larger is better.

        Args:
            metric: ``"psnr"`` (dB), ``"ssim"`` or ``"lpips"``: by how much the network is better than cubic
                interpolation; ``"cycle"``: the negated forward-cycle error.

        Raises:
            ConfigError: it was not measured, or there is no such metric.
        """
        if metric not in _REMEDIES:
            raise ConfigError(f"validation.key_metric {metric!r}: use one of {', '.join(_REMEDIES)}.")
        own: float | None = getattr(self, metric)
        cubic: float | None = 0.0 if metric == "cycle" else getattr(self, f"cubic_{metric}")
        if own is None or cubic is None:
            raise ConfigError(
                f"validation.key_metric {metric} cannot be measured on the held-back scans: {_REMEDIES[metric]}, or "
                "choose another key_metric."
            )
        return own - cubic if metric in ("psnr", "ssim") else cubic - own

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
        sr: the network's.
        truth: what was scanned.
        grid: where the voxels lie, thick axis last.
    """

    name: str
    interpolated: Image
    sr: Image
    truth: Image
    grid: Grid


@dataclass(frozen=True)
class _Quality:
    psnr: float
    ssim: float | None
    lpips: float | None


class Validator:
    """Scores G_HR, and G_LR with it, on central crops of held-back scans.

    Crops are read when they are needed, so that many scans take no memory.

    Args:
        hr: thin-slice scans of held-back persons, to simulate thick slices from.
        lr: thick-slice scans of held-back persons.
        config: thicknesses, crop, LPIPS weights.
        network: tells how images are upscaled before they are refined; not kept.
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
        network: SRResDNet,
        device: torch.device,
    ) -> None:
        self.simulated = [case for scan in hr for case in simulated_cases(scan, config)]
        self.real = [case for scan in lr for case in real_cases(scan, config)]
        self.device = device
        self._interpolation = network.interpolation
        self._lpips = LPIPS(config.lpips, device) if config.lpips and self.simulated else None
        self._cubic: list[_Quality] = []
        self._shown = _shown(self.simulated)
        self._seen: tuple[list[tuple[Tensor, int]], dict[int, Tensor]] = ([], {})

    @property
    def cases(self) -> list[Case]:
        """All cases, the simulated ones first."""
        return [*self.simulated, *self.real]

    def __bool__(self) -> bool:
        """Whether there is anything to judge by."""
        return bool(self.simulated or self.real)

    def score(self, g_hr: SRResDNet, g_lr: DegradationNet | None = None) -> Score:
        """Score the networks in fp32; they are left in the mode (training or not) in which they came.

        Args:
            g_hr: thick -> fine.
            g_lr: fine -> thick; without it there is no forward-cycle error.
        """
        if not self._cubic:
            # What the networks are compared with never changes.
            for case in self.simulated:
                truth = case.truth()
                cubic = resample(case.measured(), case.fine, "cubic")
                self._cubic.append(self._quality(cubic, truth))
        with _judged(self.device, g_hr, g_lr):
            own: list[_Quality] = []
            seen: dict[int, Tensor] = {}
            for number, case in enumerate(self.simulated):
                image = self._super_resolved(g_hr, case)
                own.append(self._quality(image, case.truth()))
                if number in self._shown:
                    seen[number] = image
            self._seen = (_state(g_hr), seen)
            cycles, residuals = [], []
            for case in self.real:
                measured = case.measured()
                fine = self._super_resolved(g_hr, case)
                residuals.append(case.acquisition.residual(fine, measured))
                if g_lr is not None:
                    again = g_lr(fine.to(self.device), size=case.thick).cpu()
                    cycles.append(float((again - measured).abs().mean(dtype=torch.float64)))
        return Score(
            psnr=_mean(q.psnr for q in own),
            cubic_psnr=_mean(q.psnr for q in self._cubic),
            ssim=_mean(q.ssim for q in own),
            cubic_ssim=_mean(q.ssim for q in self._cubic),
            lpips=_mean(q.lpips for q in own),
            cubic_lpips=_mean(q.lpips for q in self._cubic),
            cycle=_mean(cycles),
            consistency=_mean(residuals),
        )

    def pictures(self, g_hr: SRResDNet) -> list[Picture]:
        """Super-resolve a few simulated cases to be looked at: the thickest slices of different scans.

        What :meth:`score` has just super-resolved with the same weights is not computed again.
        """
        state, seen = self._seen
        pictures = []
        with _judged(self.device, g_hr):
            for number in self._shown:
                case = self.simulated[number]
                known = seen.get(number) if _unchanged(state, _state(g_hr)) else None
                images = (
                    resample(case.measured(), case.fine, "cubic"),
                    self._super_resolved(g_hr, case) if known is None else known,
                    case.truth(),
                )
                interpolated, sr, truth = (image[0, 0].numpy() for image in images)
                pictures.append(Picture(case.name, interpolated, sr, truth, case.grid))
        return pictures

    def _super_resolved(self, g_hr: SRResDNet, case: Case) -> Tensor:
        upscaled = resample(case.measured(), case.fine, self._interpolation)
        sigma = torch.tensor([case.scan.sigma], dtype=torch.float32)
        return g_hr.refine(upscaled.to(self.device), factor=case.factor, sigma=sigma.to(self.device)).cpu()

    def _quality(self, image: Tensor, truth: Tensor) -> _Quality:
        x, y = image[0, 0].numpy(), truth[0, 0].numpy()
        mask = y > FOREGROUND
        structural = perceptual = None
        if min(y.shape) >= SSIM_WINDOW:
            structural = ssim(x, y, mask, _PEAK)
        if self._lpips is not None and self._lpips.fits(y.shape):
            perceptual = self._lpips(x, y, mask, _PEAK)
        return _Quality(psnr(x, y, mask, _PEAK), structural, perceptual)


def simulated_cases(scan: TrainingScan, config: ValidationConfig) -> list[Case]:
    """Give the central crop of an HR scan at each thickness; what would not enlarge, or is all air, is left out."""
    i, j, k = (min(config.crop, n) for n in scan.image.shape)
    start = _central(scan, (i, j, k))
    cases = []
    for thickness in config.thicknesses:
        slices = int(k * scan.spacing[2] / thickness)
        fine = min(k, round(slices * thickness / scan.spacing[2]))
        if slices < _LEAST_SLICES or fine <= slices:
            continue
        case = Case(f"{scan.name} at {thickness:g} mm", scan, start, (i, j, slices), (i, j, fine), True)
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
    start = _central(scan, (i, j, slices))
    return [Case(scan.name, scan, start, (i, j, slices), (i, j, fine), False)]


def _shown(cases: Sequence[Case]) -> list[int]:
    """Choose the cases to be looked at: the thickest slices of the first few scans."""
    thickest: dict[int, int] = {}
    for number, case in enumerate(cases):
        other = thickest.setdefault(id(case.scan), number)
        if case.factor > cases[other].factor:
            thickest[id(case.scan)] = number
    return list(thickest.values())[:_PICTURES]


def _state(network: nn.Module) -> list[tuple[Tensor, int]]:
    """Give the weights and PyTorch's count of the changes of each."""
    return [(tensor, tensor._version) for tensor in (*network.parameters(), *network.buffers())]


def _unchanged(before: Sequence[tuple[Tensor, int]], now: Sequence[tuple[Tensor, int]]) -> bool:
    return len(before) == len(now) and all(
        a is b and m == n for (a, m), (b, n) in zip(before, now, strict=True)
    )


def _central(scan: TrainingScan, size: Shape) -> Shape:
    i, j, k = ((n - s) // 2 for n, s in zip(scan.image.shape, size, strict=True))
    return i, j, k


@contextmanager
def _judged(device: torch.device, *networks: nn.Module | None) -> Iterator[None]:
    """Put networks into eval mode, without gradients and mixed precision, and back into the mode they were in."""
    modules = [module for network in networks if network is not None for module in network.modules()]
    before = [module.training for module in modules]
    try:
        for network in networks:
            if network is not None:
                network.eval()
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
