"""How much neighbouring slices differ in brightness, and how far a correction of them may go."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]

#: Normalised intensity above which slices are compared.
_HEAD = 0.15
#: Shares of a correction that are tried, one after the other.
_STEPS = (1.0, 0.5, 0.25)


def slice_gain(slices: Image) -> float | None:
    """Measure by how much neighbouring slices differ in brightness, which shows as bands across a result.

    g_i = median over the head of (2 c_i - c_(i-1) - c_(i+1)) / 2 c_i for the slices c_i; the root mean square of g_i
    over the middle half of the slices. The head is where all three slices are above 0.15 of the range. Of a result x,
    the slices are A x. About 1 % is anatomy.

    Args:
        slices: ``(I, J, S)``, slice axis last, normalised intensity; by the scan's own scaling for all results
            compared with it.

    Returns:
        per cent; None if there is no slice with two neighbours and a head in it.
    """
    c, count = slices, slices.shape[2]
    gains = []
    for i in range(max(1, count // 4), min(count - 1, count - count // 4)):
        before, own, after = (c[..., n] for n in (i - 1, i, i + 1))
        head = np.minimum(np.minimum(before, own), after) > _HEAD
        if head.any():
            middle, around = own[head].astype(np.float64), before[head].astype(np.float64) + after[head]
            gains.append(float(np.median((2 * middle - around) / (2 * middle))))
    return 100 * math.sqrt(float(np.mean(np.square(gains)))) if gains else None


def correction_share(slices: Image, correction: Image, before: float | None) -> float:
    """Tell how much of a correction of the slices may be made: what is meant to make them agree must do so.

    The whole, or else the first of a half, a quarter and nothing by which the slice-to-slice gain does not rise
    (step halving, as in a backtracking line search: Armijo 1966).

    Args:
        slices: ``(I, J, S)``, slice axis last, normalised intensity.
        correction: delta, the same.
        before: slice-to-slice gain of the slices; None: nobody can tell, and the whole may be made.
    """
    if before is None or not correction.any():
        return 1.0
    for share in _STEPS:
        after = slice_gain(slices + np.float32(share) * correction)
        if after is not None and after <= before:
            return share
    return 0.0
