"""What remains of a run to be read: curves, pictures and the key facts, in its folder's ``report/``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from srcyc.config import TrainingConfig
from srcyc.evaluation.figure import Panel, comparison_figure, save_figure
from srcyc.evaluation.metrics import Truth
from srcyc.files import write_text
from srcyc.networks import Degradation
from srcyc.training.folder import MODEL_NAME
from srcyc.training.validation import Picture, Score
from srcyc.training.watch.recorder import HISTORY_NAME, read_history
from srcyc.volumes.volume import Volume

REPORT_NAME = "report"

#: Colours that are told apart by everybody (Okabe, Ito 2008), the first for the network.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_BASELINE, _BEST = "#6b7280", "#b8860b"
#: Up to this many points are marked one by one.
_MARKED = 40
_WIDTH, _HEIGHT = 7.0, 3.2
#: Metrics beside cubic interpolation's: heading, format, note.
_METRICS = {
    "psnr": ("PSNR, dB", ".2f", "more is better"),
    "ssim": ("SSIM", ".4f", "more is better"),
    "lpips": ("LPIPS", ".4f", "less is better"),
}
#: Metrics of held-back LR scans: heading and what it is.
_REAL = {
    "cycle": ("forward-cycle error", "mean |G_LR(G_HR(y)) - y|, normalised intensity"),
    "correction": ("correction of the slices", "||delta|| / ||y||"),
}
#: What a network is compared with, and how it is called.
_BASELINES = {"cubic": "cubic B-spline", "classical": "classical inverse"}
#: What G_LR has found out about the LR scans.
_DEGRADATION = {
    "profile_width": "profile width over the one told",
    "blur": "blur within the slices, FWHM in voxels",
    "noise": "noise, normalised intensity",
}
_NOT_LOSSES = {
    *("step", "seconds", "learning_rate"),
    *(prefix + m for prefix in ("", *(f"{b}_" for b in _BASELINES)) for m in _METRICS),
    *_REAL,
    *_DEGRADATION,
}

Row = Mapping[str, float]


@dataclass(frozen=True)
class _Best:
    step: int
    score: Score


@dataclass(frozen=True)
class _Curve:
    label: str
    steps: list[float]
    values: list[float]
    dashed: bool = False


@dataclass(frozen=True)
class _Chart:
    title: str
    unit: str
    curves: list[_Curve]
    logarithmic: bool = False


def write_report(
    folder: Path, config: TrainingConfig, pictures: Sequence[Picture], notes: Sequence[str] = ()
) -> list[Path]:
    """Write ``report/``: ``report.md``, ``curves.png`` and a PNG of each picture; what is there is replaced.

    Args:
        folder: of the run; its ``history.csv`` gives the numbers.
        config: of the run.
        pictures: of the best model.
        notes: further sentences for the reader, such as why the run ended early.

    Returns:
        the files written.

    Raises:
        OutputError: the folder cannot be written, or the history is missing or damaged.
    """
    report = folder / REPORT_NAME
    history = read_history(folder)
    best = _best(history, config.validation.key_metric)
    files = []
    if charts := _charts(history):
        files.append(_draw_curves(report / "curves.png", charts, best.step if best else None))
    source = f", step {best.step}" if best else ""
    for picture in pictures:
        path = _free_name(report, picture.name, taken=files)
        files.append(_draw_picture(path, picture, picture.name + source))
    lines = [
        f"# Training run {config.card.name}",
        "",
        *_facts(folder, config, history, best),
        *(f"- {note}" for note in notes),
        "",
        *_table(history, best.score if best else None),
        *(f"![{path.stem}]({path.name})\n" for path in files),
        "Not for diagnostic use.",
    ]
    return [write_text(report / "report.md", "\n".join(lines) + "\n"), *files]


def _best(history: Sequence[Row], metric: str) -> _Best | None:
    """Find the first of the best validations; what training started from is no candidate."""
    names = [field.name for field in fields(Score)]
    found: _Best | None = None
    for row in history:
        score = Score(**{name: row[name] for name in names if name in row})
        if row["step"] == 0 or score == Score():
            continue
        if math.isnan(score.key(metric)):
            continue
        if found is None or score.key(metric) > found.score.key(metric):
            found = _Best(int(row["step"]), score)
    return found


# -- text ----------------------------------------------------------------------------------------------------


def _facts(folder: Path, config: TrainingConfig, history: Sequence[Row], best: _Best | None) -> list[str]:
    metric = config.validation.key_metric
    last = history[-1] if history else {}
    done = int(last.get("step", 0))
    early = f" of {config.steps}" if done < config.steps else ""
    facts = [
        f"- mode: {config.mode}",
        f"- started from: {config.initial_model or 'untrained networks'}",
        f"- steps: {done}{early}, in {timedelta(seconds=round(last.get('seconds', 0.0)))} h",
    ]
    if best is None:
        facts.append("- model: the last one, since no person was held back to judge by")
    elif metric == "cycle":
        facts.append(f"- best model: of step {best.step}, forward-cycle error {best.score.cycle:.4g}")
    else:
        unit, digits = (" dB", ".2f") if metric == "psnr" else ("", ".4f")
        gain = best.score.key(metric)
        word = "better" if gain >= 0 else "worse"
        facts.append(
            f"- best model: of step {best.step}, by {metric.upper()} {abs(gain):{digits}}{unit} {word} than the "
            "classical inverse, which needs no network"
        )
    if all(name in last for name in _DEGRADATION):
        found = Degradation(width=last["profile_width"], blur=last["blur"], noise=last["noise"])
        facts.append(f"- G_LR found of the LR scans: {found}")
    if (folder / MODEL_NAME).exists():
        facts.append(f"- model file: `{MODEL_NAME}` in the run's folder")
    facts.append(f"- all numbers: `{HISTORY_NAME}` in the run's folder")
    return facts


def _table(history: Sequence[Row], best: Score | None) -> list[str]:
    """Give the score beside the baselines' and beside what training started from."""
    if best is None:
        return []
    first = history[0] if history and history[0]["step"] == 0 else {}
    found = best.as_row()
    lines: list[str] = []
    rows = [
        (
            heading,
            found[name],
            [found[f"{baseline}_{name}"] for baseline in _BASELINES],
            first.get(name),
            form,
            note,
        )
        for name, (heading, form, note) in _METRICS.items()
        if name in found and all(f"{baseline}_{name}" in found for baseline in _BASELINES)
    ]
    if rows:
        lines += [
            "Held-back HR scans, thick slices simulated (`validation.thicknesses`), inside the head:",
            "",
            f"| | best model | {' | '.join(_BASELINES.values())} | gain over classical | before training | |",
            "|---|---|---|---|---|---|---|",
        ]
        for heading, own, others, start, form, note in rows:
            before = "" if start is None else format(start, form)
            baselines = " | ".join(format(other, form) for other in others)
            gain = own - others[-1]
            lines.append(f"| {heading} | {own:{form}} | {baselines} | {gain:+{form}} | {before} | {note} |")
        lines.append("")
    real = [(*_REAL[name], found[name], first.get(name)) for name in _REAL if name in found]
    if real:
        lines += [
            "Held-back LR scans (less is better):",
            "",
            "| | best model | before training | |",
            "|---|---|---|---|",
        ]
        for heading, note, own, start in real:
            escaped = note.replace("|", "\\|")
            lines.append(f"| {heading} | {own:.4f} | {'' if start is None else f'{start:.4f}'} | {escaped} |")
        lines.append("")
    return lines


# -- pictures ------------------------------------------------------------------------------------------------


def _free_name(folder: Path, name: str, taken: Sequence[Path]) -> Path:
    """Give a picture of this name a file of its own."""
    stem = re.sub(r"[^\w.-]+", "_", name).strip("._") or "picture"
    path, number = folder / f"{stem}.png", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}_{number}.png"
    return path


def _draw_picture(path: Path, picture: Picture, headline: str) -> Path:
    truth = Truth(picture.truth)
    cubic, classical, own = (
        truth.quality(image).psnr for image in (picture.interpolated, picture.classical, picture.sr)
    )
    panels = [
        Panel(f"cubic B-spline\nPSNR {cubic:.2f} dB", picture.interpolated),
        Panel(f"classical inverse\nPSNR {classical:.2f} dB", picture.classical),
        Panel(f"super-resolved\nPSNR {own:.2f} dB ({own - classical:+.2f})", picture.sr),
    ]
    volume = Volume(picture.truth[None], picture.grid.affine)
    return comparison_figure(path, volume, panels, axis=2, headline=headline, all_planes=True)


def _charts(history: Sequence[Row]) -> list[_Chart]:
    """Sort what was measured into charts."""
    names = list(dict.fromkeys(name for row in history for name in row))
    losses = [name for name in names if name not in _NOT_LOSSES]
    judges = [name for name in losses if name.startswith("d_")]
    charts = [
        _Chart(
            "Generators",
            "loss term, unweighted",
            [_curve(history, name) for name in losses if name not in judges],
            logarithmic=True,
        ),
        _Chart("Discriminators", "loss", [_curve(history, name) for name in judges]),
    ]
    for metric, (unit, _, note) in _METRICS.items():
        curves = [_curve(history, metric, "network")]
        curves += [_curve(history, f"{b}_{metric}", name, dashed=True) for b, name in _BASELINES.items()]
        charts.append(_Chart(f"{metric.upper()} on held-back HR scans ({note})", unit, curves))
    charts += [
        _Chart(
            "Coming back to held-back LR scans (less is better)",
            "relative or normalised error",
            [_curve(history, name, heading) for name, (heading, _) in _REAL.items()],
            logarithmic=True,
        ),
        _Chart(
            "What G_LR found of the LR scans",
            "value",
            [_curve(history, name, heading) for name, heading in _DEGRADATION.items()],
            logarithmic=True,
        ),
        _Chart(
            "Learning rate of the generators",
            "learning rate",
            [_curve([row for row in history if row["step"] > 0], "learning_rate", "")],
        ),
    ]
    filled = [
        _Chart(chart.title, chart.unit, curves, chart.logarithmic)
        for chart in charts
        if (curves := [curve for curve in chart.curves if curve.steps])
    ]
    return filled


def _curve(history: Sequence[Row], name: str, label: str | None = None, *, dashed: bool = False) -> _Curve:
    rows = [row for row in history if name in row]
    if label is None:
        label = name.upper() if name.startswith("d_") else name.replace("_", " ")
        label = label.replace(" hr", " HR").replace(" lr", " LR")
    return _Curve(label, [row["step"] for row in rows], [row[name] for row in rows], dashed)


def _draw_curves(path: Path, charts: Sequence[_Chart], best_step: int | None) -> Path:
    columns = min(2, len(charts))
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    last = max(step for chart in charts for curve in chart.curves for step in curve.steps)
    for number, chart in enumerate(charts):
        axes = figure.add_subplot(rows, columns, number + 1)
        _plot(axes, chart, best_step)
        axes.set_xlim(0, max(last, 1) * 1.02)
    return save_figure(figure, path)


def _plot(axes: Axes, chart: _Chart, best_step: int | None) -> None:
    colours = iter(_COLOURS * (1 + len(chart.curves) // len(_COLOURS)))
    for curve in chart.curves:
        colour = _BASELINE if curve.dashed else next(colours)
        marker = "o" if len(curve.steps) <= _MARKED and not curve.dashed else ""
        axes.plot(
            curve.steps,
            curve.values,
            color=colour,
            linestyle="--" if curve.dashed else "-",
            linewidth=1.5,
            marker=marker,
            markersize=3,
            label=curve.label,
        )
    if best_step is not None and "held-back" in chart.title:
        axes.axvline(best_step, color=_BEST, linewidth=1, linestyle=":", label=f"best, step {best_step}")
    axes.set_title(chart.title, fontsize=11, weight="bold", loc="left")
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(chart.unit, fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if chart.logarithmic and all(value > 0 for curve in chart.curves for value in curve.values):
        axes.set_yscale("log")
    axes.grid(True, color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if any(curve.label for curve in chart.curves):
        # Beside the curves: inside it would lie on some of them.
        axes.legend(
            fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), borderaxespad=0.3
        )
