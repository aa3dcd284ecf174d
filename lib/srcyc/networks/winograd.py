"""Winograd's minimal filtering F(2, 3): a convolution of 3 x 3 x 3 with two thirds of the multiplications.

Two neighbouring columns of the result need four of the image; what is the same for both is computed once. With
d0...d3 the columns and g0, g1, g2 those of the kernel (Lavin, Gray 2016, arXiv:1509.09308, section 4.1)::

    m0 = (d0 - d2) g0                     m1 = (d1 + d2) (g0 + g1 + g2) / 2
    m2 = (d2 - d1) (g0 - g1 + g2) / 2     m3 = (d1 - d3) g2
    y0 = m0 + m1 + m2                     y1 = m1 - m2 - m3

Each product is a convolution of 3 x 1 x 3. For wide layers on a CPU, whose multiplications are all that takes long.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Columns are the second spatial axis.
_COLUMNS = 3
#: Zeros beyond the last axis alone.
_PADDING = (0, 0, 1)
#: Channels from which on the multiplications saved are more than the additions.
_WIDE = 32


def pays(weight: Tensor) -> bool:
    """Tell whether the convolution with ``weight`` ``(C_out, C_in, 3, 3, 3)`` is quicker this way."""
    return weight.device.type == "cpu" and min(weight.shape[:2]) >= _WIDE


def convolution(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """Prepare a convolution with zeros beyond the columns and the last axis, and none beyond the rows.

    Args:
        weight: ``(C_out, C_in, 3, 3, 3)``.
        bias: ``(C_out,)``.

    Returns:
        ``(B, C_in, I, J, K)`` in channels-last -> ``(B, C_out, I - 2, J, K)``; for inference only.
    """
    g0, g1, g2 = weight.detach().to(torch.promote_types(weight.dtype, torch.float32)).split(1, dim=_COLUMNS)
    kernel0, kernel1, kernel2, kernel3 = (
        kernel.to(weight.dtype).contiguous(memory_format=torch.channels_last_3d)
        for kernel in (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2)
    )

    def convolve(x: Tensor) -> Tensor:
        even, odd = x[:, :, :, 0::2], x[:, :, :, 1::2]
        if odd.shape[_COLUMNS] < even.shape[_COLUMNS]:
            odd = torch.cat([odd, torch.zeros_like(even[:, :, :, :1])], dim=_COLUMNS)
        # The odd column before the first and the even one after the last lie beyond the image.
        part = torch.empty_like(even, memory_format=torch.channels_last_3d)
        torch.neg(odd[:, :, :, :1], out=part[:, :, :, :1])
        torch.sub(odd[:, :, :, :-1], odd[:, :, :, 1:], out=part[:, :, :, 1:])
        m0 = F.conv3d(part, kernel0, padding=_PADDING)
        torch.add(even, odd, out=part)
        # Both columns of the result hold m1, hence the bias.
        m1 = F.conv3d(part, kernel1, bias, padding=_PADDING)
        torch.sub(odd, even, out=part)
        m2 = F.conv3d(part, kernel2, padding=_PADDING)
        torch.sub(even[:, :, :, :-1], even[:, :, :, 1:], out=part[:, :, :, :-1])
        part[:, :, :, -1:] = even[:, :, :, -1:]
        m3 = F.conv3d(part, kernel3, padding=_PADDING)
        del part
        b, c, rows, _, k = m1.shape
        y = m1.new_empty(b, rows, x.shape[_COLUMNS], k, c).movedim(-1, 1)
        first, second = y[:, :, :, 0::2], y[:, :, :, 1::2]
        torch.add(m0, m1, out=first).add_(m2)
        known = slice(0, second.shape[_COLUMNS])
        torch.sub(m1[:, :, :, known], m2[:, :, :, known], out=second).sub_(m3[:, :, :, known])
        return y

    return convolve
