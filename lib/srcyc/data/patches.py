"""Training batches: patches drawn from scans, each by its own seed, so that resuming and sharing repeat nothing.

Batch ``s`` depends on the data, the configuration, the run's seed and ``s`` alone, and so does each of its items. A
resumed run therefore sees the batches it would have seen, without any random state to save, and several processes
draw together exactly what one would.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from srcyc.config import PatchConfig
from srcyc.data.augmentation import ContrastCurve, draw_contrast, draw_orientation, orient
from srcyc.data.pairs import Placement, gain_of_pair
from srcyc.data.store import Array, TrainingScan
from srcyc.data.windows import Window
from srcyc.errors import ConfigError, DataError
from srcyc.intensity import FOREGROUND
from srcyc.resampling import Interpolation

#: A patch is redrawn this many times at most until this share of it is not background.
_DRAWS, _LEAST_FOREGROUND = 12, 0.25
#: Slices beyond either end of a patch, so that its ends are not patch borders.
_CONTEXT_SLICES = 2
#: Scans whose factors differ by less than this (relative) share a batch.
_SAME_FACTOR = 0.05


@dataclass(frozen=True)
class Batch:
    """Patches of one step, in every mode.

    Attributes:
        real_lr: ``(B, 1, I, J, k)`` normalised intensity, thick axis last.
        upscaled: ``(B, 1, I, J, K)``, real_lr interpolated to the HR grid, with slices beyond its ends as context
            where the scan has them.
        real_hr: ``(B, 1, I, J, K)`` over the same field of view in voxels; the truth of real_lr if aligned.
        factor: ``K / k``.
        thickness_ratio: slice thickness over slice spacing; 1 where it is not known.
        sigma_lr: ``(B,)`` noise standard deviation of the LR scans.
        sigma_hr: ``(B,)`` that of the HR scans.
        aligned: whether real_hr shows what real_lr shows.
    """

    real_lr: Tensor
    upscaled: Tensor
    real_hr: Tensor
    factor: float
    thickness_ratio: float
    sigma_lr: Tensor
    sigma_hr: Tensor
    aligned: bool


@dataclass(frozen=True)
class Share:
    """The part of every batch that one process draws.

    Attributes:
        rank: of the process, from 0.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1

    def items(self, batch_size: int) -> range:
        """Give this process's items of the whole batch.

        Raises:
            ConfigError: the batch cannot be shared equally.
        """
        if batch_size % self.world:
            raise ConfigError(
                f"data.batch_size={batch_size} cannot be shared by {self.world} processes; use a multiple of it."
            )
        count = batch_size // self.world
        return range(self.rank * count, (self.rank + 1) * count)


@dataclass(frozen=True)
class _Item:
    """One patch of a batch: ``(1, I, J, k)``, ``(1, I, J, K)`` twice, and the noise of its scans."""

    real_lr: Tensor
    upscaled: Tensor
    real_hr: Tensor
    sigma_lr: float
    sigma_hr: float


class Patches(Dataset[Batch]):
    """What the datasets of all modes have in common.

    Args:
        config: patch size, factors, augmentation; its batch size is that of all processes together.
        interpolation: how the network upscales.
        seed: of the run.
        steps: length.
        share: the part of every batch to draw.

    Raises:
        ConfigError: the batch cannot be shared equally.
    """

    def __init__(
        self, config: PatchConfig, interpolation: Interpolation, seed: int, steps: int, share: Share
    ) -> None:
        self.config = config
        self.interpolation: Interpolation = interpolation
        self.seed = seed
        self.steps = steps
        self.items = share.items(config.batch_size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        # A NumPy seed ignores zeros at its end: the step is number 0, so items count from 1.
        draw, window, ratio = self.prepare(np.random.default_rng([self.seed, step, 0]))
        items = [draw(np.random.default_rng([self.seed, step, item + 1])) for item in self.items]
        return Batch(
            real_lr=torch.stack([item.real_lr for item in items]),
            upscaled=torch.stack([item.upscaled for item in items]),
            real_hr=torch.stack([item.real_hr for item in items]),
            factor=window.factor,
            thickness_ratio=ratio,
            sigma_lr=torch.tensor([item.sigma_lr for item in items], dtype=torch.float32),
            sigma_hr=torch.tensor([item.sigma_hr for item in items], dtype=torch.float32),
            aligned=self.aligned,
        )

    #: Whether LR and HR patches show the same.
    aligned: bool

    @abstractmethod
    def prepare(
        self, rng: np.random.Generator
    ) -> tuple[Callable[[np.random.Generator], _Item], Window, float]:
        """Draw what all items of a step share.

        Returns:
            what draws an item, the window of slices without context, slice thickness over slice spacing.
        """

    def _slices(self, factor: float) -> int:
        """Give the slices of an LR patch, about as long as an HR patch."""
        return max(self.config.least_slices, round(self.config.size / factor))


class SimulatedPatches(Patches):
    """Simulated acquisitions of HR scans, one batch per step; LR and HR patches are aligned.

    Args:
        scans: HR scans; any axis may be made the thick one, since they are thin on all.
        config: see :class:`Patches`, as all that follow.
        interpolation: see there.
        seed: see there.
        steps: see there.
        share: see there.
    """

    aligned = True

    def __init__(
        self,
        scans: Sequence[TrainingScan],
        config: PatchConfig,
        interpolation: Interpolation,
        seed: int,
        steps: int,
        share: Share = Share(),
    ) -> None:
        super().__init__(config, interpolation, seed, steps, share)
        self.scans = scans
        #: Voxels that every scan has along every axis.
        self.length = min(min(scan.image.shape) for scan in scans)

    def prepare(
        self, rng: np.random.Generator
    ) -> tuple[Callable[[np.random.Generator], _Item], Window, float]:
        """Draw factor and slice thickness."""
        config = self.config
        factor = float(np.exp(rng.uniform(*np.log(config.factor_range))))
        ratio = float(rng.uniform(*config.thickness_ratio_range)) if rng.random() < config.gap_chance else 1.0
        slices = min(self._slices(factor), max(1, int(self.length / factor)))
        # Fine voxels are whole, so the factor is what they make it.
        fine = min(round(slices * factor), self.length)
        room = (self.length - fine) // 2
        context = min(_CONTEXT_SLICES, int(room * slices / fine))
        window = Window(slices, fine, context, context)
        return lambda rng: self._draw(rng, window, ratio, window.margin(room)), window, ratio

    def _draw(self, rng: np.random.Generator, window: Window, ratio: float, margin: int) -> _Item:
        config = self.config
        scan = _choose(rng, self.scans)
        image = np.moveaxis(scan.image, int(rng.integers(0, 3)), 2)
        size = (config.size, config.size, window.fine + 2 * margin)
        patch = cut(image, draw_start(rng, image, size), size)
        # The contrast is changed before the acquisition: slices are means of what is there.
        curve = draw_contrast(rng) if config.random_contrast else None
        patch = _recoloured(orient(patch, *draw_orientation(rng)), _draw_brightness(rng), curve)
        object_ = torch.from_numpy(patch)
        stack = window.acquire(object_, margin, ratio)
        if rng.random() < config.noise_chance:
            level = rng.uniform(0, config.largest_noise)
            stack = stack + torch.from_numpy(rng.normal(0, level, tuple(stack.shape)).astype(np.float32))
        return _Item(
            window.inner(stack),
            window.upscale(stack, self.interpolation),
            object_[..., margin : margin + window.fine],
            scan.sigma,
            scan.sigma,
        )


class AlignedPatches(Patches):
    """Patches of real aligned pairs: an LR scan, and what an HR scan of the same person has in the same place.

    The fine voxels are as large as the LR scan's pixels, and the HR scan is brought to the LR scan's brightness.
    Contrast curves are not drawn: a curve does not commute with the averaging over a slice, so a recoloured thick
    slice is none of the recoloured anatomy.

    Args:
        pairs: LR and HR scans, each pair aligned in world coordinates (:func:`srcyc.data.pairs.why_not_a_pair`).
        config: see :class:`Patches`, as all that follow.
        interpolation: see there.
        seed: see there.
        steps: see there.
        share: see there.
    """

    aligned = True

    def __init__(
        self,
        pairs: Sequence[tuple[TrainingScan, TrainingScan]],
        config: PatchConfig,
        interpolation: Interpolation,
        seed: int,
        steps: int,
        share: Share = Share(),
    ) -> None:
        super().__init__(config, interpolation, seed, steps, share)
        #: With the factor that brings the HR scan to the LR scan's brightness.
        self.pairs = [(lr, hr, gain_of_pair(lr, hr)) for lr, hr in pairs]

    def prepare(
        self, rng: np.random.Generator
    ) -> tuple[Callable[[np.random.Generator], _Item], Window, float]:
        """Draw the factor, that of one pair; the others of the batch have nearly the same."""
        factor = self.pairs[int(rng.integers(0, len(self.pairs)))][0].factor
        alike = [pair for pair in self.pairs if _same_factor(pair[0].factor, factor)]
        slices = min([self._slices(factor), *(lr.image.shape[2] for lr, _, _ in alike)])
        window = Window(slices, round(slices * factor))
        return lambda rng: self._draw(rng, alike, window), window, 1.0

    def _draw(
        self,
        rng: np.random.Generator,
        pairs: Sequence[tuple[TrainingScan, TrainingScan, float]],
        window: Window,
    ) -> _Item:
        lr, hr, gain = pairs[int(rng.integers(0, len(pairs)))]
        size = (self.config.size, self.config.size, window.slices)
        placement = Placement(lr.grid, hr.grid)
        start = self._covered_start(rng, lr, hr, placement, size)
        stack, window = cut_stack(lr.image, start, size, window)
        truth = placement.sample(hr.image, start, size, window.fine)[None]
        flips, transpose = draw_orientation(rng)
        brightness = _draw_brightness(rng)
        window = window.flipped if flips[2] else window
        stack = _recoloured(orient(stack, flips, transpose), brightness)
        truth = _recoloured(orient(truth, flips, transpose), brightness * np.float32(gain))
        thick = torch.from_numpy(stack)
        return _Item(
            window.inner(thick),
            window.upscale(thick, self.interpolation),
            torch.from_numpy(truth),
            lr.sigma,
            hr.sigma * gain,
        )

    @staticmethod
    def _covered_start(
        rng: np.random.Generator,
        lr: TrainingScan,
        hr: TrainingScan,
        placement: Placement,
        size: Sequence[int],
    ) -> tuple[int, ...]:
        """Draw a patch that the HR scan covers and that is not mostly background, if there is one."""
        for _ in range(_DRAWS):
            start = draw_start(rng, lr.image, size)
            if placement.covers(start, size):
                return start
        # Little overlap: choose among all that there is.
        starts = placement.covered_starts(size)
        if not len(starts):
            raise DataError(
                f"{lr.name}: no training patch of {' x '.join(map(str, size))} voxels lies within {hr.name}; "
                "leave the pair out or set data.size to a smaller patch."
            )
        for _ in range(_DRAWS):
            i, j, k = starts[int(rng.integers(0, len(starts)))]
            start = (int(i), int(j), int(k))
            if not _is_background(cut(lr.image, start, size)):
                break
        return start


class UnpairedPatches(Patches):
    """Unrelated LR and HR patches, one batch per step.

    The factor of a step is that of one LR scan drawn for it; the other LR patches of the batch come from the scans
    closest to that factor, so that none is stretched.

    Args:
        lr: LR scans.
        hr: HR scans.
        config: see :class:`Patches`, as all that follow.
        interpolation: see there.
        seed: see there.
        steps: see there.
        share: see there.
    """

    aligned = False

    def __init__(
        self,
        lr: Sequence[TrainingScan],
        hr: Sequence[TrainingScan],
        config: PatchConfig,
        interpolation: Interpolation,
        seed: int,
        steps: int,
        share: Share = Share(),
    ) -> None:
        super().__init__(config, interpolation, seed, steps, share)
        self.lr = lr
        self.hr = hr
        #: Voxels that every HR scan has along every axis.
        self.length = min(min(scan.image.shape) for scan in hr)

    def prepare(
        self, rng: np.random.Generator
    ) -> tuple[Callable[[np.random.Generator], _Item], Window, float]:
        """Draw the factor, and one contrast for both domains: D must not tell them apart by contrast."""
        factor = _choose(rng, self.lr).factor
        alike = [scan for scan in self.lr if _same_factor(scan.factor, factor)]
        slices = min([self._slices(factor), *(scan.image.shape[2] for scan in alike)])
        # Fewer slices, rather than a factor that the scan has not, where HR scans are small.
        slices = min(slices, max(1, int(self.length / factor)))
        window = Window(slices, min(round(slices * factor), self.length))
        curve = draw_contrast(rng) if self.config.random_contrast else None
        return lambda rng: self._draw(rng, alike, window, curve), window, 1.0

    def _draw(
        self,
        rng: np.random.Generator,
        lr: Sequence[TrainingScan],
        window: Window,
        curve: ContrastCurve | None,
    ) -> _Item:
        size = (self.config.size, self.config.size)
        thick, thin = _choose(rng, lr), _choose(rng, self.hr)
        lr_size, hr_size = (*size, window.slices), (*size, window.fine)
        stack, window = cut_stack(thick.image, draw_start(rng, thick.image, lr_size), lr_size, window)
        flips, transpose = draw_orientation(rng)
        window = window.flipped if flips[2] else window
        stack = _recoloured(orient(stack, flips, transpose), _draw_brightness(rng), curve)
        image = np.moveaxis(thin.image, int(rng.integers(0, 3)), 2)
        patch = orient(cut(image, draw_start(rng, image, hr_size), hr_size), *draw_orientation(rng))
        real_lr = torch.from_numpy(stack)
        return _Item(
            window.inner(real_lr),
            window.upscale(real_lr, self.interpolation),
            torch.from_numpy(_recoloured(patch, _draw_brightness(rng), curve)),
            thick.sigma,
            thin.sigma,
        )


def draw_start(rng: np.random.Generator, image: Array, size: Sequence[int]) -> tuple[int, ...]:
    """Draw the first voxel of a patch of ``image`` ``(I, J, K)`` that is not mostly background."""
    start: tuple[int, ...] = ()
    for _ in range(_DRAWS):
        start = tuple(int(rng.integers(0, n - s + 1)) for n, s in zip(image.shape, size, strict=True))
        if not _is_background(cut(image, start, size)):
            break
    return start


def cut(image: Array, start: Sequence[int], size: Sequence[int]) -> Array:
    """Cut a patch, a view; ``(I, J, K)`` -> ``(1, *size)``."""
    return image[tuple(slice(b, b + s) for b, s in zip(start, size, strict=True))][None]


def cut_stack(
    image: Array, start: Sequence[int], size: Sequence[int], window: Window
) -> tuple[Array, Window]:
    """Cut a patch of slices with the context that the scan has, and tell the window how much that is."""
    before = min(_CONTEXT_SLICES, start[2])
    after = min(_CONTEXT_SLICES, image.shape[2] - start[2] - size[2])
    stack = cut(image, (start[0], start[1], start[2] - before), (size[0], size[1], before + size[2] + after))
    return stack, Window(window.slices, window.fine, before, after)


def _is_background(patch: Array) -> bool:
    return bool((patch > FOREGROUND).mean() < _LEAST_FOREGROUND)


def _choose(rng: np.random.Generator, scans: Sequence[TrainingScan]) -> TrainingScan:
    return scans[int(rng.integers(0, len(scans)))]


def _same_factor(a: float, b: float) -> bool:
    return abs(a / b - 1) < _SAME_FACTOR


def _draw_brightness(rng: np.random.Generator) -> np.float32:
    return np.float32(rng.uniform(0.8, 1.2))


def _recoloured(patch: Array, brightness: np.float32, curve: ContrastCurve | None = None) -> Array:
    patch = patch * brightness
    return patch if curve is None else curve(patch)
