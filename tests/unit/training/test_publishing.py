"""No model takes the place of a better one, and a card says how a model came about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import factories
from srcyc.config import CardConfig, TrainingConfig, ValidationConfig
from srcyc.data.gathering import TrainingSet
from srcyc.evaluation.metrics import Quality
from srcyc.models.card_page import training_text
from srcyc.models.model_file import ModelCard, load_model, publish_model
from srcyc.networks import Degradation, Generator, SliceResDNet
from srcyc.training.folder import Plan
from srcyc.training.material import Material
from srcyc.training.publishing import held_back_scores, make_card, publish_if_better, validation_score
from srcyc.training.validation import Score, simulated_cases
from srcyc.training.watch.progress import Progress


def put(path: Path, noise: float) -> Path:
    """A model that is worse, the larger ``noise`` is."""
    torch.manual_seed(0)
    network = SliceResDNet(features=8, depth=1)
    with torch.no_grad():
        network.tail.bias.fill_(noise)
    card = factories.make_card(name=path.stem, network=network.config, contrasts=())
    return publish_model(network, card, path)


@dataclass
class Scored:
    value: float

    def key(self, metric: str) -> float:
        assert metric == "psnr"
        return self.value


class Judge:
    """Stands in for the validator: the less a network adds, the better."""

    def __init__(self, people: int = 1) -> None:
        self.simulated = ["somebody"] * people

    def __bool__(self) -> bool:
        return bool(self.simulated)

    def score(self, network: Generator) -> Scored:
        return Scored(-float(network.tail.bias.abs().mean()))


NO_SCANS = TrainingSet([], [], [], [], [])


def test_the_incumbent_has_to_be_beaten_where_nothing_is_published(tmp_path) -> None:
    better, worse = put(tmp_path / "better.safetensors", 0.0), put(tmp_path / "worse.safetensors", 0.1)
    target = tmp_path / "shelf" / "mine.safetensors"
    verdict = publish_if_better(worse, target, Judge(), "psnr", incumbent=better)
    assert not verdict.published
    assert "not better" in verdict.reason
    assert not target.exists()
    verdict = publish_if_better(better, target, Judge(), "psnr", incumbent=worse)
    assert verdict.published
    assert target.exists()


def test_both_what_is_published_and_the_incumbent_have_to_be_beaten(tmp_path) -> None:
    better, worse = put(tmp_path / "better.safetensors", 0.0), put(tmp_path / "worse.safetensors", 0.1)
    target = put(tmp_path / "mine.safetensors", 0.3)
    assert not publish_if_better(worse, target, Judge(), "psnr", incumbent=better).published
    assert publish_if_better(better, target, Judge(), "psnr", incumbent=worse).published


def test_an_incumbent_can_be_overruled_and_needs_somebody_held_back(tmp_path) -> None:
    better, worse = put(tmp_path / "better.safetensors", 0.0), put(tmp_path / "worse.safetensors", 0.1)
    target = tmp_path / "mine.safetensors"
    verdict = publish_if_better(better, target, Judge(0), "psnr", incumbent=worse)
    assert not verdict.published
    assert "nobody is held back" in verdict.reason
    assert publish_if_better(worse, target, Judge(), "psnr", incumbent=better, even_if_worse=True).published


def test_a_rival_that_cannot_be_read_is_an_error(tmp_path) -> None:
    candidate = put(tmp_path / "new.safetensors", 0.0)
    (tmp_path / "old.safetensors").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"old\.safetensors"):
        publish_if_better(candidate, tmp_path / "old.safetensors", Judge(), "psnr")


def test_a_card_says_where_training_began_and_how_far_it_came(tmp_path, phantom) -> None:
    initial = load_model(put(tmp_path / "base.safetensors", 0.0))
    config = TrainingConfig(
        mode="generator-only", g_hr=initial.card.network, card=CardConfig(name="mine", contrasts=("T1w",))
    )
    nobody = Material([], [], [], Judge(0))  # type: ignore[arg-type]
    card = make_card(Plan(config, NO_SCANS, initial), nobody, Progress(40, 50, 12.52))
    assert card.training is not None
    assert (card.training.mode, card.training.step, card.training.seconds) == ("generator-only", 40, 12.5)
    assert card.training.started_from is not None
    assert (card.training.started_from.name, card.training.started_from.sha256) == ("base", initial.sha256)
    assert card.training.validation is None
    assert card.scores == ()
    assert card.network == initial.card.network
    assert (card.name, card.contrasts, card.spacing_range) == ("mine", ("T1w",), initial.card.spacing_range)


def test_a_card_says_what_g_lr_found(tmp_path) -> None:
    found = Degradation(width=0.8, blur=1.8, noise=0.03)
    thin = factories.training_scan("thin", np.zeros((8, 8, 8), np.float32))
    material = Material([], [thin], [], Judge(0))  # type: ignore[arg-type]
    card = make_card(
        Plan(TrainingConfig(), NO_SCANS, None), material, Progress(40, 50, 1.0, degradation=found)
    )
    assert card.training is not None and card.training.degradation == found
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    assert any("0.80 times as wide" in clause for clause in training_text(card.training))


def test_a_validation_is_told_by_its_gains() -> None:
    row = {
        "psnr": 30.0,
        "cubic_psnr": 27.5,
        "classical_psnr": 29.25,
        "ssim": 0.91,
        "cubic_ssim": 0.9,
        "cycle": 0.01,
    }
    score = validation_score(Score(**row))
    assert (score.psnr_over_cubic, score.psnr_over_classical) == (2.5, 0.75)
    assert (score.psnr, score.ssim, score.cycle, score.lpips) == (30.0, 0.91, 0.01, None)
    assert validation_score(Score(cycle=0.02)).psnr_over_classical is None


def test_people_held_back_are_scores_of_a_card_like_any_others(phantom) -> None:
    scan = factories.training_scan("sub-9_FLAIR.nii.gz", phantom((40, 44, 48))[0])
    cases = simulated_cases(scan, ValidationConfig(thicknesses=(3.0, 4.0), crop=32))
    own, cubic, classical = (
        [Quality(psnr + n, 0.9, None) for n in range(len(cases))] for psnr in (30.0, 27.0, 29.5)
    )
    scores = held_back_scores(cases, own, cubic, classical)
    assert [score.thickness for score in scores] == pytest.approx([3.0, 4.0], abs=0.05)
    for score, case in zip(scores, cases, strict=True):
        assert (score.scan, score.contrast, score.axis) == ("sub-9_FLAIR", "FLAIR", case.along)
        assert (score.psnr_over_cubic, score.psnr_over_classical) == (3.0, 0.5)
        assert (score.ssim, score.ssim_over_classical, score.lpips) == (0.9, 0.0, None)
