"""The module's HTTP client against real servers, and against everything else that may sit at an address."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests

import srcyc
from srcyc.volumes.volume import read_volume
from SRCycLib import VERSION, client
from SRCycLib.client import Client, ServerError, Unreachable
from SRCycLib.connection import Connection, without_password
from SRCycLib.multipart import Form, Malformed, Reply
from SRCycLib.training import Watch

CommandLine = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_proxy_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def sentence_of(call: Callable[[], Any], *says: str) -> str:
    """Give the sentence with which something fails, after a look at what every sentence must be."""
    with pytest.raises(ServerError) as raised:
        call()
    sentence = str(raised.value)
    assert sentence.endswith("."), sentence
    assert "\n" not in sentence, sentence
    assert len(sentence) < 400, sentence
    for technical in ("Traceback", "HTTPConnectionPool", "Errno", "object at 0x", "Max retries"):
        assert technical not in sentence
    for part in says:
        assert part in sentence, sentence
    return sentence


# -- addresses -----------------------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_package() -> None:
    assert srcyc.__version__ == VERSION


@pytest.mark.parametrize(
    ("typed", "used"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        (" localhost:8000/ ", "http://localhost:8000"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://[::]:8000", "http://[::1]:8000"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("HTTPS://Srcyc.Example.org/", "https://srcyc.example.org"),
        ("https://example.org/srcyc//", "https://example.org/srcyc"),
        ("https://name:secret@example.org", "https://example.org"),
    ],
)
def test_an_address_as_people_type_it(typed: str, used: str) -> None:
    assert Client(typed).url == used


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "no address"),
        ("   ", "no address"),
        ("ftp://example.org", "http://"),
        ("file:///etc/passwd", "http://"),
        ("http://", "127.0.0.1:8000"),
        ("http://a b:8000", "127.0.0.1:8000"),
        ("127.0.0.1:80000", "127.0.0.1:8000"),
        ("127.0.0.1:port", "127.0.0.1:8000"),
        ("http://[::1:8000", "127.0.0.1:8000"),
        ("<script>", "127.0.0.1:8000"),
    ],
)
def test_what_is_no_address(typed: str, says: str) -> None:
    sentence_of(lambda: Client(typed), says)


def test_a_password_is_in_no_sentence(new_port: Callable[[], int]) -> None:
    client = Client(f"http://name:s3cret@127.0.0.1:{new_port()}")
    assert "s3cret" not in sentence_of(client.info)
    assert "s3cret" not in client.url
    assert "s3cret" not in sentence_of(lambda: Client("http://name:s3cret@a b"))


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("http://name:s3cret@host:80/path", "http://name@host:80/path"),
        ("name:s3cret@host:80", "name@host:80"),
        (" https://name:s3@cret@host", " https://name@host"),
        ("name@host/a:b@c", "name@host/a:b@c"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_address_is_shown_and_kept_without_its_password(typed: str, kept: str) -> None:
    assert without_password(typed) == kept


# -- the real servers ------------------------------------------------------------------------------------------------


def test_info(server: Any) -> None:
    info = Client(server.url).info()
    assert info["version"] == srcyc.__version__
    assert info["models"][0]["name"] == "tiny"
    assert info["models"][0]["card"]["title"] == "untrained"
    assert [model["name"] for model in info["models"]] == info["options"]["weights"]
    assert info["options"]["target_spacing"] == "isotropic"
    assert (info["options"]["slice_thickness"], info["options"]["correct_slices"]) == ("", True)
    assert "quick" in info["trainer"]["preset"]
    assert info["training"]["state"] == "none"
    assert info["warning"] == ""
    json.dumps(info)


@pytest.mark.slow
def test_a_server_that_is_starting_is_waited_for(
    serve: Callable[..., Any], studies_of: Callable[..., Path]
) -> None:
    server = serve("srcyc", studies_of("nifti"), wait=False, real=True)
    server.launch()
    try:
        assert Client(server.url).wait(120)["version"] == srcyc.__version__
    finally:
        server.end()


def test_a_server_that_never_comes(new_port: Callable[[], int]) -> None:
    sentence_of(lambda: Client(f"127.0.0.1:{new_port()}").wait(1.2), "1.2 s")


def test_scans(srcyc_server: Any) -> None:
    scans = Client(srcyc_server.url).scans()
    ids = [scan["id"] for scan in scans]
    assert ids == sorted(ids)
    assert {"head", "oblique", "series", "thin"} <= set(ids)
    head = next(scan for scan in scans if scan["id"] == "head")
    assert head["domain"] == "LR"
    assert head["spacing"] == [1.0, 1.0, 4.0]
    assert head["shape"] == [24, 26, 8]
    assert "4" in head["reason"]
    assert (head["tag"], head["error"], head["made_from"], head["person"]) == ("", "", "", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nifti", "nrrd"])
def test_infer_gives_what_the_command_line_writes(
    name: str, server: Any, scans: Any, tmp_path: Path, command_line: CommandLine
) -> None:
    states: list[tuple[str, float]] = []
    scan = getattr(scans, name)
    params = {"weights": "tiny", "device": "cpu"}
    answer = Client(server.url).infer(scan, tmp_path, params, lambda *told: states.append(told))
    volume, report = read_volume(Path(answer["volume"])), answer["report"]
    expected, sidecar = command_line(scan)
    np.testing.assert_array_equal(volume.data, expected.data)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-6)
    assert report["model"] == sidecar["model"]
    assert report["consistency"] == sidecar["consistency"]
    assert report["input"]["name"] == scan.name or server.kind == "stock"
    assert answer["maps"] == {}
    names = [state for state, _ in states]
    assert names[0] == "uploading"
    assert states[-1] == ("downloading", 1.0)
    order = ["uploading", "queued", "running", "downloading"]
    assert [order.index(each) for each in names] == sorted(order.index(each) for each in names)
    assert all(0 <= share <= 1 for _, share in states)


def test_the_maps(srcyc_server: Any, scans: Any, tmp_path: Path, command_line: CommandLine) -> None:
    params = {"weights": "tiny", "device": "cpu", "uncertainty": True, "correction_map": True}
    before = srcyc_server.session_files()
    answer = Client(srcyc_server.url).infer(scans.nrrd, tmp_path, params, lambda state, share: None)
    assert list(answer["maps"]) == ["uncertainty", "correction"]
    volume = read_volume(Path(answer["volume"]))
    uncertainty, correction = (read_volume(Path(file)) for file in answer["maps"].values())
    assert uncertainty.shape == volume.shape
    np.testing.assert_allclose(uncertainty.affine, volume.affine, atol=1e-6)
    assert 0 < uncertainty.data.max() < 0.5 * volume.data.max()
    scan = read_volume(scans.nrrd)
    assert correction.shape == scan.shape
    np.testing.assert_allclose(correction.affine, scan.affine, atol=1e-6)
    assert np.linalg.norm(correction.data) == pytest.approx(
        answer["report"]["consistency"]["correction"]
        * np.linalg.norm(scan.data - answer["report"]["scaling"]["offset"]),
        rel=0.05,
    )
    assert srcyc_server.session_files() == before, "the server keeps no copy"


def test_other_formats_of_the_result(srcyc_server: Any, scans: Any, tmp_path: Path) -> None:
    params = {"weights": "tiny", "device": "cpu", "result_extension": ".nii.gz", "result_dtype": "input"}
    answer = Client(srcyc_server.url).infer(scans.nifti, tmp_path, params, lambda state, share: None)
    assert answer["volume"].endswith(".nii.gz")
    assert read_volume(Path(answer["volume"])).stored_dtype == np.int16


def test_what_the_server_refuses(srcyc_server: Any, scans: Any, tmp_path: Path) -> None:
    client = Client(srcyc_server.url)

    def infer(scan: Path, **params: Any) -> Any:
        return client.infer(scan, tmp_path, params, lambda state, share: None)

    sentence_of(lambda: infer(scans.nifti, weights="no such"), "no such", "The server says")
    sentence_of(lambda: infer(scans.nifti, target_spacing="many"), "target_spacing")
    sentence_of(lambda: infer(scans.nifti, slice_thickness="thick"), "slice_thickness 'thick'")
    sentence_of(lambda: infer(scans.corrupt, device="cpu"), "corrupt.nii.gz")
    sentence_of(lambda: infer(tmp_path / "none.nrrd"), "none.nrrd")
    sentence_of(lambda: client.download("no such scan", tmp_path), "no such scan")
    sentence_of(lambda: client.set_domain("no such scan", "LR"), "no such scan")
    sentence_of(lambda: client.set_domain("head", "thick"), "LR, HR or neither")
    sentence_of(lambda: client.upload(scans.corrupt, "corrupt", "LR"), "corrupt")
    sentence_of(lambda: client.train({"preset": "no such"}), "no such")
    assert client.stop_training() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_large_scan_goes_out_from_disk(srcyc_server: Any, tmp_path: Path) -> None:
    """The server takes 50 MB: one file is under that and no scan, the other is over it."""
    client = Client(srcyc_server.url)
    for megabytes, says in ((45, "large.nrrd"), (80, "the limit of the server")):
        large = tmp_path / "large.nrrd"
        with large.open("wb") as stream:
            stream.truncate(megabytes * 1_000_000)
        tracemalloc.start()
        sentence_of(lambda: client.infer(large, tmp_path, {}, lambda state, share: None), says)  # noqa: B023
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10_000_000, "the file was read into memory"


def test_download(srcyc_server: Any, scans: Any, tmp_path: Path) -> None:
    client = Client(srcyc_server.url)
    path = Path(client.download("head", tmp_path)["path"])
    assert path.name.endswith(".nii.gz")
    assert path.read_bytes() == scans.nifti.read_bytes()
    series = Path(client.download("series", tmp_path)["path"])
    assert series.is_dir()
    got, expected = read_volume(series), read_volume(scans.series)
    np.testing.assert_array_equal(got.data, expected.data)
    np.testing.assert_array_equal(got.affine, expected.affine)
    assert not list(tmp_path.glob("*.zip"))


def test_upload_and_tag(srcyc_server: Any, scans: Any, tmp_path: Path) -> None:
    client = Client(srcyc_server.url)
    try:
        assert client.upload(scans.thin, "uploaded", "HR") == {"image": "uploaded"}
        scan = next(scan for scan in client.scans() if scan["id"] == "uploaded")
        assert (scan["domain"], scan["tag"]) == ("HR", "HR")
        sentence_of(lambda: client.upload(scans.thin, "uploaded", "LR"), "uploaded", "there already")
        assert client.upload(scans.nifti, "uploaded", "neither", overwrite=True) == {"image": "uploaded"}
        assert client.set_domain("uploaded", "LR")["domain"] == "LR"
        automatic = client.set_domain("uploaded", "")
        assert (automatic["tag"], automatic["spacing"]) == ("", [1.0, 1.0, 4.0])
        path = Path(client.download("uploaded", tmp_path)["path"])
        assert path.read_bytes() == scans.nifti.read_bytes()
    finally:
        srcyc_server.delete("/datastore/image?id=uploaded")


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainer(
    serve: Callable[..., Any], training_studies: Callable[..., Path], tiny_model: Path
) -> Iterator[Any]:
    # As a user starts it, and with it the training's process.
    server = serve("srcyc", training_studies(), model=tiny_model, real=True)
    server.wait_for(lambda: len(Client(server.url).scans()) == 4, "notice the scans")
    yield server
    server.end()


@pytest.mark.slow
def test_a_training_from_start_to_end_and_the_one_after_it(
    trainer: Any, tiny_training: Callable[..., dict[str, Any]]
) -> None:
    client = Client(trainer.url)
    assert client.train(tiny_training(24, name="first"))["status"] in ("SUBMITTED", "RUNNING")
    sentence_of(lambda: client.train(tiny_training(24, name="second")), "running already")
    seen: list[dict[str, Any]] = []
    last = client.watch(seen.append, interval=0.2)
    assert last["state"] == "finished", last
    assert last["run"] == "first"
    assert last == seen[-1]
    assert last["history"][-1]["step"] == 24
    assert {"starting", "running"} <= {each["state"] for each in seen}
    assert client.training()["run"] == "first"

    # The one before is still shown when the next one begins: it must not pass for its end.
    client.train(tiny_training(100_000, name="second"))
    seen.clear()
    stopped = threading.Event()

    def stop_when_it_runs(news: dict[str, Any]) -> None:
        seen.append(news)
        if news["state"] == "running" and news.get("step", 0) > 0 and not stopped.is_set():
            stopped.set()
            assert client.stop_training()["status"] == "STOPPED"

    last = client.watch(stop_when_it_runs, interval=0.2)
    assert (last["state"], last["run"]) == ("stopped", "second")
    assert "first" not in {news.get("run") for news in seen}


@pytest.mark.slow
def test_watching_a_server_that_dies(
    serve: Callable[..., Any],
    training_studies: Callable[..., Path],
    tiny_model: Path,
    tiny_training: Callable[..., dict[str, Any]],
) -> None:
    server = serve("srcyc", training_studies(), model=tiny_model)
    try:
        client = Client(server.url)
        server.wait_for(lambda: len(client.scans()) == 4, "notice the scans")
        client.train(tiny_training(100_000, name="lost"))

        def kill(news: dict[str, Any]) -> None:
            if server.running.poll() is None:
                server.kill()

        sentence_of(lambda: client.watch(kill, interval=0.1), server.url)
    finally:
        server.end()


RUNNING, WAITED, STOPPED, ERROR, DONE = (
    {"status": status} for status in ("RUNNING", "SUBMITTED", "STOPPED", "ERROR", "DONE")
)
OLD = {"state": "finished", "run": "mine", "started": 1.0, "history": [{"step": 1}]}
NEW = {"state": "running", "run": "mine", "started": 2.0}


def test_what_a_training_shows_before_it_shows_itself() -> None:
    watch = Watch()
    assert watch.look(OLD, WAITED)["state"] == "starting"
    assert watch.look(OLD, RUNNING)["state"] == "starting"
    assert watch.look(NEW, RUNNING) == NEW
    # Its status is written before its process ends, so the task still runs.
    ended = {**NEW, "state": "finished"}
    assert watch.look(ended, RUNNING) == ended


@pytest.mark.parametrize(
    ("task", "state", "message"),
    [
        ({**ERROR, "details": ["a", "no scans are there."]}, "failed", "no scans are there."),
        (ERROR, "failed", "log"),
        (STOPPED, "stopped", "before it began"),
    ],
)
def test_a_training_that_never_shows_itself(task: dict[str, Any], state: str, message: str) -> None:
    watch = Watch()
    watch.look(OLD, RUNNING)
    last = watch.look(OLD, task)
    assert last["state"] == state
    assert message in last["message"]


def test_a_training_that_was_over_before() -> None:
    assert Watch().look(OLD, DONE) == OLD
    assert Watch().look({"state": "none"}, {}) == {"state": "none"}
    watch = Watch()
    watch.look(OLD, RUNNING)
    assert watch.look(OLD, DONE) == OLD, "it had written its last word when the watch began"


# -- everything else that may be at an address ------------------------------------------------------------------------

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Serve fixed answers: ``answering({"/info/": (200, headers, body)}, …) -> address``."""
    started: list[ThreadingHTTPServer] = []

    def start(
        answers: dict[str, Answer] | Callable[[BaseHTTPRequestHandler], Answer],
    ) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                left = int(self.headers.get("content-length") or 0)
                while left:
                    left -= len(self.rfile.read(min(left, 1 << 20)))
                if callable(answers):
                    status, headers, body = answers(self)
                else:
                    missing: Answer = (404, {"Content-Type": "text/html"}, b"<html>no</html>")
                    status, headers, body = answers.get(self.path.partition("?")[0], missing)
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        started.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def as_json(value: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


#: What a server knows of a scan that is no result.
NOTHING_MORE = {"/datastore/": as_json({"objects": {}})}


def as_page(status: int) -> Answer:
    return status, {"Content-Type": "text/html"}, b"<html><body>something</body></html>"


def test_nobody_listens(new_port: Callable[[], int]) -> None:
    port = new_port()
    sentence_of(Client(f"127.0.0.1:{port}").info, f"http://127.0.0.1:{port}", "start it")


def test_no_such_computer() -> None:
    # `.invalid` is reserved for names that do not exist.
    sentence_of(Client("http://no-such-computer.invalid:8000").info, "no-such-computer.invalid")


def test_a_black_hole() -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        begin = time.monotonic()
        client = Client(f"127.0.0.1:{hole.getsockname()[1]}", timeout=0.5)
        sentence_of(client.info, "0.5 s", "firewall")
        assert time.monotonic() - begin < 30


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"])
def test_something_that_is_no_web_server(reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(reply)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        sentence_of(Client(url, timeout=20).info, url)
        thread.join(30)


def test_a_plain_web_server(tmp_path: Path) -> None:
    (tmp_path / "info").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        # The folder `info` is listed as a page; the rest is not there.
        sentence_of(Client(url).info, url, "not as an SRCyc server", "the port")
        sentence_of(Client(url).scans, url, "not as an SRCyc server")
        server.shutdown()


@pytest.mark.parametrize("info", [{}, [], None, "text", {"status": "ok"}])
def test_another_web_service(answering: Callable[..., str], info: Any) -> None:
    url = answering({"/info/": as_json(info)})
    sentence_of(Client(url).info, url, "not as an SRCyc server")


def like_ours(**changes: Any) -> Answer:
    models = {"srcyc": {"config": {"weights": ["a"]}, "cards": {"a": {"title": "A"}}}}
    return as_json({"name": "SRCyc", "version": VERSION, "models": models, **changes})


def test_monai_label_with_another_app(answering: Callable[..., str]) -> None:
    url = answering({"/info/": like_ours(name="MONAILabel - Radiology", models={"segmentation": {}})})
    sentence_of(Client(url).info, url, "MONAILabel - Radiology", "start SRCyc's server")


def test_a_server_without_our_model(answering: Callable[..., str]) -> None:
    url = answering({"/info/": like_ours(models={})})
    sentence_of(Client(url).info, url, "srcyc")


def test_a_server_without_weights_can_still_train(answering: Callable[..., str]) -> None:
    url = answering({"/info/": like_ours(models={"srcyc": {"config": {"weights": []}, "cards": {}}})})
    info = Client(url).info()
    assert info["models"] == []
    assert "no model yet" in info["warning"]


def test_a_damaged_model_has_no_card(answering: Callable[..., str]) -> None:
    srcyc_model = {
        "config": {"weights": ["a", "b"]},
        "cards": {"a": {"title": "A"}, "b": {"error": "damaged"}},
    }
    url = answering({"/info/": like_ours(models={"srcyc": srcyc_model})})
    assert Client(url).info()["models"] == [
        {"name": "a", "card": {"title": "A"}},
        {"name": "b", "card": None, "error": "damaged"},
    ]


@pytest.mark.parametrize(
    ("version", "update"),
    [("0.3.0", "module"), ("0.0.9", "server"), ("1.0.0", "module"), ("unknown", "server")],
)
def test_another_version(answering: Callable[..., str], version: str, update: str) -> None:
    url = answering({"/info/": like_ours(version=version)})
    for ask in (Client(url).info, Client(url).training):
        sentence_of(ask, url, f"runs SRCyc {version}", "made for 0.1", f"update the {update}")


def test_a_small_step_in_the_version_does_no_harm(answering: Callable[..., str]) -> None:
    assert Client(answering({"/info/": like_ours(version="0.1.99")})).info()["version"] == "0.1.99"


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "access"),
        (404, "not as an SRCyc server"),
        (413, "the limit of the server"),
        (500, "not as an SRCyc server"),
        (502, "proxy"),
        (503, "proxy"),
        (504, "proxy"),
    ],
)
def test_refusals_without_a_sentence(answering: Callable[..., str], status: int, says: str) -> None:
    url = answering({"/info/": as_page(status)})
    sentence_of(Client(url).info, url, says)


@pytest.mark.parametrize("detail", ["no, and why.", [{"msg": "no, and why.", "loc": ["query"]}]])
def test_refusals_with_a_sentence(answering: Callable[..., str], detail: Any) -> None:
    url = answering({"/info/": as_json({"detail": detail}, 422)})
    sentence_of(Client(url).info, "The server says", "no, and why.")


def test_a_refusal_may_be_a_page_of_any_length(answering: Callable[..., str]) -> None:
    url = answering({"/info/": (500, {"Content-Type": "text/html"}, bytes(1_000_000))})
    sentence_of(Client(url).info, "500")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (requests.exceptions.ProxyError("no"), "proxy"),
        (requests.exceptions.InvalidURL("no"), "is no address"),
        (requests.exceptions.SSLError(ssl.SSLCertVerificationError("no")), "REQUESTS_CA_BUNDLE"),
        (requests.exceptions.SSLError(ssl.SSLError(1, "handshake failure")), "TLS settings"),
        (requests.ConnectionError(ConnectionResetError(104, "Reset by peer")), "reset by peer"),
    ],
)
def test_what_stands_in_the_way_is_told(error: Exception, says: str) -> None:
    def fail() -> None:
        raise Connection("https://somewhere:8000", 1.0, "tests")._unreachable(error)

    sentence_of(fail, "https://somewhere:8000", says)


def test_a_redirection_is_not_followed(answering: Callable[..., str]) -> None:
    asked: list[str | None] = []

    def elsewhere(handler: BaseHTTPRequestHandler) -> Answer:
        asked.append(handler.headers.get("authorization"))
        return like_ours()

    other = answering(elsewhere)
    url = answering({"/info/": (301, {"Location": f"{other}/info/"}, b"")})
    sentence_of(Client(url.replace("http://", "http://name:secret@")).info, url, other)
    assert asked == [], "nor is the password sent there"


def test_a_password(answering: Callable[..., str]) -> None:
    right = "Basic " + base64.b64encode("Zoë:pä@ss".encode()).decode()

    def guarded(handler: BaseHTTPRequestHandler) -> Answer:
        ask = {"WWW-Authenticate": "Basic", "Content-Type": "application/json"}
        given = handler.headers.get("authorization")
        return like_ours() if given == right else (401, ask, b'{"detail": "Unauthorized"}')

    url = answering(guarded)
    sentence_of(Client(url).info, url, "user name and a password", "NAME:PASSWORD@")
    wrong = Client(url.replace("http://", "http://name:wrong@"))
    assert "wrong@" not in sentence_of(wrong.info, url, "does not accept")
    assert Client(url.replace("http://", "http://Zo%C3%AB:p%C3%A4%40ss@")).info()["version"] == VERSION


def test_https_where_there_is_none(answering: Callable[..., str]) -> None:
    url = answering({"/info/": like_ours()}).replace("http://", "https://")
    sentence_of(Client(url).info, "does not speak https", url.replace("https://", "http://"))


# -- replies that nobody should trust --------------------------------------------------------------------------------


def multipart(*parts: tuple[str, bytes], end: bytes = b"\r\n--B--\r\n") -> Answer:
    body = b""
    for heading, content in parts:
        body += f"\r\n--B\r\nContent-Disposition: form-data; {heading}\r\n\r\n".encode() + content
    return 200, {"Content-Type": "multipart/form-data; boundary=B"}, (body + end)[2:]


REPORT = ('name="params"', b'{"software": "x"}')


def infer(url: str, folder: Path, progress: Callable[..., None] = lambda *told: None) -> dict[str, Any]:
    scan = folder.parent / "scan.nrrd"
    scan.write_bytes(b"NRRD0004\n\n")
    return Client(url).infer(scan, folder, {}, progress)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


@pytest.mark.parametrize(
    "answer",
    [
        as_json({"software": "x"}),
        multipart(),
        multipart(REPORT),
        multipart(('name="params"', b"not JSON"), ('name="image"; filename="a.nrrd"', b"voxels")),
        multipart(('name="params"', b"[]"), ('name="image"; filename="a.nrrd"', b"voxels")),
        multipart(REPORT, ('name="image"; filename="a.nrrd"', b"voxels"), end=b""),
        multipart(REPORT, ('name="../../image"; filename="a.nrrd"', b"voxels")),
        multipart((f'name="params"; {"x" * 100_000}', b"{}")),
        (200, {"Content-Type": "multipart/form-data"}, b"--B\r\n"),
        (200, {"Content-Type": "text/html"}, b"<html>"),
    ],
)
def test_a_damaged_reply(answering: Callable[..., str], folder: Path, answer: Answer) -> None:
    url = answering({"/infer/srcyc": answer})
    sentence_of(lambda: infer(url, folder), url, "damaged")
    assert {path.name for path in folder.parent.rglob("*")} <= {"results", "scan.nrrd", "image.nrrd"}


def test_a_reply_names_no_file_of_ours(answering: Callable[..., str], folder: Path) -> None:
    url = answering(
        {"/infer/srcyc": multipart(REPORT, ('name="image"; filename="../../../evil.mha"', b"voxels"))}
    )
    answer = infer(url, folder)
    assert Path(answer["volume"]) == folder / "image.mha"
    assert [path.name for path in folder.iterdir()] == ["image.mha"]


def test_a_reply_that_breaks_off(answering: Callable[..., str], folder: Path) -> None:
    status, headers, body = multipart(REPORT, ('name="image"; filename="a.nrrd"', b"voxels"))
    url = answering(
        {"/infer/srcyc": (status, {**headers, "Content-Length": str(len(body) + 1000)}, body[:-30])}
    )
    sentence_of(lambda: infer(url, folder), url)


def test_a_map_that_is_gone_costs_no_result(answering: Callable[..., str], folder: Path) -> None:
    report = ('name="params"', b'{"uncertainty_session": "s", "warnings": ["thin"]}')
    url = answering({"/infer/srcyc": multipart(report, ('name="image"; filename="a.nrrd"', b"voxels"))})
    answer = infer(url, folder)
    assert Path(answer["volume"]).read_bytes() == b"voxels" and answer["maps"] == {}
    assert [said[:27] for said in answer["report"]["warnings"]] == ["thin", "there is no uncertainty map"]


def test_a_server_that_does_not_tell_how_far_it_is(
    answering: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MONAI Label's own: that it computes is said once; what is no state of a computation is passed over."""
    monkeypatch.setattr(client, "_POLL", 0.01)
    monkeypatch.setattr(client, "_UNTOLD", 0.0)
    answers, asked = iter([as_page(404), as_page(404)]), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> Answer:
        if handler.path.startswith("/progress/"):
            if (untold := next(answers, None)) is None:
                asked.set()
            return untold or as_json({"state": "done", "share": 1})
        assert asked.wait(60)
        return multipart(REPORT, ('name="image"; filename="a.nrrd"', b"voxels"))

    told: list[tuple[str, float]] = []
    infer(answering(answer), folder, lambda *each: told.append(each))
    assert [each for each in told if each[0] not in ("uploading", "downloading")] == [("running", 0.0)]


def test_a_scan_that_becomes_shorter_while_it_is_sent(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nrrd"
    scan.write_bytes(bytes(1000))
    form = Form(scan, {}, lambda share: None)
    assert len(b"".join(form)) == len(form)
    form.close()
    form = Form(scan, {}, lambda share: None)
    os.truncate(scan, 10)
    with pytest.raises(OSError, match="shorter"):
        b"".join(form)
    form.close()


def test_a_large_reply_goes_to_disk(answering: Callable[..., str], folder: Path) -> None:
    voxels = np.random.default_rng(0).bytes(30_000_000)
    url = answering({"/infer/srcyc": multipart(REPORT, ('name="image"; filename="a.nrrd"', voxels))})
    tracemalloc.start()
    answer = infer(url, folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Path(answer["volume"]).read_bytes() == voxels
    assert peak < 10_000_000, "the reply was held in memory"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64, 10_000])
def test_a_boundary_may_fall_between_two_blocks(size: int, tmp_path: Path) -> None:
    content = b"\r\n--" * 40 + b"\r\n-" + b"--B" + b"\r\n--C\r\n\r\n" + bytes(range(256)) * 4 + b"\r"
    _, headers, body = multipart(REPORT, ('name="image"; filename="a.nii.gz"', content))
    reply = Reply(headers["Content-Type"], tmp_path, lambda name: ".nii.gz")
    reply.read(body[begin : begin + size] for begin in range(0, len(body), size))
    assert reply.files["image"].read_bytes() == content
    assert reply.fields["params"] == {"software": "x"}
    with pytest.raises(Malformed):
        Reply("text/plain", tmp_path, lambda name: "")


def archive(folder: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Answer:
    path = folder.parent / "made.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members:
            packed.writestr(name, content)
    return 200, {"Content-Disposition": 'attachment; filename="series.zip"'}, path.read_bytes()


def test_an_archive_writes_only_where_it_should(answering: Callable[..., str], folder: Path) -> None:
    members = [("../../evil.dcm", b"a"), ("/tmp/evil.dcm", b"b"), ("a/b/c.dcm", b"c"), ("a/b/c2.dcm", b"d")]
    url = answering({**NOTHING_MORE, "/datastore/image": archive(folder, *members)})
    path = Path(Client(url).download("series", folder)["path"])
    assert path.parent == folder
    assert [file.read_bytes() for file in sorted(path.iterdir())] == [b"a", b"b", b"c", b"d"]
    assert list(folder.iterdir()) == [path]


def test_an_archive_that_cannot_be_unpacked(answering: Callable[..., str], folder: Path) -> None:
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = 0o120777 << 16
    disposition = {"Content-Disposition": 'attachment; filename="x.zip"'}
    locked = bytearray(archive(folder, ("a.dcm", b"a"))[2])
    for place in (6, locked.index(b"PK\x01\x02") + 8):
        locked[place] |= 1  # needs a password
    for answer in (
        archive(folder, (link, b"/etc/passwd")),
        archive(folder),
        (200, disposition, b"no archive"),
        (200, disposition, bytes(locked)),
    ):
        url = answering({**NOTHING_MORE, "/datastore/image": answer})
        sentence_of(lambda: Client(url).download("series", folder), "series")  # noqa: B023
        assert not [file for file in folder.rglob("*") if file.is_file()]


def test_what_does_not_come_whole_is_not_taken(
    answering: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive larger than the disk; a file that breaks off, which the urllib3 of older Slicers does not notice."""
    url = answering({**NOTHING_MORE, "/datastore/image": archive(folder, ("a.dcm", b"a"))})
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
        sentence_of(lambda: Client(url).download("series", folder), "no room")
    beginning = {True: 3, False: None}
    monkeypatch.setattr(
        Connection,
        "blocks",
        lambda self, response: iter([response.raw.read(beginning["/image" in response.url])]),
    )
    sentence_of(lambda: Client(url).download("series", folder), "lost")


def test_a_result_whose_scan_is_gone_and_answers_that_say_nothing(
    answering: Callable[..., str], folder: Path
) -> None:
    made = {"image": {"info": {"made_from": "gone", "report": {"software": "x"}}}}
    file = (200, {"Content-Disposition": 'attachment; filename="r.nrrd"'}, b"voxels")
    url = answering(
        {
            "/datastore/": as_json({"objects": {"r": made}}),
            "/datastore/image": file,
        }
    )
    answer = Client(url).download("r", folder)
    assert answer["report"] == {"software": "x"} and "scan" not in answer
    sentence_of(lambda: Client(url).upload(folder / "volume.nrrd", "new", "LR"), "new", "list")
    assert Client(url)._task() == {}, "no training was started: 404"


def test_a_proxy_without_its_server_is_waited_for(answering: Callable[..., str]) -> None:
    asked: list[int] = []

    def later(handler: BaseHTTPRequestHandler) -> Answer:
        asked.append(1)
        return as_page(502) if len(asked) < 3 else like_ours()

    url = answering(later)
    with pytest.raises(Unreachable):
        Client(url).info()
    assert Client(url).wait(60)["version"] == VERSION
