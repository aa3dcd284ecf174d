"""Small studies folders, and the app on them without a server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from srcyc.volume import Volume, write_volume

#: Turned about two axes, one of them flipped, away from the origin.
OBLIQUE = np.array(
    [
        [0.8, 0.3, -1.2, 20.0],
        [-0.3, 0.9, 0.9, -35.0],
        [0.35, -0.1, 3.7, 11.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def orthogonal(affine: np.ndarray) -> np.ndarray:
    """The nearest affine without shear: the same column lengths, directions at right angles."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, v = np.linalg.svd(affine[:3, :3] / lengths)
    result = affine.copy()
    result[:3, :3] = u @ v * lengths
    return result


@pytest.fixture
def thick(phantom: Callable[..., np.ndarray]) -> Volume:
    """A small head, slices about four times as thick as wide, oblique, 12-bit integers."""
    data = np.rint(1000 * np.clip(phantom((24, 26, 8)), 0, None)).astype(np.float32)
    return Volume(data, orthogonal(OBLIQUE), np.dtype(np.int16))


@pytest.fixture
def studies(tmp_path: Path, thick: Volume) -> Path:
    """A studies folder with that scan, `thick.nrrd`."""
    folder = tmp_path / "studies"
    write_volume(thick, folder / "thick.nrrd", dtype=np.int16)
    return folder


@pytest.fixture
def models(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder of retrained models with one, `tiny`."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(tiny_model, folder)
    return folder
