"""`srcyc serve` while it computes: it answers, queues, gives up, cleans up, and survives its own death."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

#: Takes minutes on any processor: whoever asks for it hangs up. The phantom through the tiny network takes no time.
ENDLESS = {"weights": "patient", "device": "cpu", "precision": "fp32", "uncertainty": True}
SHORT = {"image": "head", "output": "json", "weights": "tiny", "device": "cpu"}


@pytest.fixture(scope="module")
def busy(
    serve: Callable[..., Any],
    training_studies: Callable[..., Path],
    scans: Any,
    patient: tuple[Path, Path],
    endless: Path,
    tiny_model: Path,
) -> Any:
    studies = training_studies()
    # One so large that a hundred results which somebody holds on to would show.
    for scan in (patient[0], endless, scans.nifti):
        shutil.copy(scan, studies)
    server = serve("srcyc", studies, model=tiny_model, more_models=[patient[1]])
    wanted = {"head", "larger", "endless"}
    server.wait_for(lambda: wanted <= server.client.datastore()["objects"].keys(), "notice the scans")
    # The first request of each kind loads what the later ones have ready.
    assert server.infer(**SHORT).status_code == 200
    yield server
    server.end()


def asking(server: Any, state: str) -> Any:
    """Have the endless one in a state for as long as the block lasts; then its client hangs up."""
    return server.asking(ENDLESS, state, params={"image": "endless", "output": "json"})


@contextlib.contextmanager
def computing(server: Any) -> Iterator[str]:
    """Have the server in the midst of an inference, from the first line of the block to the last."""
    with asking(server, "running") as slow:
        server.wait_for(lambda: server.progress(slow)["share"] > 0, "compute")
        yield slow
        if server.running.poll() is None:
            assert server.progress(slow)["state"] == "running"


def no_temporary_file(server: Any) -> None:
    server.wait_for(lambda: not server.temporary_files(), f"remove {server.temporary_files()}")


def test_small_requests_are_answered_while_it_computes(busy: Any) -> None:
    with computing(busy) as slow:
        shares = [busy.progress(slow)["share"]]
        for _ in range(3):
            for path in ("/info/", "/datastore/?output=all", "/train/", "/datastore/image/info?image=head"):
                assert busy.get(path).status_code in (200, 404)
            # It goes on meanwhile.
            busy.wait_for(lambda: busy.progress(slow)["share"] > shares[-1], "get further")
            shares.append(busy.progress(slow)["share"])
        assert shares == sorted(shares), "progress only grows"
    busy.gives_up(slow)
    no_temporary_file(busy)


def test_others_wait_their_turn(busy: Any) -> None:
    with ThreadPoolExecutor(3) as pool:
        with computing(busy):
            names = [f"test-{uuid.uuid4().hex}" for _ in range(3)]
            queued = [pool.submit(busy.infer, **SHORT, request_id=name) for name in names]
            for name in names:
                busy.wait_for(lambda name=name: busy.progress(name)["state"] == "queued", "be queued")
        # The line is free: nobody waits for a result that nobody wants.
        assert [one.result().status_code for one in queued] == [200] * 3
    assert [busy.progress(name) for name in names] == [{"state": "done", "share": 1.0}] * 3
    no_temporary_file(busy)


def test_training_can_be_stopped_while_it_computes(busy: Any, tiny_training: Callable[..., Any]) -> None:
    busy.client.train_start("srcyc", tiny_training(100_000, name="stopped"))
    busy.wait_for(
        lambda: busy.client.info()["train_stats"]["srcyc"].get("step", 0) > 2, "take some steps of training"
    )
    with computing(busy):
        assert busy.client.train_stop()["status"] == "STOPPED"
        busy.wait_for(lambda: not busy.children(), "end the training's processes")
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
    # Sixteen may wait; the one that is computed was one of them, or has made room for another.
    assert len(done) >= 16
    for reply in replies:
        if reply.status_code != 200:
            refused(reply, 503, says="wait")
    assert busy.infer(**SHORT).status_code == 200
    no_temporary_file(busy)


def test_whoever_hangs_up_in_the_line_never_begins(busy: Any) -> None:
    with computing(busy):
        with asking(busy, "queued") as queued:
            pass
        busy.gives_up(queued)
        assert busy.progress(queued)["share"] == 0


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
    with computing(busy):
        busy.kill()
    busy.wait_for(lambda: not busy.children(), "leave no process behind")
    busy.restart()
    assert hash_tree(busy.studies) == before
    assert busy.infer(**SHORT).status_code == 200
    no_temporary_file(busy)
    assert set(busy.client.datastore()["objects"]) >= {"head", "larger"}


def test_ended_while_it_computes(busy: Any) -> None:
    """SIGTERM, as `systemctl stop` and `docker stop` send it: nobody waits for the inference. The last one here."""
    with computing(busy):
        asked = time.monotonic()
        assert busy.terminate() in (0, -15, 143)
        assert time.monotonic() - asked < 40
    busy.wait_for(lambda: not busy.children(), "leave no process behind")
    assert not busy.temporary_files()
