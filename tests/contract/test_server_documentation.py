"""The commands of docs/server.md, as they stand there, against a real server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factories import save_head, save_model, save_people

pytestmark = pytest.mark.slow

#: Commands that others run: how they begin, and where.
ELSEWHERE = {
    "pip install": "the Makefile installs so",
    "python -m monailabel.main start_server": "tests/contract/conftest.py starts it so",
    "python srcyc_app/main.py": "tests/contract/test_script.py",
    "grep ": "tests/contract/test_server_access.py",
    'curl "http://127.0.0.1:8000/datastore/?output=all&': "tests/contract/test_server_dicomweb.py: a PACS's",
}


def blocks(repository: Path, language: str) -> list[str]:
    text = (repository / "docs" / "server.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(repository: Path) -> list[str]:
    """All commands, those of several lines joined, without comments."""
    lines = "".join(blocks(repository, "bash")).replace("\\\n", " ").splitlines()
    found = [re.split(r"\s{2,}#", line)[0].strip() for line in lines]
    return [command for command in found if command and not command.startswith(tuple(ELSEWHERE))]


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server whose scans and model are called as those of the document."""
    studies = save_people(tmp_path_factory.mktemp("documented"), {"hr": "ab", "lr": "cd"})
    for number, name in enumerate(("brain1_image.nrrd", "ch2.nii.gz", "ch2bet.nii.gz")):
        spacing = (1, 1, 4) if name.startswith("brain") else (1, 1, 1)
        save_head(studies / name, (24, 26, 8 if spacing[2] == 4 else 24), spacing, number)
    mine = save_model(tmp_path_factory.mktemp("mine") / "mine.safetensors", depth=2)
    server = serve("srcyc", studies, model=mine, more_models=[tiny_model])
    server.wait_for(lambda: "ch2bet" in server.client.datastore()["objects"], "notice the scans")
    return server


def test_each_command_does_what_it_says(server: Any, repository: Path, tmp_path: Path) -> None:
    assert server.put("/model/active", json={"model": "tiny"}).ok, "so that there is one to go back to"
    (tmp_path / "sample-data").symlink_to(server.studies)
    (tmp_path / "etc").mkdir()
    ran = []
    for command in commands(repository):
        if command.startswith("srcyc serve"):
            continue
        here = command.replace("http://127.0.0.1:8000", server.url).replace(
            "/srv/srcyc", str(server.model_dir)
        )
        here = here.replace("/etc/srcyc", str(tmp_path / "etc")).replace("| less", "")
        here = re.sub(r"^curl ", "curl --silent --show-error --fail ", here)
        here = re.sub(r"\bpython3?(?= -m)", shlex.quote(sys.executable), here)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", here],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-500:]}{done.stderr[-500:]}"
        ran.append(command.split()[0])
    assert ran.count("curl") > 8
    assert ran.count("python") >= 3
    assert (tmp_path / "thin.nrrd").stat().st_size > 10_000
    assert (tmp_path / "pacs-login").stat().st_mode & 0o077 == 0
    assert server.client.datastore()["objects"]["ch2bet"]["image"]["info"]["person"] == "ch2"
    assert [line.split()[0] for line in (tmp_path / "etc" / "users").read_text().splitlines()] == [
        "anna",
        "otto",
    ]
    assert json.loads((server.model_dir / "active.json").read_text())
    server.wait_for(lambda: not server.children(), "end what was begun")


def test_each_way_to_start_has_the_options_that_there_are(repository: Path, tmp_path: Path) -> None:
    """Not started, since there is no such folder or login: that is what it says, and not that an option is unknown."""
    starts = [command for command in commands(repository) if command.startswith("srcyc serve")]
    assert len(starts) >= 3
    for command in {re.sub(r"--studies \S+", "--studies nowhere", command) for command in starts}:
        words = shlex.split(re.sub(r"/etc/srcyc/users", str(tmp_path / "users"), command))[1:]
        (tmp_path / "users").touch()
        done = subprocess.run(
            [sys.executable, "-m", "srcyc.cli", *words, "--model-dir", str(tmp_path / "models")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2 and "nowhere" in done.stderr, f"{command}\n{done.stderr}"


def test_the_client_s_example_runs(server: Any, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = next(block for block in blocks(repository, "python") if "MONAILabelClient(" in block)
    exec(example.replace("http://127.0.0.1:8000", server.url), names := {})
    assert names["file"].endswith(".nii.gz") and names["report"]["consistency"]
    Path(names["file"]).unlink()
