"""The section "Compare": a result next to, or faded over, the scan that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer

from SRCycLib import volumes
from SRCycLib.parameters import Parameters
from SRCycLib.super_resolution import original_of, uncertainty_of
from SRCycLib.views import Comparison

#: Milliseconds between two looks whether the views have got other sizes, and how often to look.
_LOOK = 50
_LOOKS = 40


class ComparePanel:
    """Sets up the views.

    Args:
        ui: the module's widgets.
        parameters: where choices are kept.
    """

    def __init__(self, ui: Any, parameters: Parameters) -> None:
        self.ui = ui
        self._parameters = parameters
        self._comparison = Comparison(slicer.mrmlScene, slicer.app.layoutManager())
        self._looks = 0
        self._sizes: list[tuple[int, ...]] = []
        self._timer = qt.QTimer()
        self._timer.setInterval(_LOOK)
        self._timer.connect("timeout()", self._settle)
        ui.resultSelector.addAttribute("vtkMRMLScalarVolumeNode", volumes.MADE_BY)
        ui.resultSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._result_changed)
        ui.sideBySideButton.connect("clicked(bool)", self._side_by_side)
        ui.fadeButton.connect("clicked(bool)", self._fade)
        ui.viewsBeforeButton.connect("clicked(bool)", self._views_before)
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
        self._enable()
        self._side_by_side()

    def close(self) -> None:
        """Bring back the views from before: the scene or the module goes."""
        self._timer.stop()
        self._comparison.end()
        self._enable()

    def cleanup(self) -> None:
        """Look at the scene no more."""
        self.close()
        self._comparison.close()

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
        self.ui.viewsBeforeButton.enabled = self._comparison.active

    def _pair(self) -> tuple[Any | None, Any | None]:
        result = self.ui.resultSelector.currentNode()
        return result, original_of(result) if result is not None else None

    def _side_by_side(self, _checked: bool = False) -> None:
        self._arrange(lambda views, original, result: views.side_by_side(original, result), fit=True)

    def _fade(self, value: Any = None) -> None:
        share = self.ui.fadeSlider.value
        # While the slider moves, the views stay where the user has moved them.
        fit = isinstance(value, bool) or not self._comparison.fading
        self._arrange(lambda views, original, result: views.fade(original, result, share), fit=fit)

    def _views_before(self, _checked: bool = False) -> None:
        self.close()

    def _arrange(self, arrange: Callable[[Comparison, Any, Any], None], *, fit: bool) -> None:
        result, original = self._pair()
        if result is None or original is None:
            return
        arrange(self._comparison, original, result)
        self._overlay()
        self._enable()
        if fit:
            # Qt gives the views their sizes in a later event, and may do so in several steps.
            self._looks, self._sizes = 0, []
            self._timer.start()

    def _settle(self) -> None:
        """Fit the views when they have got a size, until that changes no more."""
        if (sizes := self._comparison.sizes()) != self._sizes:
            self._sizes = sizes
            self._comparison.fit()
        self._looks += 1
        if self._looks >= _LOOKS:
            self._timer.stop()

    def _overlay(self, _value: Any = None) -> None:
        result = self.ui.resultSelector.currentNode()
        if result is not None:
            self._comparison.overlay(result, uncertainty_of(result), self.ui.uncertaintySlider.value)

    def _interpolate(self, smooth: bool) -> None:
        _result, original = self._pair()
        if original is not None and original.GetDisplayNode():
            original.GetDisplayNode().SetInterpolate(smooth)
