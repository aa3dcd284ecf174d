from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from srcyc_app.app import SRCycApp
from srcyc_app.core import close_import_paths
from srcyc_app.refusals import Refusal
from srcyc_app.server.middleware import KnownHosts
from srcyc_app.server.stock import (
    OwnMachine,
    check_address,
    check_task,
    guard,
    is_stock_server,
    one_line,
)


@pytest.mark.parametrize(
    "body",
    [
        b'{"bundle_path": "/tmp"}',
        b'{"srcyc": {"bundle_path": null}}',
        b'{"local_rank": 3}',
        b'{"gpus": "0,1;x"}',
        b'{"gpus": ["0"]}',
        b'{"gpus": {"a": 1}}',
        b"{",
        b"[" * 100_000,
        b'{"a": "' + b"x" * 100_000 + b'"}',
    ],
)
def test_tasks_that_set_what_is_not_theirs_are_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        check_task(body)
    assert caught.value.status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"null", b'{"gpus": "all"}', b'{"gpus": "0,1"}', b'{"gpus": null, "steps": 3}'),
        b'{"srcyc": {"steps": "4"}}',
    ],
)
def test_other_tasks_are_not(body: bytes) -> None:
    check_task(body)


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/proxy/dicom/../system", {}),
        ("POST", "/proxy/dicom/studies", {}),
        ("GET", "/ohif/..\\..\\secret", {}),
        ("POST", "/reload", {}),
        ("POST", "/scoring/x", {}),
        ("POST", "/infer/wsi/srcyc", {}),
        ("POST", "/infer/srcyc", {"output": "dicom_seg"}),
        ("POST", "/train/srcyc", {"run_sync": "True"}),
    ],
)
def test_routes_that_lead_elsewhere_are_refused(method: str, path: str, query: dict[str, str]) -> None:
    with pytest.raises(Refusal):
        check_address(method, path, query)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/info/"), ("POST", "/infer/srcyc"), ("GET", "/ohif/index.html"), ("GET", "/scoring/")],
)
def test_the_others_are_not(method: str, path: str) -> None:
    check_address(method, path, {})


def test_modules_are_not_looked_for_where_clients_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies, other = tmp_path / "studies", tmp_path / "other"
    (studies / "series").mkdir(parents=True)
    other.mkdir()
    (tmp_path / "link").symlink_to(studies)
    monkeypatch.chdir(studies)
    entries = ["", ".", str(other), str(studies), str(studies / "series"), str(tmp_path / "link")]
    monkeypatch.setattr(sys, "path", [*entries])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entries))
    close_import_paths([studies, tmp_path / "absent"])
    assert Path.cwd() != studies
    assert str(other) in sys.path
    assert not {str(studies), str(studies / "series"), str(tmp_path / "link")} & set(sys.path)
    assert os.environ["PYTHONPATH"] == os.pathsep.join([".", str(other)])


def test_where_the_working_directory_is_nobodys_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    close_import_paths([tmp_path / "studies"])
    assert Path.cwd() == tmp_path
    assert os.environ["PYTHONPATH"] == "", "MONAI Label's tasks look it up"


def test_a_message_is_one_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "Params: %s", ("a\nFORGED\r\n",), None)
    assert one_line(record)
    assert record.getMessage() == "Params: a\\nFORGED\\r\\n"


def client(*middleware: Middleware, address: str = "127.0.0.1") -> TestClient:
    app = Starlette(
        routes=[Route("/", lambda request: PlainTextResponse("hello"))], middleware=list(middleware)
    )
    return TestClient(app, base_url="http://localhost", client=(address, 50000))


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("127.0.0.9", 200),
        ("::ffff:127.0.0.1", 200),
        ("10.0.0.1", 403),
        ("", 403),
        ("testclient", 403),
    ],
)
def test_only_this_machine_is_answered(address: str, status: int) -> None:
    assert client(Middleware(OwnMachine), address=address).get("/").status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("10.0.0.1:8000", 200),
        ("[fe80::1]:8000", 200),
        ("scanner", 200),
        ("evil.example", 400),
        ("1.2.3.evil", 400),
    ],
)
def test_addresses_are_names_that_nobody_can_point_here(host: str, status: int) -> None:
    known = Middleware(KnownHosts, hosts=["scanner"], addresses=True)
    assert client(known).get("/", headers={"Host": host}).status_code == status


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TestClient]:
    """``guarded("--host", "0.0.0.0", address="10.0.0.1")``: another app's routes behind what MONAI Label's get."""

    def make(*arguments: str, address: str = "127.0.0.1") -> TestClient:
        async def count(request: Request) -> PlainTextResponse:
            body = await request.body()
            return PlainTextResponse(f"{len(body)} {await request.is_disconnected()}")

        app = Starlette(routes=[Route("/{path:path}", count, methods=["GET", "POST"])])
        app.middleware_stack = app.build_middleware_stack()
        monkeypatch.setitem(sys.modules, "monailabel.app", SimpleNamespace(app=app))
        monkeypatch.setattr(sys, "argv", ["monailabel", "start_server", *arguments])
        guard([], lambda: 10**6)
        return TestClient(app, base_url="http://localhost", client=(address, 50000))

    return make


def test_the_stock_servers_routes_are_behind_all_checks(guarded: Callable[..., TestClient]) -> None:
    with guarded() as own:  # its life passes through too
        assert own.get("/info/").text == "0 False"
        assert own.get("/proxy/dicom/system").status_code == 403
        assert own.get("/info/", headers={"Host": "evil.example"}).status_code == 400
        parts = [b'{"steps": ', b"4}"]
        assert own.post("/train/srcyc", content=iter(parts)).text.startswith("12 ")
        refused = own.post("/train/srcyc", json={"bundle_path": "/tmp"})
        assert refused.status_code == 422 and "bundle_path" in refused.json()["detail"]
    assert guarded(address="10.0.0.1").get("/info/").status_code == 403
    assert guarded("--host", "0.0.0.0", address="10.0.0.1").get("/info/").status_code == 200


def test_what_is_no_stock_server_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "monailabel.app", raising=False)
    before = list(logging.getLogger().handlers)
    guard([], lambda: 1)
    assert not is_stock_server()
    assert logging.getLogger().handlers == before


def test_no_client_chooses_what_is_imported(studies: Path, models: Path, tmp_path: Path) -> None:
    """MONAI Label takes the client's folder where the app names none."""
    app = SRCycApp(str(tmp_path), str(studies), {"model_dir": str(models)})
    for model in ("srcyc", "nobody", {"un": "hashable"}, None):
        assert app.bundle_path(model) == str(tmp_path)
    for ask in (app.infer_wsi, app.scoring):
        with pytest.raises(Refusal):
            ask({"model": "srcyc", "image": "/etc/passwd"})
    app.server_mode(True)
    with pytest.raises(Refusal, match="run_sync"):
        app.batch_infer({"model": "srcyc"})
