"""The section "Compare": a result next to, or faded over, the scan that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

from SRCycLib import views, volumes
from SRCycLib.parameters import Parameters
from SRCycLib.super_resolution import original_of, uncertainty_of


class ComparePanel:
    """Sets up the views.

    Args:
        ui: the module's widgets.
        parameters: where choices are kept.
    """

    def __init__(self, ui: Any, parameters: Parameters) -> None:
        self.ui = ui
        self._parameters = parameters
        ui.resultSelector.addAttribute("vtkMRMLScalarVolumeNode", volumes.MADE_BY)
        ui.resultSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._result_changed)
        ui.sideBySideButton.connect("clicked(bool)", self._side_by_side)
        ui.fadeButton.connect("clicked(bool)", self._fade)
        ui.fadeSlider.connect("valueChanged(double)", self._fade)
        ui.uncertaintySlider.connect("valueChanged(double)", self._overlay)
        ui.interpolateCheckBox.connect("toggled(bool)", self._interpolate)
        self._enable()

    def use(self, parameters: Parameters) -> None:
        """Take over the choices of another scene."""
        self._parameters = parameters
        self.ui.resultSelector.setCurrentNode(parameters.result)
        self._enable()

    def show(self, result: Any, report: dict[str, Any]) -> None:
        """Show a new result next to its scan."""
        self.ui.resultSelector.setCurrentNode(result)
        self.ui.reportLabel.text = volumes.describe(report)
        self._side_by_side()

    def _result_changed(self, node: Any) -> None:
        self._parameters.result = node
        self.ui.reportLabel.text = ""
        self._enable()

    def _enable(self) -> None:
        result, original = self._pair()
        both = result is not None and original is not None
        for widget in (
            self.ui.sideBySideButton,
            self.ui.fadeButton,
            self.ui.fadeSlider,
            self.ui.interpolateCheckBox,
        ):
            widget.enabled = both
        self.ui.uncertaintySlider.enabled = result is not None and uncertainty_of(result) is not None

    def _pair(self) -> tuple[Any | None, Any | None]:
        result = self.ui.resultSelector.currentNode()
        return result, original_of(result) if result is not None else None

    def _side_by_side(self, _checked: bool = False) -> None:
        self._arrange(lambda original, result: views.side_by_side(*_place(), original, result))

    def _fade(self, _value: Any = None) -> None:
        share = self.ui.fadeSlider.value
        self._arrange(lambda original, result: views.fade(*_place(), original, result, share))

    def _arrange(self, arrange: Callable[[Any, Any], None]) -> None:
        result, original = self._pair()
        # Without a main window there are no views.
        if result is not None and original is not None and slicer.app.layoutManager() is not None:
            arrange(original, result)
            self._overlay()

    def _overlay(self, _value: Any = None) -> None:
        result = self.ui.resultSelector.currentNode()
        uncertainty = uncertainty_of(result) if result is not None else None
        if uncertainty is not None:
            views.overlay(slicer.mrmlScene, uncertainty, self.ui.uncertaintySlider.value)

    def _interpolate(self, smooth: bool) -> None:
        _result, original = self._pair()
        if original is not None and original.GetDisplayNode():
            original.GetDisplayNode().SetInterpolate(smooth)


def _place() -> tuple[Any, Any]:
    return slicer.mrmlScene, slicer.app.layoutManager()
