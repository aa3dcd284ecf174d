"""PatchGAN discriminators D_HR and D_LR."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from srcyc.errors import ConfigError
from srcyc.schema import Schema


class DiscriminatorConfig(Schema):
    """Arguments of :class:`PatchDiscriminator`."""

    features: int = Field(default=16, ge=1)
    layers: int = Field(default=3, ge=1)
    stride_thick: bool = True
    norm: Literal["instance", "none"] = "instance"


class LowResolutionDiscriminatorConfig(DiscriminatorConfig):
    """The same for D_LR, whose patches are smaller and have a handful of slices."""

    layers: int = Field(default=2, ge=1)
    stride_thick: bool = False


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv:1611.07004): one logit per patch, not one per image.

    Kernels are odd and padded, and the strides may spare the thick axis, because an LR patch has only a handful of
    slices: MONAI's kernel-4 PatchDiscriminator has no valid output there.

    Args:
        features: channels of the first layer, doubled at each of the next.
        layers: strided layers; fewer mean smaller patches (D_LR gets fewer than D_HR).
        stride_thick: whether the last (thick) axis is strided too.
        norm: ``"instance"`` or ``"none"``; never in the first layer.
    """

    def __init__(
        self,
        features: int = 64,
        layers: int = 3,
        *,
        stride_thick: bool = True,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        if norm not in ("instance", "none"):
            raise ConfigError(f"norm is {norm!r}", remedy="discriminators have 'instance' or 'none'")
        stride = (2, 2, 2 if stride_thick else 1)
        body: list[nn.Module] = []
        width = 1
        for index in range(layers + 1):
            out = features * 2 ** min(index, 3)
            body.append(nn.Conv3d(width, out, 3, stride=stride if index < layers else 1, padding=1))
            if norm == "instance" and index > 0:
                body.append(nn.InstanceNorm3d(out, affine=True))
            body.append(nn.LeakyReLU(0.2))
            width = out
        body.append(nn.Conv3d(width, 1, 3, padding=1))
        self.body = nn.Sequential(*body)

    @classmethod
    def from_config(cls, config: DiscriminatorConfig) -> PatchDiscriminator:
        """Build the (untrained) network that a configuration describes."""
        return cls(**config.model_dump())

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 1, I, J, K)`` -> logits ``(B, 1, *patches)``."""
        return self.body(image)  # type: ignore[no-any-return]
