"""The layout manager, driven by Slicer's own layout logic; slice views without the drawing.

As in the application, a layout is only announced by ``setLayout()``: Qt gives the views their places in a later event,
and Slicer's own slice logics then adapt the fields of view to the new sizes.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import slicer
import vtk
from PySide6.QtCore import QObject, QTimer, Signal

from .mrml_widgets import qMRMLSliceWidget

#: Pixels of all views together.
_WIDTH, _HEIGHT = 1200, 700


class qMRMLLayoutManager(QObject):
    """Shows the views that the layout node asks for."""

    SIGNALS = {"layoutChanged(int)": "_layout_changed"}
    _layout_changed = Signal(object)

    def __init__(self, scene: Any, application_logic: Any) -> None:
        super().__init__()
        self._application_logic = application_logic
        self._scene = scene
        self._logics = vtk.vtkCollection()
        self._widgets: dict[str, qMRMLSliceWidget] = {}
        self._threed: list[Any] = []
        self._plots: list[Any] = []
        application_logic.SetSliceLogics(self._logics)
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(scene)
        node = self._logic.GetLayoutNode()
        self._shown = -1
        self._node = node
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._update)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        QObject.connect(self._later, "2timeout()", self._lay_out)
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        # The application has been on the screen for some time when a module is opened.
        self._lay_out()

    def _update(self, _node: Any = None, _event: str = "") -> None:
        if self._scene.IsBatchProcessing():
            return
        views = self._logic.GetViewNodes()
        nodes = [views.GetItemAsObject(row) for row in range(views.GetNumberOfItems())]
        for node in nodes:
            if node.IsA("vtkMRMLSliceNode") and node.GetLayoutName() not in self._widgets:
                self._add(node)
        self._threed = [node for node in nodes if node.IsA("vtkMRMLViewNode")]
        self._plots = [node for node in nodes if node.IsA("vtkMRMLPlotViewNode")]
        arrangement = self._node.GetViewArrangement()
        if arrangement != self._shown:
            self._shown = arrangement
            self._later.start()
            self._layout_changed.emit(arrangement)

    def _lay_out(self) -> None:
        """Give the views of the layout the sizes that they have in it."""
        description = self._node.GetLayoutDescription(self._shown)
        for name, (width, height) in _sizes(ET.fromstring(description), _WIDTH, _HEIGHT).items():
            if name in self._widgets:
                self._widgets[name]._logic.ResizeSliceNode(width, height)

    def _add(self, node: Any) -> None:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._application_logic)
        logic.SetMRMLScene(self._scene)
        logic.SetSliceNode(node)
        self._logics.AddItem(logic)
        widget = qMRMLSliceWidget(logic)
        widget.setMRMLScene(self._scene)
        self._widgets[node.GetLayoutName()] = widget

    def _close(self) -> None:
        """Let go of the scene."""
        self._later.stop()
        self._node.RemoveObserver(self._tag)
        for widget in self._widgets.values():
            widget._logic.SetMRMLScene(None)
            widget.deleteLater()
        self._widgets = {}
        self._logics.RemoveAllItems()
        self._logic.SetMRMLScene(None)

    @property
    def layout(self) -> int:
        return int(self._node.GetViewArrangement())

    @layout.setter
    def layout(self, layout: int) -> None:
        self.setLayout(layout)

    @property
    def threeDViewCount(self) -> int:
        return len(self._threed)

    @property
    def plotViewCount(self) -> int:
        return len(self._plots)

    def setLayout(self, layout: int) -> None:
        if not self._node.IsLayoutDescription(layout):
            raise ValueError(f"there is no layout {layout!r}")
        self._node.SetViewArrangement(layout)
        self._update()

    def mrmlScene(self) -> Any:
        return self._scene

    def layoutLogic(self) -> Any:
        return self._logic

    def mrmlSliceLogics(self) -> Any:
        return self._logics

    def sliceViewNames(self) -> tuple[str, ...]:
        # PythonQt gives lists of strings as tuples.
        return tuple(self._widgets)

    def sliceWidget(self, name: str) -> qMRMLSliceWidget | None:
        return self._widgets.get(name)

    def resetSliceViews(self) -> None:
        for widget in self._widgets.values():
            widget._logic.FitSliceToBackground()


def _sizes(element: ET.Element, width: float, height: float) -> dict[str, tuple[int, int]]:
    """Give the pixels of the slice views in (a part of) a layout's description, by their names."""
    if element.tag == "view":
        name = element.get("singletontag", "")
        return {name: (int(width), int(height))} if element.get("class") == "vtkMRMLSliceNode" else {}
    if element.tag == "item":
        return {name: size for child in element for name, size in _sizes(child, width, height).items()}
    items, kind = element.findall("item"), element.get("type")
    found: dict[str, tuple[int, int]] = {}
    shares = [float(item.get("splitSize", 1)) for item in items]
    columns = max((int(item.get("column", 0)) for item in items), default=0) + 1
    rows = max((int(item.get("row", 0)) for item in items), default=0) + 1
    for item, share in zip(items, shares, strict=True):
        part = share / sum(shares)
        if kind == "horizontal":
            found.update(_sizes(item, width * part, height))
        elif kind == "vertical":
            found.update(_sizes(item, width, height * part))
        elif kind == "grid":
            found.update(_sizes(item, width / columns, height / rows))
        else:
            found.update(_sizes(item, width, height))
    return found
