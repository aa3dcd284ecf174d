from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from factories import training_scan
from srcyc.data.store import ScanStore, TrainingScan
from srcyc.errors import DataError, OutputError, VolumeError
from srcyc.physics.acquisition import ASSUMED_THICKNESS
from srcyc.physics.simulation import simulate_thick
from srcyc.volumes.volume import Volume, read_volume, write_volume
from srcyc.volumes.working import prepare

#: Thick slices along the first axis, turned and shifted.
AFFINE = np.array([[0, 1, 0, -20], [0, 0, -1.1, 30], [4.0, 0, 0, -15], [0, 0, 0, 1]])


@pytest.fixture
def scan(tmp_path: Path, phantom) -> Path:  # type: ignore[no-untyped-def]
    path = tmp_path / "sub-01_T1w.nii.gz"
    nib.save(nib.Nifti1Image(300 * phantom((12, 40, 36))[0], AFFINE), path)
    return path


def state(store: ScanStore) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()}


def assert_equal(one: TrainingScan, other: TrainingScan) -> None:
    assert np.array_equal(one.image, other.image)
    assert (one.name, one.spacing, one.thickness_ratio) == (other.name, other.spacing, other.thickness_ratio)
    assert np.array_equal(one.grid.affine, other.grid.affine)
    assert one.grid.shape == other.grid.shape


def in_memory(path: Path) -> TrainingScan:
    """What an entry must hold: the scan as inference prepares it."""
    working = prepare(read_volume(path))
    return TrainingScan(path.name, working.image, working.grid, ASSUMED_THICKNESS)


def test_a_stored_scan_is_the_one_read_into_memory(tmp_path: Path, scan: Path) -> None:
    store = ScanStore(tmp_path / "store")
    stored = store.get(scan)
    assert_equal(stored, in_memory(scan))
    assert stored.image.shape == (40, 36, 12)
    assert stored.spacing == pytest.approx((1, 1.1, 4))
    assert stored.factor == pytest.approx(4)
    assert stored.image.dtype == np.float32
    # Slices last, towards R, A and S: a voxel is where it was.
    np.testing.assert_allclose(stored.grid.index_to_world((5, 7, 3)), (AFFINE @ (3, 5, 28, 1))[:3], atol=1e-5)
    assert (np.diag(stored.grid.affine[:3, :3]) > 0).all()
    read = nib.load(scan).get_fdata().transpose(1, 2, 0)[:, ::-1]
    np.testing.assert_allclose(np.corrcoef(stored.image.ravel(), read.ravel())[0, 1], 1, atol=1e-6)


@pytest.mark.parametrize(("said", "ratio"), [(3.2, 0.8), (4.0, 1.0), (None, ASSUMED_THICKNESS), (9.0, 1.0)])
def test_the_thickness_is_the_file_s_or_what_is_assumed(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch, said: float | None, ratio: float
) -> None:
    """As for inference: an overlap that can hardly be counts as none."""
    import srcyc.data.store

    def reading(path: Path) -> Volume:
        return replace(read_volume(path), slice_thickness=said)

    monkeypatch.setattr(srcyc.data.store, "read_volume", reading)
    store = ScanStore(tmp_path / "store")
    assert store.get(scan).thickness_ratio == pytest.approx(ratio)
    assert store.get(scan).thickness_ratio == pytest.approx(ratio)


def test_a_thickness_that_nobody_says_is_estimated(tmp_path: Path, sample_data: Path) -> None:
    head = read_volume(sample_data / "ch2bet.nii.gz")
    centre = replace(head, data=head.data[:, 40:140, 60:160, 20:140])
    for ratio in (0.6, 1.0):
        thick = replace(simulate_thick(centre, 5.0, thickness=5 * ratio, axis=2)[0], slice_thickness=None)
        file = write_volume(thick, tmp_path / f"scan{ratio}.nii.gz", dtype=np.float32)
        found = ScanStore(tmp_path / "store").get(file).thickness_ratio
        assert found == pytest.approx(ratio, abs=0.15)
        assert found != ASSUMED_THICKNESS


@pytest.mark.parametrize(
    ("spacing", "axes"),
    [
        ((1.0, 1.0, 1.0), (0, 1, 2)),
        ((1.0, 1.04, 1.0), (0, 1, 2)),
        ((1.0, 1.06, 1.0), (0, 2)),
        ((0.5, 0.5, 4.0), (0, 1)),
        ((0.5, 0.6, 4.0), (0,)),
    ],
)
def test_only_the_finest_axes_show_what_thick_slices_take_away(
    spacing: tuple[float, float, float], axes: tuple[int, ...]
) -> None:
    scan = training_scan("made", np.zeros((4, 5, 6), np.float32), spacing)
    assert scan.thin_axes == axes
    assert scan.factor == pytest.approx(spacing[2] / min(spacing))


def test_a_scan_is_read_once(tmp_path: Path, scan: Path) -> None:
    first = ScanStore(tmp_path / "store")
    first.get(scan)
    before = state(first)
    assert len(before) == 2
    again = ScanStore(tmp_path / "store")
    again.get(scan)
    assert state(again) == before


def test_a_changed_scan_is_read_again(tmp_path: Path, scan: Path, phantom) -> None:  # type: ignore[no-untyped-def]
    store = ScanStore(tmp_path / "store")
    before = store.get(scan)
    nib.save(nib.Nifti1Image(300 * phantom((12, 40, 36), seed=1)[0], AFFINE), scan)
    os.utime(scan, ns=(1, 1))  # whatever the clock's resolution
    after = store.get(scan)
    assert_equal(after, in_memory(scan))
    assert not np.array_equal(before.image, after.image)


def test_a_changed_file_of_a_dicom_series_is_noticed(tmp_path: Path, sample_data: Path) -> None:
    series = sorted(path for path in (sample_data / "dicom").rglob("*") if path.is_file())
    folder = tmp_path / "series"
    folder.mkdir()
    for path in series:
        if path.parent == series[0].parent:
            (folder / path.name).write_bytes(path.read_bytes())
    store = ScanStore(tmp_path / "store")
    store.get(folder)
    before = state(store)
    os.utime(folder / series[0].name, ns=(1, 1))
    store.get(folder)
    assert len(state(store)) == len(before) + 2


@pytest.mark.parametrize("damage", ["cut off", "header", "no voxels", "json", "other shape", "no json"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, scan: Path, damage: str) -> None:
    store = ScanStore(tmp_path / "store")
    store.get(scan)
    (voxels,), (entry,) = store.folder.glob("*.npy"), store.folder.glob("*.json")
    content = voxels.read_bytes()
    if damage == "cut off":
        voxels.write_bytes(content[: len(content) // 2])
    elif damage == "header":
        voxels.write_bytes(b"nonsense" + content[8:])
    elif damage == "no voxels":
        voxels.unlink()
    elif damage == "json":
        entry.write_text(entry.read_text()[:20])
    elif damage == "other shape":
        entry.write_text(json.dumps({**json.loads(entry.read_text()), "shape": [40, 36, 11]}))
    else:
        entry.unlink()
    assert_equal(store.get(scan), in_memory(scan))
    assert voxels.read_bytes() == content


def test_pickling_a_stored_scan_copies_no_voxels(tmp_path: Path, scan: Path) -> None:
    stored = ScanStore(tmp_path / "store").get(scan)
    data = pickle.dumps(stored)
    assert len(data) < 4096
    assert_equal(pickle.loads(data), stored)  # noqa: S301 - our own bytes
    made = in_memory(scan)
    assert_equal(pickle.loads(pickle.dumps(made)), made)  # noqa: S301


def test_a_copy_with_another_image_is_pickled_with_that_image(tmp_path: Path, scan: Path) -> None:
    stored = ScanStore(tmp_path / "store").get(scan)
    brighter = replace(stored, image=stored.image + 1)
    again = pickle.loads(pickle.dumps(brighter))  # noqa: S301
    assert np.array_equal(again.image, stored.image + 1)


def test_unpickling_without_the_file_says_so(tmp_path: Path, scan: Path) -> None:
    store = ScanStore(tmp_path / "store")
    data = pickle.dumps(store.get(scan))
    for path in store.folder.glob("*.npy"):
        path.unlink()
    with pytest.raises(DataError, match=r"the prepared copy of sub-01_T1w\.nii\.gz is gone"):
        pickle.loads(data)  # noqa: S301


def test_writing_into_a_mapped_image_does_not_reach_the_file(tmp_path: Path, scan: Path) -> None:
    store = ScanStore(tmp_path / "store")
    store.get(scan).image[:] = 0
    assert_equal(store.get(scan), in_memory(scan))


def test_processes_fill_one_store_at_the_same_time(tmp_path: Path, scan: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from srcyc.data.store import ScanStore;"
        "scan = ScanStore(Path(sys.argv[1])).get(Path(sys.argv[2]));"
        "sys.stdout.buffer.write(scan.image.tobytes())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store"), str(scan)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    expected = in_memory(scan).image.tobytes()
    assert [process.communicate(timeout=120)[0] == expected for process in processes] == [True, True]
    assert len(list((tmp_path / "store").iterdir())) == 2


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), (b"", "is empty"), (b"no image", "not a")]
)
def test_an_unreadable_scan_is_refused_with_the_readers_sentence(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "broken.nii.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VolumeError, match=rf"broken\.nii\.gz: .*{reason}"):
        ScanStore(tmp_path / "store").get(path)


def test_a_place_that_cannot_be_written_is_no_fault_of_the_scan(tmp_path: Path, scan: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        ScanStore(tmp_path / "file" / "store").get(scan)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ScanStore(tmp_path / "store")
    opened = Path.open

    def open_full(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if mode == "wb":
            opened(self, mode).close()
            return opened(Path("/dev/full"), mode)
        return opened(self, mode, *args, **kwargs)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        with pytest.raises(OutputError, match=r"\.npy: cannot be written"):
            store.get(scan)
    assert not list(store.folder.iterdir())
    assert_equal(store.get(scan), in_memory(scan))
