"""A model's card as text: what it was trained on, what it holds for, what it scored."""

from __future__ import annotations

import html
from typing import Any

from slicer.i18n import tr as _


def card_text(card: dict[str, Any]) -> str:
    """Give a card of the server's `/info/` as rich text, a line for each thing that is known."""
    metrics = card.get("metrics") or {}
    lines = [
        (_("Model"), card.get("title")),
        (_("Trained on"), card.get("trained_on")),
        (_("Contrasts"), ", ".join(card.get("contrasts") or ())),
        (
            _("Slices up to"),
            _range(card.get("factor_range"), _("{low:g} to {high:g} times as thick as wide")),
        ),
        (_("In-plane spacing"), _range(card.get("spacing_range"), _("{low:g} to {high:g} mm"))),
        *_scores(metrics.get("simulated_slices") or {}),
        (_("Held-back people"), _gains({"": metrics.get("validation_gain_over_cubic")})),
        (_("Licence"), card.get("licence")),
        (_("SHA-256"), (card.get("sha256") or "")[:16]),
    ]
    return "<br>".join(
        f"<b>{html.escape(name)}</b>: {html.escape(str(text))}" for name, text in lines if text
    )


def _range(limits: Any, words: str) -> str:
    return words.format(low=limits[0], high=limits[1]) if limits else ""


def _gains(decibels: dict[str, float | None]) -> str:
    """Give gains over interpolation, by slice thickness."""
    shown = ", ".join(f"{what} {gain:+.2f}".strip() for what, gain in decibels.items() if gain is not None)
    return _("{gains} dB PSNR over cubic interpolation").format(gains=shown) if shown else ""


def _scores(simulated: dict[str, dict[str, dict[str, float]]]) -> list[tuple[str, str]]:
    """Give a line for each scan whose thick slices were simulated."""
    return [
        (scan, _gains({thickness: score.get("psnr_over_cubic") for thickness, score in thicknesses.items()}))
        for scan, thicknesses in simulated.items()
    ]
