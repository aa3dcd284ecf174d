from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from srcyc.config import SRResDNetConfig
from srcyc.errors import ModelError, OutputError
from srcyc.inference import find_model, load_model, packaged_models, publish_model

SMALL = {"features": 4, "depth": 2}


@pytest.fixture
def model(network, card, tmp_path):
    return publish_model(network(**SMALL), card(), tmp_path / "model.safetensors")


def test_a_published_model_comes_back_whole(network, card, tmp_path):
    net = network(**SMALL)
    path = publish_model(net, card(), tmp_path / "new" / "model.safetensors")
    found = load_model(path)

    assert found.card == card()
    assert found.path == path
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    image = torch.rand(1, 1, 6, 7, 4)
    torch.testing.assert_close(
        found.network(image, size=(6, 7, 12)), net(image, size=(6, 7, 12)), atol=0, rtol=0
    )
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
            network(**SMALL), card(network=SRResDNetConfig(features=4, depth=3)), tmp_path / "m.safetensors"
        )
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_published(network, card, tmp_path):
    net = network(**SMALL)
    with torch.no_grad():
        net.alpha.fill_(torch.nan)
    with pytest.raises(ModelError, match=r"'alpha'.*not finite"):
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
            lambda: rewrite(model, card={**good, "schema_version": 2}),
            "version 2, this software reads version 1",
        ),
        (lambda: rewrite(model, card={**good, "title": 5}), r"wrong model card \(title"),
        (lambda: rewrite(model, card={**good, "surprise": 5}), r"wrong model card \(surprise"),
        (lambda: rewrite(model, card={**good, "spacing_range": [2, 1]}), r"wrong model card \(spacing_range"),
        (lambda: rewrite(model, card=good, drop=["alpha"]), "lacks the weights 'alpha'"),
        (lambda: rewrite(model, card=good, extra={"more": torch.zeros(1)}), "'more' that the network"),
        (lambda: rewrite(model, card=good, extra={"alpha": torch.zeros(2)}), r"'alpha' of shape \(2,\)"),
        (
            lambda: rewrite(model, card=good, extra={"alpha": torch.tensor([torch.nan])}),
            "'alpha' that are not finite",
        ),
        (
            lambda: rewrite(model, card=good, extra={"alpha": torch.ones(1).half()}),
            "'alpha' that are not finite fp32",
        ),
    ]
    for make, message in cases:
        path = make()
        with pytest.raises(ModelError, match=message) as caught:
            load_model(path)
        assert str(caught.value).startswith(str(path)), message
        assert "\n" not in str(caught.value)


def test_cards_are_checked(card):
    for wrong in ({"created": "yesterday"}, {"factor_range": (0.0, 2.0)}, {"name": ""}, {"licence": None}):
        with pytest.raises(ValidationError):
            card(**wrong)


def test_models_are_found_by_name_or_path(model, monkeypatch):
    known = packaged_models()
    assert all(path.is_file() and path.stem == name for name, path in known.items())
    monkeypatch.setattr("srcyc.inference.model_file.packaged_models", lambda: {"mine": model})
    assert find_model("mine") == model
    assert find_model(model) == model
    with pytest.raises(ModelError, match=r"other: neither .*\(mine\)"):
        find_model("other")
