"""Configuration schemas: frozen, unknown keys refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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
    batch_size: int = Field(default=2, ge=1, description="patches per step, over all processes")
    factor_range: FactorLimits = (1.5, 8.0)
    thickness_ratio_range: RatioLimits = (0.6, 1.0)
    gap_chance: float = Field(default=0.2, ge=0, le=1)
    noise_chance: float = Field(default=0.2, ge=0, le=1)
    largest_noise: float = Field(default=0.02, ge=0, description="normalised intensity")
    random_contrast: bool = True
    least_slices: int = Field(default=6, ge=3, description="fewest slices of an LR patch")
    least_persons: int = Field(
        default=2, ge=1, description="HR persons needed; 1: one is enough, then nobody can be held back"
    )
    validation_fraction: float = Field(default=0.2, ge=0, lt=1, description="share of persons held back")
    held_back: tuple[str, ...] = Field(default=(), description="persons held back, instead of a draw")
    workers: int = Field(default=1, ge=0, description="processes that draw patches ahead of the step")


class LossWeights(Schema):
    """Weights of the generators' loss terms; a term of weight 0 costs nothing.

    In paired and generator-only training content and perceptual compare fake_hr with its truth; in unpaired training
    they compare rec_hr with its. A training file's defaults depend on its mode: see :data:`DEFAULTS_OF_MODE`.
    """

    lambda_adversarial: float = Field(default=1.0, ge=0)
    lambda_cycle: float = Field(default=10.0, ge=0)
    lambda_identity: float = Field(default=5.0, ge=0)
    lambda_content: float = Field(default=0.0, ge=0)
    lambda_perceptual: float = Field(default=0.0, ge=0)
    lambda_tv: float = Field(default=0.0, ge=0)


#: What is not said in a training file is filled in by mode, before the defaults of the schemas. The adversarial terms
#: are kept far below the formula's weight of 1, so that G_HR cannot buy texture with anatomy; docs/training.md has what
#: that gained and cost.
DEFAULTS_OF_MODE: dict[str, dict[str, dict[str, float]]] = {
    "unpaired": {"losses": {"lambda_adversarial": 0.05}, "optimiser": {"learning_rate": 2e-4}},
    "paired": {
        "losses": {"lambda_adversarial": 0.05, "lambda_content": 10.0, "lambda_identity": 0.0},
        "optimiser": {"learning_rate": 2e-4},
    },
    "generator-only": {
        "losses": {
            "lambda_adversarial": 0.0,
            "lambda_cycle": 0.0,
            "lambda_identity": 0.0,
            "lambda_content": 1.0,
        }
    },
}


class PerceptualConfig(Schema):
    """Feature network of the perceptual loss (``perceptual:`` in a training file)."""

    backbone: Literal["vgg19", "vgg16"] = "vgg19"
    layer: str | None = Field(default=None, description="e.g. conv5_4; default: the last of the backbone")
    weights: Path | None = Field(default=None, description="local file; default: torchvision's download")
    slices_per_axis: int | None = Field(default=4, ge=1)


class OptimiserConfig(Schema):
    """Adam and its learning-rate schedule (``optimiser:`` in a training file)."""

    learning_rate: float = Field(default=1e-3, gt=0)
    discriminator_learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    warm_up: int = Field(default=100, ge=0, description="steps of linear rise")
    final_fraction: float = Field(
        default=0.02, ge=0, le=1, description="of the learning rate at the last step (cosine, linear)"
    )
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="steps at which the learning rate is multiplied by gamma (step)"
    )
    gamma: float = Field(default=0.5, gt=0, le=1)
    gradient_clip: float = Field(default=1.0, gt=0, description="L2 norm over a network's gradients")
    ema_decay: float = Field(default=0.999, ge=0, lt=1)


class ValidationConfig(Schema):
    """How the networks are judged on held-back persons (``validation:`` in a training file)."""

    thicknesses: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(3.0, 5.0), description="slice thickness simulated from HR scans, mm"
    )
    crop: int = Field(default=96, ge=32, description="edge of the central crop that is scored, voxels")
    key_metric: Literal["psnr", "ssim", "lpips", "cycle"] = Field(
        default="psnr",
        description="what the best model is best at: gain over cubic interpolation on simulated slices "
        "(psnr, ssim, lpips), or the forward cycle on held-back LR scans (cycle)",
    )
    lpips: str | None = Field(
        default=None, description="LPIPS weights: a local file, or 'torchvision' to fetch them on first use"
    )


class StabilityConfig(Schema):
    """When a run is stopped because it has collapsed (``stability:`` in a training file).

    Each is judged on the means of ``patience`` reports in a row.
    """

    patience: int = Field(default=10, ge=1, description="reports in a row (every report_every steps)")
    saturation: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="a discriminator's loss below this share of an undecided one's: it has won; 0: off",
    )
    blow_up: float = Field(
        default=4.0, ge=0, description="a cycle term above this many times its best mean so far; 0: off"
    )


class CardConfig(Schema):
    """What the published model's card says of it (``card:`` in a training file)."""

    name: str = "srcyc-custom"
    title: str = "Retrained SRCyc model"
    contrasts: tuple[str, ...] = ()
    trained_on: str = ""
    licence: str = "not stated"


class TrainingConfig(Schema):
    """All of a training run; ``srcyc train --preset NAME --config FILE.yaml --set key=value`` fills it."""

    mode: Literal["generator-only", "paired", "unpaired"] = "unpaired"
    steps: int = Field(default=20_000, ge=1)
    seed: int = Field(default=0, ge=0)
    initial_model: str | None = Field(default=None, description="published model that G_HR starts from")
    report_every: int = Field(default=50, ge=1, description="steps between lines of the history")
    validate_every: int = Field(default=500, ge=1, description="steps; one epoch in reports")
    checkpoint_every: int = Field(default=500, ge=1, description="steps")
    keep_checkpoints: int = Field(default=3, ge=1, description="the last ones are kept")
    early_stopping: int = Field(
        default=10, ge=0, description="validations without a better model after which to stop; 0: never"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    data: PatchConfig = PatchConfig()
    g_hr: SRResDNetConfig = SRResDNetConfig()
    g_lr: DegradationNetConfig = DegradationNetConfig()
    d_hr: DiscriminatorConfig = DiscriminatorConfig()
    d_lr: LowResolutionDiscriminatorConfig = LowResolutionDiscriminatorConfig()
    adversarial: Literal["bce", "lsgan", "relativistic"] = "bce"
    losses: LossWeights = LossWeights()
    perceptual: PerceptualConfig = PerceptualConfig()
    pool_size: int = Field(default=50, ge=0, description="earlier fakes shown to the discriminators")
    optimiser: OptimiserConfig = OptimiserConfig()
    validation: ValidationConfig = ValidationConfig()
    stability: StabilityConfig = StabilityConfig()
    card: CardConfig = CardConfig()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_mode(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        for section, defaults in DEFAULTS_OF_MODE.get(values.get("mode", "unpaired"), {}).items():
            given = values.get(section, {})
            if isinstance(given, dict):
                filled[section] = {**defaults, **given}
        return filled

    @model_validator(mode="after")
    def _no_adversary_in_the_baseline(self) -> TrainingConfig:
        used = [n for n in ("adversarial", "cycle", "identity") if getattr(self.losses, f"lambda_{n}")]
        if self.mode == "generator-only" and used:
            raise ValueError(
                f"mode generator-only has G_HR alone: set losses.lambda_{used[0]} to 0, or choose mode paired"
            )
        return self

    @model_validator(mode="after")
    def _the_key_metric_is_measured(self) -> TrainingConfig:
        if self.validation.key_metric == "lpips" and self.validation.lpips is None:
            raise ValueError("validation.key_metric lpips needs weights: set validation.lpips")
        if self.validation.key_metric == "cycle" and self.mode == "generator-only":
            raise ValueError("validation.key_metric cycle needs G_LR, which mode generator-only has not")
        return self
