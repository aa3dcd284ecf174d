"""`srcyc publish`: a model's scores are measured, and stand on its card and its page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from srcyc.models.model_file import load_model
from srcyc.volumes.volume import Volume, write_volume


@pytest.fixture
def thin_file(phantom, tmp_path):
    return write_volume(Volume(phantom((26, 28, 30)), np.eye(4)), tmp_path / "one_T1w.nii.gz")


def test_the_scores_on_the_card_are_those_that_evaluate_gives(
    srcyc, thin_file, thick_file, tiny_model, tmp_path
):
    out = tmp_path / "shelf" / "mine.safetensors"
    ran = srcyc(
        *("publish", tiny_model, "-o", out, "--hr", thin_file, "--lr", thick_file, "--thickness", "3,4"),
        *(
            "--jitter",
            "0.03",
            "--noise",
            "0.02",
            "--title",
            "Mine",
            "--licence",
            "MIT",
            "--trained-on",
            "a head",
        ),
        *("--contrast", "T1w", "--contrast", "T2w"),
    )
    assert ran.code == 0, ran.err
    model = load_model(out)
    card = model.card
    assert (card.name, card.title, card.licence, card.trained_on) == ("mine", "Mine", "MIT", "a head")
    assert card.contrasts == ("T1w", "T2w")
    assert [(score.thickness, score.jitter) for score in card.scores] == [
        (3, 0),
        (4, 0),
        (3, 0.03),
        (4, 0.03),
    ]
    assert all(score.contrast == "T1w" for score in card.scores)
    assert [score.scan for score in card.thick_scans] == ["scan"]
    assert "scan: slice-to-slice gain" in srcyc("models", out).out
    # The weights are the model's.
    for name, weight in load_model(tiny_model).network.state_dict().items():
        assert weight.equal(model.network.state_dict()[name])

    srcyc(
        *("evaluate", "--hr", thin_file, "--lr", thick_file, "--thickness", "3,4", "--model", tiny_model),
        *("--no-figures", "-o", tmp_path / "check"),
    )
    report = json.loads((tmp_path / "check" / "metrics.json").read_text(encoding="utf-8"))
    again = [row for row in report["scores"] if row["method"] == "tiny"]
    for score, row in zip(card.scores, again, strict=False):
        for key in ("psnr", "psnr_over_cubic", "psnr_over_classical", "ssim", "ssim_over_classical"):
            assert getattr(score, key) == pytest.approx(row[key], abs=1e-4), key
    assert card.thick_scans[0].slice_gain_after == pytest.approx(
        report["thick_scans"][2]["slice_gain"], abs=1e-4
    )


def test_the_page_beside_it_holds_the_same_figures(srcyc, thin_file, tiny_model, tmp_path):
    out, page = tmp_path / "mine.safetensors", tmp_path / "mine.md"
    ran = srcyc("publish", tiny_model, "-o", out, "--hr", thin_file, "--thickness", "3,5")
    assert ran.code == 0, ran.err
    text = page.read_text(encoding="utf-8")
    model = load_model(out)
    assert "\n# mine\n" in text
    assert model.sha256 in text
    for score in model.card.scores:
        assert f"{score.psnr:.2f} **{score.psnr_over_classical:+.2f}** ({score.psnr_over_cubic:+.2f})" in text
    shown = srcyc("models", out).out
    mean = model.card.scores[0].psnr_over_classical
    assert f"T1w, 3 mm: {mean:+.2f} dB PSNR over the classical inverse" in shown
    assert srcyc("models", out, "--json").json["scores"] == [
        score.model_dump(mode="json") for score in model.card.scores
    ]


def test_a_page_can_go_elsewhere_and_json_is_the_card(srcyc, thin_file, tiny_model, tmp_path):
    ran = srcyc(
        *("publish", tiny_model, "-o", tmp_path / "m.safetensors", "--hr", thin_file, "--thickness", "3"),
        *("--card", tmp_path / "docs" / "card.md", "--name", "other", "--json"),
    )
    assert ran.code == 0, ran.err
    assert ran.json["name"] == "other"
    assert "\n# other\n" in (tmp_path / "docs" / "card.md").read_text(encoding="utf-8")
    assert not (tmp_path / "m.md").exists()


def test_what_does_not_beat_the_classical_inverse_is_said(srcyc, thin_file, tiny_model, tmp_path):
    ran = srcyc(
        "publish", tiny_model, "-o", tmp_path / "m.safetensors", "--hr", thin_file, "--thickness", "3"
    )
    score = load_model(tmp_path / "m.safetensors").card.scores[0]
    assert score.psnr_over_classical < 0  # random weights
    assert "no better than the classical inverse" in ran.err


def test_if_a_scan_cannot_be_used_nothing_is_written(srcyc, thin_file, tiny_model, tmp_path):
    (tmp_path / "bad.nii").write_text("")
    out = tmp_path / "mine.safetensors"
    for given in (("--hr", tmp_path / "bad.nii", thin_file), ("--hr", thin_file, "--thickness", "0.5")):
        ran = srcyc("publish", tiny_model, "-o", out, *given)
        assert ran.code == 2
        assert not out.exists()
        assert not out.with_suffix(".md").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "{folder}/m.pt", "--hr", "{scan}"], "safetensors"),
        (["-o", "{folder}/m.safetensors"], "--hr"),
        (["-o", "{folder}/old.safetensors", "--hr", "{scan}"], "--overwrite"),
        (["-o", "{folder}/page.safetensors", "--hr", "{scan}"], "page.md"),
        (["-o", "{folder}/m.safetensors", "--hr", "{scan}", "--axis", "7"], "--axis"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_computed(
    srcyc, thin_file, tiny_model, tmp_path, arguments, message
):
    (tmp_path / "old.safetensors").write_text("old")
    (tmp_path / "page.md").write_text("mine")
    given = [text.format(folder=tmp_path, scan=thin_file) for text in arguments]
    ran = srcyc("publish", tiny_model, *given)
    assert ran.code == 2
    assert message in ran.sentence
    assert (tmp_path / "page.md").read_text() == "mine"


def test_a_published_model_can_be_measured_again(srcyc, thin_file, tiny_model, tmp_path):
    out = tmp_path / "mine.safetensors"
    assert srcyc("publish", tiny_model, "-o", out, "--hr", thin_file, "--thickness", "3").code == 0
    assert srcyc("publish", out, "-o", out, "--hr", thin_file, "--thickness", "4", "--overwrite").code == 0
    assert [score.thickness for score in load_model(out).card.scores] == [4]
