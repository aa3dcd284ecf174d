from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, File, UploadFile
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from srcyc.errors import OutputError, SRCycError, VolumeError
from srcyc_app.refusals import not_found
from srcyc_app.server.failures import Failures, add_handlers
from srcyc_app.server.middleware import (
    SMALL_BODY,
    KnownHosts,
    KnownOrigins,
    SecureHeaders,
    UploadLimit,
)
from srcyc_app.server.names import split_host

LIMIT = 5000


@pytest.fixture
def client() -> TestClient:
    """A server of three routes behind all that a request has to pass."""
    app = FastAPI(
        middleware=[
            Middleware(SecureHeaders),
            Middleware(KnownHosts, hosts=["srcyc.example", "[fd00::1]"]),
            Middleware(KnownOrigins, origins=["https://viewer.example"]),
            Middleware(UploadLimit, limit=lambda: LIMIT),
            Middleware(Failures),
        ]
    )
    add_handlers(app)

    @app.get("/hello/")
    def hello(number: int = 0) -> dict[str, int]:
        return {"number": number}

    @app.put("/files")
    def files(file: UploadFile = File()) -> dict[str, int]:  # noqa: B008 - FastAPI's way
        return {"size": len(file.file.read())}

    @app.post("/fails/{how}")
    def fails(how: str) -> None:
        full = OutputError("secret/place: cannot be written")
        full.__cause__ = OSError(28, "No space left on device")
        raise {
            "refusal": not_found("there is none."),
            "library": SRCycError("the network failed."),
            "input": VolumeError("it", remedy="leave set out", options=["set"]),
            "quota": full,
            "bug": KeyError("secret"),
            "full": OSError(28, "No space left on device"),
            "memory": RuntimeError("CUDA out of memory"),
        }[how]

    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "srcyc.example"),
        *("SRCyc.Example:443", "[fd00::1]:80"),
    ],
)
def test_names_of_the_server_are_answered(client, host):
    assert client.get("/hello/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "evil.example:8000", "127.0.0.1.evil.example"),
        *("", "localhost:99999", "localhost:x", "user@localhost", "localhost/x", "::1"),
    ],
)
def test_other_names_are_refused(client, host):
    reply = client.get("/hello/", headers={"Host": host})
    assert reply.status_code == 400
    assert "--allowed-host" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("http://localhost", "localhost"),
        ("https://srcyc.example", "srcyc.example"),
        ("https://srcyc.example:443", "srcyc.example"),
        ("https://viewer.example", "localhost"),
    ],
)
def test_the_servers_own_pages_may_use_it(client, origin, host):
    assert client.get("/hello/", headers={"Origin": origin, "Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "https://viewer.example.evil.example", "http://localhost:3000", "null", ""),
        *("file://localhost", "https://localhost:8000@evil.example", "http://viewer.example"),
    ],
)
def test_foreign_pages_may_not(client, origin):
    reply = client.post("/fails/bug", headers={"Origin": origin, "Host": "localhost:8000"})
    assert reply.status_code == 403
    assert "origin" in reply.json()["detail"]


def test_an_upload_within_the_limit_arrives(client):
    assert client.put("/files", files={"file": b"x" * LIMIT}).json() == {"size": LIMIT}


def test_an_upload_over_the_limit_is_refused(client):
    reply = client.put("/files", files={"file": b"x" * (LIMIT + SMALL_BODY)})
    assert reply.status_code == 413
    assert "--max-upload" in reply.json()["detail"]


def test_an_upload_that_does_not_tell_its_size_is_counted(client):
    taken = 0

    def body() -> Iterator[bytes]:
        nonlocal taken
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(40):
            taken += 1
            yield b"x" * 100_000
        yield b"\r\n--b--\r\n"

    reply = client.put("/files", content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert reply.status_code == 413
    assert "--max-upload" in reply.json()["detail"]


def test_a_body_without_files_has_its_own_limit(client):
    reply = client.put(
        "/files", content=b"x" * (SMALL_BODY + 1), headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 413


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "²"])
def test_a_wrong_length_is_refused(client, length):
    reply = client.put("/files", content=b"x", headers={"Content-Length": length.encode("latin-1")})
    assert reply.status_code == 400
    assert "content-length" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/hello/?number=x", 422, "number"),
        ("GET", "/nowhere", 404, "no such address"),
        ("POST", "/hello/", 405, "POST"),
        ("PUT", "/files", 422, "file"),
        ("POST", "/fails/refusal", 404, "there is none."),
        ("POST", "/fails/library", 500, "the network failed."),
        ("POST", "/fails/input", 422, "leave settings: out"),
        ("POST", "/fails/quota", 507, "disk is full"),
        ("POST", "/fails/bug", 500, "KeyError"),
        ("POST", "/fails/full", 507, "disk is full"),
        ("POST", "/fails/memory", 507, "out of memory"),
    ],
)
def test_whatever_goes_wrong_is_one_sentence(client, method, path, status, words):
    reply = client.request(method, path)
    assert reply.status_code == status
    sentence = reply.json()["detail"]
    assert words in sentence
    assert sentence.endswith(".")
    assert "secret" not in sentence


@pytest.mark.parametrize("error", [ClientDisconnect(), KeyError("odd")])
def test_a_reply_that_was_begun_is_not_begun_again(error: Exception) -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    async def send(message: Any) -> None:
        sent.append(message)

    request = Failures(app)({"type": "http", "method": "GET", "path": "/"}, None, send)  # type: ignore[arg-type]
    # Who hung up is nobody's fault; the other is the web server's to end.
    hung_up = isinstance(error, ClientDisconnect)
    with contextlib.nullcontext() if hung_up else pytest.raises(KeyError):
        asyncio.run(request)  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["http.response.start"]


def test_a_method_that_is_not_possible_names_those_that_are(client):
    assert client.post("/hello/").headers["Allow"] == "GET"


@pytest.mark.parametrize("path", ["/hello/", "/nowhere", "/fails/bug"])
def test_every_reply_has_the_headers(client, path):
    for headers in ({}, {"Host": "evil.example"}):
        reply = client.request("POST" if "fails" in path else "GET", path, headers=headers)
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("name", ("name", None)),
        ("Name:80", ("name", 80)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]", ("::1", None)),
        ("name:", ("name", None)),
        ("", (None, None)),
        ("name/path", (None, None)),
        ("name?x", (None, None)),
        ("[::1", (None, None)),
        ("*", (None, None)),
        ("a,b", (None, None)),
    ],
)
def test_host_names_are_split(text, read):
    assert split_host(text) == read
