"""`python srcyc_app/main.py`: the app without a server, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monailabel.config import settings

from srcyc.volumes.volume import Volume, read_volume, write_volume
from srcyc_app.script import main


def run(repository: Path, *arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "srcyc_app/main.py", *map(str, arguments)]
    ran = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture
def given(sample_data: Path, tmp_path: Path) -> list[Any]:
    """`--studies` with the middle of a real scan, `--model-dir`."""
    studies = tmp_path / "studies"
    scan = read_volume(sample_data / "brain1_image.nrrd")
    middle = tuple(slice(max(n // 2 - 24, 0), n // 2 + 24) for n in scan.shape)
    write_volume(Volume(scan.data[(0, *middle)][None], scan.affine), studies / "brain1_image.nrrd")
    return ["--studies", studies, "--model-dir", tmp_path / "models"]


@pytest.fixture
def here(
    given: list[Any],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[int, str, str]]:
    """Run it in this process: ``here("info") -> (code, output, last sentence)``."""
    # The script is alone in its process, a test is not.
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_AUTO_RELOAD", True)

    def run(*arguments: object) -> tuple[int, str, str]:
        caplog.clear()
        code = main([str(word) for word in (*given, *arguments)])
        said = [
            record.getMessage() for record in caplog.records if record.name.startswith("srcyc_app.script")
        ]
        return code, capsys.readouterr().out, said[-1] if said else ""

    return run


@pytest.mark.slow
def test_a_scan_is_super_resolved_as_a_user_types_it(
    repository: Path, given: list[Any], here: Callable[..., Any], tmp_path: Path
) -> None:
    thin = tmp_path / "thin.nii.gz"
    arguments = ("infer", "brain1_image", "-o", thin, "--set", "target_spacing=1.5")
    code, out, err = run(repository, *given, *arguments)
    assert code == 0, err
    assert json.loads(out)["output"] == str(thin)
    assert max(read_volume(thin).spacing) < 1.6
    code, out, said = here("infer", "brain1_image", "-o", thin)
    assert (code, out) == (2, "")
    assert str(thin) in said and "already exists" in said


def test_info(here: Callable[..., Any]) -> None:
    code, out, _ = here("info")
    assert code == 0
    assert json.loads(out)["datastore"]["domains"]["LR"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "HR"),
        (["infer", "nobody", "-o", "x.nii.gz"], "nobody"),
        (["infer", "brain1_image", "-o", "x.png"], ".nii.gz"),
        (["infer", "brain1_image", "-o", "x.nii", "--set", "precision"], "KEY=VALUE"),
    ],
)
def test_mistakes_are_sentences(
    here: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, sentence = here(*arguments)
    assert (code, out) == (2, "")
    assert said in sentence
    assert "\n" not in sentence
    assert not list(tmp_path.glob("x.*"))


def test_help_is_quick_and_needs_no_studies(repository: Path) -> None:
    code, out, _ = run(repository, "--help")
    assert code == 0
    assert "--studies" in out
