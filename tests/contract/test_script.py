"""`python srcyc_app/main.py`: the app without a server, as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from monailabel.config import settings

from srcyc.volume import read_volume
from srcyc_app.script import main


def run(repository: Path, *arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "srcyc_app/main.py", *map(str, arguments)]
    ran = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture
def given(sample_data: Path, tmp_path: Path) -> list[Any]:
    """`--studies` with one real scan, `--model-dir`."""
    studies = tmp_path / "studies"
    studies.mkdir()
    shutil.copy(sample_data / "brain1_image.nrrd", studies)
    return ["--studies", studies, "--model-dir", tmp_path / "models"]


@pytest.mark.slow
def test_info_and_infer(repository: Path, given: list[Any], tmp_path: Path) -> None:
    code, out, _ = run(repository, *given, "info")
    assert code == 0
    assert json.loads(out)["datastore"]["domains"]["LR"] == 1
    thin = tmp_path / "thin.nii.gz"
    code, out, err = run(
        repository, *given, "infer", "brain1_image", "-o", thin, "--set", "target_spacing=1.5"
    )
    assert code == 0, err
    assert json.loads(out)["output"] == str(thin)
    assert max(read_volume(thin).spacing) < 1.6
    code, _, err = run(repository, *given, "infer", "brain1_image", "-o", thin)
    assert code == 2
    assert "already exists" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_refusal_is_a_sentence(repository: Path, given: list[Any]) -> None:
    code, out, err = run(repository, *given, "train")
    assert (code, out) == (2, ""), err
    assert "HR" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_mistakes_are_sentences(
    given: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The script is alone in its process, a test is not.
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_AUTO_RELOAD", True)
    for arguments, said in (
        (["infer", "nobody", "-o", tmp_path / "x.nii.gz"], "nobody"),
        (["infer", "brain1_image", "-o", tmp_path / "x.png"], ".nii.gz"),
        (["infer", "brain1_image", "-o", tmp_path / "x.nii", "--set", "precision"], "KEY=VALUE"),
    ):
        assert main([str(word) for word in (*given, *arguments)]) == 2
        assert said in caplog.records[-1].getMessage()
        assert capsys.readouterr().out == ""


def test_help_is_quick_and_needs_no_studies(repository: Path) -> None:
    code, out, _ = run(repository, "--help")
    assert code == 0
    assert "--studies" in out
