"""Layers that the networks share: 2D and 3D by one code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as parametrize_weight_norm
from torch.nn.utils.parametrize import is_parametrized

from srcyc.networks.streaming import Stream, windowed

_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
#: The layout that convolutions are fastest in, by the number of a batch's axes.
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_CONVOLVE = {2: F.conv2d, 3: F.conv3d}


def pad(x: Tensor, width: int | Sequence[int], mode: str) -> Tensor:
    """Pad ``(B, C, *spatial)`` by ``width`` voxels (of each axis), ``"reflect"`` or ``"constant"`` (zeros)."""
    widths = [width] * (x.ndim - 2) if isinstance(width, int) else list(width)
    if mode == "reflect":
        # PyTorch reflects once only; an axis of a few voxels (two slices, three) needs more.
        for axis, (size, side) in enumerate(zip(x.shape[2:], widths, strict=True)):
            if size <= side:
                x = x.index_select(2 + axis, _reflected(size, side, side, x.device))
                widths[axis] = 0
    return F.pad(x, [side for axis_width in reversed(widths) for side in (axis_width, axis_width)], mode=mode)


def pad_planes(x: Tensor, before: int, after: int, mode: str) -> Tensor:
    """Pad the first spatial axis of ``(B, C, *spatial)``, as :func:`pad` does, by another width on either side."""
    if not before and not after:
        return x
    if mode == "reflect":
        return x.index_select(2, _reflected(x.shape[2], before, after, x.device))
    n = x.shape[2]
    padded = x.new_empty(len(x), before + n + after, *x.shape[3:], x.shape[1]).movedim(-1, 1)
    padded[:, :, :before] = 0
    padded[:, :, before : before + n] = x
    padded[:, :, before + n :] = 0
    return padded


def _reflected(n: int, before: int, after: int, device: torch.device) -> Tensor:
    """Indices of an axis of ``n`` voxels extended by reflection about its outer voxel centres."""
    period = max(2 * (n - 1), 1)
    index = torch.arange(-before, n + after, device=device).remainder(period)
    return torch.minimum(index, period - index) if n > 1 else index


class Convolution(nn.Module):
    """Stride-1 convolution that keeps the size, optionally weight-normalised and modulated.

    Weight normalisation: Salimans, Kingma 2016, arXiv:1602.07868. Modulation by feature-wise scale and shift: Perez
    et al. 2018 (FiLM), arXiv:1709.07871.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels in.
        out_channels: channels out.
        kernel_size: odd edge length in voxels.
        weight_norm: normalise the weights.
        transposed: a transposed convolution of stride 1 as the published network's last layer: the same as a
            convolution with the mirrored kernel and *zero* padding; its weights are stored the transposed way.
        condition_features: length of the conditioning vector, 0 for none.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        weight_norm: bool = True,
        transposed: bool = False,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        self.radius = kernel_size // 2
        self.transposed = transposed
        layers = _TRANSPOSED if transposed else _CONVOLUTIONS
        self.conv: nn.Module = layers[spatial_dims](in_channels, out_channels, kernel_size)
        if weight_norm:
            self.conv = parametrize_weight_norm(self.conv)
        with torch.no_grad():
            # He initialisation for PReLU, arXiv:1502.01852, through set_weight, lest weight norm undo it.
            weight: Tensor = self.conv.weight.detach().clone()  # type: ignore[operator]
            # PyTorch takes the second axis for the channels in; transposed weights have them first.
            nn.init.kaiming_normal_(weight.transpose(0, 1) if transposed else weight, a=0.1)
            self.set_weight(weight)
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.modulation: nn.Linear | None = None
        if condition_features:
            self.modulation = nn.Linear(condition_features, 2 * out_channels)
            # Starts as "no modulation": the network then is the unconditioned one.
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def set_weight(self, weight: Tensor) -> None:
        """Assign the weights; under weight norm ``weight`` is derived, so its parts are assigned."""
        if is_parametrized(self.conv, "weight"):
            self.conv.weight = weight
        else:
            self.conv.weight = nn.Parameter(weight)

    @torch.no_grad()
    def scale_weight(self, gain: float) -> None:
        """Multiply the weights, weight-normalised or not, by ``gain``."""
        weight: Tensor = self.conv.weight  # type: ignore[assignment]
        self.set_weight(weight.detach() * gain)

    def kernel(self) -> Tensor:
        """Give the weights as a plain convolution's, ``(out, in, *kernel)``."""
        weight: Tensor = self.conv.weight  # type: ignore[assignment]
        if self.transposed:
            weight = weight.transpose(0, 1).flip(tuple(range(2, weight.ndim)))
        # Weight norm forgets the layout, and the layout of the weights decides that of the features.
        return weight.contiguous(memory_format=CHANNELS_LAST[weight.ndim])

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(B, C_in, *spatial)`` -> ``(B, C_out, *spatial)``."""
        x = pad(x, self.radius, self._beyond)
        if self.modulation is None or condition is None or len(condition) == 1:
            return convolve(x, *self._modulated(condition))
        scale, shift = self.modulation(condition).chunk(2, dim=1)
        y = convolve(x, *self._modulated(None))
        per_voxel = (*scale.shape, *(1,) * (y.ndim - 2))
        return y * (1 + scale).reshape(per_voxel).to(y.dtype) + shift.reshape(per_voxel).to(y.dtype)

    def stream(self, condition: Tensor | None = None) -> Stream:
        """Give the layer, for one ``condition`` ``(1, E)``, for a volume that comes slab by slab."""
        weight, bias = self._modulated(condition)
        r, beyond = self.radius, self._beyond
        return windowed(
            lambda window: convolve(pad(window, (0, r, r), beyond), weight, bias),
            r,
            lambda window, before, after: pad_planes(window, before, after, beyond),
        )

    @property
    def _beyond(self) -> str:
        return "constant" if self.transposed else "reflect"

    def _modulated(self, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give weights and bias; one condition for the batch is in them, which spares two passes over the image."""
        weight, bias = self.kernel(), self.conv.bias
        if self.modulation is not None and condition is not None:
            scale, shift = self.modulation(condition)[0].chunk(2)
            weight = weight * (1 + scale).reshape(-1, *(1,) * (weight.ndim - 1))
            bias = bias * (1 + scale) + shift  # type: ignore[operator]
        return weight, bias  # type: ignore[return-value]


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Valid convolution ``(B, C_in, *spatial)`` -> ``(B, C_out, *smaller)`` with ``weight`` ``(C_out, C_in, *kernel)``.

    CPU libraries compute several channels at once and waste most of their work on a layer that has one. The planes of
    its 3D kernel are made channels of a layer with a flat kernel instead, whose results, shifted, are added up.
    """
    dims = weight.ndim - 2
    if dims == 2 or len(weight) > 1 or x.is_cuda:
        return _CONVOLVE[dims](x, weight, bias)
    planes = weight[0].movedim(1, 0).unsqueeze(2)
    y = F.conv3d(x, planes.contiguous(memory_format=CHANNELS_LAST[5]))
    n = y.shape[2] - len(planes) + 1
    total = y[:, :1, :n].to(torch.promote_types(y.dtype, torch.float32))
    for index in range(1, len(planes)):
        total = total + y[:, index : index + 1, index : index + n]
    return (total + bias).to(y.dtype)


class _ChannelsLastPReLU(torch.autograd.Function):
    """PReLU of a channels-last image, on rows long enough to vectorise.

    PyTorch's CPU kernel broadcasts one slope per channel, in channels-last an inner loop of a few elements that the
    compiler cannot vectorise; forward and backward then cost as much as the convolution between them.
    """

    #: Elements of a row at most.
    ROW = 1024

    @staticmethod
    def rows(x: Tensor) -> Tensor:
        """View a channels-last ``(B, C, *spatial)`` as ``(N, voxels * C)`` without copying."""
        voxels = x.numel() // x.shape[1]
        block = math.gcd(voxels, max(1, _ChannelsLastPReLU.ROW // x.shape[1]))
        return x.movedim(1, -1).reshape(-1, block * x.shape[1])

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        rows = _ChannelsLastPReLU.rows(x)
        slopes = slope.to(x.dtype).repeat(rows.shape[1] // len(slope))
        flat = torch.addcmul(rows.clamp_min(0), slopes, rows.clamp_max(0))
        return flat.reshape(x.movedim(1, -1).shape).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        rows, grad = (
            _ChannelsLastPReLU.rows(t.contiguous(memory_format=CHANNELS_LAST[x.ndim])) for t in (x, grads[0])
        )
        slopes = slope.to(x.dtype).repeat(rows.shape[1] // len(slope))
        above = torch.ops.aten.threshold_backward(grad, rows, 0)
        below = grad - above
        grad_x = torch.addcmul(above, slopes, below)
        # The column sum as a matrix product accumulates in float32.
        summed = grad.new_ones(1, len(grad)) @ (below * rows)
        grad_slope = summed.float().reshape(-1, len(slope)).sum(dim=0).to(slope.dtype)
        return grad_x.reshape(x.movedim(1, -1).shape).movedim(-1, 1), grad_slope


class PReLU(nn.PReLU):
    """Parametric ReLU with a slope per channel (He et al. 2015, arXiv:1502.01852), quick in channels-last on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, *spatial)`` -> the same."""
        if input.is_cuda or not input.is_contiguous(memory_format=CHANNELS_LAST[input.ndim]):
            return super().forward(input)
        result: Tensor = _ChannelsLastPReLU.apply(input, self.weight)
        return result
