"""What the library says of a training, in the words of a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from srcyc.config import TrainingConfig
from srcyc.data.gathering import gather
from srcyc.data.store import ScanStore
from srcyc.errors import SRCycError
from srcyc.training.folder import RunFolder
from srcyc.training.settings import load_settings
from srcyc_app.trainers.wishes import in_words_of_the_server


def test_settings_are_called_as_the_request_calls_them() -> None:
    with pytest.raises(SRCycError) as caught:
        load_settings(single=["steps"])
    assert in_words_of_the_server(str(caught.value)).startswith("settings: 'steps': write KEY=VALUE")


def test_a_run_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SRCycError) as caught:
        RunFolder(tmp_path / "gone").read()
    assert in_words_of_the_server(str(caught.value)).endswith("; send run: new.")


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        (
            "unpaired",
            "; give thick-slice scans of more persons in the studies folder, or train without any by settings: "
            "mode=generator-only.",
        ),
        ("generator-only", "; give thin-slice scans of more persons in the studies folder."),
    ],
)
def test_too_few_scans(mode: str, says: str, tmp_path: Path) -> None:
    config = TrainingConfig.model_validate({"mode": mode})
    with pytest.raises(SRCycError) as caught:
        gather(config, [], [], None, ScanStore(tmp_path / "store"))
    assert in_words_of_the_server(str(caught.value)).endswith(says)
