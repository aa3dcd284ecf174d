"""Slicer's widgets for MRML, over the real scene; each offers only what its header declares."""

from __future__ import annotations

from typing import Any

import shiboken6
import slicer
from PySide6.QtCore import QObject, QSortFilterProxyModel, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QWidget


class qMRMLWidget(QWidget):
    """A widget with a scene."""

    SIGNALS = {"mrmlSceneChanged(vtkMRMLScene*)": "_scene_changed"}
    _scene_changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self._scene_changed.emit(scene)


class qMRMLSortFilterProxyModel(QSortFilterProxyModel):
    """Says which nodes a selector leaves out."""

    def __init__(self, owner: qMRMLNodeComboBox) -> None:
        super().__init__(owner)
        self._owner = owner
        self._hidden: tuple[str, ...] = ()

    @property
    def hiddenNodeIDs(self) -> tuple[str, ...]:
        # PythonQt gives lists of strings as tuples.
        return self._hidden

    @hiddenNodeIDs.setter
    def hiddenNodeIDs(self, ids: list[str]) -> None:
        self._hidden = tuple(ids)
        self._owner._refresh()


class qMRMLNodeComboBox(QWidget):
    """Chooses one of the scene's nodes.

    As the real one: it is disabled without a scene; with ``noneEnabled`` nothing is chosen at first; when the chosen
    node leaves the scene, its neighbour in the list is chosen.
    """

    SIGNALS = {
        "currentNodeChanged(vtkMRMLNode*)": "_node_changed",
        "currentNodeChanged(bool)": "_validity_changed",
        "currentNodeIDChanged(QString)": "_id_changed",
        "nodeActivated(vtkMRMLNode*)": "_activated",
        "nodeAdded(vtkMRMLNode*)": "_added",
    }
    _node_changed = Signal(object)
    _validity_changed = Signal(object)
    _id_changed = Signal(object)
    _activated = Signal(object)
    _added = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._values: dict[str, Any] = {
            "nodeTypes": [],
            "showHidden": False,
            "showChildNodeTypes": True,
            "hideChildNodeTypes": [],
            "baseName": "",
            "noneEnabled": False,
            "addEnabled": True,
            "removeEnabled": True,
            "editEnabled": False,
            "renameEnabled": False,
            "selectNodeUponCreation": True,
            "noneDisplay": "None",
        }
        self._attributes: dict[tuple[str, str], str | None] = {}
        self._scene: Any = None
        self._tags: list[int] = []
        self._chosen = ""
        self._proxy = qMRMLSortFilterProxyModel(self)
        self._combo = QComboBox(self)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        QObject.connect(self._combo, "2currentIndexChanged(int)", self._index_changed)
        QObject.connect(self._combo, "2activated(int)", lambda _row: self._activated.emit(self.currentNode()))
        self.setEnabled(False)

    # -- the scene ---------------------------------------------------------------------------------------------------

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []
        self._scene = scene
        if scene is not None:
            kind = slicer.vtkMRMLScene
            for event in (
                kind.NodeAddedEvent,
                kind.NodeRemovedEvent,
                kind.EndBatchProcessEvent,
                kind.EndCloseEvent,
                kind.EndImportEvent,
            ):
                self._tags.append(scene.AddObserver(event, self._scene_has_changed))
        self._refresh()
        self.setEnabled(scene is not None)

    def _scene_has_changed(self, scene: Any, _event: str) -> None:
        if not shiboken6.isValid(self):
            for tag in self._tags:
                scene.RemoveObserver(tag)
            self._tags = []
        elif not scene.IsBatchProcessing():
            self._refresh()

    def _fits(self, node: Any) -> bool:
        if node.GetID() in self._proxy._hidden:
            return False
        if node.GetHideFromEditors() and not self._values["showHidden"]:
            return False
        if any(node.IsA(kind) for kind in self._values["hideChildNodeTypes"]):
            return False
        types = self._values["nodeTypes"]
        same = node.IsA if self._values["showChildNodeTypes"] else node.GetClassName().__eq__
        if not any(same(kind) for kind in types):
            return False
        for (kind, name), value in self._attributes.items():
            if node.IsA(kind):
                found = node.GetAttribute(name)
                if found is None or (value is not None and found != value):
                    return False
        return True

    def _refresh(self) -> None:
        """Bring the list into line with the scene, row by row: Qt then chooses as it does in the real widget."""
        scene = self._scene
        nodes = [] if scene is None else [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
        wanted: list[tuple[str, str]] = (
            [("", self._values["noneDisplay"])] if self._values["noneEnabled"] else []
        )
        wanted += [(node.GetID(), node.GetName() or "") for node in nodes if self._fits(node)]
        ids = [id_ for id_, _name in wanted]
        for row in reversed(range(QComboBox.count(self._combo))):
            if self._combo.itemData(row) not in ids:
                self._combo.removeItem(row)
        for row, (id_, name) in enumerate(wanted):
            if row >= QComboBox.count(self._combo) or self._combo.itemData(row) != id_:
                self._combo.insertItem(row, name, id_)
                if id_:
                    self._added.emit(scene.GetNodeByID(id_))
            elif self._combo.itemText(row) != name:
                self._combo.setItemText(row, name)

    # -- the choice --------------------------------------------------------------------------------------------------

    def _index_changed(self, _row: int) -> None:
        chosen = QComboBox.currentData(self._combo) or ""
        if chosen != self._chosen:
            self._chosen = chosen
            node = self.currentNode()
            self._node_changed.emit(node)
            self._validity_changed.emit(node is not None)
            self._id_changed.emit(chosen)

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._chosen) if self._scene is not None and self._chosen else None

    @property
    def currentNodeID(self) -> str:
        return self._chosen

    @currentNodeID.setter
    def currentNodeID(self, id_: str) -> None:
        self.setCurrentNodeID(id_)

    def setCurrentNode(self, node: Any) -> None:
        if node is not None and not isinstance(node, (str, slicer.vtkMRMLNode)):
            raise TypeError(f"{node!r} is no node")
        self.setCurrentNodeID(node if isinstance(node, str) else "" if node is None else node.GetID())

    def setCurrentNodeID(self, id_: str) -> None:
        self._refresh()
        self._combo.setCurrentIndex(self._combo.findData(id_ or ""))

    def setCurrentNodeIndex(self, index: int) -> None:
        node = self.nodeFromIndex(index)
        self.setCurrentNode(node)

    def _ids(self) -> list[str]:
        rows = (self._combo.itemData(row) for row in range(QComboBox.count(self._combo)))
        return [id_ for id_ in rows if id_]

    def nodeCount(self) -> int:
        return len(self._ids())

    def nodeFromIndex(self, index: int) -> Any:
        ids = self._ids()
        return self._scene.GetNodeByID(ids[index]) if 0 <= index < len(ids) else None

    # -- what is offered ---------------------------------------------------------------------------------------------

    def sortFilterProxyModel(self) -> qMRMLSortFilterProxyModel:
        return self._proxy

    def addAttribute(self, kind: str, name: str, value: str | None = None) -> None:
        self._attributes[kind, name] = value
        self._refresh()

    def removeAttribute(self, kind: str, name: str) -> None:
        self._attributes.pop((kind, name), None)
        self._refresh()


def _offered(name: str) -> property:
    def write(self: Any, value: Any) -> None:
        self._values[name] = list(value) if isinstance(value, tuple) else value
        self._refresh()

    return property(lambda self: self._values[name], write)


def _setter(name: str) -> Any:
    return lambda self, value: setattr(self, name, value)


for _name in (
    *(
        "nodeTypes",
        "showHidden",
        "showChildNodeTypes",
        "hideChildNodeTypes",
        "baseName",
        "noneEnabled",
        "addEnabled",
    ),
    *("removeEnabled", "editEnabled", "renameEnabled", "selectNodeUponCreation", "noneDisplay"),
):
    setattr(qMRMLNodeComboBox, _name, _offered(_name))
for _name in (
    *(
        "nodeTypes",
        "noneEnabled",
        "addEnabled",
        "removeEnabled",
        "editEnabled",
        "renameEnabled",
        "showHidden",
    ),
    *("showChildNodeTypes", "noneDisplay", "selectNodeUponCreation"),
):
    setattr(qMRMLNodeComboBox, f"set{_name[0].upper()}{_name[1:]}", _setter(_name))


class qMRMLSliceWidget(qMRMLWidget):
    """One slice view: the real node, logic and composite node, without the drawing."""

    def __init__(self, logic: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._logic = logic

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    @property
    def sliceViewName(self) -> str:
        return str(self.mrmlSliceNode().GetLayoutName())

    @property
    def sliceOrientation(self) -> str:
        return str(self.mrmlSliceNode().GetOrientation())

    @sliceOrientation.setter
    def sliceOrientation(self, orientation: str) -> None:
        self.setSliceOrientation(orientation)

    def setSliceOrientation(self, orientation: str) -> None:
        self.mrmlSliceNode().SetOrientation(orientation)

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()


WIDGETS: dict[str, type[QWidget]] = {
    kind.__name__: kind for kind in (qMRMLWidget, qMRMLNodeComboBox, qMRMLSliceWidget)
}
