"""Untrained models whose corrections are large enough that an error in them shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

import factories
from srcyc.models.model_file import ModelCard, PublishedModel, load_model, publish_model
from srcyc.networks import SliceResDNet

ModelFactory = Callable[..., PublishedModel]


def lively_network(seed: int = 0, **config: int) -> SliceResDNet:
    """A network that was never trained, but whose every layer does something, and whose output shows."""
    network = SliceResDNet(**config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm.weight" in name else 0.06 * noise)
    return network.eval()


make_card = partial(factories.make_card, spacing_range=(0.8, 1.2), factor_range=(2.0, 7.0))


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
def network() -> Callable[..., SliceResDNet]:
    return lively_network


@pytest.fixture
def published(tmp_path: Path) -> ModelFactory:
    """Writes and reads back a model: ``published(features=8, depth=2, **card_fields)``."""

    def make(seed: int = 0, *, features: int = 8, depth: int = 2, **changes: object) -> PublishedModel:
        network = lively_network(seed, features=features, depth=depth)
        card = make_card(network=network.config, **changes)
        path = publish_model(network, card, tmp_path / "model.safetensors", overwrite=True)
        return load_model(path)

    return make
