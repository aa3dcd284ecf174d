"""Training batches: patches drawn from scans, each step by its own seed, so that resuming repeats nothing.

Batch ``s`` depends on the data, the configuration, the run's seed and ``s`` alone. A resumed run therefore sees the
batches it would have seen, without any random state to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from srcyc.acquisition import Acquisition
from srcyc.config import PatchConfig
from srcyc.data.augmentation import ContrastCurve, draw_contrast, draw_orientation, orient
from srcyc.errors import DataError
from srcyc.geometry import working_order
from srcyc.intensity import FOREGROUND, robust_scaling
from srcyc.noise import estimate_noise
from srcyc.resampling import Interpolation, resample
from srcyc.volume import read_volume

Array = npt.NDArray[np.float32]

#: A patch is redrawn this many times at most until this share of it is not background.
_DRAWS, _LEAST_FOREGROUND = 12, 0.25
#: Slices simulated beyond either end of a patch, so that its ends are not patch borders.
_CONTEXT_SLICES = 2


@dataclass(frozen=True)
class TrainingScan:
    """A scan ready for drawing patches.

    Attributes:
        name: file name.
        image: ``(I, J, K)`` normalised intensity, thick axis last.
        spacing: mm per axis of ``image``.
        sigma: noise standard deviation, normalised intensity.
    """

    name: str
    image: Array
    spacing: tuple[float, float, float]
    sigma: float

    @property
    def factor(self) -> float:
        """Thick spacing over in-plane spacing."""
        return self.spacing[2] / min(self.spacing)


@dataclass(frozen=True)
class SimulatedBatch:
    """HR patches and what a simulated thick-slice scan of them upscales to.

    Attributes:
        upscaled: ``(B, 1, I, J, K)`` normalised intensity, thick axis last.
        truth: the same shape.
        factor: of this batch.
        thickness_ratio: slice thickness over slice spacing of this batch.
        sigma: ``(B,)`` noise standard deviation.
    """

    upscaled: Tensor
    truth: Tensor
    factor: float
    thickness_ratio: float
    sigma: Tensor


@dataclass(frozen=True)
class UnpairedBatch:
    """Patches of unrelated scans: real LR ones, and HR ones to be degraded to the same shape.

    Attributes:
        real_lr: ``(B, 1, I, J, k)`` normalised intensity, thick axis last.
        real_hr: ``(B, 1, I, J, K)``, over the same field of view in voxels.
        factor: ``K / k``, that of the LR scans.
        sigma_lr: ``(B,)`` noise of the LR scans.
        sigma_hr: ``(B,)`` noise of the HR scans.
    """

    real_lr: Tensor
    real_hr: Tensor
    factor: float
    sigma_lr: Tensor
    sigma_hr: Tensor


def load_training_scan(path: Path) -> TrainingScan:
    """Read and normalise one scan, thick axis last.

    Raises:
        VolumeError: the scan cannot be read.
    """
    volume = read_volume(path)
    order = working_order(volume.grid)
    grid = volume.grid.permuted(order)
    scaling = robust_scaling(volume.data)
    image = np.ascontiguousarray(scaling.normalise(volume.data[0].transpose(order)))
    sigma = float(estimate_noise(torch.from_numpy(image)[None, None], 3, ignore_empty=True))
    return TrainingScan(path.name, image, grid.spacing, sigma)


def draw_patch(rng: np.random.Generator, image: Array, size: Sequence[int]) -> Array:
    """Draw a patch that is not mostly background; ``(I, J, K)`` -> ``(1, *size)``."""
    patch = image[:0]
    for _ in range(_DRAWS):
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(image.shape, size, strict=True)]
        patch = image[tuple(slice(b, b + s) for b, s in zip(start, size, strict=True))]
        if (patch > FOREGROUND).mean() >= _LEAST_FOREGROUND:
            break
    return patch[None]


def _draw_index(rng: np.random.Generator, scans: Sequence[TrainingScan]) -> TrainingScan:
    return scans[int(rng.integers(0, len(scans)))]


def _stack(patches: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.stack(patches))


def check_sizes(scans: Sequence[TrainingScan], config: PatchConfig, *, lr: bool) -> None:
    """Refuse scans that no patch fits into.

    Raises:
        DataError: names the scan, its size and the size needed.
    """
    for scan in scans:
        thick = config.least_slices if lr else config.size
        need = (config.size, config.size, thick)
        if any(n < s for n, s in zip(scan.image.shape, need, strict=True)):
            raise DataError(
                f"{scan.name}: {' x '.join(map(str, scan.image.shape))} voxels is smaller than a training patch of "
                f"{' x '.join(map(str, need))}; leave the scan out or set data.size to a smaller patch."
            )


class SimulatedPatches(Dataset[SimulatedBatch]):
    """Simulated acquisitions of HR scans, one batch per step.

    Args:
        scans: HR scans; any axis may be made the thick one, since they are thin on all.
        config: patch size, factors, augmentation.
        interpolation: how the network upscales.
        seed: of the run.
        steps: length.
    """

    def __init__(
        self,
        scans: Sequence[TrainingScan],
        config: PatchConfig,
        interpolation: Interpolation,
        seed: int,
        steps: int,
    ) -> None:
        self.scans = scans
        self.config = config
        self.interpolation: Interpolation = interpolation
        self.seed = seed
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> SimulatedBatch:
        rng = np.random.default_rng([self.seed, step])
        config = self.config
        factor = float(np.exp(rng.uniform(*np.log(config.factor_range))))
        ratio = float(rng.uniform(*config.thickness_ratio_range)) if rng.random() < config.gap_chance else 1.0
        slices = max(config.least_slices, round(config.size / factor))
        # With context at both ends, as far as the smallest scan has it.
        most = int(min(min(scan.image.shape) for scan in self.scans) / factor)
        slices = min(slices, most)
        total = slices + 2 * min(_CONTEXT_SLICES, (most - slices) // 2)
        # Fine voxels are whole, so the factor is what they make it.
        fine = round(total * factor)
        factor = fine / total
        kept = round(slices * factor)
        start = (fine - kept) // 2
        size = (config.size, config.size)
        operator = Acquisition((*size, fine), (*size, total), ratio)
        upscaled, truth, sigma = [], [], []
        for _ in range(config.batch_size):
            scan = _draw_index(rng, self.scans)
            image = np.moveaxis(scan.image, int(rng.integers(0, 3)), 2)
            patch = self._augment(rng, draw_patch(rng, image, (*size, fine)))
            fine_patch = torch.from_numpy(patch)
            thick = operator.apply(fine_patch)
            if rng.random() < config.noise_chance:
                level = rng.uniform(0, config.largest_noise)
                thick = thick + torch.from_numpy(rng.normal(0, level, tuple(thick.shape)).astype(np.float32))
            enlarged = resample(thick, (*size, fine), self.interpolation)
            upscaled.append(enlarged[..., start : start + kept].numpy())
            truth.append(patch[..., start : start + kept])
            sigma.append(scan.sigma)
        return SimulatedBatch(_stack(upscaled), _stack(truth), factor, ratio, torch.tensor(sigma))

    def _augment(self, rng: np.random.Generator, patch: Array) -> Array:
        curve = draw_contrast(rng) if self.config.random_contrast else None
        return augment(rng, patch, curve)


class UnpairedPatches(Dataset[UnpairedBatch]):
    """Unrelated LR and HR patches, one batch per step.

    The factor of a step is that of one LR scan drawn for it; the other LR patches of the batch come from the scans
    closest to that factor, so that none is stretched.

    Args:
        lr: LR scans.
        hr: HR scans.
        config: patch size, augmentation.
        seed: of the run.
        steps: length.
    """

    #: Scans whose factors differ by less than this (relative) share a batch.
    SAME_FACTOR = 0.05

    def __init__(
        self,
        lr: Sequence[TrainingScan],
        hr: Sequence[TrainingScan],
        config: PatchConfig,
        seed: int,
        steps: int,
    ) -> None:
        self.lr = lr
        self.hr = hr
        self.config = config
        self.seed = seed
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> UnpairedBatch:
        rng = np.random.default_rng([self.seed, step])
        config = self.config
        factor = _draw_index(rng, self.lr).factor
        alike = [scan for scan in self.lr if abs(scan.factor / factor - 1) < self.SAME_FACTOR]
        slices = max(config.least_slices, round(config.size / factor))
        slices = min([slices, *(scan.image.shape[2] for scan in alike)])
        fine = min([round(slices * factor), *(min(scan.image.shape) for scan in self.hr)])
        size = (config.size, config.size)
        # One curve for both domains: the discriminators must not tell them apart by contrast.
        curve = draw_contrast(rng) if config.random_contrast else None
        real_lr, real_hr, sigma_lr, sigma_hr = [], [], [], []
        for _ in range(config.batch_size):
            thick = _draw_index(rng, alike)
            thin = _draw_index(rng, self.hr)
            image = np.moveaxis(thin.image, int(rng.integers(0, 3)), 2)
            real_lr.append(augment(rng, draw_patch(rng, thick.image, (*size, slices)), curve))
            real_hr.append(augment(rng, draw_patch(rng, image, (*size, fine)), curve))
            sigma_lr.append(thick.sigma)
            sigma_hr.append(thin.sigma)
        return UnpairedBatch(
            _stack(real_lr), _stack(real_hr), fine / slices, torch.tensor(sigma_lr), torch.tensor(sigma_hr)
        )


def augment(rng: np.random.Generator, patch: Array, curve: ContrastCurve | None) -> Array:
    """Draw an orientation and a brightness, and apply them and a contrast curve; ``(1, I, J, K)``, in-plane square."""
    flips, transpose = draw_orientation(rng)
    patch = orient(patch, flips, transpose) * np.float32(rng.uniform(0.8, 1.2))
    return patch if curve is None else curve(patch)
