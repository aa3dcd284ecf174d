"""What the panel says of a scan before anything is computed, held against what the library decides."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from srcyc.errors import ModelError, NothingToDoError
from srcyc.inference.options import InferenceOptions
from srcyc.inference.super_resolver import Plan
from srcyc.models.card import ModelCard
from srcyc.models.model_file import DEFAULT_MODEL, find_model, load_model
from srcyc.volumes.volume import Volume

SPACINGS = [
    *[(1.0, 1.0, thick) for thick in (1.0, 1.9, 2.1, 4.0, 9.0, 9.4, 14.0, 20.0)],
    *[(fine, fine, 4.0) for fine in (0.2, 0.45, 0.9, 1.3, 1.6, 2.4)],
    (4.0, 0.9, 0.9),
    (0.9, 4.0, 1.2),
    (3.0, 3.0, 3.0),
]


def decided(card: ModelCard, shape: tuple[int, ...], spacing: tuple[float, ...], target: str | float) -> str:
    """Give the library's own judgement."""
    volume = Volume(np.zeros((1, *shape), np.float32), np.diag([*spacing, 1.0]))
    try:
        plan = Plan.of(volume, InferenceOptions(target_spacing=target, slice_thickness=1.0), card)
    except (NothingToDoError, ModelError):
        return "error"
    return "warning" if any("outside" in warning for warning in plan.warnings) else "good"


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return load_model(find_model(DEFAULT_MODEL)).card


@pytest.mark.parametrize("target", ["isotropic", 1.0, 0.6, 0.3])
def test_the_line_says_what_the_library_will_do(
    card: ModelCard, library: Callable[[str], ModuleType], target: str | float
) -> None:
    shape = (40, 36, 12)
    model = {"name": card.name, "card": card.model_dump(mode="json")}
    said = {}
    for spacing in SPACINGS:
        judgement = library("suitability").judge(shape, spacing, str(target), "", model)
        said[spacing] = judgement.kind
        assert judgement.kind == decided(card, shape, spacing, target), (spacing, judgement)
    assert target != "isotropic" or set(said.values()) == {"good", "warning", "error"}, (
        "the cases tell nothing"
    )


def test_what_the_line_says(library: Callable[[str], ModuleType], card: ModelCard) -> None:
    judge = library("suitability").judge
    model = {"name": "one", "card": card.model_dump(mode="json")}
    good = judge((256, 256, 25), (0.8, 0.8, 5.0), "isotropic", "4.5", model)
    for part in ("25 slices", "5 mm apart", "0.8 mm", "one", "4.5 mm, as stated"):
        assert part in good.text
    assert "estimated" in judge((256, 256, 25), (0.8, 0.8, 5.0), "", " ", model).text
    assert "5 mm, as DICOM says" in judge((256, 256, 25), (0.8, 0.8, 5.0), "", "", model, dicom=5.0).text
    far = judge((256, 256, 25), (0.8, 0.8, 50.0), "isotropic", "", model)
    assert far.kind == "error" and "62.5 times" in far.text and "range" in far.text


@pytest.mark.parametrize("target", ["finer", "1,2", "0", "-1", "1,1,inf", "nan"])
def test_what_cannot_be_understood_is_left_to_the_library(
    library: Callable[[str], ModuleType], card: ModelCard, target: str
) -> None:
    model = {"name": "one", "card": card.model_dump(mode="json")}
    assert library("suitability").judge((20, 20, 5), (1, 1, 4), target, "", model) is None
    assert library("suitability").judge((20, 20, 5), (1, 1, 4), "1", "", {"name": "x", "card": None}) is None
