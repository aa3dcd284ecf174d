"""The self-test that the module brings for Slicer, run in the stand-in: its own server, a scan of the sample data.

With the tiny model: what the one that comes with SRCyc makes of that scan is tested elsewhere.
"""

from __future__ import annotations

import shutil
import sys
import unittest
from pathlib import Path
from typing import Any

import pytest

import lean_python

pytestmark = pytest.mark.slow


def test_it_passes(
    stand_in: Any, module_folder: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import slicer

    if sys.platform == "win32":
        pytest.skip("the program is a shell script here")
    (tmp_path / "models").mkdir()
    shutil.copy(tiny_model, tmp_path / "models")
    # The real program, with a model folder that is not the clone's.
    program = tmp_path / "srcyc"
    program.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m srcyc.cli "$@" --model-dir "{tmp_path}/models"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("SRCYC_PROGRAM", str(program))
    stand_in.load_module(module_folder)
    stand_in.in_event_loop(lambda: slicer.selfTests["SRCyc"](msec=1))
    (scan, result) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert (scan.GetName(), result.GetName()) == ("brain1", "brain1 (SRCyc)")


def test_it_is_skipped_where_nothing_is_installed(
    stand_in: Any, module_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where extensions are built and tested."""
    import slicer

    python = lean_python.make_python(tmp_path)
    lean_python.launch(python, Path(stand_in.folder) / "bin" / "PythonSlicer")
    stand_in.load_module(module_folder)
    monkeypatch.setattr(sys.modules["SRCyc"], "find_program", lambda: "")
    with pytest.raises(unittest.SkipTest, match="first Apply"):
        slicer.selfTests["SRCyc"](msec=1)
