"""Configuration schemas: frozen, unknown keys refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Skip = Literal["area", "profile", "none"]


class Schema(BaseModel):
    """Base of all configuration: immutable, no key that is not declared, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("give the lower limit first")
    return limits


#: Lower and upper limit, equal ones for a single value.
Limits = Annotated[tuple[float, float], AfterValidator(_ordered)]
#: The same for a factor of the slice spacing, which never is below 1.
FactorLimits = Annotated[tuple[Annotated[float, Field(ge=1)], float], AfterValidator(_ordered)]
#: The same for slice thickness over slice spacing, as :class:`srcyc.acquisition.Acquisition` takes it.
RatioLimits = Annotated[
    tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(le=2)]], AfterValidator(_ordered)
]


class SRResDNetConfig(Schema):
    """Arguments of :class:`srcyc.networks.SRResDNet`; the default is the shipped product's network."""

    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    features: int = Field(default=16, ge=1)
    depth: int = Field(default=5, ge=1)
    interpolation: Literal["linear", "cubic"] = "cubic"
    knows_sampling: bool = True
    # exp(alpha) = 100: as in the published weights, the projection only stops gross errors.
    initial_alpha: float = math.log(100)
    # A quantisation step of an 8-bit image.
    sigma_floor: float = Field(default=1 / 255, ge=0)
    clip: Limits | None = None


class DegradationNetConfig(Schema):
    """Arguments of :class:`srcyc.networks.DegradationNet`."""

    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    features: int = Field(default=16, ge=1)
    blocks: int = Field(default=4, ge=0)
    head_kernel: Literal[3, 5, 7] = 5
    skip: Skip = "profile"
    norm: bool = False


class DiscriminatorConfig(Schema):
    """Arguments of :class:`srcyc.networks.PatchDiscriminator`."""

    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    features: int = Field(default=16, ge=1)
    layers: int = Field(default=3, ge=1)
    stride_thick: bool = True
    norm: Literal["instance", "none"] = "instance"


class LowResolutionDiscriminatorConfig(DiscriminatorConfig):
    """The same for D_LR, whose patches are smaller and have a handful of slices."""

    layers: int = Field(default=2, ge=1)
    stride_thick: bool = False


class PatchConfig(Schema):
    """How training patches are drawn and augmented (``data:`` in a training file)."""

    size: int = Field(default=48, ge=16, description="HR patch edge, voxels")
    batch_size: int = Field(default=2, ge=1)
    factor_range: FactorLimits = (1.5, 8.0)
    thickness_ratio_range: RatioLimits = (0.6, 1.0)
    gap_chance: float = Field(default=0.2, ge=0, le=1)
    noise_chance: float = Field(default=0.2, ge=0, le=1)
    largest_noise: float = Field(default=0.02, ge=0, description="normalised intensity")
    random_contrast: bool = True
    least_slices: int = Field(default=6, ge=3, description="fewest slices of an LR patch")
    validation_fraction: float = Field(default=0.2, ge=0, lt=1, description="share of persons held back")
    held_back: tuple[str, ...] = Field(default=(), description="persons held back, instead of a draw")


class LossWeights(Schema):
    """Weights of the generators' loss terms; a term of weight 0 costs nothing."""

    lambda_adversarial: float = Field(default=1.0, ge=0)
    lambda_cycle: float = Field(default=10.0, ge=0)
    lambda_identity: float = Field(default=5.0, ge=0)
    lambda_content: float = Field(default=0.0, ge=0)
    lambda_perceptual: float = Field(default=0.0, ge=0)
    lambda_tv: float = Field(default=0.0, ge=0)


class PerceptualConfig(Schema):
    """Feature network of the perceptual loss (``perceptual:`` in a training file)."""

    backbone: Literal["vgg19", "vgg16"] = "vgg19"
    layer: str | None = Field(default=None, description="e.g. conv5_4; default: the last of the backbone")
    weights: Path | None = Field(default=None, description="local file; default: torchvision's download")
    slices_per_axis: int | None = Field(default=4, ge=1)


class OptimiserConfig(Schema):
    """Adam with warm-up, then cosine decay (``optimiser:`` in a training file)."""

    learning_rate: float = Field(default=1e-3, gt=0)
    discriminator_learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    warm_up: int = Field(default=100, ge=0, description="steps")
    final_fraction: float = Field(
        default=0.02, ge=0, le=1, description="of the learning rate at the last step"
    )
    gradient_clip: float = Field(default=1.0, gt=0, description="L2 norm over a network's gradients")
    ema_decay: float = Field(default=0.999, ge=0, lt=1)


class ValidationConfig(Schema):
    """Simulated thick slices of held-back HR persons (``validation:`` in a training file)."""

    thicknesses: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(3.0, 5.0), description="slice thickness, mm"
    )
    crop: int = Field(default=96, ge=32, description="edge of the central crop that is scored, voxels")


class CardConfig(Schema):
    """What the published model's card says of it (``card:`` in a training file)."""

    name: str = "srcyc-custom"
    title: str = "Retrained SRCyc model"
    contrasts: tuple[str, ...] = ()
    trained_on: str = ""
    licence: str = "not stated"


class TrainingConfig(Schema):
    """All of a training run; ``srcyc train --config FILE.yaml --set key=value`` fills it."""

    mode: Literal["generator-only", "unpaired"] = "unpaired"
    steps: int = Field(default=20_000, ge=1)
    seed: int = 0
    initial_model: str | None = Field(default=None, description="published model that G_HR starts from")
    checkpoint_every: int = Field(default=500, ge=1, description="steps")
    validate_every: int = Field(default=500, ge=1, description="steps")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int = Field(default=0, ge=0, description="loader processes")
    data: PatchConfig = PatchConfig()
    g_hr: SRResDNetConfig = SRResDNetConfig()
    g_lr: DegradationNetConfig = DegradationNetConfig()
    d_hr: DiscriminatorConfig = DiscriminatorConfig()
    d_lr: LowResolutionDiscriminatorConfig = LowResolutionDiscriminatorConfig()
    adversarial: Literal["bce", "lsgan", "relativistic"] = "bce"
    losses: LossWeights = LossWeights()
    perceptual: PerceptualConfig = PerceptualConfig()
    pool_size: int = Field(default=50, ge=0)
    optimiser: OptimiserConfig = OptimiserConfig()
    validation: ValidationConfig = ValidationConfig()
    card: CardConfig = CardConfig()
