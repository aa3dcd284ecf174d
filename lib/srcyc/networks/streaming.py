"""Slab streaming of local layers: a volume goes through them a few planes at a time, and no plane is computed twice.

A layer that looks ``r`` voxels far along I remembers the last ``2 r`` planes of its input; a shortcut holds planes
back until the branch beside it has computed theirs. What a layer computes is then what it would compute on the whole
volume, for any slab: the slab's size decides memory and speed only.

Every stream is a function ``push(x, last) -> y``: it takes the next planes ``(1, C, n, J, K)`` along I, and gives
those planes of its output that are now known; with the first push there must be some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Stream = Callable[[Tensor, bool], Tensor]
#: Pads planes: (window, planes before, planes after) -> window with that many more planes.
PlanePadding = Callable[[Tensor, int, int], Tensor]

#: Axis of a batch that is streamed along.
PLANES = 2


def pointwise(layer: Callable[[Tensor], Tensor]) -> Stream:
    """Give the stream of a layer that looks at single voxels."""
    return lambda x, last: layer(x)


def chained(streams: Sequence[Stream]) -> Stream:
    """Give the stream of layers one after the other."""

    def push(x: Tensor, last: bool) -> Tensor:
        for stream in streams:
            x = stream(x, last)
        return x

    return push


def windowed(layer: Callable[[Tensor], Tensor], radius: int, pad: PlanePadding) -> Stream:
    """Give the stream of a layer that looks ``radius`` planes far.

    Args:
        layer: ``n + 2 radius`` planes -> ``n`` planes.
        radius: planes on either side of a place.
        pad: what lies beyond the first and the last plane.
    """
    kept: Tensor | None = None

    def push(x: Tensor, last: bool) -> Tensor:
        nonlocal kept
        window = x if kept is None else torch.cat([kept, x], dim=PLANES)
        window = pad(window, radius if kept is None else 0, radius if last else 0)
        kept = window[:, :, window.shape[PLANES] - 2 * radius :].clone()
        return layer(window)

    return push


def with_shortcut(branch: Stream) -> Stream:
    """Give the stream of ``x + branch(x)``."""
    held: Tensor | None = None

    def push(x: Tensor, last: bool) -> Tensor:
        nonlocal held
        y = branch(x, last)
        waiting = x if held is None else torch.cat([held, x], dim=PLANES)
        count = y.shape[PLANES]
        held = waiting[:, :, count:].clone()
        return y + waiting[:, :, :count]

    return push
