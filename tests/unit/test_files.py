from __future__ import annotations

import os
from pathlib import Path

import pytest

from srcyc.errors import OutputError
from srcyc.files import claimed, publish, remove_unfinished, staging, write_text, written


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
    with pytest.raises(OutputError, match=r"x: cannot be written"):
        write_text(tmp_path / ("x" * 300), "")


def test_missing_folders_are_made(tmp_path: Path) -> None:
    assert write_text(tmp_path / "new" / "deep" / "a.txt", "x").read_text() == "x"


def test_what_a_killed_process_was_writing_can_be_removed(tmp_path: Path) -> None:
    kept = write_text(tmp_path / "a.txt", "x")
    with written(tmp_path / "b.txt"):
        (unfinished,) = (path for path in tmp_path.iterdir() if path != kept)
        copy = unfinished.read_bytes()
    unfinished.write_bytes(copy)  # as if the process had been killed
    own = tmp_path / ".own.part"
    own.touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [own.name, "a.txt", "b.txt"]


def test_what_was_being_made_of_one_name_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a[1].nii", "b.nii"):
        with written(tmp_path / name), staging(tmp_path, name) as place:
            (file,) = tmp_path.glob(".*.part")
        # As if the process had been killed.
        file.write_bytes(b"half")
        place.mkdir()
        (place / "part").write_bytes(b"half")
        if name == "a[1].nii":
            left = {file, place}
        remove_unfinished(tmp_path, "a[1].nii")
        assert not any(path.exists() for path in left)
    assert file.exists() and place.exists()


def test_what_was_being_made_long_ago_is_removed_where_others_work(tmp_path: Path) -> None:
    with (
        staging(tmp_path, private=True) as long_ago,
        staging(tmp_path) as now,
        staging(tmp_path, "a") as named,
    ):
        os.utime(long_ago, (1, 1))
        remove_unfinished(tmp_path, age=60)
        assert set(tmp_path.iterdir()) == {now, named}
        now.rename(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    if os.name == "posix":
        assert tmp_path.stat().st_mode & 0o077 == 0


def test_a_folder_is_had_by_one_and_what_killed_ones_left_in_it_goes(tmp_path: Path) -> None:
    folder, busy = tmp_path / "new" / "run", OutputError("somebody else is here")
    (folder / "deep" / "er").mkdir(parents=True)
    left = [folder / "deep" / "er" / ".a.bin.0123abcd.part", folder / ".b.json.89ef0123.part"]
    for path in left:
        path.write_bytes(b"half")
    with claimed(folder, busy, private=True):
        assert not any(path.exists() for path in left)
        assert folder.stat().st_mode & 0o077 == 0
        left[0].write_bytes(b"now it is being written")
        with pytest.raises(OutputError, match="somebody else"), claimed(folder, busy):
            pytest.fail("two have it")
        assert left[0].exists()
    with claimed(folder, busy):
        assert not left[0].exists()
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"file.run: cannot be written"),
        claimed(tmp_path / "file" / "run", busy),
    ):
        pytest.fail("there is no such folder")


def test_text_is_utf8(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.txt", "0.9 × 5 mm").read_bytes() == "0.9 × 5 mm".encode()


def test_a_set_of_files_appears_and_the_staging_place_goes(tmp_path: Path) -> None:
    with staging(tmp_path) as place:
        files = [place / "a.json", place / "a.nii"]
        for file in files:
            file.write_text("new")
        publish(files, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.nii"]


def test_nothing_is_left_when_the_work_is_broken_off(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staging(tmp_path) as place:
        (place / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_cannot_be_completed_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.json").write_text("old")
    real = os.replace

    def failing(source: Path, target: Path) -> None:
        if str(target).endswith(".nii"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OutputError, match="No space left"), staging(tmp_path) as place:
        files = [place / "maps", place / "a.json", place / "a.nii"]
        files[0].mkdir()
        for file in files[1:]:
            file.write_text("new")
        publish(files, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "series" / "old.dcm", "old")
    real = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "series" and not str(source).endswith(".old"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OutputError, match="No space left"), staging(tmp_path) as place:
        write_text(place / "series" / "new.dcm", "new")
        publish([place / "series"], tmp_path)
    assert [path.name for path in tmp_path.rglob("*.dcm")] == ["old.dcm"]
