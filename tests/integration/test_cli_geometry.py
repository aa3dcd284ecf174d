"""Through `srcyc infer`: the field of view stays, and a bright marker stays at its place in the world."""

from __future__ import annotations

import numpy as np
import pytest

from factories import make_affine, make_blob, rotation
from srcyc.volumes.geometry import Grid
from srcyc.volumes.volume import Volume, read_volume, write_volume


def _turned(*degrees: float) -> np.ndarray:
    return rotation(*np.radians(degrees))


PERMUTED = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
GRIDS = {
    "identity": Grid((25, 28, 9), make_affine(np.eye(3), (1.0, 1.0, 4.0))),
    "LPS": Grid((25, 28, 9), make_affine(np.diag([-1.0, -1.0, 1.0]), (1.0, 1.0, 4.0))),
    "oblique": Grid((25, 28, 9), make_affine(_turned(12.0, -25.0, 33.0), (0.9, 0.9, 3.6))),
    "permuted": Grid((9, 28, 25), make_affine(PERMUTED, (4.0, 1.0, 1.0))),
    "flipped": Grid((25, 28, 9), make_affine(np.diag([1.0, -1.0, -1.0]), (1.0, 1.0, 4.0))),
    "non-integer factor": Grid((27, 21, 11), make_affine(_turned(0.0, 5.0, 0.0), (0.93, 0.87, 3.17))),
    "even and odd": Grid((24, 9, 31), make_affine(_turned(3.0, 0.0, 170.0), (1.1, 5.5, 1.1))),
}


def _centroid(volume: Volume) -> np.ndarray:
    """Centre of what is bright, RAS mm."""
    data = np.clip(volume.data[0] - 0.1 * volume.data.max(), 0, None).astype(np.float64)
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    return (volume.grid.index_to_world(index) * data[..., None]).sum(axis=(0, 1, 2)) / data.sum()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("name", GRIDS)
def test_field_of_view_and_marker_stay(srcyc, tiny_model, tmp_path, name, suffix):
    grid = GRIDS[name]
    # Off the centre, at no voxel's centre, wide enough for the thick slices to see it.
    centre = grid.index_to_world(0.45 * np.array(grid.shape) + (0.7, -0.3, 0.4))
    sigma = 1.2 * max(grid.spacing)
    scan = write_volume(Volume(make_blob(grid, centre, sigma), grid.affine), tmp_path / f"scan{suffix}")
    out = tmp_path / f"thin{suffix}"
    ran = srcyc("infer", scan, "-o", out, "--model", tiny_model, "--device", "cpu")
    assert ran.code == 0, ran.err

    thin = read_volume(out)
    assert max(thin.spacing) < 1.2 * min(grid.spacing)
    corners = thin.grid.field_of_view
    np.testing.assert_allclose(corners, grid.field_of_view, atol=1e-3)
    truth = Volume(make_blob(thin.grid, centre, sigma), thin.affine)
    moved = np.linalg.norm(_centroid(thin) - _centroid(truth))
    assert moved < 0.5 * min(thin.spacing)
    brightest = thin.grid.index_to_world(np.unravel_index(thin.data[0].argmax(), thin.shape))
    assert np.linalg.norm(brightest - centre) < 1.5 * max(thin.spacing)
