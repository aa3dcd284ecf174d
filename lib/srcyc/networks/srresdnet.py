"""SRResDNet, G_HR: upscale, then refine."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from srcyc.errors import ConfigError
from srcyc.networks.generator import (
    Estimate,
    EstimateStream,
    Generator,
    GeneratorConfig,
    Sampling,
    register,
)
from srcyc.networks.resdnet import ResDNet
from srcyc.networks.weights import read_tensors, require_shapes
from srcyc.physics.noise import estimate_noise
from srcyc.physics.resampling import Interpolation, resample
from srcyc.schema import Limits

#: Length of the conditioning vector of a network that knows the sampling.
CONDITION_FEATURES = 16
#: Names of parameters in the authors' code: of an outer layer, or of one in a block.
_PUBLISHED = re.compile(r"model\.(?:(conv1|conv_out)|layer1\.(\d+)\.(\w+))\.(\w+)")


class SRResDNetConfig(GeneratorConfig):
    """Arguments of :class:`SRResDNet`; interpolation, projection and clipping are those of its call as published."""

    name: Literal["srresdnet"] = "srresdnet"
    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    features: int = Field(default=16, ge=1, le=1024)
    depth: int = Field(default=5, ge=1, le=64)
    interpolation: Interpolation = "linear"
    knows_sampling: bool = True
    initial_alpha: float = math.log(2)
    clip: Limits | None = None

    @property
    def is_for_volumes(self) -> bool:
        """The authors' own is for pictures."""
        return self.spatial_dims == 3 and self.in_channels == 1


@register
class SRResDNet(Generator):
    """Super-resolution generator G_HR (Umer, Micheloni 2020, arXiv:2009.03693) for images and volumes.

    Called as published, it upscales and refines: ``output = upscaled - projection(ResDNet(upscaled))``. As one of the
    product's generators (:meth:`estimate`) it gets the classical inverse of a scan instead of an interpolated image,
    and the projection on what the scan does not see takes the place of the noise-adaptive one. All learned layers run
    on the output grid.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        features: feature channels.
        depth: residual blocks.
        interpolation: how :meth:`forward` upscales; ``"linear"`` as published, or ``"cubic"`` (B-spline).
        knows_sampling: tell the network the scale factor and the slice thickness by feature modulation. Identity
            (factor 1) and super-resolution then are different tasks, not one contradiction.
        initial_alpha: start of the learned scalar of the noise-adaptive projection.
        clip: range that outputs are clipped to, as published; None carries bright voxels through.
    """

    Config = SRResDNetConfig
    config: SRResDNetConfig

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        config = self.config
        told = CONDITION_FEATURES if config.knows_sampling else 0
        self.embedding: nn.Module | None = None
        if told:
            self.embedding = nn.Sequential(nn.Linear(2, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.resdnet = ResDNet(
            config.spatial_dims, config.in_channels, config.features, config.depth, condition_features=told
        )
        # An untrained network changes the image little.
        self.resdnet.tail.scale_weight(0.04)
        self.alpha = nn.Parameter(torch.tensor([config.initial_alpha]))

    @classmethod
    def from_published(cls, path: str | Path) -> SRResDNet:
        """Load the authors' 2D x4 RGB generator (SRResCGAN); images are on 0-255, use ``scale_factor=4``.

        Raises:
            ModelError: not a file with that network's weights.
        """
        network = cls(
            spatial_dims=2,
            in_channels=3,
            features=64,
            knows_sampling=False,
            initial_alpha=0.0,
            clip=(0.0, 255.0),
        )
        state = {_published_key(key): value for key, value in read_tensors(path, ".*").items()}
        require_shapes(state, network.state_dict(), f"{path}: not the published SRResCGAN generator")
        network.load_state_dict(state)
        return network

    def planes(self, fine: int, slices: int) -> tuple[int, int]:
        """It works on the grid that is wanted."""
        return fine, fine

    @property
    def reach(self) -> int:
        """That of the residual estimator."""
        return self.resdnet.halo

    def features_per_row(self, columns: int, fine: int, slices: int) -> int:
        """Every voxel wanted has all features."""
        return self.config.features * columns * fine

    def estimate(self, upscaled: Tensor, samplings: Sequence[Sampling]) -> Estimate:
        """Estimate what is missing; the slices themselves are trusted.

        Args:
            upscaled: ``(B, 1, I, J, K)``, normalised intensity.
            samplings: one per item.
        """
        return Estimate(-self.resdnet(upscaled, self._told(samplings, upscaled)), None)

    def stream(self, sampling: Sampling) -> EstimateStream:
        """Give :meth:`estimate` for one image that comes slab by slab."""
        residual = self.resdnet.stream(self._told([sampling], self.alpha))
        return lambda upscaled, last: Estimate(-residual(upscaled, last), None)

    def _told(self, samplings: Sequence[Sampling], like: Tensor) -> Tensor | None:
        factors = torch.tensor([sampling.factor for sampling in samplings])
        ratios = torch.tensor([sampling.thickness_ratio for sampling in samplings])
        return self.condition(factors, ratios, like)

    def upscale(self, lr: Tensor, size: Sequence[int]) -> Tensor:
        """Interpolate ``(B, C, *spatial)`` to ``size`` over the same field of view."""
        return resample(lr, size, self.config.interpolation)

    def forward(
        self,
        lr: Tensor,
        *,
        size: Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        thickness_ratio: float | Tensor = 1.0,
        sigma: Tensor | None = None,
    ) -> Tensor:
        """LR -> fake HR.

        Args:
            lr: ``(B, C, *spatial)``.
            size: output voxels per axis; or
            scale_factor: one real factor for every axis, or one per axis (sizes are rounded).
            thickness_ratio: slice thickness over slice spacing, one value or ``(B,)``.
            sigma: noise standard deviation ``(B,)``; default: estimated, see :meth:`refine`.

        Returns:
            ``(B, C, *size)``.

        Raises:
            ConfigError: not exactly one of ``size`` and ``scale_factor``, not one value per axis, no voxel left.
        """
        spatial = lr.shape[2:]
        if (size is None) == (scale_factor is None):
            raise ConfigError("give either size or scale_factor.")
        wanted = size if scale_factor is None else scale_factor
        values = (wanted,) * len(spatial) if isinstance(wanted, (int, float)) else tuple(wanted or ())
        if len(values) != len(spatial):
            raise ConfigError(
                f"{values} for an image of {len(spatial)} axes", remedy="give one value per axis"
            )
        size = [round(v if scale_factor is None else n * v) for n, v in zip(spatial, values, strict=True)]
        factor = max(out / n for out, n in zip(size, spatial, strict=True))
        return self.refine(
            self.upscale(lr, size), factor=factor, thickness_ratio=thickness_ratio, sigma=sigma
        )

    def refine(
        self,
        upscaled: Tensor,
        *,
        factor: float | Tensor = 1.0,
        thickness_ratio: float | Tensor = 1.0,
        sigma: Tensor | None = None,
    ) -> Tensor:
        """Remove what is wrong with an image that is on the HR grid already.

        Args:
            upscaled: ``(B, C, *spatial)``.
            factor: by how much its thick axis (the last one) was enlarged; 1 means it is an HR image.
            thickness_ratio: slice thickness over slice spacing.
            sigma: noise standard deviation ``(B,)``; default: estimated on ``upscaled``, as published.

        Returns:
            ``(B, C, *spatial)``.
        """
        condition = self.condition(factor, thickness_ratio, upscaled)
        residual = self.resdnet(upscaled, condition)
        if sigma is None:
            sigma = estimate_noise(upscaled, self.config.spatial_dims)
        norm = torch.linalg.vector_norm(residual.float().flatten(1), dim=1)
        gain = self.projection_gain(norm, sigma, residual[0].numel())
        output = upscaled - residual * gain.reshape(-1, *(1,) * (upscaled.ndim - 1))
        return output if self.config.clip is None else output.clamp(*self.config.clip)

    def condition(
        self, factor: float | Tensor, thickness_ratio: float | Tensor, like: Tensor
    ) -> Tensor | None:
        """Embed the sampling on the device of ``like``; None for a network that is not told.

        Returns:
            ``(1, E)`` for one sampling of the whole batch, ``(B, E)`` for tensors ``(B,)``.
        """
        if self.embedding is None:
            return None
        told = [
            torch.as_tensor(value, dtype=torch.float32, device=like.device).reshape(-1)
            for value in (factor, thickness_ratio)
        ]
        condition: Tensor = self.embedding(
            torch.stack(torch.broadcast_tensors(*told), dim=1).log2().to(self.alpha)
        )
        return condition

    def projection_gain(self, norm: Tensor, sigma: Tensor, count: int) -> Tensor:
        """Give the factor of the noise-adaptive L2 projection, ``eps / max(||r||, eps)``.

        ``eps = exp(alpha) sigma sqrt(N - 1)`` (Lefkimmiatis 2018, arXiv:1711.07807). It depends on the whole image:
        tiles share one gain.

        Args:
            norm: L2 norm of each image's residual ``(B,)``.
            sigma: its noise standard deviation ``(B,)``, same unit.
            count: values per image, N.

        Returns:
            ``(B,)``, at most 1.
        """
        eps = self.alpha.float().exp() * sigma.float() * math.sqrt(count - 1)
        return eps / torch.maximum(norm.float(), eps).clamp_min(torch.finfo(torch.float32).tiny)


def _published_key(key: str) -> str:
    """Translate a parameter name of the authors' code (legacy weight norm) into ours."""
    if (match := _PUBLISHED.fullmatch(key)) is None:
        return key
    outer, block, layer, leaf = match.groups()
    inner = f"blocks.{block}.{layer}{'.conv' if str(layer).startswith('conv') else ''}"
    place = {"conv1": "head.conv", "conv_out": "tail.conv"}.get(outer, inner)
    norm = {"weight_g": ".original0", "weight_v": ".original1"}
    leaf = f"parametrizations.weight{norm[leaf]}" if leaf in norm else leaf
    return f"resdnet.{place}.{leaf}"
