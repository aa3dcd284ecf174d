"""`srcyc publish`: measure a model, write its scores into its card, and the card as a page beside it."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srcyc._version import __version__
from srcyc.cli.console import Console
from srcyc.cli.measuring import (
    Axis,
    Jitter,
    Lpips,
    Measurement,
    Noise,
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
from srcyc.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from srcyc.models.card import ModelCard

#: Suffix of the page beside a model.
PAGE_SUFFIX = ".md"


def publish(
    model: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="The model: of a training, or one that is published.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT.safetensors", help="File to write."),
    ],
    hr: ThinScans = None,
    lr: ThickScans = None,
    thickness: Thickness = "3,4,5,6",
    axis: Axis = None,
    jitter: Jitter = 0.0,
    noise: Noise = 0.0,
    lpips: Lpips = None,
    name: Annotated[str | None, typer.Option(help="Name on the card.", show_default="the output's")] = None,
    title: Annotated[str | None, typer.Option(help="One line for lists.", show_default="the model's")] = None,
    licence: Annotated[
        str | None, typer.Option(help="SPDX identifier of the weights.", show_default="the model's")
    ] = None,
    contrast: Annotated[
        list[str] | None,
        typer.Option(help="MR contrast it was trained on; repeatable.", show_default="the model's"),
    ] = None,
    trained_on: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Data, in words.", show_default="the model's")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", help="Where the page goes.", show_default="beside the model"),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    max_memory: MaxMemory = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the card as one JSON document.")] = False,
) -> None:
    """Measure a model and publish it with its scores.

    The model is evaluated as by `srcyc evaluate`, on thin scans that did not train it (--hr), and on real thick ones if
    there are any (--lr). With --jitter or --noise slices are simulated twice: clean, and spoiled. The scores become a
    part of the model's card, which is written as a page too. If any scan cannot be used, nothing is written. Exit code:
    0 published, 2 bad input, 1 something failed.
    """
    from srcyc.evaluation.report import scores_of, thick_scores_of
    from srcyc.files import write_text
    from srcyc.models.card import ModelCard
    from srcyc.models.card_page import card_page
    from srcyc.models.model_file import SUFFIX, load_model, publish_model

    if not hr:
        raise ConfigError("no scan to measure the model on; give thin-slice scans as --hr.")
    if output.suffix != SUFFIX:
        raise OutputError(f"{output}: a model file's name ends in {SUFFIX}; choose such a name.")
    page = card or output.with_suffix(PAGE_SUFFIX)
    for path in (output, page):
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists already; choose another name or give --overwrite.")
    cases = simulations(thickness, axis=axis)
    if jitter or noise:
        cases += simulations(thickness, axis=axis, jitter=jitter, noise=noise)
    console = Console(json=json)
    (thin, codes), (thick, more) = find_scans(hr), find_scans(lr)
    exit_with(codes | more)
    resolvers = load_resolvers([model], device=device, precision=precision, max_memory=max_memory)
    ((label, resolver),) = resolvers.items()
    run = Measurement(console, resolvers, lpips=load_lpips(lpips, device=device))
    codes = run.simulated(thin, cases) | run.thick(thick)
    if codes:
        console.warn(f"{output}: not written, for not every scan could be measured.")
    exit_with(codes)
    changes = {
        "title": title,
        "licence": licence,
        "contrasts": contrast and tuple(contrast),
        "trained_on": trained_on,
    }
    published = ModelCard(
        **{
            **dict(resolver.model.card),
            **{key: value for key, value in changes.items() if value},
            "name": name or output.stem,
            "scores": scores_of(run.rows, label),
            "thick_scans": thick_scores_of(run.thick_rows, label),
            "created": datetime.now(timezone.utc).date().isoformat(),
            "software": f"srcyc {__version__}",
        }
    )
    publish_model(resolver.model.network, published, output, overwrite=overwrite)
    write_text(page, card_page(load_model(output)))
    run.tell()
    _warn_of_losses(console, published)
    for path in (output, page):
        console.say(f"written: {path}")
    if json:
        console.answer(published.model_dump(mode="json"))


def _warn_of_losses(console: Console, card: ModelCard) -> None:
    """Say where the model is no better than what needs no network."""
    for score in card.scores:
        if score.psnr_over_classical <= 0:
            console.warn(
                f"{score.scan}, {score.thickness:g} mm{', spoiled slices' if score.spoiled else ''}: "
                f"{score.psnr_over_classical:+.2f} dB, no better than the classical inverse, which needs no network."
            )
