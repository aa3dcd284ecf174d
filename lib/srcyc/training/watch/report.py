"""What remains of a run to be read: curves, pictures and the key facts, in its folder's ``report/``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
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
_NOT_LOSSES = {"step", "seconds", "learning_rate", *(field.name for field in fields(Score)), *_DEGRADATION}

Row = Mapping[str, float]


@dataclass(frozen=True)
class _Chart:
    """Columns of the history that belong together; ``curves`` are their labels by name."""

    title: str
    unit: str
    curves: Mapping[str, str]
    logarithmic: bool = False


def write_report(
    folder: Path,
    config: TrainingConfig,
    best_step: int,
    pictures: Sequence[Picture],
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write ``report/``: ``report.md``, ``curves.png`` and a PNG of each picture; what is there is replaced.

    Args:
        folder: of the run; its ``history.csv`` gives the numbers.
        config: of the run.
        best_step: at which the best model came; 0 if none has.
        pictures: of the best model.
        notes: further sentences for the reader, such as why the run ended early.

    Returns:
        the files written.

    Raises:
        OutputError: the folder cannot be written, or the history is missing or damaged.
    """
    report = folder / REPORT_NAME
    history = read_history(folder)
    best = _score(history, best_step) if best_step else None
    files = []
    if charts := _charts(history):
        files.append(_draw_curves(report / "curves.png", charts, history, best_step if best else None))
    source = f", step {best_step}" if best else ""
    for picture in pictures:
        path = _free_name(report, picture.name, taken=files)
        files.append(_draw_picture(path, picture, picture.name + source))
    lines = [
        f"# Training run {config.card.name}",
        "",
        *_facts(folder, config, history, best_step, best),
        *(f"- {note}" for note in notes),
        "",
        *(_table(history, best) if best else []),
        *(f"![{path.stem}]({path.name})\n" for path in files),
        "Not for diagnostic use.",
    ]
    return [write_text(report / "report.md", "\n".join(lines) + "\n"), *files]


def _score(history: Sequence[Row], step: int) -> Score | None:
    """Give what was measured at a step."""
    names = [field.name for field in fields(Score)]
    found = [{name: row[name] for name in names if name in row} for row in history if row["step"] == step]
    return Score(**found[0]) if any(found) else None


# -- text ----------------------------------------------------------------------------------------------------


def _facts(
    folder: Path, config: TrainingConfig, history: Sequence[Row], best_step: int, best: Score | None
) -> list[str]:
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
        facts.append(f"- best model: of step {best_step}, forward-cycle error {best.cycle:.4g}")
    else:
        unit, digits = (" dB", ".2f") if metric == "psnr" else ("", ".4f")
        gain = best.key(metric)
        word = "better" if gain >= 0 else "worse"
        facts.append(
            f"- best model: of step {best_step}, by {metric.upper()} {abs(gain):{digits}}{unit} {word} than the "
            "classical inverse, which needs no network"
        )
    if all(name in last for name in _DEGRADATION):
        found = Degradation(width=last["profile_width"], blur=last["blur"], noise=last["noise"])
        facts.append(f"- G_LR found of the LR scans: {found}")
    if (folder / MODEL_NAME).exists():
        facts.append(f"- model file: `{MODEL_NAME}` in the run's folder")
    facts.append(f"- all numbers: `{HISTORY_NAME}` in the run's folder")
    return facts


def _table(history: Sequence[Row], best: Score) -> list[str]:
    """Give the score beside the baselines' and beside what training started from."""
    first = history[0] if history[0]["step"] == 0 else {}
    found = best.as_row()
    lines: list[str] = []
    compared = {name: [f"{baseline}_{name}" for baseline in _BASELINES] for name in _METRICS}
    measured = [name for name, others in compared.items() if found.keys() >= {name, *others}]
    if measured:
        lines += [
            "Held-back HR scans, thick slices simulated (`validation.thicknesses`), inside the head:",
            "",
            f"| | best model | {' | '.join(_BASELINES.values())} | gain over classical | before training | |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in measured:
            heading, form, note = _METRICS[name]
            own, others = found[name], [found[other] for other in compared[name]]
            before = format(first[name], form) if name in first else ""
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
    measured = dict.fromkeys(name for row in history for name in row if _is_drawn(row, name))
    losses = [name for name in measured if name not in _NOT_LOSSES]
    judges = {name: name.upper() for name in losses if name.startswith("d_")}
    terms = {
        name: name.replace("_", " ").replace(" hr", " HR").replace(" lr", " LR")
        for name in losses
        if name not in judges
    }
    charts = [
        _Chart("Generators", "loss term, unweighted", terms, logarithmic=True),
        _Chart("Discriminators", "loss", judges),
        *(
            _Chart(
                f"{metric.upper()} on held-back HR scans ({note})",
                unit,
                {metric: "network", **{f"{b}_{metric}": name for b, name in _BASELINES.items()}},
            )
            for metric, (unit, _, note) in _METRICS.items()
        ),
        _Chart(
            "Coming back to held-back LR scans (less is better)",
            "relative or normalised error",
            {name: heading for name, (heading, _) in _REAL.items()},
            logarithmic=True,
        ),
        _Chart("What G_LR found of the LR scans", "value", _DEGRADATION, logarithmic=True),
        _Chart("Learning rate of the generators", "learning rate", {"learning_rate": ""}),
    ]
    filled = [
        replace(chart, curves={name: label for name, label in chart.curves.items() if name in measured})
        for chart in charts
    ]
    return [chart for chart in filled if chart.curves]


def _is_drawn(row: Row, name: str) -> bool:
    """Whether a cell of the history is a point of a curve: before the first step there is no learning rate."""
    return name in row and (row["step"] > 0 or name != "learning_rate")


def _draw_curves(path: Path, charts: Sequence[_Chart], history: Sequence[Row], best_step: int | None) -> Path:
    columns = min(2, len(charts))
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for number, chart in enumerate(charts):
        _plot(figure.add_subplot(rows, columns, number + 1), chart, history, best_step)
    return save_figure(figure, path)


def _plot(axes: Axes, chart: _Chart, history: Sequence[Row], best_step: int | None) -> None:
    colours = itertools.cycle(_COLOURS)
    positive = True
    for name, label in chart.curves.items():
        points = [(row["step"], row[name]) for row in history if _is_drawn(row, name)]
        positive &= all(value > 0 for _, value in points)
        baseline = name.startswith(tuple(_BASELINES))
        axes.plot(
            *zip(*points, strict=True),
            color=_BASELINE if baseline else next(colours),
            linestyle="--" if baseline else "-",
            linewidth=1.5,
            marker="o" if len(points) <= _MARKED and not baseline else "",
            markersize=3,
            label=label,
        )
    if best_step is not None and "held-back" in chart.title:
        axes.axvline(best_step, color=_BEST, linewidth=1, linestyle=":", label=f"best, step {best_step}")
    axes.set_xlim(0, max(history[-1]["step"], 1) * 1.02)
    axes.set_title(chart.title, fontsize=11, weight="bold", loc="left")
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(chart.unit, fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if chart.logarithmic and positive:
        axes.set_yscale("log")
    axes.grid(True, color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if any(chart.curves.values()):
        # Beside the curves: inside it would lie on some of them.
        axes.legend(
            fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), borderaxespad=0.3
        )
