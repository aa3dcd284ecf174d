"""What a run would take: measured on batches and networks of the run itself, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from factories import tiny_settings
from srcyc.config import TrainingConfig
from srcyc.data.gathering import Sources, TrainingSet
from srcyc.data.store import ScanStore
from srcyc.networks import SliceResDNet
from srcyc.training.dry_run import estimate

CPU = torch.device("cpu")


def settings(mode: str, steps: int = 50) -> TrainingConfig:
    drawn = {"data__slices": (4, 5), "data__batch_size": 2, "data__factor_range": (2, 4)}
    return TrainingConfig.model_validate(tiny_settings(mode=mode, steps=steps, **drawn))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ScanStore:
    return ScanStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def scans(
    tmp_path_factory: pytest.TempPathFactory, phantom: Callable[..., np.ndarray], store: ScanStore
) -> TrainingSet:
    folder = tmp_path_factory.mktemp("scans")
    for kind, shape, thick in (("hr", (24, 26, 28), 1), ("lr", (24, 24, 8), 3)):
        (folder / kind).mkdir()
        for seed in (0, 1):
            image = nib.Nifti1Image(phantom(shape, seed)[0], np.diag([1, 1, thick, 1]))
            nib.save(image, folder / kind / f"{kind}{seed}.nii")
    return Sources([folder / "lr"], [folder / "hr"]).gather(settings("unpaired"), store)


def test_the_factors_and_networks_are_those_of_the_run(scans: TrainingSet, store: ScanStore) -> None:
    alone = estimate(settings("generator-only"), scans, store, CPU)
    low, high = alone.factors
    assert 1.9 < low < high < 4.1
    assert alone.parameters == {
        "g_hr": sum(p.numel() for p in SliceResDNet(features=8, depth=1).parameters())
    }
    assert 0 < alone.seconds_per_step < 60
    assert alone.memory is None or alone.memory > 0
    four = estimate(settings("unpaired"), scans, store, CPU)
    assert list(four.parameters) == ["g_hr", "g_lr", "d_hr", "d_lr"]
    assert four.factors == pytest.approx((3.0, 3.0))


def test_a_run_shorter_than_the_trial_can_be_tried_too(scans: TrainingSet, store: ScanStore) -> None:
    assert estimate(settings("generator-only", steps=1), scans, store, CPU).seconds_per_step > 0


def test_nothing_is_left_behind(scans: TrainingSet, store: ScanStore, tmp_path: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    state = torch.random.get_rng_state()
    estimate(settings("generator-only"), scans, store, CPU)
    assert {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()} == before
    assert torch.equal(torch.random.get_rng_state(), state)
