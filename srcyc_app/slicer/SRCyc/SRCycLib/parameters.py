"""What the user has chosen, kept in the scene: a scripted module's parameter node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import vtk

#: Roles of the nodes referred to.
_INPUT = "Input"
_OUTPUT = "Output"
_RESULT = "Result"


class Parameters:
    """A view of the parameter node.

    Args:
        node: vtkMRMLScriptedModuleNode of the module.
    """

    def __init__(self, node: Any) -> None:
        self._node = node

    @property
    def input(self) -> Any | None:
        """The thick-slice scan."""
        return self._node.GetNodeReference(_INPUT)

    @input.setter
    def input(self, volume: Any | None) -> None:
        self._refer(_INPUT, volume)

    @property
    def output(self) -> Any | None:
        """The volume that the next result replaces; None: a new one."""
        return self._node.GetNodeReference(_OUTPUT)

    @output.setter
    def output(self, volume: Any | None) -> None:
        self._refer(_OUTPUT, volume)

    @property
    def result(self) -> Any | None:
        """The result that is compared."""
        return self._node.GetNodeReference(_RESULT)

    @result.setter
    def result(self, volume: Any | None) -> None:
        self._refer(_RESULT, volume)

    def get(self, name: str, default: str = "") -> str:
        """Give an option's value as text."""
        value = self._node.GetParameter(name)
        return value or default

    def set(self, name: str, value: str) -> None:
        """Keep an option's value."""
        self._node.SetParameter(name, value)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Tell those who observe of several changes once."""
        changing = self._node.StartModify()
        try:
            yield
        finally:
            self._node.EndModify(changing)

    def observe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` whenever something is set, here or by a script; gives what ends that."""
        node = self._node
        tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: changed())
        return lambda: node.RemoveObserver(tag)

    def _refer(self, role: str, volume: Any | None) -> None:
        self._node.SetNodeReferenceID(role, volume.GetID() if volume else None)
