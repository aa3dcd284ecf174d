"""Views set up to compare: real layout, slice and link logics of Slicer, without its windows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import slicer
import vtk

ABOVE = ("Red", "Green", "Yellow")
BELOW = ("Red+", "Green+", "Yellow+")
LAYOUTS = slicer.vtkMRMLLayoutNode


class Slicer:
    """What of the application these functions see: a scene, a layout manager, and slice logics behind each view."""

    def __init__(self) -> None:
        self.scene = slicer.vtkMRMLScene()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene)
        self.application = slicer.vtkMRMLApplicationLogic()
        self.application.SetMRMLScene(self.scene)
        self.layouts = slicer.vtkMRMLLayoutLogic()
        self.layouts.SetMRMLScene(self.scene)
        self.logics: dict[str, Any] = {}
        self.laid_out: list[int] = []

    def setLayout(self, layout: int) -> None:
        self.laid_out.append(layout)
        self.layouts.GetLayoutNode().SetViewArrangement(layout)
        for node in self.nodes("vtkMRMLSliceNode"):
            if node.GetLayoutName() not in self.logics:
                logic = slicer.vtkMRMLSliceLogic()
                logic.SetMRMLApplicationLogic(self.application)
                logic.SetMRMLScene(self.scene)
                logic.SetSliceNode(node)
                node.SetDimensions(300, 200, 1)
                self.logics[node.GetLayoutName()] = logic

    def close(self) -> None:
        """Let the logics go before the scene: they do not outlive its nodes."""
        for logic in (*self.logics.values(), self.layouts, self.application):
            logic.SetMRMLScene(None)

    def nodes(self, kind: str) -> list[Any]:
        return [
            self.scene.GetNthNodeByClass(i, kind) for i in range(self.scene.GetNumberOfNodesByClass(kind))
        ]

    def composite(self, name: str) -> Any:
        return self.logics[name].GetSliceCompositeNode()

    def view(self, name: str) -> Any:
        return self.logics[name].GetSliceNode()

    def volume(self, name: str, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> Any:
        """Add a volume with a field of view of its own, turned and moved."""
        node = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        image = vtk.vtkImageData()
        image.SetDimensions(*size)
        image.AllocateScalars(vtk.VTK_SHORT, 1)
        node.SetAndObserveImageData(image)
        node.SetSpacing(*spacing)
        turned = np.linalg.qr(np.array([[0.9, 0.3, -0.2], [-0.25, 0.95, 0.3], [0.3, -0.2, 0.9]]))[0]
        node.SetIJKToRASDirections(*turned.T[0], *turned.T[1], *turned.T[2])
        node.SetOrigin(30.0, -20.0, 10.0)
        node.CreateDefaultDisplayNodes()
        return node


@pytest.fixture
def app() -> Iterator[Slicer]:
    app = Slicer()
    yield app
    app.close()


@pytest.fixture
def pair(app: Slicer) -> tuple[Any, Any]:
    """A scan and its result."""
    return app.volume("scan", (60, 64, 12), (1, 1, 4)), app.volume("result", (60, 64, 48), (1, 1, 1))


@pytest.fixture(scope="module")
def views() -> ModuleType:
    return importlib.import_module("SRCycLib.views")


def shown(app: Slicer, name: str) -> tuple[Any, ...]:
    """Give what a view shows: background, foreground with opacity, label."""
    node = app.composite(name)
    return (
        node.GetBackgroundVolumeID(),
        node.GetForegroundVolumeID(),
        round(node.GetForegroundOpacity(), 6),
        node.GetLabelVolumeID(),
    )


def matrix(app: Slicer, name: str) -> np.ndarray:
    found = app.view(name).GetSliceToRAS()
    return np.array([[found.GetElement(i, k) for k in range(4)] for i in range(4)])


def test_scan_above_and_result_below(app: Slicer, pair: tuple[Any, Any], views: ModuleType) -> None:
    scan, result = pair
    views.side_by_side(app.scene, app, scan, result)
    assert app.laid_out == [LAYOUTS.SlicerLayoutThreeOverThreeView]
    for above, below in zip(ABOVE, BELOW, strict=True):
        assert shown(app, above) == (scan.GetID(), None, 0.0, None)
        assert shown(app, below) == (result.GetID(), None, 0.0, None)
        np.testing.assert_array_equal(matrix(app, above), matrix(app, below))
        assert app.view(above).GetFieldOfView() == app.view(below).GetFieldOfView()
        assert app.view(above).GetXYZOrigin() == app.view(below).GetXYZOrigin()
        for name in (above, below):
            assert app.composite(name).GetLinkedControl()
            assert app.composite(name).GetHotLinkedControl()
    normals = {tuple(np.round(np.abs(matrix(app, name)[:3, 2]))) for name in ABOVE}
    assert len(normals) == 3, "three directions"


def test_all_of_the_scan_is_seen_and_nothing_is_stretched(
    app: Slicer, pair: tuple[Any, Any], views: ModuleType
) -> None:
    scan, result = pair
    views.side_by_side(app.scene, app, scan, result)
    bounds = np.zeros(6)
    scan.GetRASBounds(bounds)
    corners = np.array(np.meshgrid(*bounds.reshape(3, 2), indexing="ij")).reshape(3, -1)
    for name in (*ABOVE, *BELOW):
        inverse = np.linalg.inv(matrix(app, name))
        flat = (inverse @ np.vstack([corners, np.ones(8)]))[:2]
        width, height, _ = app.view(name).GetFieldOfView()
        assert np.abs(flat[0]).max() <= width / 2 + 1e-6
        assert np.abs(flat[1]).max() <= height / 2 + 1e-6
        filled = max(np.abs(flat[0]).max() / (width / 2), np.abs(flat[1]).max() / (height / 2))
        assert filled == pytest.approx(1.0), "and it fills the view"
        assert width / 300 == pytest.approx(height / 200)
        np.testing.assert_allclose(matrix(app, name)[:3, 3], bounds.reshape(3, 2).mean(axis=1))


def test_views_of_another_shape_show_at_least_as_much(
    app: Slicer, pair: tuple[Any, Any], views: ModuleType
) -> None:
    app.setLayout(LAYOUTS.SlicerLayoutThreeOverThreeView)
    app.view("Red+").SetDimensions(150, 200, 1)
    views.side_by_side(app.scene, app, *pair)
    above, below = (app.view(name).GetFieldOfView() for name in ("Red", "Red+"))
    assert below[0] == pytest.approx(above[0])
    assert below[1] >= above[1]
    assert below[0] / 150 == pytest.approx(below[1] / 200)


@pytest.mark.parametrize("leader", ["Red", "Red+"])
def test_one_view_takes_its_partner_along(
    leader: str, app: Slicer, pair: tuple[Any, Any], views: ModuleType
) -> None:
    views.side_by_side(app.scene, app, *pair)
    others = {name: matrix(app, name) for name in ("Green", "Yellow")}
    logic = app.logics[leader]
    logic.StartSliceOffsetInteraction()
    logic.SetSliceOffset(logic.GetSliceOffset() + 7.0)
    logic.EndSliceOffsetInteraction()
    np.testing.assert_array_equal(matrix(app, "Red"), matrix(app, "Red+"))
    logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.FieldOfViewFlag)
    app.view(leader).SetFieldOfView(30.0, 20.0, 1.0)
    logic.EndSliceNodeInteraction()
    np.testing.assert_allclose(app.view("Red").GetFieldOfView()[:2], (30.0, 20.0))
    np.testing.assert_allclose(app.view("Red+").GetFieldOfView()[:2], (30.0, 20.0))
    for name, before in others.items():
        np.testing.assert_array_equal(matrix(app, name), before)


def test_it_is_set_up_again_over_what_was_there(
    app: Slicer, pair: tuple[Any, Any], views: ModuleType
) -> None:
    """Linked views with other volumes, panned and zoomed: each still gets its own."""
    scan, result = pair
    other = app.volume("other", (10, 10, 10), (9, 9, 9))
    views.side_by_side(app.scene, app, other, other)
    app.view("Green").SetXYZOrigin(5.0, 6.0, 0.0)
    app.composite("Yellow").SetLabelVolumeID(other.GetID())
    views.overlay(app.scene, other, 0.5)
    views.side_by_side(app.scene, app, scan, result)
    assert {shown(app, name) for name in ABOVE} == {(scan.GetID(), None, 0.0, None)}
    assert {shown(app, name) for name in BELOW} == {(result.GetID(), None, 0.0, None)}
    assert {app.view(name).GetXYZOrigin() for name in (*ABOVE, *BELOW)} == {(0.0, 0.0, 0.0)}


def test_a_moved_scan_is_found(app: Slicer, pair: tuple[Any, Any], views: ModuleType) -> None:
    scan, result = pair
    transform = app.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    moved = vtk.vtkMatrix4x4()
    moved.SetElement(0, 3, 400.0)
    views.side_by_side(app.scene, app, scan, result)
    before = matrix(app, "Red")[:3, 3]
    transform.SetMatrixTransformToParent(moved)
    for node in pair:
        node.SetAndObserveTransformNodeID(transform.GetID())
    views.side_by_side(app.scene, app, scan, result)
    np.testing.assert_allclose(matrix(app, "Red")[:3, 3] - before, (400.0, 0.0, 0.0), atol=1e-6)


def test_fading_from_one_to_the_other(app: Slicer, pair: tuple[Any, Any], views: ModuleType) -> None:
    scan, result = pair
    views.side_by_side(app.scene, app, scan, result)
    for share in (0.0, 0.3, 1.0):
        views.fade(app.scene, app, scan, result, share)
        assert {shown(app, name) for name in ABOVE} == {(scan.GetID(), result.GetID(), share, None)}
    assert app.laid_out[1:] == [LAYOUTS.SlicerLayoutFourUpView] * 3
    assert all(app.composite(name).GetLinkedControl() for name in ABOVE)
    views.fade(app.scene, app, scan, result, 7.0)
    assert shown(app, "Red")[2] == 1.0


def test_the_views_stay_where_the_user_has_moved_them_while_fading(
    app: Slicer, pair: tuple[Any, Any], views: ModuleType
) -> None:
    views.fade(app.scene, app, *pair, 0.2)
    app.view("Red").SetSliceOffset(3.0)
    app.view("Red").SetFieldOfView(30.0, 20.0, 1.0)
    before = matrix(app, "Red")
    views.fade(app.scene, app, *pair, 0.4)
    np.testing.assert_array_equal(matrix(app, "Red"), before)
    assert app.view("Red").GetFieldOfView()[0] == 30.0


def test_an_overlay_on_the_result_only(app: Slicer, pair: tuple[Any, Any], views: ModuleType) -> None:
    scan, result = pair
    uncertainty = app.volume("uncertainty", (60, 64, 48), (1, 1, 1))
    views.side_by_side(app.scene, app, scan, result)
    views.overlay(app.scene, uncertainty, 0.5)
    assert {shown(app, name) for name in BELOW} == {(result.GetID(), uncertainty.GetID(), 0.5, None)}
    assert {shown(app, name) for name in ABOVE} == {(scan.GetID(), None, 0.0, None)}
    assert app.composite("Red+").GetLinkedControl()
    views.overlay(app.scene, None, 0.5)
    assert {shown(app, name) for name in BELOW} == {(result.GetID(), None, 0.0, None)}
    views.overlay(app.scene, uncertainty, 0.25, ["Green"])
    assert shown(app, "Green") == (scan.GetID(), uncertainty.GetID(), 0.25, None)
    assert shown(app, "Red+")[1] is None


def test_without_views_nothing_is_touched(app: Slicer, pair: tuple[Any, Any], views: ModuleType) -> None:
    """A layout manager that makes none, as in a Slicer without its main window; then one of six that is missing."""
    scan, result = pair

    class Idle:
        def setLayout(self, layout: int) -> None:
            pass

    functions: list[Callable[[], None]] = [
        lambda: views.side_by_side(app.scene, Idle(), scan, result),
        lambda: views.fade(app.scene, Idle(), scan, result, 0.5),
        lambda: views.overlay(app.scene, result, 0.5),
    ]
    empty = slicer.vtkMRMLScene()
    views.side_by_side(empty, Idle(), scan, result)
    for call in functions:
        call()
    app.setLayout(LAYOUTS.SlicerLayoutThreeOverThreeView)
    app.scene.RemoveNode(app.composite("Yellow+"))
    for call in functions[::2]:
        call()
    rest = [name for name in (*ABOVE, *BELOW) if name != "Yellow+"]
    assert {shown(app, name)[0] for name in rest} == {None}
