"""A model's card as a page: every figure on it was measured, none is typed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from srcyc.documents import json_line
from srcyc.models.card import Gain, ModelCard, ScanScore, Training, gains
from srcyc.models.model_file import PublishedModel

_Row = Sequence[str]
_Item = TypeVar("_Item", bound=ScanScore | Gain)


def card_page(model: PublishedModel) -> str:
    """Give a model's card as Markdown, headed by the YAML of the Hugging Face Hub: what it is, and what it scores."""
    card = model.card
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    facts = [
        ("network", f"{_network(card)}; {parameters:,} parameters"),
        (
            "for",
            f"one thick axis, {_range(card.factor_range)} times coarser than the voxels wanted; these "
            f"{_range(card.spacing_range)} mm",
        ),
        ("contrasts", ", ".join(card.contrasts) or "not stated"),
        ("trained on", card.trained_on),
        ("training", "; ".join(training_text(card.training))),
        ("licence", card.licence),
        ("published", f"{card.created}, {card.software}"),
        ("SHA-256", f"`{model.sha256}`"),
    ]
    parts = [
        "\n".join(["---", *_front_matter(card), "---"]),
        f"# {card.name}",
        f"{card.title.rstrip('.')}. `srcyc publish` wrote this page; `srcyc models {card.name}` shows the same.",
        _table(["", ""], [(name, text) for name, text in facts if text]),
        *_scores(card),
        *_thick_scans(card),
        "Research software. Not for diagnostic use.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(card: ModelCard) -> list[str]:
    """Give what programs read of a card, in YAML: https://huggingface.co/docs/hub/model-cards."""
    metrics = [
        "    - {type: psnr, name: "
        + json_line(
            f"{gain.contrast or 'any contrast'}, {gain.thickness:g} mm: dB over the classical inverse"
        )
        + f", value: {gain.psnr_over_classical:.2f}}}"
        for gain in gains(card.scores)
        if not gain.spoiled
    ]
    index = [
        "model-index:",
        f"- name: {json_line(card.name)}",
        "  results:",
        "  - task: {type: image-to-image, name: MR super-resolution}",
        "    dataset: {type: simulated-thick-slices, name: Scans that did not train it}",
        "    metrics:",
        *metrics,
    ]
    return [
        f"license: {json_line(card.licence.lower())}",
        "library_name: srcyc",
        "pipeline_tag: image-to-image",
        "tags: [super-resolution, medical, mri, brain, monai]",
        *(index if metrics else []),
    ]


def training_text(training: Training | None) -> list[str]:
    """Say how a model came about, in clauses."""
    if training is None:
        return []
    clauses = [f"{training.mode}, {training.step:,} steps"]
    if training.seconds is not None:
        clauses.append(f"{training.seconds / 3600:.1f} hours")
    if training.started_from is not None:
        clauses.append(f"started from {training.started_from.name} ({training.started_from.sha256[:12]})")
    if training.degradation is not None:
        clauses.append(f"found of the LR scans: {training.degradation}")
    held_back = training.validation
    if held_back is not None:
        known = [
            (held_back.psnr_over_classical, "the classical inverse"),
            (held_back.psnr_over_cubic, "cubic B-spline"),
        ]
        told = [f"{gain:+.2f} dB PSNR over {what}" for gain, what in known if gain is not None]
        if told:
            clauses.append(f"people held back: {', '.join(told)}")
    return clauses


def gain_text(gain: Gain) -> str:
    """Say one mean, as in ``T1w, 4 mm: +1.20 dB PSNR over the classical inverse``."""
    what = f"{gain.contrast or 'any contrast'}, {gain.thickness:g} mm{', spoiled slices' if gain.spoiled else ''}"
    scans = f"{gain.scans} {'scan' if gain.scans == 1 else 'scans'}, least {gain.least:+.2f}"
    return (
        f"{what}: {gain.psnr_over_classical:+.2f} dB PSNR over the classical inverse ({scans}), "
        f"{gain.psnr_over_cubic:+.2f} over cubic B-spline"
    )


def _network(card: ModelCard) -> str:
    arguments = card.network.model_dump(mode="json")
    return ", ".join([str(arguments.pop("name")), *(f"{name} {value}" for name, value in arguments.items())])


def _scores(card: ModelCard) -> list[str]:
    if not card.scores:
        return []
    parts = [
        "## What it scores",
        "Thick slices were simulated from thin scans that did not train it, with a Gaussian profile as wide as the "
        "slice is thick, and brought back. PSNR in dB inside the head. **In bold: the gain over the classical "
        "inverse**, which needs no network; in brackets: the gain over cubic B-spline interpolation.",
    ]
    for spoiled in (False, True):
        scores = [score for score in card.scores if score.spoiled == spoiled]
        if not scores:
            continue
        if spoiled:
            parts.append(_faults(scores))
        means = gains(scores)
        parts.append(
            _by_thickness(
                ["mean of"],
                means,
                lambda gain: (gain.contrast or "any contrast",),
                lambda gain: f"**{gain.psnr_over_classical:+.2f}** ({gain.psnr_over_cubic:+.2f})",
            )
        )
        parts.append(_by_thickness(["scan", "thick axis"], scores, _place, _score))
        if any(score.lpips is not None for score in scores):
            parts.append("LPIPS (AlexNet; less is better), in brackets its share of cubic B-spline's:")
            parts.append(_by_thickness(["scan", "thick axis"], scores, _place, _lpips))
    return parts


def _faults(scores: Sequence[ScanScore]) -> str:
    jitter, noise = (max(values) for values in zip(*((s.jitter, s.noise) for s in scores), strict=True))
    return f"The same with {100 * jitter:g} % gain jitter from slice to slice and {100 * noise:g} % noise:"


def _place(score: ScanScore) -> _Row:
    return score.scan, str(score.axis)


def _score(score: ScanScore) -> str:
    ssim = "" if score.ssim is None else f", SSIM {score.ssim:.3f}"
    return f"{score.psnr:.2f} **{score.psnr_over_classical:+.2f}** ({score.psnr_over_cubic:+.2f}){ssim}"


def _lpips(score: ScanScore) -> str:
    if score.lpips is None or score.lpips_over_cubic is None:
        return ""
    cubic = score.lpips - score.lpips_over_cubic
    return f"{score.lpips:.3f} ({score.lpips / cubic:.2f})" if cubic > 0 else f"{score.lpips:.3f}"


def _thick_scans(card: ModelCard) -> list[str]:
    if not card.thick_scans:
        return []
    rows = [
        (
            score.scan,
            _percent(score.slice_gain),
            _percent(score.slice_gain_after),
            f"{100 * score.correction:.1f} %",
        )
        for score in card.thick_scans
    ]
    return [
        "## Real thick scans",
        "How much neighbouring slices differ in brightness, which shows as bands; about 1 % is anatomy. The classical "
        "inverse leaves all of it. Correction: by how much the slices themselves were changed.",
        _table(["scan", "slice-to-slice gain", "afterwards", "correction"], rows),
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def _range(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def _by_thickness(
    headings: _Row, items: Iterable[_Item], key: Callable[[_Item], _Row], cell: Callable[[_Item], str]
) -> str:
    """Lay items out with a row per key and a column per thickness."""
    rows: dict[tuple[str, ...], dict[float, str]] = {}
    for item in items:
        rows.setdefault(tuple(key(item)), {})[item.thickness] = cell(item)
    thicknesses = sorted({thickness for row in rows.values() for thickness in row})
    return _table(
        [*headings, *(f"{thickness:g} mm" for thickness in thicknesses)],
        [(*names, *(row.get(thickness, "") for thickness in thicknesses)) for names, row in rows.items()],
    )


def _table(headings: _Row, rows: Iterable[_Row]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
