"""Files that claim what is not so, sent to real servers with 2 GB of memory: no file ends or bloats one."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hostile_files import HARMLESS, HOSTILE, SERIES

from factories import make_head, save_model, save_series

pytestmark = pytest.mark.slow

#: Bytes of data that every process of the servers may have.
MEMORY = 2_000_000_000
#: Bytes by which a server may grow whatever it is sent.
GROWTH = 500_000_000
#: Seconds within which it says no.
SECONDS = 10.0


@pytest.fixture(scope="module")
def limited(
    serve: Callable[..., Any], studies_of: Callable[..., Path], tiny_model: Path
) -> Callable[[str], Any]:
    """Give one server of each kind, with little memory."""

    @functools.cache
    def start(kind: str) -> Any:
        options = ("--allow-model-files", "--max-upload", "0.05")
        if kind == "stock":
            options = ("--conf", "packaged_models", "false", "--conf", "max_upload_gb", "0.05")
        server = serve(kind, studies_of("nifti"), *options, model=tiny_model, memory=MEMORY)
        server.wait_for(lambda: "head" in server.client.datastore()["objects"], "notice the scan")
        assert server.infer("head", output="json", weights="tiny", device="cpu").status_code == 200
        return server

    return start


@pytest.fixture(params=["srcyc", "stock"])
def server(request: pytest.FixtureRequest, limited: Callable[[str], Any]) -> Any:
    return limited(request.param)


def harmless(server: Any, attack: Callable[[], Any], refused: Callable[..., str] | None) -> None:
    """Whatever the answer: it comes soon, memory stays, and the server serves."""
    before, pid = server.rss(), server.running.pid
    reply = server.soon(attack, SECONDS)
    if refused is not None:
        sentence = refused(reply)
        for place in (server.temporary, server.studies, server.model_dir):
            assert str(place) not in sentence
    assert server.rss() - before < GROWTH
    assert server.running.poll() is None and server.running.pid == pid
    assert server.get("/info/").ok


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file(server: Any, refused: Callable[..., str], hash_tree: Callable[..., Any], name: str) -> None:
    content = HOSTILE[name]()
    if len(content) > 49e6:
        pytest.skip("is refused for its size")
    before = hash_tree(server.studies)
    check = None if name in HARMLESS else refused
    query = "/infer/srcyc?output=json"
    files = {"file": (name, content)}
    harmless(server, lambda: server.post(query, data={"params": '{"force": true}'}, files=files), check)
    if check is not None:
        harmless(server, lambda: server.put("/datastore/?image=evil", files=files), check)
    assert hash_tree(server.studies) == before


@pytest.mark.parametrize("name", SERIES)
def test_a_series(
    server: Any, refused: Callable[..., str], hash_tree: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    folder = save_series(make_head(), tmp_path / "series")
    SERIES[name](folder)
    before = hash_tree(server.studies)
    sent = [("files", (path.name, path.read_bytes())) for path in sorted(folder.iterdir())]
    session = server.put("/session/", files=sent).json()["session_id"]
    try:
        harmless(server, lambda: server.infer(session=session, output="json"), refused)
    finally:
        server.delete(f"/session/{session}")
    assert hash_tree(server.studies) == before


@pytest.mark.parametrize("server", ["srcyc", "stock"], indirect=True)
@pytest.mark.parametrize("name", ["claims-20-GB.mha", "bomb.nii.gz", "deflated"])
def test_what_lies_in_the_studies_folder_is_no_less_suspect(
    server: Any, refused: Callable[..., str], tmp_path: Path, name: str
) -> None:
    """Somebody copies what somebody else sent."""
    place = server.studies / (name if name in HOSTILE else "evil")
    if name in HOSTILE:
        (tmp_path / name).write_bytes(HOSTILE[name]())
        shutil.move(tmp_path / name, place)
    else:
        folder = save_series(make_head(), tmp_path / "series")
        SERIES[name](folder)
        shutil.copytree(folder, place)
    before = server.rss()
    try:
        objects = server.wait_for(
            lambda: found if len(found := server.client.datastore()["objects"]) == 2 else None,
            "notice it",
        )
        (image,) = objects.keys() - {"head"}
        harmless(server, lambda: server.infer(image, output="json"), refused)
        assert server.rss() - before < GROWTH
    finally:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        server.wait_for(lambda: len(server.client.datastore()["objects"]) == 1, "notice that it went")


@pytest.mark.parametrize("server", ["srcyc"], indirect=True)
def test_a_decoder_that_dies_takes_nobody_along(server: Any) -> None:
    assert (reply := server.infer("head", output="json")).status_code == 200, reply.text
    decoders = server.decoders()
    assert len(decoders) == 1, "one for all"
    decoders[0].kill()
    assert (reply := server.infer("head", output="json")).status_code == 200, reply.text
    assert server.get("/compare/volume?image=head").ok


@pytest.mark.parametrize("server", ["srcyc"], indirect=True)
@pytest.mark.parametrize("network", [{"depth": 10**9}, {"features": 10**9}, {"name": "x" * 10**6}])
def test_a_model_that_claims_to_be_large(
    server: Any, refused: Callable[..., str], hash_tree: Callable[..., Any], tmp_path: Path, network: Any
) -> None:
    from safetensors.torch import load_file, save_file

    from srcyc.models.model_file import load_model

    model = save_model(tmp_path / "good.safetensors")
    card = load_model(model).card.model_dump(mode="json")
    card["network"] = {**card["network"], **network}
    save_file(load_file(model), tmp_path / "evil.safetensors", metadata={"srcyc": json.dumps(card)})
    content = (tmp_path / "evil.safetensors").read_bytes()
    before = hash_tree(server.model_dir / "evil.safetensors", server.studies)
    harmless(
        server, lambda: server.put("/model/evil", files={"file": ("evil.safetensors", content)}), refused
    )
    assert hash_tree(server.model_dir / "evil.safetensors", server.studies) == before
    assert not (server.model_dir / "evil.safetensors").exists()


@pytest.mark.parametrize("server", ["srcyc", "stock"], indirect=True)
def test_it_still_serves(server: Any) -> None:
    """The last one: after all of that, as in the beginning, and with as little memory."""
    assert psutil.Process(server.running.pid).rlimit(psutil.RLIMIT_DATA) == (MEMORY, MEMORY)
    assert server.infer("head", output="json", weights="tiny", device="cpu").status_code == 200
    at = server.log.find("Traceback")
    assert at < 0 or server.kind == "stock", server.log[at - 300 : at + 4000]
