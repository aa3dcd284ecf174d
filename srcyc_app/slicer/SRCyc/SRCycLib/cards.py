"""A model's card as text: what it was trained on, what it holds for, what it scored."""

from __future__ import annotations

import html
from typing import Any

from slicer.i18n import tr as _

Score = dict[str, Any]


def card_text(card: dict[str, Any]) -> str:
    """Give a card of the server's `/info/` as rich text, a line for each thing that is known."""
    training = card.get("training") or {}
    lines = [
        (_("Model"), card.get("title")),
        (_("Trained on"), card.get("trained_on")),
        (_("Contrasts"), ", ".join(card.get("contrasts") or ())),
        (
            _("Slices up to"),
            _range(card.get("factor_range"), _("{low:g} to {high:g} times as thick as wide")),
        ),
        (_("In-plane spacing"), _range(card.get("spacing_range"), _("{low:g} to {high:g} mm"))),
        (_("Held-back people"), _gain(training.get("validation") or {})),
        *_scores(card.get("scores") or []),
        *_thick_scans(card.get("thick_scans") or []),
        (_("Licence"), card.get("licence")),
        (_("SHA-256"), (card.get("sha256") or "")[:16]),
    ]
    return "<br>".join(
        f"<b>{html.escape(name)}</b>: {html.escape(str(text))}" for name, text in lines if text
    )


def _range(limits: Any, words: str) -> str:
    return words.format(low=limits[0], high=limits[1]) if limits else ""


def _gain(score: Score) -> str:
    """Give the gain over what needs no network."""
    gain = score.get("psnr_over_classical")
    if gain is None:
        return ""
    return _("{gain:+.2f} dB PSNR over the classical inverse, which needs no network").format(gain=gain)


def _scores(scores: list[Score]) -> list[tuple[str, str]]:
    """Give a line for each contrast: the mean gain over the scans, by slice thickness; spoiled slices apart."""
    lines: dict[str, dict[float, list[Score]]] = {}
    for score in sorted(scores, key=_order):
        title = score.get("contrast") or _("Scans")
        if _spoiled(score):
            title = _("{contrast}, uneven or noisy slices").format(contrast=title)
        lines.setdefault(title, {}).setdefault(score["thickness"], []).append(score)
    words = _("{thickness:g} mm {gain:+.2f}")
    told = []
    for title, thicknesses in lines.items():
        gains = ", ".join(
            words.format(thickness=thickness, gain=_mean(each, "psnr_over_classical"))
            for thickness, each in thicknesses.items()
        )
        every = [score for each in thicknesses.values() for score in each]
        text = _(
            "{gains} dB PSNR over the classical inverse, which needs no network ({cubic:+.2f} over cubic)"
        )
        told.append((title, text.format(gains=gains, cubic=_mean(every, "psnr_over_cubic"))))
    return told


def _thick_scans(scores: list[Score]) -> list[tuple[str, str]]:
    """Give one line: how far the slices of real scans differ in brightness, before and after."""
    words = _("{scan} {before:.1f} → {after:.1f} %")
    known = [s for s in scores if s.get("slice_gain") is not None and s.get("slice_gain_after") is not None]
    text = ", ".join(
        words.format(scan=score["scan"], before=score["slice_gain"], after=score["slice_gain_after"])
        for score in known
    )
    return [(_("Bands in real scans"), text)]


def _order(score: Score) -> tuple[bool, str, float]:
    return _spoiled(score), score.get("contrast") or "", score["thickness"]


def _spoiled(score: Score) -> bool:
    return bool(score.get("jitter") or score.get("noise"))


def _mean(scores: list[Score], key: str) -> float:
    return sum(score[key] for score in scores) / len(scores)
