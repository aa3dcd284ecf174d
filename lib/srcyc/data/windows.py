"""A stretch of thick slices over a whole number of fine voxels, with context beyond either end.

A training patch is cut from a larger scan. Its outer slices are measured, and interpolated, with what lies beyond
them; were the patch treated as a field of view of its own, its ends would be blurred and shifted in a way that no
scan is. Positions are exact for any factor, since the context need not be a whole number of fine voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from srcyc.acquisition import slice_profile_matrix
from srcyc.resampling import Interpolation, Matrix, apply_along, interpolation_matrix


@dataclass(frozen=True)
class Window:
    """Slices along the last axis and the fine voxels they cover.

    Attributes:
        slices: thick slices of the patch.
        fine: fine voxels over exactly the same field of view.
        before: slices of context in front of the patch.
        after: slices of context behind it.
    """

    slices: int
    fine: int
    before: int = 0
    after: int = 0

    @property
    def factor(self) -> float:
        """Thick spacing over fine spacing."""
        return self.fine / self.slices

    @property
    def flipped(self) -> Window:
        """The window of the stack reversed."""
        return Window(self.slices, self.fine, self.after, self.before)

    def margin(self, room: int) -> int:
        """Give the fine voxels beyond either end that context slices need for their profiles, at most ``room``."""
        return min(room, math.ceil((max(self.before, self.after) + 0.5) * self.factor))

    def acquire(self, fine: Tensor, margin: int, thickness_ratio: float) -> Tensor:
        """Measure slices with a Gaussian profile, see :class:`srcyc.acquisition.Acquisition`.

        Args:
            fine: ``(..., I, J, margin + fine + margin)``, any intensity unit; the margin reaches over the context.
            margin: fine voxels beyond either end of the patch.
            thickness_ratio: slice thickness over slice spacing.

        Returns:
            ``(..., I, J, before + slices + after)``.
        """
        return apply_along(fine, _acquisition_matrix(self, margin, thickness_ratio), -1)

    def upscale(self, stack: Tensor, mode: Interpolation) -> Tensor:
        """Interpolate at the fine voxels; ``(..., I, J, before + slices + after)`` -> ``(..., I, J, fine)``."""
        return apply_along(stack, _interpolation_matrix(self, mode), -1)

    def inner(self, stack: Tensor) -> Tensor:
        """Leave the context away; ``(..., I, J, before + slices + after)`` -> ``(..., I, J, slices)``."""
        return stack[..., self.before : self.before + self.slices]


@lru_cache(maxsize=128)
def _acquisition_matrix(window: Window, margin: int, thickness_ratio: float) -> Matrix:
    """Slice profiles over the fine voxels of the window and its margins, rows sum to 1."""
    slices, fine = window.slices, window.fine
    if slices == fine:
        first = margin - window.before
        return np.eye(fine + 2 * margin)[first : first + window.before + slices + window.after]
    # A field of view of whole windows around this one: slices and fine voxels are both whole in it.
    around = math.ceil(max(margin / fine, window.before / slices, window.after / slices))
    count = 2 * around + 1
    whole = slice_profile_matrix(count * fine, count * slices, window.factor * thickness_ratio)
    first, start = around * slices, around * fine
    part = whole[
        first - window.before : first + slices + window.after, start - margin : start + fine + margin
    ]
    # The profile's tail beyond the margins has nothing to average: renormalise what is inside.
    return part / part.sum(axis=1, keepdims=True)


@lru_cache(maxsize=128)
def _interpolation_matrix(window: Window, mode: Interpolation) -> Matrix:
    """Interpolation at the fine voxels' centres, ``(fine, before + slices + after)``; edges as in resampling."""
    n = window.before + window.slices + window.after
    position = (np.arange(window.fine) + 0.5) / window.factor - 0.5 + window.before
    return interpolation_matrix(position, n, mode)
