"""What a request asks of a training, and what the library says of it in the words of a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from srcyc.config import TrainingConfig
from srcyc.data.gathering import Sources
from srcyc.data.store import ScanStore
from srcyc.errors import SRCycError
from srcyc.training.settings import load_settings
from srcyc_app.models import ModelShelf
from srcyc_app.refusals import Refusal, worded
from srcyc_app.trainers.wishes import Wishes


def test_settings_are_called_as_the_request_calls_them() -> None:
    with pytest.raises(SRCycError) as caught:
        load_settings(single=["steps"])
    assert worded(caught.value).startswith("settings: 'steps': write KEY=VALUE")


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        (
            "unpaired",
            "; add more persons to the thick-slice scans of the studies, or train without by settings: "
            "mode=generator-only.",
        ),
        ("generator-only", "; add more persons to the thin-slice scans of the studies."),
    ],
)
def test_too_few_scans(mode: str, says: str, tmp_path: Path) -> None:
    config = TrainingConfig.model_validate({"mode": mode})
    with pytest.raises(SRCycError) as caught:
        Sources().gather(config, ScanStore(tmp_path / "store"))
    assert worded(caught.value).endswith(says)


def test_what_a_run_that_goes_on_keeps(models: Path) -> None:
    """The stock clients send the default model back as a wish, and it changes with every one that is published."""
    shelf = ModelShelf(models, with_packaged=False)
    begun = Wishes.of({"settings": "card.name=Chosen"}).config(shelf)
    assert (begun.card.name, begun.initial_model) == ("Chosen", str(models / "tiny.safetensors"))
    assert Wishes.of({"name": "mine", "initial_model": "none"}).config(shelf).card.name == "mine"
    base = begun.model_copy(update={"initial_model": "/another/one.safetensors"})
    for wishes in ({}, {"initial_model": "tiny"}):
        assert Wishes.of(wishes).config_to_go_on(base, models, shelf).initial_model == base.initial_model
    with pytest.raises(Refusal, match="run: new") as caught:
        Wishes.of({"initial_model": "none"}).config_to_go_on(base, models, shelf)
    assert caught.value.status_code == 409
    assert str(models) not in str(caught.value)
