from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
import tracemalloc

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from srcyc.enhancement import enhance
from srcyc.errors import ModelError, OutputError
from srcyc.models.model_file import find_model, load_model, packaged_models, publish_model
from srcyc.networks import SliceResDNetConfig
from srcyc.physics.acquisition import AxisAcquisition

SMALL = {"features": 8, "depth": 2}
#: A weight of that network with 8 values.
WEIGHT = "blocks.0.norm.bias"


@pytest.fixture
def model(network, card, tmp_path):
    return publish_model(network(**SMALL), card(), tmp_path / "model.safetensors")


@torch.no_grad()
def test_a_published_model_comes_back_whole(network, card, tmp_path):
    net = network(**SMALL)
    path = publish_model(net, card(), tmp_path / "new" / "model.safetensors")
    found = load_model(path)

    assert found.card == card()
    assert found.path == path
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    scan, axis = torch.rand(1, 1, 6, 7, 4), AxisAcquisition.of(12, 4)
    images = [enhance(network, scan, [axis])[0].image for network in (found.network, net)]
    torch.testing.assert_close(images[0], images[1], atol=0, rtol=0)
    assert not found.network.training
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_half_precision_weights_are_stored_as_fp32(network, card, tmp_path):
    path = publish_model(network(**SMALL).bfloat16(), card(), tmp_path / "model.safetensors")
    assert {value.dtype for value in load_file(path).values()} == {torch.float32}


def test_publishing_leaves_the_network_alone(network, card, tmp_path):
    net = network(**SMALL)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    publish_model(net, card(), tmp_path / "model.safetensors")
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_nothing_is_overwritten_unless_asked(network, card, model):
    before = model.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        publish_model(network(1, **SMALL), card(), model)
    assert model.read_bytes() == before
    publish_model(network(1, **SMALL), card(), model, overwrite=True)
    assert model.read_bytes() != before


def test_a_failed_write_leaves_the_old_file_and_no_rest(network, card, model, monkeypatch):
    before = model.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="No space left"):
        publish_model(network(1, **SMALL), card(), model, overwrite=True)
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_a_model_is_readable_like_other_files(model, tmp_path):
    other = tmp_path / "other"
    other.touch()
    assert model.stat().st_mode == other.stat().st_mode


def test_another_suffix_is_refused(network, card, tmp_path):
    with pytest.raises(OutputError, match=r"\.safetensors"):
        publish_model(network(**SMALL), card(), tmp_path / "model.pt")


def test_a_card_of_another_network_is_refused(network, card, tmp_path):
    with pytest.raises(ModelError, match="lacks the weights"):
        publish_model(
            network(**SMALL),
            card(network=SliceResDNetConfig(features=8, depth=3)),
            tmp_path / "m.safetensors",
        )
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_published(network, card, tmp_path):
    net = network(**SMALL)
    with torch.no_grad():
        net.norm.bias[3] = torch.nan
    with pytest.raises(ModelError, match=r"'norm.bias'.*not finite"):
        publish_model(net, card(), tmp_path / "model.safetensors")


def rewrite(path, *, card=None, drop=(), extra=None, metadata=None):
    """Make a damaged copy of a model file."""
    weights = load_file(path)
    weights = {name: value for name, value in weights.items() if name not in drop} | (extra or {})
    path = path.with_name("damaged.safetensors")
    save_file(weights, path, metadata=metadata if card is None else {"srcyc": json.dumps(card)})
    return path


def test_damaged_files_are_refused(model, card, tmp_path):
    good = card().model_dump(mode="json")
    content = model.read_bytes()

    def file(data: bytes):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(data)
        return path

    class Evil:
        def __reduce__(self):
            return os.system, ("exit 1",)

    torch.save({"a": torch.zeros(1)}, tmp_path / "zip.pt")
    cases = [
        (lambda: tmp_path / "missing.safetensors", "cannot be read"),
        (lambda: tmp_path, "cannot be read"),
        (lambda: file(b""), "is empty"),
        (lambda: file(content[:100]), "damaged or no safetensors"),
        (lambda: file(content[:-100]), "damaged or no safetensors"),
        (lambda: file(b"not a model at all, but text" * 10), "damaged or no safetensors"),
        (lambda: file(pickle.dumps(Evil())), "Python pickle"),
        (lambda: tmp_path / "zip.pt", "Python pickle"),
        (lambda: rewrite(model), "no srcyc model card"),
        (lambda: rewrite(model, metadata={"srcyc": "{"}), "unreadable model card"),
        (lambda: rewrite(model, metadata={"srcyc": "[]"}), "unreadable model card"),
        (lambda: rewrite(model, card={"name": "x"}), "unreadable model card"),
        (
            lambda: rewrite(model, card={**good, "schema_version": 1}),
            "version 1, this software reads version 2; train it again",
        ),
        (
            lambda: rewrite(model, card={**good, "schema_version": 3}),
            "version 3, this software reads version 2; install a newer release",
        ),
        (lambda: rewrite(model, card={**good, "title": 5}), r"wrong model card \(title"),
        (lambda: rewrite(model, card={**good, "surprise": 5}), r"wrong model card \(surprise"),
        (lambda: rewrite(model, card={**good, "spacing_range": [2, 1]}), r"wrong model card \(spacing_range"),
        (lambda: rewrite(model, card={**good, "scores": [{"scan": "x"}]}), r"wrong model card \(scores\.0"),
        (lambda: rewrite(model, card={**good, "network": {"name": "unet"}}), r"\(network: .*no generator"),
        (lambda: rewrite(model, card=good, drop=[WEIGHT]), f"lacks the weights '{WEIGHT}'"),
        (lambda: rewrite(model, card=good, extra={"more": torch.zeros(1)}), "'more' that the network"),
        (lambda: rewrite(model, card=good, extra={WEIGHT: torch.zeros(2)}), rf"'{WEIGHT}' of shape \(2,\)"),
        (
            lambda: rewrite(model, card=good, extra={WEIGHT: torch.full((8,), torch.nan)}),
            f"'{WEIGHT}' that are not finite",
        ),
        (
            lambda: rewrite(model, card=good, extra={WEIGHT: torch.ones(8).half()}),
            f"'{WEIGHT}' that are not fp32",
        ),
    ]
    for make, message in cases:
        path = make()
        with pytest.raises(ModelError, match=message) as caught:
            load_model(path)
        assert str(caught.value).startswith(str(path)), message
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"features": 8_000_000}, "network.features"),
        ({"depth": 10**9}, "network.depth"),
        ({"features": 1024, "depth": 64}, "of shape"),
        ({"name": "srresdnet", "in_channels": 10**30}, "volumes of one channel"),
    ],
)
def test_what_a_card_says_of_sizes_is_not_believed(model, card, size, message):
    described = card().model_dump(mode="json")
    described["network"] = size if "name" in size else {**described["network"], **size}
    path = rewrite(model, card=described)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=message) as caught:
            load_model(path)
        # Python's own objects only; a network of 1024 features and 64 blocks would have 14 GB of weights.
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(path))


def test_a_network_is_built_no_further_than_there_are_weights(model, card, monkeypatch):
    """Whatever limits a generator's configuration has, or lacks."""
    layers = []

    class Endless(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList()
            while True:
                layers.append(None)
                self.layers.append(torch.nn.Linear(1, 1))

    monkeypatch.setattr("srcyc.models.model_file.build_generator", lambda config: Endless())
    path = rewrite(model, card=card().model_dump(mode="json"))
    with pytest.raises(ModelError, match="far fewer"):
        load_model(path)
    assert len(layers) < 2000
    # Others may build what they like again.
    assert len(list(torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(1500))).parameters())) == 3000


def test_a_card_without_a_bottom_is_refused(model):
    path = rewrite(model, metadata={"srcyc": "[" * 100_000})
    with pytest.raises(ModelError, match="unreadable model card"):
        load_model(path)


def test_cards_are_checked(card):
    for wrong in ({"created": "yesterday"}, {"factor_range": (0.0, 2.0)}, {"name": ""}, {"licence": None}):
        with pytest.raises(ValidationError):
            card(**wrong)


def test_models_are_found_by_name_or_path(model, monkeypatch):
    known = packaged_models()
    assert all(path.is_file() and path.stem == name for name, path in known.items())
    monkeypatch.setattr("srcyc.models.model_file.packaged_models", lambda: {"mine": model})
    assert find_model("mine") == model
    assert find_model(model) == model
    with pytest.raises(ModelError, match=r"other: neither .*\(mine\)"):
        find_model("other")
