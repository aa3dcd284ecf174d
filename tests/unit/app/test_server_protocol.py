"""Connections that are silent, slow or too many, against uvicorn with our protocol in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvicorn

from srcyc_app.server import protocol
from srcyc_app.server.protocol import PatientProtocol

#: Longer than the limits of a second that the server has here, and far less than it has otherwise.
PATIENCE = 60.0


#: ``/later`` reads its body from then on.
GO_ON = threading.Event()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Count the bytes of a body; ``/large`` sends many."""
    count, more = 0, True
    while scope["path"] == "/later" and not GO_ON.is_set():
        await asyncio.sleep(0.01)
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        count += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-count", str(count).encode())]})
    for _ in range(200 if scope["path"] == "/large" else 0):
        await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
    await send({"type": "http.response.body", "body": b"done"})


def wait_for(happened: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)
    return found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[uvicorn.Server]:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 1.0)
    monkeypatch.setattr(protocol, "MOST", 20)
    config = uvicorn.Config(
        app, port=0, http=PatientProtocol, lifespan="off", log_config=None, timeout_keep_alive=4, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    yield server
    server.should_exit = True
    thread.join(PATIENCE)


@contextlib.contextmanager
def connected(server: uvicorn.Server) -> Iterator[socket.socket]:
    address = server.servers[0].sockets[0].getsockname()
    with socket.create_connection(address, PATIENCE) as connection:
        yield connection


def closed(connection: socket.socket) -> bool:
    """Wait until the other side closes."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


def ask(server: uvicorn.Server) -> bytes:
    with connected(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return connection.recv(4096)


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "a letter", "half"]
)
def test_a_head_that_does_not_come_is_not_waited_for(server: uvicorn.Server, sent: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(sent)
        assert closed(connection)
    assert b"200" in ask(server)


def test_a_head_that_drips_is_not_waited_for(server: uvicorn.Server) -> None:
    with connected(server) as connection, pytest.raises(OSError):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(100):
            connection.sendall(b"X-A: b\r\n")
            time.sleep(0.2)


def test_a_body_that_stalls_is_not_waited_for(server: uvicorn.Server) -> None:
    with connected(server) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf of it")
        assert closed(connection)


def test_a_body_that_goes_on_is(server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than this machine may stand still, shorter than all of it takes.
    monkeypatch.setattr(protocol, "BODY_SECONDS", 3.5)
    with connected(server) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            time.sleep(0.4)
            connection.sendall(b"x")
        assert b"x-count: 10" in connection.recv(4096)


def test_a_head_that_stalls_behind_another_request_is_not_waited_for(server: uvicorn.Server) -> None:
    with connected(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b"done" not in received:
            received += connection.recv(4096)
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert closed(connection)


def test_a_body_that_this_side_does_not_take_is_not_the_senders_fault(
    server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 60.0)
    size = 1 << 20
    head = f"POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
    GO_ON.clear()
    with connected(server) as connection, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(connection.sendall, head.encode() + bytes(size))
        full = wait_for(lambda: [c for c in server.server_state.connections if c.flow and c.flow.read_paused])
        # As if the time were over.
        full[0].loop.call_soon_threadsafe(full[0]._no_body)
        GO_ON.set()
        sending.result()
        assert f"x-count: {size}".encode() in connection.recv(4096)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_as_many_files_as_the_connections_need_may_be_open() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = before[1] if before[1] != resource.RLIM_INFINITY else protocol.FILES
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1000, most), before[1]))
        protocol.allow_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(protocol.FILES, most), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_reply_that_nobody_takes_is_given_up(server: uvicorn.Server) -> None:
    with connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        # It has begun; one whose reply is not taken never ends by itself.
        assert connection.recv(1)
        wait_for(lambda: not server.server_state.tasks)


def test_one_connection_serves_many_requests_and_then_ends(server: uvicorn.Server) -> None:
    with connected(server) as connection:
        for _ in range(5):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = b""
            while b"done" not in reply:
                more = connection.recv(4096)
                assert more, "closed"
                reply += more
            time.sleep(0.3)
        assert closed(connection)


def test_one_too_many_closes_the_idlest(server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 60.0)
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(connected(server))
        busy.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        wait_for(lambda: server.server_state.tasks)
        for _ in range(60):
            stack.enter_context(connected(server))
        assert b"200" in ask(server)
        wait_for(lambda: len(server.server_state.connections) <= 21)
        busy.sendall(b"cd")
        assert b"x-count: 4" in busy.recv(4096), "whoever is served is not closed"
