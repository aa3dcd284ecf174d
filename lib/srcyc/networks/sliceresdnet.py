"""SliceResDNet, G_HR: refines on the scan's own slices, so that the slices meet the same channels at every factor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from srcyc.networks import winograd
from srcyc.networks.generator import (
    Estimate,
    EstimateStream,
    Generator,
    GeneratorConfig,
    Sampling,
    register,
)
from srcyc.networks.layers import pad_planes
from srcyc.networks.streaming import Stream, chained, pointwise, windowed, with_shortcut

#: Sub-planes per slice that the network sees, and that it predicts.
PLANES_IN, PLANES_OUT = 4, 8
#: Voxels along each in-plane axis that are packed into channels.
PACKING = 2
#: What is left to predict is about this large, in normalised intensity.
_OUTPUT_SCALE = 0.05
#: What the network is told of the sampling is brought to about -1 to 1: log2 of the factor, thickness over spacing.
_TOLD_CENTRE, _TOLD_RANGE = (2.0, 0.9), (1.0, 0.25)
_KERNEL, _RADIUS = 3, 1


class SliceResDNetConfig(GeneratorConfig):
    """Arguments of :class:`SliceResDNet`."""

    name: Literal["sliceresdnet"] = "sliceresdnet"
    features: int = Field(default=64, ge=8, le=1024, multiple_of=8)
    depth: int = Field(default=8, ge=1, le=64)


class VoxelNorm(nn.LayerNorm):
    """Layer normalisation over a voxel's channels (Ba et al. 2016, arXiv:1607.06450): local, so slabs are exact."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, F, *spatial)`` -> the same."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class Convolution(nn.Conv3d):
    """3 x 3 x 3, zeros beyond the image."""

    def __init__(self, in_channels: int, out_channels: int, *, zero: bool = False) -> None:
        super().__init__(in_channels, out_channels, _KERNEL, padding=_RADIUS)
        if zero:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, *spatial)`` -> ``(B, F, *spatial)``."""
        return self._over(input, (_RADIUS, _RADIUS, _RADIUS))

    def _over(self, x: Tensor, padding: tuple[int, int, int]) -> Tensor:
        return F.conv3d(_in_fours(x), _in_fours(self.weight), self.bias, padding=padding)

    def stream(self) -> Stream:
        """Give the layer for an image that comes slab by slab."""
        weight, bias = self.weight, self.bias
        quick = winograd.convolution(weight, bias) if bias is not None and winograd.pays(weight) else None
        return windowed(
            quick or (lambda window: self._over(window, (0, _RADIUS, _RADIUS))),
            _RADIUS,
            lambda window, before, after: pad_planes(window, before, after, "constant"),
        )


def _in_fours(x: Tensor) -> Tensor:
    """Add empty channels up to a multiple of 4 in fp32: oneDNN takes 3.6 times as long for 18 as for 20."""
    more = -x.shape[1] % 4 if x.dtype == torch.float32 else 0
    return F.pad(x, (0, 0, 0, 0, 0, 0, 0, more)) if more else x


class Block(nn.Module):
    """x + conv(SiLU(conv(norm(x)))); the last convolution is zero at the start."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = VoxelNorm(features)
        self.conv1 = Convolution(features, features)
        self.conv2 = Convolution(features, features, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, *spatial)`` -> the same."""
        return x + self.conv2(F.silu(self.conv1(self.norm(x))))  # type: ignore[no-any-return]

    def stream(self) -> Stream:
        """Give the block for an image that comes slab by slab."""
        branch = chained([pointwise(self.norm), self.conv1.stream(), pointwise(F.silu), self.conv2.stream()])
        return with_shortcut(branch)


@register
class SliceResDNet(Generator):
    """Residual generator that works on the scan's own slices; still "upscale, then refine".

    The consistently upscaled scan has :data:`PLANES_IN` sub-planes per slice, whatever the factor. They and 2 x 2
    voxels of each plane are packed into channels, so every layer runs on a grid of ``(I/2, J/2, S)`` for S slices.
    Pre-activation blocks with a normalisation per voxel follow. Out come :data:`PLANES_OUT` sub-planes per slice, r,
    and one value per voxel of the scan, delta. Both are zero before training. One network serves every real factor,
    because the slices meet the same channels at each.

    Args:
        features: feature channels.
        depth: residual blocks.
    """

    Config = SliceResDNetConfig
    config: SliceResDNetConfig

    def __init__(self, **arguments: int | str) -> None:
        super().__init__(**arguments)
        features, packed = self.config.features, PACKING**2
        self.head = Convolution(packed * PLANES_IN + len(_TOLD_CENTRE), features)
        self.blocks = nn.ModuleList(Block(features) for _ in range(self.config.depth))
        self.norm = VoxelNorm(features)
        self.tail = Convolution(features, packed * (PLANES_OUT + 1), zero=True)
        self.to(memory_format=torch.channels_last_3d)

    def planes(self, fine: int, slices: int) -> tuple[int, int]:
        """Sub-planes of the slices, whatever the planes wanted in the end."""
        return PLANES_IN * slices, PLANES_OUT * slices

    @property
    def reach(self) -> int:
        """Two convolutions a block, the first and the last one: so many packed voxels, to the far end of the last."""
        return PACKING * _RADIUS * (2 * self.config.depth + 2) + PACKING - 1

    @property
    def row_step(self) -> int:
        """Rows are packed in pairs."""
        return PACKING

    def features_per_row(self, columns: int, fine: int, slices: int) -> int:
        """A packed row holds all features for two rows of the image."""
        return self.config.features * columns * slices // PACKING**2

    def estimate(self, upscaled: Tensor, samplings: Sequence[Sampling]) -> Estimate:
        """Estimate what is missing.

        Args:
            upscaled: ``(B, 1, I, J, 4 S)``, normalised intensity.
            samplings: one per item.

        Returns:
            r ``(B, 1, I, J, 8 S)`` and delta ``(B, 1, I, J, S)``.
        """
        return self._estimate(upscaled, samplings, self._features)

    def stream(self, sampling: Sampling) -> EstimateStream:
        """Give :meth:`estimate` for one image that comes slab by slab."""
        features = chained(
            [
                self.head.stream(),
                *(block.stream() for block in self.blocks),  # type: ignore[operator]
                pointwise(lambda x: F.silu(self.norm(x))),
                self.tail.stream(),
            ]
        )
        return lambda upscaled, last: self._estimate(upscaled, [sampling], lambda x: features(x, last))

    def _features(self, x: Tensor) -> Tensor:
        x = self.head(x)
        for block in self.blocks:
            x = block(x)
        return self.tail(F.silu(self.norm(x)))  # type: ignore[no-any-return]

    def _estimate(
        self, upscaled: Tensor, samplings: Sequence[Sampling], features: Callable[[Tensor], Tensor]
    ) -> Estimate:
        rows, columns = upscaled.shape[2:4]
        # An odd row or column is packed with a copy of itself.
        even = F.pad(upscaled, (0, 0, 0, columns % PACKING, 0, rows % PACKING), mode="replicate")
        packed = pack(even, PLANES_IN)
        told = torch.stack([_told(sampling) for sampling in samplings]).to(packed)
        constant = told[:, :, None, None, None].expand(-1, -1, *packed.shape[2:])
        x = torch.cat([packed, constant], dim=1).contiguous(memory_format=torch.channels_last_3d)
        y = features(x) * _OUTPUT_SCALE
        between, slices = y.split([PACKING**2 * PLANES_OUT, PACKING**2], dim=1)
        # An odd number of rows ends the image, slab or not.
        known = slice(0, PACKING * y.shape[2] - rows % PACKING)
        return Estimate(
            unpack(between, PLANES_OUT)[:, :, known, :columns], unpack(slices, 1)[:, :, known, :columns]
        )


def pack(image: Tensor, planes: int) -> Tensor:
    """Pack ``(B, 1, I, J, planes S)`` into channels, ``(B, 4 planes, I/2, J/2, S)``; I and J are even."""
    b, _, i, j, p = image.shape
    q = PACKING
    x = image.reshape(b, i // q, q, j // q, q, p // planes, planes)
    return x.permute(0, 2, 4, 6, 1, 3, 5).reshape(b, q * q * planes, i // q, j // q, p // planes)


def unpack(x: Tensor, planes: int) -> Tensor:
    """Undo :func:`pack`."""
    b, _, i, j, s = x.shape
    q = PACKING
    x = x.reshape(b, q, q, planes, i, j, s).permute(0, 4, 1, 5, 2, 6, 3)
    return x.reshape(b, 1, i * q, j * q, s * planes)


def _told(sampling: Sampling) -> Tensor:
    values = (math.log2(sampling.factor), sampling.thickness_ratio)
    return torch.tensor(
        [(v - c) / r for v, c, r in zip(values, _TOLD_CENTRE, _TOLD_RANGE, strict=True)], dtype=torch.float32
    )
