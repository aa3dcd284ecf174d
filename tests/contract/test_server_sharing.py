"""Several clients at once: what one downloads while another replaces it, and who waits for whom."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factories import make_phantom, save_series
from srcyc.volumes.volume import Volume, write_volume

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(
    serve: Callable[..., Any],
    studies_of: Callable[..., Path],
    patient: tuple[Path, Path],
    endless: Path,
    tiny_model: Path,
) -> Any:
    options = ("--trusted-proxy", "127.0.0.1", "--user-queue", "2")
    studies = studies_of("nifti")
    shutil.copy(endless, studies)
    server = serve("srcyc", studies, *options, model=tiny_model, more_models=[patient[1]])
    server.wait_for(
        lambda: {"head", "endless"} <= server.client.datastore()["objects"].keys(), "notice the scans"
    )
    return server


def versions(folder: Path, kind: str) -> list[bytes]:
    """Two scans of different sizes, to be sent under one name."""
    found = []
    for number, size in enumerate((20, 40)):
        scan = Volume(1000 * make_phantom((size, size, 8), number), np.diag([1.0, 1.0, 4.0, 1.0]))
        if kind == "file":
            # Not compressed, so that there is something to mix.
            scan = Volume(np.repeat(np.repeat(scan.data, 6, 1), 6, 2), scan.affine)
            found.append(write_volume(scan, folder / f"{number}.nrrd").read_bytes())
            continue
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(save_series(scan, folder / str(number)).iterdir()):
                archive.write(file, f"{number}-{file.name}")
        found.append(packed.getvalue())
    return found


def content(kind: str, body: bytes) -> Any:
    """What a download holds, comparable."""
    if kind == "file":
        return body
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("kind", ["file", "series"])
def test_a_download_is_the_old_scan_or_the_new_one(server: Any, tmp_path: Path, kind: str) -> None:
    both = versions(tmp_path, kind)
    known = [content(kind, body) for body in both]
    name = "x.nrrd" if kind == "file" else "x.zip"
    address, over = f"/datastore/image?image=both-{kind}", threading.Event()
    seen: set[int] = set()

    def put(body: bytes) -> None:
        form = {"files": {"file": (name, body)}, "data": {"params": json.dumps({"overwrite": True})}}
        reply = server.put(address, **form)
        assert reply.ok, reply.text

    def get() -> None:
        while not over.is_set():
            reply = server.get(address)
            # A series that is on its way from one place to the other is nobody's to read.
            if kind == "series" and reply.status_code in (404, 409):
                continue
            assert reply.status_code == 200, reply.text[:300]
            got = content(kind, reply.content)
            assert any(got == one for one in known), sorted(got) if kind == "series" else len(got)
            seen.add(known.index(got))

    put(both[1])
    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(get) for _ in range(3)]
        try:
            rounds, end = 0, time.monotonic() + 240
            while rounds < 8 or (seen != {0, 1} and time.monotonic() < end):
                for body in both:
                    put(body)
                rounds += 1
        finally:
            over.set()
        for one in reading:
            one.result(60)
    assert seen == {0, 1}
    assert content(kind, server.get(address).content) == known[1]


def test_who_waits_is_told_where_and_who_may_not_when_to_come_again(
    server: Any, refused: Callable[..., str]
) -> None:
    def ask(user: str, number: int) -> Any:
        return server.post(
            "/infer/srcyc?output=json&image=head",
            data={"params": json.dumps({"request_id": f"waiting-{number}"})},
            headers={"X-Remote-User": user},
        )

    def progress(number: int) -> dict[str, Any]:
        return dict(server.get(f"/progress/waiting-{number}").json())

    anna = {"params": {"image": "endless"}, "headers": {"X-Remote-User": "anna"}}
    with ThreadPoolExecutor(2) as pool:
        with server.asking({"weights": "patient", "uncertainty": True}, "running", **anna):
            second = pool.submit(ask, "anna", 2)
            server.wait_for(lambda: progress(2).get("position") == 0, "put the second first in the queue")
            # Only now: two requests sent at once arrive in either order.
            third = pool.submit(ask, "otto", 3)
            server.wait_for(lambda: progress(3).get("position") == 1, "put the third behind it")
            reply = ask("anna", 4)
        refused(reply, 429, says="2 inferences")
        assert int(reply.headers["Retry-After"]) > 0
        # The first one hung up.
        assert [one.result(120).status_code for one in (second, third)] == [200] * 2
    assert "position" not in progress(3)
