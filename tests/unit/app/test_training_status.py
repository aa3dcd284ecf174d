"""The status of a training: what outlives its process, and what Slicer is shown of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from srcyc.documents import write_json
from srcyc_app.trainers.status import (
    STATUS_NAME,
    StatusFile,
    read_status,
    shown_history,
    train_stats,
)


def begun(runs: Path, name: str = "mine", **values: Any) -> StatusFile:
    (runs / name).mkdir(parents=True, exist_ok=True)
    status = StatusFile(runs / name)
    status.begin({}, run=name, message="begins.", **values)
    return status


def put(runs: Path, name: str, content: str) -> None:
    (runs / name).mkdir(parents=True, exist_ok=True)
    (runs / name / STATUS_NAME).write_text(content)


def test_without_any_training_slicer_finds_what_it_reads(tmp_path: Path) -> None:
    stats = train_stats(tmp_path / "absent")
    assert (stats["epoch"], stats["total_epochs"], stats["best_metric"]) == (0, 1, 0.0)
    assert stats["state"] == "none"


def test_total_time_is_there_only_when_nothing_runs(tmp_path: Path) -> None:
    status = begun(tmp_path)
    status.update(state="running", step=30, steps=100, epoch=3, total_epochs=10, best_metric=0.83)
    stats = train_stats(tmp_path)
    assert "total_time" not in stats
    assert (stats["state"], stats["epoch"], stats["total_epochs"]) == ("running", 3, 10)
    assert stats["best_metric"] == 0.83
    assert {"start_time", "current_time"} <= stats.keys()
    status.end("finished", "done.")
    stats = train_stats(tmp_path)
    assert stats["state"] == "finished"
    assert stats["total_time"].count(":") == 2


def test_a_process_that_ended_without_a_word_was_interrupted(tmp_path: Path) -> None:
    status = begun(tmp_path)
    status.update(state="running", step=12)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(gone.pid).create_time()
    status.update(pid=gone.pid, process_started=started)
    deadline = time.monotonic() + 30
    while psutil.Process(gone.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in ("a zombie", "no process at all"):
        stats = train_stats(tmp_path)
        assert stats["state"] == "interrupted"
        assert "after step 12" in stats["message"]
        assert "start it again" in stats["message"]
        assert "total_time" in stats
        gone.wait()


def test_another_process_of_the_same_number_is_not_the_training(tmp_path: Path) -> None:
    status = begun(tmp_path)
    status.update(state="running", process_started=psutil.Process().create_time() - 1000)
    assert train_stats(tmp_path)["state"] == "interrupted"


def test_the_run_that_changed_last_is_shown(tmp_path: Path) -> None:
    for age, name in ((300, "first"), (100, "newest"), (200, "second")):
        status = begun(tmp_path, name)
        status.end("finished", name)
        os.utime(status.path, (1_700_000_000 - age,) * 2)
    assert train_stats(tmp_path)["run"] == "newest"
    put(tmp_path, "damaged", "{")
    assert train_stats(tmp_path)["run"] == "newest"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "\x00",
        "[" * 100_000,
        '{"state": 5, "epoch": "x", "total_epochs": null, "best_metric": [], "started": {}}',
        '{"state": "running", "pid": -1, "process_started": 1}',
        '{"state": "running", "pid": 1e30, "process_started": true}',
        f'{{"state": "running", "pid": {10**30}, "process_started": 1}}',
        '{"state": "running", "pid": true, "process_started": 1}',
        '{"state": "finished", "started": 1e300, "ended": NaN}',
        '{"state": [], "best_metric": 7}',
    ],
)
def test_a_damaged_status_breaks_nothing(tmp_path: Path, content: str) -> None:
    put(tmp_path, "mine", content)
    stats = train_stats(tmp_path)
    json.dumps(stats, allow_nan=False)
    assert stats["total_epochs"] >= 1
    assert 0 <= stats["best_metric"] <= 1


def test_numbers_of_all_kinds_become_json(tmp_path: Path) -> None:
    status = begun(tmp_path)
    values = {
        "terms": {"cycle": np.float32(0.5), "worse": float("nan"), "more": np.float64("inf")},
        "tensor": torch.tensor(2.0),
        "array": np.arange(2),
        "path": tmp_path,
        "flag": np.bool_(True),
        "other": {1, 2} - {2},
    }
    status.update(**values)
    read = read_status(tmp_path / "mine")
    assert read is not None
    assert read["terms"] == {"cycle": 0.5, "worse": None, "more": None}
    assert (read["tensor"], read["array"], read["flag"]) == (2.0, [0, 1], True)
    assert read["other"] == [1]


def test_what_two_threads_say_at_once_is_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is still writing what it knew when the other has something to say."""
    status = begun(tmp_path)
    writes, go_on = threading.Event(), threading.Event()

    def slowly(path: Path, document: Any) -> None:
        if document["step"] == 1 and not writes.is_set():
            writes.set()
            assert go_on.wait(30)
        write_json(path, document)

    monkeypatch.setattr("srcyc_app.trainers.status.write_json", slowly)
    changes = ({"step": 1}, {"state": "stopping"})
    threads = [threading.Thread(target=status.update, kwargs=each) for each in changes]
    threads[0].start()
    assert writes.wait(30)
    threads[1].start()
    threads[1].join(0.2)  # written over by the first one now, were it not waiting for that
    go_on.set()
    for thread in threads:
        thread.join(30)
    found = read_status(tmp_path / "mine") or {}
    assert (found["step"], found["state"]) == (1, "stopping")


def test_what_is_kept_of_an_earlier_status_gives_way_to_what_is_new(tmp_path: Path) -> None:
    status = begun(tmp_path, history=[1])
    status.end("failed", "the disk is full.", step=5)
    again = StatusFile(tmp_path / "mine")
    again.begin({"step": 5}, message="goes on.")
    read = read_status(tmp_path / "mine")
    assert read is not None
    assert (read["state"], read["message"], read["step"]) == ("starting", "goes on.", 5)
    assert read["ended"] is None
    assert "history" not in read


def test_a_long_history_is_thinned_and_keeps_validations_and_its_end() -> None:
    rows = [{"step": n, **({"psnr": 1.0} if n % 50 == 0 else {})} for n in range(1, 2001)]
    shown = shown_history(rows)
    assert len(shown) == 200
    assert shown[-1]["step"] == 2000
    assert [row["step"] for row in shown] == sorted(row["step"] for row in shown)
    assert sum("psnr" in row for row in shown) == 40
    assert shown_history(rows[:7]) == rows[:7]
