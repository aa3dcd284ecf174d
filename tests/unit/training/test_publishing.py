"""No model takes the place of a better one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from srcyc.config import SRResDNetConfig, ValidationConfig
from srcyc.data.store import TrainingScan
from srcyc.inference.model_file import ModelCard, publish_model
from srcyc.networks import SRResDNet
from srcyc.training.publishing import publish_if_better
from srcyc.training.validation import Validator

CONFIG = SRResDNetConfig(features=4, depth=1)


def put(path: Path, noise: float) -> Path:
    """A model that spoils cubic interpolation by ``noise``."""
    torch.manual_seed(0)
    network = SRResDNet.from_config(CONFIG)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    card = ModelCard(
        name=path.stem,
        title="",
        network=CONFIG,
        spacing_range=(0.5, 2.0),
        factor_range=(1.5, 8.0),
        contrasts=(),
        trained_on="nothing",
        metrics={},
        licence="Apache-2.0",
        created="2024-01-01",
        software="test",
    )
    return publish_model(network, card, path)


@pytest.fixture
def validator(phantom) -> Validator:
    fine = TrainingScan("fine", phantom((40, 44, 48))[0], (1, 1, 1), 0.01)
    config = ValidationConfig(thicknesses=(3.0,), crop=32)
    return Validator([fine], [], config, SRResDNet.from_config(CONFIG), torch.device("cpu"))


def test_the_incumbent_has_to_be_beaten_where_nothing_is_published(tmp_path, validator) -> None:
    better, worse = put(tmp_path / "better.safetensors", 0.0), put(tmp_path / "worse.safetensors", 0.1)
    target = tmp_path / "shelf" / "mine.safetensors"
    verdict = publish_if_better(worse, target, validator, "psnr", incumbent=better)
    assert not verdict.published
    assert "not better" in verdict.reason
    assert not target.exists()
    verdict = publish_if_better(better, target, validator, "psnr", incumbent=worse)
    assert verdict.published
    assert target.exists()


def test_both_what_is_published_and_the_incumbent_have_to_be_beaten(tmp_path, validator) -> None:
    better, worse = put(tmp_path / "better.safetensors", 0.0), put(tmp_path / "worse.safetensors", 0.1)
    target = put(tmp_path / "mine.safetensors", 0.3)
    assert not publish_if_better(worse, target, validator, "psnr", incumbent=better).published
    assert publish_if_better(better, target, validator, "psnr", incumbent=worse).published


def test_an_incumbent_can_be_overruled_and_needs_somebody_held_back(tmp_path, validator) -> None:
    better, worse = put(tmp_path / "better.safetensors", 0.0), put(tmp_path / "worse.safetensors", 0.1)
    nobody = Validator([], [], ValidationConfig(), SRResDNet.from_config(CONFIG), torch.device("cpu"))
    target = tmp_path / "mine.safetensors"
    verdict = publish_if_better(better, target, nobody, "psnr", incumbent=worse)
    assert not verdict.published
    assert "nobody is held back" in verdict.reason
    assert publish_if_better(worse, target, validator, "psnr", incumbent=better, even_if_worse=True).published
