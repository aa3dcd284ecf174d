"""A tiny published model, and the command line run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from srcyc.cli import main
from srcyc.config import SRResDNetConfig
from srcyc.inference.model_file import ModelCard, publish_model
from srcyc.networks import SRResDNet
from srcyc.volume import Volume, write_volume


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one sentence on stderr; fails if there is not exactly one."""
        assert "Traceback" not in self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith(".\n"), self.err
        return self.err.strip()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Srcyc = Callable[..., Ran]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of a few hundred weights: its residual is small, so it interpolates nearly."""
    config = SRResDNetConfig(features=4, depth=1)
    torch.manual_seed(0)
    card = ModelCard(
        name="tiny",
        title="untrained",
        network=config,
        spacing_range=(0.3, 2.0),
        factor_range=(1.5, 8.0),
        contrasts=("T1w",),
        trained_on="nothing",
        metrics={},
        licence="Apache-2.0",
        created="2024-01-01T00:00:00+00:00",
        software="srcyc test",
    )
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    publish_model(SRResDNet.from_config(config), card, path)
    return path


@pytest.fixture
def srcyc(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Srcyc:
    """Run `srcyc` in this process: ``srcyc("infer", path, "-o", out) -> Ran``."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def thick(phantom: Callable[..., np.ndarray]) -> Volume:
    """A small head with slices four times as thick as wide, 12-bit integers."""
    data = np.rint(1000 * np.clip(phantom((24, 26, 8)), 0, None))
    return Volume(data.astype(np.float32), np.diag([1.0, 1.0, 4.0, 1.0]), np.dtype(np.int16))


@pytest.fixture
def thick_file(thick: Volume, tmp_path: Path) -> Path:
    """The same on disk."""
    return write_volume(thick, tmp_path / "scan.nii.gz", dtype=np.int16)
