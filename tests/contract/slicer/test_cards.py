"""A model's card in the panel: shipped and retrained models alike, from the typed fields of the server's JSON."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from factories import make_card
from factories import make_score as score
from srcyc.models.card import ThickScanScore, Training, ValidationScore

CardText = Callable[[dict[str, Any]], str]


@pytest.fixture
def card_text(library: Callable[[str], ModuleType]) -> CardText:
    return library("cards").card_text  # type: ignore[no-any-return]


def card(**changes: Any) -> dict[str, Any]:
    """A card as a server sends it."""
    values = {"title": "Mine <b>", "contrasts": ("T1w", "FLAIR"), **changes}
    return {**make_card(**values).model_dump(mode="json"), "sha256": "0123456789abcdef0123"}


def test_a_measured_model_shows_its_gain_over_what_needs_no_network(card_text: CardText) -> None:
    text = card_text(
        card(
            scores=(
                score(),
                score(scan="b", psnr_over_classical=0.5),
                score(thickness=6.0, psnr_over_classical=0.8),
                score(contrast="FLAIR", psnr_over_classical=0.6),
                score(jitter=0.03, psnr_over_classical=0.9),
            ),
            thick_scans=(
                ThickScanScore(
                    scan="brain1", contrast=None, slice_gain=4.4, slice_gain_after=2.2, correction=0.02
                ),
            ),
        )
    )
    lines = text.split("<br>")
    assert any(
        line.startswith("<b>T1w</b>: 4 mm +1.00, 6 mm +0.80 dB PSNR over the classical") for line in lines
    )
    assert any(line.startswith("<b>FLAIR</b>: 4 mm +0.60 dB") for line in lines)
    assert any(line.startswith("<b>T1w, uneven or noisy slices</b>: 4 mm +0.90 dB") for line in lines)
    assert "<b>Bands in real scans</b>: brain1 4.4 → 2.2 %" in lines
    assert "<b>Model</b>: Mine &lt;b&gt;" in lines
    assert "<b>SHA-256</b>: 0123456789abcdef" in lines


def test_a_retrained_model_shows_how_it_did_on_the_people_held_back(card_text: CardText) -> None:
    training = Training(mode="paired", step=5, validation=ValidationScore(psnr_over_classical=-0.25))
    text = card_text(card(training=training))
    assert "<b>Held-back people</b>: -0.25 dB PSNR over the classical inverse" in text


@pytest.mark.parametrize(
    "known", [{}, {"error": "damaged"}, {"title": "A"}, {"scores": None, "training": None}]
)
def test_what_is_not_known_is_not_shown(card_text: CardText, known: dict[str, Any]) -> None:
    text = card_text(known)
    assert "dB" not in text
    assert "Bands" not in text
    assert text.count("<b>") == ("title" in known)
