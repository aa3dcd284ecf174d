"""A real Orthanc with a password behind our server: its series are found, fetched, super-resolved at their place."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from orthanc import Orthanc

from srcyc.pacs.web import DicomWeb, Login
from srcyc.volumes.volume import read_volume
from srcyc_app.refusals import Refusal
from srcyc_app.studies.pacs import Pacs

NAME, PASSWORD = "srcyc", "a-password-that-nobody-says"
#: Seconds within which a PACS that is down has to be told of.
SOON = 3.0


def take(
    orthanc: Orthanc, series: Path, *, patient: str, date: str, description: str, uid: str | None = None
) -> str:
    """Have a PACS take a series as somebody else's, and give its UID."""
    for file in sorted(series.iterdir()):
        data = pydicom.dcmread(file)
        data.PatientID, data.PatientName, data.StudyDate = patient, f"Doe^{patient}", date
        data.SeriesDescription = description
        if uid is not None:
            data.SeriesInstanceUID, data.StudyInstanceUID = uid, f"{uid}.1"
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{uid}.2.{data.InstanceNumber}"
        buffer = pydicom.filebase.DicomBytesIO()
        data.save_as(buffer, write_like_original=False)
        requests.post(
            f"{orthanc.root}/instances", data=buffer.getvalue(), timeout=120, auth=(NAME, PASSWORD)
        ).raise_for_status()
    return str(data.SeriesInstanceUID)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    pacs = Orthanc(
        tmp_path_factory.mktemp("orthanc"), AuthenticationEnabled=True, RegisteredUsers={NAME: PASSWORD}
    )
    try:
        yield pacs
    finally:
        pacs.stop()


@pytest.fixture(scope="module")
def image(orthanc: Orthanc, scans: Any) -> str:
    """UID of an oblique MR series of patient P1."""
    uid = take(orthanc, scans.series, patient="P1", date="20240131", description="t1 tra")
    take(orthanc, scans.series, patient="P2", date="20250201", description="T2 TSE sag", uid="1.2.3.4.5")
    return uid


@pytest.fixture(scope="module")
def server(
    serve: Any, orthanc: Orthanc, image: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    login = tmp_path_factory.mktemp("secret") / "login"
    login.write_text(f"{NAME}:{PASSWORD}\n")
    login.chmod(0o600)
    return serve("srcyc", orthanc.web, "--pacs-login", str(login), model=tiny_model)


def cached(server: Any) -> list[Path]:
    """The files that the server keeps of the PACS's."""
    return [path for path in (server.folder / "home").rglob("*.dcm") if "sessions" not in path.parts]


@pytest.mark.slow
def test_a_series_is_super_resolved_as_from_its_folder(
    server: Any, image: str, scans: Any, command_line: Any, refused: Any
) -> None:
    expected, _ = command_line(scans.series, "--precision", "fp32")
    result = server.volume(server.infer(image, precision="fp32"))
    np.testing.assert_array_equal(result.data, expected.data)
    np.testing.assert_allclose(result.affine, expected.affine, atol=1e-9)
    np.testing.assert_allclose(
        result.grid.field_of_view, read_volume(scans.series).grid.field_of_view, atol=1e-3
    )
    # Fetched once, for nobody else on the machine.
    kept = {path: path.stat().st_mtime_ns for path in cached(server)}
    assert len(kept) == len(list(scans.series.iterdir()))
    assert server.infer(image, output="json").ok
    assert {path: path.stat().st_mtime_ns for path in cached(server)} == kept
    assert next(iter(kept)).parents[1].stat().st_mode & 0o077 == 0
    refused(server.infer("1.2.3"), 404)
    refused(server.infer("../1.2.3"), 404, 422)


@pytest.mark.slow
def test_a_result_goes_back_into_the_pacs(server: Any, orthanc: Orthanc, image: str, refused: Any) -> None:
    def instances(series: str) -> int:
        found = requests.get(
            f"{orthanc.web}/instances",
            params={"SeriesInstanceUID": series},
            auth=(NAME, PASSWORD),
            timeout=120,
        )
        return len(found.json())

    reply = server.infer(image, precision="fp32", store=True, output="json")
    assert reply.status_code == 200, reply.text
    report = reply.json()
    stored, made = report["stored_as"], report["dicom"]["volume"]
    assert stored == made["series"] != image
    assert instances(stored) == made["instances"] == report["result"]["shape"][2]
    # Again: the same instances, which an archive of files holds too.
    packed = server.infer(image, precision="fp32", store=True, result_extension=".zip")
    assert packed.status_code == 200, packed.text
    assert instances(stored) == made["instances"]
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert len(archive.namelist()) == made["instances"]
        first = pydicom.dcmread(io.BytesIO(archive.read("0001.dcm")))
    assert (first.SeriesInstanceUID, first.PatientID) == (stored, "P1")
    orthanc.stop()
    try:
        refused(server.infer(image, store=True), 502)
    finally:
        orthanc.start()


@pytest.mark.slow
def test_series_are_listed_and_searched_as_they_are_now(
    server: Any, orthanc: Orthanc, image: str, scans: Any, refused: Any
) -> None:
    def found(**wanted: Any) -> list[str]:
        reply = server.get("/datastore/", params={"output": "all", **wanted})
        assert reply.ok, reply.text
        # Others may be there: results that were stored.
        return sorted(reply.json()["objects"].keys() & {image, "1.2.3.4.5", "1.2.3.4.6"})

    both = sorted((image, "1.2.3.4.5"))
    assert found() == both
    assert found(patient="P2") == ["1.2.3.4.5"] and found(patient="P*") == both and found(patient="P3") == []
    assert found(patient="doe^p2") == ["1.2.3.4.5"]
    assert found(date="2024-01-31") == [image] and found(date="20250101-") == ["1.2.3.4.5"]
    assert found(description="t2 tse") == ["1.2.3.4.5"]
    count = len(server.get("/datastore/", params={"output": "all"}).json()["objects"])
    pages = [
        server.get("/datastore/", params={"output": "all", "limit": 1, "offset": offset}).json()
        for offset in range(count)
    ]
    assert set(both) <= {key for page in pages for key in page["objects"]}
    assert [len(page["objects"]) for page in pages] == [1] * count
    assert [page["more"] for page in pages] == [True] * (count - 1) + [False]
    info = server.get("/datastore/image/info", params={"image": image}).json()
    assert (info["PatientID"], info["StudyDate"], info["SeriesDescription"]) == ("P1", "20240131", "t1 tra")
    assert "P1" in info["description"] and "t1 tra" in info["description"]
    for wrong in ({"date": "yesterday"}, {"patient": "a\\b"}, {"limit": 0}, {"offset": -1}):
        refused(server.get("/datastore/", params={"output": "all", **wrong}), 422)
    take(orthanc, scans.series, patient="P3", date="20250601", description="new", uid="1.2.3.4.6")
    assert found(patient="P3") == ["1.2.3.4.6"]


def test_what_needs_a_folder_is_refused_at_once(server: Any, image: str, refused: Any) -> None:
    for reply in (server.post("/train/srcyc", json={}), server.post("/batch/infer/srcyc")):
        refused(reply, 422, says="DICOMweb server")
    assert not server.children()
    tag = {"params": {"image": image}, "data": {"info": '{"domain": "HR"}'}}
    refused(server.put("/datastore/image/info", **tag), 409)
    refused(server.delete("/datastore/", params={"id": image}), 409)


def test_the_password_is_said_nowhere(server: Any, orthanc: Orthanc, image: str, tmp_path: Path) -> None:
    assert server.get("/datastore/", params={"output": "all"}).ok
    said = [server.log, *(path.read_text() for path in (server.model_dir / "logs").iterdir())]
    said += [" ".join(process.cmdline()) for process in server.processes()]
    said += [
        server.get(path).text for path in ("/info/", "/logs/", "/datastore/?output=all", "/openapi.json")
    ]
    assert not [text for text in said if PASSWORD in text]
    # An address that holds one is not taken: everybody on the machine sees a command line.
    address = orthanc.web.replace("http://", f"http://{NAME}:{PASSWORD}@")
    command = [*server.command()[:4], "--studies", address, "--port", "0", "--model-dir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2 and "--pacs-login" in ended.stderr and PASSWORD not in ended.stderr


@pytest.mark.slow
def test_a_pacs_that_is_down_is_said_within_three_seconds(
    server: Any, orthanc: Orthanc, image: str, refused: Any
) -> None:
    def asked(status: int) -> None:
        # What has not been asked for yet: what is known is not asked again.
        def unknown() -> str:
            return f"1.2.9.{time.monotonic_ns()}"

        for ask in (
            lambda: server.get("/datastore/?output=all"),
            lambda: server.get(f"/datastore/image/info?image={unknown()}"),
            lambda: server.infer(unknown()),
        ):
            reply = server.soon(ask, SOON)
            refused(reply, status, says="DICOMweb server")
            assert int(reply.headers["Retry-After"]) > 0
        assert server.get("/health/live").ok
        ready = server.wait_for(lambda: _not_ready(server), "tell that it is not ready")
        assert "DICOMweb" in ready["studies"]
        assert server.get("/info/").json()["datastore"]["error"]

    assert orthanc.process is not None
    orthanc.process.send_signal(signal.SIGSTOP)
    try:
        asked(504)
    finally:
        orthanc.process.send_signal(signal.SIGCONT)
    server.wait_for(lambda: server.get("/health/ready").ok, "be ready again")
    orthanc.stop()
    asked(502)
    orthanc.start()
    server.wait_for(lambda: server.get("/health/ready").ok, "be ready again")
    assert image in server.get("/datastore/?output=all").json()["objects"]


def test_a_name_that_no_name_server_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up has no end that could be set, and must not become everybody's wait, nor a thread for each."""
    answered = threading.Event()

    def look_up(*arguments: Any, **options: Any) -> Any:
        answered.wait(300)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    archive = DicomWeb("http://pacs.example/dicom-web", seconds=0.2)
    store = Pacs(archive, tmp_path, expiry=60, max_bytes=1000)
    threads, start = threading.active_count(), time.monotonic()
    for _ in range(20):
        with pytest.raises(Refusal, match="does not answer") as refused:
            store.list_images()
        assert refused.value.status_code == 504
    assert time.monotonic() - start < 60
    assert threading.active_count() - threads <= 16
    answered.set()

    def known() -> bool:
        with pytest.raises(Refusal) as refused:
            store.list_images()
        return refused.value.status_code == 502

    end = time.monotonic() + 120
    while not known():
        assert time.monotonic() < end


def _not_ready(server: Any) -> dict[str, str]:
    reply = server.get("/health/ready")
    return {} if reply.ok else dict(reply.json()["checks"])


def test_a_series_is_kept_for_a_while_and_only_if_it_is_not_too_large(
    orthanc: Orthanc, image: str, scans: Any, tmp_path: Path
) -> None:
    login = tmp_path / "login"
    login.write_text(f"{NAME}:{PASSWORD}")

    def pacs(max_bytes: int = 10**9) -> Pacs:
        archive = DicomWeb(orthanc.web, Login(login, anew=True), only={"Modality": "MR"})
        return Pacs(archive, tmp_path / "cache", expiry=3600, max_bytes=max_bytes)

    with pytest.raises(Refusal, match="more than") as large:
        pacs(3000).get_image_uri(image)
    assert large.value.status_code == 422
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    store = pacs()
    folder = Path(store.get_image_uri(image))
    assert len(list(folder.iterdir())) == len(list(scans.series.iterdir()))
    assert store.remove_expired() == 0
    os.utime(folder, (time.time() - 4000,) * 2)
    assert store.remove_expired() == 1 and not folder.exists()
    assert Path(store.get_image_uri(image)) == folder, "fetched again"
    # An image too few, as after an accident: fetched again, too.
    next(folder.iterdir()).unlink()
    assert len(list(Path(store.get_image_uri(image)).iterdir())) == len(list(scans.series.iterdir()))
    # The file is read for every question: a login that was changed counts at once.
    login.write_text("srcyc:wrong")
    with pytest.raises(Refusal, match="--pacs-login") as refused:
        pacs().list_images()
    assert refused.value.status_code == 502
