"""No client runs code, reaches elsewhere or stops the server: above all MONAI Label's own server with the app in it."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

#: Of the browser.
FLAGS = ("--disable-gpu", "--host-resolver-rules=MAP evil.example 127.0.0.1")

#: Milliseconds that a browser has on a busy machine.
PATIENCE = 120_000

#: What the page of issue 15 did: put a module where the training process finds it, and begin a training.
PAGE = """<!DOCTYPE html><title>harmless</title><script>
const said = [];
async function ask(method, path, options) {
    for (const mode of ["cors", "no-cors"]) {
        try {
            const reply = await fetch("%(server)s" + path, {method, mode, ...options});
            let text = "";
            try { text = await reply.text(); } catch (error) {}
            said.push([method, path, mode, reply.status, text.slice(0, 300)]);
            if (reply.ok && text) return JSON.parse(text);
        } catch (error) { said.push([method, path, mode, 0, String(error)]); }
    }
    return null;
}
async function attack() {
    const form = new FormData();
    form.append("files", new Blob([%(code)s]), "sitecustomize.py");
    form.append("files", new Blob(["x"]), "other.txt");
    const session = await ask("PUT", "/session/", {body: form});
    const place = session ? session.session_info.image : %(place)s;
    const body = JSON.stringify({bundle_path: place, steps: 1});
    for (const type of ["application/json", "text/plain"])
        for (const path of ["/train/srcyc", "/batch/infer/srcyc", "/scoring/x"])
            await ask("POST", path, {body, headers: {"Content-Type": type}});
    await ask("GET", "/datastore/image?image=head", {});
    await ask("DELETE", "/datastore/image?id=head", {});
    await ask("POST", "/reload", {});
    await ask("GET", "/proxy/dicom/..%%2fsystem", {});
    document.title = "done";
}
attack();
</script>"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Python that leaves a mark if anybody runs it, and the mark."""
    mark = tmp_path_factory.mktemp("mark") / "was-run"
    return f"open({str(mark)!r}, 'w').close()\n", mark


@pytest.fixture(scope="module")
def planted(code: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that code as what every Python runs at its start."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "sitecustomize.py").write_text(code[0])
    return folder


def nothing_was_run(server: Any, mark: Path) -> None:
    """Whatever process an attack began has loaded its modules by the time that it does its task."""
    server.wait_for(lambda: not server.children(), "end what an attack began")
    assert not mark.exists(), server.log[-2000:]


# -- a page of somebody else's -----------------------------------------------------------------------------------------


def run_page(chromium: Any, html: str, host: str) -> list[Any]:
    """Open a page that another server of this machine sends, and give what its requests were answered."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE)
        try:
            page.goto(f"http://{host}:{elsewhere.server_port}/")
            page.wait_for_function("document.title === 'done'")
            return list(page.evaluate("said"))
        finally:
            page.close()
            elsewhere.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
def test_a_web_page_runs_nothing(
    chromium: Any,
    server: Any,
    code: tuple[str, Path],
    planted: Path,
    hash_tree: Callable[..., Any],
    host: str,
) -> None:
    before = hash_tree(server.studies, server.sessions)
    html = PAGE % {"server": server.url, "code": json.dumps(code[0]), "place": json.dumps(str(planted))}
    said = run_page(chromium, html, host)
    assert len(said) >= 20, said
    assert all(status == 0 and "srcyc" not in text.lower() for *_, status, text in said), said
    nothing_was_run(server, code[1])
    assert hash_tree(server.studies, server.sessions) == before
    assert "head" in server.client.datastore()["objects"]


def test_a_page_that_makes_its_name_point_here_is_nobody(chromium: Any, server: Any) -> None:
    """DNS rebinding: for the browser it is the server's own page then."""
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    try:
        reply = page.goto(f"http://evil.example:{server.port}/info/")
        assert reply.status == 400
        assert "evil.example" in reply.text()
        assert "trainers" not in reply.text()
    finally:
        page.close()


def test_the_servers_own_page_may_use_it(server: Any) -> None:
    own = server.get("/info/", headers={"Origin": server.url})
    assert own.ok


# -- whoever speaks to it directly -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/train/srcyc", "/train/", "/batch/infer/srcyc", "/scoring/x", "/scoring/"])
@pytest.mark.parametrize(
    "keys",
    [
        {"bundle_path": "PLANTED"},
        {"srcyc": {"bundle_path": "PLANTED"}},
        {"gpus": "0; touch x"},
        {"gpus": [1]},
    ],
    ids=["bundle", "bundle inside", "command", "list"],
)
@pytest.mark.parametrize("server", ["stock"], indirect=True)
def test_a_task_takes_no_path_and_no_environment(
    server: Any, refused: Callable[..., str], planted: Path, code: tuple[str, Path], path: str, keys: Any
) -> None:
    refused(server.post(path, data=json.dumps(keys).replace("PLANTED", str(planted)), headers=JSON), 404, 422)
    assert not server.children()
    assert not code[1].exists()


def test_what_a_client_names_is_not_imported(
    serve: Callable[..., Any], planted: Path, code: tuple[str, Path], training_studies: Callable[..., Path]
) -> None:
    """Our own server starts the process, and leaves out what it does not know."""
    server = serve("srcyc", training_studies(), real=True)
    server.wait_for(lambda: len(server.client.datastore()["objects"]) == 4, "notice the scans")
    reply = server.post("/train/srcyc", json={"bundle_path": str(planted), "gpus": "7", "steps": "0"})
    assert reply.status_code == 422
    reply = server.post(
        "/batch/infer/srcyc", json={"bundle_path": str(planted), "gpus": "7", "device": "cpu"}
    )
    assert reply.ok, reply.text
    server.wait_for(lambda: server.get("/batch/infer").json()["status"] != "RUNNING", "end the batch")
    nothing_was_run(server, code[1])
    server.end()


JSON = {"content-type": "application/json"}

#: Routes of MONAI Label's that lead elsewhere, or wait for hours; ours has none of them.
ELSEWHERE: dict[str, Callable[[Any], requests.Response]] = {
    "the PACS": lambda s: s.get("/proxy/dicom/studies"),
    "beside the PACS": lambda s: s.get("/proxy/dicom/..%2fsystem"),
    "into the PACS": lambda s: s.post("/proxy/dicom/stow/studies", data=b"x"),
    "wado": lambda s: s.get("/proxy/dicom/wado/..%2f..%2fsystem"),
    "the app anew": lambda s: s.post("/reload"),
    "slides": lambda s: s.post("/infer/wsi/srcyc?image=/etc/passwd", json={"wsi_tiles": []}),
    "slides, again": lambda s: s.post("/infer/wsi_v2/srcyc?image=/etc/passwd", data={"wsi": "{}"}),
    "a segmentation": lambda s: s.post(
        "/infer/srcyc?image=head&output=dicom_seg", data={"params": '{"label_info": [{}]}'}
    ),
    "a training that everybody waits for": lambda s: s.post("/train/srcyc?run_sync=true", json={}),
    "a batch that everybody waits for": lambda s: s.post("/batch/infer/srcyc?run_sync=1", json={}),
    "a task too long for a process": lambda s: s.post("/train/srcyc", json={"settings": "x" * 130_000}),
    "a program as a session": lambda s: s.put("/session/", files={"files": ("sitecustomize.py", b"x")}),
    "programs as a session": lambda s: s.put(
        "/session/", files=[("files", ("a.dcm", b"x")), ("files", ("torch.py", b"x"))]
    ),
    "a program as a label": lambda s: s.put(
        "/datastore/label?image=head&tag=final", files={"label": ("label.py", b"x")}
    ),
    "an upload too large": lambda s: s.put("/datastore/?image=evil", files={"file": ("x.nii", bytes(60_000_000))}),
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_routes_that_lead_elsewhere(
    server: Any, refused: Callable[..., str], hash_tree: Callable[..., Any], name: str
) -> None:
    before = hash_tree(server.studies, server.sessions)
    refused(ELSEWHERE[name](server))
    assert hash_tree(server.studies, server.sessions) == before


@pytest.mark.parametrize("server", ["stock"], indirect=True)
def test_an_app_loaded_anew_still_serves(server: Any, refused: Callable[..., str]) -> None:
    """MONAI Label's reload made an app that took itself for a script's, and read whatever path it was given."""
    server.post("/reload")
    refused(server.infer(str(server.cwd / "outside.nii.gz")), 403, 404)


def test_the_studies_folder_is_no_place_for_modules(
    serve: Callable[..., Any], studies_of: Callable[..., Path], code: tuple[str, Path], tiny_model: Path
) -> None:
    """A server that is started in its studies folder: Python looks there first, and clients put files there."""
    studies = studies_of("nifti")
    server = serve("stock", studies, model=tiny_model, wait=False, real=True)
    server.end()
    server.cwd = studies
    server.start()
    (studies / "torchvision").mkdir()
    for module in ("sitecustomize.py", "usercustomize.py", "torchvision/__init__.py", "pydicom.py"):
        (studies / module).write_text(code[0])
    server.client.info()
    reply = server.post("/batch/infer/srcyc", json={"device": "cpu", "multi_gpu": False})
    assert reply.ok, reply.text
    server.wait_for(lambda: server.get("/batch/infer").json()["status"] in ("DONE", "ERROR"), "end the batch")
    assert server.get("/batch/infer").json()["status"] == "DONE", server.log[-2000:]
    nothing_was_run(server, code[1])
    server.end()


def test_where_nobody_chose_an_address_others_are_refused(
    serve: Callable[..., Any], studies_of: Callable[..., Path], tiny_model: Path
) -> None:
    """MONAI Label listens on all addresses then."""
    server = serve("stock", studies_of("nifti"), model=tiny_model, wait=False)
    server.end()
    command = server.command()
    at = command.index("--host")
    del command[at : at + 2]
    server.command = lambda: command  # type: ignore[method-assign]
    server.start()
    # This machine may have no other address; its server believes a proxy on it.
    reply = server.get("/info/", headers={"X-Forwarded-For": "10.1.2.3"})
    assert reply.status_code == 403
    assert "srcyc serve" in reply.json()["detail"]
    assert server.get("/info/").ok
    server.end()


def test_what_the_docs_show_listens_on_this_machine(repository: Path) -> None:
    """MONAI Label's own default is every address."""
    texts = (repository / "docs").rglob("*")
    shown = [
        f"{path.name}: {line}"
        for path in texts
        if path.suffix in (".md", ".example", ".service")
        for line in path.read_text().splitlines()
        if "start_server" in line and "--studies" in line
    ]
    assert shown
    assert all("--host 127.0.0.1" in line for line in shown), shown


def test_what_a_client_says_begins_no_line_of_the_log(server: Any) -> None:
    server.put(
        "/datastore/image/info?image=head\nFORGED",
        data={"info": "{\nFORGED LINE"},
    )
    server.put(
        "/datastore/?image=x", data={"params": "{\nFORGED LINE"}, files={"file": ("x.nii\nFORGED", b"x")}
    )
    assert not [line for line in server.log.splitlines() if line.lstrip().startswith("FORGED")]
    assert os.sep in server.log
