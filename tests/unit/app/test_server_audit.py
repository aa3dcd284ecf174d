from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from srcyc.errors import OutputError
from srcyc_app.refusals import not_found
from srcyc_app.server import audit
from srcyc_app.server.access import Access, Rules, Users, main, networks
from srcyc_app.server.audit import Audit, audit_to, note, outcome_of
from srcyc_app.server.failures import Failures, add_handlers
from srcyc_app.server.logs import AUDIT, LogFile, reopen_logs


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "logs" / "audit.log"
    logger = logging.getLogger(AUDIT)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def client(rules: Rules, address: str = "127.0.0.1") -> TestClient:
    app = FastAPI(
        middleware=[Middleware(Audit, rules=rules), Middleware(Access, rules=rules), Middleware(Failures)]
    )
    add_handlers(app)

    @app.get("/datastore/image")
    def image(image: str) -> dict[str, str]:
        if image == "absent":
            raise not_found("there is no such image here.")
        if image == "broken":
            raise KeyError("x")
        return {}

    @app.post("/infer/srcyc")
    def infer(image: str = "") -> dict[str, str]:
        note(model="srcyc-fidelity", sha256="abc", stored_as=None)
        return {}

    @app.get("/info/")
    def info() -> dict[str, str]:
        return {}

    return TestClient(app, base_url="http://localhost", client=(address, 1), raise_server_exceptions=False)


def record(image: str) -> None:
    audit._write({"action": "test", "image": image})


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_who_did_what_and_what_came_of_it(path: Path) -> None:
    audit_to(path, "json")
    served = client(Rules(None, networks(["10.0.0.1"])), "10.0.0.1")
    said = {"X-Remote-User": "anna", "X-Forwarded-For": "192.0.2.7"}
    served.get("/datastore/image?image=brain1", headers=said)
    served.get("/datastore/image?image=absent", headers=said)
    served.get("/datastore/image?image=broken", headers=said)
    served.post("/infer/srcyc?image=brain1", headers=said)
    served.get("/info/", headers=said)  # about no scan and no model
    read, absent, broken, infer = lines(path)
    assert read["user"] == "anna"
    assert read["address"] == "192.0.2.7"
    assert (read["action"], read["image"], read["outcome"], read["status"]) == (
        "scan.read",
        "brain1",
        "done",
        200,
    )
    assert (absent["outcome"], absent["reason"]) == ("refused", "there is no such image here.")
    assert (broken["outcome"], broken["status"]) == ("failed", 500)
    assert infer["model"] == "srcyc-fidelity"
    assert infer["sha256"] == "abc"
    assert "stored_as" not in infer
    assert str(read["time"])[10] == "T" and "+" in str(read["time"])


def test_the_servers_log_tells_of_changes_without_their_query(caplog: pytest.LogCaptureFixture) -> None:
    served = client(Rules())
    with caplog.at_level("INFO"):
        served.post("/infer/%0Asrcyc?image=person")
        served.get("/info/")
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("server.audit")]
    assert len(lines) == 1
    assert lines[0].startswith("POST /infer/\\nsrcyc: 404")


@pytest.mark.parametrize(
    ("method", "status", "said", "bodies"),
    [
        ("GET", 200, True, [(b"some", True), (b"thing", True), (b"", False)]),
        ("GET", 200, False, [(b"some", True), (b"thing", False)]),
        ("GET", 200, True, [(b"", False)]),
        ("HEAD", 200, True, [(b"", False)]),
        ("GET", 304, False, [(b"", False)]),
    ],
    ids=["length", "chunks", "empty", "head", "not modified"],
)
def test_a_line_is_there_before_the_reply_has_gone_out_whole(
    path: Path, method: str, status: int, said: bool, bodies: list[tuple[bytes, bool]]
) -> None:
    """Whoever has the scan stands in the log: nobody has to wait for it, and no crash in between loses it."""
    audit_to(path, "json")
    length = sum(len(body) for body, _ in bodies)
    left = length if method == "GET" else 0
    there: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        head = [(b"content-length", b"%d" % length)] if said else []
        await send({"type": "http.response.start", "status": status, "headers": head})
        for body, more in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async def client(message: Message) -> None:
        nonlocal left
        left -= len(message.get("body", b""))
        ends = not message.get("more_body", message["type"] == "http.response.start")
        known = said or method == "HEAD" or status == 304
        if ends or (known and left == 0):
            there.append(bool(lines(path)))
        elif bodies[0][0]:
            assert not lines(path), "what came of it is not known yet"

    async def receive() -> Message:
        raise AssertionError("there is no body")

    scope = {"type": "http", "method": method, "path": "/datastore/image", "query_string": b"image=head"}
    asyncio.run(Audit(app, Rules())({**scope, "client": ("127.0.0.1", 1), "headers": []}, receive, client))
    assert there and all(there)
    (line,) = lines(path)
    assert (line["action"], line["status"]) == ("scan.read", status)


def test_who_is_refused_is_told_whatever_they_wanted(path: Path, tmp_path: Path) -> None:
    audit_to(path, "json")
    tokens: list[str] = []
    main([str(tmp_path / "users"), "vera", "viewer"], tokens.append)
    served = client(Rules(Users(tmp_path / "users")))
    served.get("/info/")
    served.post("/infer/srcyc?image=brain1", headers={"Authorization": f"Bearer {tokens[0].strip()}"})
    nobody, vera = lines(path)
    assert (nobody["action"], nobody["outcome"], nobody["status"]) == ("read", "refused", 401)
    assert "user" not in nobody
    assert (vera["user"], vera["outcome"], vera["status"]) == ("vera", "refused", 403)
    assert tokens[0].strip() not in path.read_text()


def test_a_line_of_words_cannot_be_forged(path: Path) -> None:
    audit_to(path, "text")
    served = client(Rules())
    served.get("/datastore/image", params={"image": 'x" user=admin\n2026-01-01T00:00:00 user=admin\u2028'})
    served.get("/datastore/image", params={"image": "x" * 10_000})
    first, second = path.read_text().splitlines()
    assert 'image="x\\" user=admin\\n2026' in first
    assert first.count(" action=") == 1
    assert len(second) < 500


def test_it_is_its_owners_alone_and_grows_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = audit_to(path, "text", keep=2)
    handler.maxBytes = 2000
    for number in range(200):
        record(str(number))
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "audit.log",
        "audit.log.1",
        "audit.log.2",
    ]
    if os.name == "posix":
        assert {entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()} == {0o600}


def test_a_log_that_was_moved_away_is_begun_anew(path: Path) -> None:
    audit_to(path)
    record("before")
    path.rename(path.with_name("moved"))
    record("still there")
    reopen_logs()
    reopen_logs()
    record("after")
    assert "after" in path.read_text()
    assert path.with_name("moved").read_text().count("\n") == 2


def test_a_log_that_cannot_be_written(
    path: Path, caplog: pytest.LogCaptureFixture, file_size_limit: object
) -> None:
    with pytest.raises(OutputError, match="--audit-log"):
        audit_to(Path("/proc/nowhere/audit.log"))
    handler = audit_to(path)
    assert isinstance(handler, LogFile)
    handler.acquire()
    handler.release()
    handler.handleError(logging.LogRecord("x", 20, "", 0, "", (), None))
    handler.handleError(logging.LogRecord("x", 20, "", 0, "", (), None))
    assert len([entry for entry in caplog.records if entry.levelname == "CRITICAL"]) == 1


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (200, "done"),
        (304, "done"),
        (404, "refused"),
        (503, "refused"),
        (507, "refused"),
        (500, "failed"),
        (0, "hung up"),
        (499, "hung up"),
    ],
)
def test_outcomes(status: int, word: str) -> None:
    assert outcome_of(status) == word
