"""SRResDNet, G_HR: upscale, then refine."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from srcyc.config import SRResDNetConfig
from srcyc.errors import ConfigError, ModelError
from srcyc.networks.layers import check_dims
from srcyc.networks.resdnet import ResDNet, condition_mlp
from srcyc.noise import estimate_noise
from srcyc.resampling import Interpolation, resample

#: Length of the conditioning vector of a network that knows the sampling.
CONDITION_FEATURES = 16


class SRResDNet(nn.Module):
    """Super-resolution generator G_HR (Umer, Micheloni 2020, arXiv:2009.03693) for images and volumes.

    ``output = upscaled - projection(ResDNet(upscaled))``. All learned layers run on the output grid, so one network
    serves every real scale factor.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        features: feature channels.
        depth: residual blocks.
        interpolation: how :meth:`forward` upscales; ``"linear"`` as published, or ``"cubic"`` (B-spline).
        knows_sampling: tell the network the scale factor and the slice thickness by feature modulation. Identity
            (factor 1) and super-resolution then are different tasks, not one contradiction.
        initial_alpha: start of the learned scalar of the projection.
        sigma_floor: least noise the projection assumes, in the images' unit; a noise-free scan would otherwise
            forbid every correction.
        clip: range that outputs are clipped to, as published; None carries bright voxels through.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        features: int = 64,
        depth: int = 5,
        *,
        interpolation: Interpolation = "linear",
        knows_sampling: bool = False,
        initial_alpha: float = math.log(2),
        sigma_floor: float = 0.0,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.spatial_dims = check_dims(spatial_dims)
        self.interpolation: Interpolation = interpolation
        self.sigma_floor = sigma_floor
        self.clip = clip
        self.embedding = condition_mlp(2, CONDITION_FEATURES) if knows_sampling else None
        self.resdnet = ResDNet(
            spatial_dims,
            in_channels,
            features,
            depth,
            condition_features=CONDITION_FEATURES if knows_sampling else 0,
        )
        # An untrained network changes the image little.
        self.resdnet.tail.scale_weight(0.04)
        self.alpha = nn.Parameter(torch.tensor([initial_alpha]))

    @classmethod
    def from_config(cls, config: SRResDNetConfig) -> SRResDNet:
        """Build the (untrained) network that a configuration describes."""
        return cls(**config.model_dump())

    @classmethod
    def from_published(cls, path: str | Path) -> SRResDNet:
        """Load the authors' 2D x4 RGB generator (SRResCGAN); images are on 0-255, use ``scale_factor=4``.

        Raises:
            ModelError: not a state dict of that network.
        """
        network = cls(2, 3, 64, 5, initial_alpha=0.0, clip=(0.0, 255.0))
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            network.load_state_dict({_published_key(key): value for key, value in state.items()})
        except OSError as error:
            raise ModelError(
                f"{path}: cannot be read ({error.strerror or error}); give the path of srrescgan_model.pth."
            ) from error
        except (
            *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError),
            pickle.UnpicklingError,
        ) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"{path}: not the published SRResCGAN generator ({reason}); give srrescgan_model.pth."
            ) from error
        return network

    @property
    def halo(self) -> int:
        """Voxels around a tile that its residual depends on."""
        return self.resdnet.halo

    @property
    def knows_sampling(self) -> bool:
        """Whether the network is told the factor and the slice thickness."""
        return self.embedding is not None

    def upscale(self, lr: Tensor, size: Sequence[int]) -> Tensor:
        """Interpolate ``(B, C, *spatial)`` to ``size`` over the same field of view."""
        return resample(lr, size, self.interpolation)

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
            raise ConfigError(f"{values} for an image of {len(spatial)} axes; give one value per axis.")
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
            sigma = estimate_noise(upscaled, self.spatial_dims)
        norm = torch.linalg.vector_norm(residual.float().flatten(1), dim=1)
        gain = self.projection_gain(norm, sigma, residual[0].numel())
        output = upscaled - residual * gain.reshape(-1, *(1,) * (upscaled.ndim - 1))
        return output if self.clip is None else output.clamp(*self.clip)

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
        condition: Tensor = self.embedding(torch.stack(torch.broadcast_tensors(*told), dim=1).log2())
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
        eps = self.alpha.float().exp() * sigma.float().clamp_min(self.sigma_floor) * math.sqrt(count - 1)
        return eps / torch.maximum(norm.float(), eps).clamp_min(torch.finfo(torch.float32).tiny)

    @torch.no_grad()
    def folded(self, factor: float, thickness_ratio: float = 1.0) -> ResDNet:
        """Give a plain copy of the residual estimator for one sampling: no weight norm, no modulation left."""
        network = copy.deepcopy(self.resdnet).eval().requires_grad_(False)
        like = next(self.resdnet.parameters()).new_zeros(1)
        network.fold(self.condition(factor, thickness_ratio, like))
        return network


def _published_key(key: str) -> str:
    """Translate a parameter name of the authors' code (legacy weight norm) into ours."""
    names = {"conv1": "head.conv", "conv_out": "tail.conv"}
    parts = key.split(".")
    if parts[0] != "model":
        return key
    if parts[1] == "layer1":
        place = ["blocks", parts[2], parts[3]]
        if parts[3].startswith("conv"):
            place.append("conv")
        leaf = parts[4]
    else:
        place, leaf = [names[parts[1]]], parts[2]
    leaf = {
        "weight_g": "parametrizations.weight.original0",
        "weight_v": "parametrizations.weight.original1",
    }.get(leaf, leaf)
    return ".".join(["resdnet", *place, leaf])
