from __future__ import annotations

import os

import pytest

from srcyc.cli.staging import publish, staging
from srcyc.errors import OutputError


def test_a_set_of_files_appears_and_the_staging_place_goes(tmp_path):
    with staging(tmp_path) as place:
        files = [place / "a.json", place / "a.nii"]
        for file in files:
            file.write_text("new")
        publish(files, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.nii"]


def test_nothing_is_left_when_the_work_is_broken_off(tmp_path):
    with pytest.raises(KeyboardInterrupt), staging(tmp_path) as place:
        (place / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_cannot_be_completed_is_taken_back(tmp_path, monkeypatch):
    (tmp_path / "old.json").write_text("old")
    real = os.replace

    def failing(source, target):
        if str(target).endswith(".nii"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OutputError, match="No space left"), staging(tmp_path) as place:
        files = [place / "a.json", place / "a.nii"]
        for file in files:
            file.write_text("new")
        publish(files, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
