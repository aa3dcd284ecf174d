"""Configuration: what is unknown or impossible is refused with its key, and what is written can be read again."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from srcyc.config import PatchConfig, SpoilConfig, TrainingConfig
from srcyc.losses import LossWeights
from srcyc.networks import (
    DegradationNet,
    PatchDiscriminator,
    SliceResDNetConfig,
    SRResDNetConfig,
)


def test_unknown_keys_are_refused_at_every_level() -> None:
    with pytest.raises(ValidationError, match="lerning_rate"):
        TrainingConfig.model_validate({"lerning_rate": 1})
    with pytest.raises(ValidationError, match=r"data\.patch_size"):
        TrainingConfig.model_validate({"data": {"patch_size": 32}})
    with pytest.raises(ValidationError, match=r"g_hr\.channels"):
        TrainingConfig.model_validate({"g_hr": {"channels": 32}})


def test_settings_are_keys_and_values() -> None:
    with pytest.raises(ValidationError, match="dictionary"):
        TrainingConfig.model_validate(["steps"])


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainingConfig().steps = 5  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        TrainingConfig().data.size = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("mode", "cyclegan"),
        ("adversarial", "wgan"),
        ("precision", "int8"),
        ("pool_size", -1),
        ("content", "charbonnier"),
        ("g_hr.features", 0),
        ("g_hr.depth", 0),
        ("g_hr.name", "unet"),
        ("g_lr.head_kernel", 4),
        ("g_lr.skip", "bicubic"),
        ("d_hr.norm", "batch"),
        ("d_lr.layers", 0),
        ("data.size", 8),
        ("data.factor_range", (8.0, 2.0)),
        ("data.factor_range", (0.5, 2.0)),
        ("data.factor_range", (2.0,)),
        ("data.thickness_ratio_range", (0.004, 1.0)),
        ("data.thickness_ratio_range", (0.5, 2.5)),
        ("data.thickness_ratio_range", (1.0, 0.5)),
        ("data.gap_chance", 1.5),
        ("data.slices", (2, 8)),
        ("data.slices", (8, 4)),
        ("data.slices", 8),
        ("data.batch_size", 0),
        ("data.spoil.chance", 1.5),
        ("data.spoil.noise", -0.1),
        ("data.spoil.begin", -1),
        ("data.validation_fraction", 1.0),
        ("optimiser.learning_rate", 0.0),
        ("optimiser.learning_rate", math.inf),
        ("optimiser.learning_rate", math.nan),
        ("optimiser.betas", (0.9, 1.0)),
        ("optimiser.ema_decay", 1.0),
        ("optimiser.algorithm", "sgd"),
        ("optimiser.muon_learning_rate", 0.0),
        ("optimiser.gradient_clip", 0.0),
        ("losses.lambda_cycle", -1.0),
        ("losses.lambda_cycle", math.nan),
        ("perceptual.slices_per_axis", 0),
        ("validation.thicknesses", (5.0, -1.0)),
        ("validation.crop", 8),
    ],
)
def test_impossible_values_are_refused_by_key(key: str, value: Any) -> None:
    values: dict[str, Any] = {}
    *sections, leaf = key.split(".")
    inner = values
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[leaf] = value
    with pytest.raises(ValidationError) as error:
        TrainingConfig.model_validate(values)
    found = error.value.errors()[0]
    location = ".".join(str(part) for part in found["loc"])
    # What two values have wrong together is told of their section, in words.
    assert location.startswith(key) or (location == sections[0] and leaf in found["msg"]) or leaf == "name"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spatial_dims", 1),
        ("features", 0),
        ("interpolation", "nearest"),
        ("initial_alpha", math.nan),
        ("clip", (1.0, 0.0)),
    ],
)
def test_the_papers_network_has_its_own_limits(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        TrainingConfig.model_validate({"g_hr": {"name": "srresdnet", key: value}})


@pytest.mark.parametrize("pictures", [{"spatial_dims": 2}, {"in_channels": 3}])
def test_a_network_for_pictures_is_no_generator_of_scans(pictures: dict[str, int]) -> None:
    for g_hr in ({"name": "srresdnet", **pictures}, SRResDNetConfig(**pictures)):
        with pytest.raises(ValidationError, match="volumes of one channel"):
            TrainingConfig.model_validate({"g_hr": g_hr})


def test_limits_may_be_equal() -> None:
    config = PatchConfig(factor_range=(4.0, 4.0), thickness_ratio_range=(1.0, 1.0))
    assert config.factor_range == (4.0, 4.0)


def test_naming_one_key_of_a_section_leaves_its_other_defaults() -> None:
    """D_LR has defaults of its own: few strided layers, none along the slices."""
    default = TrainingConfig()
    assert default.d_lr.layers < default.d_hr.layers
    assert not default.d_lr.stride_thick
    changed = TrainingConfig.model_validate({"d_lr": {"features": 8}, "d_hr": {"features": 8}})
    assert changed.d_lr.model_dump() == default.d_lr.model_dump() | {"features": 8}
    assert changed.d_hr.model_dump() == default.d_hr.model_dump() | {"features": 8}


def test_the_degradation_learns_alone_only_where_something_teaches_it() -> None:
    taught = {"degradation_first": 10, "losses": {"lambda_spectrum": 1.0, "lambda_adversarial": 0.0}}
    assert TrainingConfig.model_validate(taught).degradation_first == 10
    for change in ({"losses": {"lambda_adversarial": 0.0}}, {"mode": "paired"}):
        with pytest.raises(ValidationError, match="degradation_first"):
            TrainingConfig.model_validate({**taught, **change})


@pytest.mark.parametrize("weight", ["lambda_spectrum", "lambda_adversarial_lr"])
def test_the_baseline_has_nothing_that_needs_g_lr(weight: str) -> None:
    with pytest.raises(ValidationError, match=weight):
        TrainingConfig.model_validate({"mode": "generator-only", "losses": {weight: 1.0}})


def test_the_formulas_weights_are_the_default_but_for_the_adversary() -> None:
    formula, ours = LossWeights(), TrainingConfig().losses
    assert (formula.lambda_adversarial, formula.lambda_cycle, formula.lambda_identity) == (1.0, 10.0, 5.0)
    assert ours == formula.model_copy(update={"lambda_adversarial": 0.05})


@pytest.mark.parametrize(
    "config",
    [
        TrainingConfig(),
        TrainingConfig(mode="generator-only", data=PatchConfig(size=32), g_hr=SRResDNetConfig(clip=(0, 1))),
        TrainingConfig(
            g_hr=SliceResDNetConfig(features=16), data=PatchConfig(spoil=SpoilConfig(begin=3, full=9))
        ),
    ],
)
def test_json_round_trip(config: TrainingConfig) -> None:
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainingConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_generator_s_configuration_is_read_as_its_own_class() -> None:
    config = TrainingConfig.model_validate({"g_hr": {"name": "srresdnet", "features": 64}})
    assert config.g_hr == SRResDNetConfig(features=64)
    again = TrainingConfig.model_validate_json(config.model_dump_json())
    assert type(again.g_hr) is SRResDNetConfig
    assert TrainingConfig().g_hr == SliceResDNetConfig()


def test_the_learning_rate_of_a_generator_alone_is_the_recipe_s() -> None:
    """Adversarial modes start from a trained generator, and go slower."""
    rates = {
        mode: TrainingConfig.model_validate({"mode": mode}).optimiser.learning_rate
        for mode in ("generator-only", "paired", "unpaired")
    }
    assert rates == {"generator-only": 1e-3, "paired": 2e-4, "unpaired": 2e-4}


def test_networks_are_built_as_described() -> None:
    g_lr = DegradationNet(features=5, blocks=1, skip="area")
    assert (g_lr.body[-1].conv.in_channels, g_lr.skip) == (5, "area")
    d_hr = PatchDiscriminator(features=5, layers=1)
    assert d_hr.body[0].out_channels == 5
