"""Trees of DICOM in a studies folder: every series in them is a scan of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

from factories import make_phantom, save_series
from srcyc.volumes.volume import Volume, read_volume
from srcyc_app.refusals import Refusal
from srcyc_app.server.routes.sessions import _pack
from srcyc_app.studies.datastore import StudiesFolder
from srcyc_app.studies.decoding import Apart, Reading
from srcyc_app.studies.domains import person_in, training_scans
from srcyc_app.studies.placing import clear_leftovers, put


def make_series(folder: Path, number: int, thickness: float, description: str) -> Path:
    volume = Volume(1000 * make_phantom((16, 18, 6), number), np.diag([1.0, 1.0, thickness, 1.0]))
    save_series(volume, folder)
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.SeriesNumber, data.SeriesDescription = number, description
        data.save_as(file, write_like_original=False)
        os.utime(file, (1_700_000_000,) * 2)
    return folder


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """One person's study with two series in folders of their own, another's with two series in one folder."""
    place = tmp_path / "studies"
    make_series(place / "anna" / "2024" / "t2", 1, 4, "t2 tse")
    make_series(place / "anna" / "2024" / "t1", 2, 1, "t1 mprage")
    both = place / "otto" / "dump"
    both.mkdir(parents=True)
    for number, name in ((3, "c"), (4, "d")):
        for file in make_series(tmp_path / name, number, 4, f"{name} tra").iterdir():
            shutil.move(file, both / f"{name}{file.name}")
    (place / "empty" / "deeper").mkdir(parents=True)
    return place


def opened(studies: Path) -> StudiesFolder:
    return StudiesFolder(str(studies), watch=False, interval=0.01, reading=Apart(10**9))


def test_every_series_of_a_tree_is_a_scan(studies: Path) -> None:
    store = opened(studies)
    ids = {"anna_2024_t2", "anna_2024_t1", "otto_dump_3_c-tra", "otto_dump_4_d-tra"}
    assert set(store.list_images()) == ids
    for image in ids:
        scan = read_volume(store.get_image_uri(image))
        info = store.get_image_info(image)
        assert info["shape"] == list(scan.shape) and np.allclose(info["spacing"], scan.spacing)
    assert store.get_image_info("anna_2024_t2")["domain"] == "LR"
    assert store.get_image_info("anna_2024_t1")["domain"] == "HR"
    persons = {image: person_in(image, store.get_image_info(image)) for image in ids}
    assert persons == {image: image.split("_")[0] for image in ids}
    manifest, _ = training_scans(store)
    assert {read_volume(path).shape for path in manifest} == {(16, 18, 6)} and len(manifest) == 4


def test_one_series_of_a_folder_is_sent_and_removed_without_the_other(studies: Path) -> None:
    store = opened(studies)
    with zipfile.ZipFile(store.get_image("otto_dump_3_c-tra")) as packed:
        assert {name[0] for name in packed.namelist()} == {"c"} and len(packed.namelist()) == 6
    archive = studies.parent / "packed.zip"
    services: Any = SimpleNamespace(app=SimpleNamespace(reading=Reading()))
    _pack(services, Path(store.get_image_uri("otto_dump_3_c-tra")), archive)
    with zipfile.ZipFile(archive) as packed:
        assert {name[0] for name in packed.namelist()} == {"c"}
    store.remove_image("otto_dump_3_c-tra")
    assert {file.name[0] for file in (studies / "otto" / "dump").iterdir()} == {"d"}
    store.refresh()
    # The only one now, so that the folder is its address.
    assert set(store.list_images()) == {"anna_2024_t2", "anna_2024_t1", "otto_dump"}
    with pytest.raises(Refusal):
        store.get_image_uri("otto_dump_3_c-tra")


def test_a_tree_is_read_again_only_when_something_in_it_changed(
    studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(studies)
    store.update_image_info("anna_2024_t2", {"domain": "neither"})
    listed: list[str] = []
    real = Apart.tree
    monkeypatch.setattr(Apart, "tree", lambda self, folder: listed.append(folder.name) or real(self, folder))
    store.refresh()
    again = opened(studies)
    assert not [name for name in listed if name != "empty"]
    assert again.get_image_info("anna_2024_t2")["domain"] == "neither"
    make_series(studies / "anna" / "2025" / "flair", 5, 3, "flair")
    store.refresh()
    assert "anna" in listed and "otto" not in listed
    assert {"anna_2024_t2", "anna_2025_flair"} <= set(store.list_images())
    assert store.get_image_info("anna_2024_t2")["domain"] == "neither"
    shutil.rmtree(studies / "anna" / "2024")
    store.refresh()
    assert set(store.list_images()) == {"anna_2025_flair", "otto_dump_3_c-tra", "otto_dump_4_d-tra"}


def test_a_damaged_series_of_a_tree_is_told_and_harms_no_other(studies: Path) -> None:
    file = next((studies / "anna" / "2024" / "t2").iterdir())
    file.write_bytes(file.read_bytes()[:300])
    os.utime(file, (1_700_000_000,) * 2)
    store = opened(studies)
    errors = {image: store.get_image_info(image).get("error") for image in store.list_images()}
    assert file.name in errors.pop("anna_2024_t2")
    assert set(errors.values()) == {None} and len(errors) == 3
    assert str(studies) not in str(store.json())


def test_a_series_is_replaced_whole_and_what_else_was_there_stays(tmp_path: Path) -> None:
    place, coming = make_series(tmp_path / "x", 1, 4, "old"), tmp_path / ".srcyc-coming-1-x"
    (place / "notes.txt").write_text("kept")
    make_series(coming, 2, 4, "new")
    put(coming, place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
    assert (place / "notes.txt").read_text() == "kept"
    assert {pydicom.dcmread(file).SeriesNumber for file in place.glob("*.dcm")} == {2}
    # A process that was killed between taking the old one away and bringing the new one.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = tmp_path / f".srcyc-old-{gone.pid}-1000000000-x"
    place.rename(old)
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
    assert len(list(place.iterdir())) == 7
    # Or after that: what else was in the old one still belongs there.
    place.rename(old)
    make_series(place, 3, 4, "newer")
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
    assert (place / "notes.txt").exists()
    assert {pydicom.dcmread(file).SeriesNumber for file in place.glob("*.dcm")} == {3}
