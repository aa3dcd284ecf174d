"""`srcyc models`: what is installed, and what a model is good for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcyc.cli.console import Console
from srcyc.errors import ConfigError

if TYPE_CHECKING:
    from srcyc.models.card import ThickScanScore
    from srcyc.models.model_file import PublishedModel


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|PATH]", help="Show the card of this one."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write it as a MONAI bundle to this new folder."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """List the models, show the card of one, or export it."""
    from srcyc.models.model_file import DEFAULT_MODEL, find_model, load_model, packaged_models

    console = Console(json=json)
    if bundle is not None and name is None:
        raise ConfigError("no model to export; name it before --bundle.")
    if name is not None:
        model = load_model(find_model(name))
        if bundle is not None:
            from srcyc.models.bundle import export_bundle

            export_bundle(model, bundle)
            console.say(f"written: {bundle}")
        if json:
            console.answer(_as_dict(model))
        elif bundle is None:
            _show_card(console, model)
        return
    found = [load_model(path) for _, path in sorted(packaged_models().items())]
    if json:
        console.answer({"default": DEFAULT_MODEL, "models": [_as_dict(model) for model in found]})
    elif found:
        _list(console, found, DEFAULT_MODEL)
    else:
        console.say("No model is installed; train one with `srcyc train`, then give its file as --model.")


def _as_dict(model: PublishedModel) -> dict[str, Any]:
    return {"path": str(model.path), "sha256": model.sha256, **model.card.model_dump(mode="json")}


def _list(console: Console, found: list[PublishedModel], default: str) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "title", "factors", "voxel size, mm", "contrasts"):
        table.add_column(heading)
    for model in found:
        card = model.card
        table.add_row(
            f"{card.name} (default)" if card.name == default else card.name,
            card.title,
            _range(card.factor_range),
            _range(card.spacing_range),
            ", ".join(card.contrasts),
        )
    console.table(table)


def _show_card(console: Console, model: PublishedModel) -> None:
    from srcyc.models.card import gains
    from srcyc.models.card_page import gain_text, training_text

    card = model.card
    network = card.network.model_dump(mode="json")
    lines = {
        "name": [card.name],
        "title": [card.title],
        "factors": [_range(card.factor_range)],
        "voxel size, mm": [_range(card.spacing_range)],
        "contrasts": [", ".join(card.contrasts) or "none"],
        "trained on": [card.trained_on],
        "training": training_text(card.training) or ["not stated"],
        "scores": [*map(gain_text, gains(card.scores))] or ["none measured"],
        "thick scans": [*map(_thick_scan, card.thick_scans)] or ["none measured"],
        "network": [", ".join(f"{name} {value}" for name, value in network.items())],
        "licence": [card.licence],
        "created": [card.created],
        "software": [card.software],
        "file": [str(model.path)],
        "sha256": [model.sha256],
    }
    width = max(map(len, lines))
    for label, (first, *more) in lines.items():
        console.say(f"{label:{width}}  {first}")
        for line in more:
            console.say(f"{'':{width}}  {line}")


def _thick_scan(score: ThickScanScore) -> str:
    before, after = (
        "unknown" if value is None else f"{value:.1f} %"
        for value in (score.slice_gain, score.slice_gain_after)
    )
    return f"{score.scan}: slice-to-slice gain {before}, afterwards {after}; slices corrected by {score.correction:.1%}"


def _range(pair: tuple[float, float]) -> str:
    low, high = pair
    return f"{low:g} to {high:g}"
