from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from srcyc.data.domains import (
    AssignedScan,
    Domain,
    assign_domains,
    domain_of_spacing,
    person_of,
    read_manifest,
    split_by_person,
)
from srcyc.errors import ConfigError, DataError


def scan(path: Path, spacing: tuple[float, float, float]) -> Path:
    image = nib.Nifti1Image(
        np.random.default_rng(0).normal(100, 5, (8, 8, 8)).astype("f4"), np.diag([*spacing, 1])
    )
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("spacing", "domain"),
    [
        ((0.9, 0.9, 5.0), Domain.LR),
        ((4.8, 1.0, 1.0), Domain.LR),
        ((1.0, 1.0, 1.0), Domain.HR),
        ((0.9, 0.86, 0.86), Domain.HR),
        ((2.0, 2.0, 2.0), Domain.NEITHER),
        ((1.0, 1.0, 1.6), Domain.NEITHER),
    ],
)
def test_domain_by_spacing(spacing: tuple[float, float, float], domain: Domain) -> None:
    assert domain_of_spacing(spacing)[0] is domain


def test_what_is_said_beats_the_manifest_beats_the_spacing(tmp_path: Path) -> None:
    thick, thin = scan(tmp_path / "sub-01_T1w.nii.gz", (1, 1, 5)), scan(tmp_path / "b.nii.gz", (1, 1, 1))
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,domain,person\nsub-01_T1w.nii.gz,neither,anna\nb.nii.gz,,anna\n")
    by_manifest = assign_domains([tmp_path], manifest=read_manifest(manifest))
    assert {s.path.name: (s.domain, s.person) for s in by_manifest} == {
        "sub-01_T1w.nii.gz": (Domain.NEITHER, "anna"),
        "b.nii.gz": (Domain.HR, "anna"),
    }
    assert [s.domain for s in assign_domains([thick, thin])] == [Domain.LR, Domain.HR]
    assert [s.domain for s in assign_domains([thick, thin], domain=Domain.HR)] == [Domain.HR, Domain.HR]
    assert assign_domains([thick])[0].person == "sub-01"


def test_an_unreadable_scan_is_neither_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"")
    assigned = assign_domains([tmp_path / "broken.nii.gz"])
    assert assigned[0].domain is Domain.NEITHER
    assert "broken.nii.gz" in assigned[0].reason


@pytest.mark.parametrize("text", ["path,domain\na.nii,XL\n", "file,domain\na.nii,LR\n"])
def test_a_wrong_manifest_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(text)
    with pytest.raises(ConfigError, match=r"m\.csv line 2"):
        read_manifest(manifest)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv"):
        read_manifest(tmp_path / "none.csv")


def test_person_of() -> None:
    assert person_of(Path("data/sub-07/anat/sub-07_T1w.nii.gz")) == "sub-07"
    assert person_of(Path("data/scan.v2.nii.gz")) == "scan"


def scans(*persons: str) -> list[AssignedScan]:
    return [AssignedScan(Path(f"{i}.nii"), Domain.HR, "", p, (1, 1, 1)) for i, p in enumerate(persons)]


@pytest.mark.parametrize("seed", range(5))
def test_no_person_is_on_both_sides(seed: int) -> None:
    training, validation = split_by_person(scans("a", "a", "b", "b", "c", "d", "e"), 0.4, seed)
    assert {s.person for s in training}.isdisjoint({s.person for s in validation})
    assert len({s.person for s in validation}) == 2
    assert split_by_person(scans("a", "a", "b", "b", "c", "d", "e"), 0.4, seed) == (training, validation)


def test_named_persons_are_held_back_and_one_person_cannot_be_split() -> None:
    assert {s.person for s in split_by_person(scans("a", "b", "c"), 0.3, 0, ["b"])[1]} == {"b"}
    with pytest.raises(DataError, match="held_back names zoe"):
        split_by_person(scans("a", "b"), 0.3, 0, ["zoe"])
    assert split_by_person(scans("a"), 0.0, 0) == (scans("a"), [])
    with pytest.raises(DataError, match="validation_fraction=0"):
        split_by_person(scans("a", "a"), 0.2, 0)
