"""DICOM series: geometry from positions, every irregularity refused with a sentence."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import (
    COLUMNS,
    GAP,
    LPS,
    NORMAL,
    OBLIQUE_COLUMN,
    ORIGIN,
    ROWS,
    SLICES,
    SPACING,
    expected_affine,
    expected_voxels,
    make_enhanced,
    make_series,
    make_slice,
    pixels,
    save,
)
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial

from srcyc.volumes.dicom import is_dicom_file, is_dicom_folder
from srcyc.volumes.volume import read_grid, read_volume

# -- geometry ------------------------------------------------------------------------------------------------


def test_oblique_series(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series())
    volume = read_volume(folder)
    np.testing.assert_allclose(volume.affine, expected_affine(), atol=1e-6)
    np.testing.assert_array_equal(volume.data[0], expected_voxels())
    assert volume.shape == (COLUMNS, ROWS, SLICES)
    np.testing.assert_allclose(volume.spacing, (SPACING[1], SPACING[0], GAP))
    assert volume.slice_thickness == 5.0
    assert volume.stored_dtype == np.int16
    assert volume.source == folder
    grid = read_grid(folder)
    assert grid.shape == volume.shape
    np.testing.assert_array_equal(grid.affine, volume.affine)


def test_order_comes_from_positions_not_names_or_numbers(tmp_path: Path) -> None:
    slices = make_series()
    for data, number in zip(slices, (9, 2, 7, 1), strict=True):
        data.InstanceNumber = number
    volume = read_volume(save(tmp_path / "series", slices, ["d", "a.ima", "c", "b.DCM"]))
    np.testing.assert_array_equal(volume.data[0], expected_voxels())
    np.testing.assert_allclose(volume.affine, expected_affine(), atol=1e-6)


def test_itk_reads_the_same_series_alike(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series())
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    volume = read_volume(folder)
    np.testing.assert_allclose(volume.affine, LPS @ affine, atol=1e-5)
    np.testing.assert_array_equal(volume.data[0], sitk.GetArrayFromImage(image).T)


def test_slightly_uneven_gaps_are_averaged(tmp_path: Path) -> None:
    offsets = (0.0, 6.1, 11.95, 18.0)
    slices = [make_slice(n, ORIGIN + d * NORMAL) for n, d in enumerate(offsets)]
    assert read_volume(save(tmp_path / "series", slices)).spacing[2] == pytest.approx(6.0)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    slices = make_series()
    slopes = (1.0, 0.5, 2.0, 1.0)
    for data, slope in zip(slices, slopes, strict=True):
        data.RescaleSlope, data.RescaleIntercept = str(slope), "3"
    volume = read_volume(save(tmp_path / "series", slices))
    np.testing.assert_allclose(volume.data[0], expected_voxels() * np.array(slopes) + 3)


def test_slice_thickness_only_if_the_slices_agree(tmp_path: Path) -> None:
    slices = make_series()
    for data in slices:
        data.SliceThickness = 0
    assert read_volume(save(tmp_path / "zero", slices)).slice_thickness is None
    slices[0].SliceThickness, slices[1].SliceThickness = 4, 5
    volume = read_volume(save(tmp_path / "differing", slices))
    assert volume.slice_thickness is None
    assert "differ in Slice Thickness" in "".join(volume.warnings)


def test_other_objects_in_the_folder_are_left_out(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series())
    report = make_slice(9)
    for key in ("Rows", "Columns", "PixelData", "ImagePositionPatient"):
        delattr(report, key)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = (
        "1.2.840.10008.5.1.4.1.1.88.11"  # text report
    )
    report.SeriesInstanceUID = "1.2.9"
    save(folder, [report], ["SR0001"])
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "notes.txt").write_text("hello")
    (folder / ".IM0000.dcm").write_bytes(b"a hidden leftover")
    assert read_volume(folder).shape == (COLUMNS, ROWS, SLICES)


def test_zeros_behind_the_pixel_data_are_ignored(tmp_path: Path) -> None:
    """As in the first file of the sample series, whose writer left room for 19 more slices."""
    folder = save(tmp_path / "series", make_series())
    with (folder / "IM0000.dcm").open("ab") as stream:
        stream.write(bytes(3 * 2 * ROWS * COLUMNS))
    np.testing.assert_array_equal(read_volume(folder).data[0], expected_voxels())


def test_dicom_by_content(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), ["1", "2", "3", "4"])
    assert is_dicom_folder(folder)
    assert is_dicom_file(folder / "1")
    assert not is_dicom_folder(tmp_path)
    assert not is_dicom_file(tmp_path / "absent")


# -- refusals ------------------------------------------------------------------------------------------------


def test_several_series(tmp_path: Path, refused: Callable[..., None]) -> None:
    slices = make_series()
    for data in slices[2:]:
        data.SeriesInstanceUID, data.SeriesNumber, data.SeriesDescription = "1.2.3.5", 6, "t2 tra"
    folder = save(tmp_path / "series", slices)
    refused(
        folder, "2 DICOM series", "5 t1 tra: 2 files", "6 t2 tra: 2 files", "IM0002.dcm", "folder of its own"
    )


def test_missing_slice(tmp_path: Path, refused: Callable[..., None]) -> None:
    slices = make_series(8)
    del slices[3]
    refused(
        save(tmp_path / "series", slices), "missing", "IM0002.dcm and IM0003.dcm", "12 mm", "mean is 7 mm"
    )


def test_irregular_gap(tmp_path: Path, refused: Callable[..., None]) -> None:
    offsets = (0.0, 6.5, 12.0, 18.0)
    slices = [make_slice(n, ORIGIN + d * NORMAL) for n, d in enumerate(offsets)]
    refused(save(tmp_path / "series", slices), "6.5 mm")


def test_repeated_positions(tmp_path: Path, refused: Callable[..., None]) -> None:
    slices = make_series() + make_series()
    for data in slices[SLICES:]:
        data.PixelData = pixels(99).tobytes()
    refused(save(tmp_path / "series", slices), "4 of the 8 slices repeat", "IM0000.dcm", "IM0004.dcm")
    slices[SLICES].PixelData = pixels(98).tobytes()
    refused(save(tmp_path / "one place", [slices[0], slices[SLICES]]), "1 of the 2 slices repeat")


def test_single_slice(tmp_path: Path, refused: Callable[..., None]) -> None:
    refused(save(tmp_path / "series", make_series(1)), "single slice", "at least 2")


def test_one_file_instead_of_its_folder(tmp_path: Path, refused: Callable[..., None]) -> None:
    folder = save(tmp_path / "series", make_series())
    refused(folder / "IM0000.dcm", "folder that holds the series")


def test_leaning_stack(tmp_path: Path, refused: Callable[..., None]) -> None:
    tilt = NORMAL * GAP + OBLIQUE_COLUMN * 1.5
    slices = [make_slice(n, ORIGIN + n * tilt) for n in range(SLICES)]
    refused(save(tmp_path / "series", slices), "leans by 4.5 mm", "gantry tilt")


def test_slices_in_different_directions(tmp_path: Path, refused: Callable[..., None]) -> None:
    slices = make_series()
    slices[2].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    refused(save(tmp_path / "series", slices), "IM0000.dcm and IM0002.dcm", "different directions")


def test_slices_of_different_size(tmp_path: Path, refused: Callable[..., None]) -> None:
    slices = make_series()
    slices[1].PixelSpacing = [1, 1]
    refused(save(tmp_path / "spacing", slices), "pixel spacing", "1 x 1 mm")
    slices = make_series()
    slices[1].Rows, slices[1].Columns = COLUMNS, ROWS
    refused(save(tmp_path / "size", slices), "differ in size")


@pytest.mark.parametrize("keep", [0, 100, 400, -4])
def test_truncated_slice(tmp_path: Path, refused: Callable[..., None], keep: int) -> None:
    folder = save(tmp_path / "series", make_series())
    victim = folder / "IM0001.dcm"
    victim.write_bytes(victim.read_bytes()[:keep])
    refused(folder, "IM0001.dcm", "copy", header_shows_it=keep >= 0)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ImagePositionPatient", None, "Image Position (Patient) is missing"),
        ("ImageOrientationPatient", None, "Image Orientation (Patient) is missing"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0.5, 0], "is no rotation"),
        ("PixelSpacing", None, "Pixel Spacing is missing"),
        ("PixelSpacing", [0, 1], "not positive"),
        ("SamplesPerPixel", 3, "colour"),
        ("NumberOfFrames", 3, "without positions"),
    ],
)
def test_unusable_headers(
    tmp_path: Path, refused: Callable[..., None], key: str, value: object, words: str
) -> None:
    slices = make_series()
    if value is None:
        delattr(slices[1], key)
    else:
        setattr(slices[1], key, value)
    refused(save(tmp_path / "series", slices), "IM0001.dcm", words)


# -- enhanced multi-frame images -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_enhanced_multi_frame(tmp_path: Path, order: Sequence[int]) -> None:
    volume = read_volume(save(tmp_path / "series", [make_enhanced(order)]))
    np.testing.assert_allclose(volume.affine, expected_affine(), atol=1e-6)
    np.testing.assert_array_equal(volume.data[0], expected_voxels() * 2 - 1)
    assert volume.slice_thickness == 5.0


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_enhanced_with_differing_slopes(tmp_path: Path, order: Sequence[int]) -> None:
    """GDCM applies the first frame's slope to all."""
    slopes = (1.0, 2.0, 0.5, 4.0)
    volume = read_volume(save(tmp_path / "series", [make_enhanced(order, slopes)]))
    np.testing.assert_array_equal(volume.data[0], expected_voxels() * np.array(slopes) - 1)


def test_enhanced_with_a_frame_header_missing(tmp_path: Path, refused: Callable[..., None]) -> None:
    data = make_enhanced()
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:3]
    refused(save(tmp_path / "series", [data]), "4 frames but 3 frame headers")


# -- real series ---------------------------------------------------------------------------------------------


def load(path: Path) -> Dataset:
    """A file up to its pixels; zeros behind them read as empty elements, hundreds of thousands of them."""
    with path.open("rb") as stream:
        return read_partial(stream, stop_when=lambda tag, _vr, _length: tag == 0 or tag > 0x7FE00010)


def check_against_pydicom(folder: Path) -> None:
    """Geometry and, where pydicom alone can decode them, voxels of a single-frame series."""
    volume = read_volume(folder)
    headers = [load(p) for p in sorted(folder.glob("*.dcm"))]
    assert len(headers) == volume.shape[2]
    extent = volume.spacing[2] * (volume.shape[2] - 1)
    for header in headers:
        place = LPS[:3, :3] @ np.array(header.ImagePositionPatient, dtype=float)
        index = volume.grid.world_to_index(place)
        k = round(index[2])
        # The corner of every slice lies on the grid, up to the tolerated unevenness of its gaps.
        np.testing.assert_allclose(index[:2], 0, atol=0.5)
        assert abs(index[2] - k) * volume.spacing[2] < 0.05 * extent / 2
        row, column = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
        between_rows, between_columns = map(float, header.PixelSpacing)
        np.testing.assert_allclose(volume.affine[:3, 0], LPS[:3, :3] @ row * between_columns, atol=1e-5)
        np.testing.assert_allclose(volume.affine[:3, 1], LPS[:3, :3] @ column * between_rows, atol=1e-5)
        if not header.file_meta.TransferSyntaxUID.is_compressed:
            np.testing.assert_array_equal(volume.data[0, :, :, k], header.pixel_array.T)


@pytest.fixture
def sample_series(sample_data: Path) -> Path:
    folders = sorted((sample_data / "dicom").glob("*/"))
    if not folders:
        pytest.skip("sample-data/dicom holds no series")
    return folders[0]


def test_shipped_series(sample_series: Path) -> None:
    check_against_pydicom(sample_series)
    volume = read_volume(sample_series)
    np.testing.assert_array_equal(read_grid(sample_series).affine, volume.affine)
    assert volume.shape == (256, 256, 20)
    np.testing.assert_allclose(volume.spacing, (0.859375, 0.859375, 7.0005), atol=1e-4)
    assert volume.slice_thickness == 5.0
    assert volume.stored_dtype == np.int16


@pytest.mark.parametrize(
    "name",
    [
        "decubitus_HFDL",
        "vendors/ge_001",
        "vendors/siemens_001",
        "vendors/philips_001",
        "vendors/compressed_j2k",
        "vendors/compressed_jpegls",
    ],
)
def test_series_of_other_scanners(shared_dir: Path, name: str) -> None:
    check_against_pydicom(shared_dir / "data" / "dicom" / name)


def test_compressed_copies_of_one_series_agree(shared_dir: Path) -> None:
    vendors = shared_dir / "data" / "dicom" / "vendors"
    first, second = (read_volume(vendors / name) for name in ("compressed_j2k", "compressed_jpegls"))
    np.testing.assert_array_equal(first.data, second.data)
    np.testing.assert_allclose(first.affine, second.affine)


@pytest.mark.parametrize("number", range(2, 10))
def test_transfer_syntaxes(shared_dir: Path, tmp_path: Path, number: int) -> None:
    """The same image in every encoding, beside an uncompressed neighbour."""
    source = shared_dir / "data" / "dicom" / "transfer_syntaxes"
    reference = pydicom.dcmread(source / "1.dcm")
    neighbour = copy.deepcopy(reference)
    normal = np.cross(*np.array(reference.ImageOrientationPatient, dtype=float).reshape(2, 3))
    place = np.array(reference.ImagePositionPatient, dtype=float) + 3.6 * normal
    neighbour.ImagePositionPatient = [f"{v:.9g}" for v in place]
    folder = save(tmp_path / "series", [neighbour], ["next.dcm"])
    shutil.copy(source / f"{number}.dcm", folder)
    volume = read_volume(folder)
    for k in (0, 1):
        np.testing.assert_array_equal(volume.data[0, :, :, k], reference.pixel_array.T)
    assert volume.spacing[2] == pytest.approx(3.6, abs=1e-5)


def test_philips_enhanced(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "dicom" / "vendors" / "philips_enhanced_001"
    header = pydicom.dcmread(next(folder.glob("*.dcm")))
    groups = header.PerFrameFunctionalGroupsSequence
    volume = read_volume(folder)
    assert volume.shape == (256, 256, len(groups))
    slope = float(groups[0].PixelValueTransformationSequence[0].RescaleSlope)
    for frame, group in zip(header.pixel_array, groups, strict=True):
        place = LPS[:3, :3] @ np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        index = volume.grid.world_to_index(place)
        np.testing.assert_allclose(index, [0, 0, round(index[2])], atol=1e-4)
        np.testing.assert_allclose(volume.data[0, :, :, round(index[2])], frame.T * slope, rtol=1e-6)
