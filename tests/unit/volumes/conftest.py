"""What is asked of every reader of volumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from srcyc.errors import VolumeError
from srcyc.volumes.volume import read_grid, read_volume


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Asserts that a path is refused in one sentence that names it, and that no library talks on stderr.

    What its header shows, the reader of headers refuses in the same words.
    """

    def check(path: Path, *words: str, header_shows_it: bool = True) -> None:
        capfd.readouterr()
        with pytest.raises(VolumeError) as caught:
            read_volume(path)
        sentence = str(caught.value)
        if header_shows_it:
            with pytest.raises(VolumeError) as again:
                read_grid(path)
            assert str(again.value) == sentence
        else:
            assert min(read_grid(path).shape) > 1
        assert str(path) in sentence
        assert "\n" not in sentence
        assert sentence.endswith(".")
        for word in words:
            assert word in sentence
        assert capfd.readouterr() == ("", "")

    return check
