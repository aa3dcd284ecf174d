"""Folders: everything that can be read is found, and everything else is named with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from srcyc.errors import VolumeError
from srcyc.volumes.finding import survey
from srcyc.volumes.volume import Volume, read_volume, write_volume

DATA = np.zeros((4, 5, 3), np.int16)


def scan(path: Path) -> Path:
    return write_volume(Volume(DATA[None].astype(np.float32), np.eye(4)), path)


def reasons(folder: Path) -> dict[str, str]:
    found = survey(folder)
    return {file.relative_to(folder).as_posix(): one.reason for one in found.left_out for file in one.files}


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in survey(folder).volumes]


def test_scans_are_found_however_deep_and_in_every_format(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii")
    scan(tmp_path / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T2w.nii.gz")
    scan(tmp_path / "x" / "b.mhd")
    scan(tmp_path / "x" / "y" / "z" / "c.nrrd")
    nib.save(nib.Nifti1Pair(DATA, np.eye(4)), tmp_path / "c.img")
    scan(tmp_path / "mri" / "T1.mgz")
    (tmp_path / "x" / "b.json").write_text("{}")
    assert names(tmp_path) == [
        *(
            "a.nii",
            "c.hdr",
            "mri/T1.mgz",
            "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
            "x/b.mhd",
            "x/y/z/c.nrrd",
        )
    ]
    assert reasons(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("lonely.img", "header"),
        ("scan.par", "PAR/REC"),
        ("scan.mnc", "MINC"),
        ("scan.mif.gz", "MRtrix"),
        ("scan+orig.HEAD", "AFNI"),
        ("scan.nii.bz2", "packed"),
        ("study.zip", "packed"),
        ("scan.nii.gz.part", "not complete"),
        ("figure.PNG", "picture"),
        ("participants.tsv", "no volume"),
        ("README", "no volume"),
    ],
)
def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path, name: str, word: str) -> None:
    scan(tmp_path / "a.nii")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / name).write_bytes(b"something")
    assert names(tmp_path) == ["a.nii"]
    (reason,) = reasons(tmp_path).values()
    assert word in reason


def test_hidden_files_are_nobodys_business(tmp_path: Path) -> None:
    for name in (".hidden.nii", ".git/x.nii", "a/.DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = survey(tmp_path)
    assert (found.volumes, found.left_out) == ([], [])


def test_links(tmp_path: Path) -> None:
    """To a scan elsewhere, to nothing (DataLad), and back to where they lie; a pipe is no scan."""
    elsewhere = scan(tmp_path / "store" / "MD5-0.nii.gz")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "T1w.nii.gz").symlink_to(elsewhere)
    (tree / "gone.nii.gz").symlink_to(tmp_path / "store" / "nothing.nii.gz")
    (tree / "sub" / "loop").symlink_to(tree)
    os.mkfifo(tree / "pipe.nii")
    assert names(tree) == ["sub/T1w.nii.gz"]
    assert "DataLad" in reasons(tree)["gone.nii.gz"]
    assert reasons(tree)["pipe.nii"] == "no volume"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii")
    (tmp_path / "closed").mkdir(mode=0)
    assert "cannot be listed" in reasons(tmp_path)["closed"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_whose_files_may_not_be_looked_at(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii")
    scan(tmp_path / "closed" / "b.nii")
    (tmp_path / "closed").chmod(0o444)
    assert names(tmp_path) == ["a.nii", "closed/b.nii"]
    with pytest.raises(VolumeError, match=r"b\.nii: cannot be read \(Permission denied\)"):
        read_volume(tmp_path / "closed" / "b.nii")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="cannot be listed"):
        survey(tmp_path / "absent")
