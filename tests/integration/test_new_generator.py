"""The seam: a generator that this file adds, by one class and one registration, goes all the way.

The server's inference task runs in this process: a server of its own cannot know a class of a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from srcyc.config import TrainingConfig
from srcyc.data.gathering import Sources
from srcyc.inference.super_resolver import SuperResolver
from srcyc.models.model_file import load_model, publish_model
from srcyc.networks import Estimate, EstimateStream, Generator, GeneratorConfig, Sampling, register
from srcyc.networks import generator as seam
from srcyc.networks.layers import pad_planes
from srcyc.networks.streaming import windowed
from srcyc.physics.simulation import simulate_thick
from srcyc.training.folder import RunFolder
from srcyc.training.run import Outcome, Run
from srcyc.training.settings import load_settings
from srcyc.training.watch.progress import Listener
from srcyc.volumes.volume import Volume, read_volume, write_volume


class OneLayerConfig(GeneratorConfig):
    """Arguments of :class:`OneLayer`."""

    name: Literal["one-layer"] = "one-layer"
    kernel: Literal[3, 5] = 3


class OneLayer(Generator):
    """A single convolution on the output grid."""

    Config = OneLayerConfig
    config: OneLayerConfig

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.layer = nn.Conv3d(1, 1, self.config.kernel, padding=self.reach)
        nn.init.zeros_(self.layer.weight)

    def planes(self, fine: int, slices: int) -> tuple[int, int]:
        return fine, fine

    def estimate(self, upscaled: Tensor, samplings: Sequence[Sampling]) -> Estimate:
        return Estimate(self.layer(upscaled), None)

    @property
    def reach(self) -> int:
        return self.config.kernel // 2

    def features_per_row(self, columns: int, fine: int, slices: int) -> int:
        return columns * fine

    def stream(self, sampling: Sampling) -> EstimateStream:
        r = self.reach
        layer = windowed(
            lambda window: F.conv3d(window, self.layer.weight, self.layer.bias, padding=(0, r, r)),
            r,
            lambda window, before, after: pad_planes(window, before, after, "constant"),
        )
        return lambda upscaled, last: Estimate(layer(upscaled, last), None)


SETTINGS: dict[str, Any] = {
    "mode": "generator-only",
    "steps": 12,
    "report_every": 4,
    "validate_every": 6,
    "checkpoint_every": 6,
    "precision": "fp32",
    "data": {"size": 16, "slices": [4, 6], "batch_size": 2, "factor_range": [2, 4], "workers": 0},
    "g_hr": {"name": "one-layer"},
    "optimiser": {"learning_rate": 3e-2, "warm_up": 0, "ema_decay": 0.5},
    "validation": {"thicknesses": [3.0], "crop": 32},
    "card": {"name": "one-layer-model"},
}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """The one line that makes it known; taken back when the tests of this file are over."""
    before = dict(seam._GENERATORS)
    register(OneLayer)
    yield
    seam._GENERATORS.clear()
    seam._GENERATORS.update(before)


def run(config: TrainingConfig, folder: Path, scans: list[Path]) -> tuple[Outcome, list[float]]:
    """Train as `srcyc train` does."""
    terms: list[float] = []
    place = RunFolder(folder)
    with place.claimed():
        outcome = Run.begin(place, config, Sources(hr=scans)).train(
            Listener(
                report=lambda progress: terms.extend(filter(None, [progress.terms.get("content")])),
                warn=pytest.fail,
            )
        )
    return outcome, terms


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, phantom: Callable[..., np.ndarray]) -> list[Path]:
    folder = tmp_path_factory.mktemp("scans")
    return [
        write_volume(Volume(900 * phantom((36, 40, 38), seed), np.eye(4)), folder / f"sub-{seed}_T1w.nii.gz")
        for seed in range(3)
    ]


@pytest.fixture(scope="module")
def trained(scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[float]]:
    config = TrainingConfig.model_validate(SETTINGS)
    return run(config, tmp_path_factory.mktemp("run") / "one-layer", scans)


@pytest.fixture(scope="module")
def thick(phantom: Callable[..., np.ndarray]) -> Volume:
    volume = Volume(900 * phantom((30, 33, 36), 7), np.diag([-1.0, 1.0, 1.0, 1.0]))
    return simulate_thick(volume, 4.0, axis=2)[0]


def test_it_trains(trained: tuple[Outcome, list[float]]) -> None:
    outcome, terms = trained
    assert outcome.state.done == 12
    # 1 is the classical inverse's error, with which an untrained one begins.
    assert terms[-1] < terms[0]
    network = load_model(outcome.model).network
    assert type(network) is OneLayer
    assert network.layer.weight.any()
    assert all(path.exists() for path in outcome.report)


def test_its_name_and_arguments_stand_in_the_card_and_in_the_settings(
    trained: tuple[Outcome, list[float]], tmp_path: Path
) -> None:
    model = load_model(trained[0].model)
    assert model.card.network == OneLayerConfig()
    assert model.card.name == "one-layer-model"
    network = OneLayer(kernel=5)
    card = model.card.model_copy(update={"network": network.config})
    again = load_model(publish_model(network, card, tmp_path / "five.safetensors"))
    assert again.card.network == OneLayerConfig(kernel=5)
    assert again.network.reach == 2
    settings = load_settings("generator", single=["g_hr={name: one-layer, kernel: 5}"])
    assert settings.g_hr == OneLayerConfig(kernel=5)


def test_a_run_that_starts_from_it_keeps_it(
    trained: tuple[Outcome, list[float]], scans: list[Path], tmp_path: Path
) -> None:
    config = TrainingConfig.model_validate(
        {**SETTINGS, "g_hr": {"depth": 1, "features": 8}, "steps": 2, "initial_model": str(trained[0].model)}
    )
    outcome, _ = run(config, tmp_path / "further", scans)
    assert type(load_model(outcome.model).network) is OneLayer


def test_it_infers_in_slabs(trained: tuple[Outcome, list[float]], thick: Volume) -> None:
    results = [
        SuperResolver.load(trained[0].model, device="cpu", precision="fp32", tile=tile)(thick)
        for tile in (1, 4, 7, 1000)
    ]
    whole = results[-1]
    assert whole.volume.shape == (30, 33, 36)
    for result in results[:-1]:
        np.testing.assert_allclose(result.volume.data, whole.volume.data, rtol=0, atol=1e-2)  # of 900
    assert whole.report.model.name == "one-layer-model"
    assert whole.report.consistency.residual < 1e-3
    assert whole.report.consistency.correction == 0.0
    assert whole.report.warnings == ()


def test_it_is_served(trained: tuple[Outcome, list[float]], thick: Volume, tmp_path: Path) -> None:
    task_module = pytest.importorskip(
        "srcyc_app.infers.super_resolution", reason="needs MONAI Label, the server's extra"
    )
    from srcyc_app.infers.options import Options
    from srcyc_app.models import ModelShelf

    shelf = ModelShelf(trained[0].model.parent, with_packaged=False)
    task = task_module.SuperResolutionTask(shelf, max_unpacked=10**9)
    assert task.info()["cards"]["model"]["network"]["name"] == "one-layer"
    scan = write_volume(thick, tmp_path / "thick.nii.gz")
    wishes = {"weights": "model", "device": "cpu", "precision": "fp32", "result_extension": ".nii.gz"}
    result = task.run(scan, Options.of(wishes), folder=tmp_path)
    served = read_volume(result.file)
    local = SuperResolver.load(trained[0].model, device="cpu", precision="fp32")(read_volume(scan)).volume
    np.testing.assert_allclose(served.data, local.data, rtol=0, atol=1e-3)
    assert result.params["model"]["name"] == "one-layer-model"
