"""How the end of a training is written down, whatever ended it; test_training_task.py runs real ones."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from factories import save_head
from srcyc.config import TrainingConfig
from srcyc.errors import SRCycError, StoppedError
from srcyc.training.folder import RunFolder
from srcyc.training.watch.recorder import HISTORY_NAME
from srcyc_app.studies.datastore import StudiesFolder
from srcyc_app.trainers.running import _history
from srcyc_app.trainers.scans import given_scans
from srcyc_app.trainers.status import StatusFile, read_status
from srcyc_app.trainers.supervision import Asked
from srcyc_app.trainers.task import _best_so_far, _ended_badly, _put_aside, _tell_that_it_stops


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose scans are being prepared."""
    folder = RunFolder(tmp_path / "runs" / "mine")
    folder.store.folder.mkdir(parents=True)
    (folder.store.folder / "scan.npy").write_bytes(b"prepared")
    return folder


@pytest.mark.parametrize(
    ("error", "kind", "state", "says"),
    [
        (Asked(signal.SIGTERM), StoppedError, "stopped", "SIGTERM"),
        (KeyboardInterrupt(), StoppedError, "stopped", "SIGINT"),
        (MemoryError(), SRCycError, "failed", "run: new"),
        (ZeroDivisionError("odd\nand more"), ZeroDivisionError, "failed", "(ZeroDivisionError: odd)"),
        (ZeroDivisionError(), ZeroDivisionError, "failed", "no message"),
        (SRCycError("so", remedy="send it by set x", options=["set"]), SRCycError, "failed", "settings: x"),
    ],
)
def test_what_ended_it_is_in_the_status(
    run: RunFolder, error: BaseException, kind: type[BaseException], state: str, says: str
) -> None:
    status = StatusFile(run.path)
    status.begin({}, run="mine")
    assert type(_ended_badly(run, status, error)) is kind
    found = read_status(run.path) or {}
    assert (found["state"], found["remaining"]) == (state, None)
    assert says in found["message"]
    assert run.store.folder.exists()


def test_on_a_full_disk_what_can_be_made_again_makes_room(run: RunFolder, file_size_limit: Callable) -> None:
    status = StatusFile(run.path)
    status.begin({}, run="mine")
    with file_size_limit(10):
        _tell_that_it_stops(status)
        assert isinstance(_ended_badly(run, status, Asked(signal.SIGTERM)), StoppedError)
    assert not run.store.folder.exists()
    assert (read_status(run.path) or {})["state"] == "starting", "interrupted once this process is gone"


def test_a_run_makes_room_as_often_as_it_has_to(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    for _ in range(3):
        _put_aside(run)
        run.path.mkdir()
    aside = ["mine", "mine-20260101-000000", "mine-20260101-000000-2", "mine-20260101-000000-3"]
    assert sorted(path.name for path in run.path.parent.iterdir()) == aside


def test_damaged_files_of_a_run_that_goes_on_are_told_of_as_nothing(run: RunFolder) -> None:
    run.model.write_bytes(b"damaged")
    assert _best_so_far(run) == {"best_step": 0, "best_metric": 0.0}
    (run.path / HISTORY_NAME).mkdir()
    assert _history(run) == []


def test_pairs_are_of_people_with_a_thin_scan(tmp_path: Path) -> None:
    for person, thickness in (("a", 1), ("a", 4), ("b", 4)):
        save_head(tmp_path / f"sub-{person}_{thickness}.nii.gz", (12, 13, 6), (1, 1, thickness))
    store = StudiesFolder(str(tmp_path), watch=False, interval=0.02)
    given = {}
    for mode in ("paired", "unpaired"):
        sources, left_out = given_scans(store, TrainingConfig.model_validate({"mode": mode}))
        given[mode] = sources
        assert left_out == {}
    names = {mode: sorted(path.name for path in sources.lr) for mode, sources in given.items()}
    assert names == {"paired": ["sub-a_4.nii.gz"], "unpaired": ["sub-a_4.nii.gz", "sub-b_4.nii.gz"]}
