"""What the user has chosen, kept in the scene: a scripted module's parameter node."""

from __future__ import annotations

from typing import Any

#: Roles of the nodes referred to.
_INPUT = "Input"
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
        self._node.SetNodeReferenceID(_INPUT, volume.GetID() if volume else None)

    @property
    def result(self) -> Any | None:
        """The result that is compared."""
        return self._node.GetNodeReference(_RESULT)

    @result.setter
    def result(self, volume: Any | None) -> None:
        self._node.SetNodeReferenceID(_RESULT, volume.GetID() if volume else None)

    def get(self, name: str, default: str = "") -> str:
        """Give an option's value as text."""
        value = self._node.GetParameter(name)
        return value or default

    def set(self, name: str, value: str) -> None:
        """Keep an option's value."""
        self._node.SetParameter(name, value)
