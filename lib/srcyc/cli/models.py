"""`srcyc models`: what is installed, and what a model is good for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcyc.cli.console import Console

if TYPE_CHECKING:
    from srcyc.inference.model_file import PublishedModel


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|PATH]", help="Show the card of this one.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """List the models, or show the card of one."""
    from srcyc.inference.model_file import DEFAULT_MODEL, find_model, load_model, packaged_models

    console = Console(json=json)
    if name is not None:
        model = load_model(find_model(name))
        if json:
            console.answer(_as_dict(model))
        else:
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
    card = model.card.model_dump(mode="json")
    known = [
        ("name", "name"),
        ("title", "title"),
        ("factor_range", "factors"),
        ("spacing_range", "voxel size, mm"),
        ("contrasts", "contrasts"),
        ("trained_on", "trained on"),
        ("metrics", "metrics"),
        ("network", "network"),
        ("licence", "licence"),
        ("created", "created"),
        ("software", "software"),
    ]
    # Whatever else a card holds is shown too, under its own name.
    labels = dict(known) | {key: key.replace("_", " ") for key in card if key not in dict(known)}
    lines = {label: _text(key, card[key]) for key, label in labels.items() if key in card}
    lines |= {"file": str(model.path), "sha256": model.sha256}
    width = max(map(len, lines))
    for label, text in lines.items():
        first, *more = text.split("\n")
        console.say(f"{label:{width}}  {first}")
        for line in more:
            console.say(f"{'':{width}}  {line}")


def _text(key: str, value: Any) -> str:
    if key.endswith("_range"):
        return _range(value)
    if isinstance(value, dict):
        return "\n".join(_leaves(value)) if key == "metrics" else ", ".join(_pairs(value)) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{name} {_number(item)}" for name, item in values.items()]


def _leaves(values: dict[str, Any], path: str = "") -> list[str]:
    """One line for each dictionary of plain values, however deep, led by the names on the way to it."""
    plain = {name: item for name, item in values.items() if not isinstance(item, dict)}
    lines = [f"{path}{', '.join(_pairs(plain))}"] if plain else []
    for name, item in values.items():
        if isinstance(item, dict):
            lines += _leaves(item, f"{path}{name}: ")
    return lines or ["none"]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(pair: Any) -> str:
    low, high = pair
    return f"{low:g} to {high:g}"
