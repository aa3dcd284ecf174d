from __future__ import annotations

from pathlib import Path

import pytest

from srcyc.errors import OutputError
from srcyc.files import remove_unfinished, write_text, written


def test_a_file_is_there_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with written(path) as stream:
        stream.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"


def test_a_failure_keeps_what_was_there_and_leaves_nothing_partial(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "earlier")
    with pytest.raises(ZeroDivisionError), written(path) as stream:
        stream.write(b"half of it")
        raise ZeroDivisionError
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"file.a\.txt: cannot be written"):
        write_text(tmp_path / "file" / "a.txt", "")


def test_missing_folders_are_made(tmp_path: Path) -> None:
    assert write_text(tmp_path / "new" / "deep" / "a.txt", "x").read_text() == "x"


def test_what_a_killed_process_was_writing_can_be_removed(tmp_path: Path) -> None:
    kept = write_text(tmp_path / "a.txt", "x")
    with written(tmp_path / "b.txt"):
        (unfinished,) = (path for path in tmp_path.iterdir() if path != kept)
        copy = unfinished.read_bytes()
    unfinished.write_bytes(copy)  # as if the process had been killed
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_text_is_utf8(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.txt", "0.9 × 5 mm").read_bytes() == "0.9 × 5 mm".encode()
