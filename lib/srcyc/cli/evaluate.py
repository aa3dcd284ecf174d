"""`srcyc evaluate`: models beside what needs no network, where the truth is known and on real thick scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srcyc.cli.console import EXIT_BAD_INPUT, Console
from srcyc.cli.measuring import (
    Axis,
    Blur,
    Box,
    Gap,
    Jitter,
    Lpips,
    Measurement,
    Noise,
    Regions,
    Thickness,
    ThickScans,
    ThinScans,
    exit_with,
    find_scans,
    load_lpips,
    load_resolvers,
    simulations,
)
from srcyc.cli.options import Device, MaxMemory, Precision
from srcyc.cli.plan import prepare_folder, remove_empty
from srcyc.errors import ConfigError, OutputError


def evaluate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    hr: ThinScans = None,
    lr: ThickScans = None,
    thickness: Thickness = "5",
    gap: Gap = 0.0,
    axis: Axis = None,
    jitter: Jitter = 0.0,
    noise: Noise = 0.0,
    blur: Blur = 0.0,
    box: Box = 0.0,
    told_ratio: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="Slice thickness over slice distance that every method is told, right or wrong.",
            show_default="the true one",
        ),
    ] = None,
    slice_thickness: Annotated[
        float | None,
        typer.Option(
            metavar="MM",
            min=0.0,
            help="Slice thickness of the real thick scans.",
            show_default="what the file says, else an estimate from the scan",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|PATH", help="Model to compare; repeatable.", show_default="the default"),
    ] = None,
    consistency: Annotated[
        bool, typer.Option(help="Let models add only what the scan does not see, as `srcyc infer` does.")
    ] = True,
    correct_slices: Annotated[
        bool, typer.Option(help="Let models correct the slices themselves, as `srcyc infer` does.")
    ] = True,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Measure how well the models' uncertainty tells the error.")
    ] = False,
    lpips: Lpips = None,
    regions: Regions = None,
    device: Device = "auto",
    precision: Precision = "auto",
    max_memory: MaxMemory = None,
    figures: Annotated[bool, typer.Option(help="Draw a picture of every scan at every thickness.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Measure models beside what needs no network.

    Thick slices are simulated from thin scans (--hr), brought back by interpolation (trilinear, cubic B-spline), by the
    classical inverse (B-spline corrected by the pseudo-inverse of the scan's own acquisition) and by each model, and
    compared with the truth: what counts is the gain over the classical inverse. Of real thick scans (--lr) no truth is
    known; how much their slices differ in brightness is measured before and after.

    Writes metrics.csv, thick_scans.csv, metrics.json and a picture of each comparison. Exit code: 0 complete, 2 some
    scan could not be used, 1 something failed.
    """
    from srcyc.evaluation.report import REPORT_NAME, TABLE_NAME, THICK_TABLE_NAME, report_of, write_report
    from srcyc.volumes.volume import read_volume

    if not hr and not lr:
        raise ConfigError("no scan is given; give thin-slice scans as --hr, thick ones as --lr, or both.")
    cases = simulations(
        thickness,
        gap=gap,
        axis=axis,
        jitter=jitter,
        noise=noise,
        blur=blur,
        box=box,
        told_ratio=told_ratio,
    )
    for name in (REPORT_NAME, TABLE_NAME, THICK_TABLE_NAME):
        if (output / name).exists() and not overwrite:
            raise OutputError(
                f"{output / name}: already exists; choose another --output or give --overwrite."
            )
    console = Console(json=json)
    thin, codes = find_scans(hr)
    thick, more = find_scans(lr)
    codes |= more
    if not thin and not thick:
        raise typer.Exit(EXIT_BAD_INPUT)
    marked = None if regions is None else read_volume(regions)
    created = prepare_folder(output)
    try:
        resolvers = load_resolvers(model or [None], device=device, precision=precision, max_memory=max_memory)
        run = Measurement(
            console,
            resolvers,
            lpips=load_lpips(lpips, device=device),
            regions=marked,
            wishes={
                "consistency": consistency,
                "correct_slices": correct_slices,
                "uncertainty": uncertainty,
            },
            pictures=output if figures else None,
        )
        codes |= run.simulated(thin, cases)
        codes |= run.thick(thick, slice_thickness=slice_thickness)
        if run.rows or run.thick_rows:
            models = [
                {"name": name, "path": str(resolver.model.path), "sha256": resolver.model.sha256}
                for name, resolver in resolvers.items()
            ]
            report = report_of(run.rows, run.thick_rows, models=models, figures=run.figures)
            files = write_report(output, run.rows, report, run.thick_rows)
            for name in (TABLE_NAME, THICK_TABLE_NAME):
                if output / name not in files:
                    (output / name).unlink(missing_ok=True)  # of an earlier evaluation
            run.tell()
            for path in [*files, *(output / name for name in run.figures)]:
                console.say(f"written: {path}")
            if json:
                console.answer(report)
    finally:
        remove_empty(created)
    exit_with(codes)
