"""Mistakes put into copies of the module: each must be noticed by the stand-in or by what a user would see.

A test that cannot fail is worth nothing. The copies run in a process of their own, all against one real server.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ended import has_ended
from factories import save_head

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
    "signal of a timer": ("SRCycLib/calls.py", '"timeout()"', '"timedOut()"'),
    "signal of a slider": ("SRCycLib/compare_panel.py", "valueChanged(double)", "valueChanged(float)"),
    "widget in the code": ("SRCycLib/resolve_panel.py", "ui.applyButton", "ui.applyButon"),
    "widget in the .ui file": ("Resources/UI/SRCyc.ui", 'name="fadeSlider"', 'name="fadSlider"'),
    "class in the .ui file": ("Resources/UI/SRCyc.ui", '"ctkSliderWidget" name', '"ctkSlidrWidget" name'),
    "property in the .ui file": ("Resources/UI/SRCyc.ui", 'name="nodeTypes"', 'name="nodeType"'),
    "connection in the .ui file": ("Resources/UI/SRCyc.ui", "mrmlSceneChanged(", "mrmlSceneModified("),
    "property that is written": ("SRCycLib/compare_panel.py", "widget.enabled =", "widget.enable ="),
    "property of a selector's filter": (
        "SRCycLib/resolve_panel.py",
        "hiddenNodeIDs = hidden",
        "hiddenNodes = hidden",
    ),
    "property that is called": ("SRCycLib/resolve_panel.py", "currentText.strip()", "currentText().strip()"),
    "property of the application": ("SRCycLib/calls.py", "slicer.app.temporaryPath", "slicer.app.tempPath"),
    "method of a widget": ("SRCycLib/resolve_panel.py", "progressBar.setMaximum", "progressBar.setMaximun"),
    "method of the layout manager": ("SRCycLib/views.py", "_layouts.setLayout", "_layouts.setLayoutt"),
    "method of the layout node": ("SRCycLib/views.py", "AddLayoutDescription(", "AddLayout("),
    "method of a slice node": ("SRCycLib/views.py", "RotateToVolumePlane", "RotateToVolumesPlane"),
    "event of the scene": ("SRCyc.py", "StartCloseEvent", "StartClosingEvent"),
    "method of a node": ("SRCycLib/parameters.py", "SetNodeReferenceID", "SetNodeReferenceId"),
    "method of a display node": ("SRCycLib/volumes.py", "SetWindowLevel(", "SetWindowAndLevel("),
    "method of a composite node": ("SRCycLib/views.py", "SetForegroundOpacity", "SetForegroundOpacities"),
    "method of a volume node": ("SRCycLib/volumes.py", "GetImageData", "GetImage"),
    "action of the client": ("SRCycLib/session.py", 'self.call("infer"', 'self.call("inferr"'),
    "result under another transform": ("SRCycLib/volumes.py", "original.GetTransformNodeID()", "None"),
    "result not told from scan": (
        "SRCycLib/views.py",
        "zip(rows, (original, result))",
        "zip(rows, (original,) * 2)",
    ),
    "fade without effect": ("SRCycLib/views.py", "min(max(share, 0.0), 1.0)", "0.5"),
    "views fitted before they have their sizes": (
        "SRCycLib/compare_panel.py",
        "            self._timer.start()",
        "            self._comparison.fit()",
    ),
    "views never fitted": ("SRCycLib/compare_panel.py", "self._comparison.fit()", "pass"),
    "planes that tell least, first": ("SRCycLib/views.py", "[1] == world)", "[1] != world)"),
    "layout from before not brought back": (
        "SRCycLib/views.py",
        "setLayout(self._before)",
        "setLayout(self._layouts.layout)",
    ),
    "uncertainty not over the fade": (
        "SRCycLib/views.py",
        "result.GetID() in shown[:2]",
        "result.GetID() == shown[0]",
    ),
    "scan not chosen": ("SRCycLib/resolve_panel.py", "likely = volumes.likely_scan()", "likely: Any = None"),
    "result offered as a scan": (
        "SRCycLib/volumes.py",
        "return [node.GetID() for node in nodes if",
        "return [node.GetID() for node in nodes if False and",
    ),
    "event of a node's coming": ("SRCyc.py", "scene.NodeAddedEvent", "scene.NodeAddEvent"),
    "range not said": ("SRCycLib/resolve_panel.py", "judgement if judgement else", "None if judgement else"),
    "Apply grey without a reason": (
        "SRCycLib/resolve_panel.py",
        "reasonLabel.visible = bool(reason)",
        "reasonLabel.visible = False",
    ),
    "parameter node not observed": ("SRCycLib/parameters.py", "_event: changed()", "_event: None"),
    "option not kept": ("SRCycLib/resolve_panel.py", "self._parameters.set(option, data(", "str(data("),
    "worker not killed with its launcher": (
        "SRCycLib/calls.py",
        "            kill(self._worker)",
        "            pass",
    ),
    "files removed before the end of the process": (
        "SRCycLib/calls.py",
        "if time.monotonic() < self._deadline:",
        "if False:",
    ),
    "map in another place of the hierarchy": (
        "SRCycLib/super_resolution.py",
        "volumes.put_beside(node, scan)",
        "pass",
    ),
    "sample data of another signature": ("SRCycLib/sample_data.py", "sampleName=name", "sampleTitle=name"),
}


def scenario(folder: Path, url: str, scan: Path, larger: Path) -> None:
    """What a user does: open, connect, super-resolve, compare, cancel, close the scene, leave."""
    import slicer

    import slicer_stand_in

    helpers = _conftest()
    session = slicer_stand_in.start()
    try:
        panel = helpers.Panel(session, folder)
        try:
            assert not panel.ui.applyButton.enabled and panel.ui.reasonLabel.visible
            assert len(slicer.modules.sampleDataSources["SRCyc"]) == 2
            panel.connect(url)
            node = slicer.util.loadVolume(str(scan), {"name": "scan"})
            panel.wait(lambda: panel.ui.inputSelector.currentNode() is node, "choose the scan", 2.0)
            panel.choose(panel.ui.modelComboBox, helpers.DEFAULT_MODEL)
            assert "6 slices" in panel.ui.rangeLabel.text
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
            study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
            hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
            turn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
            node.SetAndObserveTransformNodeID(turn.GetID())
            _cancel(panel, larger)
            panel.ui.inputSelector.setCurrentNode(node)
            panel.make_it_short()
            parameters = panel.widget.logic.getParameterNode()
            assert parameters.GetParameter("weights") == "tiny"
            parameters.SetParameter("uncertainty", "true")
            assert panel.ui.uncertaintyCheckBox.checked
            before = slicer.app.layoutManager().layout
            result = panel.apply()
            panel.settled()
            _look(panel, node, result, turn, study)
            panel.click(panel.ui.viewsBeforeButton)
            assert slicer.app.layoutManager().layout == before
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


def _look(panel: Any, scan: Any, result: Any, turn: Any, study: int) -> None:
    """See that scan and result are shown as they should be."""
    import slicer

    assert result.GetTransformNodeID() == turn.GetID()
    assert panel.ui.inputSelector.nodeCount() == 2, "neither a result nor a map is a scan"
    layouts = slicer.app.layoutManager()
    views = layouts.layoutLogic().GetViewNodes()
    nodes = [views.GetItemAsObject(row) for row in range(6)]
    assert [node.GetOrientation() for node in nodes] == 2 * ["Sagittal", "Coronal", "Axial"]
    composites = [layouts.sliceWidget(node.GetLayoutName()).mrmlSliceCompositeNode() for node in nodes]
    shown = [each.GetBackgroundVolumeID() for each in composites]
    assert shown == 3 * [scan.GetID()] + 3 * [result.GetID()]
    for node in nodes:
        assert _fills(node, scan)
    panel.click(panel.ui.fadeButton)
    panel.ui.fadeSlider.value = 0.25
    assert {each.GetForegroundOpacity() for each in composites} >= {0.25}
    uncertainty = result.GetNodeReference("SRCyc.Uncertainty")
    panel.ui.uncertaintySlider.value = 0.5
    assert composites[0].GetForegroundVolumeID() == uncertainty.GetID()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(uncertainty)) == study


def _fills(node: Any, volume: Any) -> bool:
    import vtk

    inverse, bounds = vtk.vtkMatrix4x4(), [0.0] * 6
    vtk.vtkMatrix4x4.Invert(node.GetSliceToRAS(), inverse)
    volume.GetSliceBounds(bounds, inverse)
    field = node.GetFieldOfView()
    shares = [max(-bounds[2 * axis], bounds[2 * axis + 1]) / (field[axis] / 2) for axis in (0, 1)]
    return abs(max(shares) - 1.0) < 1e-3


def _cancel(panel: Any, larger: Path) -> None:
    """Begin something long, and see that nothing is left when it is cancelled: on Windows open files stay."""
    import slicer

    other = slicer.util.loadVolume(str(larger), {"name": "larger", "show": False})
    panel.ui.inputSelector.setCurrentNode(other)
    panel.make_it_long()
    panel.click(panel.ui.applyButton)
    panel.wait(lambda: "Computing" in panel.ui.statusLabel.text, "compute")
    (worker,) = [
        each
        for each in psutil.Process().children(recursive=True)
        if "SRCycLib.worker" in " ".join(each.cmdline()) and each.name() not in ("sh", "PythonSlicer")
    ]
    remove, alive = shutil.rmtree, []

    def watched(folder: Any, **options: Any) -> None:
        alive.append(not has_ended(worker))
        remove(folder, **options)

    shutil.rmtree = watched  # type: ignore[assignment]
    # As on Windows, where a process ends some time after it was told to.
    remote = sys.modules["SRCycLib.calls"]
    kill = remote.kill
    remote.kill = lambda pid: threading.Timer(0.3, kill, (pid,)).start()
    try:
        time.sleep(0.6)
        # As one deep in a library: it does not see by itself that nobody waits.
        worker.suspend()
        panel.click(panel.ui.applyButton)
        psutil.wait_procs([worker], timeout=10.0)
        ended = has_ended(worker)
        panel.leaves_nothing()
    finally:
        shutil.rmtree, remote.kill = remove, kill
        with contextlib.suppress(psutil.Error):
            worker.kill()
    assert ended and not any(alive)


def _conftest() -> Any:
    spec = importlib.util.spec_from_file_location("slicer_conftest", Path(__file__).with_name("conftest.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(folder: Path, url: str, scan: Path, larger: Path) -> None:
    """Run the scenario with a copy for each mutation, and write what came of it."""
    outcome = {}
    for number, (name, (file, right, wrong)) in enumerate(MUTATIONS.items()):
        copy = folder / str(number) / "SRCyc"
        shutil.copytree(MODULE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy.parent / "sample-data").symlink_to(ROOT / "sample-data")
        text = (copy / file).read_text(encoding="utf-8")
        assert right in text, f"{name}: {file} has no {right!r} any more"
        (copy / file).write_text(text.replace(right, wrong) if right else text, encoding="utf-8")
        try:
            scenario(copy, url, scan, larger)
        except Exception as error:  # noqa: BLE001 - whatever it is: it was noticed
            outcome[name] = f"{type(error).__name__}: {error}"
        else:
            outcome[name] = ""
    (folder / "outcome.json").write_text(json.dumps(outcome))


@pytest.fixture(scope="module")
def outcome(
    srcyc_server: Any, patient: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What came of each mutation; '' if nobody noticed it."""
    for package in ("slicer_core", "PySide6"):
        pytest.importorskip(package, reason=f"{package}: no wheel for this Python, or not installed")
    folder = tmp_path_factory.mktemp("mutants")
    # Wider than high from each side, as heads are: fitted too early, it is cropped.
    scan = save_head(folder / "wide.nii.gz", (28, 40, 6))
    here = [str(ROOT / "tests"), str(ROOT / "tests" / "harness")]
    path = os.pathsep.join([*here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, __file__, str(folder), srcyc_server.url, str(scan), str(patient[0])],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "outcome.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name != "nothing"])
def test_a_mistake_is_noticed(outcome: dict[str, str], name: str) -> None:
    assert outcome[name], f"a wrong {name} goes unnoticed"


def test_without_a_mistake_all_is_well(outcome: dict[str, str]) -> None:
    assert outcome["nothing"] == ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
