from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ended import has_ended
from srcyc_app.refusals import Refusal
from srcyc_app.server.jobs import Cancelled, Line, State, Tell
from srcyc_app.server.processes import Background
from srcyc_app.server.scratch import Scratch, remove_leftovers

PATIENCE = 60.0


def wait_until(happened: Callable[[], object], within: float = PATIENCE) -> None:
    end = time.monotonic() + within
    while not happened():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


async def never_gone() -> bool:
    return False


# -- the line of inferences ------------------------------------------------------------------------------------------


class Work:
    """Work that begins, goes on and ends when the test says so."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.discarded: list[str] = []

    def __call__(self, tell: Tell) -> str:
        self.begun.set()
        while not self.may_end.wait(0.01):
            tell(0.5)
        return "result"


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line(longest=2)
    yield line
    line.close()
    assert line.is_idle(within=PATIENCE)


def test_a_job_is_done_and_tells_how_far_it_is(line):
    work = Work()
    job = line.submit(work, discard=work.discarded.append, request_id="request-1")
    wait_until(lambda: job.progress.share == 0.5)
    assert line.progress("request-1").state is State.RUNNING
    work.may_end.set()
    assert asyncio.run(job.wait(never_gone)) == "result"
    assert (line.progress("request-1").state, line.progress("request-1").share) == (State.DONE, 1.0)
    assert work.discarded == []


def test_a_client_that_stays_is_asked_again_and_only_the_last_jobs_are_remembered(line, monkeypatch):
    monkeypatch.setattr("srcyc_app.server.jobs._LOOK", 0.01)
    monkeypatch.setattr("srcyc_app.server.jobs._REMEMBERED", 1)
    looks = []

    async def stays() -> bool:
        looks.append(work)
        if looks.count(work) > 1:
            work.may_end.set()
        return False

    for number in range(3):
        work = Work()
        job = line.submit(work, discard=work.discarded.append, request_id=f"request-{number}")
        assert asyncio.run(job.wait(stays)) == "result"
    assert len(looks) >= 6
    with pytest.raises(Refusal, match="request-0"):
        line.progress("request-0")
    assert line.progress("request-1").over


def test_jobs_are_done_one_after_the_other(line):
    first, second = Work(), Work()
    line.submit(first, discard=first.discarded.append)
    job = line.submit(second, discard=second.discarded.append, request_id="request-2")
    assert first.begun.wait(PATIENCE)
    assert not second.begun.is_set()
    assert line.progress("request-2").state is State.QUEUED
    first.may_end.set()
    second.may_end.set()
    assert asyncio.run(job.wait(never_gone)) == "result"


def test_one_user_does_not_fill_the_line(line):
    work = Work()
    line.submit(work, discard=work.discarded.append, owner="otto", most=1)
    with pytest.raises(Refusal, match="yours") as caught:
        line.submit(work, discard=work.discarded.append, owner="otto", most=1)
    assert caught.value.status_code == 429
    assert int(caught.value.headers["Retry-After"]) > 0
    # Others, and those who are not known, are not hindered.
    assert work.begun.wait(PATIENCE)
    first = line.submit(work, discard=work.discarded.append, owner="anna", most=1, request_id="request-3")
    second = line.submit(work, discard=work.discarded.append, request_id="request-4")
    assert [line.position(job.progress) for job in (first, second)] == [0, 1]
    with pytest.raises(Refusal, match="waiting") as caught:
        line.submit(work, discard=work.discarded.append)
    assert caught.value.status_code == 503
    assert int(caught.value.headers["Retry-After"]) > 0
    work.may_end.set()


def test_a_running_job_ends_when_its_client_hangs_up(line):
    work = Work()
    job = line.submit(work, discard=work.discarded.append)
    assert work.begun.wait(PATIENCE)

    async def gone() -> bool:
        return True

    with pytest.raises(Cancelled):
        asyncio.run(job.wait(gone))
    wait_until(lambda: job.progress.state is State.CANCELLED)
    assert work.discarded == []


def test_a_waiting_job_that_is_given_up_never_begins(line):
    first, second = Work(), Work()
    line.submit(first, discard=first.discarded.append)
    job = line.submit(second, discard=second.discarded.append)
    job.give_up()
    first.may_end.set()
    with pytest.raises(Cancelled):
        asyncio.run(job.wait(never_gone))
    assert line.is_idle(within=PATIENCE)
    assert not second.begun.is_set()


def test_a_result_that_comes_too_late_is_discarded(line):
    finished, discarded = threading.Event(), []

    def work(tell: Tell) -> str:
        finished.wait(PATIENCE)
        return "result"

    job = line.submit(work, discard=discarded.append)
    wait_until(lambda: job.progress.state is State.RUNNING)
    job.give_up()
    finished.set()
    wait_until(lambda: discarded == ["result"])


def test_a_cancelled_request_gives_its_job_up(line):
    work = Work()
    job = line.submit(work, discard=work.discarded.append)

    async def cancelled() -> None:
        waiting = asyncio.create_task(job.wait(never_gone))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cancelled())
    wait_until(lambda: job.progress.state is State.CANCELLED)


def test_a_failure_reaches_the_client(line):
    def work(tell: Tell) -> str:
        raise Refusal(422, "not a scan.")

    job = line.submit(work, discard=print, request_id="request-3")
    with pytest.raises(Refusal, match=r"not a scan\."):
        asyncio.run(job.wait(never_gone))
    assert line.progress("request-3").state is State.FAILED


def test_a_long_line_is_refused(line):
    works = [Work() for _ in range(3)]
    jobs = [line.submit(works[0], discard=print)]
    assert works[0].begun.wait(PATIENCE)
    jobs += [line.submit(work, discard=print) for work in works[1:]]
    with pytest.raises(Refusal, match="waiting already") as refused:
        line.submit(Work(), discard=print)
    assert refused.value.status_code == 503
    jobs[-1].give_up()
    wait_until(lambda: jobs[-1].progress.state is State.CANCELLED)
    line.submit(works[-1], discard=print)


def test_one_request_id_is_one_request(line):
    work = Work()
    line.submit(work, discard=print, request_id="request-4")
    with pytest.raises(Refusal) as refused:
        line.submit(Work(), discard=print, request_id="request-4")
    assert refused.value.status_code == 409
    work.may_end.set()
    assert line.is_idle(within=PATIENCE)
    again = Work()
    again.may_end.set()
    line.submit(again, discard=print, request_id="request-4")
    with pytest.raises(Refusal) as refused:
        line.progress("request-5")
    assert refused.value.status_code == 404


def test_a_closed_line_takes_nothing(line):
    work = Work()
    job = line.submit(work, discard=print)
    line.close()
    wait_until(lambda: job.progress.state is State.CANCELLED)
    with pytest.raises(Refusal) as refused:
        line.submit(Work(), discard=print)
    assert refused.value.status_code == 503


def test_a_job_that_comes_while_the_line_is_closed_does_not_stay_in_it(line, monkeypatch):
    submit, closing = line._executor.submit, threading.Thread(target=line.close)

    def late(work):
        closing.start()
        # As far as it comes.
        closing.join(0.2)
        return submit(work)

    monkeypatch.setattr(line._executor, "submit", late)
    with contextlib.suppress(Refusal):
        line.submit(Work(), discard=print)
    closing.join()
    assert line.is_idle(within=PATIENCE)


# -- background processes --------------------------------------------------------------------------------------------

#: Ends gracefully on SIGTERM, with a line that says so.
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(1)))
print("ready", flush=True)
time.sleep(600)
"""
#: Does not care for SIGTERM, and has a child of its own.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def background(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Background]:
    """Runs Python code instead of MONAI Label, and waits for its end for long, or as the test says."""
    background = Background(
        "train",
        tmp_path,
        command=lambda method, request: [sys.executable, "-c", request["code"]],
        patience=getattr(request, "param", PATIENCE),
    )
    yield background
    background.close()


def newest(background: Background) -> dict:
    return background.tasks()[-1]


def test_a_task_runs_to_its_end(background):
    task = background.start({"code": "for i in range(30): print(f'line {i}')\nprint()\nprint('größer')"})
    assert task["status"] in ("SUBMITTED", "RUNNING")
    assert background.running()["id"] == task["id"]
    wait_until(lambda: background.running() is None)
    done = newest(background)
    assert done["status"] == "DONE"
    assert done["details"] == [*(f"line {i}" for i in range(11, 30)), "größer"]
    assert done["end_ts"] >= done["start_ts"]


def test_a_task_that_fails_is_an_error(background):
    background.start({"code": "raise SystemExit(3)"})
    wait_until(lambda: newest(background)["status"] == "ERROR")


def test_only_one_runs(background):
    background.start({"code": POLITE})
    assert background.start({"code": POLITE}) is None
    assert len(background.tasks()) == 1


def test_a_task_may_wait_for_its_turn(background):
    background.start({"code": "print(1)"})
    waiting = background.start({"code": "print(2)"}, enqueue=True)
    wait_until(lambda: newest(background)["status"] == "DONE")
    assert newest(background)["id"] == waiting["id"]
    assert newest(background)["details"] == ["2"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_stop_lets_the_process_save_and_begins_nothing_that_waits(background):
    background.start({"code": POLITE})
    background.start({"code": "print('began')"}, enqueue=True)
    wait_until(lambda: background.tasks()[0].get("details") == ["ready"])
    stopped = background.stop()
    assert stopped["status"] == "STOPPED"
    assert background.running() is None
    wait_until(lambda: background.tasks()[0]["details"] == ["ready", "saved"])
    background.close()
    assert [task["status"] for task in background.tasks()] == ["STOPPED", "STOPPED"]
    assert "details" not in newest(background)
    assert background.stop() is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_task_may_begin_while_the_stopped_one_still_saves(background):
    background.start({"code": POLITE})
    wait_until(lambda: newest(background).get("details"))
    background.stop()
    assert background.start({"code": "print('next')"})["status"] == "SUBMITTED"
    wait_until(lambda: newest(background)["status"] == "DONE")
    assert background.tasks()[0]["details"] == ["ready", "saved"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("background", [0.5], indirect=True)
def test_who_does_not_end_is_killed_with_its_children(background):
    background.start({"code": STUBBORN})
    wait_until(lambda: newest(background).get("details"))
    child = psutil.Process(int(newest(background)["details"][0].split()[1]))
    background.close()

    wait_until(lambda: has_ended(child))
    assert newest(background)["status"] == "STOPPED"


@pytest.mark.parametrize("missing", ["program", "room"])
def test_what_cannot_be_started_says_so(tmp_path, missing):
    scratch = Scratch()
    program = sys.executable if missing == "room" else str(tmp_path / "none")
    background = Background(
        "batch_infer", tmp_path, scratch=scratch, command=lambda method, request: [program, "-c", ""]
    )
    if missing == "room":
        scratch.close()
    background.start({})
    wait_until(lambda: newest(background)["status"] == "ERROR")
    assert "cannot be started" in newest(background)["details"][0]
    background.close()
    assert background.start({}) is None
    scratch.close()


def test_temporary_files_of_a_task_go_with_it(tmp_path):
    scratch = Scratch()
    background = Background(
        "batch_infer",
        tmp_path,
        scratch=scratch,
        command=lambda method, request: [
            *(sys.executable, "-c", "import tempfile; print(tempfile.mkstemp()[1])"),
        ],
    )
    background.start({})
    wait_until(lambda: newest(background)["status"] == "DONE")
    background.close()
    made = Path(newest(background)["details"][0])
    assert made.is_relative_to(scratch.folder)
    assert list(scratch.folder.iterdir()) == []
    scratch.close()
    assert not scratch.folder.exists()


def test_only_folders_of_servers_that_are_gone_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = Scratch()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f"srcyc-server-{ended.pid}-1000000000-abcdefgh"
    (left / "inside").mkdir(parents=True)
    same_number = tmp_path / f"srcyc-server-{os.getpid()}-1000000000-abcdefgh"
    same_number.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / f"srcyc-server-{ended.pid}-1000000000-link"
    link.symlink_to(elsewhere)
    other = tmp_path / "srcyc-server-notes"
    other.mkdir()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        mine.folder.name,
        elsewhere.name,
        link.name,
        other.name,
    }
    with mine.room() as room:
        (room / "file").write_text("x")
    assert list(mine.folder.iterdir()) == []
