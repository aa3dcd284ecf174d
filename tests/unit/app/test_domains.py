"""Domains of a datastore's scans: the tag, else an error, else the name, else the spacing; what training gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monailabel.datastore.local import LocalDatastore

from srcyc.data.domains import Domain, ManifestEntry
from srcyc.volumes.volume import Volume, write_volume
from srcyc_app.studies.datastore import StudiesFolder
from srcyc_app.studies.domains import assigned_domain, scans_in, training_scans

THICK, THIN = (1.0, 1.0, 5.0), (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("info", "domain", "reason"),
    [
        ({"spacing": [1, 1, 5]}, "LR", "5.0 times thicker"),
        ({"spacing": (1, 1, 1)}, "HR", "thin on every axis"),
        ({"spacing": [2, 2, 2]}, "neither", "neither thick"),
        ({"spacing": [1, 1, 5], "domain": "HR"}, "HR", "tagged HR"),
        ({"spacing": [1, 1, 5], "domain": " hr "}, "HR", "tagged HR"),
        ({"spacing": [1, 1, 5], "domain": "neither"}, "neither", "tagged neither"),
        ({"spacing": [1, 1, 5], "domain": "SR"}, "SR", "tagged SR"),
        ({"domain": "LR"}, "LR", "tagged LR"),
        ({"error": "broken.", "domain": "LR"}, "LR", "tagged LR"),
        ({"error": "broken."}, "neither", "broken."),
        ({}, "neither", "tag it"),
        ({"spacing": [1, 1, 5], "domain": ""}, "LR", "thicker"),
        ({"spacing": [1, 1, 5], "domain": 7}, "LR", "thicker"),
        ({"spacing": [1, 1]}, "neither", "tag it"),
        ({"spacing": [0, 1, 1]}, "neither", "tag it"),
        ({"spacing": "1,1,5"}, "neither", "tag it"),
        ({"spacing": [1, 1, float("nan")]}, "neither", "tag it"),
        ({"spacing": [1, 1, 1], "name": "a_sr.nii.gz"}, "SR", "its name"),
        ({"spacing": [1, 1, 1], "name": "a_sr.nii.gz", "domain": "HR"}, "HR", "tagged HR"),
        ({"spacing": [1, 1, 1], "made_from": "a", "domain": "HR"}, "SR", "made from a"),
    ],
)
def test_assigned_domain(info: dict[str, Any], domain: str, reason: str) -> None:
    given, why = assigned_domain(info)
    assert given == domain
    assert reason in why


def test_what_was_assigned_stays_so() -> None:
    assert assigned_domain({"domain": "LR", "domain_reason": "so", "spacing": [1, 1, 1]}) == ("LR", "so")


def write(path: Path, spacing: tuple[float, float, float]) -> None:
    data = np.arange(6 * 5 * 4, dtype=np.float32).reshape(1, 6, 5, 4)
    write_volume(Volume(data, np.diag([*spacing, 1.0])), path)


@pytest.fixture
def store(tmp_path: Path) -> StudiesFolder:
    studies = tmp_path / "sub-99" / "studies"  # the folder says nothing of persons
    studies.mkdir(parents=True)
    write(studies / "sub-01_T2w.nii", THICK)
    write(studies / "sub-02_T1w.nii.gz", THIN)
    write(studies / "plain.nrrd", THIN)
    write(studies / "tagged.nrrd", THICK)
    write(studies / "between.mha", (2.0, 2.0, 2.0))
    write(studies / "result_sr.nii", THIN)
    (studies / "broken.nii").write_bytes(b"x")
    (studies / "lost.nii").write_bytes(b"x")
    store = StudiesFolder(str(studies), watch=False, interval=0.05)
    store.update_image_info("tagged", {"domain": "HR", "person": "eve"})
    store.update_image_info("lost", {"domain": "LR"})
    store.store_result("sub-01_T2w", studies / "sub-02_T1w.nii.gz", {})
    return store


def test_scans_in(store: StudiesFolder) -> None:
    assert scans_in(store, "LR") == ["sub-01_T2w"]
    assert scans_in(store, "HR") == ["plain", "sub-02_T1w", "tagged"]
    assert scans_in(store, "SR") == ["result_sr", "sub-01_T2w_sr"]
    assert scans_in(store, "neither") == ["between"]


def test_training_scans(store: StudiesFolder) -> None:
    entries, left_out = training_scans(store)
    assert {path.name: entry for path, entry in entries.items()} == {
        "sub-01_T2w.nii": ManifestEntry(Domain.LR, "sub-01"),
        "sub-02_T1w.nii.gz": ManifestEntry(Domain.HR, "sub-02"),
        "plain.nrrd": ManifestEntry(Domain.HR, "plain"),
        "tagged.nrrd": ManifestEntry(Domain.HR, "eve"),
    }
    assert all(path == path.resolve() and path.exists() for path in entries)
    reasons = {scan.path.name: scan.reason for scan in left_out}
    assert set(reasons) == {
        "between.mha",
        "result_sr.nii",
        "broken.nii",
        "lost.nii",
        "sub-01_T2w_sr.nii.gz",
    }
    assert "super-resolution" in reasons["sub-01_T2w_sr.nii.gz"]
    assert "lost.nii" in reasons["lost.nii"]  # its tag does not make it readable
    assert all(scan.domain is Domain.NEITHER for scan in left_out)
    assert next(s for s in left_out if s.path.name == "between.mha").spacing == (2.0, 2.0, 2.0)


def test_another_datastore(tmp_path: Path) -> None:
    """One that knows no spacing, as that of a DICOMweb server: only tags count."""
    write(tmp_path / "a.nii", THIN)
    write(tmp_path / "b.nii", THIN)
    store = LocalDatastore(str(tmp_path))
    store.update_image_info("a", {"domain": "HR"})
    entries, left_out = training_scans(store)
    assert [path.name for path in entries] == ["a.nii"]
    assert [scan.path.name for scan in left_out] == ["b.nii"]
    assert scans_in(store, "HR") == ["a"]
