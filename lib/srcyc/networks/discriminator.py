"""PatchGAN discriminators D_HR and D_LR."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from srcyc.errors import ConfigError
from srcyc.schema import Schema


class DiscriminatorConfig(Schema):
    """What a :class:`PatchDiscriminator` is made of."""

    features: int = Field(
        default=16, ge=1, description="channels of the first layer, doubled at each of the next"
    )
    layers: int = Field(default=3, ge=1, description="strided layers; fewer mean smaller patches")
    stride_thick: bool = Field(default=True, description="whether the last (thick) axis is strided too")
    norm: Literal["instance", "none"] = Field(default="instance", description="never in the first layer")


class LowResolutionDiscriminatorConfig(DiscriminatorConfig):
    """The same for D_LR, whose patches are smaller and have a handful of slices."""

    layers: int = Field(default=2, ge=1)
    stride_thick: bool = False


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv:1611.07004): one logit per patch, not one per image.

    Kernels are odd and padded, and the strides may spare the thick axis, because an LR patch has only a handful of
    slices: MONAI's kernel-4 PatchDiscriminator has no valid output there.

    Args:
        arguments: those of :class:`DiscriminatorConfig`; D_LR has fewer layers than D_HR.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        config = DiscriminatorConfig(**arguments)
        self.config = config
        stride = (2, 2, 2 if config.stride_thick else 1)
        #: Voxels along each axis for one logit.
        self.steps = [step**config.layers for step in stride]
        body: list[nn.Module] = []
        width = 1
        for index in range(config.layers + 1):
            out = config.features * 2 ** min(index, 3)
            body.append(nn.Conv3d(width, out, 3, stride=stride if index < config.layers else 1, padding=1))
            if config.norm == "instance" and index > 0:
                body.append(nn.InstanceNorm3d(out, affine=True))
            body.append(nn.LeakyReLU(0.2))
            width = out
        body.append(nn.Conv3d(width, 1, 3, padding=1))
        self.body = nn.Sequential(*body)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 1, I, J, K)`` -> logits ``(B, 1, *patches)``.

        Raises:
            ConfigError: normalised, an image of this size would have a single logit, whatever is in it.
        """
        size = tuple(image.shape[2:])
        if self.config.norm == "instance" and all(
            n <= step for n, step in zip(size, self.steps, strict=True)
        ):
            raise ConfigError(
                f"{self.config.layers} layers of a discriminator leave one value of {size} voxels",
                remedy="set fewer layers of d_hr and d_lr, or a larger data.size",
            )
        return self.body(image)  # type: ignore[no-any-return]
