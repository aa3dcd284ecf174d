"""The slice thickness of a JSON sidecar, as BIDS has it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from srcyc.volumes.sidecar import read_thickness
from srcyc.volumes.volume import Volume, read_volume, write_volume


def scan(path: Path) -> Path:
    return write_volume(Volume(np.zeros((1, 4, 5, 3), np.float32), np.diag([1, 1, 5, 1.0])), path)


def write(path: Path, **fields: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mgz"])
def test_the_file_beside_the_scan_says_it(tmp_path: Path, suffix: str) -> None:
    path = scan(tmp_path / f"scan{suffix}")
    assert read_volume(path).slice_thickness is None
    write(tmp_path / "scan.json", SliceThickness=3, SpacingBetweenSlices=5)
    volume = read_volume(path)
    assert (volume.slice_thickness, volume.warnings) == (3.0, ())


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps({"SliceThickness": 4.5}), encoding="utf-8")
    assert read_thickness(tmp_path / "a.nii", "a") == (4.5, ())


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "\x00\x01", '{"a":' + "[" * 100_000])
def test_a_sidecar_that_cannot_be_read_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    thickness, warnings = read_thickness(tmp_path / "a.nii", "a")
    assert thickness is None
    assert len(warnings) == 1


@pytest.mark.parametrize("value", [0, -3, "3 mm", True, [3], None, 10**400, float("nan"), float("inf")])
def test_a_thickness_that_is_none_is_told(tmp_path: Path, value: object) -> None:
    write(tmp_path / "a.json", SliceThickness=value)
    thickness, (warning,) = read_thickness(tmp_path / "a.nii", "a")
    assert thickness is None
    assert "a.json" in warning


def test_inheritance_within_a_data_set(tmp_path: Path) -> None:
    """The nearest file counts whose entities are all the scan's."""
    anat = tmp_path / "sub-01" / "ses-2" / "anat"
    anat.mkdir(parents=True)
    path, stem = anat / "sub-01_ses-2_T2w.nii.gz", "sub-01_ses-2_T2w"
    write(tmp_path / "T2w.json", SliceThickness=4)
    # Without the mark of a data set nothing is inherited.
    assert read_thickness(path, stem) == (None, ())
    write(tmp_path / "dataset_description.json", Name="x")
    assert read_thickness(path, stem)[0] == 4
    write(tmp_path / "T1w.json", SliceThickness=1)
    write(tmp_path / "ses-9_T2w.json", SliceThickness=9)
    assert read_thickness(path, stem)[0] == 4
    write(tmp_path / "sub-01" / "sub-01_T2w.json", SliceThickness=3)
    assert read_thickness(path, stem)[0] == 3
    write(anat / "sub-01_ses-2_T2w.json", EchoTime=0.1)
    assert read_thickness(path, stem)[0] == 3
    write(anat / "sub-01_ses-2_T2w.json", SliceThickness=2)
    assert read_thickness(path, stem)[0] == 2


def test_the_header_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(
        b"NRRD0005\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nspacings: 1 1 5\nthicknesses: nan nan 4\n"
        b"encoding: raw\n\n" + bytes(64)
    )
    write(tmp_path / "a.json", SliceThickness=3)
    assert read_volume(path).slice_thickness == 4
