"""Untrained models whose corrections are large enough that an error in them shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from srcyc.config import SRResDNetConfig
from srcyc.inference import ModelCard, PublishedModel, load_model, publish_model
from srcyc.networks import SRResDNet

ModelFactory = Callable[..., PublishedModel]


def lively_network(seed: int = 0, **config: object) -> SRResDNet:
    """A network that was never trained, but with biases, unequal slopes, modulation and a visible residual."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SRResDNet.from_config(SRResDNetConfig(**config))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("bias", "modulation.weight")):
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            elif "relu" in name:
                parameter.copy_(0.4 * torch.rand(parameter.shape, generator=generator))
        tail = network.resdnet.tail
        tail.set_weight(tail.conv.weight * 3)  # type: ignore[operator]
    return network.eval()


def make_card(**changes: object) -> ModelCard:
    values: dict[str, object] = {
        "name": "test-model",
        "title": "Untrained, for tests",
        "network": SRResDNetConfig(features=4, depth=2),
        "spacing_range": (0.8, 1.2),
        "factor_range": (2.0, 7.0),
        "contrasts": ("T1w",),
        "trained_on": "nothing",
        "metrics": {"psnr": 1.5},
        "licence": "CC0-1.0",
        "created": "2026-01-31",
        "software": "srcyc 0.1.0",
    }
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Volumes here are so small that more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def card() -> Callable[..., ModelCard]:
    return make_card


@pytest.fixture
def network() -> Callable[..., SRResDNet]:
    return lively_network


@pytest.fixture
def published(tmp_path: Path) -> ModelFactory:
    """Writes and reads back a model: ``published(features=4, depth=2, **card_fields)``."""

    def make(seed: int = 0, *, features: int = 4, depth: int = 2, **changes: object) -> PublishedModel:
        config = SRResDNetConfig(features=features, depth=depth)
        path = publish_model(
            lively_network(seed, **config.model_dump()),
            make_card(network=config, **changes),
            tmp_path / "model.safetensors",
            overwrite=True,
        )
        return load_model(path)

    return make
