"""A GPU gives what a processor gives: skipped where PyTorch sees none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from factories import save_head, save_model, save_people, save_tiny_settings
from srcyc.training.checkpoint import load_checkpoint

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.slow,
]

Srcyc = Callable[..., Any]
#: Of the intensity range: fp32 (TF32 inside cuDNN's convolutions), and the half types.
TOLERANCES = {"fp32": 1e-3, "bf16": 1e-2, "fp16": 3e-3}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_head(tmp_path_factory.mktemp("scan") / "thick.nii.gz")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", features=16, depth=2)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_people(tmp_path_factory.mktemp("people"), in_domains=True)


def result(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
@pytest.mark.parametrize("model_name", ["tiny", "srcyc-fidelity"])
def test_inference_gives_what_the_processor_gives(
    srcyc: Srcyc, scan: Path, model: Path, tmp_path: Path, precision: str, model_name: str
) -> None:
    chosen = model if model_name == "tiny" else model_name
    for name, device, kind in (("expected", "cpu", "fp32"), ("found", "cuda", precision)):
        words = ("infer", scan, "-o", tmp_path / f"{name}.nii.gz", "--model", chosen)
        ran = srcyc(*words, "--device", device, "--precision", kind, "--target-spacing", "1", "--force")
        assert ran.code == 0, ran.err
    expected, found = result(tmp_path / "expected.nii.gz"), result(tmp_path / "found.nii.gz")
    spread = np.percentile(expected, 99.5) - np.percentile(expected, 0.5)
    assert np.abs(found - expected).max() / spread <= TOLERANCES[precision]
    told = json.dumps(json.loads((tmp_path / "found.json").read_text()))
    assert "cuda" in told and precision in told


def test_slabs_on_the_gpu_are_the_whole(srcyc: Srcyc, scan: Path, model: Path, tmp_path: Path) -> None:
    for name, memory in (("whole", "8"), ("slabs", "0.02")):
        words = ("infer", scan, "-o", tmp_path / f"{name}.nii.gz", "--model", model, "--device", "cuda")
        ran = srcyc(*words, "--precision", "fp32", "--max-memory", memory, "--target-spacing", "1", "--force")
        assert ran.code == 0, ran.err
    whole, slabs = result(tmp_path / "whole.nii.gz"), result(tmp_path / "slabs.nii.gz")
    assert np.abs(whole - slabs).max() <= 1e-3 * np.ptp(whole)


@pytest.mark.parametrize("mode", ["generator-only", "unpaired"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_publishes_what_the_processor_can_use(
    srcyc: Srcyc, scan: Path, people: Path, tmp_path: Path, mode: str, precision: str
) -> None:
    every = {"steps": 4, "validate_every": 2, "checkpoint_every": 2}
    settings = save_tiny_settings(
        tmp_path / "tiny.yaml", mode=mode, precision=precision, optimiser__algorithm="muon", **every
    )
    run = tmp_path / "run"
    lr = ("--lr", people / "lr") if mode == "unpaired" else ()
    given = ("--hr", people / "hr", *lr, "--config", settings, "--device", "cuda")
    ran = srcyc("train", "-o", run, *given)
    assert ran.code == 0, ran.err
    words = ("infer", scan, "-o", tmp_path / "out.nii.gz", "--model", run / "model.safetensors")
    assert srcyc(*words, "--device", "cpu", "--force").code == 0


def test_a_run_on_the_gpu_goes_on_on_the_gpu(srcyc: Srcyc, people: Path, tmp_path: Path) -> None:
    settings = save_tiny_settings(
        tmp_path / "tiny.yaml", mode="generator-only", steps=8, validate_every=4, checkpoint_every=4
    )
    for name in ("straight", "resumed"):
        given = ("--hr", people / "hr", "--config", settings, "--device", "cuda")
        assert srcyc("train", "-o", tmp_path / name, *given).code == 0
    resumed = tmp_path / "resumed"
    straight = load_checkpoint(tmp_path / "straight" / "checkpoints" / "step-00000008.pt")
    for newer in (resumed / "checkpoints").glob("step-*8.pt"):
        newer.unlink()
    ran = srcyc("train", "-o", resumed, "--resume", "--device", "cuda")
    assert ran.code == 0, ran.err
    again = load_checkpoint(next((resumed / "checkpoints").glob("step-*8.pt")))
    weights = [state["networks"]["g_hr"] for state in (straight, again)]
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-4, atol=1e-6)
