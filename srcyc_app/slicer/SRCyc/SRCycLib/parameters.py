"""What the user has chosen, kept in the scene: a scripted module's parameter node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk


def _reference(role: str, what: str) -> Any:
    """Make a property that refers to a node of the scene, or to None."""

    def get(self: Parameters) -> Any | None:
        return self._node.GetNodeReference(role)

    def refer(self: Parameters, volume: Any | None) -> None:
        self._node.SetNodeReferenceID(role, volume.GetID() if volume else None)

    return property(get, refer, doc=what)


class Parameters:
    """A view of the parameter node.

    Args:
        node: vtkMRMLScriptedModuleNode of the module.
    """

    input = _reference("Input", "The thick-slice scan.")
    output = _reference("Output", "The volume that the next result replaces; None: a new one.")
    result = _reference("Result", "The result that is compared.")

    def __init__(self, node: Any) -> None:
        self._node = node

    def get(self, name: str, default: str = "") -> str:
        """Give an option's value as text."""
        return self._node.GetParameter(name) or default

    def set(self, name: str, value: str) -> None:
        """Keep an option's value."""
        self._node.SetParameter(name, value)

    def changing(self) -> Any:
        """Tell those who observe of the changes inside a block once."""
        return slicer.util.NodeModify(self._node)

    def observe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` whenever something is set, here or by a script; gives what ends that."""
        node = self._node
        tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: changed())
        return lambda: node.RemoveObserver(tag)
