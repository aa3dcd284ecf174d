"""The shelf: packaged and retrained models, what is offered first, and what a changed file does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from srcyc.errors import ModelError
from srcyc.models.model_file import DEFAULT_MODEL, load_model, packaged_models, publish_model
from srcyc_app import activation
from srcyc_app.models import ModelShelf
from srcyc_app.refusals import Refusal

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path, tiny_model: Path) -> Put:
    """``put("mine", age=100)`` puts a model on the shelf that was retrained so many seconds ago."""

    def put(name: str, age: float = 0.0) -> Path:
        path = shutil.copy(tiny_model, tmp_path / f"{name}.safetensors")
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
        return Path(path)

    return put


def test_an_empty_shelf_offers_the_packaged_models_default_first(tmp_path: Path) -> None:
    shelf = ModelShelf(tmp_path / "absent")
    assert shelf.names()[0] == shelf.default == DEFAULT_MODEL
    assert sorted(shelf.names()) == sorted(packaged_models())
    assert shelf.find() == packaged_models()[DEFAULT_MODEL]


def test_the_newest_retrained_model_is_the_default(tmp_path: Path, put: Put) -> None:
    put("old", age=100)
    put("new")
    shelf = ModelShelf(tmp_path)
    assert shelf.names()[:3] == ["new", "old", DEFAULT_MODEL]
    assert shelf.find() == tmp_path / "new.safetensors"
    assert shelf.find("old") == tmp_path / "old.safetensors"


def test_without_any_model_nothing_is_made_up(tmp_path: Path) -> None:
    shelf = ModelShelf(tmp_path, with_packaged=False)
    assert shelf.default is None
    for ask in (shelf.find, lambda: shelf.resolver(device="cpu", precision="fp32")):
        with pytest.raises(Refusal, match="no published model") as caught:
            ask()
        assert caught.value.status_code == 404


def test_a_retrained_model_cannot_pass_for_a_packaged_one(tmp_path: Path, put: Put) -> None:
    put(DEFAULT_MODEL)
    shelf = ModelShelf(tmp_path)
    assert shelf.find(DEFAULT_MODEL) == packaged_models()[DEFAULT_MODEL]
    with pytest.raises(Refusal) as caught:
        shelf.target(DEFAULT_MODEL)
    assert caught.value.status_code == 409


@pytest.mark.parametrize("name", ["../x", "/etc/x", "", "a b", ".x"])
def test_targets_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal) as caught:
        ModelShelf(tmp_path).target(name)
    assert caught.value.status_code == 422


@pytest.mark.parametrize("name", ["nobody", "../../secret", str(Path("/etc/passwd"))])
def test_only_names_are_found_never_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal) as caught:
        ModelShelf(tmp_path).find(name)
    assert caught.value.status_code == 404


def test_cards_tell_where_a_model_comes_from_and_survive_a_broken_file(tmp_path: Path, put: Put) -> None:
    put("mine")
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 100)
    shelf = ModelShelf(tmp_path)
    assert shelf.default == "mine"
    assert shelf.names()[-1] == "broken"
    cards = shelf.cards()
    assert cards["mine"]["origin"] == "retrained"
    assert cards[DEFAULT_MODEL]["origin"] == "packaged"
    assert cards[DEFAULT_MODEL]["sha256"] == load_model(packaged_models()[DEFAULT_MODEL]).sha256
    assert "broken.safetensors" in cards["broken"]["error"]


def test_only_the_last_few_resolvers_are_kept(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srcyc_app.models._READY", 1)
    names = ("mine", "yours")
    for name in names:
        put(name)
    shelf = ModelShelf(tmp_path)
    first, other = (shelf.resolver(name, device="cpu", precision="fp32") for name in names)
    assert shelf.resolver("yours", device="cpu", precision="fp32") is other
    assert shelf.resolver("mine", device="cpu", precision="fp32") is not first


def test_a_resolver_is_kept_until_its_file_changes(tmp_path: Path, put: Put) -> None:
    path = put("mine")
    shelf = ModelShelf(tmp_path)
    first = shelf.resolver("mine", device="cpu", precision="fp32")
    assert shelf.resolver("mine", device="cpu", precision="fp32") is first
    model = load_model(path)
    changed = model.network.requires_grad_(False)
    next(changed.parameters()).mul_(2)
    publish_model(changed, model.card, path, overwrite=True)
    second = shelf.resolver("mine", device="cpu", precision="fp32")
    assert second is not first
    ours, theirs = (next(r.model.network.parameters()) for r in (second, first))
    assert torch.equal(ours, 2 * theirs)
    path.write_bytes(b"")
    with pytest.raises(Refusal, match=r"mine\.safetensors") as caught:
        shelf.resolver("mine", device="cpu", precision="fp32")
    assert str(tmp_path) not in str(caught.value)


# -- the model in use --------------------------------------------------------------------------------------------------


def test_the_model_in_use_changes_only_if_somebody_chooses(tmp_path: Path, put: Put) -> None:
    put("old", age=100)
    shelf = ModelShelf(tmp_path)
    shelf.settle()
    put("new")
    assert shelf.names()[:2] == ["old", "new"]
    assert load_model(shelf.find()).sha256 == load_model(shelf.find("old")).sha256
    shelf.settle()
    assert shelf.default == "old", "settled is settled"

    made = shelf.activate("new", "anna")
    assert (made.name, made.by) == ("new", "anna")
    assert shelf.default == "new"
    assert shelf.activation_of(made.sha256)["by"] == "anna"  # type: ignore[index]
    assert ModelShelf(tmp_path).default == "new", "remembered"
    assert shelf.cards()["new"]["activation"]["by"] == "anna"
    assert "activation" not in shelf.cards()["old"]


def test_a_model_that_is_replaced_stays_in_use_as_it_was(tmp_path: Path, put: Put) -> None:
    """Training publishes under the same name again."""
    path = put("mine")
    shelf = ModelShelf(tmp_path)
    first = shelf.activate("mine", None)
    model = load_model(path)
    next(model.network.requires_grad_(False).parameters()).mul_(2)
    publish_model(model.network, model.card, path, overwrite=True)
    second = load_model(path).sha256
    assert second != first.sha256
    assert load_model(shelf.find()).sha256 == first.sha256
    assert load_model(shelf.find("mine")).sha256 == first.sha256
    candidate = f"mine@{second[:8]}"
    assert shelf.names()[:2] == ["mine", candidate]
    assert shelf.find(candidate) == path
    assert shelf.cards()[candidate]["origin"] == "retrained"
    assert shelf.activation_of(second) is None

    assert shelf.activate(candidate, "anna").sha256 == second
    assert "mine" in shelf.names() and candidate not in shelf.names()
    copy = shelf.activations.copy_of(first)
    copy.rename(tmp_path / "away")
    with pytest.raises(Refusal, match="copy is gone"):
        shelf.roll_back("anna")
    (tmp_path / "away").rename(copy)
    back = shelf.roll_back("anna")
    assert back.sha256 == first.sha256
    assert load_model(shelf.find()).sha256 == first.sha256
    assert [entry.sha256 for entry in shelf.activations.history] == [first.sha256, second, first.sha256]
    assert shelf.roll_back("anna").sha256 == second, "there and back"


def test_a_model_in_use_that_was_taken_away_is_not_replaced_by_another(tmp_path: Path, put: Put) -> None:
    path = put("mine")
    shelf = ModelShelf(tmp_path)
    shelf.activate("mine", None)
    put("other")
    path.unlink()
    with pytest.raises(Refusal, match="mine") as caught:
        shelf.find()
    assert caught.value.status_code == 409
    assert shelf.find("other").exists()
    assert shelf.incumbent() is not None
    shelf.activate("other", None)
    assert shelf.default == "other"


def test_a_model_in_use_stays_so_while_its_file_is_damaged(tmp_path: Path, put: Put) -> None:
    """As it is while a new one is being copied over it."""
    path = put("mine")
    shelf = ModelShelf(tmp_path)
    first = shelf.activate("mine", None)
    put("other")
    path.write_bytes(b"half")
    assert shelf.default == "mine"
    assert load_model(shelf.find()).sha256 == first.sha256
    assert "error" in shelf.cards()["mine@damaged"] and "error" not in shelf.cards()["mine"]


def test_no_choice_is_lost_where_several_choose_at_a_time(tmp_path: Path, put: Put) -> None:
    shelf, path = ModelShelf(tmp_path), put("mine")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: shelf.activations.choose("mine", path, f"user-{n}"), range(40)))
    assert {entry.by for entry in shelf.activations.history} == {f"user-{n}" for n in range(40)}


def test_a_packaged_model_is_in_use_too(tmp_path: Path, put: Put) -> None:
    shelf = ModelShelf(tmp_path)
    shelf.settle()
    put("mine")
    assert shelf.default == DEFAULT_MODEL
    assert sorted(shelf.names()) == sorted(["mine", *packaged_models()])
    assert shelf.cards()[DEFAULT_MODEL]["origin"] == "packaged"


def test_choices_that_cannot_be_made(tmp_path: Path, put: Put) -> None:
    shelf = ModelShelf(tmp_path, with_packaged=False)
    shelf.settle()
    assert shelf.activations.as_json() == {"active": None, "history": []}
    with pytest.raises(Refusal, match="before"):
        shelf.roll_back(None)
    with pytest.raises(Refusal):
        shelf.activate("nobody", None)
    put("mine").write_bytes(b"damaged")
    with pytest.raises(Refusal) as caught:
        shelf.activate("mine", None)
    assert caught.value.status_code == 422
    (tmp_path / "active.json").write_text("{")
    with pytest.raises(ModelError, match=r"active\.json"):
        shelf.names()


def test_the_choice_from_a_command_line(tmp_path: Path, put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    put("mine")
    said: list[str] = []
    assert activation.main([str(tmp_path)], said.append) == 0
    assert json.loads(said[-1])["active"] is None
    assert activation.main([str(tmp_path), "mine"], said.append) == 0
    assert json.loads(said[-1])["active"]["name"] == "mine"
    assert activation.main([str(tmp_path), "nobody"], said.append) == 2
    assert "nobody" in capsys.readouterr().err
    assert activation.main([str(tmp_path), DEFAULT_MODEL], said.append) == 0
    assert activation.main([str(tmp_path), "--rollback"], said.append) == 0
    assert json.loads(said[-1])["active"]["name"] == "mine"
    assert len(json.loads(said[-1])["history"]) == 3
