"""Small studies folders, and the app on them without a server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from factories import OBLIQUE_AXES, make_affine, make_head
from srcyc.volumes.volume import Volume, write_volume


@pytest.fixture
def thick() -> Volume:
    """A small head, slices about four times as thick as wide, oblique and left-handed, 12-bit integers."""
    return make_head(affine=make_affine(OBLIQUE_AXES, (0.9, 0.95, 3.7), (20.0, -35.0, 11.0)))


@pytest.fixture
def studies(tmp_path: Path, thick: Volume) -> Path:
    """A studies folder with that scan, `thick.nrrd`, written long ago: nobody has to wait whether it still grows."""
    folder = tmp_path / "studies"
    os.utime(write_volume(thick, folder / "thick.nrrd", dtype=np.int16), (1e9, 1e9))
    return folder


@pytest.fixture
def models(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder of retrained models with one, `tiny`."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(tiny_model, folder)
    return folder
