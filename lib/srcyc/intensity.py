"""Robust linear intensity scaling with exact inversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

_Array = TypeVar("_Array", npt.NDArray[np.float32], Tensor)

#: Percentiles of the scan that become 0 and 1; the upper one is taken over the foreground only.
LOWER_PERCENTILE = 0.5
UPPER_PERCENTILE = 99.5
#: Normalised intensity above which a voxel is head or brain, not air.
FOREGROUND = 0.1


@dataclass(frozen=True)
class IntensityScaling:
    """``normalised = (raw - offset) / scale``: linear, so bright voxels pass through above 1, never clipped.

    Attributes:
        offset: raw value that becomes 0.
        scale: raw range that becomes 1; positive.
    """

    offset: float
    scale: float

    def normalise(self, raw: _Array) -> _Array:
        """Raw MR units -> normalised intensity, same shape."""
        return (raw - self.offset) / self.scale  # type: ignore[return-value]

    def invert(self, normalised: _Array) -> _Array:
        """Normalised intensity -> raw MR units, same shape."""
        return normalised * self.scale + self.offset  # type: ignore[return-value]


def robust_scaling(data: npt.NDArray[np.float32]) -> IntensityScaling:
    """Find the scaling of one scan, of any shape.

    The foreground is what lies above the scan's mean, a threshold that separates head from air both with and
    without a skull, whatever the share of background.

    Returns:
        scaling that puts the 0.5th percentile at 0 and the foreground's 99.5th at 1; the identity for a constant.
    """
    low = float(np.percentile(data, LOWER_PERCENTILE))
    foreground = data[data > data.mean()]
    high = float(np.percentile(foreground, UPPER_PERCENTILE)) if foreground.size else low
    if high <= low:
        return IntensityScaling(offset=0.0, scale=1.0)
    return IntensityScaling(offset=low, scale=high - low)


def foreground_mask(data: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Mark head or brain: voxels above a tenth of the robust range (any shape, raw or normalised intensity)."""
    scaling = robust_scaling(data)
    return np.asarray(data > scaling.offset + FOREGROUND * scaling.scale)
