"""What the library says of a training, in the words of a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from srcyc.config import TrainingConfig
from srcyc.data.gathering import gather
from srcyc.data.store import ScanStore
from srcyc.errors import SRCycError
from srcyc.training.settings import load_settings
from srcyc_app.refusals import worded


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
        gather(config, [], [], None, ScanStore(tmp_path / "store"))
    assert worded(caught.value).endswith(says)
