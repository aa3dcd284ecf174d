"""`srcyc serve` while it computes: it answers, queues, gives up, cleans up, and survives its own death."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

#: Takes some seconds on any processor, and the thick phantom through the tiny network next to none.
LONG = {"image": "larger", "output": "json", "weights": "patient", "device": "cpu", "precision": "fp32"}
#: For those who do not wait for the end: nobody computes that long.
ENDLESS = {**LONG, "uncertainty": True}
SHORT = {"image": "head", "output": "json", "weights": "tiny", "device": "cpu"}


@pytest.fixture(scope="module")
def busy(
    serve: Callable[..., Any],
    training_studies: Callable[..., Path],
    scans: Any,
    patient: tuple[Path, Path],
    tiny_model: Path,
) -> Any:
    studies = training_studies()
    # Large enough, too, that a hundred results which somebody holds on to would show.
    for scan in (patient[0], scans.nifti):
        shutil.copy(scan, studies)
    server = serve("srcyc", studies, model=tiny_model, more_models=[patient[1]])
    server.wait_for(
        lambda: {"head", "larger"} <= server.client.datastore()["objects"].keys(), "notice the scans"
    )
    # The first request of each kind loads what the later ones have ready.
    assert server.infer(**SHORT).status_code == 200
    yield server
    server.end()


class Background:
    """A request in a thread of its own.

    Args:
        server: to ask.
        wanted: as for ``Server.infer``.
    """

    def __init__(self, server: Any, wanted: dict[str, Any], **more: Any) -> None:
        self.server = server
        self.id = f"test-{uuid.uuid4().hex}"
        self.reply: requests.Response | None = None
        self._wanted = {**wanted, "request_id": self.id, **more}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.reply = self.server.infer(**self._wanted)
        except requests.RequestException:
            self.reply = None

    def progress(self) -> dict[str, Any]:
        return self.server.progress(self.id)

    def reaches(self, state: str) -> None:
        self.server.wait_for(lambda: self.progress()["state"] == state, f"be {state}")

    def computes(self) -> None:
        """Wait until it is in the midst of it."""
        self.server.wait_for(
            lambda: self.progress()["state"] == "running" and self.progress()["share"] > 0.02, "compute"
        )

    def result(self) -> requests.Response:
        self._thread.join(300)
        assert self.reply is not None, self.server.log[-1500:]
        return self.reply


def leave(server: Any, state: str) -> str:
    """Ask for what takes long, and leave when it has come to a state."""
    params = dict(ENDLESS)
    query = {name: params.pop(name) for name in ("image", "output")}
    return server.hang_up(params, state, params=query)  # type: ignore[no-any-return]


def no_temporary_file(server: Any) -> None:
    server.wait_for(lambda: not server.temporary_files(), f"remove {server.temporary_files()}")


def test_small_requests_are_answered_while_it_computes(busy: Any) -> None:
    slow = Background(busy, LONG)
    slow.computes()
    start = time.monotonic()
    shares, seconds = [], []
    second = None
    while slow.progress()["state"] == "running":
        for path in ("/info/", "/datastore/?output=all", "/train/", "/datastore/image/info?image=head"):
            asked = time.perf_counter()
            reply = busy.get(path)
            seconds.append((time.perf_counter() - asked, path))
            assert reply.status_code in (200, 404)
        shares.append(slow.progress()["share"])
        second = second or Background(busy, SHORT)
        time.sleep(0.1)
    lasted = time.monotonic() - start
    assert lasted > 2, f"it took {lasted:.1f} s only, which proves little"
    assert len(seconds) > 20
    assert max(seconds)[0] < max(0.5, lasted / 4), sorted(seconds)[-5:]
    assert shares == sorted(shares), "progress only grows"
    assert shares[-1] > shares[0]
    assert slow.result().status_code == 200
    assert slow.progress() == {"state": "done", "share": 1.0}
    assert second is not None
    assert second.result().status_code == 200, "it waited its turn"
    no_temporary_file(busy)


def test_a_second_inference_waits_its_turn(busy: Any) -> None:
    slow = Background(busy, LONG)
    slow.computes()
    queued = [Background(busy, SHORT) for _ in range(3)]
    for one in queued:
        one.reaches("queued")
    assert slow.progress()["state"] == "running"
    for one in (slow, *queued):
        assert one.result().status_code == 200, one.result().text
        assert one.progress()["state"] == "done"


def test_training_can_be_stopped_while_it_computes(busy: Any, tiny_training: Callable[..., Any]) -> None:
    busy.client.train_start("srcyc", tiny_training(100_000, name="stopped"))
    busy.wait_for(
        lambda: busy.client.info()["train_stats"]["srcyc"].get("step", 0) > 2, "take some steps of training"
    )
    slow = Background(busy, LONG)
    slow.computes()
    task = busy.client.train_stop()
    assert task["status"] == "STOPPED"
    assert slow.progress()["state"] == "running", "the inference goes on"
    busy.wait_for(lambda: not busy.children(), "end the training's processes")
    assert slow.result().status_code == 200
    assert (busy.model_dir / "runs" / "stopped").is_dir()


def test_fifty_at_once(busy: Any) -> None:
    paths = ["/info/", "/datastore/", "/datastore/?output=all", "/logs/?lines=5", "/"] * 10
    with ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(busy.get, paths))
    assert [reply.status_code for reply in replies] == [200] * 50


def test_fifty_inferences_at_once(busy: Any, refused: Callable[..., str]) -> None:
    """As many as can wait are done, the others are told so; none is lost."""
    with ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(lambda _: busy.infer(**SHORT), range(50)))
    done = [reply for reply in replies if reply.status_code == 200]
    assert len(done) >= 17
    for reply in replies:
        if reply.status_code != 200:
            refused(reply, 503, says="wait")
    assert busy.infer(**SHORT).status_code == 200
    no_temporary_file(busy)


def test_whoever_hangs_up_is_not_computed_for(busy: Any) -> None:
    busy.gives_up(leave(busy, "running"))
    # The line is free: what comes next does not wait for a result that nobody wants.
    asked = time.perf_counter()
    assert busy.infer(**SHORT).status_code == 200
    assert time.perf_counter() - asked < 20
    no_temporary_file(busy)


def test_whoever_hangs_up_in_the_line_never_begins(busy: Any) -> None:
    slow = Background(busy, LONG)
    slow.computes()
    queued = leave(busy, "queued")
    busy.gives_up(queued)
    assert slow.progress()["state"] == "running"
    assert busy.progress(queued)["share"] == 0
    assert slow.result().status_code == 200


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_many_inferences_leave_nothing_behind(busy: Any, scans: Any, count: int) -> None:
    """The memory of one is the memory of all; what was sent and what was made is removed."""

    larger = busy.studies / "larger.nii.gz"
    tiny = {"weights": "tiny", "device": "cpu"}

    def one(number: int) -> None:
        if number % 5 == 0:
            reply = busy.infer(file=scans.archive, output="all", **tiny)
        elif number % 5 == 1:
            reply = busy.infer(file=larger, output="image", result_extension=".nii", **tiny)
        elif number % 5 == 2:
            assert busy.infer("nobody", output="json").status_code == 404
            reply = busy.infer("larger", output="image", **tiny)
        elif number % 5 == 3:
            assert busy.infer(file=scans.corrupt, output="json").status_code == 422
            reply = busy.infer("larger", output="all", result_dtype="int16", **tiny)
        else:
            reply = busy.infer("larger", output="json", **tiny)
        assert reply.status_code == 200, reply.text[:300]

    for number in range(20):
        one(number)
    before = busy.rss()
    for number in range(count):
        one(number)
    grown = busy.rss() / before - 1
    assert grown <= 0.10, f"grown by {100 * grown:.1f} % from {before / 1e6:.0f} MB"
    no_temporary_file(busy)
    assert not busy.session_files()


def test_killed_while_it_computes(busy: Any, hash_tree: Callable[..., dict[str, str]]) -> None:
    before = hash_tree(busy.studies)
    slow = Background(busy, ENDLESS)
    slow.computes()
    busy.kill()
    busy.wait_for(lambda: not busy.children(), "leave no process behind")
    busy.restart()
    assert hash_tree(busy.studies) == before
    assert busy.infer(**SHORT).status_code == 200
    no_temporary_file(busy)
    assert set(busy.client.datastore()["objects"]) >= {"head", "larger"}


def test_ended_while_it_computes(busy: Any) -> None:
    """SIGTERM, as `systemctl stop` and `docker stop` send it: nobody waits for the inference. The last one here."""
    slow = Background(busy, ENDLESS)
    slow.computes()
    asked = time.monotonic()
    assert busy.terminate() in (0, -15, 143)
    assert time.monotonic() - asked < 40
    busy.wait_for(lambda: not busy.children(), "leave no process behind")
    assert not busy.temporary_files()
