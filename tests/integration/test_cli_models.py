from __future__ import annotations

import json

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from srcyc.models import model_file


def test_the_card_of_a_file_is_shown_in_full(srcyc, tiny_model):
    ran = srcyc("models", tiny_model)
    assert (ran.code, ran.err) == (0, "")
    for text in ("tiny", "untrained", "1.5 to 8", "0.3 to 2", "T1w", "Apache-2.0", str(tiny_model)):
        assert text in ran.out
    assert "none measured" in ran.out


def test_a_card_as_json(srcyc, tiny_model):
    card = srcyc("models", tiny_model, "--json").json
    assert card["name"] == "tiny"
    assert card["network"] == {"name": "sliceresdnet", "features": 8, "depth": 1}
    assert len(card["sha256"]) == 64


def test_installed_models_are_listed(srcyc, tiny_model, monkeypatch):
    monkeypatch.setattr(model_file, "packaged_models", lambda: {"tiny": tiny_model})
    ran = srcyc("models")
    assert ran.code == 0
    assert "tiny" in ran.out
    assert "1.5 to 8" in ran.out
    listed = srcyc("models", "--json").json
    assert [model["name"] for model in listed["models"]] == ["tiny"]


def test_without_any_model_the_list_says_what_to_do(srcyc, monkeypatch):
    monkeypatch.setattr(model_file, "packaged_models", lambda: {})
    ran = srcyc("models")
    assert ran.code == 0
    assert "srcyc train" in ran.out


def test_a_model_of_an_earlier_release_is_refused_with_what_to_do(srcyc, tiny_model, tmp_path):
    old = tmp_path / "old.safetensors"
    with safe_open(tiny_model, framework="pt") as file:
        card = json.loads(file.metadata()["srcyc"])
    card = {**card, "schema_version": 1, "metrics": {}}
    save_file(load_file(tiny_model), old, metadata={"srcyc": json.dumps(card)})
    ran = srcyc("models", old)
    assert ran.code == 2
    for part in (str(old), "version 1", "train it again"):
        assert part in ran.sentence


def test_an_unknown_model_is_refused(srcyc):
    ran = srcyc("models", "no-such-model")
    assert ran.code == 2
    assert "no-such-model" in ran.sentence
