from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from srcyc.data.domains import (
    Domain,
    assign_domains,
    domain_of_spacing,
    draw_held_back,
    person_of,
    read_manifest,
)
from srcyc.errors import ConfigError, OutputError


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


def test_a_manifest_that_a_spreadsheet_wrote_is_read(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,domain,person\r\na.nii,LR,änne\r\n", encoding="utf-8-sig")
    (entry,) = read_manifest(manifest).values()
    assert (entry.domain, entry.person) == (Domain.LR, "änne")


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv"):
        read_manifest(tmp_path / "none.csv")


def test_person_of() -> None:
    assert person_of(Path("data/sub-07/anat/sub-07_T1w.nii.gz")) == "sub-07"
    assert person_of(Path("data/scan.v2.nii.gz")) == "scan"


def test_the_spacing_may_come_from_elsewhere(tmp_path: Path) -> None:
    assert assign_domains([tmp_path / "a.nii"], spacing_of=lambda _: (1, 1, 5))[0].domain is Domain.LR


def test_a_full_disk_is_no_fault_of_the_scan() -> None:
    def full(path: Path) -> tuple[float, float, float]:
        raise OutputError(f"{path}: cannot be written (no space); free some space.")

    with pytest.raises(OutputError):
        assign_domains([Path("a.nii")], spacing_of=full)


HR, LR = set("abcdefghij"), set("ghijklmnop")


@pytest.mark.parametrize("seed", range(10))
def test_of_each_domain_the_fraction_is_held_back(seed: int) -> None:
    held_back = draw_held_back(HR, LR, 0.3, seed)
    assert held_back == draw_held_back(HR, LR, 0.3, seed)
    assert len(held_back & HR) == 3
    assert len(held_back & LR) >= 3
    assert draw_held_back(HR, set(), 0.3, seed) == held_back & HR


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("hr", "lr", "expected"),
    [
        ("ab", "", 1),
        ("ab", "a", 1),  # never a, the only one with an LR scan
        ("a", "", 0),
        ("a", "a", 0),
        ("a", "ab", 1),  # b: HR has nobody but a
        ("a", "bc", 1),
        ("ab", "ab", 1),
        ("ab", "cd", 2),
    ],
)
def test_a_domains_last_person_is_never_held_back(seed: int, hr: str, lr: str, expected: int) -> None:
    held_back = draw_held_back(set(hr), set(lr), 0.2, seed)
    assert len(held_back) == expected
    assert not set(hr) <= held_back
    assert not lr or not set(lr) <= held_back


def test_nobody_is_held_back_by_a_fraction_of_zero_and_seeds_differ() -> None:
    assert draw_held_back(HR, LR, 0, 0) == frozenset()
    assert len({draw_held_back(HR, set(), 0.2, seed) for seed in range(10)}) > 3
