"""What tests of every folder share: where data lies, and phantoms made in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

PhantomFactory = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working copy."""
    return REPOSITORY


@pytest.fixture(scope="session")
def sample_data(repository: Path) -> Path:
    """The scans that the repository ships."""
    return repository / "sample-data"


@pytest.fixture(scope="session")
def shared_dir(repository: Path) -> Path:
    """Published weights and evaluation scans beside the repository, where the project's own machines have them."""
    path = repository.parent / "shared"
    if not path.is_dir():
        pytest.skip(
            f"needs the project's data folder {path.name!r} beside the repository; there is none here"
        )
    return path


@contextmanager
def _file_size_limit(most: int) -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="POSIX resource limits")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """``with file_size_limit(bytes)`` does what a full disk does: writes beyond the limit fail with an OSError.

    Only inside the block: pytest's own output may be a file that is longer already.
    """
    return _file_size_limit


def _ball(
    axes: Sequence[np.ndarray], centre: Sequence[float], radii: Sequence[float], edge: float
) -> np.ndarray:
    """A filled ellipsoid with a smooth border; coordinates, radii and ``edge`` in half fields of view."""
    distance = np.sqrt(sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)))
    return 1.0 / (1.0 + np.exp(np.clip((distance - 1.0) * min(radii) / edge, -30.0, 30.0)))


def make_phantom(shape: Sequence[int] = (40, 48, 36), seed: int = 0, noise: float = 0.01) -> np.ndarray:
    """A head of ellipsoids: scalp, dark skull, folded cortex, white matter, ventricles, a few bright lesions.

    Args:
        shape: voxels along each axis, two or three of them.
        seed: same seed, same head; another seed moves and resizes its parts.
        noise: standard deviation of the Gaussian noise added everywhere.

    Returns:
        float32 ``(1, *shape)``; tissue lies between 0 and about 1, air around 0.
    """
    rng = np.random.default_rng(seed)
    dims = len(shape)
    axes = np.meshgrid(*(np.linspace(-1.0, 1.0, n) for n in shape), indexing="ij", sparse=True)
    edge = 1.5 / max(shape)  # borders span about three voxels of the longest axis
    size = rng.uniform(0.95, 1.0, dims)
    centre = rng.uniform(-0.03, 0.03, dims)

    def ball(scale: float, offset: Sequence[float] | float = 0.0) -> np.ndarray:
        return _ball(axes, centre + np.asarray(offset), scale * size, edge)

    folds = np.ones((1,) * dims)
    for axis, frequency, phase in zip(
        axes, rng.uniform(9.0, 14.0, dims), rng.uniform(0.0, 6.3, dims), strict=True
    ):
        folds = folds * np.cos(frequency * axis + phase)

    head = 0.75 * ball(0.9) - 0.65 * ball(0.82)
    brain, white = ball(0.75), ball(0.58)
    head = head + brain * (0.45 + 0.12 * folds) + 0.3 * white
    side = np.zeros(dims)
    side[0] = 0.14
    for sign in (-1.0, 1.0):
        head = head - 0.6 * _ball(
            axes, centre + sign * side, np.full(dims, 0.12) * (1.0 + np.arange(dims) / 2), edge
        )
    for _ in range(4):
        lesion = _ball(
            axes, centre + rng.uniform(-0.4, 0.4, dims), np.full(dims, rng.uniform(0.04, 0.09)), edge
        )
        head = head + 0.3 * lesion
    head = np.clip(head, 0.0, None) + noise * rng.standard_normal(tuple(shape))
    return head[np.newaxis].astype(np.float32)


@pytest.fixture(scope="session")
def phantom() -> PhantomFactory:
    """Makes heads: ``phantom(shape=(40, 48, 36), seed=0, noise=0.01)`` -> float32 ``(1, *shape)``."""
    return make_phantom


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: it adds nothing yet, so its result is the classical inverse."""
    # Here: most tests need no PyTorch to be collected.
    import torch

    from srcyc.inference.model_file import ModelCard, publish_model
    from srcyc.networks import SliceResDNet

    torch.manual_seed(0)
    network = SliceResDNet(features=8, depth=1)
    with torch.no_grad():
        for parameter in network.parameters():
            # A new network begins by adding nothing, and an error in what it adds would not show.
            if not parameter.any():
                parameter.normal_(std=0.01)
    card = ModelCard(
        name="tiny",
        title="untrained",
        network=network.config,
        spacing_range=(0.3, 2.0),
        factor_range=(1.5, 8.0),
        contrasts=("T1w",),
        trained_on="nothing",
        licence="Apache-2.0",
        created="2024-01-01T00:00:00+00:00",
        software="srcyc test",
    )
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    publish_model(network, card, path)
    return path
