"""A training's curves as MRML: tables, series and charts, made once and then kept up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

#: Attribute of all nodes made here; its value says which one it is.
_ROLE = "SRCyc.Training"

#: Numbers of a row of the history that are no losses.
_MEASURED = ("psnr", "ssim", "lpips")
_NO_LOSSES = frozenset(
    (
        *("step", "seconds", "learning_rate", "cycle", "correction"),
        *(prefix + name for prefix in ("", "cubic_", "classical_") for name in _MEASURED),
    )
)

#: Colours that everybody can tell apart (Okabe and Ito).
_COLOURS = (
    (0.00, 0.45, 0.70),
    (0.84, 0.37, 0.00),
    (0.00, 0.62, 0.45),
    (0.80, 0.47, 0.65),
    (0.90, 0.62, 0.00),
    (0.34, 0.71, 0.91),
    (0.00, 0.00, 0.00),
)
_GREY = (0.5, 0.5, 0.5)
#: Up to so many points are marked one by one.
_MARKED = 40

#: Our layout: both charts, one above the other; a number that no other module has.
_LAYOUT = 59201
_PLOT = (
    '<item><view class="vtkMRMLPlotViewNode" singletontag="SRCyc{name}">'
    '<property name="viewlabel" action="default">{label}</property></view></item>'
)
_DESCRIPTION = (
    '<layout type="vertical">'
    + _PLOT.format(name="Quality", label="Q")
    + _PLOT.format(name="Losses", label="L")
    + "</layout>"
)


@dataclass(frozen=True)
class _Curve:
    key: str
    label: str
    dashed: bool = False


def update(scene: Any, stats: dict[str, Any]) -> Any:
    """Show the history of a training.

    Args:
        scene: gets the nodes; those that are there already are changed.
        stats: of the server; ``history`` has a row per step reported.

    Returns:
        the chart of the quality on held-back scans, or that of the losses where nothing is held back.
    """
    history = [row for row in stats.get("history") or () if "step" in row]
    names = dict.fromkeys(name for row in history for name in row)
    losses = [_Curve(name, name.replace("_", " ")) for name in names if name not in _NO_LOSSES]
    quality = [
        _Curve("psnr", _("network")),
        _Curve("classical_psnr", _("classical inverse"), dashed=True),
        _Curve("cubic_psnr", _("cubic interpolation"), dashed=True),
    ]
    run = str(stats.get("run") or "")
    losses_chart = _chart(
        scene, "Losses", losses, history, _("Losses of {run}").format(run=run), _("loss term, unweighted")
    )
    quality_chart = _chart(
        scene,
        "Quality",
        [curve for curve in quality if curve.key in names],
        history,
        _("PSNR of {run} on held-back scans").format(run=run),
        _("PSNR, dB (more is better)"),
    )
    return quality_chart if quality_chart.GetNumberOfPlotSeriesNodes() else losses_chart


def find(scene: Any) -> Any:
    """Give the chart of the losses if there is one, else None."""
    return _found(scene, "vtkMRMLPlotChartNode", "Losses")


def show(scene: Any, layout_manager: Any, chart: Any) -> None:
    """Show the charts instead of the slice views; a chart without curves is left out.

    Args:
        scene: of the charts.
        layout_manager: Slicer's.
        chart: that :func:`update` has given.
    """
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is None:
        return
    if not layout.IsLayoutDescription(_LAYOUT):
        layout.AddLayoutDescription(_LAYOUT, _DESCRIPTION)
    layout_manager.setLayout(_LAYOUT)
    kind = "vtkMRMLPlotViewNode"
    for index in range(scene.GetNumberOfNodesByClass(kind)):
        view = scene.GetNthNodeByClass(index, kind)
        role = (view.GetLayoutName() or "").replace("SRCyc", "", 1)
        own = _found(scene, "vtkMRMLPlotChartNode", role)
        if own is not None:
            view.SetPlotChartNodeID((own if own.GetNumberOfPlotSeriesNodes() else chart).GetID())


def _chart(
    scene: Any, role: str, curves: Sequence[_Curve], history: list[dict[str, Any]], title: str, axis: str
) -> Any:
    """Make or update a chart, its series and their tables."""
    chart = _node(scene, "vtkMRMLPlotChartNode", role, f"SRCyc {role.lower()}")
    with slicer.util.NodeModify(chart):
        chart.SetTitle(title)
        chart.SetXAxisTitle(_("step"))
        chart.SetYAxisTitle(axis)
        series = [
            _series(scene, f"{role}.{curve.key}", curve, index, history) for index, curve in enumerate(curves)
        ]
        wanted = [each.GetID() for each in series]
        if [
            chart.GetNthPlotSeriesNodeID(index) for index in range(chart.GetNumberOfPlotSeriesNodes())
        ] != wanted:
            chart.RemoveAllPlotSeriesNodeIDs()
            for each in wanted:
                chart.AddAndObservePlotSeriesNodeID(each)
    return chart


def _series(scene: Any, role: str, curve: _Curve, index: int, history: list[dict[str, Any]]) -> Any:
    """Make or update one curve: a table of its own, since not every step has every number."""
    points = [(row["step"], row[curve.key]) for row in history if row.get(curve.key) is not None]
    table = _node(scene, "vtkMRMLTableNode", role, f"SRCyc {curve.label}")
    columns = np.array(points, dtype=float).reshape(-1, 2)
    slicer.util.updateTableFromArray(table, columns, ["step", curve.label])
    series = _node(scene, "vtkMRMLPlotSeriesNode", role, curve.label)
    with slicer.util.NodeModify(series):
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName("step")
        series.SetYColumnName(curve.label)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        dash, solid = slicer.vtkMRMLPlotSeriesNode.LineStyleDash, slicer.vtkMRMLPlotSeriesNode.LineStyleSolid
        series.SetLineStyle(dash if curve.dashed else solid)
        circle, nothing = (
            slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle,
            slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone,
        )
        series.SetMarkerStyle(circle if len(points) <= _MARKED else nothing)
        series.SetColor(*(_GREY if curve.dashed else _COLOURS[index % len(_COLOURS)]))
    return series


def _node(scene: Any, kind: str, role: str, name: str) -> Any:
    """Give the node of a role, a new one if there is none."""
    node = _found(scene, kind, role)
    if node is None:
        node = scene.AddNewNodeByClass(kind, name)
        node.SetAttribute(_ROLE, role)
    return node


def _found(scene: Any, kind: str, role: str) -> Any:
    nodes = (scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind)))
    return next((node for node in nodes if node.GetAttribute(_ROLE) == role), None)
