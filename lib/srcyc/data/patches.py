"""Training batches: patches drawn from scans, each by its own seed, so that resuming and sharing repeat nothing.

Batch ``s`` depends on the data, the configuration, the run's seed and ``s`` alone, and so does each of its items. A
resumed run therefore sees the batches it would have seen, without any random state to save, and several processes
draw together exactly what one would.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from srcyc.config import PatchConfig
from srcyc.data.augmentation import (
    ContrastCurve,
    draw_contrast,
    draw_orientation,
    draw_softness,
    orient,
    soften,
)
from srcyc.data.pairs import Placement, gain_of_pair
from srcyc.data.spoiling import draw_slices
from srcyc.data.store import Array, TrainingScan
from srcyc.errors import DataError
from srcyc.physics.acquisition import AxisAcquisition
from srcyc.volumes.intensity import FOREGROUND

#: A patch is redrawn this many times at most until this share of it is not background.
_DRAWS, _LEAST_FOREGROUND = 12, 0.25
#: Slices beyond either end of a simulated patch whose object counts: a profile is not wider.
_MARGIN_SLICES = 1.5
#: Scans whose factors differ by less than this (relative) share a batch.
_SAME_FACTOR = 0.05


@dataclass(frozen=True)
class Batch:
    """Patches of one step, in every mode.

    Attributes:
        real_lr: ``(B, 1, I, J, S)`` normalised intensity, thick axis last.
        real_hr: one ``(1, 1, I, J, K)`` per item, over the same field of view in voxels; the truth of real_lr if
            aligned.
        axes: what each item's operator along the thick axis is said to be, from K to S.
        aligned: whether real_hr shows what real_lr shows.
        noise: as real_lr, drawn from the standard normal distribution: what a random degradation draws on.
    """

    real_lr: Tensor
    real_hr: tuple[Tensor, ...]
    axes: tuple[AxisAcquisition, ...]
    aligned: bool
    noise: Tensor

    def to(self, device: torch.device) -> Batch:
        """Give the same patches on a device."""
        real_lr, noise, *real_hr = (
            image.to(device, non_blocking=True) for image in (self.real_lr, self.noise, *self.real_hr)
        )
        return replace(self, real_lr=real_lr, noise=noise, real_hr=tuple(real_hr))

    def counted(self, item: int) -> slice:
        """Give the planes of an item that losses look at.

        A patch is cut from a longer stack: what lies beyond its outer slices is not known to the network, as it would
        be in a scan, so one slice at either end does not count.
        """
        axis = self.axes[item]
        # Of two slices or one, where HR scans are small, the middle counts all the same.
        edge = min(math.ceil(axis.factor), (axis.fine - 1) // 2)
        return slice(edge, axis.fine - edge)


@dataclass(frozen=True)
class _Item:
    """One patch of a batch: ``(1, I, J, S)``, ``(1, I, J, K)``, and the operator between them."""

    real_lr: Array
    real_hr: Array
    axis: AxisAcquisition


#: Draws one item from a generator of random numbers of its own.
_Draw = Callable[[np.random.Generator], _Item]


class Patches(Dataset[Batch]):
    """What the datasets of all modes have in common.

    Attributes:
        aligned: whether LR and HR patches show the same.
        config: patch size, factors, augmentation; its batch size is that of all processes together.
        seed: of the run.
        steps: length.
        items: of every batch to draw, counted from 0; None: all.
    """

    aligned: ClassVar[bool]
    config: PatchConfig
    seed: int
    steps: int
    items: range | None

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        # A NumPy seed ignores zeros at its end: the step is number 0, so items count from 1.
        draw = self.prepare(np.random.default_rng([self.seed, step, 0]), step)
        wanted = range(self.config.batch_size) if self.items is None else self.items
        generators = [np.random.default_rng([self.seed, step, item + 1]) for item in wanted]
        items = [draw(rng) for rng in generators]
        noise = [
            rng.standard_normal(item.real_lr.shape, np.float32)
            for rng, item in zip(generators, items, strict=True)
        ]
        return Batch(
            real_lr=torch.stack([torch.from_numpy(item.real_lr) for item in items]),
            real_hr=tuple(torch.from_numpy(item.real_hr)[None] for item in items),
            axes=tuple(item.axis for item in items),
            aligned=self.aligned,
            noise=torch.from_numpy(np.stack(noise)),
        )

    @abstractmethod
    def prepare(self, rng: np.random.Generator, step: int) -> _Draw:
        """Draw what all items of a step share, and give what draws an item."""

    def _draw_count(self, rng: np.random.Generator, most: int) -> int:
        """Draw the slices of a step's patches, at most so many."""
        low, high = self.config.slices
        return min(int(rng.integers(low, high + 1)), most)


@dataclass(eq=False)
class SimulatedPatches(Patches):
    """Simulated acquisitions of HR scans; LR and HR patches are aligned.

    Attributes:
        scans: HR scans; any axis along which they are at their finest may be made the thick one.
        mixed: every patch of a step has a factor of its own; else one is drawn for the step.
    """

    aligned = True
    scans: Sequence[TrainingScan]
    config: PatchConfig
    seed: int
    steps: int
    items: range | None = None
    mixed: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        """See how long the shortest axis of all scans is."""
        self.length = min(min(scan.image.shape) for scan in self.scans)

    def prepare(self, rng: np.random.Generator, step: int) -> _Draw:
        """Draw the number of slices, and the factor if it is one for all."""
        strength = self.config.spoil.strength(step)
        slices = self._draw_count(rng, int(self.length / self.config.factor_range[0]))
        factor = None if self.mixed else self._draw_factor(rng)
        return lambda rng: self._draw(
            rng, slices, self._draw_factor(rng) if factor is None else factor, strength
        )

    def _draw_factor(self, rng: np.random.Generator) -> float:
        return float(np.exp(rng.uniform(*np.log(self.config.factor_range))))

    def _draw(self, rng: np.random.Generator, slices: int, factor: float, strength: float) -> _Item:
        config = self.config
        scan = _choose(rng, self.scans)
        image = _turned(rng, scan)
        # Fine voxels are whole, and no more than there are, so the factor is what they make it.
        length = image.shape[2] if self.mixed else self.length
        fine = min(round(slices * factor), length)
        factor = fine / slices
        ratio = float(rng.uniform(*config.thickness_ratio_range)) if rng.random() < config.gap_chance else 1.0
        # Steps of a hundredth: operators are looked up.
        ratio = round(ratio, 2)
        start = draw_start(rng, image, (config.size, config.size, fine))
        margin = math.ceil(_MARGIN_SLICES * factor)
        low, high = max(0, start[2] - margin), min(image.shape[2], start[2] + fine + margin)
        patch = cut(image, (*start[:2], low), (config.size, config.size, high - low))
        if config.soft_chance > 0 and rng.random() < config.soft_chance:
            patch = soften(patch, draw_softness(rng, config.softness))
        # The contrast is changed before the acquisition: slices are means of what is there.
        curve = draw_contrast(rng) if config.random_contrast else None
        flips, transpose = draw_orientation(rng)
        patch = _recoloured(orient(patch, flips, transpose), _draw_brightness(rng), curve)
        before = high - start[2] - fine if flips[2] else start[2] - low
        acquisition = draw_slices(
            rng,
            config.spoil,
            strength,
            slices=slices,
            factor=factor,
            voxels=high - low,
            before=before,
            ratio=ratio,
        )
        return _Item(
            acquisition.acquire(patch, rng),
            np.ascontiguousarray(patch[..., before : before + fine]),
            AxisAcquisition.of(fine, slices, ratio),
        )


@dataclass(eq=False)
class AlignedPatches(Patches):
    """Patches of real aligned pairs: an LR scan, and what an HR scan of the same person has in the same place.

    The fine voxels are as large as the LR scan's pixels, and the HR scan is brought to the LR scan's brightness.
    Contrast curves are not drawn: a curve does not commute with the averaging over a slice, so a recoloured thick
    slice is none of the recoloured anatomy.

    Attributes:
        pairs: LR and HR scans, each pair aligned in world coordinates (:func:`srcyc.data.pairs.why_not_a_pair`).
    """

    aligned = True
    pairs: Sequence[tuple[TrainingScan, TrainingScan]]
    config: PatchConfig
    seed: int
    steps: int
    items: range | None = None

    def __post_init__(self) -> None:
        """Find what brings each HR scan to its LR scan's brightness."""
        self.with_gain = [(lr, hr, gain_of_pair(lr, hr)) for lr, hr in self.pairs]

    def prepare(self, rng: np.random.Generator, step: int) -> _Draw:
        """Draw the factor, that of one pair; the others of the batch have nearly the same."""
        factor = self.pairs[int(rng.integers(0, len(self.pairs)))][0].factor
        alike = [pair for pair in self.with_gain if _same_factor(pair[0].factor, factor)]
        slices = self._draw_count(rng, min(lr.image.shape[2] for lr, _, _ in alike))
        return lambda rng: self._draw(rng, alike, slices, round(slices * factor))

    def _draw(
        self,
        rng: np.random.Generator,
        pairs: Sequence[tuple[TrainingScan, TrainingScan, float]],
        slices: int,
        fine: int,
    ) -> _Item:
        lr, hr, gain = pairs[int(rng.integers(0, len(pairs)))]
        size = (self.config.size, self.config.size, slices)
        placement = Placement(lr.grid, hr.grid)
        start = self._covered_start(rng, lr, hr, placement, size)
        truth = placement.sample(hr.image, start, size, fine)[None]
        orientation, brightness = draw_orientation(rng), _draw_brightness(rng)
        return _Item(
            _recoloured(orient(cut(lr.image, start, size), *orientation), brightness),
            _recoloured(orient(truth, *orientation), brightness * np.float32(gain)),
            AxisAcquisition.of(fine, slices, lr.thickness_ratio),
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
                f"{lr.name}: no training patch of {' x '.join(map(str, size))} voxels lies within {hr.name}",
                remedy="leave the pair out or set data.size to a smaller patch",
            )
        for _ in range(_DRAWS):
            i, j, k = starts[int(rng.integers(0, len(starts)))]
            start = (int(i), int(j), int(k))
            if not _is_background(cut(lr.image, start, size)):
                break
        return start


@dataclass(eq=False)
class UnpairedPatches(Patches):
    """Unrelated LR and HR patches, one batch per step.

    The factor of a step is that of one LR scan drawn for it; the other LR patches of the batch come from the scans
    closest to that factor, so that none is stretched.

    Attributes:
        lr: LR scans.
        hr: HR scans.
    """

    aligned = False
    lr: Sequence[TrainingScan]
    hr: Sequence[TrainingScan]
    config: PatchConfig
    seed: int
    steps: int
    items: range | None = None

    def __post_init__(self) -> None:
        """See how long the shortest axis of all HR scans is."""
        self.length = min(min(scan.image.shape) for scan in self.hr)

    def prepare(self, rng: np.random.Generator, step: int) -> _Draw:
        """Draw the factor, and one contrast for both domains: D must not tell them apart by contrast."""
        factor = _choose(rng, self.lr).factor
        alike = [scan for scan in self.lr if _same_factor(scan.factor, factor)]
        # Fewer slices, rather than a factor that the scan has not, where HR scans are small.
        most = min([*(scan.image.shape[2] for scan in alike), max(1, int(self.length / factor))])
        slices = self._draw_count(rng, most)
        fine = min(round(slices * factor), self.length)
        curve = draw_contrast(rng) if self.config.random_contrast else None
        return lambda rng: self._draw(rng, alike, slices, fine, curve)

    def _draw(
        self,
        rng: np.random.Generator,
        lr: Sequence[TrainingScan],
        slices: int,
        fine: int,
        curve: ContrastCurve | None,
    ) -> _Item:
        size = (self.config.size, self.config.size)
        thick, thin = _choose(rng, lr), _choose(rng, self.hr)
        stack = orient(_drawn(rng, thick.image, (*size, slices)), *draw_orientation(rng))
        image = _turned(rng, thin)
        patch = orient(_drawn(rng, image, (*size, fine)), *draw_orientation(rng))
        return _Item(
            _recoloured(stack, _draw_brightness(rng), curve),
            _recoloured(patch, _draw_brightness(rng), curve),
            AxisAcquisition.of(fine, slices, round(thick.thickness_ratio, 2)),
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


def _turned(rng: np.random.Generator, scan: TrainingScan) -> Array:
    """Give an HR scan with one of its finest axes, drawn, as the thick one: last."""
    return np.moveaxis(scan.image, scan.thin_axes[int(rng.integers(0, len(scan.thin_axes)))], 2)


def _drawn(rng: np.random.Generator, image: Array, size: Sequence[int]) -> Array:
    return cut(image, draw_start(rng, image, size), size)


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
