"""Slice views set up to compare a result with its scan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer

_SIDE_BY_SIDE = slicer.vtkMRMLLayoutNode.SlicerLayoutThreeOverThreeView
_FOUR_UP = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView

#: A slice view in the description of a layout.
_SLICE_VIEW = re.compile(r'class="vtkMRMLSliceNode"\s+singletontag="([^"]+)"')


def side_by_side(scene: Any, layout_manager: Any, original: Any, result: Any) -> None:
    """Show a scan above and its result below, in three directions, moved and zoomed as one.

    Args:
        scene: of both.
        layout_manager: Slicer's.
        original: the scan.
        result: made from it.
    """
    layout_manager.setLayout(_SIDE_BY_SIDE)
    views = _views(scene, _names(scene, _SIDE_BY_SIDE))
    # Each view of the lower row is the partner of the one above it.
    above, below = views[: len(views) // 2], views[len(views) // 2 :]

    bounds = _bounds(original)
    for index, top in enumerate(above):
        top.show(original)
        top.fit(bounds)
        below[index].show(result)
        below[index].follow(top)
    _link(views)


def fade(scene: Any, layout_manager: Any, original: Any, result: Any, share: float) -> None:
    """Lay a result over its scan.

    Args:
        scene: of both.
        layout_manager: Slicer's.
        original: the scan.
        result: made from it.
        share: how much of the result is seen, 0 to 1.
    """
    layout_manager.setLayout(_FOUR_UP)
    views = _views(scene, _names(scene, _FOUR_UP))
    for view in views:
        # While the slider moves, the views stay where the user has moved them.
        if not view.shows(original, result):
            view.show(original, result)
            view.fit(_bounds(original))
        view.composite.SetForegroundOpacity(min(max(share, 0.0), 1.0))
    _link(views)


def overlay(scene: Any, uncertainty: Any, opacity: float, views: Sequence[str] = ()) -> None:
    """Lay an uncertainty map over a result that is shown side by side with its scan.

    Args:
        scene: of both.
        uncertainty: scalar volume node, or None to take it away.
        opacity: of the map, 0 to 1.
        views: layout names of the result's slice views; default: those of :func:`side_by_side`.
    """
    names = _names(scene, _SIDE_BY_SIDE)
    for view in _views(scene, views or names[len(names) // 2 :]):
        view.composite.SetForegroundVolumeID(uncertainty.GetID() if uncertainty is not None else None)
        view.composite.SetForegroundOpacity(min(max(opacity, 0.0), 1.0) if uncertainty is not None else 0.0)


class _View:
    """One slice view.

    Args:
        composite: vtkMRMLSliceCompositeNode: what it shows.
        slice_node: vtkMRMLSliceNode: where it is.
    """

    def __init__(self, composite: Any, slice_node: Any) -> None:
        self.composite = composite
        self.slice_node = slice_node

    def shows(self, background: Any, foreground: Any) -> bool:
        """Tell whether it shows these two."""
        shown = (self.composite.GetBackgroundVolumeID(), self.composite.GetForegroundVolumeID())
        return shown == (background.GetID(), foreground.GetID())

    def show(self, background: Any, foreground: Any = None) -> None:
        """Show a volume, and another one over it; nothing else."""
        self.composite.SetBackgroundVolumeID(background.GetID())
        self.composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
        self.composite.SetForegroundOpacity(0.0)
        self.composite.SetLabelVolumeID(None)

    def fit(self, bounds: np.ndarray) -> None:
        """Show all of a box, from its middle."""
        slice_node = self.slice_node
        matrix = slice_node.GetSliceToRAS()
        width, height = (
            _extent(bounds, [matrix.GetElement(row, axis) for row in range(3)]) for axis in (0, 1)
        )
        columns, rows = (max(1, count) for count in slice_node.GetDimensions()[:2])
        millimetres = max(width / columns, height / rows)
        changing = slice_node.StartModify()
        for row, middle in enumerate(bounds.mean(axis=1)):
            matrix.SetElement(row, 3, middle)
        slice_node.SetXYZOrigin(0.0, 0.0, 0.0)
        slice_node.SetFieldOfView(millimetres * columns, millimetres * rows, slice_node.GetFieldOfView()[2])
        slice_node.UpdateMatrices()
        slice_node.EndModify(changing)

    def follow(self, other: _View) -> None:
        """Show the same place as another view, now and when one of them is moved."""
        slice_node, its = self.slice_node, other.slice_node
        changing = slice_node.StartModify()
        # Only views of one group are linked, and Slicer's layout puts the two rows into different ones.
        slice_node.SetViewGroup(its.GetViewGroup())
        slice_node.GetSliceToRAS().DeepCopy(its.GetSliceToRAS())
        slice_node.SetXYZOrigin(*its.GetXYZOrigin())
        columns, rows = (max(1, count) for count in slice_node.GetDimensions()[:2])
        its_columns, its_rows = (max(1, count) for count in its.GetDimensions()[:2])
        field = its.GetFieldOfView()
        # The other one's whole field, also where the views differ in their proportions.
        millimetres = max(
            field[0] / its_columns * max(1.0, its_columns / columns), field[1] / its_rows * its_rows / rows
        )
        slice_node.SetFieldOfView(millimetres * columns, millimetres * rows, field[2])
        slice_node.UpdateMatrices()
        slice_node.EndModify(changing)


def _names(scene: Any, layout: int) -> list[str]:
    """Give the layout names of a layout's slice views, row by row: they differ between versions of Slicer."""
    node = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    return _SLICE_VIEW.findall(node.GetLayoutDescription(layout)) if node is not None else []


def _views(scene: Any, names: Sequence[str]) -> list[_View]:
    """Find slice views by their layout names; none at all if one is missing."""
    composites = _by_layout_name(scene, "vtkMRMLSliceCompositeNode")
    slice_nodes = _by_layout_name(scene, "vtkMRMLSliceNode")
    if not all(name in composites and name in slice_nodes for name in names):
        return []
    return [_View(composites[name], slice_nodes[name]) for name in names]


def _by_layout_name(scene: Any, kind: str) -> dict[str, Any]:
    nodes = [scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind))]
    return {node.GetLayoutName(): node for node in nodes}


def _link(views: Sequence[_View]) -> None:
    """Let whatever the user does in one view happen in the others, while it is done."""
    for view in views:
        view.composite.SetHotLinkedControl(True)
        view.composite.SetLinkedControl(True)


def _bounds(volume: Any) -> np.ndarray:
    """Give a volume's box in the world: lowest and highest of three coordinates."""
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    return np.array(bounds).reshape(3, 2)


def _extent(bounds: np.ndarray, direction: Sequence[float]) -> float:
    """Give the size of a box along a direction."""
    return float(np.abs(direction) @ (bounds[:, 1] - bounds[:, 0]))
