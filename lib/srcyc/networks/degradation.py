"""DegradationNet, G_LR: learns what a real thick-slice scan does to an HR image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from srcyc.errors import ConfigError
from srcyc.networks.layers import Convolution
from srcyc.networks.learned_acquisition import Degradation, LearnedAcquisition
from srcyc.physics.acquisition import Acquisition
from srcyc.physics.resampling import resample
from srcyc.schema import Schema

Skip = Literal["area", "profile", "learned", "none"]


class DegradationNetConfig(Schema):
    """What a :class:`DegradationNet` is made of.

    Its skip, what the network's own part is added to, is ``profile`` (Gaussian slice profile of the width told),
    ``learned`` (:class:`LearnedAcquisition`: width, in-plane blur and noise are learned, too), ``area`` (box), or
    ``none`` (the paper's form). With ``learned`` that part is zero at the start, and sees the noise.
    """

    features: int = Field(default=16, ge=0, description="feature channels; 0: nothing but the skip")
    blocks: int = Field(default=4, ge=0, description="residual blocks at LR")
    head_kernel: Literal[3, 5, 7] = Field(
        default=5, description="edge of the first convolution (7 in the paper)"
    )
    skip: Skip = "profile"
    norm: bool = Field(default=False, description="instance normalisation in the blocks")

    @model_validator(mode="after")
    def _is_something(self) -> DegradationNetConfig:
        if self.features == 0 and self.skip == "none":
            raise ValueError("a G_LR without features and without a skip has nothing: choose one")
        return self


class _Block(nn.Module):
    """conv - LeakyReLU - conv with a shortcut, optionally instance-normalised."""

    def __init__(self, features: int, *, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for last in (False, True):
            convolution = Convolution(3, features, features, 3, weight_norm=False)
            layers.append(convolution)
            if last:
                # Keeps untrained features from doubling their variance in every block.
                convolution.scale_weight(0.1)
            if norm:
                layers.append(nn.InstanceNorm3d(features, affine=True))
            if not last:
                layers.append(nn.LeakyReLU(0.2))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class DegradationNet(nn.Module):
    """Degradation generator G_LR: head at HR, resampling to the scan's grid, residual blocks and tail at LR.

    After CinCGAN's G3 (Yuan et al. 2018, arXiv:1809.00437), whose two stride-2 convolutions become resampling by
    the scan's own real factor. With the global skip the untrained network already is a plausible degradation.

    Args:
        arguments: those of :class:`DegradationNetConfig`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        config = DegradationNetConfig(**arguments)
        self.skip, features, head_kernel = config.skip, config.features, config.head_kernel
        self.head: nn.Module | None = None
        self.body: nn.Sequential | None = None
        if features:
            self.head = nn.Sequential(
                Convolution(3, 1, features, head_kernel, weight_norm=False),
                nn.LeakyReLU(0.2),
            )
            self.body = nn.Sequential(
                *(_Block(features, norm=config.norm) for _ in range(config.blocks)),
                Convolution(3, features, features, 3, weight_norm=False),
                nn.LeakyReLU(0.2),
                Convolution(3, features, 1, head_kernel, weight_norm=False),
            )
            if self.skip != "none":
                tail: Convolution = self.body[-1]  # type: ignore[assignment]
                tail.scale_weight(0.0 if self.skip == "learned" else 0.01)
        learns = self.skip == "learned"
        self.acquisition = LearnedAcquisition() if learns else None
        self.noise_head = Convolution(3, 1, features, 3, weight_norm=False) if learns and features else None

    @property
    def learned(self) -> Degradation | None:
        """What it found out about the scans; None if its form has nothing of the kind."""
        return None if self.acquisition is None else self.acquisition.learned

    @property
    def is_noisy(self) -> bool:
        """Whether it makes something of the noise it is given."""
        return self.acquisition is not None

    def forward(
        self, hr: Tensor, *, size: Sequence[int], thickness_ratio: float = 1.0, noise: Tensor | None = None
    ) -> Tensor:
        """HR -> fake LR.

        Args:
            hr: ``(B, 1, I, J, K)``, normalised intensity, thick axis last.
            size: LR voxels per axis over the same field of view; equal to the input's at factor 1.
            thickness_ratio: slice thickness over slice spacing, for the skip's slice profile.
            noise: a standard normal field ``(B, 1, *size)`` for the skip ``"learned"``, of which the others make
                nothing; None: without noise.

        Returns:
            ``(B, 1, *size)``.

        Raises:
            ConfigError: a size without a voxel for every axis, or (skips with a profile) above the input's.
        """
        if len(size) != hr.ndim - 2:
            raise ConfigError(
                f"size {tuple(size)} for an image of {hr.ndim - 2} axes", remedy="give one value per axis"
            )
        skipped = self._skipped(hr, size, thickness_ratio, noise)
        if self.head is None or self.body is None:
            return skipped
        features = resample(self.head(hr), size, "area")
        if self.noise_head is not None and noise is not None:
            features = features + self.noise_head(noise)
        return skipped + self.body(features)  # type: ignore[no-any-return]

    def _skipped(
        self, hr: Tensor, size: Sequence[int], thickness_ratio: float, noise: Tensor | None
    ) -> Tensor:
        """Give what the network's own part is added to."""
        if self.acquisition is not None:
            acquired: Tensor = self.acquisition(hr, size=size, thickness_ratio=thickness_ratio, noise=noise)
            return acquired
        if self.skip == "none":
            return hr.new_zeros(())
        if self.skip == "area":
            return resample(hr, size, "area")
        return Acquisition(tuple(hr.shape[2:]), tuple(size), thickness_ratio).apply(hr)
