"""Mistakes put into copies of the module: each must be noticed by the stand-in or by what a user would see.

A test that cannot fail is worth nothing. The copies run in a process of their own, all against one real server.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "srcyc_app" / "slicer" / "SRCyc"

#: What is done wrong: file, right, wrong.
MUTATIONS = {
    "nothing": ("SRCyc.py", "", ""),
    "signal of a button": (
        "SRCycLib/resolve_panel.py",
        '"clicked(bool)", self._apply',
        '"clikced(bool)", self._apply',
    ),
    "arguments of a signal": (
        "SRCycLib/server_panel.py",
        '"clicked(bool)", self._test',
        '"clicked(int)", self._test',
    ),
    "signal of a node selector": (
        "SRCycLib/compare_panel.py",
        "currentNodeChanged(vtkMRMLNode*)",
        "currentNodeChanged(vtkMRMLVolumeNode*)",
    ),
    "signal of a timer": ("SRCycLib/remote.py", '"timeout()"', '"timedOut()"'),
    "signal of a slider": ("SRCycLib/compare_panel.py", "valueChanged(double)", "valueChanged(float)"),
    "widget in the code": ("SRCycLib/resolve_panel.py", "ui.applyButton", "ui.applyButon"),
    "widget in the .ui file": ("Resources/UI/SRCyc.ui", 'name="fadeSlider"', 'name="fadSlider"'),
    "class in the .ui file": ("Resources/UI/SRCyc.ui", '"ctkSliderWidget" name', '"ctkSlidrWidget" name'),
    "property in the .ui file": ("Resources/UI/SRCyc.ui", 'name="nodeTypes"', 'name="nodeType"'),
    "connection in the .ui file": ("Resources/UI/SRCyc.ui", "mrmlSceneChanged(", "mrmlSceneModified("),
    "property that is written": ("SRCycLib/compare_panel.py", "widget.enabled =", "widget.enable ="),
    "property that is called": ("SRCycLib/resolve_panel.py", "currentText.strip()", "currentText().strip()"),
    "property of the application": ("SRCycLib/remote.py", "slicer.app.temporaryPath", "slicer.app.tempPath"),
    "method of a widget": ("SRCycLib/resolve_panel.py", "progressBar.setMaximum", "progressBar.setMaximun"),
    "method of the layout manager": (
        "SRCycLib/views.py",
        "layout_manager.setLayout",
        "layout_manager.setLayoutt",
    ),
    "event of the scene": ("SRCyc.py", "StartCloseEvent", "StartClosingEvent"),
    "method of a node": ("SRCycLib/parameters.py", "SetNodeReferenceID", "SetNodeReferenceId"),
    "method of a display node": ("SRCycLib/volumes.py", "SetWindowLevel(", "SetWindowAndLevel("),
    "method of a composite node": ("SRCycLib/views.py", "SetForegroundOpacity", "SetForegroundOpacities"),
    "method of a volume node": ("SRCycLib/volumes.py", "GetImageData", "GetImage"),
    "action of the client": ("SRCycLib/super_resolution.py", '"infer"', '"inferr"'),
    "result under another transform": ("SRCycLib/volumes.py", "original.GetTransformNodeID()", "None"),
    "result not told from scan": (
        "SRCycLib/views.py",
        "below[index].show(result)",
        "below[index].show(original)",
    ),
    "fade without effect": ("SRCycLib/views.py", "min(max(share, 0.0), 1.0)", "0.5"),
}


def scenario(folder: Path, url: str, scan: Path) -> None:
    """What a user does: connect, super-resolve, compare, close the scene, leave."""
    import slicer

    import slicer_stand_in

    helpers = _conftest()
    session = slicer_stand_in.start()
    try:
        panel = helpers.Panel(session, folder)
        try:
            panel.connect(url)
            node = panel.load(scan)
            turn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
            node.SetAndObserveTransformNodeID(turn.GetID())
            panel.make_it_short()
            result = panel.apply()
            assert result.GetTransformNodeID() == turn.GetID()
            logics = slicer.app.layoutManager().mrmlSliceLogics()
            shown = [logics.GetItemAsObject(row).GetSliceCompositeNode() for row in range(6)]
            assert {each.GetBackgroundVolumeID() for each in shown} == {node.GetID(), result.GetID()}
            panel.click(panel.ui.fadeButton)
            panel.ui.fadeSlider.value = 0.25
            assert {each.GetForegroundOpacity() for each in shown} >= {0.25}
            panel.ui.inputSelector.setCurrentNode(None)
            slicer.mrmlScene.Clear(0)
            session.process_events()
            session.quit()
        finally:
            panel.dialogs.close()
        assert not panel.dialogs.texts and not panel.complaints, (panel.dialogs.texts, panel.complaints)
        assert not session.errors(), session.errors()
    finally:
        slicer_stand_in.close()


def _conftest() -> Any:
    spec = importlib.util.spec_from_file_location("slicer_conftest", Path(__file__).with_name("conftest.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(folder: Path, url: str, scan: Path) -> None:
    """Run the scenario with a copy for each mutation, and write what came of it."""
    outcome = {}
    for number, (name, (file, right, wrong)) in enumerate(MUTATIONS.items()):
        copy = folder / str(number) / "SRCyc"
        shutil.copytree(MODULE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        text = (copy / file).read_text(encoding="utf-8")
        assert right in text, f"{name}: {file} has no {right!r} any more"
        (copy / file).write_text(text.replace(right, wrong) if right else text, encoding="utf-8")
        try:
            scenario(copy, url, scan)
        except Exception as error:  # noqa: BLE001 - whatever it is: it was noticed
            outcome[name] = f"{type(error).__name__}: {error}"
        else:
            outcome[name] = ""
    (folder / "outcome.json").write_text(json.dumps(outcome))


@pytest.fixture(scope="module")
def outcome(srcyc_server: Any, scans: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each mutation; '' if nobody noticed it."""
    for package in ("slicer_core", "PySide6"):
        pytest.importorskip(package, reason=f"{package}: no wheel for this Python, or not installed")
    folder = tmp_path_factory.mktemp("mutants")
    path = os.pathsep.join([str(ROOT / "tests" / "harness"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, __file__, str(folder), srcyc_server.url, str(scans.nifti)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "outcome.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name != "nothing"])
def test_a_mistake_is_noticed(outcome: dict[str, str], name: str) -> None:
    assert outcome[name], f"a wrong {name} goes unnoticed"


def test_without_a_mistake_all_is_well(outcome: dict[str, str]) -> None:
    assert outcome["nothing"] == ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
