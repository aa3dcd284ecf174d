"""The settings of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from srcyc.losses import LossWeights
from srcyc.networks import (
    AnyGeneratorConfig,
    DegradationNetConfig,
    DiscriminatorConfig,
    LowResolutionDiscriminatorConfig,
    SliceResDNetConfig,
)
from srcyc.schema import FactorLimits, RatioLimits, Schema


class SpoilConfig(Schema):
    """How simulated slices are spoiled as real ones are (``data.spoil:`` in a training file)."""

    begin: int = Field(
        default=0, ge=0, description="step at which spoiling sets in: clean slices teach faster"
    )
    full: int = Field(default=0, ge=0, description="step from which on it has its full strength")
    chance: float = Field(default=0.7, ge=0, le=1, description="share of patches with gains or noise")
    jitter_chance: float = Field(default=0.5, ge=0, le=1)
    jitter: float = Field(default=0.05, ge=0, description="largest standard deviation of the slices' gains")
    odd_even_chance: float = Field(default=0.4, ge=0, le=1)
    odd_even: float = Field(default=0.05, ge=0, description="largest gain of odd slices against even ones")
    noise_chance: float = Field(default=0.5, ge=0, le=1)
    noise: float = Field(default=0.03, ge=0, description="largest standard deviation, normalised intensity")
    told_chance: float = Field(
        default=0.5, ge=0, le=1, description="share of patches whose thickness is told wrong"
    )
    told_error: float = Field(default=0.12, ge=0, description="standard deviation of the error's logarithm")
    profile_chance: float = Field(
        default=0.5, ge=0, le=1, description="share of patches with a profile between a Gaussian and a box"
    )

    def strength(self, step: int) -> float:
        """Give the share of the full chances at a step."""
        if step >= self.full:
            return 1.0
        return max(0.0, (step - self.begin) / (self.full - self.begin)) if self.full > self.begin else 0.0


class PatchConfig(Schema):
    """How training patches are drawn and augmented (``data:`` in a training file)."""

    size: int = Field(default=40, ge=16, description="in-plane edge of a patch, voxels")
    slices: tuple[Annotated[int, Field(ge=4)], Annotated[int, Field(ge=4)]] = Field(
        default=(8, 14), description="fewest and most slices of a patch, drawn for each step"
    )
    batch_size: int = Field(default=4, ge=1, description="patches per step, over all processes")
    factor_range: FactorLimits = (2.0, 9.2)
    thickness_ratio_range: RatioLimits = (0.6, 1.1)
    gap_chance: float = Field(
        default=0.7, ge=0, le=1, description="share of patches whose slices are not exactly contiguous"
    )
    spoil: SpoilConfig = SpoilConfig()
    random_contrast: bool = True
    soft_chance: float = Field(
        default=0.0, ge=0, le=1, description="share of patches made softer, as other scanners' images are"
    )
    softness: float = Field(default=2.2, ge=0, description="largest FWHM of that blur, voxels")
    least_persons: int = Field(
        default=2, ge=1, description="HR persons needed; 1: one is enough, then nobody can be held back"
    )
    validation_fraction: float = Field(default=0.2, ge=0, lt=1, description="share of persons held back")
    held_back: tuple[str, ...] = Field(default=(), description="persons held back, instead of a draw")
    workers: int = Field(default=1, ge=0, description="processes that draw patches ahead of the step")

    @model_validator(mode="after")
    def _fewest_first(self) -> PatchConfig:
        if self.slices[0] > self.slices[1]:
            raise ValueError("data.slices: give the fewest first")
        return self


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
    relative: bool = Field(
        default=False,
        description="unit-normalised features of the first three blocks, over the classical inverse's distance",
    )


class OptimiserConfig(Schema):
    """Adam and its learning-rate schedule (``optimiser:`` in a training file)."""

    learning_rate: float = Field(default=1e-3, gt=0)
    discriminator_learning_rate: float = Field(default=2e-4, gt=0)
    algorithm: Literal["adam", "muon"] = Field(
        default="adam",
        description="muon: G_HR's inner layers step along orthogonalised gradients, the rest by Adam",
    )
    muon_learning_rate: float = Field(default=6e-3, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    warm_up: int = Field(default=50, ge=0, description="steps of linear rise")
    final_fraction: float = Field(
        default=0.02, ge=0, le=1, description="of the learning rate at the last step (cosine, linear)"
    )
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="steps at which the learning rate is multiplied by gamma (step)"
    )
    gamma: float = Field(default=0.5, gt=0, le=1)
    gradient_clip: float = Field(default=0.5, gt=0, description="L2 norm over a network's gradients")
    ema_decay: float = Field(default=0.998, ge=0, lt=1)


class ValidationConfig(Schema):
    """How the networks are judged on held-back persons (``validation:`` in a training file)."""

    thicknesses: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(3.0, 5.0), description="slice thickness simulated from HR scans, mm"
    )
    crop: int = Field(default=96, ge=32, description="edge of the central crop that is scored, voxels")
    key_metric: Literal["psnr", "ssim", "lpips", "cycle"] = Field(
        default="psnr",
        description="what the best model is best at: gain over the classical inverse on simulated slices "
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
    g_hr: AnyGeneratorConfig = SliceResDNetConfig()
    g_lr: DegradationNetConfig = DegradationNetConfig()
    d_hr: DiscriminatorConfig = DiscriminatorConfig()
    d_lr: LowResolutionDiscriminatorConfig = LowResolutionDiscriminatorConfig()
    adversarial: Literal["bce", "lsgan", "relativistic"] = "bce"
    losses: LossWeights = LossWeights()
    content: Literal["relative", "l1"] = Field(
        default="relative", description="squared error over the classical inverse's, or the paper's L1"
    )
    perceptual: PerceptualConfig = PerceptualConfig()
    degradation_first: int = Field(
        default=0, ge=0, description="steps at the start in which only G_LR learns, and D_LR with it"
    )
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
        terms = ("adversarial", "adversarial_lr", "cycle", "identity", "spectrum")
        used = [n for n in terms if getattr(self.losses, f"lambda_{n}")]
        if self.mode == "generator-only" and used:
            raise ValueError(
                f"mode generator-only has G_HR alone: set losses.lambda_{used[0]} to 0, or choose mode paired"
            )
        return self

    @model_validator(mode="after")
    def _something_teaches_the_degradation(self) -> TrainingConfig:
        taught = self.mode == "unpaired" and any(map(self.losses.of, ("adversarial_lr", "spectrum_lr")))
        if self.degradation_first and not taught:
            raise ValueError(
                "degradation_first: G_LR learns alone in mode unpaired only, by losses.lambda_spectrum or "
                "losses.lambda_adversarial_lr"
            )
        return self

    @model_validator(mode="after")
    def _the_key_metric_is_measured(self) -> TrainingConfig:
        if self.validation.key_metric == "lpips" and self.validation.lpips is None:
            raise ValueError("validation.key_metric lpips needs weights: set validation.lpips")
        if self.validation.key_metric == "cycle" and self.mode == "generator-only":
            raise ValueError("validation.key_metric cycle needs G_LR, which mode generator-only has not")
        return self
