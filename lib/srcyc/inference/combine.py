"""Several thick stacks of one person and contrast, acquired along different axes, made into one thin volume.

Each stack y_k is super-resolved alone first; its result x_k, acquired again, is what the stack says (with its slices
corrected): A_k x_k. The stacks are laid over one another by rigid registration of these results (motion W_k), and the
volume is the regularised least-squares estimate towards all of them,

x = argmin  sum_k || A_k W_k x - A_k x_k ||^2 + lambda || x - m ||^2,

with m the mean of the results, brought to the grid of the first. A detail that one stack averages away within its
slices lies within the planes of another; what none of them sees stays as the network has it. Conjugate gradients, few
steps of them: the adjoint of a motion is, to the error of interpolation, the way back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srcyc.enhancement import Progress
from srcyc.errors import ConfigError, InputError
from srcyc.inference.options import InferenceOptions
from srcyc.inference.registration import Image, Motion, register, warp
from srcyc.inference.report import CombinationReport, ResultReport, StackReport, describe_input
from srcyc.inference.super_resolver import SuperResolution, SuperResolver
from srcyc.memory import require_memory
from srcyc.physics.acquisition import Acquisition, relative_residual
from srcyc.volumes.geometry import Grid, requested_spacing
from srcyc.volumes.intensity import foreground_mask
from srcyc.volumes.missing import Missing
from srcyc.volumes.volume import Volume

#: Weight of what the network says, where the stacks are silent, against what they say.
_PRIOR = 0.1
#: Steps of conjugate gradients; more of them gain less than 0.03 dB.
_STEPS = 4
#: Share of a slice sample's profile that has to lie within the volume for it to count.
_INSIDE = 0.99
#: Share of the smaller field of view that two stacks have to have in common.
_OVERLAP = 0.3
#: Points along each axis by which that is judged.
_POINTS = 24
#: Correlation of two results inside the head below which they show something else, and below which this is told.
_DIFFERENT, _DOUBTFUL = 0.6, 0.9
#: Between two scans of one session a head moves less, mm.
_FAR = 30.0
#: Degrees between the slice axes of two stacks below which they see nearly the same.
_PARALLEL = 20.0
#: Share of the work that super-resolution and registration are.
_ALONE, _LAID = 0.5, 0.75
#: Bytes per voxel: images of the iteration, the first result, and what a motion takes (an image, its spline in
#: double precision, the result).
_ITERATION_BYTES, _WARP_BYTES = 28, 24


@dataclass(frozen=True, eq=False)
class Combination:
    """What comes out.

    Attributes:
        volume: over the first stack's field of view, its axis order and intensity units.
        report: how it was made.
        uncertainty: of a single result only.
        correction: of a single result only.
    """

    volume: Volume
    report: CombinationReport
    uncertainty: None = None
    correction: None = None


class _Stack(NamedTuple):
    """One stack, ready to be compared with the volume."""

    grid: Grid
    operator: Acquisition
    motion: Motion
    data: Tensor
    weight: Tensor


def combine(
    stacks: Sequence[Volume],
    resolver: SuperResolver,
    options: InferenceOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Combination:
    """Combine thick stacks of one person and contrast.

    Args:
        stacks: two or more, ``(1, I, J, K)`` each, placed by their headers so that they overlap; the first one tells
            the field of view, the axes and the intensity units of the result.
        resolver: super-resolves each alone.
        options: for each of them; ``target_spacing`` is one value, mm, for all axes.
        progress: called with the share done, 0 to 1.

    Raises:
        InputError: fewer than two stacks, one of them given twice, or stacks that do not lie over one another or show
            something else (a person, a contrast), if not forced.
        SRCycError: registration fails; and what :class:`SuperResolver` raises for a stack.
    """
    start = time.perf_counter()
    options = asked = options or InferenceOptions()
    tell = progress or (lambda share: None)
    _check(stacks, force=options.force)
    spacing = _spacing(stacks[0], options, resolver)
    options = options.model_copy(update={"target_spacing": spacing})
    warnings: list[str] = []
    laid: list[_Stack] = []
    reports: list[StackReport] = []
    first: SuperResolution
    total = seen = np.empty(0, np.float32)
    for number, stack in enumerate(stacks):

        def part(share: float, number: int = number) -> None:
            tell(_ALONE * (number + share) / len(stacks))

        missing = Missing.of(stack)
        filled = replace(missing.filled(stack), padding=None)
        alone = resolver(filled, options, progress=part)
        if number == 0:
            first = alone
            _require_room(stacks, alone, resolver)
        grid, image = alone.volume.grid, alone.volume.data[0]
        target = first.volume.grid
        motion, gain, offset, similarity = Motion.none(), 1.0, 0.0, 1.0
        if number:
            fixed = first.volume.data[0]
            motion = register(fixed, target, image, grid)
            moved, inside = _brought(image, grid, target, motion)
            both = inside & (foreground_mask(fixed) | foreground_mask(moved))
            similarity, gain, offset = _compare(fixed[both], moved[both])
            warnings += _doubts(stack, motion, target, similarity, force=options.force)
            image = gain * image + np.float32(offset)
            moved = gain * moved + np.float32(offset)
            total += np.where(inside, moved, 0)
            seen += inside
        else:
            total, seen = image.copy(), np.ones(image.shape, np.float32)
        operator = Acquisition(
            grid.shape, stack.shape, alone.report.thickness.ratio, slice_axis=alone.report.thick_axis
        )
        data = operator.apply(torch.from_numpy(image))
        weight = torch.from_numpy(missing.measured.astype(np.float32))
        laid.append(_Stack(grid, operator, motion, data, weight))
        reports.append(
            StackReport(
                input=describe_input(stack),
                thick_axis=alone.report.thick_axis,
                factor=alone.report.factor,
                thickness=alone.report.thickness,
                sigma=alone.report.sigma,
                correction=alone.report.consistency.correction,
                matrix=tuple(tuple(map(float, row)) for row in motion.matrix),
                rotation=motion.rotation,
                translation=motion.translation(_centre(target)),
                similarity=similarity,
                gain=gain,
                offset=offset,
                residual_of_mean=0.0,
                residual=0.0,
            )
        )
        told = (*stack.warnings, *missing.warnings(stack.data[0]), *alone.report.warnings)
        warnings += [f"{_name(stack, number)}: {text}" for text in dict.fromkeys(told)]
        tell(_ALONE + (_LAID - _ALONE) * (number + 1) / len(stacks))
    warnings += _parallel(stacks)
    mean = total / seen
    del total, seen
    x, before, after = _solve(mean, target, laid, lambda share: tell(_LAID + (1 - _LAID) * share))
    report = CombinationReport(
        **resolver.made(start),
        input=reports[0].input,
        stacks=tuple(
            one.model_copy(update={"residual_of_mean": was, "residual": now})
            for one, was, now in zip(reports, before, after, strict=True)
        ),
        result=ResultReport(shape=target.shape, spacing=target.spacing),
        options=asked,
        steps=_STEPS,
        preprocessing=first.report.preprocessing,
        warnings=tuple(warnings),
    )
    tell(1.0)
    return Combination(replace(first.volume, data=x[None]), report)


# -- the estimate --------------------------------------------------------------------------------------------


def _solve(
    mean: Image, grid: Grid, stacks: Sequence[_Stack], tell: Progress
) -> tuple[Image, list[float], list[float]]:
    """Give the estimate, and each stack's relative residual of the mean and of it."""
    ones = np.ones(mean.shape, np.float32)
    stacks = [
        stack._replace(weight=stack.weight * (_acquired(ones, grid, stack) > _INSIDE)) for stack in stacks
    ]
    del ones
    x = mean  # in place
    gradient, before = _towards(x, grid, stacks)
    direction, size = gradient.copy(), _dot(gradient, gradient)
    for step in range(_STEPS):
        if size == 0:  # all agree already
            break
        curvature = _PRIOR * direction
        for stack in stacks:
            curvature += _back(_acquired(direction, grid, stack), grid, stack)
        length = np.float32(size / _dot(direction, curvature))
        x += length * direction
        gradient -= length * curvature
        new = _dot(gradient, gradient)
        direction *= np.float32(new / size)
        direction += gradient
        size = new
        tell((step + 1) / (_STEPS + 1))
    after = [
        relative_residual(_acquired(x, grid, stack) * stack.weight, stack.data * stack.weight)
        for stack in stacks
    ]
    return x, before, after


def _towards(x: Image, grid: Grid, stacks: Sequence[_Stack]) -> tuple[Image, list[float]]:
    """Give the negative gradient of the stacks' misfit, and their relative residuals."""
    total, residuals = np.zeros_like(x), []
    for stack in stacks:
        acquired = _acquired(x, grid, stack)
        residuals.append(relative_residual(acquired * stack.weight, stack.data * stack.weight))
        total += _back(stack.data - acquired, grid, stack)
    return total, residuals


def _acquired(x: Image, grid: Grid, stack: _Stack) -> Tensor:
    """A_k W_k x."""
    moved = x if grid is stack.grid else warp(x, grid, stack.grid, stack.motion.inverse)
    return stack.operator.apply(torch.from_numpy(moved))


def _back(y: Tensor, grid: Grid, stack: _Stack) -> Image:
    """W_k^T A_k^T y, scaled so that stacks of any factor count alike."""
    factor = float(np.prod([axis.factor for axis in stack.operator.axes]))
    image: Image = (stack.operator.adjoint(y * stack.weight) * factor).numpy()
    return image if grid is stack.grid else warp(image, stack.grid, grid, stack.motion)


def _dot(a: Image, b: Image) -> float:
    return float(np.einsum("ijk,ijk->", a, b, dtype=np.float64))


# -- laying stacks over one another --------------------------------------------------------------------------


def _brought(image: Image, grid: Grid, onto: Grid, motion: Motion) -> tuple[Image, npt.NDArray[np.bool_]]:
    """Give an image on another grid, and where it reaches."""
    inside = warp(np.ones_like(image), grid, onto, motion, order=1) > _INSIDE
    return warp(image, grid, onto, motion), inside


def _compare(fixed: Image, moved: Image) -> tuple[float, float, float]:
    """Give the correlation of two sets of voxels, and gain and offset that bring the second to the first.

    Ratio of the deviations, not a regression, which would take noise in one of them for a weaker contrast.
    """
    if fixed.size < 2 or fixed.std() == 0 or moved.std() == 0:
        return 0.0, 1.0, 0.0
    correlation = float(np.corrcoef(fixed, moved)[0, 1])
    gain = float(fixed.std(dtype=np.float64) / moved.std(dtype=np.float64))
    return correlation, gain, float(fixed.mean(dtype=np.float64) - gain * moved.mean(dtype=np.float64))


def _doubts(stack: Volume, motion: Motion, target: Grid, similarity: float, *, force: bool) -> list[str]:
    """Tell what speaks against a stack.

    Raises:
        InputError: it shows something else.
    """
    if similarity < _DIFFERENT and not force:
        raise InputError(
            f"{_name(stack)}: laid over the first stack it correlates with it by {similarity:.2f} only, so it shows "
            "another person or contrast, or could not be laid over it",
            remedy="give stacks of one person, one contrast and one session, or force it",
            options=("force",),
        )
    doubts = []
    if similarity < _DOUBTFUL:
        doubts.append(
            f"{_name(stack)}: laid over the first stack it correlates with it by {similarity:.2f} only: look whether "
            "person, contrast and registration are right."
        )
    if (far := motion.farthest(target)) > _FAR:
        doubts.append(
            f"{_name(stack)}: was moved by up to {far:.0f} mm to lie over the first stack: look whether it does."
        )
    return doubts


def _parallel(stacks: Sequence[Volume]) -> list[str]:
    """Tell that all slices lie the same way, so that the stacks have little to add to one another."""
    normals = [_slice_normal(stack.grid) for stack in stacks]
    angles = [np.degrees(np.arccos(min(1.0, abs(float(normals[0] @ other))))) for other in normals[1:]]
    if max(angles) >= _PARALLEL:
        return []
    return [
        "the slices of all stacks lie the same way: what one averages away within its slices, the others do too."
    ]


def _slice_normal(grid: Grid) -> npt.NDArray[np.float64]:
    axis = int(np.argmax(grid.spacing))
    return np.asarray(grid.affine[:3, axis] / grid.spacing[axis])


# -- checks --------------------------------------------------------------------------------------------------


def _check(stacks: Sequence[Volume], *, force: bool) -> None:
    """Refuse what can be seen to be wrong before anything is computed."""
    if len(stacks) < 2:
        raise InputError(
            f"{len(stacks)} stack", remedy="give two or more of one person, acquired along different axes"
        )
    for number, stack in enumerate(stacks):
        for other in stacks[:number]:
            if (
                stack.shape == other.shape
                and np.allclose(stack.affine, other.affine, atol=1e-4)
                and np.array_equal(stack.data, other.data, equal_nan=True)
            ):
                raise InputError(
                    f"{_name(stack, number)}: the same stack as {_name(other)}", remedy="give each one once"
                )
    for number, stack in enumerate(stacks[1:], 1):
        share = _overlap(stacks[0].grid, stack.grid)
        if share < _OVERLAP and not force:
            raise InputError(
                f"{_name(stack, number)}: {100 * share:.0f} % of its field of view and of the first stack's are the "
                "same place",
                remedy="give stacks of one session whose headers place them over one another",
            )


def _overlap(first: Grid, second: Grid) -> float:
    """Give what two fields of view have in common, as a share of the smaller one."""
    shares = []
    for one, other in ((first, second), (second, first)):
        steps = [(np.arange(_POINTS) + 0.5) / _POINTS * n - 0.5 for n in one.shape]
        points = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
        there = other.world_to_index(one.index_to_world(points))
        inside = ((there >= -0.5) & (there <= np.array(other.shape) - 0.5)).all(axis=1)
        shares.append(float(inside.mean()))
    return max(shares)


def _spacing(first: Volume, options: InferenceOptions, resolver: SuperResolver) -> float:
    """Give the one voxel size that all stacks are brought to, mm.

    Raises:
        ConfigError: three different ones.
    """
    wanted = requested_spacing(
        first.grid, options.target_spacing, finest=resolver.model.card.spacing_range[0]
    )
    if len(set(wanted)) > 1:
        raise ConfigError(
            f"target_spacing {options.target_spacing}: stacks along different axes are made voxels of one size",
            remedy="give one value in mm",
            options=("target_spacing",),
        )
    return wanted[0]


def _require_room(stacks: Sequence[Volume], first: SuperResolution, resolver: SuperResolver) -> None:
    """Refuse what would not fit into memory, or into what may be used of it, before most of the work is done.

    Raises:
        VolumeError: more than there is.
        ConfigError: more than is allowed.
    """
    voxels = int(np.prod(first.volume.shape))
    needed = voxels * (_ITERATION_BYTES + _WARP_BYTES) + sum(8 * stack.data.size for stack in stacks)
    require_memory(needed, _name(stacks[0]))
    if resolver.max_memory is not None and needed > resolver.max_memory:
        raise ConfigError(
            f"max_memory {resolver.max_memory / 1e9:g} GB: combining needs {needed / 1e9:.3g} GB",
            remedy="allow more or ask for a coarser target_spacing",
            options=("max_memory", "target_spacing"),
        )


def _centre(grid: Grid) -> npt.NDArray[np.float64]:
    return grid.index_to_world((np.array(grid.shape) - 1) / 2)


def _name(stack: Volume, number: int | None = None) -> str:
    return str(stack.source or ("stack" if number is None else f"stack {number + 1}"))
