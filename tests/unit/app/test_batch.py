"""Batch inference over the studies folder: what is done, and what one bad scan does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import srcyc_app.app
from srcyc.errors import NothingToDoError, StoppedError
from srcyc.inference.results import Written
from srcyc.volumes.volume import Volume, write_volume
from srcyc_app.infers import super_resolution
from srcyc_app.infers.batch import BatchSuperResolution
from srcyc_app.infers.super_resolution import SuperResolutionTask
from srcyc_app.models import ModelShelf
from srcyc_app.refusals import Refusal
from srcyc_app.studies.datastore import StudiesFolder

#: What MONAI Label's route puts into every request.
STOCK = {
    "device": "cuda",
    "multi_gpu": True,
    "gpus": "all",
    "logging": "WARNING",
    "save_label": True,
    "label_tag": "original",
    "max_workers": 1,
    "max_batch_size": 0,
}


@pytest.fixture
def app(studies: Path, models: Path, tmp_path: Path, thick: Volume, phantom: Any) -> Any:
    write_volume(thick, studies / "another.nii.gz")
    broken = (studies / "another.nii.gz").read_bytes()
    (studies / "broken.nii.gz").write_bytes(broken[: len(broken) // 2])
    write_volume(Volume(phantom((24, 24, 24)), np.eye(4)), studies / "thin.nii.gz")
    for path in studies.iterdir():
        os.utime(path, (1e9, 1e9))
    return srcyc_app.app.SRCycApp(str(tmp_path / "app"), str(studies), {"model_dir": str(models)})


def test_thick_scans_are_done_and_one_broken_scan_does_not_stop_the_rest(app: Any) -> None:
    outcomes = app.batch_infer({"model": "srcyc", "images": "all", **STOCK})
    assert {image: outcome["status"] for image, outcome in outcomes.items()} == {
        "another": "written",
        "broken": "refused",
        "thick": "written",
    }
    assert "broken" in outcomes["broken"]["message"]
    assert app.datastore().status()["domains"] == {"LR": 3, "HR": 1, "SR": 2, "neither": 0}
    again = app.batch_infer({"model": "srcyc", "images": "all"})
    assert again["thick"]["status"] == again["another"]["status"] == "skipped"
    assert again["thick"]["stored_as"] == "thick_sr"
    assert (
        app.batch_infer({"model": "srcyc", "images": ["thick"], "overwrite": True})["thick"]["status"]
        == "written"
    )


def test_a_batch_leaves_no_files_of_its_maps(
    app: Any, thick: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    marked = np.zeros(thick.data.shape, np.float32)
    marked[:, 4:12, 4:12, 2:5] = 1
    label = write_volume(replace(thick, data=marked), tmp_path / "label.nrrd", dtype=np.uint8)
    app.datastore().save_label("thick", str(label), "drawn", None)
    asked = {"model": "srcyc", "images": ["thick"], "uncertainty": True, "correction_map": True}
    asked["labels"] = "drawn"
    assert app.batch_infer(asked)["thick"]["status"] == "written"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_archives_for_which_the_disk_has_no_room_leave_nothing(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    for name, size in (("made", 10), ("made_uncertainty", 100_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.dcm").write_bytes(np.random.default_rng(0).bytes(size))
    (tmp_path / "labels").write_text("x")
    maps = {"uncertainty": tmp_path / "made_uncertainty"}
    written = Written(tmp_path / "made", maps, {}, tmp_path / "labels")
    with file_size_limit(5000), pytest.raises(OSError):
        super_resolution._zipped(written, tmp_path / "made.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "status"),
    [
        ("some", 422),
        ({"a": 1}, 422),
        ([1], 422),
        (["nobody"], 404),
        (["../thick"], 422),
        (["/etc/passwd"], 422),
    ],
)
def test_ids_from_the_network_are_checked(app: Any, images: Any, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        app.batch_infer({"model": "srcyc", "images": images})
    assert caught.value.status_code == status


def test_wrong_options_are_refused_once_not_per_scan(app: Any) -> None:
    with pytest.raises(Refusal, match="precision"):
        app.batch_infer({"model": "srcyc", "precision": "fp8"})


def test_a_failure_that_nobody_foresaw_is_one_scans_own(studies: Path, tmp_path: Path) -> None:
    datastore = StudiesFolder(str(studies), watch=False)
    task = SuperResolutionTask(ModelShelf(tmp_path), 10**9)

    def infer(request: dict[str, Any], store: Any) -> dict[str, Any]:
        task.config()
        raise ZeroDivisionError("nobody foresaw this")

    outcomes = BatchSuperResolution()({"model": "srcyc"}, datastore, infer)
    assert outcomes["thick"]["status"] == "failed"
    assert "nobody foresaw this" in outcomes["thick"]["message"]


def test_a_batch_does_no_more_than_it_may_and_stops_when_asked(studies: Path, thick: Volume) -> None:
    write_volume(thick, studies / "another.nii.gz")
    datastore = StudiesFolder(str(studies), watch=False)

    def refused(request: dict[str, Any], store: Any) -> dict[str, Any]:
        raise NothingToDoError("as it is")

    outcomes = BatchSuperResolution()({"model": "srcyc", "max_batch_size": 1}, datastore, refused)
    assert {image: outcome["status"] for image, outcome in outcomes.items()} == {"another": "skipped"}

    def stopped(request: dict[str, Any], store: Any) -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    with pytest.raises(StoppedError, match="is kept") as caught:
        BatchSuperResolution()({"model": "srcyc"}, datastore, stopped)
    assert caught.value.number == signal.SIGTERM
