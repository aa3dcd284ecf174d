"""The application: scene, logics, views, settings, modules."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import slicer
import slicer.util
import vtk
from PySide6.QtCore import QEventLoop, QObject, QProcessEnvironment, QSettings, QTimer, Signal
from PySide6.QtGui import QFont, QFontDatabase
from PySide6.QtWidgets import QApplication, QMainWindow, QWidget

from . import mrml_widgets, pythonqt, qt_modules, sample_data, scripted_modules
from .dicom import ctkDICOMDatabase
from .layouts import qMRMLLayoutManager
from .scripted_modules import qSlicerScriptedLoadableModule, qSlicerScriptedLoadableModuleWidget

#: The version that the stand-in says it is: the oldest that the module supports.
VERSION = (5, 6)

#: What the application's own launcher sets, and startupEnvironment() leaves out.
_LAUNCHER = {"SLICER_HOME": "/slicer-stand-in", "PYTHONHOME_OF_SLICER": "/slicer-stand-in/lib/Python"}


class qSlicerCoreIOManager(QObject):
    """Loads volumes, through Slicer's own logic."""

    def fileType(self, _file: str) -> str:
        return "VolumeFile"

    def loadNodes(
        self, kind: str, properties: dict[str, Any], nodes: Any = None, messages: Any = None
    ) -> bool:
        if kind != "VolumeFile":
            raise NotImplementedError(f"the stand-in loads no {kind}")
        file = properties["fileName"]
        name = properties.get("name") or Path(file).name.partition(".")[0]
        logic = slicer.app.applicationLogic().GetModuleLogic("Volumes")
        node = (
            logic.AddArchetypeVolume(file, name, 1 if properties.get("labelmap") else 0)
            if Path(file).exists()
            else None
        )
        if node is None:
            return False
        if nodes is not None:
            nodes.AddItem(node)
        if properties.get("show", True):
            slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(node.GetID())
            slicer.app.applicationLogic().PropagateVolumeSelection()
        return True


class qSlicerModuleManager(QObject):
    """Knows the modules."""

    SIGNALS = {
        "moduleLoaded(QString)": "_loaded",
        "moduleAboutToBeUnloaded(QString)": "_about_to_be_unloaded",
        "moduleUnloaded(QString)": "_unloaded",
    }
    _loaded = Signal(object)
    _about_to_be_unloaded = Signal(object)
    _unloaded = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._modules: dict[str, qSlicerScriptedLoadableModule] = {}

    def module(self, name: str) -> qSlicerScriptedLoadableModule | None:
        return self._modules.get(name)

    def modulesNames(self) -> tuple[str, ...]:
        return tuple(self._modules)

    def isLoaded(self, name: str) -> bool:
        return name in self._modules


class qSlicerApplication(QApplication):
    """``slicer.app``."""

    SIGNALS = {
        "mrmlSceneChanged(vtkMRMLScene*)": "_scene_changed",
        "startupCompleted()": "_startup_completed",
        "renderPaused(bool)": "_render_paused",
    }
    _scene_changed = Signal(object)
    _startup_completed = Signal(object)
    _render_paused = Signal(object)

    def __init__(self) -> None:
        super().__init__(["Slicer"])
        self._stage: Any = None
        self._paused = 0

    # -- what the application says of itself -------------------------------------------------------------------------

    @property
    def slicerHome(self) -> str:
        return str(self._stage.folder / "home")

    @property
    def temporaryPath(self) -> str:
        return str(self._stage.folder / "temporary")

    @property
    def cachePath(self) -> str:
        return str(self._stage.folder / "cache")

    @property
    def defaultScenePath(self) -> str:
        return str(self._stage.folder / "home")

    @property
    def majorVersion(self) -> int:
        return VERSION[0]

    @property
    def minorVersion(self) -> int:
        return VERSION[1]

    @property
    def mainApplicationMajorVersion(self) -> int:
        return VERSION[0]

    @property
    def mainApplicationMinorVersion(self) -> int:
        return VERSION[1]

    @property
    def mainApplicationName(self) -> str:
        return "Slicer"

    @property
    def revision(self) -> str:
        return "stand-in"

    @property
    def isInstalled(self) -> bool:
        return True

    @property
    def os(self) -> str:
        return {"win32": "win", "darwin": "macosx"}.get(sys.platform, "linux")

    @property
    def launcherExecutableFilePath(self) -> str:
        return str(self._stage.folder / "home" / "Slicer")

    @property
    def documentationBaseUrl(self) -> str:
        return "https://slicer.readthedocs.io/en/5.6"

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}/user_guide/modules/{name.lower()}.html"

    def testingEnabled(self) -> bool:
        return False

    def startupEnvironment(self) -> QProcessEnvironment:
        environment = QProcessEnvironment()
        for name, value in self._stage.environment.items():
            environment.insert(name, value)
        return environment

    def environment(self) -> QProcessEnvironment:
        return QProcessEnvironment.systemEnvironment()

    def settings(self) -> QSettings:
        return QSettings()

    def userSettings(self) -> QSettings:
        return QSettings()

    # -- its parts ---------------------------------------------------------------------------------------------------

    def mrmlScene(self) -> Any:
        return self._stage.scene

    def applicationLogic(self) -> Any:
        return self._stage.logic

    def moduleLogic(self, name: str) -> Any:
        return self._stage.logic.GetModuleLogic(name)

    def moduleManager(self) -> qSlicerModuleManager:
        return self._stage.modules  # type: ignore[no-any-return]

    def coreIOManager(self) -> qSlicerCoreIOManager:
        return self._stage.io  # type: ignore[no-any-return]

    def layoutManager(self) -> qMRMLLayoutManager:
        return self._stage.layouts  # type: ignore[no-any-return]

    def mainWindow(self) -> QMainWindow:
        return self._stage.window  # type: ignore[no-any-return]

    def setRenderPaused(self, paused: bool) -> None:
        self._paused += 1 if paused else -1

    def pauseRender(self) -> None:
        self.setRenderPaused(True)

    def resumeRender(self) -> None:
        self.setRenderPaused(False)


class _Modules(ModuleType):
    """``slicer.modules``: one attribute for each module that is loaded."""


def _register_fonts(application: QApplication) -> None:
    """Qt brings no fonts along, and the off-screen platform finds none."""
    try:
        import matplotlib
    except ImportError:
        return
    for file in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVuSans*.ttf")):
        QFontDatabase.addApplicationFont(str(file))
    application.setFont(QFont("DejaVu Sans", 9))


@vtk.calldata_type(vtk.VTK_OBJECT)
def _put_into_hierarchy(scene: Any, _event: str, node: Any) -> None:
    """Give each volume its item in the subject hierarchy, as the application's plugins do."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is not None and node.IsA("vtkMRMLVolumeNode"):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


class StandIn:
    """One session of the stand-in: from start() to close().

    Attributes:
        app: ``slicer.app``.
        scene: ``slicer.mrmlScene``, a new one in each session.
        folder: everything that the application would write lies here.
    """

    def __init__(self) -> None:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        pythonqt.check()
        pythonqt.install()
        qt_modules.install()
        self.environment = dict(os.environ)
        self.folder = Path(tempfile.mkdtemp(prefix="slicer-stand-in-"))
        for name in ("temporary", "cache", "home", "bin", "settings"):
            (self.folder / name).mkdir()
        self._path_before = os.environ["PATH"]
        self._search_path_before = list(sys.path)
        self._make_python()
        os.environ.update(_LAUNCHER)
        self.app = QApplication.instance() or qSlicerApplication()
        if not isinstance(self.app, qSlicerApplication):
            raise RuntimeError("another QApplication runs in this process")
        if not QFontDatabase.families():
            _register_fonts(self.app)
        self.app.setApplicationName("Slicer")
        self.app.setOrganizationName("NA-MIC")
        self.app.setQuitOnLastWindowClosed(False)
        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        for scope in (QSettings.Scope.UserScope, QSettings.Scope.SystemScope):
            QSettings.setPath(QSettings.Format.IniFormat, scope, str(self.folder / "settings"))
        self.app._stage = self
        self._started = False
        self._errors = len(pythonqt.errors)
        self._excepthook = sys.excepthook
        sys.excepthook = self._hear
        self._complete_slicer()
        self._make_scene()
        self.window = QMainWindow()
        self.window.setObjectName("qSlicerMainWindow")

    def _make_python(self) -> None:
        """Put the program PythonSlicer on the path: a launcher, whose child is the Python.

        As with the application's own, who kills the launcher does not kill the child.
        """
        program = self.folder / "bin" / "PythonSlicer"
        program.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        os.environ["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def _complete_slicer(self) -> None:
        """Add what slicer-core lacks to the module `slicer`."""
        slicer.app = self.app
        slicer.modules = _Modules("slicer.modules")
        slicer.selfTests = {}
        slicer.dicomDatabase = ctkDICOMDatabase()
        for kind in (
            *mrml_widgets.WIDGETS.values(),
            qSlicerScriptedLoadableModule,
            qSlicerScriptedLoadableModuleWidget,
        ):
            setattr(slicer, kind.__name__, kind)
        bases = ModuleType("slicer.ScriptedLoadableModule")
        bases.__dict__.update(scripted_modules.BASES, __all__=list(scripted_modules.BASES))
        i18n = ModuleType("slicer.i18n")
        i18n.tr = lambda text: text  # type: ignore[attr-defined]
        i18n.translate = lambda _context, text: text  # type: ignore[attr-defined]
        sys.modules["SampleData"] = sample_data.module()
        for name, module in (("ScriptedLoadableModule", bases), ("i18n", i18n), ("modules", slicer.modules)):
            sys.modules[f"slicer.{name}"] = module
            setattr(slicer, name, module)

    def _make_scene(self) -> None:
        self.scene = slicer.mrmlScene = slicer.vtkMRMLScene()
        self.logic = slicer.vtkSlicerApplicationLogic()
        self.logic.SetMRMLScene(self.scene)
        self._logics = {
            "Colors": slicer.vtkMRMLColorLogic(),
            "Volumes": slicer.vtkSlicerVolumesLogic(),
            "SubjectHierarchy": slicer.vtkSlicerSubjectHierarchyModuleLogic(),
            "Plots": slicer.vtkSlicerPlotsLogic(),
            "Tables": slicer.vtkSlicerTablesLogic(),
        }
        for name, logic in self._logics.items():
            logic.SetMRMLApplicationLogic(self.logic)
            logic.SetMRMLScene(self.scene)
            self.logic.SetModuleLogic(name, logic)
            setattr(slicer.modules, name.lower(), SimpleNamespace(name=name, logic=lambda logic=logic: logic))
        self._in_hierarchy = self.scene.AddObserver(self.scene.NodeAddedEvent, _put_into_hierarchy)
        self.modules = qSlicerModuleManager()
        self.io = qSlicerCoreIOManager()
        self.layouts = qMRMLLayoutManager(self.scene, self.logic)

    # -- what tests do -----------------------------------------------------------------------------------------------

    def load_module(self, folder: Path | str) -> qSlicerScriptedLoadableModuleWidget:
        """Load a module as the application does when its user chooses it, and show its panel.

        Args:
            folder: holds NAME.py, where NAME is the folder's own name.
        """
        folder = Path(folder).resolve()
        _forget_modules_elsewhere(folder)
        module = qSlicerScriptedLoadableModule(folder.name, folder / f"{folder.name}.py")
        self.modules._modules[folder.name] = module
        module._load()
        self.modules._loaded.emit(folder.name)
        if not self._started:
            # The application loads all modules, says so, and then shows the one that its user chooses.
            self._started = True
            self.app._startup_completed.emit(None)
        panel = module.widgetRepresentation()
        panel.show()
        panel.enter()
        self.process_events()
        return panel

    def process_events(self) -> None:
        """Let Qt do what is due, in an event loop as the application's: without one Qt deletes dialogs too early."""
        loop = QEventLoop()
        QTimer.singleShot(0, loop.quit)
        loop.exec()

    def in_event_loop(self, action: Callable[[], None]) -> None:
        """Do something as an event of the application's loop, and let Qt do what is due then."""
        raised: list[BaseException] = []
        loop = QEventLoop()

        def act() -> None:
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - raised again below
                raised.append(error)
            loop.quit()

        QTimer.singleShot(0, act)
        loop.exec()
        if raised:
            raise raised[0]
        self.process_events()

    def _hear(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """Keep what was raised in an observer of VTK, or in an event: both only print it."""
        pythonqt.errors.append(error)
        self._excepthook(kind, error, trace)

    def errors(self) -> list[BaseException]:
        """Give what was raised in slots, events and observers since the start."""
        return pythonqt.errors[self._errors :]

    def quit(self) -> None:
        """Do what the application does when its user quits it: say so, then unload the modules."""
        if self.modules._modules:
            self.app.aboutToQuit()
            for name, module in list(self.modules._modules.items()):
                self.modules._about_to_be_unloaded.emit(name)
                if module._representation is not None:
                    module._representation.hide()
                    module._representation.deleteLater()
                del self.modules._modules[name]
                self.modules._unloaded.emit(name)
            self.process_events()

    def close(self) -> None:
        """End the session and remove what it has written."""
        self.quit()
        self.scene.RemoveObserver(self._in_hierarchy)
        self.scene.Clear(1)
        self.layouts._close()
        self.window.deleteLater()
        self.process_events()
        for logic in self._logics.values():
            logic.SetMRMLScene(None)
        self.logic.SetMRMLScene(None)
        slicer.mrmlScene = None
        # The application itself lives on in the next session.
        pythonqt.disconnect_all(self.app)
        sys.excepthook = self._excepthook
        sys.path[:] = self._search_path_before
        os.environ["PATH"] = self._path_before
        for name in _LAUNCHER:
            os.environ.pop(name, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def top_level_widgets(self) -> list[QWidget]:
        return list(QApplication.topLevelWidgets())


def _forget_modules_elsewhere(folder: Path) -> None:
    """Forget imported Python modules of the names that a folder has, if they came from another one."""
    names = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in names:
            file = getattr(module, "__file__", None)
            if file is None or folder not in Path(file).resolve().parents:
                del sys.modules[name]
