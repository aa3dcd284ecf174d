"""Robust linear intensity scaling with exact inversion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from torch import Tensor

_Array = TypeVar("_Array", npt.NDArray[np.float32], Tensor)
_Mask = npt.NDArray[np.bool_]

#: Percentiles of the scan that become 0 and 1; the upper one is taken over the foreground only.
LOWER_PERCENTILE = 0.5
UPPER_PERCENTILE = 99.5
#: Normalised intensity above which a voxel is head or brain, not air.
FOREGROUND = 0.1

#: Times the scan's range beyond which a value is absurd: vessels and markers are a few times as bright as tissue.
ABSURD = 5.0
#: The same before the absurd ones are known: this percentile lies within the foreground of all but the emptiest scans.
_FIRST_PERCENTILE, _FIRST_ABSURD = 99.0, 20.0
#: Share of the voxels in one place up to which absurd values are accidents; more of them are an object of the scan.
_FEW, _LEAST_FEW = 1e-3, 16
#: Times as far out as all around them that they are.
_JUMP = 3.0
#: A value that many voxels share exactly is padding if it lies this far from all others, in ranges of theirs.
_PADDING_GAP = 1.0
#: The same for a high one that is no type's limit; and for the only negative one, where 0 is no value.
_HIGH_GAP, _NEGATIVE_GAP = 10.0, 0.5
#: Share of the voxels that have to have it; of a high one that is no type's limit; of the only negative one.
_LEAST_PADDING, _LEAST_HIGH_PADDING, _LEAST_NEGATIVE = 1e-4, 1e-2, 1e-3
#: Different paddings at either end of the values.
_MOST_PADDINGS = 2
#: Bits of the types whose largest value is a usual padding.
_TYPE_BITS = (12, 14, 15, 16, 31, 32)


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


def robust_scaling(data: npt.NDArray[np.float32], measured: _Mask | None = None) -> IntensityScaling:
    """Find the scaling of one scan, of any shape.

    The foreground is what lies above the scan's mean, a threshold that separates head from air both with and
    without a skull, whatever the share of background. Values that are none, padding and absurd ones do not count.

    Args:
        data: raw.
        measured: where voxels count; default: where :func:`meaningless_in` finds nothing.

    Returns:
        scaling that puts the 0.5th percentile at 0 and the foreground's 99.5th at 1; the identity for a constant.
    """
    if measured is None:
        measured = ~np.isnan(data)
        padding, absurd = meaningless_in(data, measured)
        measured &= ~(padding | absurd)
    values = data if measured.all() else data[measured]
    if not values.size:
        return IntensityScaling(offset=0.0, scale=1.0)
    low = float(np.percentile(values, LOWER_PERCENTILE))
    foreground = values[values > values.mean()]
    high = float(np.percentile(foreground, UPPER_PERCENTILE)) if foreground.size else low
    if high <= low:
        return IntensityScaling(offset=0.0, scale=1.0)
    return IntensityScaling(offset=low, scale=high - low)


def foreground_mask(data: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Mark head or brain: voxels above a tenth of the robust range (any shape, raw or normalised intensity)."""
    scaling = robust_scaling(data)
    return np.asarray(data > scaling.offset + FOREGROUND * scaling.scale)


def meaningless_in(data: npt.NDArray[np.float32], measured: _Mask) -> tuple[_Mask, _Mask]:
    """Mark padding, and absurd voxels: see :func:`padding_in` and :func:`absurd_in`.

    Args:
        data: of any shape, raw.
        measured: where to look.
    """
    # A few voxels of one value are accidents first; others are hidden by the range that padding spans.
    absurd = absurd_in(data, measured)
    padding = padding_in(data, measured & ~absurd)
    if padding.any():
        absurd |= absurd_in(data, measured & ~padding & ~absurd)
    return padding, absurd


def padding_in(data: npt.NDArray[np.float32], measured: _Mask) -> _Mask:
    """Mark padding: the lowest or the highest value, if many voxels share it exactly and no others come near it.

    0 is never padding: it is what air and masked surroundings look like.

    Args:
        data: of any shape, raw.
        measured: where to look.
    """
    found = np.zeros(data.shape, bool)
    for lowest in (True, False):
        for value in _padding_values(data[measured & ~found], lowest=lowest):
            found |= measured & (data == value)
    return found


def _padding_values(values: npt.NDArray[np.float32], *, lowest: bool) -> list[float]:
    """Give the lowest or the highest values if they are padding: some files have one for each reason."""
    paddings: list[float] = []
    rest = values
    while rest.size and len(paddings) < _MOST_PADDINGS:
        value = float(rest.min() if lowest else rest.max())
        paddings.append(value)
        count, rest = rest.size, rest[rest != value]
        if value == 0 or not rest.size:
            break
        low, high = (float(part) for part in np.percentile(rest, (LOWER_PERCENTILE, UPPER_PERCENTILE)))
        nearest = float(rest.min() if lowest else rest.max())
        gap, least = _what_pads(value, nearest, lowest=lowest)
        if count - rest.size < max(2.0, least * values.size):
            break
        if high > low and abs(nearest - value) > gap * (high - low):
            return paddings
    return []


def _what_pads(value: float, nearest: float, *, lowest: bool) -> tuple[float, float]:
    """Tell how unlike the others a value has to be to be padding.

    Returns:
        its distance from the nearest other one, in ranges of the others; and the share of the voxels that have it.
    """
    if lowest and value < 0 <= nearest:
        return 0.0 if nearest == 0 else _NEGATIVE_GAP, _LEAST_NEGATIVE
    if lowest:
        return _PADDING_GAP, _LEAST_PADDING
    if value in [2**bits - 1 for bits in _TYPE_BITS]:
        return _PADDING_GAP, _LEAST_PADDING
    return _HIGH_GAP, _LEAST_HIGH_PADDING


def absurd_in(data: npt.NDArray[np.float32], measured: _Mask) -> _Mask:
    """Mark voxels whose value lies so far outside the scan's range that it is an accident: a few in a place.

    Args:
        data: of any shape, raw.
        measured: where to look.
    """
    found = np.zeros(data.shape, bool)
    values = data[measured]
    if not values.size:
        return found
    low, high = (float(part) for part in np.percentile(values, (LOWER_PERCENTILE, _FIRST_PERCENTILE)))
    span = high - low
    if not 0 < span < math.inf or (
        values.max() <= low + ABSURD * span and values.min() >= low - ABSURD * span
    ):
        return found
    found = measured & ((data > high + _FIRST_ABSURD * span) | (data < low - _FIRST_ABSURD * span))
    scaling = robust_scaling(data, measured & ~found)
    limit = ABSURD * scaling.scale
    found = measured & ((data > scaling.offset + limit) | (data < scaling.offset - limit))
    return found & _accidents(np.where(measured, np.abs(data - scaling.offset), 0), found, values.size)


def _accidents(size: npt.NDArray[np.float32], found: _Mask, voxels: int) -> _Mask:
    """Keep of the voxels found those that are few in a place and jump out of what is around them.

    A small bright object is blurred by the scanner: there is something between it and its surroundings.
    """
    regions, count = ndimage.label(found, np.ones((3,) * found.ndim))
    if not count:
        return found
    index = np.arange(1, count + 1)
    around = np.where(found, 0, ndimage.maximum_filter(regions, 3))
    few = np.bincount(regions.ravel(), minlength=count + 1)[1:] <= max(_LEAST_FEW, _FEW * voxels)
    jumps = ndimage.minimum(size, regions, index) > _JUMP * ndimage.maximum(size, around, index)
    return np.asarray(np.concatenate([[False], few & jumps])[regions])
