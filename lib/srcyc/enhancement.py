"""The one piece of code that super-resolves an array: inference, training, validation and evaluation all call it.

x = M (y + delta) + P R r

with the scan y, the classical inverse M and the null-space projection P of its acquisition operator A
(:mod:`srcyc.physics.acquisition`), the generator's r and delta (:mod:`srcyc.networks.generator`), and R, the
area-resampling of r to the planes wanted. A x = y + delta: what the scan says is changed by delta alone, which is told,
and r adds only what the scan does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from srcyc.networks.generator import Estimate, Generator, Sampling
from srcyc.physics.acquisition import AxisAcquisition
from srcyc.physics.resampling import apply_along, area_matrix

Progress = Callable[[float], None]

#: Intensity difference below which a voxel counts as empty space.
_FLAT = 1e-5


class Enhanced(NamedTuple):
    """A super-resolved array.

    Attributes:
        image: x, ``(B, 1, I, J, K)``, normalised intensity.
        slices: delta, ``(B, 1, I, J, S)``; None from a generator that trusts the scan.
    """

    image: Tensor
    slices: Tensor | None


@dataclass(frozen=True)
class _Assembly:
    """How one scan is handed to a generator, and its answer put together."""

    axis: AxisAcquisition
    planes_in: int
    planes_out: int

    @classmethod
    def of(cls, generator: Generator, axis: AxisAcquisition) -> _Assembly:
        return cls(axis, *generator.planes(axis.fine, axis.scan))

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.axis.factor, self.axis.thickness_ratio)

    def upscale(self, y: Tensor) -> Tensor:
        """M y, on the planes that the generator wants."""
        known = AxisAcquisition.of(self.planes_in, self.axis.scan, self.axis.thickness_ratio)
        return apply_along(y, known.upscaling, -1)

    def combine(self, y: Tensor, estimate: Estimate, *, project: bool = True) -> Tensor:
        """Put M (y + delta) + P R r together, in fp32; without P if not projected."""
        unseen = area_matrix(self.planes_out, self.axis.fine)
        if project:
            unseen = self.axis.null_space @ unseen
        corrected = y if estimate.slices is None else y + estimate.slices.float()
        return apply_along(corrected, self.axis.upscaling, -1) + apply_along(
            estimate.between.float(), unseen, -1
        )


def enhance(generator: Generator, y: Tensor, axes: Sequence[AxisAcquisition]) -> list[Enhanced]:
    """Super-resolve whole patches, differentiably; each may have a factor of its own.

    Args:
        generator: G_HR.
        y: scans ``(B, 1, I, J, S)``, normalised intensity, slice axis last.
        axes: operator of each along its slice axis.

    Returns:
        one array of one item ``(1, 1, I, J, K)`` per scan: the planes K may differ.
    """
    assemblies = [_Assembly.of(generator, axis) for axis in axes]
    upscaled = [assembly.upscale(item[None]) for assembly, item in zip(assemblies, y, strict=True)]
    estimates = _estimates(generator, upscaled, [assembly.sampling for assembly in assemblies])
    return [
        Enhanced(assembly.combine(item[None], estimate), estimate.slices)
        for assembly, item, estimate in zip(assemblies, y, estimates, strict=True)
    ]


def _estimates(
    generator: Generator, upscaled: Sequence[Tensor], samplings: Sequence[Sampling]
) -> list[Estimate]:
    """Ask for all items at once where they have one shape."""
    if len({item.shape for item in upscaled}) > 1:
        return [
            generator.estimate(item, [sampling]) for item, sampling in zip(upscaled, samplings, strict=True)
        ]
    between, slices = generator.estimate(torch.cat(list(upscaled)), samplings)
    split = [None] * len(upscaled) if slices is None else slices.split(1)
    return [Estimate(*pair) for pair in zip(between.split(1), split, strict=True)]


@torch.inference_mode()
def enhance_in_slabs(
    generator: Generator,
    y: Tensor,
    axis: AxisAcquisition,
    image: Tensor,
    *,
    slab: int,
    project: bool = True,
    correct_slices: bool = True,
    flip: Sequence[int] = (),
    progress: Progress | None = None,
) -> Tensor:
    """Super-resolve one whole scan, slab by slab along its first axis; equal to :func:`enhance` on its box.

    Empty space around the head, exactly flat in the scan, is not computed: there the classical inverse is the answer.

    Args:
        generator: in evaluation mode, in the type and on the device that compute.
        y: the scan ``(I, J, S)``, normalised intensity, fp32 on the CPU.
        axis: its operator along the slice axis.
        image: ``(I, J, K)``, fp32 on the CPU; receives the result.
        slab: planes along I that go through the network at once, at least; the result does not depend on it.
        project: False leaves P away: what the network says of the slices then counts.
        correct_slices: False holds the result to the scan exactly (delta = 0).
        flip: in-plane axes that the network sees turned round.
        progress: called with the share done.

    Returns:
        delta ``(I, J, S)``, zeros where there is none.
    """
    assembly = _Assembly.of(generator, axis)
    delta = torch.zeros_like(y)
    box = tuple(_occupied(y, along, generator.reach) for along in (0, 1))
    if any(part != slice(0, n) for part, n in zip(box, y.shape, strict=False)):
        for row, measured in enumerate(y):
            image[row] = apply_along(measured, axis.upscaling, -1)
    scan, out, change = (
        (tensor[box].flip(tuple(flip)) for tensor in (y, image, delta))
        if flip
        else (tensor[box] for tensor in (y, image, delta))
    )
    n = scan.shape[0]
    step = generator.row_step
    slab = max(step, slab - slab % step)
    like = next(generator.parameters())
    stream = generator.stream(assembly.sampling)
    # The first slab also fills all the layers, so every later one gives as many planes as it gets.
    start, stop, done = 0, min(n, slab + _rounded(generator.reach, step)), 0
    while done < n:
        upscaled = assembly.upscale(scan[None, None, start:stop].to(like.device)).to(like.dtype)
        between, slices = stream(upscaled, stop == n)
        known = slice(done, done + between.shape[2])
        if slices is not None and correct_slices:
            change[known] = slices[0, 0].to(change)
        estimate = Estimate(between, change[None, None, known].to(like.device) if correct_slices else None)
        measured = scan[None, None, known].to(like.device)
        out[known] = assembly.combine(measured, estimate, project=project)[0, 0].to(out)
        start, stop, done = stop, min(n, stop + slab), known.stop
        if progress is not None:
            progress(done / n)
    if flip:
        image[box], delta[box] = out.flip(tuple(flip)), change.flip(tuple(flip))
    return delta


@torch.inference_mode()
def take_back(image: Tensor, delta: Tensor, axis: AxisAcquisition, share: float) -> None:
    """Take a share of delta out of a super-resolved scan, in place: x - share M delta, (1 - share) delta.

    Args:
        image: x, ``(I, J, K)``, as :func:`enhance_in_slabs` made it.
        delta: what it gave, ``(I, J, S)``.
        axis: operator along the slice axis.
        share: 0 to 1.
    """
    for row, change in zip(image, delta, strict=True):
        row -= share * apply_along(change, axis.upscaling, -1)
    delta *= 1 - share


def _rounded(value: int, step: int) -> int:
    return -(-value // step) * step


def _occupied(y: Tensor, along: int, margin: int) -> slice:
    """Find where a scan ``(I, J, S)`` is not the flat background of its first voxel, along an axis, with a margin."""
    other = 1 - along
    occupied = ((y - y[0, 0, 0]).abs() > _FLAT).any(dim=2).any(dim=other)
    places = occupied.nonzero().flatten()
    if not places.numel():
        return slice(0, y.shape[along])
    return slice(max(0, int(places[0]) - margin), min(y.shape[along], int(places[-1]) + 1 + margin))
