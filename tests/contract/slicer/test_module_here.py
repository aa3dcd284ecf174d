"""The module as it is opened first: computing on this computer, by the real library in a process of its own."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

import lean_python
from ended import has_ended
from srcyc.models.model_file import DEFAULT_MODEL


@pytest.fixture
def in_slicer(
    stand_in: Any, open_panel: Callable[[], Any], scans: Any, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The panel, opened when a scan is loaded already; computing takes one core."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    load(scans.nifti, "scan")
    return open_panel()


def load(file: Path, name: str, show: bool = True) -> Any:
    import slicer

    return slicer.util.loadVolume(str(file), {"name": name, "show": show})


def workers() -> list[psutil.Process]:
    """Give the processes that the panel has started, children of launchers too."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words, status = " ".join(process.cmdline()), process.status()
        except psutil.Error:
            continue
        if "SRCycLib." in words and status != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


# -- two clicks ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_a_loaded_scan_to_the_result_by_one_click_in_the_module(
    in_slicer: Any, command_line: Callable[..., Any], scans: Any
) -> None:
    """The first click opens the module; then everything is chosen, and said."""
    import slicer

    ui = in_slicer.ui
    scan = ui.inputSelector.currentNode()
    assert scan.GetName() == "scan"
    assert ui.whereComboBox.currentText == "This computer"
    assert ui.modelComboBox.currentText == DEFAULT_MODEL
    assert "8 slices" in ui.rangeLabel.text and DEFAULT_MODEL in ui.rangeLabel.text
    assert ui.applyButton.enabled and not ui.reasonLabel.visible and not ui.messageLabel.visible

    result = in_slicer.apply()
    expected, _sidecar = command_line(scans.nifti, model=DEFAULT_MODEL)
    found = slicer.util.arrayFromVolume(result).transpose(2, 1, 0)
    np.testing.assert_allclose(found, expected.data[0], rtol=1e-5, atol=1e-3)
    assert result.GetNodeReference("SRCyc.Original") is scan
    # Segment Editor and the like begin with it; the next Apply still means the scan.
    assert slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID() == result.GetID()
    assert ui.inputSelector.currentNode() is scan
    assert "Model srcyc-fidelity" in ui.reportLabel.text
    # A small scan of few slices: the library warns, and that is seen in its colour.
    assert ui.messageLabel.visible == bool(ui.messageLabel.text)
    assert not ui.messageLabel.visible or "#664d03" in ui.messageLabel.styleSheet
    in_slicer.is_ready()


@pytest.mark.slow
def test_cancel_leaves_nothing_behind(in_slicer: Any, patient: tuple[Path, Path]) -> None:
    ui = in_slicer.ui
    ui.inputSelector.setCurrentNode(load(patient[0], "larger"))
    in_slicer.click(ui.uncertaintyCheckBox)
    in_slicer.click(ui.applyButton)
    in_slicer.wait(lambda: "Computing" in ui.statusLabel.text, "compute")
    (worker,) = [each for each in workers() if each.name() != "PythonSlicer" and each.name() != "sh"]
    time.sleep(0.6)  # a click in the first half second is the second one of a double click
    in_slicer.click(ui.applyButton)
    assert ui.applyButton.text == "Apply" and "Cancelled" in ui.statusLabel.text
    in_slicer.wait(lambda: has_ended(worker), "end the process")
    in_slicer.is_ready()
    assert workers() == [] and in_slicer.results() == []


def test_what_a_process_has_open_is_removed_after_its_end(
    in_slicer: Any, patient: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to remove open files: a patient's scan would stay behind."""
    remove, refused = shutil.rmtree, []

    def as_windows_does(folder: Any, ignore_errors: bool = False, **more: Any) -> None:
        for process in workers():
            # Its own output, or its request: the launcher's child has them open as long as it lives.
            files = [each.path for each in process.open_files()]
            if any(Path(folder) in Path(file).parents for file in files):
                refused.append(str(folder))
                return
        remove(folder, ignore_errors=ignore_errors, **more)

    monkeypatch.setattr(shutil, "rmtree", as_windows_does)
    ui = in_slicer.ui
    ui.inputSelector.setCurrentNode(load(patient[0], "larger"))
    in_slicer.click(ui.applyButton)
    in_slicer.wait(lambda: "Starting" in ui.statusLabel.text, "start")
    temporary = Path(in_slicer.session.folder) / "temporary"
    assert [path.name for path in temporary.rglob("*.nrrd")] == ["larger.nrrd"]
    in_slicer.widget.cleanup()
    assert list(temporary.iterdir()) == [], refused
    assert workers() == []


# -- what is missing -------------------------------------------------------------------------------------------------


def without_torch(in_slicer: Any, folder: Path) -> None:
    """Let Slicer's Python be one with what Slicer brings along, and nothing else."""
    import pydicom

    site = Path(pydicom.__file__).parents[1]
    wanted = ("numpy", "pydicom", "SimpleITK", "simpleitk", "typing_extensions")
    for path in site.iterdir():
        if path.name.lower().startswith(tuple(name.lower() for name in wanted)):
            (folder / path.name).symlink_to(path)
    program = Path(in_slicer.session.folder) / "bin" / "PythonSlicer"
    program.write_text(
        f'#!/bin/sh\necho The launcher.\nPYTHONPATH="{folder}" "{sys.executable}" -S "$@"\nexit $?\n'
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the launcher is a shell script here")
def test_it_asks_before_anything_is_installed(in_slicer: Any, tmp_path: Path) -> None:
    from PySide6.QtWidgets import QMessageBox

    without_torch(in_slicer, tmp_path)
    in_slicer.dialogs.answer = QMessageBox.StandardButton.No
    in_slicer.click(in_slicer.ui.applyButton)
    said = in_slicer.dialog()
    assert "torch" in said and "numpy" not in said
    in_slicer.wait(lambda: in_slicer.ui.applyButton.text == "Apply", "be ready again")
    assert "Nothing was installed" in in_slicer.ui.statusLabel.text
    assert not in_slicer.ui.messageLabel.visible, "to say no is no mistake"
    in_slicer.is_ready()


def python_slicer(in_slicer: Any, folder: Path, **answers: Any) -> None:
    """Let Slicer's Python be a program that gives fixed answers: to ``look``, ``pip`` and ``infer``."""
    for action, answer in answers.items():
        (folder / action).write_text(json.dumps(answer) + "\n")
    program = Path(in_slicer.session.folder) / "bin" / "PythonSlicer"
    program.write_text(
        "#!/bin/sh\nfor action in look pip infer; do\n"
        f'  if grep -q "\\"action\\": \\"$action\\"" "$3"; then exec cat "{folder}/$action"; fi\ndone\n'
    )


#: What a look at Slicer's Python tells.
WHOLE = {"installed": {}, "missing": [], "old": []}


@pytest.mark.skipif(sys.platform == "win32", reason="the launcher is a shell script here")
@pytest.mark.parametrize(
    ("answers", "says", "logs"),
    [
        ({}, "not full, and try once more", ""),
        ({"look": {"result": {**WHOLE, "old": ["numpy"]}}}, "lacks numpy", ""),
        ({"look": {"result": WHOLE}, "infer": {"error": "It broke.", "details": "why"}}, "It broke.", ""),
        ({"pip": {"result": {"code": 1, "said": "[Errno 28] no more"}}}, "disk is full", "no more"),
        ({"pip": {"result": {"code": 0, "said": "all is well"}}}, "torch>=2.6 could not", "all is well"),
    ],
)
def test_what_goes_wrong_on_this_computer_is_said(
    answers: dict[str, Any], says: str, logs: str, in_slicer: Any, tmp_path: Path
) -> None:
    installs = "pip" in answers
    python_slicer(
        in_slicer,
        tmp_path,
        **({"look": {"result": {**WHOLE, "missing": ["torch"]}}} if installs else {}),
        **answers,
    )
    in_slicer.click(in_slicer.ui.applyButton)
    assert not installs or "torch" in in_slicer.dialog()
    assert says in in_slicer.complaint()
    assert logs in in_slicer.ui.logText.plainText
    in_slicer.is_ready()


@pytest.mark.skipif(sys.platform == "win32", reason="the launcher is a shell script here")
def test_given_up_while_it_is_asked_and_when_it_is_answered(in_slicer: Any, tmp_path: Path) -> None:
    """The scene may be closed meanwhile: then nothing is installed, whatever is answered."""
    python_slicer(in_slicer, tmp_path, look={"result": {**WHOLE, "missing": ["torch"]}})
    session, asked = in_slicer.widget.logic.session, []

    def ask(question: str) -> bool:
        preparing.cancel()
        asked.append(question)
        return True

    preparing = session.prepare(ask, pytest.fail, pytest.fail, pytest.fail)
    in_slicer.wait(lambda: asked, "ask")
    in_slicer.leaves_nothing()
    assert "Installing" not in in_slicer.ui.logText.plainText
    # The answer is there, and nobody has heard it yet: nobody hears it any more.
    preparing = session.prepare(pytest.fail, pytest.fail, pytest.fail, pytest.fail)
    preparing._call._process.wait(60)
    preparing.cancel()
    in_slicer.leaves_nothing()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"OLDEST_PYTHON": (4, 0)}, "too old"),
        ({"library": lambda: None}, "not beside"),
        ({"models_of": lambda package: []}, "No model comes"),
    ],
)
def test_a_slicer_that_cannot_compute_says_so(
    change: dict[str, Any], says: str, in_slicer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SRCyc import Failure, SRCycLogic

    from SRCycLib import engine_needs

    for name, value in change.items():
        monkeypatch.setattr(engine_needs, name, value)
    scan = in_slicer.ui.inputSelector.currentNode()
    in_slicer.open()
    in_slicer.wait(lambda: says in in_slicer.ui.reasonLabel.text, "say why")
    assert not in_slicer.ui.applyButton.enabled
    logic = SRCycLogic()
    with pytest.raises(Failure, match=says):
        logic.process(scan)
    logic.close()


def test_a_python_that_cannot_be_run_is_said_and_leaves_nothing(in_slicer: Any) -> None:
    (Path(in_slicer.session.folder) / "bin" / "PythonSlicer").unlink()
    in_slicer.click(in_slicer.ui.applyButton)
    assert "PythonSlicer" in in_slicer.complaint()
    in_slicer.is_ready()


def test_the_time_to_go_is_said(in_slicer: Any) -> None:
    panel = in_slicer.widget._resolve
    panel._remaining = SimpleNamespace(seconds=lambda share: 4000.0)
    panel._progress("running", 0.5)
    assert "about 1 h 7 min to go" in in_slicer.ui.statusLabel.text


@pytest.mark.slow
def test_from_a_bare_slicer_to_the_result(
    in_slicer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled once, also while pip says nothing, as it does for minutes: there somebody listens who never answers."""
    ui, python = in_slicer.ui, lean_python.make_python(tmp_path)
    lean_python.launch(python, Path(in_slicer.session.folder) / "bin" / "PythonSlicer")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        in_slicer.click(ui.applyButton)
        assert "torch" in in_slicer.dialog()
        in_slicer.wait(lambda: select.select([silent], [], [], 0)[0], "run pip")
        assert "torch" in ui.statusLabel.text
        assert ui.progressBar.visible and not ui.reasonLabel.visible
        assert ui.applyButton.text == "Cancel" and ui.applyButton.enabled
        time.sleep(0.6)  # not the second click of a double click
        in_slicer.click(ui.applyButton)
    assert "Cancelled" in ui.statusLabel.text
    in_slicer.is_ready()
    assert workers() == []

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(lean_python.make_wheels(tmp_path / "wheels")))
    in_slicer.click(ui.applyButton)
    assert "torch" in in_slicer.dialog()
    in_slicer.wait(in_slicer.results, "install, and compute")
    assert ui.reportLabel.text
    in_slicer.is_ready()


def test_where_it_is_computed_is_kept_between_starts(in_slicer: Any, srcyc_server: Any) -> None:
    ui = in_slicer.ui
    in_slicer.choose(ui.whereComboBox, "server")
    assert not ui.applyButton.enabled and "server" in ui.reasonLabel.text
    assert ui.applyButton.toolTip == ui.reasonLabel.text
    assert not ui.advancedSection.collapsed, "its address stands there"
    in_slicer.connect(srcyc_server.url)
    assert ui.applyButton.enabled and ui.modelComboBox.currentText == "tiny"
    in_slicer.widget._train._show({"state": "stopped", "run": "mine", "message": "stopped."})
    in_slicer.choose(ui.whereComboBox, "engine")
    assert ui.modelComboBox.currentText == DEFAULT_MODEL
    in_slicer.choose(ui.whereComboBox, "server")
    assert "mine" in ui.trainStatusLabel.text, "what was told of a training since the connection"
    in_slicer.session.quit()

    in_slicer.open()
    ui = in_slicer.ui
    assert ui.whereComboBox.currentText == "A server"
    in_slicer.wait(lambda: ui.applyButton.enabled, "connect to the server of the last time by itself")
    assert ui.modelComboBox.currentText == "tiny"


# -- which scan ------------------------------------------------------------------------------------------------------


def test_the_likely_scan_is_chosen(in_slicer: Any, scans: Any) -> None:
    import slicer

    chosen = in_slicer.ui.inputSelector.currentNode

    def is_chosen(node: Any) -> None:
        in_slicer.session.process_events()
        in_slicer.session.process_events()
        assert chosen() is node, chosen()

    first = chosen()
    # The one loaded last, also while Slicer shows another; the one that Slicer shows, if it is told to.
    second = load(scans.nrrd, "second")
    is_chosen(second)
    for name, attribute in (("result", "SRCyc.Software"), ("map", "SRCyc.Map")):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        node.SetAttribute(attribute, "srcyc")
        slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(node.GetID())
        is_chosen(second)
    assert in_slicer.ui.inputSelector.nodeCount() == 2
    # What the user has chosen stays chosen.
    in_slicer.ui.inputSelector.setCurrentNode(first)
    load(scans.mha, "third")
    is_chosen(first)
    slicer.mrmlScene.RemoveNode(first)
    in_slicer.wait(lambda: chosen() is not None, "choose another one")


def test_before_a_scan_is_loaded_it_is_said_what_to_do(panel: Any, scans: Any) -> None:
    assert not panel.ui.applyButton.enabled
    assert "load a scan" in panel.ui.reasonLabel.text
    load(scans.nifti, "scan")
    panel.wait(lambda: panel.ui.applyButton.enabled, "see that it is there")
    assert not panel.ui.reasonLabel.visible


def test_a_scan_out_of_range_is_seen_before_anything_is_computed(in_slicer: Any, scans: Any) -> None:
    ui = in_slicer.ui
    assert "#0a3622" in ui.rangeLabel.styleSheet
    in_slicer.type(ui.spacingComboBox.lineEdit(), "0.1")
    assert "too far outside" in ui.rangeLabel.text and "#58151c" in ui.rangeLabel.styleSheet
    in_slicer.click(ui.forceCheckBox)
    assert "look at the result closely" in ui.rangeLabel.text and "#664d03" in ui.rangeLabel.styleSheet
    in_slicer.type(ui.spacingComboBox.lineEdit(), "isotropic")
    in_slicer.type(ui.thicknessLineEdit, "3")
    assert "3 mm, as stated" in ui.rangeLabel.text and "#0a3622" in ui.rangeLabel.styleSheet


def test_sample_scans_are_in_sample_data(in_slicer: Any) -> None:
    import SampleData

    sources = SampleData.SampleDataLogic.sampleDataSourcesByCategory("SRCyc")
    assert [source.nodeNames for source in sources] == [["ThickBrain1"], ["ThickBrain2"]]
    assert Path(sources[0].thumbnailFileName).is_file()
    node = SampleData.downloadSample("ThickBrain2")
    in_slicer.wait(lambda: in_slicer.ui.inputSelector.currentNode() is node, "choose it")
    assert "6.5 mm apart" in in_slicer.ui.rangeLabel.text


# -- the result ------------------------------------------------------------------------------------------------------


def test_a_result_is_replaced_by_another_one(connected: Any, scans: Any) -> None:
    import slicer

    connected.load(scans.nifti)
    connected.make_it_short()
    connected.click(connected.ui.uncertaintyCheckBox)
    first = connected.apply()
    first.SetName("kept")
    before = slicer.util.arrayFromVolume(first).copy()
    connected.click(connected.ui.uncertaintyCheckBox)
    connected.type(connected.ui.spacingComboBox.lineEdit(), "0.8")
    connected.ui.outputSelector.setCurrentNode(first)
    connected.click(connected.ui.applyButton)
    connected.wait(lambda: connected.ui.applyButton.text == "Apply", "come to an end")
    assert connected.results() == [], "no other one was made"
    assert first.GetName() == "kept" and first.GetModifiedSinceRead()
    assert slicer.util.arrayFromVolume(first).shape != before.shape
    assert first.GetSpacing()[2] == pytest.approx(0.8)
    # The map of the one before would be false.
    assert first.GetNodeReference("SRCyc.Uncertainty") is None
    assert not connected.ui.uncertaintySlider.enabled
    connected.is_ready()


@pytest.mark.slow
def test_a_script_waits_for_its_result(
    stand_in: Any, module_folder: Path, srcyc_server: Any, scans: Any, command_line: Callable[..., Any]
) -> None:
    import slicer

    stand_in.load_module(module_folder)
    from SRCyc import Failure, SRCycLogic

    scan = load(scans.nifti, "scan")
    logic = SRCycLogic()
    expected, _sidecar = command_line(scans.nifti)
    try:
        result, report = logic.process(scan, {"weights": "tiny"}, server=srcyc_server.url)
        found = slicer.util.arrayFromVolume(result).transpose(2, 1, 0)
        np.testing.assert_allclose(found, expected.data[0], rtol=1e-5, atol=1e-3)
        assert report["model"]["name"] == "tiny"
        again, _report = logic.process(scan, output=result, server=srcyc_server.url)
        assert again is result
        with pytest.raises(Failure, match="finer"):
            logic.process(scan, {"target_spacing": "finer"}, server=srcyc_server.url)
        with pytest.raises(Failure, match="in time"):
            logic.process(scan, server=srcyc_server.url, patience=0.0)
        with pytest.raises(Exception, match="is no result"):
            logic.process(scan, output=scan, server=srcyc_server.url)
    finally:
        logic.close()
    assert not list((stand_in.folder / "temporary").iterdir())


def test_the_module_lies_in_a_folder_of_any_depth(
    stand_in: Any, library: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    local_server = library("local_server")
    monkeypatch.setattr(local_server, "__file__", "/SRCycLib/local_server.py")
    assert local_server.find_studies() == ""
    (tmp_path / "srcyc").touch(mode=0o755)
    stand_in.environment["PATH"] = str(tmp_path)
    assert local_server.find_program() == str(tmp_path / "srcyc")
    (tmp_path / "sample-data").mkdir()
    deep = tmp_path / "Extensions" / "lib" / "Slicer-5.12" / "qt-scripted-modules" / "SRCycLib"
    monkeypatch.setattr(local_server, "__file__", str(deep / "local_server.py"))
    assert local_server.find_studies() == str(tmp_path / "sample-data")
    # The extension's own sample scans are nobody's studies folder: a server would write there.
    sample_data = library("sample_data")
    monkeypatch.setattr(sample_data, "__file__", str(deep / "sample_data.py"))
    monkeypatch.setattr(sample_data, "find_studies", local_server.find_studies)
    assert sample_data.folder() == tmp_path / "sample-data"
    (deep / "sample-data").mkdir(parents=True)
    assert sample_data.folder() == deep / "sample-data"
    assert local_server.find_studies() == str(tmp_path / "sample-data")
