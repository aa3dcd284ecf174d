"""Views set up to compare: real layout, slice and link logics of Slicer, without its windows."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import slicer
import vtk

PLANES = ("Sagittal", "Coronal", "Axial")
ABOVE = tuple(f"SRCycScan{plane}" for plane in PLANES)
BELOW = tuple(f"SRCycResult{plane}" for plane in PLANES)
LAYOUTS = slicer.vtkMRMLLayoutNode


class Slicer:
    """What of the application these views see: a scene, a layout manager, and slice logics behind each view."""

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
                self.logics[node.GetLayoutName()] = logic

    @property
    def layout(self) -> int:
        return int(self.layouts.GetLayoutNode().GetViewArrangement())

    def lay_out(self, width: int = 300, height: int = 200) -> None:
        """Give the views their sizes, as the application does in an event after setLayout()."""
        for logic in self.logics.values():
            logic.ResizeSliceNode(width, height)

    def shown_views(self) -> list[str]:
        """Give the views of the layout, in its order."""
        views = self.layouts.GetViewNodes()
        return [views.GetItemAsObject(row).GetLayoutName() for row in range(views.GetNumberOfItems())]

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
    """A scan and its result; slices that are more or less axial."""
    return app.volume("scan", (60, 64, 12), (1, 1, 4)), app.volume("result", (60, 64, 48), (1, 1, 1))


@pytest.fixture(scope="module")
def views() -> ModuleType:
    return importlib.import_module("SRCycLib.views")


@pytest.fixture
def comparison(app: Slicer, views: ModuleType) -> Iterator[Any]:
    app.setLayout(LAYOUTS.SlicerLayoutFourUpView)
    app.lay_out(600, 400)
    comparison = views.Comparison(app.scene, app)
    yield comparison
    comparison.close()


def side_by_side(app: Slicer, comparison: Any, pair: tuple[Any, Any]) -> None:
    """As the panel does it."""
    comparison.side_by_side(*pair)
    app.lay_out()
    comparison.fit()


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


def axes_of(volume: Any) -> np.ndarray:
    """Give the directions of a volume's axes in its columns."""
    found = vtk.vtkMatrix4x4()
    volume.GetIJKToRASDirectionMatrix(found)
    return np.array([[found.GetElement(i, k) for k in range(3)] for i in range(3)])


def filled(app: Slicer, name: str, volume: Any) -> tuple[float, float]:
    """Give the shares of a view's width and height that a volume fills; above 1: it is cropped."""
    inverse, bounds = vtk.vtkMatrix4x4(), [0.0] * 6
    vtk.vtkMatrix4x4.Invert(app.view(name).GetSliceToRAS(), inverse)
    volume.GetSliceBounds(bounds, inverse)
    field = app.view(name).GetFieldOfView()
    widest = [max(abs(bounds[2 * axis]), abs(bounds[2 * axis + 1])) / (field[axis] / 2) for axis in (0, 1)]
    return widest[0], widest[1]


def test_scan_above_and_result_below(app: Slicer, pair: tuple[Any, Any], comparison: Any) -> None:
    scan, result = pair
    side_by_side(app, comparison, pair)
    assert app.shown_views() == [*ABOVE, *BELOW]
    for above, below in zip(ABOVE, BELOW, strict=True):
        assert shown(app, above) == (scan.GetID(), None, 0.0, None)
        assert shown(app, below) == (result.GetID(), None, 0.0, None)
        np.testing.assert_array_equal(matrix(app, above), matrix(app, below))
        assert app.view(above).GetFieldOfView() == app.view(below).GetFieldOfView()
        assert app.view(above).GetXYZOrigin() == app.view(below).GetXYZOrigin()
        for name in (above, below):
            assert app.composite(name).GetLinkedControl()
            assert app.composite(name).GetHotLinkedControl()


@pytest.mark.parametrize(
    ("spacing", "first"),
    [
        ((1, 1, 4), ["Sagittal", "Coronal", "Axial"]),
        ((1, 4, 1), ["Sagittal", "Axial", "Coronal"]),
        ((4, 1, 1), ["Coronal", "Axial", "Sagittal"]),
    ],
)
def test_first_come_the_views_that_cut_through_all_slices(
    app: Slicer, comparison: Any, views: ModuleType, spacing: Any, first: list[str]
) -> None:
    scan = app.volume("scan", (30, 30, 30), spacing)
    assert views.planes_of(scan) == first
    comparison.side_by_side(scan, scan)
    assert [name.removeprefix("SRCycScan") for name in app.shown_views()[:3]] == first
    comparison.fade(scan, scan, 0.5)
    assert [name.removeprefix("SRCycScan") for name in app.shown_views()] == first


def test_an_oblique_scan_is_cut_along_its_own_planes(
    app: Slicer, pair: tuple[Any, Any], comparison: Any
) -> None:
    """Each view's axes are the scan's, so a thick slice is a row of pixels and not a staircase."""
    scan, _result = pair
    axes = axes_of(scan)
    assert np.abs(axes).max() < 0.99, "the scan is not oblique"
    side_by_side(app, comparison, pair)
    for name in (*ABOVE, *BELOW):
        along = np.abs(axes.T @ matrix(app, name)[:3, :3])
        np.testing.assert_allclose(along.max(axis=0), 1.0, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (301, 77)])
def test_all_of_the_scan_is_seen_in_the_sizes_that_come_later(
    app: Slicer, pair: tuple[Any, Any], comparison: Any, size: tuple[int, int]
) -> None:
    """The views have their sizes only after `setLayout()`: fitted before that, they crop what they show."""
    scan, _result = pair
    comparison.side_by_side(*pair)
    before = comparison.sizes()
    comparison.fit()
    app.lay_out(*size)
    assert comparison.sizes() != before
    comparison.fit()
    for name in (*ABOVE, *BELOW):
        assert max(filled(app, name, scan)) == pytest.approx(1.0), "all of it, and it fills the view"
        width, height, _ = app.view(name).GetFieldOfView()
        assert width / size[0] == pytest.approx(height / size[1]), "nothing is stretched"


def test_views_of_another_shape_show_at_least_as_much(
    app: Slicer, pair: tuple[Any, Any], comparison: Any
) -> None:
    comparison.side_by_side(*pair)
    app.lay_out()
    app.logics[BELOW[0]].ResizeSliceNode(150, 200)
    comparison.fit()
    above, below = (app.view(name).GetFieldOfView() for name in (ABOVE[0], BELOW[0]))
    assert below[0] == pytest.approx(above[0])
    assert below[1] >= above[1]
    assert below[0] / 150 == pytest.approx(below[1] / 200)


@pytest.mark.parametrize("leader", [ABOVE[0], BELOW[0]])
def test_one_view_takes_its_partner_along(
    leader: str, app: Slicer, pair: tuple[Any, Any], comparison: Any
) -> None:
    side_by_side(app, comparison, pair)
    others = {name: matrix(app, name) for name in (*ABOVE[1:], *BELOW[1:], "Red", "Green", "Yellow")}
    logic = app.logics[leader]
    logic.StartSliceOffsetInteraction()
    logic.SetSliceOffset(logic.GetSliceOffset() + 7.0)
    logic.EndSliceOffsetInteraction()
    np.testing.assert_array_equal(matrix(app, ABOVE[0]), matrix(app, BELOW[0]))
    logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.FieldOfViewFlag)
    app.view(leader).SetFieldOfView(30.0, 20.0, 1.0)
    logic.EndSliceNodeInteraction()
    np.testing.assert_allclose(app.view(ABOVE[0]).GetFieldOfView()[:2], (30.0, 20.0))
    np.testing.assert_allclose(app.view(BELOW[0]).GetFieldOfView()[:2], (30.0, 20.0))
    for name, before in others.items():
        np.testing.assert_array_equal(matrix(app, name), before)


def test_it_is_set_up_again_over_what_was_there(app: Slicer, pair: tuple[Any, Any], comparison: Any) -> None:
    """Linked views with other volumes, panned and zoomed: each still gets its own."""
    scan, result = pair
    other = app.volume("other", (10, 10, 10), (9, 9, 9))
    side_by_side(app, comparison, (other, other))
    app.view(ABOVE[1]).SetXYZOrigin(5.0, 6.0, 0.0)
    app.composite(ABOVE[2]).SetLabelVolumeID(other.GetID())
    comparison.overlay(other, scan, 0.5)
    side_by_side(app, comparison, pair)
    comparison.overlay(result, None, 0.0)
    side_by_side(app, comparison, pair)
    assert {shown(app, name) for name in ABOVE} == {(scan.GetID(), None, 0.0, None)}
    assert {shown(app, name) for name in BELOW} == {(result.GetID(), None, 0.0, None)}
    assert {app.view(name).GetXYZOrigin() for name in (*ABOVE, *BELOW)} == {(0.0, 0.0, 0.0)}


def test_a_moved_scan_is_found(app: Slicer, pair: tuple[Any, Any], comparison: Any) -> None:
    transform = app.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    moved = vtk.vtkMatrix4x4()
    moved.SetElement(0, 3, 400.0)
    side_by_side(app, comparison, pair)
    before = matrix(app, ABOVE[0])[:3, 3]
    transform.SetMatrixTransformToParent(moved)
    for node in pair:
        node.SetAndObserveTransformNodeID(transform.GetID())
    side_by_side(app, comparison, pair)
    np.testing.assert_allclose(matrix(app, ABOVE[0])[:3, 3] - before, (400.0, 0.0, 0.0), atol=1e-6)


def test_fading_from_one_to_the_other(app: Slicer, pair: tuple[Any, Any], comparison: Any) -> None:
    scan, result = pair
    side_by_side(app, comparison, pair)
    assert not comparison.fading
    for share in (0.0, 0.3, 1.0):
        comparison.fade(scan, result, share)
        assert {shown(app, name) for name in ABOVE} == {(scan.GetID(), result.GetID(), share, None)}
    assert comparison.fading and app.shown_views() == list(ABOVE)
    comparison.fade(scan, result, 7.0)
    assert shown(app, ABOVE[0])[2] == 1.0


def test_slicer_s_own_views_and_layout_are_as_before(
    app: Slicer, pair: tuple[Any, Any], comparison: Any
) -> None:
    """Layout, links, groups, and what each view shows and where."""
    names = ("Red", "Green", "Yellow")
    app.composite("Red").SetBackgroundVolumeID(pair[0].GetID())
    app.view("Green").SetFieldOfView(30.0, 20.0, 1.0)

    def state() -> list[Any]:
        return [app.layout] + [
            (
                shown(app, name),
                matrix(app, name).tolist(),
                app.view(name).GetFieldOfView()[:2],
                app.view(name).GetViewGroup(),
                app.view(name).GetOrientation(),
                app.composite(name).GetLinkedControl(),
                app.composite(name).GetHotLinkedControl(),
            )
            for name in names
        ]

    before = state()
    for _again in range(2):
        side_by_side(app, comparison, pair)
        comparison.fade(*pair, 0.4)
        assert comparison.active
        comparison.end()
        app.lay_out(600, 400)
        assert state() == before
        assert not comparison.active
    # Whoever has chosen another layout meanwhile keeps it.
    side_by_side(app, comparison, pair)
    app.setLayout(LAYOUTS.SlicerLayoutOneUpRedSliceView)
    assert not comparison.active
    comparison.end()
    assert app.layout == LAYOUTS.SlicerLayoutOneUpRedSliceView


def test_our_layout_is_in_no_scene_that_is_saved(
    app: Slicer, pair: tuple[Any, Any], comparison: Any, tmp_path: Path
) -> None:
    """A Slicer without this module does not know it, and would show nothing."""

    def saved_layouts() -> int:
        app.scene.SetURL(str(tmp_path / "scene.mrml"))
        assert app.scene.Commit()
        return (tmp_path / "scene.mrml").read_text().count("<Layout")

    assert saved_layouts() == 1
    side_by_side(app, comparison, pair)
    assert saved_layouts() == 0
    app.setLayout(LAYOUTS.SlicerLayoutOneUpRedSliceView)
    assert saved_layouts() == 1
    side_by_side(app, comparison, pair)
    comparison.end()
    assert saved_layouts() == 1


@pytest.mark.parametrize("layout", ["side by side", "fade", "Slicer's own"])
def test_the_uncertainty_lies_over_the_result_in_every_layout(
    app: Slicer, pair: tuple[Any, Any], comparison: Any, layout: str
) -> None:
    scan, result = pair
    uncertainty = app.volume("uncertainty", (60, 64, 48), (1, 1, 1))
    if layout == "side by side":
        side_by_side(app, comparison, pair)
        seen, others = BELOW, ABOVE
    elif layout == "fade":
        comparison.fade(scan, result, 0.3)
        seen, others = ABOVE, ()
    else:
        app.composite("Green").SetBackgroundVolumeID(result.GetID())
        app.composite("Red").SetBackgroundVolumeID(scan.GetID())
        seen, others = ("Green",), ("Red",)
    before = {name: shown(app, name) for name in (*seen, *others)}
    for opacity in (0.5, 0.8):
        comparison.overlay(result, uncertainty, opacity)
        assert {shown(app, name) for name in seen} == {(result.GetID(), uncertainty.GetID(), opacity, None)}
        assert {name: shown(app, name) for name in others} == {name: before[name] for name in others}
    comparison.overlay(result, uncertainty, 0.0)
    assert {name: shown(app, name) for name in before} == before
    # What was removed meanwhile does not come back.
    comparison.overlay(result, uncertainty, 0.5)
    app.scene.RemoveNode(uncertainty)
    comparison.overlay(result, None, 0.0)
    assert {name: shown(app, name) for name in before} == before


def test_without_views_nothing_is_touched(app: Slicer, pair: tuple[Any, Any], views: ModuleType) -> None:
    """A layout manager that makes none, or no layout manager, as in a Slicer without its main window."""

    class Idle:
        layout = 0

        def setLayout(self, layout: int) -> None:
            pass

    for scene, layouts in ((app.scene, Idle()), (slicer.vtkMRMLScene(), Idle()), (app.scene, None)):
        comparison = views.Comparison(scene, layouts)
        comparison.side_by_side(*pair)
        comparison.fade(*pair, 0.5)
        comparison.fit()
        comparison.overlay(pair[1], pair[1], 0.5)
        comparison.close()
