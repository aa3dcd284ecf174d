"""Requests in a process of their own: what it says, and what is left when it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from srcyc.volumes.volume import read_volume
from SRCycLib import processes, worker
from SRCycLib.client import Client

CommandLine = Callable[..., Any]

MODULE = Path(worker.__file__).resolve().parents[1]

#: Takes many seconds on any CPU.
LONG = {"weights": "patient", "device": "cpu", "precision": "fp32", "uncertainty": True}


class Request:
    """One worker process.

    Args:
        folder: of its own.
        url: of the server.
        action: of the worker.
        arguments: of the action.
    """

    def __init__(self, folder: Path, url: str, action: str, arguments: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        self.file = folder / "request.json"
        request = {"url": url, "action": action, "arguments": arguments, "parent": os.getpid()}
        self.file.write_text(json.dumps(request))
        self.said_file = folder / "said"
        self.process = start(self.file, self.said_file)

    def said(self) -> list[dict[str, Any]]:
        """Give the lines that are complete."""
        text = self.said_file.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def last(self) -> dict[str, Any]:
        """Wait for the end, and give the last line."""
        self.process.wait(120)
        return self.said()[-1]

    def states(self) -> list[str]:
        return [line["progress"]["state"] for line in self.said() if "progress" in line]

    def ended(self) -> None:
        self.process.wait(60)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)


def start(request: Path, said: Path, *, python: str = sys.executable) -> subprocess.Popen[bytes]:
    """Start a worker as the module does it, without anything of the environment that it could lean on."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with said.open("wb") as out, said.with_name("errors").open("wb") as errors:
        return subprocess.Popen(
            [python, "-m", "SRCycLib.worker", str(request)],
            cwd=MODULE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
        )


@pytest.fixture
def send(tmp_path: Path) -> Iterator[Callable[..., Request]]:
    """``send(url, action, **arguments) -> Request``."""
    sent: list[Request] = []

    def begin(url: str, action: str, **arguments: Any) -> Request:
        sent.append(Request(tmp_path / f"request-{len(sent)}", url, action, arguments))
        return sent[-1]

    yield begin
    for request in sent:
        request.end()


def test_info(srcyc_server: Any, send: Callable[..., Request]) -> None:
    request = send(srcyc_server.url, "info")
    assert request.last() == {"result": Client(srcyc_server.url).info()}
    assert request.said()[0] == {"pid": request.process.pid}
    assert request.process.returncode == 0
    assert request.file.exists(), "it is the caller's"


@pytest.mark.slow
def test_infer(
    srcyc_server: Any, scans: Any, tmp_path: Path, send: Callable[..., Request], command_line: CommandLine
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    params = {"weights": "tiny", "device": "cpu"}
    request = send(srcyc_server.url, "infer", file=str(scans.nrrd), folder=str(folder), params=params)
    result = request.last()["result"]
    expected, _ = command_line(scans.nrrd)
    np.testing.assert_array_equal(read_volume(Path(result["volume"])).data, expected.data)
    assert request.states()[0] == "uploading"
    assert request.states()[-1] == "downloading"


@pytest.mark.parametrize(
    ("action", "arguments", "says"),
    [
        ("download", {"image": "no such scan", "folder": "."}, "no such scan"),
        ("upload", {"file": "missing.nrrd", "image": "x", "domain": "LR"}, "missing.nrrd"),
        ("set_domain", {"image": "head", "domain": "thick"}, "thick"),
    ],
)
def test_a_refusal_is_a_sentence(
    srcyc_server: Any, send: Callable[..., Request], action: str, arguments: dict[str, Any], says: str
) -> None:
    request = send(srcyc_server.url, action, **arguments)
    last = request.last()
    assert list(last) == ["error"]
    assert says in last["error"]
    assert request.process.returncode == 1


def test_nobody_listens(new_port: Callable[[], int], send: Callable[..., Request]) -> None:
    url = f"http://127.0.0.1:{new_port()}"
    assert url in send(url, "info").last()["error"]
    assert "no address" in send("", "info").last()["error"]


def test_a_full_or_missing_disk_is_a_sentence(srcyc_server: Any, send: Callable[..., Request]) -> None:
    request = send(srcyc_server.url, "download", image="head", folder="/no such folder")
    error = request.last()["error"]
    assert "/no such folder" in error
    assert "disk" in error


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[]", '{"url": "127.0.0.1", "action": "__init__", "parent": 1}', '{"url": 1}']
)
def test_what_nobody_expects_is_a_sentence_with_details(tmp_path: Path, text: str) -> None:
    file = tmp_path / "request.json"
    file.write_text(text)
    process = start(file, tmp_path / "said")
    assert process.wait(60) == 1
    last = json.loads((tmp_path / "said").read_text().splitlines()[-1])
    assert "unexpectedly" in last["error"]
    assert "Traceback" not in last["error"]
    assert "Traceback" in last["details"]
    assert (tmp_path / "errors").read_text() == ""


def test_without_a_request(tmp_path: Path) -> None:
    said = tmp_path / "said"
    assert start(tmp_path / "none.json", said).wait(60) in (1, 3)


# -- ended from outside ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy(
    serve: Callable[..., Any],
    studies_of: Callable[..., Path],
    patient: tuple[Path, Path],
    tiny_model: Path,
) -> Iterator[Any]:
    server = serve("srcyc", studies_of("nifti"), model=tiny_model, more_models=[patient[1]])
    yield server
    server.end()


@pytest.fixture
def computing(
    busy: Any, patient: tuple[Path, Path], tmp_path: Path, send: Callable[..., Request]
) -> Callable[[], Request]:
    """Begin an inference that would take long, and wait until it is in the midst of it."""

    def begin() -> Request:
        (tmp_path / "results").mkdir(exist_ok=True)
        results = str(tmp_path / "results")
        request = send(busy.url, "infer", file=str(patient[0]), folder=results, params=LONG)

        def shares() -> list[float]:
            progress = [line["progress"] for line in request.said() if "progress" in line]
            return [each["share"] for each in progress if each["state"] == "running"]

        def in_the_midst() -> bool:
            assert request.process.poll() is None, request.said()
            return bool(shares()) and shares()[-1] > 0

        busy.wait_for(in_the_midst, "compute")
        return request

    return begin


def given_up(server: Any) -> int:
    """Count the inferences that the server ended because nobody waited any more (499 is nginx's number for it)."""
    return sum("POST /infer/srcyc: 499" in line for line in server.log.splitlines())


def still_usable(server: Any, scan: Path, folder: Path) -> None:
    """Super-resolve a small scan: that waits until the server has ended what it did before."""
    folder.mkdir()
    begin = time.monotonic()
    answer = Client(server.url).infer(scan, folder, {"weights": "tiny", "device": "cpu"}, lambda *told: None)
    assert Path(answer["volume"]).is_file()
    assert time.monotonic() - begin < 60, "what was cancelled is still computed"
    server.wait_for(lambda: not server.temporary_files(), "remove its temporary files")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the request file is removed", "the process is killed"])
def test_a_cancelled_request_ends_the_computation(
    how: str, busy: Any, computing: Callable[[], Request], scans: Any, tmp_path: Path
) -> None:
    before = given_up(busy)
    request = computing()
    if how == "the process is killed":
        request.process.kill()
    else:
        request.file.unlink()
    request.ended()
    busy.wait_for(lambda: given_up(busy) == before + 1, "notice that nobody waits")
    still_usable(busy, scans.nifti, tmp_path / "after")
    assert not {"result", "error"} & {key for line in request.said() for key in line}


@pytest.mark.slow
def test_a_request_that_waits_in_line_is_taken_out_of_it(
    busy: Any, computing: Callable[[], Request], send: Callable[..., Request], scans: Any, tmp_path: Path
) -> None:
    first = computing()
    params = {"weights": "tiny", "device": "cpu"}
    second = send(busy.url, "infer", file=str(scans.nifti), folder=str(tmp_path), params=params)
    busy.wait_for(lambda: "queued" in second.states(), "let the second wait")
    before = given_up(busy)
    second.file.unlink()
    second.ended()
    busy.wait_for(lambda: given_up(busy) == before + 1, "take it out of the line")
    assert first.process.poll() is None
    first.file.unlink()
    first.ended()
    still_usable(busy, scans.nifti, tmp_path / "after")


@pytest.mark.slow
def test_a_server_that_dies_in_the_midst(
    serve: Callable[..., Any],
    studies_of: Callable[..., Path],
    patient: tuple[Path, Path],
    tmp_path: Path,
    send: Callable[..., Request],
) -> None:
    server = serve("srcyc", studies_of("nifti"), model=patient[1])
    try:
        request = send(server.url, "infer", file=str(patient[0]), folder=str(tmp_path), params=LONG)
        server.wait_for(lambda: "running" in request.states(), "compute")
        server.kill()
        begin = time.monotonic()
        error = request.last()["error"]
        assert time.monotonic() - begin < 30
        assert server.url in error
        assert "start it again" in error
    finally:
        server.end()


def test_it_ends_with_slicer_behind_a_launcher(tmp_path: Path, new_port: Callable[[], int]) -> None:
    """Slicer may crash, and nobody removes the request file; the worker's parent is PythonSlicer, which lives on."""
    file = tmp_path / "request.json"
    request = {"url": f"127.0.0.1:{new_port()}", "action": "wait", "arguments": {"seconds": 600}}
    slicer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    scan = tmp_path / "scan"
    scan.mkdir()
    (scan / "patient.nrrd").write_text("")
    file.write_text(json.dumps({**request, "parent": slicer.pid, "folder": str(scan)}))
    launcher = subprocess.Popen(
        ["/bin/sh", "-c", f'"{sys.executable}" -m SRCycLib.worker "{file}"; exit $?'],
        cwd=MODULE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    worker_pid = json.loads(launcher.stdout.readline())["pid"]
    assert worker_pid != launcher.pid
    child = psutil.Process(worker_pid)
    try:
        end = time.monotonic() + 60
        while child.num_threads() < 2 and time.monotonic() < end:  # one of them looks after Slicer
            time.sleep(0.05)
        slicer.kill()
        slicer.wait(60)
        assert launcher.wait(60) == processes.UNWANTED
        assert not child.is_running()
        assert not scan.exists(), "a patient's scan"
    finally:
        launcher.stdout.close()
        for each in (slicer, launcher, child):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
            with contextlib.suppress(psutil.NoSuchProcess):
                each.wait(60)


def test_a_process_is_seen_alive_and_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    watched = processes.Watched(process.pid)
    assert watched.alive()
    processes.kill(process.pid)
    # Not waited for, it stays as a zombie: that does not count as alive.
    end = time.monotonic() + 60
    while watched.alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert not watched.alive()
    process.wait(60)
    processes.kill(process.pid)
