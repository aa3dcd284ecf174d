"""Models measured on scans: what `srcyc evaluate` and `srcyc publish` have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcyc.cli.console import Console, show_error, worst
from srcyc.cli.options import Inference, parse_numbers
from srcyc.cli.plan import find_sources, unique_names
from srcyc.errors import ConfigError, InputError, VolumeError

if TYPE_CHECKING:
    from rich.table import Table

    from srcyc.evaluation.benchmark import Comparison, Method, Simulation
    from srcyc.evaluation.lpips import LPIPS
    from srcyc.evaluation.report import Mean
    from srcyc.evaluation.rows import Row, ThickRow
    from srcyc.evaluation.thick_scans import Examination, Model
    from srcyc.inference.super_resolver import SuperResolver
    from srcyc.volumes.volume import Volume

Thickness = Annotated[
    str, typer.Option(metavar="MM,...", help="Slice thicknesses to simulate, separated by commas.")
]
Gap = Annotated[float, typer.Option(metavar="MM", help="Gap between neighbouring slices.", min=0.0)]
Axis = Annotated[
    str | None,
    typer.Option(
        metavar="0|1|2,...",
        help="Array axis that is made thick; several, separated by commas, one after the other.",
        show_default="the one closest to head-foot",
    ),
]
Jitter = Annotated[
    float,
    typer.Option(
        metavar="FRACTION", help="Gain of each slice is off by this (standard deviation; 0.03: 3 %)."
    ),
]
Noise = Annotated[
    float, typer.Option(metavar="FRACTION", help="Noise on the slices, as a fraction of the scan's range.")
]
Blur = Annotated[
    float,
    typer.Option(metavar="FWHM", help="Gaussian blur within the slices, in their voxels."),
]
Box = Annotated[
    float,
    typer.Option(
        metavar="SHAPE", help="Slice profile between a Gaussian (0) and a box of the same width (1)."
    ),
]
Lpips = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|torchvision",
        help="Measure LPIPS too, with these AlexNet weights ('torchvision': fetched on first use).",
    ),
]
Regions = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Label map of regions (lesions, a tumour) of the scans: what is kept of their contrast is measured too.",
    ),
]
ThinScans = Annotated[
    list[Path] | None,
    typer.Option(metavar="PATH...", help="Thin-slice scans, or folders of them: slices are simulated."),
]
ThickScans = Annotated[
    list[Path] | None,
    typer.Option(metavar="PATH...", help="Real thick scans, or folders of them: no truth is known."),
]
#: Said of the columns on regions.
_REGIONS = " Regions: share of their contrast to what surrounds them that is kept; 1 is all of it."
#: And on the uncertainty.
_UNCERTAINTY = (
    " Uncertainty: its rank correlation with the absolute error, and the share of the squared error in the least "
    "certain tenth of the voxels."
)


def simulations(
    thickness: str,
    *,
    gap: float = 0.0,
    axis: str | None = None,
    jitter: float = 0.0,
    noise: float = 0.0,
    blur: float = 0.0,
    box: float = 0.0,
    told_ratio: float | None = None,
) -> list[Simulation]:
    """Read what is to be simulated: every thickness along every axis.

    Raises:
        ConfigError: a value that is none.
    """
    from srcyc.evaluation.benchmark import Simulation
    from srcyc.physics.simulation import Spoiling

    thicknesses = parse_numbers(thickness, option="--thickness", example="3,5")
    if not gap < float("inf"):
        raise ConfigError(f"--gap {gap:g}: give a finite gap in mm.")
    spoiling = Spoiling(jitter, noise, blur=blur, box=box)
    return [Simulation(mm, gap, each, spoiling, told_ratio) for each in _axes(axis) for mm in thicknesses]


def _axes(text: str | None) -> Sequence[int | None]:
    if text is None:
        return [None]
    parts = text.split(",")
    if any(part.strip() not in ("0", "1", "2") for part in parts):
        raise ConfigError(f"--axis {text!r}: give array axes 0, 1 or 2, for example 0 or 0,1.")
    return list(dict.fromkeys(int(part) for part in parts))


class Measurement:
    """Scans one after the other; the numbers are gathered in ``rows`` and ``thick_rows``.

    Args:
        console: shows what happens.
        resolvers: models by name.
        lpips: measure LPIPS too.
        regions: label map of regions whose contrast is measured too.
        wishes: fields of :class:`~srcyc.inference.options.InferenceOptions` for every call.
        pictures: an existing folder: draw every scan there.
    """

    def __init__(
        self,
        console: Console,
        resolvers: dict[str, SuperResolver],
        *,
        lpips: LPIPS | None = None,
        regions: Volume | None = None,
        wishes: dict[str, Any] | None = None,
        pictures: Path | None = None,
    ) -> None:
        self._console = console
        self._resolvers = resolvers
        self._lpips = lpips
        self._regions = regions
        self._wishes = wishes or {}
        self._pictures = pictures
        self.rows: list[Row] = []
        self.thick_rows: list[ThickRow] = []
        self.figures: list[str] = []

    def simulated(self, paths: Sequence[Path], cases: Sequence[Simulation]) -> set[int]:
        """Evaluate scans with a known truth; give the exit codes of what went wrong."""
        return self._each(paths, [partial(self._simulated, case=case) for case in cases])

    def thick(self, paths: Sequence[Path], *, slice_thickness: float | None = None) -> set[int]:
        """Examine real thick scans; give the exit codes of what went wrong."""
        return self._each(paths, [partial(self._thick, slice_thickness=slice_thickness)])

    def tell(self) -> None:
        """Print the tables, and what they mean."""
        if self.rows:
            self._console.say()
            self._console.table(_table(self.rows))
            lpips = " LPIPS: less is better;" if self._lpips else ""
            self._console.say(
                f"PSNR and SSIM (3D) inside the head;{lpips} differences to cubic B-spline interpolation, and to the "
                "classical inverse, which needs no network; consistency: ||A(result) - scan|| / ||scan||."
                f"{_REGIONS if self._regions else ''}{_UNCERTAINTY if self._wishes.get('uncertainty') else ''}"
            )
        if self.thick_rows:
            self._console.say()
            self._console.table(_thick_table(self.thick_rows))
            self._console.say(
                "Real scans, no truth is known. Slice gain: how much neighbouring slices differ in brightness (bands); "
                "about 1 % is anatomy. Correction: by how much the slices themselves were changed."
                f"{_REGIONS if self._regions else ''}"
            )
        for row in self.rows:
            if not row.aligned:
                self._console.warn(f"{row.scan}, {row.thickness:g} mm, {row.method}: {_misalignment(row)}.")

    def _each(self, paths: Sequence[Path], works: Sequence[Callable[[Volume, str], None]]) -> set[int]:
        codes: set[int] = set()
        for path, name in zip(paths, unique_names(paths), strict=True):
            try:
                scan = _read_whole(path)
                for work in works:
                    try:
                        work(scan, name)
                    except InputError as error:  # the scan may do for another thickness
                        codes.add(show_error(error, str(path)))
            except Exception as error:  # noqa: BLE001 - one bad scan does not stop the rest
                codes.add(show_error(error, str(path)))
        return codes

    def _simulated(self, scan: Volume, name: str, case: Simulation) -> None:
        from srcyc.evaluation.benchmark import CLASSICAL, CUBIC, compare
        from srcyc.physics.simulation import CLEAN

        axis = "" if case.axis is None else f", axis {case.axis}"
        label = f"{name}, {case.thickness:g} mm{axis}{', spoiled' if case.spoiling != CLEAN else ''}"
        methods = {key: self._method(resolver) for key, resolver in self._resolvers.items()}
        with _counted(self._console, label, 3 + len(methods)) as started:
            comparison = compare(
                scan, case, methods, name=name, lpips=self._lpips, regions=self._regions, progress=started
            )
        self.rows += comparison.rows
        self._warn(label, comparison.rows)
        if self._pictures:
            shown = [row for row in comparison.rows if row.method in (CUBIC, CLASSICAL, *self._resolvers)]
            self.figures.append(_draw_comparison(self._pictures, comparison, shown))

    def _thick(self, scan: Volume, name: str, slice_thickness: float | None) -> None:
        from srcyc.evaluation.thick_scans import examine

        models = {key: self._model(resolver, slice_thickness) for key, resolver in self._resolvers.items()}
        with _counted(self._console, name, len(models)) as started:
            examination = examine(scan, models, name=name, regions=self._regions, progress=started)
        self.thick_rows += examination.rows
        self._warn(name, examination.rows)
        if self._pictures:
            self.figures.append(_draw_examination(self._pictures, examination))

    def _warn(self, label: str, rows: Sequence[Row] | Sequence[ThickRow]) -> None:
        for warning in dict.fromkeys(text for row in rows for text in row.warnings):
            self._console.warn(f"{label}: {warning}")

    def _method(self, resolver: SuperResolver) -> Method:
        from srcyc.evaluation.benchmark import Answer

        def method(thick: Volume, spacing: tuple[float, float, float]) -> Answer:
            # Forced: how a model does outside its range is a fair question here; its warnings are shown.
            result = resolver(thick, target_spacing=spacing, force=True, **self._wishes)
            return Answer(result.volume, result.report.warnings, result.uncertainty)

        return method

    def _model(self, resolver: SuperResolver, slice_thickness: float | None) -> Model:
        return lambda scan, spacing: resolver(
            scan,
            target_spacing=spacing or "isotropic",
            slice_thickness=slice_thickness,
            force=True,
            **self._wishes,
        )


def find_scans(paths: Sequence[Path] | None) -> tuple[list[Path], set[int]]:
    """Expand folders; give the scans, and the exit codes of what is none (each was told)."""
    sources = find_sources(paths or [])
    return sources.scans, {show_error(error, str(given)) for given, error in sources.bad}


def load_resolvers(names: Sequence[str | None], **options: Any) -> dict[str, SuperResolver]:
    """Load the models; those of the same name are told apart by their files.

    Raises:
        ModelError: no such model, or not one.
    """
    loaded = [Inference(name, **options).load() for name in names]
    labels = [resolver.model.card.name for resolver in loaded]
    found: dict[str, SuperResolver] = {}
    for label, resolver in zip(labels, loaded, strict=True):
        own = label if labels.count(label) == 1 else f"{label} ({resolver.model.path.stem})"
        found[own if own not in found else f"{label} ({resolver.model.path})"] = resolver
    return found


def load_lpips(weights: str | None, *, device: str) -> LPIPS | None:
    """Load LPIPS, if asked for, to the device that the models run on.

    Raises:
        ModelError: the weights cannot be read.
        SRCycError: the package is missing, or a download fails.
    """
    from srcyc.device import resolve_device
    from srcyc.evaluation.lpips import LPIPS

    return None if weights is None else LPIPS(weights, resolve_device(device))


def exit_with(codes: set[int]) -> None:
    """End the command by the worst of the codes, if there is any."""
    if codes:
        raise typer.Exit(worst(codes))


@contextlib.contextmanager
def _counted(console: Console, label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show how far a piece of work is whose parts are told when they start."""
    done = 0
    with console.progress(label) as show:

        def started(_: str) -> None:
            nonlocal done
            show(done / total)
            done += 1

        yield started


# -- pictures and words --------------------------------------------------------------------------------------


def _draw_comparison(folder: Path, comparison: Comparison, rows: Sequence[Row]) -> str:
    """Draw a simulated scan; give the picture's name."""
    from srcyc.evaluation.figure import Panel, comparison_figure

    simulation, scan = comparison.simulation, rows[0].scan
    gap = f", gap {simulation.gap:g} mm" if simulation.gap else ""
    axis = "" if simulation.axis is None else f"_axis{simulation.axis}"
    path = comparison_figure(
        folder / f"{scan}_{simulation.thickness:g}mm{axis}.png",
        comparison.truth,
        [Panel(f"{row.method}\n{_caption(row)}", comparison.images[row.method]) for row in rows],
        axis=comparison.axis,
        headline=f"{scan}: brought back from simulated slices of {simulation.thickness:g} mm{gap}; in "
        "brackets: dB over the classical inverse",
    )
    return path.name


def _draw_examination(folder: Path, examination: Examination) -> str:
    """Draw a real scan; give the picture's name."""
    from srcyc.evaluation.figure import Panel, thick_scan_figure

    rows = examination.rows
    scan = rows[0].scan
    gains = {row.method: row.slice_gain for row in rows}
    path = thick_scan_figure(
        folder / f"{scan}_thick.png",
        examination.scan,
        examination.result,
        [
            Panel(f"{name}\n" + ("" if gain is None else f"slice gain {gain:.1f} %"), image)
            for name, image in examination.images.items()
            for gain in [gains.get(name)]
        ],
        headline=f"{scan}: {rows[0].thickness:.3g} mm slices, {rows[0].slice_spacing:.3g} mm apart",
    )
    return path.name


def _caption(row: Row) -> str:
    gain = f" ({row.psnr_over_classical:+.2f})" if row.psnr_over_classical else ""
    ssim = "" if row.ssim is None else f"   SSIM {row.ssim:.3f}"
    return f"PSNR {row.psnr:.2f} dB{gain}{ssim}"


def _table(rows: Sequence[Row]) -> Table:
    from rich.table import Table

    from srcyc.evaluation.report import means_of

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2))
    table.add_column("slices")
    table.add_column("method")
    means = means_of(rows)
    perceptual = any(mean.lpips is not None for mean in means)
    marked = any(row.kept is not None or row.kept_small is not None for row in rows)
    doubted = any(row.uncertainty_rank is not None for row in rows)
    for heading in (
        *(
            "scans",
            "PSNR, dB",
            "over cubic",
            "over classical",
            "least",
            "SSIM",
            "over cubic",
            "over classical",
        ),
        *(("LPIPS", "over cubic", "over classical") if perceptual else ()),
        *(("regions", "small ones") if marked else ()),
        *(("uncertainty", "error in it") if doubted else ()),
        "consistency",
    ):
        table.add_column(heading, justify="right")
    table.add_column("alignment")
    previous = None
    for mean in means:
        slices = _slices(mean)
        table.add_row(
            slices if slices != previous else "",
            mean.method,
            str(mean.rows),
            f"{mean.psnr:.2f}",
            f"{mean.psnr_over_cubic:+.2f}",
            f"{mean.psnr_over_classical:+.2f}",
            f"{mean.least_over_classical:+.2f}",
            *_cells(mean.ssim, mean.ssim_over_cubic, mean.ssim_over_classical),
            *(_cells(mean.lpips, mean.lpips_over_cubic, mean.lpips_over_classical) if perceptual else ()),
            *(_cells(mean.kept) + _cells(mean.kept_small) if marked else ()),
            *(_cells(mean.uncertainty_rank) + _cells(mean.uncertainty_share) if doubted else ()),
            f"{mean.consistency:.4f}",
            "ok" if mean.aligned else "WRONG",
        )
        previous = slices
    return table


def _slices(mean: Mean) -> str:
    words = ["all" if mean.thickness is None else f"{mean.thickness:g} mm"]
    words += [f"jitter {100 * mean.jitter:g} %"] if mean.jitter else []
    words += [f"noise {100 * mean.noise:g} %"] if mean.noise else []
    words += [f"blur {mean.blur:g} voxels"] if mean.blur else []
    words += [f"box {mean.box:g}"] if mean.box else []
    return ", ".join(words)


def _cells(value: float | None, *differences: float | None) -> list[str]:
    own = "" if value is None else f"{value:.4f}"
    return [own, *("" if difference is None else f"{difference:+.4f}" for difference in differences)]


def _thick_table(rows: Sequence[ThickRow]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2))
    table.add_column("scan")
    table.add_column("method")
    marked = any(row.kept is not None or row.kept_small is not None for row in rows)
    for heading in (
        *("slice gain, %", "of the scan's", "correction, %"),
        *(("regions", "small ones") if marked else ()),
    ):
        table.add_column(heading, justify="right")
    previous = None
    for row in rows:
        table.add_row(
            row.scan if row.scan != previous else "",
            row.method,
            "" if row.slice_gain is None else f"{row.slice_gain:.2f}",
            "" if row.slice_gain_over_scan is None else f"{row.slice_gain_over_scan:.2f}",
            f"{100 * row.correction:.2f}",
            *(_cells(row.kept) + _cells(row.kept_small) if marked else ()),
        )
        previous = row.scan
    return table


def _misalignment(row: Row) -> str:
    if row.flipped:
        return "the result is mirrored against the truth"
    shift = ", ".join(f"{value:+.2f}" for value in (row.shift_i, row.shift_j, row.shift_k))
    return f"the result is shifted by {shift} voxels against the truth"


def _read_whole(path: Path) -> Volume:
    """Read a scan that says something everywhere: what is measured on it is a mean over all of it.

    Raises:
        VolumeError: it cannot be read, is a label map, or lacks values or slices.
    """
    from srcyc.volumes.labels import require_scan
    from srcyc.volumes.missing import Missing
    from srcyc.volumes.volume import read_volume

    volume = read_volume(path)
    require_scan(volume)
    missing = Missing.of(volume)
    missing.require_whole(path)
    if missing.valueless.any():
        raise VolumeError(
            f"{path}: some voxels hold no value (NaN)", remedy="give a scan with values everywhere"
        )
    return volume
