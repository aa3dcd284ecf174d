"""The promise of `--preset quick`: from the shipped Colin27 scan alone to a model that beats cubic on somebody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

#: In full, 900 steps gain 0.6 dB on a person who was not trained on (docs/training.md).
STEPS, LEAST_GAIN = 150, 0.1


@pytest.mark.slow
def test_a_short_quick_run_on_one_scan_beats_cubic_on_another_person(
    srcyc: Callable[..., Any], sample_data: Path, shared_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    short = ("--set", f"steps={STEPS}", "--set", "data.size=40")
    ran = srcyc("train", "--preset", "quick", "--hr", sample_data / "ch2.nii.gz", "-o", run, *short)
    assert ran.code == 0, ran.err

    other = nib.load(shared_dir / "data" / "eval" / "visualqc001_T1w.nii.gz").slicer[64:192, 64:192, 64:192]
    nib.save(other, tmp_path / "other.nii.gz")
    ran = srcyc(
        *(
            "evaluate",
            "--hr",
            tmp_path / "other.nii.gz",
            "--thickness",
            "3,5",
            "--no-consistency",
            "--no-figures",
        ),
        *("--model", run / "model.safetensors", "-o", tmp_path / "evaluation", "--json"),
    )
    assert ran.code == 0, ran.err
    gains = {
        row["thickness"]: row["psnr_over_cubic"]
        for row in ran.json["scores"]
        if row["method"] == "srcyc-custom"
    }
    assert set(gains) == {3, 5}
    assert min(gains.values()) > LEAST_GAIN, gains
