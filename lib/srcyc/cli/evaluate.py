"""`srcyc evaluate`: simulate thick slices, super-resolve them, compare with the truth and with interpolation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcyc.cli.console import EXIT_BAD_INPUT, EXIT_FAILURE, Console, show_error
from srcyc.cli.options import Device, MaxMemory, Precision, load_resolver, parse_numbers
from srcyc.cli.plan import find_sources, prepare_folder, remove_empty, unique_names
from srcyc.errors import ConfigError, InputError, OutputError

if TYPE_CHECKING:
    from rich.table import Table

    from srcyc.evaluation.benchmark import Comparison, Method
    from srcyc.evaluation.lpips import LPIPS
    from srcyc.evaluation.report import Mean, Row
    from srcyc.inference.super_resolver import SuperResolver
    from srcyc.volume import Volume


def evaluate(
    hr: Annotated[
        list[Path],
        typer.Option(
            "--hr", metavar="PATH...", help="Thin-slice scans, or folders of them.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results.", show_default=False)
    ],
    thickness: Annotated[
        str, typer.Option(metavar="MM,...", help="Slice thicknesses to simulate, separated by commas.")
    ] = "5",
    gap: Annotated[float, typer.Option(metavar="MM", help="Gap between neighbouring slices.", min=0.0)] = 0.0,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="NAME|PATH", help="Model to compare; repeatable.", show_default="the default"
        ),
    ] = None,
    consistency: Annotated[
        bool,
        typer.Option(help="Correct results so that their thick slices equal the scan's within its noise."),
    ] = True,
    lpips: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|torchvision",
            help="Measure LPIPS too, with these AlexNet weights ('torchvision': fetched on first use).",
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    max_memory: MaxMemory = None,
    figures: Annotated[bool, typer.Option(help="Draw a picture of every scan at every thickness.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Measure models where the truth is known.

    Thick slices are simulated from thin ones, brought back by interpolation (trilinear, cubic B-spline, and the
    latter corrected to agree with the scan) and by each model, and compared with the truth. Writes metrics.csv,
    metrics.json and a picture of each comparison. Exit code: 0 complete, 2 some scan could not be used, 1 something
    failed.
    """
    thicknesses = parse_numbers(thickness, option="--thickness", example="3,5")
    if not gap < float("inf"):
        raise ConfigError(f"--gap {gap:g}: give a finite gap in mm.")
    for name in ("metrics.json", "metrics.csv"):
        if (output / name).exists() and not overwrite:
            raise OutputError(
                f"{output / name}: already exists; choose another --output or give --overwrite."
            )
    console = Console(json=json)
    sources = find_sources(hr)
    codes = {show_error(error, str(given)) for given, error in sources.bad}
    if not sources.scans:
        raise typer.Exit(EXIT_BAD_INPUT)
    created = prepare_folder(output)
    try:
        resolvers = _resolvers(model or [None], device=device, precision=precision, max_memory=max_memory)
        perceptual = _lpips(lpips, device=device) if lpips is not None else None
        run = _Run(
            console,
            output,
            resolvers,
            perceptual,
            gap=gap,
            consistency=consistency,
            figures=figures,
        )
        codes |= run.all(sources.scans, thicknesses)
        if run.rows:
            report = run.finish()
            if json:
                console.answer(report)
    finally:
        remove_empty(created)
    if codes:
        raise typer.Exit(EXIT_FAILURE if EXIT_FAILURE in codes else EXIT_BAD_INPUT)


class _Run:
    """Scans and thicknesses one after the other; the numbers are gathered in ``rows``."""

    def __init__(
        self,
        console: Console,
        output: Path,
        resolvers: dict[str, SuperResolver],
        lpips: LPIPS | None,
        *,
        gap: float,
        consistency: bool,
        figures: bool,
    ) -> None:
        self._console = console
        self._output = output
        self._resolvers = resolvers
        self._lpips = lpips
        self._gap = gap
        self._consistency = consistency
        self._draw = figures
        self.rows: list[Row] = []
        self._figures: list[str] = []

    def all(self, paths: list[Path], thicknesses: list[float]) -> set[int]:
        """Evaluate everything; give the exit codes of what went wrong."""
        from srcyc.volume import read_volume

        codes: set[int] = set()
        for path, name in zip(paths, unique_names(paths), strict=True):
            try:
                scan = read_volume(path)
                for thickness in thicknesses:
                    try:
                        self._one(scan, name, thickness)
                    except InputError as error:  # the scan may do for another thickness
                        codes.add(show_error(error, str(path)))
            except Exception as error:  # noqa: BLE001 - one bad scan does not stop the rest
                codes.add(show_error(error, str(path)))
        return codes

    def finish(self) -> dict[str, Any]:
        """Print the table, write the numbers; give what ``metrics.json`` holds."""
        from srcyc.evaluation.report import report_of, write_report

        models = [
            {"name": name, "path": str(resolver.model.path), "sha256": resolver.model.sha256}
            for name, resolver in self._resolvers.items()
        ]
        report = report_of(self.rows, models=models, figures=self._figures)
        files = write_report(self._output, self.rows, report)
        self._console.say()
        self._console.table(_table(self.rows))
        self._console.say(
            f"PSNR and SSIM (3D) inside the head;{' LPIPS: less is better;' if self._lpips else ''} differences to "
            "cubic B-spline interpolation; consistency: ||A(result) - scan|| / ||scan||."
        )
        for row in self.rows:
            if not row.aligned:
                self._console.warn(f"{row.scan}, {row.thickness:g} mm, {row.method}: {_misalignment(row)}.")
        for path in [*files, *(self._output / name for name in self._figures)]:
            self._console.say(f"written: {path}")
        return report

    def _one(self, scan: Volume, name: str, thickness: float) -> None:
        from srcyc.evaluation.benchmark import compare
        from srcyc.evaluation.report import rows_of

        total, done = 3 + len(self._resolvers), 0
        with self._console.progress(f"{name}, {thickness:g} mm") as progress:

            def started(method: str) -> None:
                nonlocal done
                progress(done / total)
                done += 1

            comparison = compare(
                scan, thickness, self._methods(), gap=self._gap, lpips=self._lpips, progress=started
            )
        rows = rows_of(comparison, scan=name, thickness=thickness, gap=self._gap)
        self.rows += rows
        for warning in dict.fromkeys(w for row in rows for w in row.warnings):
            self._console.warn(f"{name}, {thickness:g} mm: {warning}")
        if self._draw:
            self._picture(comparison, rows, name, thickness)

    def _picture(self, comparison: Comparison, rows: list[Row], name: str, thickness: float) -> None:
        from srcyc.evaluation.benchmark import CUBIC
        from srcyc.evaluation.figure import Panel, comparison_figure

        shown = [row for row in rows if row.method in (CUBIC, *self._resolvers)]
        gap = f", gap {self._gap:g} mm" if self._gap else ""
        path = comparison_figure(
            self._output / f"{name}_{thickness:g}mm.png",
            comparison.truth,
            [Panel(f"{row.method}\n{_caption(row)}", comparison.images[row.method]) for row in shown],
            axis=comparison.axis,
            headline=f"{name}: brought back from simulated slices of {thickness:g} mm{gap}",
        )
        self._figures.append(path.name)

    def _methods(self) -> dict[str, Method]:
        return {name: self._method(resolver) for name, resolver in self._resolvers.items()}

    def _method(self, resolver: SuperResolver) -> Method:
        def method(thick: Volume, spacing: tuple[float, float, float]) -> tuple[Volume, list[str]]:
            # Forced: how a model does outside its range is a fair question here; its warnings are shown.
            result = resolver(thick, target_spacing=spacing, consistency=self._consistency, force=True)
            return result.volume, list(result.report.warnings)

        return method


def _resolvers(names: list[str] | list[None], **options: Any) -> dict[str, SuperResolver]:
    """Load the models; those of the same name are told apart by their files.

    Raises:
        ModelError: no such model, or not one.
    """
    loaded = [load_resolver(name, **options) for name in names]
    labels = [resolver.model.card.name for resolver in loaded]
    found: dict[str, SuperResolver] = {}
    for label, resolver in zip(labels, loaded, strict=True):
        own = label if labels.count(label) == 1 else f"{label} ({resolver.model.path.stem})"
        found[own if own not in found else f"{label} ({resolver.model.path})"] = resolver
    return found


def _lpips(weights: str, *, device: str) -> LPIPS:
    """Load LPIPS to the device that the models run on.

    Raises:
        ModelError: the weights cannot be read.
        SRCycError: the package is missing, or a download fails.
    """
    from srcyc.device import resolve_device
    from srcyc.evaluation.lpips import LPIPS

    return LPIPS(weights, resolve_device(device))


def _caption(row: Row) -> str:
    if row.delta_psnr == 0 and row.delta_ssim == 0:
        return f"PSNR {row.psnr:.2f} dB   SSIM {row.ssim:.3f}"
    return f"PSNR {row.psnr:.2f} dB ({row.delta_psnr:+.2f})   SSIM {row.ssim:.3f} ({row.delta_ssim:+.3f})"


def _table(rows: list[Row]) -> Table:
    from rich.table import Table

    from srcyc.evaluation.report import means_of

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2))
    table.add_column("slices")
    table.add_column("method")
    means = means_of(rows)
    perceptual = any(mean.lpips is not None for mean in means)
    for heading in (
        *("scans", "PSNR, dB", "difference", "SSIM", "difference"),
        *(("LPIPS", "difference") if perceptual else ()),
        "consistency",
    ):
        table.add_column(heading, justify="right")
    table.add_column("alignment")
    previous = None
    for mean in means:
        table.add_row(
            f"{mean.thickness:g} mm" if mean.thickness != previous else "",
            mean.method,
            str(mean.scans),
            f"{mean.psnr:.2f}",
            f"{mean.delta_psnr:+.2f}",
            f"{mean.ssim:.4f}",
            f"{mean.delta_ssim:+.4f}",
            *(_perceptual_cells(mean) if perceptual else ()),
            f"{mean.consistency:.4f}",
            "ok" if mean.aligned else "WRONG",
        )
        previous = mean.thickness
    return table


def _perceptual_cells(mean: Mean) -> tuple[str, str]:
    if mean.lpips is None or mean.delta_lpips is None:
        return "", ""
    return f"{mean.lpips:.4f}", f"{mean.delta_lpips:+.4f}"


def _misalignment(row: Row) -> str:
    if row.flipped:
        return "the result is mirrored against the truth"
    shift = ", ".join(f"{value:+.2f}" for value in (row.shift_i, row.shift_j, row.shift_k))
    return f"the result is shifted by {shift} voxels against the truth"
