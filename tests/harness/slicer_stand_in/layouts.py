"""The layout manager, driven by Slicer's own layout logic; slice views without the drawing."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6.QtCore import QObject, Signal

from .mrml_widgets import qMRMLSliceWidget

#: Pixels of a slice view.
_WIDTH, _HEIGHT = 400, 300


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
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

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
            self._layout_changed.emit(arrangement)

    def _add(self, node: Any) -> None:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._application_logic)
        logic.SetMRMLScene(self._scene)
        logic.SetSliceNode(node)
        self._logics.AddItem(logic)
        node.SetDimensions(_WIDTH, _HEIGHT, 1)
        widget = qMRMLSliceWidget(logic)
        widget.setMRMLScene(self._scene)
        self._widgets[node.GetLayoutName()] = widget

    def _close(self) -> None:
        """Let go of the scene."""
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
