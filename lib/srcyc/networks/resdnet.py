"""ResDNet: the pre-activation residual network that estimates what is wrong with an image."""

from __future__ import annotations

from torch import Tensor, nn

from srcyc.networks.layers import Convolution, PReLU
from srcyc.networks.streaming import Stream, chained, pointwise, with_shortcut

#: Edge length of the first and the last convolution, and of those in the blocks.
OUTER_KERNEL = 5
INNER_KERNEL = 3


class ResidualBlock(nn.Module):
    """PReLU - conv - PReLU - conv, with or without the shortcut; no batch normalisation."""

    def __init__(
        self,
        spatial_dims: int,
        features: int,
        *,
        shortcut: bool,
        condition_features: int,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.relu1 = PReLU(features, init=0.1)
        self.conv1 = Convolution(
            spatial_dims, features, features, INNER_KERNEL, condition_features=condition_features
        )
        self.relu2 = PReLU(features, init=0.1)
        self.conv2 = Convolution(spatial_dims, features, features, INNER_KERNEL)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """``(B, F, *spatial)`` -> the same."""
        y = self.conv2(self.relu2(self.conv1(self.relu1(x), condition)))
        return y + x if self.shortcut else y

    def stream(self, condition: Tensor | None) -> Stream:
        """Give the block for a volume that comes slab by slab."""
        branch = chained(
            [
                pointwise(self.relu1),
                self.conv1.stream(condition),
                pointwise(self.relu2),
                self.conv2.stream(),
            ]
        )
        return with_shortcut(branch) if self.shortcut else branch


class ResDNet(nn.Module):
    """Residual estimator of SRResDNet (Umer, Micheloni 2020, arXiv:2009.03693), 2D or 3D.

    Convolution 5, ``depth`` residual blocks of which the first has no shortcut, transposed convolution 5; reflection
    padding, weight normalisation.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels, in and out.
        features: feature channels.
        depth: residual blocks.
        condition_features: length of the conditioning vector that modulates the blocks; 0 as published.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        features: int = 64,
        depth: int = 5,
        *,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.head = Convolution(spatial_dims, in_channels, features, OUTER_KERNEL)
        self.blocks = nn.ModuleList(
            ResidualBlock(
                spatial_dims,
                features,
                shortcut=index > 0,
                condition_features=condition_features,
            )
            for index in range(depth)
        )
        self.tail = Convolution(spatial_dims, features, in_channels, OUTER_KERNEL, transposed=True)

    @property
    def halo(self) -> int:
        """Voxels around a place that its residual depends on (14 at depth 5)."""
        return 2 * (OUTER_KERNEL // 2) + 2 * self.depth * (INNER_KERNEL // 2)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Estimate the residual of an upscaled image.

        Args:
            x: ``(B, C, *spatial)``, normalised intensity.
            condition: ``(B, E)`` conditioning vector.

        Returns:
            ``(B, C, *spatial)``.
        """
        y = self.head(x)
        for block in self.blocks:
            y = block(y, condition)
        return self.tail(y)

    def stream(self, condition: Tensor | None) -> Stream:
        """Give :meth:`forward`, for one ``condition`` ``(1, E)``, for a volume that comes slab by slab."""
        blocks = [block.stream(condition) for block in self.blocks]  # type: ignore[operator]
        return chained([self.head.stream(), *blocks, self.tail.stream()])
