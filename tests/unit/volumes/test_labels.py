"""Label maps: told from scans, and brought to another grid with smooth borders at their places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from factories import make_head, rotation
from srcyc.errors import InputError, LabelMapError, VolumeError
from srcyc.volumes.geometry import Grid
from srcyc.volumes.labels import require_labels, require_scan, resample_labels, why_label_map
from srcyc.volumes.volume import Volume, read_volume

HEAD = make_head()
MASK = (HEAD.data > 300).astype(np.float32)
TISSUES = MASK + (HEAD.data > 500) + (HEAD.data > 700)


def named(data: np.ndarray, name: str = "x.nii.gz", **fields: object) -> Volume:
    return replace(HEAD, data=data, source=Path("/in") / name, **fields)  # type: ignore[arg-type]


# -- telling -------------------------------------------------------------------------------------------------

LABELS = {
    "mask": named(MASK),
    "mask of 255": named(255 * MASK),
    "an id far from 0": named(2e6 * MASK),
    "lesion of one voxel": named((HEAD.data == HEAD.data.max()).astype(np.float32)),
    "tissues": named(TISSUES),
    "FreeSurfer's ids": named(np.choose(TISSUES.astype(int), [0, 2, 41, 2035]).astype(np.float32)),
    "probabilities by their name": named(HEAD.data / HEAD.data.max(), "sub-01_label-GM_probseg.nii.gz"),
    "by the header": named(np.rint(HEAD.data / 50), labels="its header's intent is labels"),
    "not a number outside": named(np.where(MASK > 0, TISSUES, np.nan)),
}


@pytest.mark.parametrize("volume", LABELS.values(), ids=LABELS.keys())
def test_label_maps_are_told(volume: Volume) -> None:
    assert why_label_map(volume)
    with pytest.raises(LabelMapError, match="label map") as caught:
        require_scan(volume)
    assert str(volume.source) in str(caught.value)
    assert isinstance(caught.value, InputError)


SCANS = {
    "a head": named(HEAD.data),
    "of few bits": named(np.rint(HEAD.data / 16)),
    "in real numbers": named(HEAD.data * np.float32(0.37)),
    "constant": named(np.full_like(HEAD.data, 7)),
    "called a mask, and none": named(HEAD.data, "t1_mask.nii.gz"),
    "a masked brain": named(HEAD.data * MASK, "sub-01_desc-brain_T1w.nii.gz"),
    "with a part cut off": named(np.where(HEAD.data > 600, 600, HEAD.data)),
}


@pytest.mark.parametrize("volume", SCANS.values(), ids=SCANS.keys())
def test_scans_are_none(volume: Volume) -> None:
    assert why_label_map(volume) is None
    require_scan(volume)


def test_the_scans_that_come_along_are_none(sample_data: Path) -> None:
    for path in sorted(sample_data.glob("*.nii.gz")):
        assert why_label_map(read_volume(path)) is None, path


def test_headers_that_say_labels(tmp_path: Path) -> None:
    data = np.rint(HEAD.data[0] / 50).astype(np.int16)
    image = nib.Nifti1Image(data, np.diag([1, 1, 4, 1.0]))
    image.header.set_intent("label")
    nib.save(image, tmp_path / "x.nii.gz")
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 24 26 8\n"
        "space directions: (1,0,0) (0,1,0) (0,0,4)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        "space origin: (0,0,0)\nSegment0_ID:=Segment_1\nSegment0_LabelValue:=1\n\n"
    )
    (tmp_path / "x.seg.nrrd").write_bytes(header.encode() + data.tobytes(order="F"))
    for name in ("x.nii.gz", "x.seg.nrrd"):
        assert "header" in str(why_label_map(read_volume(tmp_path / name)))


@pytest.mark.parametrize("data", [HEAD.data, HEAD.data * np.float32(0.3), np.full_like(HEAD.data, np.nan)])
def test_a_scan_is_no_label_map(data: np.ndarray) -> None:
    with pytest.raises(VolumeError, match="no labels"):
        require_labels(named(data))
    require_labels(named(np.zeros_like(HEAD.data)))


# -- resampling ----------------------------------------------------------------------------------------------


def balls(grid: Grid, height: float = 0.5) -> np.ndarray:
    """Two balls, one inside the other: labels 3 and 40 near the middle of the world."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid.index_to_world(index) - (1.0, -2.0, height), axis=-1)
    return np.where(distance < 7, 40, np.where(distance < 13, 3, 0)).astype(np.float32)


def grid_of(
    spacing: tuple[float, float, float], turn: np.ndarray | None = None, extent: float = 32.0
) -> Grid:
    shape = tuple(round(extent / step) for step in spacing)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)  # type: ignore[arg-type]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def nearest(labels: Volume, grid: Grid) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    place = np.rint(labels.grid.world_to_index(grid.index_to_world(index))).astype(int)
    inside = ((place >= 0) & (place < labels.shape)).all(axis=-1)
    i, j, k = np.moveaxis(np.clip(place, 0, np.array(labels.shape) - 1), -1, 0)
    return np.where(inside, labels.data[0][i, j, k], 0)


GRIDS = {
    "thick": grid_of((1, 1, 5)),
    "thick first": grid_of((5, 1, 1)),
    "oblique": grid_of((1, 1, 5), rotation(0.2, -0.3, 0.4), 40.0),
    "flipped": grid_of((1, 1, 5), np.diag([-1.0, 1, -1])),
    "already thin": grid_of((1, 1, 1)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_labels_keep_their_place_and_shape(name: str) -> None:
    own, wanted = GRIDS[name], grid_of((1, 1, 1))
    wrong = {"here": 0.0, "nearest": 0.0}
    for height in (-1.5, -0.5, 0.5, 1.5, 2.5):
        labels = Volume(balls(own, height)[None], own.affine)
        result, truth = resample_labels(labels, wanted), balls(wanted, height)
        np.testing.assert_array_equal(result.affine, wanted.affine)
        assert result.shape == wanted.shape
        assert set(np.unique(result.data)) == {0, 3, 40}
        for label in (3, 40):
            wrong["here"] += 1 - dice(result.data[0] == label, truth == label)
            wrong["nearest"] += 1 - dice(nearest(labels, wanted) == label, truth == label)
    assert wrong["here"] < 0.85 * wrong["nearest"] or wrong["here"] == 0, wrong
    if name == "already thin":
        np.testing.assert_array_equal(result.data, labels.data)


def test_a_label_is_interpolated_in_shape_not_in_steps() -> None:
    """A cone: its cross-sections shrink from plane to plane, also between slices."""
    own, wanted = grid_of((1, 1, 5)), grid_of((1, 1, 1))
    index = np.stack(np.meshgrid(*map(np.arange, own.shape), indexing="ij"), axis=-1)
    world = own.index_to_world(index)
    cone = np.linalg.norm(world[..., :2], axis=-1) < 8 - 0.4 * world[..., 2]
    result = resample_labels(Volume(cone[None].astype(np.float32), own.affine), wanted).data[0]
    change = np.diff(result.sum(axis=(0, 1))[4:-4])
    assert (change <= 0).all()
    # Four planes of five would be equal; voxels leave two.
    assert np.count_nonzero(change) > 0.6 * len(change)


def test_outside_its_field_of_view_there_is_no_label() -> None:
    own = grid_of((1, 1, 4), extent=16.0)
    result = resample_labels(
        Volume(np.full((1, *own.shape), 5, np.float32), own.affine), grid_of((1, 1, 1))
    ).data[0]
    assert set(np.unique(result)) == {0, 5}
    assert np.count_nonzero(result) == 16**3
    assert (result[8:24, 8:24, 8:24] == 5).all()


def test_labels_beyond_the_result_are_none_of_its() -> None:
    data = np.zeros((24, 6, 6), np.float32)
    data[1:4, 2:5, 2:5], data[18:22, 2:5, 2:5] = 7, 9
    found = resample_labels(Volume(data[None], np.eye(4)), Grid((12, 6, 6), np.eye(4)))
    np.testing.assert_array_equal(found.data[0], data[:12])


def test_a_label_map_of_somewhere_else_is_refused() -> None:
    far = grid_of((1, 1, 1))
    far.affine[:3, 3] += 500
    labels = Volume(balls(grid_of((1, 1, 5)))[None], grid_of((1, 1, 5)).affine)
    with pytest.raises(VolumeError, match="field of view"):
        resample_labels(labels, far)
