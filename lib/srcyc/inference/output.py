"""What a result is written as."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from srcyc.volume import Volume


def fit_type(volume: Volume, dtype: np.dtype[Any]) -> tuple[Volume, list[str]]:
    """Bring voxels into the range of an integer type, and tell how many were outside.

    Returns:
        the volume with its values limited to the type's range, and a warning if any was outside.
    """
    limits = np.iinfo(dtype)
    rounded = np.rint(volume.data)
    outside = int(np.count_nonzero((rounded < limits.min) | (rounded > limits.max)))
    if not outside:
        return volume, []
    low, high = float(volume.data.min()), float(volume.data.max())
    # The largest float32 inside the range: 2**31 - 1 itself would be rounded up, out of it.
    top = np.float32(limits.max)
    if int(top) > limits.max:
        top = np.nextafter(top, np.float32(0))
    data = np.clip(volume.data, np.float32(limits.min), top)
    warning = (
        f"{outside} of {volume.data.size} voxels ({low:g} to {high:g}) lie outside {dtype} "
        f"({limits.min} to {limits.max}) and were set to its limits; write float32 to keep them."
    )
    return replace(volume, data=data), [warning]
