"""A training's curves in a real MRML scene."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import slicer
from vtk.util.numpy_support import vtk_to_numpy

KINDS = ("vtkMRMLTableNode", "vtkMRMLPlotSeriesNode", "vtkMRMLPlotChartNode")

HISTORY: list[dict[str, Any]] = [
    {
        "step": 0,
        "seconds": 1.0,
        "learning_rate": 1e-4,
        "psnr": 30.0,
        "cubic_psnr": 31.0,
        "classical_psnr": 31.5,
        "ssim": 0.9,
        "cycle": 0.1,
    },
    {"step": 2, "seconds": 2.0, "learning_rate": 1e-4, "cycle_hr": 0.5, "d_hr": 0.7},
    {"step": 4, "seconds": 3.0, "learning_rate": 1e-4, "cycle_hr": 0.4, "d_hr": None},
    {
        "step": 8,
        "seconds": 9.0,
        "learning_rate": 1e-4,
        "cycle_hr": 0.3,
        "d_hr": 0.6,
        "psnr": 32.5,
        "cubic_psnr": 31.0,
        "classical_psnr": 31.5,
    },
]
STATS = {"run": "mine", "state": "running", "history": HISTORY}


@pytest.fixture
def charts(library: Callable[[str], ModuleType]) -> ModuleType:
    """The module under test."""
    return library("charts")


def nodes(scene: Any, kind: str) -> list[Any]:
    return [scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind))]


def curves(chart: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Give what a chart draws: x and y of each of its series, by the way that Slicer's plot view goes."""
    drawn = {}
    for index in range(chart.GetNumberOfPlotSeriesNodes()):
        series = chart.GetNthPlotSeriesNode(index)
        table = series.GetTableNode().GetTable()
        x, y = (table.GetColumnByName(name) for name in (series.GetXColumnName(), series.GetYColumnName()))
        assert x is not None
        assert y is not None
        drawn[series.GetName()] = (list(vtk_to_numpy(x)), list(vtk_to_numpy(y)))
    return drawn


def chart_of(scene: Any, word: str) -> Any:
    return next(chart for chart in nodes(scene, KINDS[2]) if word in chart.GetTitle())


def test_the_curves_are_the_history(scene: Any, charts: ModuleType) -> None:
    chart = charts.update(scene, STATS)
    assert chart is chart_of(scene, "PSNR")
    assert "mine" in chart.GetTitle()
    assert curves(chart) == {
        "network": ([0, 8], [30.0, 32.5]),
        "classical inverse": ([0, 8], [31.5, 31.5]),
        "cubic interpolation": ([0, 8], [31.0, 31.0]),
    }
    assert curves(chart_of(scene, "Losses")) == {
        "cycle hr": ([2, 4, 8], [0.5, 0.4, 0.3]),
        "d hr": ([2, 8], [0.7, 0.6]),
    }
    network, cubic = (chart.GetNthPlotSeriesNode(index) for index in (0, 1))
    assert cubic.GetLineStyle() == slicer.vtkMRMLPlotSeriesNode.LineStyleDash
    assert network.GetLineStyle() == slicer.vtkMRMLPlotSeriesNode.LineStyleSolid
    assert network.GetColor() != cubic.GetColor()
    assert network.GetPlotType() == slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter
    assert "step" in chart.GetXAxisTitle()
    assert "dB" in chart.GetYAxisTitle()


def test_called_again_it_updates_the_nodes(scene: Any, charts: ModuleType) -> None:
    first = charts.update(scene, {**STATS, "history": HISTORY[:2]})
    before = {kind: [node.GetID() for node in nodes(scene, kind)] for kind in KINDS}
    assert curves(first)["network"] == ([0], [30.0])
    second = charts.update(scene, STATS)
    assert second is first
    assert {kind: [node.GetID() for node in nodes(scene, kind)] for kind in KINDS} == before
    assert curves(second)["network"] == ([0, 8], [30.0, 32.5])
    assert len({node.GetID() for node in nodes(scene, KINDS[0])}) == 5

    changed = []
    second.AddObserver("ModifiedEvent", lambda *_: changed.append(1))
    charts.update(scene, STATS)
    assert len(changed) <= 3, "a chart that flickers at every look"


def test_another_training_shows_its_own_curves(scene: Any, charts: ModuleType) -> None:
    charts.update(scene, STATS)
    other = {"run": "other", "history": [{"step": 3, "pixel": 0.25}]}
    chart = charts.update(scene, other)
    assert chart is chart_of(scene, "Losses")
    assert "other" in chart.GetTitle()
    assert curves(chart) == {"pixel": ([3], [0.25])}
    assert curves(chart_of(scene, "PSNR")) == {}


@pytest.mark.parametrize(
    "stats", [{}, {"state": "none"}, {"history": None}, {"history": []}, {"history": [{}]}]
)
def test_nothing_to_show(stats: dict[str, Any], scene: Any, charts: ModuleType) -> None:
    assert charts.find(scene) is None
    assert curves(charts.update(scene, stats)) == {}
    assert charts.find(scene) is not None


def test_charts_are_found_again_in_a_saved_scene(scene: Any, charts: ModuleType, tmp_path: Any) -> None:
    charts.update(scene, STATS)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.Commit()
    again = slicer.vtkMRMLScene()
    again.SetURL(str(tmp_path / "scene.mrml"))
    again.Import()
    count = again.GetNumberOfNodes()
    chart = charts.update(again, STATS)
    assert again.GetNumberOfNodes() == count
    assert curves(chart)["network"] == ([0, 8], [30.0, 32.5])


def test_they_are_shown_one_above_the_other(scene: Any, charts: ModuleType) -> None:
    layouts = slicer.vtkMRMLLayoutLogic()
    layouts.SetMRMLScene(scene)
    node = layouts.GetLayoutNode()
    manager = SimpleNamespace(setLayout=node.SetViewArrangement)
    for _ in range(2):
        chart = charts.update(scene, STATS)
        charts.show(scene, manager, chart)
        views = nodes(scene, "vtkMRMLPlotViewNode")
        shown = {view.GetPlotChartNodeID() for view in views}
        assert shown == {chart_of(scene, "PSNR").GetID(), chart_of(scene, "Losses").GetID()}
        node.SetViewArrangement(node.SlicerLayoutFourUpView)

    # Without anybody held back, there is one chart only.
    charts.show(scene, manager, charts.update(scene, {"history": [{"step": 3, "pixel": 0.25}]}))
    shown = {view.GetPlotChartNodeID() for view in nodes(scene, "vtkMRMLPlotViewNode")}
    assert shown == {chart_of(scene, "Losses").GetID()}


def test_without_a_layout_nothing_is_shown(scene: Any, charts: ModuleType) -> None:
    charts.show(scene, SimpleNamespace(), charts.update(scene, STATS))
