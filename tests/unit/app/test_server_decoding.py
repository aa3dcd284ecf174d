"""Files of strangers: what one claims ends its own process at most, and is said in a sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hostile_files import HARMLESS, HOSTILE, SERIES

from factories import OBLIQUE_AXES, make_affine, make_head, save_model, save_series
from srcyc.errors import ModelError, OutputError, SRCycError, VolumeError
from srcyc.files import is_full
from srcyc.volumes.formats.raw import Orientation, Scaling
from srcyc.volumes.volume import Volume, read_volume, write_volume
from srcyc_app.studies import decoding
from srcyc_app.studies.decoding import Apart, ReaderError, Reading, reading

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")

MOST = 50_000_000


@pytest.fixture(scope="module")
def apart() -> Apart:
    return Apart(MOST)


@pytest.fixture(scope="module")
def head() -> Volume:
    return make_head(affine=make_affine(OBLIQUE_AXES, (0.9, 0.95, 3.7), (20.0, -35.0, 11.0)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, head: Volume) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    made = {
        name: write_volume(head, folder / f"head{name}", dtype=np.int16)
        for name in (".nii.gz", ".nii", ".nrrd", ".mha")
    }
    return {**made, "series": save_series(head, folder / "series")}


@pytest.mark.parametrize("kind", [".nii.gz", ".nii", ".nrrd", ".mha", "series"])
def test_a_volume_is_the_same_as_read_in_place(
    apart: Apart, files: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    path = files[kind]
    here, there = read_volume(path), apart.volume(path, tmp_path)
    np.testing.assert_array_equal(there.data, here.data)
    assert there.data.flags.writeable
    for name in ("stored_dtype", "slice_thickness", "source", "warnings"):
        assert getattr(there, name) == getattr(here, name), name
    assert (there.padding is None) == (here.padding is None)
    for grid in (there.grid, apart.grid(path), apart.check(path)):
        np.testing.assert_array_equal(grid.affine, here.affine)
        assert grid.shape == here.shape
    assert not list(tmp_path.iterdir()), "no temporary file is left"


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Does what the other process does, in this one, which has more to do than this one file and gets no limits."""
    monkeypatch.setattr(decoding, "_limit_memory", lambda more: None)
    monkeypatch.setattr(decoding, "_limit_time", lambda seconds: None)

    def met(task: str, path: Path, into: Path | None = None, most: int = MOST) -> Any:
        request = {
            "task": task,
            "paths": [str(path)],
            "choices": {},
            "into": into and str(into),
            "most": most,
        }
        said = decoding._met({**request, "seconds": 1, "memory": 10**9})
        return decoding._meant(json.loads(json.dumps(said)), into)

    return met


def test_what_is_asked_is_done(met: Callable[..., Any], files: dict[str, Path], tmp_path: Path) -> None:
    here, series = Reading(), files["series"]
    assert met("files", series) == here.files(series)
    assert met("grid", series).shape == met("check", series).shape == here.grid(series).shape
    np.testing.assert_array_equal(met("volume", series, tmp_path).data, here.volume(series).data)
    (found,) = met("tree", series).values()
    np.testing.assert_array_equal(found.affine, here.grid(series).affine)
    assert "max-upload" in str(met("check", series, most=10))
    gaps = shutil.copytree(series, tmp_path / "gaps")
    sorted(gaps.iterdir())[3].unlink()
    told, said = met("tree", gaps)[""], here.tree(gaps)[""]
    assert isinstance(told, VolumeError) and str(told) == str(said)


def test_all_that_a_file_says_comes_along(files: dict[str, Path], tmp_path: Path) -> None:
    place, scaling = Orientation(4, 1, np.diag([1.0, 2, 3, 1])), Scaling(np.dtype(np.int16), 2.0, 1.0)
    head = read_volume(files[".nii"])
    given = replace(
        head,
        slice_thickness=3.0,
        padding=head.data[0] < 100,
        warnings=("a", "b"),
        orientation=place,
        scaling=scaling,
        labels="so",
        files=(Path("/a"), Path("/b")),
        series="1.2",
    )
    told = json.loads(json.dumps(decoding._told(given, tmp_path)))
    again = decoding._meant(told, tmp_path)
    np.testing.assert_array_equal(again.padding, given.padding)
    np.testing.assert_array_equal(again.orientation.to_second, place.to_second)
    assert (again.orientation.sform_code, again.orientation.qform_code) == (4, 1)
    for name in ("slice_thickness", "warnings", "scaling", "labels", "files", "series", "source"):
        assert getattr(again, name) == getattr(given, name), name


def test_integers_stay_integers_for_the_compare_page(
    apart: Apart, files: dict[str, Path], tmp_path: Path
) -> None:
    apart.nifti(files[".nrrd"], tmp_path / "out.nii")
    assert read_volume(tmp_path / "out.nii").stored_dtype == np.int16


# -- files that claim what is not so ---------------------------------------------------------------------------------


def test_there_are_enough() -> None:
    assert len(HOSTILE) + len(SERIES) >= 40


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_costs_nothing(apart: Apart, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(HOSTILE[name]())
    refused_cheaply(apart, path)


def refused_cheaply(apart: Apart, path: Path) -> None:
    before = psutil.Process().memory_info().rss
    for ask in (apart.check, apart.volume):
        start = time.monotonic()
        try:
            ask(path)
        except VolumeError as error:
            sentence = str(error)
            assert path.name in sentence
            assert "Traceback" not in sentence and sentence.count("\n") == 0
        else:
            assert path.name in HARMLESS
        # Others use the machine too; what a file costs that is tried to the end is minutes.
        assert time.monotonic() - start < 60
    assert psutil.Process().memory_info().rss - before < 250e6


@pytest.mark.parametrize("name", SERIES)
def test_a_hostile_series_is_refused_and_costs_nothing(
    apart: Apart, head: Volume, name: str, tmp_path: Path
) -> None:
    folder = save_series(head, tmp_path / "series")
    SERIES[name](folder)
    refused_cheaply(apart, folder)


# -- limits and accidents --------------------------------------------------------------------------------------------


def test_an_honest_file_may_be_too_large_for_the_server(files: dict[str, Path]) -> None:
    with pytest.raises(VolumeError, match="max-upload"):
        Apart(1000).volume(files[".nii"])


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "seems to run"])
def test_one_that_is_gone_is_replaced(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """As it is if a library crashes, or the machine runs out of memory: a while ago, or this very moment."""
    process = decoding._Process()
    monkeypatch.setattr(decoding, "_PROCESS", process)
    apart = Apart(MOST)
    apart.grid(files[".nii"])
    assert process._process is not None and process._control is not None
    if killed:
        os.kill(process._process.pid, signal.SIGKILL)
        process._process.wait()
    else:
        process._control.shutdown(socket.SHUT_RDWR)
    assert apart.grid(files[".nii"]).shape == read_volume(files[".nii"]).shape
    end(process)


def test_a_full_disk_is_said_and_nothing_is_left(
    head: Volume, tmp_path: Path, file_size_limit: Callable
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with file_size_limit(1000), pytest.raises(OutputError, match="unpacked") as caught:
        decoding._told(head.data, place)
    assert isinstance(caught.value.__cause__, OSError) and is_full(caught.value)
    assert not place.exists()


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (MemoryError(), VolumeError, "more memory"),
        (KeyError("odd"), VolumeError, "KeyError"),
        (OSError(28, "full"), VolumeError, "OSError"),
        (OutputError("so", remedy="set it", options=["set"]), OutputError, "so; set it."),
    ],
)
def test_what_goes_wrong_there_is_told_here(
    met: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[SRCycError],
    says: str,
) -> None:
    def fail(self: Reading, path: Path) -> None:
        raise error

    for task, otherwise in (("grid", kind), ("model", ModelError)):
        monkeypatch.setattr(Reading, task, fail)
        told = met(task, Path("a.nii"))
        assert type(told) is (kind if kind is OutputError else otherwise) and says in str(told)
        assert is_full(told) == isinstance(error, OSError)


def test_where_little_memory_is_left_nothing_is_tried_for_ever(
    apart: Apart, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenBLAS asks the system again and again, for as long as the file may take."""
    monkeypatch.setattr(decoding, "_SHARE", 1e-6)
    assert apart.check(files[".nii"]).shape == read_volume(files[".nii"]).shape


def test_a_file_that_takes_too_long_is_a_refusal(
    apart: Apart, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decoding._SECONDS, "check", 0)
    with pytest.raises(VolumeError, match="more memory or time"):
        apart.check(files["series"])


def end(process: decoding._Process) -> None:
    child = process._process
    process._forget()
    assert child is not None
    assert child.wait(120) == 0


def test_it_ends_with_its_server(files: dict[str, Path]) -> None:
    process = decoding._Process()
    process.start()
    end(process)


def test_errors_keep_their_kind(apart: Apart, files: dict[str, Path]) -> None:
    with pytest.raises(OutputError) as caught:
        apart.nifti(files[".nii"], Path("/proc/x.nii"))
    assert isinstance(caught.value, SRCycError)
    assert "/proc" in str(caught.value)


def test_a_model_is_loaded_there_too(apart: Apart, tmp_path: Path) -> None:
    good = save_model(tmp_path / "good.safetensors")
    apart.model(good)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(ModelError, match="bad"):
        apart.model(bad)
    with (tmp_path / "large.safetensors").open("wb") as stream:
        stream.truncate(decoding.LARGEST_MODEL + 1)
    with pytest.raises(ModelError, match="MB"):
        apart.model(tmp_path / "large.safetensors")


def test_an_installation_that_is_broken_is_not_the_file_s_fault(
    apart: Apart, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nibabel.py").write_text("raise ImportError('a library of another version')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = decoding._Process()
    monkeypatch.setattr(decoding, "_PROCESS", process)
    with pytest.raises(ReaderError, match="another version") as caught:
        apart.grid(files[".nii"])
    assert "memory or time" not in str(caught.value) and str(files[".nii"]) not in str(caught.value)
    monkeypatch.delenv("PYTHONPATH")
    assert apart.grid(files[".nii"]).shape, "mended"
    end(process)


def test_a_python_that_is_gone_is_said(
    apart: Apart, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process = decoding._Process()
    monkeypatch.setattr(decoding, "_PROCESS", process)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ReaderError, match="FileNotFoundError"):
        apart.grid(files[".nii"])
    process._forget()


def test_where_python_cannot_fork_files_are_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(reading(MOST), Apart)
    monkeypatch.delattr(os, "fork")
    assert isinstance(reading(MOST), Reading)
