"""What a scripted module derives from, and the objects that the application makes of it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
from PySide6.QtCore import QObject
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import QVBoxLayout, QWidget

from .mrml_widgets import qMRMLWidget

_log = logging.getLogger(__name__)


class ScriptedLoadableModule:
    """Base of the class that describes a module."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        icon = Path(parent.path).parent / "Resources" / "Icons" / f"{self.moduleName}.png"
        if icon.is_file():
            parent.icon = QIcon(str(icon))
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        url = (
            slicer.app.documentationBaseUrl + docPage
            if docPage
            else slicer.app.moduleDocumentationUrl(self.moduleName)
        )
        return f'<p><a href="{url}">{url}</a></p>'

    def runTest(self, msec: int = 100, **kwargs: Any) -> None:
        case = getattr(importlib.import_module(type(self).__module__), f"{self.moduleName}Test")()
        case.messageDelay = msec
        case.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """Base of a module's panel. Mind: it passes no arguments on, and calls the next class's __init__ first."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        if parent is None:
            self.parent = qMRMLWidget()
            self.parent.setLayout(QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        else:
            self.parent = parent
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect(
            "moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded
        )

    def resourcePath(self, filename: str) -> str:
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self) -> None:
        """Nothing more without the developer mode."""

    def cleanup(self) -> None:
        """For derived classes."""

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect(
                "moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded
            )


class ScriptedLoadableModuleLogic:
    """Base of a module's logic: finds or makes the parameter node."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                # Closing the scene empties the node.
                node.SetAttribute("ModuleName", self.moduleName)
                return node
        elif nodes := self.getAllParameterNodes():
            return nodes[0]
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[Any]:
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Base of a module's self-test."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.enableScreenshots = False
        self.screenshotScaleFactor = 1.0

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        _log.info(message)
        slicer.app.processEvents()

    def runTest(self) -> None:
        _log.warning("No test is defined in %s", type(self).__name__)


BASES = {
    kind.__name__: kind
    for kind in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
}


class qSlicerScriptedLoadableModule(QObject):
    """A module as the application knows it."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__()
        self._values: dict[str, Any] = {
            "title": "",
            "categories": (),
            "contributors": (),
            "associatedNodeTypes": (),
            "helpText": "",
            "acknowledgementText": "",
            "extensions": {},
            "icon": QIcon(),
            "hidden": False,
            "dependencies": (),
            "index": -1,
        }
        self._name = name
        self._path = str(path)
        self._code: ModuleType | None = None
        self._representation: qSlicerScriptedLoadableModuleWidget | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def path(self) -> str:
        return self._path

    @property
    def defaultDocumentationLink(self) -> str:
        return ""

    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    def logic(self) -> Any:
        logic = slicer.vtkSlicerScriptedLoadableModuleLogic()
        logic.SetMRMLScene(slicer.mrmlScene)
        return logic

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        if self._representation is None:
            self._representation = self.createNewWidgetRepresentation()
        return self._representation

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        representation = qSlicerScriptedLoadableModuleWidget()
        representation.setMRMLScene(slicer.mrmlScene)
        representation._python = getattr(self._code, f"{self._name}Widget")(representation)
        representation._python.setup()
        setattr(slicer.modules, f"{self._name}Widget", representation._python)
        return representation

    def _load(self) -> None:
        """Import the module's file, as the application does: its folder is on the search path, its name is its own."""
        folder = str(Path(self._path).parent)
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(self._name, self._path)
        assert spec and spec.loader
        self._code = sys.modules[self._name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._code)
        instance = getattr(self._code, self._name)(self)
        setattr(slicer.modules, f"{self._name}Instance", instance)
        setattr(slicer.modules, self._name.lower(), self)


#: Types that the properties of a module take; PythonQt converts nothing else to them.
_TYPES = {
    "title": str,
    "categories": (list, tuple),
    "contributors": (list, tuple),
    "associatedNodeTypes": (list, tuple),
    "helpText": str,
    "acknowledgementText": str,
    "extensions": dict,
    "icon": QIcon,
    "hidden": bool,
    "dependencies": (list, tuple),
    "index": int,
}


def _described(name: str) -> property:
    def write(self: Any, value: Any) -> None:
        if not isinstance(value, _TYPES[name]):  # type: ignore[arg-type]
            raise TypeError(f"a module's {name} cannot be {value!r}")
        if isinstance(value, (list, tuple)) and not all(isinstance(item, str) for item in value):
            raise TypeError(f"a module's {name} are strings, not {value!r}")
        self._values[name] = value

    return property(lambda self: self._values[name], write)


for _name in _TYPES:
    setattr(qSlicerScriptedLoadableModule, _name, _described(_name))


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The panel of a module; the Python object that fills it is ``self()``."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._python: Any = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)

    def self(self) -> Any:
        return self._python

    def enter(self) -> None:
        if hasattr(self._python, "enter"):
            self._python.enter()

    def exit(self) -> None:
        if hasattr(self._python, "exit"):
            self._python.exit()
