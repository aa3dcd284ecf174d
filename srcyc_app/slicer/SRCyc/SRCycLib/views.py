"""Slice views of our own in which a result is compared with its scan; Slicer's own views stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk

#: Planes, Slicer's colours for them, and the patient's axis (RAS) that they are seen along.
_PLANES = {"Sagittal": ("#EDD54C", 0), "Coronal": ("#6EB04B", 1), "Axial": ("#F34A33", 2)}

#: Numbers of our layouts, one for each order of the planes; far from Slicer's own.
_SIDE_BY_SIDE = 51600
_FADE = 51610

#: View groups of the columns: what is done in a view is done in the other one of its column, and nowhere else.
_GROUP = 5160

#: What a view showed before an overlay was laid over it: background, foreground, opacity of the foreground.
_Shown = tuple


class Comparison:
    """The views for one scan and one result.

    Slicer gives views their sizes in an event after ``setLayout()``: who has called :meth:`side_by_side` or
    :meth:`fade` calls :meth:`fit` later, and again when :meth:`sizes` has changed.

    Args:
        scene: of the volumes.
        layout_manager: Slicer's; None: without a main window there are no views.
    """

    def __init__(self, scene: Any, layout_manager: Any) -> None:
        self._scene = scene
        self._layouts = layout_manager
        self._before: int | None = None
        self._original_id = ""
        self._names: list[str] = []
        self._covered: dict[str, _Shown] = {}
        self._layout_node: Any = None
        self._tag = 0

    @property
    def active(self) -> bool:
        """Whether our views are on the screen."""
        return self._before is not None and _SIDE_BY_SIDE <= self._layouts.layout < _FADE + len(_PLANES)

    @property
    def fading(self) -> bool:
        """Whether the views that fade are on the screen."""
        return self.active and bool(self._layouts.layout >= _FADE)

    def side_by_side(self, original: Any, result: Any) -> None:
        """Show a scan above and its result below, in three directions, moved and zoomed as one."""
        planes = planes_of(original)
        rows = [[_name("Scan", plane) for plane in planes], [_name("Result", plane) for plane in planes]]
        self._show(_SIDE_BY_SIDE + _order(planes), _table(rows), original)
        for row, volume in zip(rows, (original, result)):
            for view in self._views(row):
                view.show(volume)

    def fade(self, original: Any, result: Any, share: float) -> None:
        """Lay a result over its scan; ``share``, 0 to 1: how much of the result is seen."""
        planes = planes_of(original)
        names = [_name("Scan", plane) for plane in planes]
        self._show(_FADE + _order(planes), _one_large(names), original)
        for view in self._views(names):
            if not view.shows(original, result):
                view.show(original, result)
                self._covered.pop(view.name, None)
            view.composite.SetForegroundOpacity(min(max(share, 0.0), 1.0))

    def fit(self) -> None:
        """Show all of the scan, from its middle and along its own planes, in the sizes that the views have now."""
        original = self._scene.GetNodeByID(self._original_id)
        if original is None or not self.active:
            return
        for view in self._views(self._names):
            view.fit(original, _plane_of(view.name))
        for view in self._views([name for name in self._names if "Result" in name]):
            for partner in self._views([view.name.replace("Result", "Scan")]):
                view.follow(partner)

    def sizes(self) -> list[tuple[int, ...]]:
        """Give the pixels of the views on the screen."""
        return [tuple(view.slice_node.GetDimensions()) for view in self._views(self._names)]

    def overlay(self, result: Any, uncertainty: Any, opacity: float) -> None:
        """Lay an uncertainty map over a result wherever that is seen, in our views and in Slicer's.

        A view has two layers: where the result lies over its scan, the map lies over the result alone meanwhile.

        Args:
            result: scalar volume node.
            uncertainty: its map, or None to take it away.
            opacity: of the map, 0 to 1; 0 takes it away.
        """
        if uncertainty is None or opacity <= 0.0:
            self._uncover()
            return
        for view in self._views(_by_layout_name(self._scene, "vtkMRMLSliceCompositeNode")):
            composite = view.composite
            shown = view.shown()
            if composite.GetForegroundVolumeID() != uncertainty.GetID() and result.GetID() in shown[:2]:
                self._covered[view.name] = shown
                composite.SetBackgroundVolumeID(result.GetID())
                composite.SetForegroundVolumeID(uncertainty.GetID())
            if composite.GetForegroundVolumeID() == uncertainty.GetID():
                composite.SetForegroundOpacity(min(opacity, 1.0))

    def end(self) -> None:
        """Bring back the layout from before, if ours is still the one on the screen."""
        self._uncover()
        if self.active:
            self._layouts.setLayout(self._before)
        self._before = None

    def close(self) -> None:
        """End, and look at the scene no more."""
        self.end()
        if self._layout_node is not None:
            self._layout_node.RemoveObserver(self._tag)
            self._layout_node = None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _show(self, layout: int, description: str, original: Any) -> None:
        node = self._scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if node is None or self._layouts is None:
            return
        if not self.active:
            self._before = self._layouts.layout
        if self._layout_node is None:
            self._layout_node = node
            self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._layout_changes)
        if not node.IsLayoutDescription(layout):
            node.AddLayoutDescription(layout, description)
        self._layouts.setLayout(layout)
        self._original_id = original.GetID()
        views = _by_layout_name(self._scene, "vtkMRMLSliceNode")
        self._names = [name for name in views if f'singletontag="{name}"' in description]
        for view in self._views(self._names):
            view.link(_GROUP + list(_PLANES).index(_plane_of(view.name)))

    def _uncover(self) -> None:
        for view in self._views(self._covered):
            view.restore(self._scene, self._covered[view.name])
        self._covered = {}

    def _views(self, names: Any) -> list[_View]:
        """Find slice views by their layout names; what is not there is left out."""
        composites = _by_layout_name(self._scene, "vtkMRMLSliceCompositeNode")
        slice_nodes = _by_layout_name(self._scene, "vtkMRMLSliceNode")
        return [
            _View(name, composites[name], slice_nodes[name])
            for name in names
            if name in composites and name in slice_nodes
        ]

    def _layout_changes(self, node: Any, _event: Any) -> None:
        """Leave our layout out of scenes that are saved: a Slicer without this module would show nothing at all."""
        node.SetSaveWithScene(not self.active)


class _View:
    """One slice view.

    Args:
        name: of the view in the layout.
        composite: vtkMRMLSliceCompositeNode: what it shows.
        slice_node: vtkMRMLSliceNode: where it is.
    """

    def __init__(self, name: str, composite: Any, slice_node: Any) -> None:
        self.name = name
        self.composite = composite
        self.slice_node = slice_node

    def shown(self) -> _Shown:
        """Give what it shows."""
        composite = self.composite
        ids = composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()
        return (*ids, composite.GetForegroundOpacity())

    def shows(self, background: Any, foreground: Any) -> bool:
        """Tell whether it shows these two."""
        return self.shown()[:2] == (background.GetID(), foreground.GetID())

    def show(self, background: Any, foreground: Any = None) -> None:
        """Show a volume, and another one over it; nothing else."""
        self.composite.SetBackgroundVolumeID(background.GetID())
        self.composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
        self.composite.SetForegroundOpacity(0.0)
        self.composite.SetLabelVolumeID(None)

    def restore(self, scene: Any, shown: _Shown) -> None:
        """Show again what was shown before, as far as it is still there."""
        background, foreground = (each if each and scene.GetNodeByID(each) else None for each in shown[:2])
        self.composite.SetBackgroundVolumeID(background)
        self.composite.SetForegroundVolumeID(foreground)
        self.composite.SetForegroundOpacity(shown[2])

    def link(self, group: int) -> None:
        """Let whatever the user does in it happen in the others of its group, while it is done."""
        self.slice_node.SetViewGroup(group)
        self.composite.SetHotLinkedControl(True)
        self.composite.SetLinkedControl(True)

    def fit(self, volume: Any, plane: str) -> None:
        """Show all of a volume, from its middle, in the one of its own planes that is closest to an anatomical one."""
        slice_node = self.slice_node
        with slicer.util.NodeModify(slice_node):
            slice_node.SetOrientation(plane)
            slice_node.RotateToVolumePlane(volume)
            matrix, inverse, bounds = slice_node.GetSliceToRAS(), vtk.vtkMatrix4x4(), [0.0] * 6
            vtk.vtkMatrix4x4.Invert(matrix, inverse)
            volume.GetSliceBounds(bounds, inverse)
            low, high = np.array(bounds).reshape(3, 2).T
            middle = (low + high) / 2
            # Through the middle of a slice, not along the border of two: there the screen shows either of them.
            slices = _slices_along(volume, matrix)
            middle[2] = low[2] + (slices // 2 + 0.5) * (high[2] - low[2]) / slices
            for row, value in enumerate(matrix.MultiplyPoint((*middle, 1.0))[:3]):
                matrix.SetElement(row, 3, value)
            slice_node.SetXYZOrigin(0.0, 0.0, 0.0)
            self._show_field(high[0] - low[0], high[1] - low[1], slice_node.GetFieldOfView()[2])

    def follow(self, other: _View) -> None:
        """Show the same place as another view, and no less than it: they may differ in their proportions."""
        slice_node, its = self.slice_node, other.slice_node
        with slicer.util.NodeModify(slice_node):
            slice_node.GetSliceToRAS().DeepCopy(its.GetSliceToRAS())
            slice_node.SetXYZOrigin(*its.GetXYZOrigin())
            self._show_field(*its.GetFieldOfView())

    def _show_field(self, width: float, height: float, depth: float) -> None:
        """Show so many millimetres, or more in one direction: pixels are square."""
        columns, rows = (max(1, count) for count in self.slice_node.GetDimensions()[:2])
        pixel = max(width / columns, height / rows)
        self.slice_node.SetFieldOfView(pixel * columns, pixel * rows, depth)
        self.slice_node.UpdateMatrices()


def planes_of(volume: Any) -> list[str]:
    """Give the anatomical planes in the order in which they tell most: first those that cut through all slices.

    In the plane of the slices themselves, a scan and its result look alike.
    """
    axes = _axes(volume)
    thick = int(np.argmax(np.linalg.norm(axes, axis=1)))
    world = int(np.argmax(np.abs(axes[thick])))
    return sorted(_PLANES, key=lambda plane: _PLANES[plane][1] == world)


def _axes(volume: Any) -> np.ndarray:
    """Give the steps of a volume's axes in the world, mm: (array axis, R A S)."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return np.asarray(slicer.util.arrayFromVTKMatrix(matrix))[:3, :3].T


def _slices_along(volume: Any, slice_to_ras: Any) -> int:
    """Count the voxels of a volume along the normal of a view."""
    axes, normal = _axes(volume), [slice_to_ras.GetElement(row, 2) for row in range(3)]
    axis = int(np.argmax(np.abs(axes @ normal) / np.linalg.norm(axes, axis=1)))
    return max(1, int(volume.GetImageData().GetDimensions()[axis]))


def _order(planes: Sequence[str]) -> int:
    """Number the orders that :func:`planes_of` gives."""
    return list(_PLANES).index(planes[-1])


def _name(what: str, plane: str) -> str:
    return f"SRCyc{what}{plane}"


def _plane_of(name: str) -> str:
    return next(plane for plane in _PLANES if name.endswith(plane))


def _view_element(name: str) -> str:
    plane = _plane_of(name)
    properties = {
        "orientation": plane,
        "viewlabel": plane[0] + ("+" if "Result" in name else ""),
        "viewcolor": _PLANES[plane][0],
    }
    inner = "".join(
        f'<property name="{key}" action="default">{value}</property>' for key, value in properties.items()
    )
    return f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">{inner}</view></item>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Describe a layout with rows of views."""
    lines = [f'<layout type="horizontal">{"".join(map(_view_element, row))}</layout>' for row in rows]
    return f'<layout type="vertical">{"".join(f"<item>{line}</item>" for line in lines)}</layout>'


def _one_large(names: Sequence[str]) -> str:
    """Describe a layout with one view beside a column of the others."""
    column = f'<layout type="vertical">{"".join(map(_view_element, names[1:]))}</layout>'
    return f'<layout type="horizontal">{_view_element(names[0])}<item>{column}</item></layout>'


def _by_layout_name(scene: Any, kind: str) -> dict[str, Any]:
    nodes = [scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind))]
    return {node.GetLayoutName(): node for node in nodes}
