"""The stand-in itself: it offers what the application has, and nothing else."""

from __future__ import annotations

import inspect
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ended import has_ended

UI = """<?xml version="1.0"?>
<ui version="4.0"><class>Small</class>
<widget class="qMRMLWidget" name="Small"><layout class="QVBoxLayout" name="all">
 <item><widget class="qMRMLNodeComboBox" name="volumeSelector">
  <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
  <property name="noneEnabled"><bool>true</bool></property></widget></item>
 <item><widget class="ctkCollapsibleButton" name="section"><property name="text"><string>More</string></property>
  <property name="collapsed"><bool>true</bool></property><layout class="QFormLayout" name="form">
  <item row="0" column="1"><widget class="ctkSliderWidget" name="slider">
   <property name="maximum"><double>2.0</double></property><property name="value"><double>0.5</double></property>
  </widget></item>
  <item row="1" column="1"><widget class="ctkPathLineEdit" name="path">
   <property name="filters"><set>ctkPathLineEdit::Dirs|ctkPathLineEdit::Readable</set></property></widget></item>
  </layout></widget></item>
 <item><widget class="QPushButton" name="button"><property name="text"><string>Press</string></property></widget></item>
 <item><widget class="QComboBox" name="box"><property name="editable"><bool>true</bool></property></widget></item>
</layout></widget>
<connections><connection><sender>Small</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>volumeSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>
"""

CODE = """
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin


class Small(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Small")
        parent.categories = ["Testing"]


class SmallWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.said = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/Small.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.ui.button.connect("clicked(bool)", self.pressed)
        self.ui.volumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.said.append)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.closes)

    def pressed(self):
        self.said.append("pressed")

    def closes(self, caller, event):
        self.said.append("closes")

    def cleanup(self):
        self.removeObservers()
        self.said.append("cleaned up")
"""


def make(folder: Path, code: str = CODE, ui: str = UI) -> Path:
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Small.py").write_text(code)
    (folder / "Resources" / "UI" / "Small.ui").write_text(ui)
    return folder


@pytest.fixture
def small(stand_in: Any, tmp_path: Path) -> Iterator[Any]:
    yield stand_in.load_module(make(tmp_path / "Small")).self()


def test_a_module_is_loaded_used_and_unloaded(stand_in: Any, small: Any) -> None:
    import slicer

    assert slicer.modules.small.title == "Small"
    assert slicer.modules.SmallWidget is small
    assert slicer.util.getModuleWidget("Small") is small
    small.ui.button.click()
    assert small.said == ["pressed"]
    slicer.mrmlScene.Clear(0)
    assert small.said[-1] == "closes"
    said = small.said
    stand_in.quit()
    assert said[-1] == "cleaned up"
    slicer.mrmlScene.Clear(0)
    assert said[-1] == "cleaned up"


def test_properties_are_attributes(small: Any) -> None:
    ui = small.ui
    assert ui.button.text == "Press" and ui.button.enabled and ui.button.name == "button"
    ui.button.text = "Push"
    ui.button.enabled = False
    assert ui.button.text == "Push" and not ui.button.enabled
    ui.box.addItem("one", "1")
    assert ui.box.count == 1 and ui.box.currentText == "one" and ui.box.itemData(0) == "1"
    with pytest.raises(TypeError):
        ui.button.text()
    assert ui.section.collapsed and not ui.slider.visible
    ui.section.collapsed = False
    assert ui.slider.visible
    assert (ui.slider.value, ui.slider.maximum) == (0.5, 2.0)
    assert ui.path.filters == ui.path.Dirs | ui.path.Readable


@pytest.mark.parametrize(
    "mistake",
    [
        "ui.button.txt",
        "ui.button.setTxt('x')",
        "setattr(ui.button, 'txt', 'x')",
        "setattr(ui.button, 'enabled', object())",
        "ui.button.connect('clikced(bool)', print)",
        "ui.button.connect('clicked(int)', print)",
        "ui.button.clikced.connect(print)",
        "ui.button.clicked.emit(True)",
        "ui.button.connect('clicked(bool)', 3)",
        "ui.volumeSelector.connect('currentNodeChanged(vtkMRMLVolumeNode*)', print)",
        "ui.volumeSelector.setCurrentNod(None)",
        "setattr(ui.volumeSelector, 'nodeType', 'x')",
        "ui.slider.connect('valueChanged(int)', print)",
        "setattr(ui.slider, 'step', 1)",
        "ui.nothing",
        "slicer.app.layoutManger()",
        "slicer.app.temporaryPath()",
        "slicer.app.layoutManager().setLayoutt(3)",
        "slicer.app.layoutManager().setLayout(987654)",
        "slicer.mrmlScene.AddNewNodeOfClass('vtkMRMLScalarVolumeNode')",
        "slicer.modules.nothing",
        "qt.QPushButon",
        "qt.Signal",
        "ctk.ctkRangeWidget",
        "setattr(slicer.modules.small, 'titel', 'x')",
        "setattr(slicer.modules.small, 'contributors', 'me')",
    ],
)
def test_a_mistake_raises(small: Any, mistake: str) -> None:
    import ctk
    import qt
    import slicer

    names = {"ui": small.ui, "slicer": slicer, "qt": qt, "ctk": ctk}
    with pytest.raises((AttributeError, TypeError, ValueError)):
        eval(mistake, names)  # noqa: S307 - the mistakes above


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('class="QPushButton"', 'class="QPushBotton"'),
        ('class="ctkSliderWidget"', 'class="ctkSlidrWidget"'),
        ('name="text"><string>Press', 'name="txt"><string>Press'),
        ('name="maximum"', 'name="maxmum"'),
        ("ctkPathLineEdit::Dirs", "ctkPathLineEdit::Folders"),
        ("mrmlSceneChanged(", "mrmlScneChanged("),
        ("<slot>setMRMLScene(", "<slot>setScene("),
        ("<receiver>volumeSelector", "<receiver>selector"),
    ],
)
def test_a_mistake_in_the_ui_file_raises(stand_in: Any, tmp_path: Path, right: str, wrong: str) -> None:
    assert right in UI
    with pytest.raises((AttributeError, RuntimeError)):
        stand_in.load_module(make(tmp_path / "Small", ui=UI.replace(right, wrong, 1)))


def test_what_is_raised_in_a_slot_or_observer_is_kept(stand_in: Any, small: Any) -> None:
    import slicer

    from slicer_stand_in import pythonqt

    def fails(*_arguments: Any) -> None:
        raise ValueError("on purpose")

    small.ui.button.connect("clicked(bool)", fails)
    small.ui.button.click()
    tag = slicer.mrmlScene.AddObserver(slicer.mrmlScene.NodeAddedEvent, fails)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    slicer.mrmlScene.RemoveObserver(tag)
    assert [str(error) for error in stand_in.errors()] == ["on purpose", "on purpose"]
    del pythonqt.errors[-2:]


def test_a_node_selector_follows_the_scene(small: Any) -> None:
    import slicer

    selector, said = small.ui.volumeSelector, small.said
    assert selector.enabled and selector.currentNode() is None and selector.nodeCount() == 0
    first, second = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "ab")
    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    hidden = slicer.vtkMRMLScalarVolumeNode()
    hidden.SetHideFromEditors(True)
    slicer.mrmlScene.AddNode(hidden)
    # A label map is a scalar volume to MRML.
    assert selector.nodeCount() == 3
    selector.showChildNodeTypes = False
    assert selector.nodeCount() == 2
    assert selector.currentNode() is None, "none is a choice here"
    selector.setCurrentNode(second)
    assert selector.currentNode() is second and said == [second]
    selector.addAttribute("vtkMRMLScalarVolumeNode", "mark")
    assert selector.nodeCount() == 0 and selector.currentNode() is None
    first.SetAttribute("mark", "1")
    selector.removeAttribute("vtkMRMLScalarVolumeNode", "mark")
    selector.setCurrentNode(first)
    slicer.mrmlScene.Clear(0)
    assert selector.currentNode() is None and selector.nodeCount() == 0
    assert label is not None


def test_layouts_are_slicer_s_own(stand_in: Any) -> None:
    import slicer

    layouts = slicer.app.layoutManager()
    assert {"Red", "Green", "Yellow"} <= set(layouts.sliceViewNames())
    layouts.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutThreeOverThreeView)
    assert len(layouts.sliceViewNames()) == 6
    red = layouts.sliceWidget("Red")
    assert red.mrmlSliceNode().GetClassName() == "vtkMRMLSliceNode"
    assert red.sliceLogic().GetSliceCompositeNode() is red.mrmlSliceCompositeNode()
    assert layouts.mrmlSliceLogics().GetNumberOfItems() == 6


def test_views_get_their_sizes_in_a_later_event(stand_in: Any) -> None:
    """As in the application: who fits in the event of setLayout() fits to sizes that do not last."""
    import slicer

    layouts = slicer.app.layoutManager()
    red = layouts.sliceWidget("Red").mrmlSliceNode()
    assert red.GetDimensions() == (600, 350, 1)
    layouts.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutThreeOverThreeView)
    assert red.GetDimensions() == (600, 350, 1)
    red.SetFieldOfView(300.0, 175.0, 1.0)
    stand_in.process_events()
    assert red.GetDimensions() == (400, 350, 1)
    assert red.GetFieldOfView()[:2] == pytest.approx((200.0, 175.0)), "a third of the width is cropped"
    assert layouts.sliceWidget("Yellow+").mrmlSliceNode().GetDimensions() == (400, 350, 1)


def test_the_child_of_slicer_s_python_outlives_its_launcher(stand_in: Any) -> None:
    """As in the application: PythonSlicer is not the Python that works, and to kill it does not end that."""
    process = subprocess.Popen(
        ["PythonSlicer", "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.stdout.close()
    try:
        assert child.pid != process.pid
        process.kill()
        process.wait(60)
        assert not has_ended(child)
    finally:
        child.kill()


def test_hidden_nodes_are_not_offered(small: Any) -> None:
    import slicer

    first, second = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "ab")
    selector = small.ui.volumeSelector
    selector.setCurrentNode(second)
    selector.sortFilterProxyModel().hiddenNodeIDs = [second.GetID()]
    assert selector.nodeCount() == 1 and selector.nodeFromIndex(0) is first
    assert selector.currentNode() is not second
    with pytest.raises(AttributeError):
        selector.sortFilterProxyModel().hiddenNodeIds = []


def test_nothing_is_written_outside_its_folder(stand_in: Any) -> None:
    import qt
    import slicer

    qt.QSettings().setValue("SRCyc/test", "kept")
    assert qt.QSettings().value("SRCyc/test") == "kept"
    for path in (slicer.app.temporaryPath, qt.QSettings().fileName()):
        assert Path(path).resolve().is_relative_to(stand_in.folder.resolve())


def test_a_process_of_slicer_s_python(stand_in: Any) -> None:
    done = subprocess.run(
        ["PythonSlicer", "-c", "import sys; print(sys.version_info[0])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3\n"
    import slicer

    assert "SLICER_HOME" in os.environ
    environment = slicer.util.startupEnvironment()
    assert "SLICER_HOME" not in environment and environment["PATH"]


def test_a_process_of_qt(stand_in: Any) -> None:
    import qt

    said: list[bytes] = []
    process = qt.QProcess()
    process.connect(
        "readyReadStandardOutput()", lambda: said.append(bytes(process.readAllStandardOutput().data()))
    )
    process.start("PythonSlicer", ["-c", "print('hello')"])
    end = time.monotonic() + 60
    while process.state() != qt.QProcess.NotRunning and time.monotonic() < end:
        stand_in.process_events()
    assert b"".join(said).strip() == b"hello"


def test_sessions_do_not_share_anything(tmp_path: Path, stand_in: Any) -> None:
    import qt
    import slicer

    import slicer_stand_in

    scene, folder = slicer.mrmlScene, stand_in.folder
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "left behind")
    qt.QSettings().setValue("SRCyc/test", "left behind")
    stand_in.load_module(make(tmp_path / "Small"))
    another = slicer_stand_in.start()
    assert not folder.exists()
    assert slicer.mrmlScene is not scene
    assert slicer.mrmlScene.GetFirstNodeByName("left behind") is None
    assert qt.QSettings().value("SRCyc/test") is None
    assert not hasattr(slicer.modules, "small")
    assert another.folder.exists()


# -- the table of names ----------------------------------------------------------------------------------------------


def _classes() -> dict[str, type]:
    import slicer_stand_in.application as application
    from slicer_stand_in import ctk_widgets, dicom, layouts, mrml_widgets, scripted_modules

    modules = (application, ctk_widgets, dicom, layouts, mrml_widgets, scripted_modules)
    found = {name: kind for module in modules for name, kind in vars(module).items() if inspect.isclass(kind)}
    return {name: kind for name, kind in found.items() if name.startswith(("q", "ctk"))}


def test_every_class_is_in_the_table_and_offers_no_more(stand_in: Any) -> None:
    from slicer_stand_in.headers import HEADERS

    classes = _classes()
    assert set(classes) == set(HEADERS)
    for name, kind in classes.items():
        header = HEADERS[name]
        offered = {key for key in vars(kind) if not key.startswith("_")} - {"SIGNALS", "staticMetaObject"}
        # Qt calls these; they are no names of the class's own.
        events = {key for key in offered if key.endswith("Event") or key in ("event", "hitButton")}
        declared = header.properties | header.methods | set(header.enums)
        assert offered - events <= declared, (name, offered - events - declared)
        assert declared <= offered, (name, declared - offered)
        assert set(getattr(kind, "SIGNALS", {})) >= header.signals
        assert set(vars(kind).get("SIGNALS", {})) <= header.signals
        assert header.base in [base.__name__ for base in kind.__mro__], (name, header.base)
        assert len(header.commit) == 40 and header.path.endswith(".h")
