"""Exact tiling of the residual estimator: a volume goes through it slab by slab and no voxel is computed twice.

Cutting a volume into boxes with a halo is exact too, but at the product's depth a 64-voxel box recomputes as much as
it keeps. Slabs along one axis need no halo: every layer remembers the few planes that its next slab will see. What a
layer computes is what it would compute on the whole volume, so the slab's depth changes memory and speed only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srcyc.errors import ConfigError, VolumeError
from srcyc.networks import ResDNet
from srcyc.networks.layers import Convolution

#: Fewest planes per slab: the first one has to fill the widest layer's reflection.
SMALLEST_SLAB = 4
#: Reflection by two voxels needs this many along every axis.
SMALLEST_AXIS = 3
#: Output voxels that the last layer computes at once along J and along K.
_BLOCK = 4

Progress = Callable[[float], None]


@dataclass(frozen=True)
class _Layer:
    """One convolution ready to run: kernel ``(out, in, *kernel)``, the slope of the PReLU before it, its padding."""

    weight: Tensor
    bias: Tensor
    radius: int
    slope: Tensor | None = None
    zero_padding: bool = False

    @classmethod
    def of(
        cls, layer: Convolution, relu: nn.PReLU | None, device: torch.device, dtype: torch.dtype
    ) -> _Layer:
        bias: Tensor = layer.conv.bias  # type: ignore[assignment]
        return cls(
            _channels_last(layer.kernel().to(device, dtype)),
            bias.to(device, dtype),
            layer.radius,
            None if relu is None else relu.weight.to(device, dtype),
            zero_padding=layer.transposed,
        )


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last_3d)


class SlabNetwork:
    """A folded 3D :class:`ResDNet` for one device and precision, applied to whole volumes in slabs.

    Features are kept as ``(planes, J, K, F)``, channels last. The first and the last layer have one channel on one
    side, which convolution libraries handle badly, so that side gets more: the taps of the first kernel along I
    become input channels, and a block of neighbouring voxels becomes the last layer's output channels.

    Args:
        network: without weight norm and modulation (:meth:`srcyc.networks.SRResDNet.folded`), one image channel.
        device: where slabs are computed.
        dtype: floating-point type of weights and features.
    """

    def __init__(self, network: ResDNet, device: torch.device, dtype: torch.dtype) -> None:
        if network.spatial_dims != 3 or network.head.conv.weight.shape[1] != 1:  # type: ignore[union-attr,index]
            raise ConfigError("slabs are for 3D networks of one channel; give such a network.")
        self.device, self.dtype = device, dtype
        self.latency = network.halo
        head = _Layer.of(network.head, None, device, dtype)
        # (F, 1, kI, kJ, kK) -> (F, kI, 1, kJ, kK)
        self._head = _Layer(_channels_last(head.weight.transpose(1, 2)), head.bias, head.radius)
        self._blocks = [
            (
                _Layer.of(block.conv1, block.relu1, device, dtype),  # type: ignore[union-attr,arg-type]
                _Layer.of(block.conv2, block.relu2, device, dtype),  # type: ignore[union-attr,arg-type]
                bool(block.shortcut),
            )
            for block in network.blocks
        ]
        tail = _Layer.of(network.tail, None, device, dtype)
        self._tail = _Layer(
            _blocked(tail.weight), tail.bias.expand(_BLOCK**2), tail.radius, zero_padding=tail.zero_padding
        )

    @property
    def features(self) -> int:
        """Feature channels."""
        return int(self._head.weight.shape[0])

    def slab_bytes(self, plane: int) -> int:
        """Memory that every plane of ``plane`` voxels in a slab costs: padded input, output and a copy, and image."""
        return plane * (3 * self.features * self.dtype.itemsize + 24)

    def held_bytes(self, plane: int) -> int:
        """Memory for the planes that the layers remember between slabs, and for filling and emptying them."""
        remembered = 2 * self.latency * plane * self.features * self.dtype.itemsize
        return remembered + self.latency * self.slab_bytes(plane)

    @torch.inference_mode()
    def __call__(self, image: Tensor, out: Tensor, *, slab: int, progress: Progress | None = None) -> Tensor:
        """Estimate the residual of an image that ends on every side.

        Args:
            image: ``(I, J, K)``, at least 3 voxels along each axis, any device and floating-point type.
            out: ``(I, J, K)``, receives the residual.
            slab: planes along I per step.
            progress: called with the share done.

        Returns:
            ``out``.

        Raises:
            VolumeError: an axis under 3 voxels.
        """
        if min(image.shape) < SMALLEST_AXIS:
            size = " x ".join(map(str, image.shape))
            raise VolumeError(
                f"an image of {size} voxels is too thin for the network; give one of at least {SMALLEST_AXIS} along "
                "each axis."
            )
        slab = max(slab, SMALLEST_SLAB)
        streams = _Streams(self, image.shape[1:])
        n, written = image.shape[0], 0
        # The first slab also fills all the layers, so every later one gives as many planes as it gets.
        start, stop = 0, min(n, slab + self.latency)
        while start < n:
            planes = image[start:stop].to(self.device, self.dtype)
            residual = streams.push(planes, last=stop == n)
            out[written : written + residual.shape[0]] = residual.to(out.device, out.dtype)
            written += residual.shape[0]
            start, stop = stop, min(n, stop + slab)
            if progress is not None:
                progress(written / n)
        return out


def _blocked(weight: Tensor) -> Tensor:
    """Turn a kernel ``(1, F, k, k, k)`` into one ``(b * b, F, k, k + b - 1, k + b - 1)`` for stride b along J and K.

    Output channel ``b * j + k`` is the voxel at ``(j, k)`` of the block.
    """
    size = weight.shape[-1]
    blocked = weight.new_zeros(_BLOCK**2, *weight.shape[1:3], size + _BLOCK - 1, size + _BLOCK - 1)
    for j in range(_BLOCK):
        for k in range(_BLOCK):
            blocked[_BLOCK * j + k, ..., j : j + size, k : k + size] = weight[0]
    return _channels_last(blocked)


class _Streams:
    """The state of one pass: what every layer remembers between slabs."""

    def __init__(self, network: SlabNetwork, plane: torch.Size) -> None:
        new = _Window
        self._head = new(network._head)
        self._blocks = [
            (new(first), new(second), _Delay() if shortcut else None)
            for first, second, shortcut in network._blocks
        ]
        self._tail = new(network._tail)
        self._scratch = _Scratch(network.device, network.dtype)
        self._plane = plane

    def push(self, planes: Tensor, *, last: bool) -> Tensor:
        """Take the next planes ``(n, J, K)`` of the image and give the residual's planes that are now known."""
        x = self._convolve_head(planes, last)
        for first, second, delay in self._blocks:
            y = first.convolve(first.fill(x, last, self._scratch))
            y = second.convolve(second.fill(y, last, self._scratch))
            if delay is not None:
                delay.add(y, x)
            x = y
        return self._convolve_tail(x, last)

    def _convolve_head(self, planes: Tensor, last: bool) -> Tensor:
        window = self._head.fill(planes[..., None], last, self._scratch)
        taps = window[..., 0].unfold(0, 2 * self._head.layer.radius + 1, 1)
        return self._head.convolve(taps.contiguous())

    def _convolve_tail(self, x: Tensor, last: bool) -> Tensor:
        j, k = self._plane
        window = self._tail.fill(x, last, self._scratch, extra=(-j % _BLOCK, -k % _BLOCK))
        blocks = self._tail.convolve(window, stride=(1, _BLOCK, _BLOCK))
        n, rows, columns, _ = blocks.shape
        image = blocks.reshape(n, rows, columns, _BLOCK, _BLOCK).transpose(2, 3)
        return image.reshape(n, rows * _BLOCK, columns * _BLOCK)[:, :j, :k]


class _Scratch:
    """Memory that the padded inputs of all layers share, one after the other: it stays in the processor's cache."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._memory = torch.empty(0, device=device, dtype=dtype)

    def take(self, *shape: int) -> Tensor:
        count = math.prod(shape)
        if self._memory.numel() < count:
            self._memory = self._memory.new_empty(count)
        return self._memory[:count].view(shape)


class _Window:
    """The padded input of one layer, plane by plane."""

    def __init__(self, layer: _Layer) -> None:
        self.layer = layer
        self._kept: Tensor | None = None

    def fill(self, x: Tensor, last: bool, scratch: _Scratch, *, extra: tuple[int, int] = (0, 0)) -> Tensor:
        """Lay the activated planes ``x`` ``(n, J, K, F)`` after those kept, padded where the image ends.

        Args:
            x: the next planes.
            last: the image ends after them.
            scratch: where the result lies until the next use of it.
            extra: more zeros at the high sides of J and K.

        Returns:
            ``(planes, J + 2r + extra, K + 2r + extra, F)`` for a valid convolution.
        """
        r, (n, j, k, features) = self.layer.radius, x.shape
        before = r if self._kept is None else self._kept.shape[0]
        size = before + n + (r if last else 0)
        window = scratch.take(size, j + 2 * r + extra[0], k + 2 * r + extra[1], features)
        new = window[before : before + n]
        self._activate(x, new[:, r : r + j, r : r + k])
        self._pad(new, 1, j)
        self._pad(new, 2, k)
        if self._kept is None:
            self._mirror(window, 0, r, 1)
        else:
            window[:before] = self._kept
        if last:
            self._mirror(window, 0, before + n - 1, -1)
        self._kept = None if last else window[-2 * r :].clone()
        return window

    def convolve(self, window: Tensor, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        """Convolve ``(planes, J', K', F)``; ``(planes - 2r, J, K, F)`` comes back."""
        y = F.conv3d(window.permute(3, 0, 1, 2)[None], self.layer.weight, self.layer.bias, stride=stride)
        return y[0].permute(1, 2, 3, 0)

    def _activate(self, x: Tensor, out: Tensor) -> None:
        slope = self.layer.slope
        if slope is None:
            out.copy_(x)
        elif bool((slope <= 1).all()):
            # max(x, a x): torch's own bf16 PReLU costs as much as a convolution.
            n, j, k, features = x.shape
            x, out = x.reshape(n, j, k * features), out.view(n, j, k * features)
            torch.mul(x, slope.repeat(k), out=out)
            torch.maximum(x, out, out=out)
        else:
            out.copy_(torch.where(x > 0, x, x * slope))

    def _pad(self, window: Tensor, axis: int, size: int) -> None:
        """Pad the ``size`` voxels in the middle of an axis on both sides."""
        r = self.layer.radius
        self._mirror(window, axis, r, 1)
        self._mirror(window, axis, r + size - 1, -1)
        if self.layer.zero_padding:
            window.narrow(axis, r + size, window.shape[axis] - r - size).zero_()

    def _mirror(self, window: Tensor, axis: int, edge: int, inwards: int) -> None:
        """Fill the ``r`` voxels outside ``edge`` by reflection, or by zeros."""
        for distance in range(1, self.layer.radius + 1):
            outside = window.select(axis, edge - inwards * distance)
            if self.layer.zero_padding:
                outside.zero_()
            else:
                outside.copy_(window.select(axis, edge + inwards * distance))


class _Delay:
    """A shortcut: holds planes back until the branch beside it has computed theirs."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def add(self, branch: Tensor, x: Tensor) -> None:
        """Take the next planes ``x``, and add to ``branch`` in place the earliest ones not yet added."""
        held = 0
        if self._held is not None:
            held = min(self._held.shape[0], branch.shape[0])
            branch[:held] += self._held[:held]
        rest = branch.shape[0] - held
        branch[held:] += x[:rest]
        later = [] if self._held is None else [self._held[held:]]
        self._held = torch.cat([*later, x[rest:]])
