"""A real server killed in the midst of an upload: afterwards there is the old or the new, whole, and nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from factories import make_phantom, save_model, save_series
from srcyc.files import sha256
from srcyc.volumes.volume import Volume, write_volume

pytestmark = pytest.mark.slow

#: More changes than an upload makes.
MOST = 60


@pytest.fixture
def server(serve: Callable[..., Any], studies_of: Callable[..., Path], tiny_model: Path) -> Any:
    server = serve("srcyc", studies_of("nifti"), "--allow-model-files", model=tiny_model, wait=False)
    yield server
    server.end()


def scans(folder: Path, suffix: str) -> list[tuple[str, bytes]]:
    """Two uploads of one scan, the second a file of another format if it is one."""
    found = []
    for number, size in enumerate((16, 20)):
        scan = Volume(1000 * make_phantom((size, size, 4 + number), number), np.diag([1.0, 1.0, 4.0, 1.0]))
        if suffix == ".zip":
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for file in sorted(save_series(scan, folder / str(number)).iterdir()):
                    archive.write(file, f"{number}-{file.name}")
            found.append(("x.zip", packed.getvalue()))
        else:
            name = f"x{suffix.split(' ')[-1 if number else 0]}"
            found.append((name, write_volume(scan, folder / f"{number}-{name}").read_bytes()))
    return found


def content(body: bytes) -> Any:
    if not body.startswith(b"PK"):
        return body
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return {Path(name).name: archive.read(name) for name in archive.namelist()}


def killed_at_each_change(
    server: Any,
    folder: Path,
    numbers: range,
    send: Callable[[int], requests.Response],
    check: Callable[[], int],
    killed: Callable[[], None] = lambda: None,
) -> set[int]:
    """Send one and the other in turn, and kill the server at one change of a folder after the other.

    Args:
        server: not running.
        folder: whose changes count.
        numbers: of the changes.
        send: sends one of the two.
        check: looks at what there is, and gives which of the two that is.
        killed: is called after each kill.

    Returns:
        0 and 1, where the old one was there after a kill, and where the new one was.
    """
    outcomes, known = set(), None
    for number in numbers:
        server.dies = (str(folder), number)
        server.restart() if server.process is not None else server.start()
        if known is None:
            assert send(0).ok
            known = check()
        server.running.send_signal(signal.SIGUSR1)
        wanted = 1 - known
        reply = None
        with contextlib.suppress(requests.ConnectionError):
            reply = send(wanted)
        if reply is not None:
            # All changes were made before.
            assert reply.ok, reply.text
            assert check() == wanted
            server.kill()
            break
        server.running.wait(60)
        killed()
        server.dies = None
        server.restart()
        server.wait_for(lambda: server.get("/health/ready").ok, "be ready")
        now = check()
        outcomes.add(int(now == wanted))
        known = now
        server.kill()
    else:
        assert numbers.stop <= MOST, "more changes than expected"
    return outcomes


def some(numbers: list[int]) -> list[Any]:
    """One change in the midst, and in bulk all of them."""
    return [
        pytest.param(range(numbers[0], numbers[0] + 1), id="one"),
        pytest.param(range(1, MOST + 1), marks=pytest.mark.exhaustive, id="all"),
    ]


@pytest.mark.parametrize(
    "suffix", [pytest.param(".nrrd", marks=pytest.mark.exhaustive), ".nrrd .mha", ".zip"]
)
@pytest.mark.parametrize("numbers", some([3]))
def test_a_scan_that_is_replaced(server: Any, tmp_path: Path, suffix: str, numbers: range) -> None:
    both = scans(tmp_path, suffix)
    known = [content(body) for _, body in both]

    def send(number: int) -> requests.Response:
        return server.put(
            "/datastore/image?image=x",
            files={"file": both[number]},
            data={"params": json.dumps({"overwrite": True})},
        )

    def check() -> int:
        (image,) = server.client.datastore()["objects"].keys() - {"head"}
        assert image == "x"
        got = content(server.get("/datastore/image?image=x").content)
        assert got in known
        found = {path.name for path in server.studies.iterdir()} - {"head.nii.gz"}
        name = "x" if suffix == ".zip" else both[known.index(got)][0]
        assert found <= {name, "datastore_v2.json", ".lock"}, found
        server.wait_for(lambda: not server.temporary_files(), "remove its temporary files")
        assert server.infer("x", output="json", weights="tiny").ok
        return known.index(got)

    outcomes = killed_at_each_change(server, server.studies, numbers, send, check)
    assert len(numbers) == 1 or outcomes == {0, 1}


@pytest.mark.parametrize("numbers", some([2]))
def test_a_model_that_is_published_and_taken_into_use(server: Any, tmp_path: Path, numbers: range) -> None:
    both = [save_model(tmp_path / f"{number}.safetensors", seed=number) for number in range(2)]
    known = [sha256(path) for path in both]

    def send(number: int) -> requests.Response:
        reply = server.put("/model/mine", files={"file": (both[number].name, both[number].read_bytes())})
        assert reply.ok, reply.text
        # While an older one of its name is in use, a newer one is called by its sum too.
        for name in server.client.info()["models"]["srcyc"]["config"]["weights"]:
            if known[number] in server.get(f"/model/info/{name}").json()["checksum"]:
                return server.put("/model/active", json={"model": name})
        raise AssertionError("the model that was sent is not offered")

    def check() -> int:
        there = sha256(server.model_dir / "mine.safetensors")
        active = server.get("/model/active").json()["active"]["sha256"]
        assert {there, active} <= {*known}, "each is one of the two, whole"
        used = server.infer("head", output="json").json()
        assert used["model"]["sha256"] == active
        assert not parts()
        return known.index(active)

    def parts() -> list[Path]:
        return list(server.model_dir.rglob("*.part"))

    def age() -> None:
        # Somebody may be writing what has just been written.
        for path in parts():
            os.utime(path, (time.time() - 7200,) * 2)

    # Until it is written down, the old one is in use.
    assert killed_at_each_change(server, server.model_dir, numbers, send, check, age) == {0}
