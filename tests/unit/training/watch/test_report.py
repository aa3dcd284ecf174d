from __future__ import annotations

import math
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from srcyc.config import TrainingConfig, ValidationConfig
from srcyc.errors import OutputError
from srcyc.networks import Degradation
from srcyc.training.validation import Picture, Score
from srcyc.training.watch.progress import Progress, progress_line
from srcyc.training.watch.recorder import Recorder
from srcyc.training.watch.report import write_report
from srcyc.volumes.geometry import Grid


def config(**validation: object) -> TrainingConfig:
    return TrainingConfig(mode="unpaired", steps=400, validation=ValidationConfig(**validation))  # type: ignore[arg-type]


def record(folder: Path, scores: dict[int, Score], steps: int = 400) -> None:
    recorder = Recorder(folder)
    for step in range(0, steps + 1, 50):
        terms = {"cycle_hr": 1 / (1 + step), "d_hr": 1.2, "d_lr": 1.1} if step else {}
        recorder.report(Progress(step, steps, 3600 + step, terms, 1e-3 * bool(step), scores.get(step)))
    recorder.close()


def score(psnr: float, ssim: float = 0.9, cycle: float = 0.5, correction: float = 0.02) -> Score:
    return Score(
        psnr=psnr,
        cubic_psnr=29.0,
        classical_psnr=30.0,
        ssim=ssim,
        cubic_ssim=0.88,
        classical_ssim=0.9,
        cycle=cycle,
        correction=correction,
    )


SCORES = {
    0: score(29.5, 0.85, 0.5, 0.0),
    100: score(31.0, 0.94, 0.3, 0.01),
    200: score(32.5, 0.93, 0.4, 0.015),
    300: score(math.nan, 0.5, 0.6),
    400: score(32.0, 0.91, 0.45),
}


@pytest.fixture(scope="module")
def pictures(phantom) -> list[Picture]:  # type: ignore[no-untyped-def]
    truth = phantom((40, 44, 36))[0]
    blurred = (truth + np.roll(truth, 1, 2) + np.roll(truth, -1, 2)) / 3
    affine = np.array([[0.0, 0.0, 1.0, 3.0], [-1.0, 0.0, 0.0, 40.0], [0.0, -1.0, 0.0, 9.0], [0, 0, 0, 1]])
    half = 0.5 * (truth + blurred)
    return [
        Picture("head.nii.gz at 3 mm", blurred, half, half, truth, Grid((40, 44, 36), affine))
        for _ in range(2)
    ]


def text(folder: Path) -> str:
    return (folder / "report" / "report.md").read_text(encoding="utf-8")


def test_the_report_says_what_came_out(tmp_path: Path, pictures: list[Picture]) -> None:
    record(tmp_path, SCORES)
    (tmp_path / "model.safetensors").touch()
    files = write_report(tmp_path, config(), 200, pictures, notes=["a note"])
    report = text(tmp_path)
    assert "step 200, by PSNR 2.50 dB better than the classical inverse" in report
    # Own, B-spline, classical inverse, gain over the latter, before training.
    assert (
        "| | best model | cubic B-spline | classical inverse | gain over classical | before training |"
        in report
    )
    assert "| PSNR, dB | 32.50 | 29.00 | 30.00 | +2.50 | 29.50 |" in report
    assert "| SSIM | 0.9300 | 0.8800 | 0.9000 | +0.0300 | 0.8500 |" in report
    assert "| forward-cycle error | 0.4000 | 0.5000 |" in report
    assert "| correction of the slices | 0.0150 | 0.0000 |" in report
    assert "LPIPS" not in report
    for fact in ("mode: unpaired", "steps: 400", "1:06:40", "model.safetensors", "- a note"):
        assert fact in report
    shown = re.findall(r"!\[.*\]\((.*)\)", report)
    assert ["report.md", *shown] == [path.name for path in files]
    assert shown == ["curves.png", "head.nii.gz_at_3_mm.png", "head.nii.gz_at_3_mm_2.png"]
    for path in files[1:]:
        image = matplotlib.image.imread(path)
        assert min(image.shape[:2]) > 500
        assert image[..., :3].std() > 0.05
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(p.name for p in files)


def test_the_best_is_told_by_the_key_metric(tmp_path: Path) -> None:
    record(tmp_path, SCORES)
    write_report(tmp_path, config(key_metric="ssim"), 100, [])
    assert "best model: of step 100, by SSIM 0.0400 better" in text(tmp_path)
    write_report(tmp_path, config(key_metric="cycle"), 100, [])
    assert "best model: of step 100, forward-cycle error 0.3" in text(tmp_path)


def test_a_model_worse_than_the_classical_inverse_is_called_so(tmp_path: Path) -> None:
    record(tmp_path, {400: score(29.5)})
    write_report(tmp_path, config(), 400, [])
    assert "PSNR 0.50 dB worse than the classical inverse" in text(tmp_path)


def test_a_run_without_held_back_scans_has_a_report_too(tmp_path: Path) -> None:
    record(tmp_path, {}, steps=100)
    files = write_report(tmp_path, config(), 100, [])
    assert [path.name for path in files] == ["report.md", "curves.png"]
    assert "no person was held back" in text(tmp_path)
    assert "steps: 100 of 400" in text(tmp_path)


def test_what_was_measured_on_lr_scans_alone_is_told_alone(tmp_path: Path) -> None:
    come_back = Score(cycle=0.3, correction=0.01)
    record(tmp_path, {100: come_back})
    write_report(tmp_path, config(key_metric="cycle"), 100, [])
    assert "forward-cycle error 0.3" in text(tmp_path) and "Held-back HR scans" not in text(tmp_path)
    assert "held back: forward cycle 0.3000" in progress_line(Progress(400, 400, 9.0, score=come_back))


def test_a_run_of_which_nothing_is_known_yet_has_no_curves(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.report(Progress(0, 400, 0.0))
    recorder.close()
    assert [path.name for path in write_report(tmp_path, config(), 0, [])] == ["report.md"]


def test_losses_that_are_zero_or_not_finite_can_be_drawn(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for step, value in enumerate((1.0, 0.0, math.nan, -1.0), 1):
        recorder.report(Progress(step, 400, 1.0, {"content": value}, 1e-3))
    recorder.close()
    assert len(write_report(tmp_path, config(), 0, [])) == 2


def test_a_report_is_written_over_an_earlier_one(tmp_path: Path) -> None:
    for steps in (100, 200):
        record(tmp_path, SCORES, steps)
        write_report(tmp_path, config(), 0, [])
    assert "steps: 200" in text(tmp_path)
    assert len(list((tmp_path / "report").iterdir())) == 2


def test_an_unwritable_place_and_a_missing_history_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"history\.csv: cannot be read"):
        write_report(tmp_path, config(), 0, [])
    other = tmp_path / "other"
    other.mkdir()
    record(other, {})
    (other / "report").write_text("")
    with pytest.raises(OutputError, match=r"report.*cannot be written"):
        write_report(other, config(), 0, [])


def test_what_g_lr_found_is_told_and_drawn(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for step in (50, 100):
        found = Degradation(width=0.8, blur=1 + step / 100, noise=0.03)
        recorder.report(Progress(step, 400, 1.0, {"content": 0.5}, 1e-3, degradation=found))
    recorder.close()
    report = write_report(tmp_path, config(), 0, [])
    text = report[0].read_text()
    assert "0.80 times as wide as told" in text and "2.00 voxels" in text and "3.0 %" in text
    assert tmp_path / "report" / "curves.png" in report
