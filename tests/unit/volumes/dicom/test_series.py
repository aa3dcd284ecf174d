"""DICOM by series: where the files lie does not matter, what is no scan is named, several are told apart and chosen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_files import (
    GAP,
    SLICES,
    expected_affine,
    expected_voxels,
    make_enhanced,
    make_series,
    make_slice,
    pixels,
    save,
    sequence,
)
from pydicom.dataset import Dataset

from srcyc.errors import VolumeError
from srcyc.volumes.dicom import choose, is_series_address, list_series, read_dicom_folder
from srcyc.volumes.volume import find_volumes, read_grid, read_volume


def other_series(number: int = 6, description: str = "t2 tra", seed: int = 50) -> list[Dataset]:
    """Make a second series of the same places and another content."""
    slices = make_series()
    for index, data in enumerate(slices):
        data.SeriesInstanceUID = f"1.2.3.4.{number}"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number}.{index}"
        data.SeriesNumber, data.SeriesDescription = number, description
        data.PixelData = pixels(seed + index).tobytes()
    return slices


def edited(edit: Callable[[Dataset], None], number: int = 7) -> list[Dataset]:
    slices = other_series(number, "other")
    for data in slices:
        edit(data)
    return slices


def names(prefix: str, count: int = SLICES) -> list[str]:
    return [f"{prefix}{index}" for index in range(count)]


# -- one series, wherever it lies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "places", [("", "", "more", "more"), ("a", "a", "b", "b"), ("0", "1", "2", "3"), ("", "x/y", "", "x/z")]
)
def test_a_series_over_several_folders_is_one_volume(tmp_path: Path, places: tuple[str, ...]) -> None:
    root = tmp_path / "study"
    for index, (place, data) in enumerate(zip(places, make_series(), strict=True)):
        (root / place).mkdir(parents=True, exist_ok=True)
        save(root / place, [data], [f"IM{index}"])
    assert find_volumes(root) == [root]
    volume = read_volume(root)
    np.testing.assert_array_equal(volume.data[0], expected_voxels())
    np.testing.assert_allclose(volume.affine, expected_affine(), atol=1e-6)
    assert len(volume.files) == SLICES


def test_a_link_that_leads_back_is_walked_once(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series())
    (folder / "again").symlink_to(tmp_path)
    assert read_volume(folder).shape[2] == SLICES
    assert find_volumes(tmp_path) == [folder]


# -- several series ------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """One folder with two series."""
    folder = save(tmp_path / "two", make_series(), names("a"))
    return save(folder, other_series(), names("b"))


def test_several_series_have_an_address_each(two: Path) -> None:
    assert find_volumes(two) == [two / "5_t1-tra", two / "6_t2-tra"]
    first, second = (read_volume(path) for path in find_volumes(two))
    np.testing.assert_array_equal(first.data[0], expected_voxels())
    np.testing.assert_array_equal(second.data[0, :, :, 0], pixels(50).T)
    assert second.source == two / "6_t2-tra"
    assert second.series == "1.2.3.4.6"
    assert [file.name for file in second.files] == names("b")
    assert read_grid(two / "6_t2-tra").shape == second.shape


@pytest.mark.parametrize("wanted", ["6", "1.2.3.4.6", "t2 tra", "T2 TRA", "6_t2-tra", "t2", " 6 "])
def test_series_chooses(two: Path, wanted: str) -> None:
    np.testing.assert_array_equal(read_volume(two, series=wanted).data[0, :, :, 0], pixels(50).T)
    assert read_grid(two, series=wanted).shape[2] == SLICES


@pytest.mark.parametrize(("wanted", "words"), [("7", "no series"), ("tra", "2 series"), ("", "no series")])
def test_a_choice_that_chooses_nothing_lists_what_there_is(two: Path, wanted: str, words: str) -> None:
    with pytest.raises(VolumeError) as caught:
        read_volume(two, series=wanted)
    for word in (words, "5 t1 tra: 4 files, first a0", "6 t2 tra: 4 files, first b0"):
        assert word in str(caught.value)
    assert "series" in caught.value.options


def test_series_without_number_and_description_are_counted(tmp_path: Path) -> None:
    for prefix, slices in (("a", make_series()), ("b", other_series())):
        for data in slices:
            del data.SeriesNumber, data.SeriesDescription
        save(tmp_path / "two", slices, names(prefix))
    first, second = list_series(tmp_path / "two").series
    assert [first.name, second.name] == ["1.2.3.4", "1.2.3.4.6"]
    assert [first.position, second.position] == [1, 2]
    assert choose(list_series(tmp_path / "two"), "2", tmp_path) != [first]
    np.testing.assert_array_equal(read_volume(tmp_path / "two" / "1.2.3.4.6").data[0, :, :, 0], pixels(50).T)


def test_series_in_folders_of_their_own_are_those_folders(tmp_path: Path) -> None:
    for name, slices in (("t1", make_series()), ("t2/deep", other_series())):
        (tmp_path / name).mkdir(parents=True)
        save(tmp_path / name, slices)
    assert find_volumes(tmp_path) == [tmp_path / "t1", tmp_path / "t2" / "deep"]
    # What lies directly in a folder goes before what lies below it.
    save(tmp_path, other_series(8, "flair"), names("c"))
    assert find_volumes(tmp_path) == [tmp_path, tmp_path / "t1", tmp_path / "t2" / "deep"]
    assert read_volume(tmp_path).series == "1.2.3.4.8"
    assert read_volume(tmp_path, series="6").series == "1.2.3.4.6"


def test_two_studies_with_the_same_numbers_and_descriptions(tmp_path: Path) -> None:
    save(tmp_path / "two", make_series(), names("a"))
    save(tmp_path / "two", other_series(6, "t1 tra"), names("b"))
    for data in (copies := other_series(6, "t1 tra")):
        data.SeriesInstanceUID += ".9"
        data.SOPInstanceUID += ".9"
    save(tmp_path / "two", copies, names("c"))
    addresses = find_volumes(tmp_path / "two")
    assert [path.name for path in addresses] == ["5_t1-tra", "6_t1-tra_1.2.3.4.6", "6_t1-tra_1.2.3.4.6.9"]
    assert [read_volume(path).series for path in addresses] == ["1.2.3.4", "1.2.3.4.6", "1.2.3.4.6.9"]
    with pytest.raises(VolumeError, match=r"2 series.*UID 1\.2\.3\.4\.6;.*UID 1\.2\.3\.4\.6\.9"):
        read_volume(tmp_path / "two", series="6")


@pytest.mark.parametrize("again", [1, 2])
def test_copies_of_an_enhanced_file(tmp_path: Path, again: int) -> None:
    folder = save(tmp_path / "series", [make_enhanced()], ["one.dcm"])
    for number in range(again):
        shutil.copy(folder / "one.dcm", folder / f"one ({number + 1}).dcm")
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.data[0], expected_voxels() * 2 - 1)
    assert "exact copies" in "".join(volume.warnings)


@pytest.mark.parametrize("again", [2, 5])
def test_a_slice_copied_more_than_once(tmp_path: Path, again: int) -> None:
    folder = save(tmp_path / "series", make_series(), names("IM"))
    for number in range(again):
        shutil.copy(folder / "IM2", folder / f"IM2 ({number + 1})")
    np.testing.assert_array_equal(read_volume(folder).data[0], expected_voxels())


def test_a_name_that_is_taken(two: Path) -> None:
    (two / "6_t2-tra").mkdir()
    assert find_volumes(two) == [two / "5_t1-tra", two / "6_t2-tra_2"]
    assert read_volume(two / "6_t2-tra_2").series == "1.2.3.4.6"


@pytest.mark.parametrize("description", ["../../etc/passwd", "T1.nii.gz", "a\\b", "Kopf/Hals äöü", "t1\n\tw"])
def test_a_description_becomes_one_component_of_a_path(tmp_path: Path, description: str) -> None:
    save(tmp_path / "two", make_series(), names("a"))
    save(tmp_path / "two", other_series(description=description), names("b"))
    second = list_series(tmp_path / "two").series[1]
    assert second.address.parent == tmp_path / "two"
    assert is_series_address(second.address)
    assert read_volume(second.address).series == "1.2.3.4.6"


def test_series_without_a_uid_are_told_apart_by_the_rest(tmp_path: Path) -> None:
    slices = make_series() + other_series()
    for data in slices:
        data.SeriesInstanceUID = ""
    save(tmp_path / "two", slices)
    assert [series.number for series in list_series(tmp_path / "two").series] == [5, 6]


def test_a_listing_is_made_again_when_a_file_changed(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series())
    assert read_volume(folder).shape[2] == SLICES
    save(folder, [make_slice(SLICES)], ["IM0004.dcm"])
    assert read_volume(folder).shape[2] == SLICES + 1


def test_a_listing_is_kept_while_all_that_it_is_made_of_can_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "series", make_series())
    assert list_series(folder) is not list_series(folder)  # it may change again within its time stamp
    monkeypatch.setattr("srcyc.volumes.dicom.listing._SETTLED", -(2**62))
    assert list_series(folder) is list_series(folder)
    # What lies behind a link is of it.
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert list_series(folder) is list_series(folder)
    save(tmp_path / "elsewhere", [make_slice(SLICES)], ["IM0004.dcm"])
    assert len(list_series(folder).series[0].files) == SLICES + 1
    (folder / "notes.txt").symlink_to(folder / "gone")
    assert list_series(folder) is not list_series(folder)


# -- what is no scan -----------------------------------------------------------------------------------------


def sop_class(uid: str) -> Callable[[Dataset], None]:
    def edit(data: Dataset) -> None:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid

    return edit


def field(**values: object) -> Callable[[Dataset], None]:
    def edit(data: Dataset) -> None:
        for key, value in values.items():
            setattr(data, key, value)

    return edit


NO_SCANS = {
    "localizer by type": (field(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    "localizer by name": (field(SeriesDescription="AAHead_Scout"), "localizer"),
    "localizer by plane": (field(SeriesDescription="3-plane loc"), "localizer"),
    "survey": (field(SeriesDescription="Survey_SHC"), "localizer"),
    "secondary capture": (sop_class("1.2.840.10008.5.1.4.1.1.7"), "secondary capture"),
    "captures of many frames": (sop_class("1.2.840.10008.5.1.4.1.1.7.3"), "secondary capture"),
    "segmentation": (sop_class("1.2.840.10008.5.1.4.1.1.66.4"), "segmentation"),
    "label map": (sop_class("1.2.840.10008.5.1.4.1.1.66.7"), "segmentation"),
    "parametric map": (sop_class("1.2.840.10008.5.1.4.1.1.30"), "parametric map"),
    "dose": (sop_class("1.2.840.10008.5.1.4.1.1.481.2"), "radiotherapy"),
    "ADC": (field(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "NORM"]), "map"),
    "FA": (field(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "FA"]), "map"),
    "T2 map": (field(ImageType=["DERIVED", "PRIMARY", "T2 MAP"]), "map"),
    "perfusion": (field(ImageType=["DERIVED", "PRIMARY", "PERFUSION", "RCBV"]), "map"),
    "MIP": (field(ImageType=["DERIVED", "SECONDARY", "PROJECTION IMAGE"]), "projection"),
    "phase": (field(ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]), "phase"),
    "screen": (field(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), "capture"),
    "presentation": (field(Modality="PR"), "presentation state"),
    "colour": (field(SamplesPerPixel=3, PixelData=bytes(5 * 7 * 6)), "colour"),
}


@pytest.mark.parametrize(("edit", "reason"), NO_SCANS.values(), ids=NO_SCANS.keys())
def test_what_is_no_scan_is_named_and_left_out(
    tmp_path: Path, edit: Callable[[Dataset], None], reason: str
) -> None:
    folder = save(tmp_path / "study", make_series(), names("a"))
    save(folder, edited(edit), names("b"))
    assert find_volumes(folder) == [folder]
    (left_out,) = list_series(folder).told()
    assert reason in left_out.reason
    assert [file.name for file in left_out.files] == names("b")
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.data[0], expected_voxels())
    assert reason in "".join(volume.warnings)


def test_a_folder_of_a_localizer_alone_is_refused_and_can_be_chosen(tmp_path: Path) -> None:
    folder = save(tmp_path / "study", edited(field(SeriesDescription="localizer")))
    assert find_volumes(folder) == []
    with pytest.raises(VolumeError, match=r"no scan.*localizer") as caught:
        read_volume(folder)
    assert "series" in caught.value.options
    assert read_volume(folder, series="localizer").shape[2] == SLICES


@pytest.mark.parametrize(
    "edit",
    [
        field(ImageType=["DERIVED", "PRIMARY", "M", "NORM", "DIS2D"]),
        field(ImageType=["ORIGINAL", "PRIMARY", "MPR"]),
        field(ImageType=["ORIGINAL", "PRIMARY", "R_IR", "R", "IR"]),
        field(SeriesDescription="T2 block lock-in"),
        field(ImageType=None),
    ],
    ids=["filtered", "reformatted", "real part", "lock", "no type"],
)
def test_what_is_a_scan_is_not_left_out(tmp_path: Path, edit: Callable[[Dataset], None]) -> None:
    folder = save(tmp_path / "study", edited(edit))
    assert find_volumes(folder) == [folder]


def test_a_capture_within_the_series(tmp_path: Path) -> None:
    """Some scanners save the screen into the series."""
    capture = make_slice(9)
    sop_class("1.2.840.10008.5.1.4.1.1.7")(capture)
    del capture.ImagePositionPatient
    folder = save(tmp_path / "study", [*make_series(), capture])
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.data[0], expected_voxels())
    assert "secondary capture" in "".join(volume.warnings)


def test_a_three_plane_localizer_by_its_directions(tmp_path: Path) -> None:
    turns = ([1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1])
    slices = []
    for index, turn in enumerate(turns):
        data = make_slice(index)
        data.ImageOrientationPatient = turn
        slices.append(data)
    folder = save(tmp_path / "study", slices)
    assert find_volumes(folder) == []
    assert "localizer" in list_series(folder).told()[0].reason


# -- stacks of one series ------------------------------------------------------------------------------------


def test_two_directions_are_two_stacks(tmp_path: Path) -> None:
    slices = make_series()
    for index in range(3):
        data = make_slice(10 + index, [0, 0, 4.0 * index])
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slices.append(data)
    folder = save(tmp_path / "study", slices)
    first, second = find_volumes(folder)
    assert [first.name, second.name] == ["5_t1-tra_stack-1", "5_t1-tra_stack-2"]
    np.testing.assert_array_equal(read_volume(first).data[0], expected_voxels())
    assert read_volume(second).shape[2] == 3
    assert read_volume(second).spacing[2] == pytest.approx(4.0)
    with pytest.raises(VolumeError, match="2 DICOM series"):
        read_volume(folder, series="5")


def test_a_stray_slice_beside_a_stack(tmp_path: Path) -> None:
    stray = make_slice(9)
    stray.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    folder = save(tmp_path / "study", [*make_series(), stray])
    assert find_volumes(folder) == [folder]
    np.testing.assert_array_equal(read_volume(folder).data[0], expected_voxels())
    assert "single slice" in list_series(folder).told()[0].reason


TOLD_APART = {
    "echoes": ("EchoTime", 20.0, 80.0, "echo-time-20-ms"),
    "kinds": ("ImageType", ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "R"], "image-type-M"),
    "b-values": ("DiffusionBValue", 0.0, 1000.0, "b-value-0"),
    "time points": ("TemporalPositionIdentifier", 1, 2, "time-point-1"),
    "inversion times": ("InversionTime", 100.0, 900.0, "inversion-time-100-ms"),
}


@pytest.mark.parametrize(("key", "one", "two", "name"), TOLD_APART.values(), ids=TOLD_APART.keys())
def test_slices_at_one_place_are_told_apart(
    tmp_path: Path, key: str, one: object, two: object, name: str
) -> None:
    slices = make_series() + other_series(5, "t1 tra")
    for index, data in enumerate(slices):
        data.SeriesInstanceUID = "1.2.3.4"
        setattr(data, key, one if index < SLICES else two)
    folder = save(tmp_path / "study", slices)
    first, second = find_volumes(folder)
    assert first.name == f"5_t1-tra_{name}"
    np.testing.assert_array_equal(read_volume(first).data[0], expected_voxels())
    np.testing.assert_array_equal(read_volume(second).data[0, :, :, 0], pixels(50).T)


def test_phase_beside_magnitude_in_one_series(tmp_path: Path) -> None:
    slices = make_series() + other_series(5, "t1 tra")
    for index, data in enumerate(slices):
        data.SeriesInstanceUID = "1.2.3.4"
        data.ImageType = ["ORIGINAL", "PRIMARY", "M" if index < SLICES else "P"]
    folder = save(tmp_path / "study", slices)
    np.testing.assert_array_equal(read_volume(folder).data[0], expected_voxels())
    assert "phase" in "".join(read_volume(folder).warnings)


def test_a_few_slices_acquired_again_are_no_second_scan(tmp_path: Path) -> None:
    slices = make_series(6)
    for number in (1, 2):
        again = make_slice(number)
        again.AcquisitionNumber, again.PixelData = 2, pixels(70 + number).tobytes()
        slices.append(again)
    folder = save(tmp_path / "study", slices)
    with pytest.raises(VolumeError, match="repeat the position"):
        read_volume(folder)


def test_interleaved_acquisitions_with_a_slice_twice(tmp_path: Path) -> None:
    """Odd and even slices are no two scans because one of them was acquired again."""
    slices = make_series(8)
    for index, data in enumerate(slices):
        data.AcquisitionNumber = 1 + index % 2
    again = make_slice(3)
    again.AcquisitionNumber, again.PixelData = 1, pixels(77).tobytes()
    folder = save(tmp_path / "study", [*slices, again])
    assert find_volumes(folder) == [folder]
    with pytest.raises(VolumeError, match=r"IM0008\.dcm"):
        read_volume(folder)


def test_many_time_points_are_refused(tmp_path: Path) -> None:
    slices = []
    for time in range(20):
        for data in other_series(5, "fmri", seed=100 * time):
            data.SeriesInstanceUID, data.TemporalPositionIdentifier = "1.2.3.4", time
            data.SOPInstanceUID += f".{time}"
            slices.append(data)
    folder = save(tmp_path / "study", slices)
    assert find_volumes(folder) == [folder]
    with pytest.raises(VolumeError, match="time points"):
        read_volume(folder)


def test_one_uid_for_two_scans_in_folders_of_their_own(tmp_path: Path) -> None:
    """Bad anonymisation gives all series one UID."""
    second = other_series()
    for data in second:
        data.SeriesInstanceUID = "1.2.3.4"
    save(tmp_path / "one", make_series())
    save(tmp_path / "two", second)
    assert find_volumes(tmp_path) == [tmp_path / "one", tmp_path / "two"]
    np.testing.assert_array_equal(read_volume(tmp_path / "two").data[0, :, :, 0], pixels(50).T)


def test_folders_of_one_name_are_told_apart_too(tmp_path: Path) -> None:
    second = other_series()
    for data in second:
        data.SeriesInstanceUID = "1.2.3.4"
    for name, slices in (("one", make_series()), ("two", second)):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "DICOM", slices)
    assert find_volumes(tmp_path) == [tmp_path / "one" / "DICOM", tmp_path / "two" / "DICOM"]


def test_echoes_with_an_equal_slice_each(tmp_path: Path) -> None:
    """Blank slices at the end of two echoes are no copies."""
    slices = make_series() + other_series(5, "t1 tra")
    for index, data in enumerate(slices):
        data.SeriesInstanceUID, data.EchoTime = "1.2.3.4", 20.0 if index < SLICES else 80.0
    slices[0].PixelData = slices[SLICES].PixelData = bytes(len(slices[0].PixelData))
    assert len(find_volumes(save(tmp_path / "study", slices))) == 2


def test_copies_whose_pixels_cannot_be_compared(tmp_path: Path) -> None:
    slices = make_series()
    for data in slices:
        data.compress("1.2.840.10008.1.2.5")
    save(tmp_path / "series", slices, names("a"))
    for data in slices:
        data.PixelData = data.PixelData[:16] + bytes(len(data.PixelData) - 16)
    (tmp_path / "series" / "more").mkdir()
    save(tmp_path / "series" / "more", slices, names("a"))
    (series,) = list_series(tmp_path).series
    with pytest.raises(VolumeError):
        read_volume(series.address)


def test_two_persons_in_one_series(tmp_path: Path) -> None:
    slices = make_series()
    for index, data in enumerate(slices):
        data.PatientID = "anna" if index < 2 else "bert"
    with pytest.raises(VolumeError, match="Patient ID"):
        read_volume(save(tmp_path / "study", slices))


# -- copies --------------------------------------------------------------------------------------------------


def test_exact_copies_are_dropped_and_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), names("IM"))
    shutil.copy(folder / "IM2", folder / "IM2 (1)")
    (folder / "backup").mkdir()
    shutil.copy(folder / "IM1", folder / "backup" / "IM1")
    for _ in range(2):
        volume = read_volume(folder)
        np.testing.assert_array_equal(volume.data[0], expected_voxels())
        np.testing.assert_allclose(volume.affine, expected_affine(), atol=1e-6)
        assert "IM2 (1) of IM2" in "".join(volume.warnings)
        assert "backup/IM1 of IM1" in "".join(volume.warnings)
    assert read_grid(folder).shape[2] == SLICES


def test_a_whole_copy_of_the_series(tmp_path: Path) -> None:
    save(tmp_path / "series", make_series())
    shutil.copytree(tmp_path / "series", tmp_path / "series" / "backup")
    assert find_volumes(tmp_path) == [tmp_path / "series"]
    np.testing.assert_array_equal(read_volume(tmp_path / "series").data[0], expected_voxels())


def test_copies_with_another_header(tmp_path: Path) -> None:
    """Sent twice, with new identifiers."""
    again = make_series()
    for index, data in enumerate(again):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{index}"
        data.PatientID = ""
    folder = save(tmp_path / "series", [*make_series(), *again])
    np.testing.assert_array_equal(read_volume(folder).data[0], expected_voxels())


@pytest.mark.parametrize("change", ["pixels", "rescale", "one voxel"])
def test_what_differs_is_no_copy(tmp_path: Path, change: str) -> None:
    other = make_slice(1)
    if change == "pixels":
        other.PixelData = pixels(99).tobytes()
    elif change == "rescale":
        other.RescaleSlope, other.RescaleIntercept = 2, 0
    else:
        other.PixelData = other.PixelData[:-2] + b"\1\1"
    folder = save(tmp_path / "series", [*make_series(), other])
    with pytest.raises(VolumeError, match=r"1 of the 5 slices repeat.*IM0004\.dcm") as caught:
        read_volume(folder)
    assert "IM0001.dcm" in str(caught.value)


# -- enhanced ------------------------------------------------------------------------------------------------


def test_an_enhanced_file_by_itself(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", [make_enhanced()], ["one.dcm"])
    volume = read_volume(folder / "one.dcm")
    np.testing.assert_array_equal(volume.data[0], expected_voxels() * 2 - 1)
    np.testing.assert_allclose(read_grid(folder / "one.dcm").affine, expected_affine(), atol=1e-6)


def test_several_enhanced_files_in_a_folder(tmp_path: Path) -> None:
    second = make_enhanced(slopes=(3.0,) * SLICES)
    second.SeriesInstanceUID, second.SeriesNumber = "1.2.3.4.6", 6
    folder = save(tmp_path / "series", [make_enhanced(), second])
    first_volume, second_volume = (read_volume(path) for path in find_volumes(folder))
    np.testing.assert_array_equal(first_volume.data[0], expected_voxels() * 2 - 1)
    np.testing.assert_array_equal(second_volume.data[0], expected_voxels() * 3 - 1)


def test_several_volumes_of_one_enhanced_series(tmp_path: Path) -> None:
    second = make_enhanced(slopes=(3.0,) * SLICES)
    folder = save(tmp_path / "series", [make_enhanced(), second], ["a.dcm", "b.dcm"])
    first, second_path = find_volumes(folder)
    assert first.name == "5_t1-tra_file-a-dcm"
    np.testing.assert_array_equal(read_volume(second_path).data[0], expected_voxels() * 3 - 1)


def test_a_concatenation_is_one_volume(tmp_path: Path) -> None:
    """One image in two files."""
    folder = save(tmp_path / "series", [make_enhanced((0, 1)), make_enhanced((2, 3))])
    np.testing.assert_array_equal(read_volume(folder).data[0], expected_voxels() * 2 - 1)


def test_echoes_in_one_enhanced_file(tmp_path: Path) -> None:
    data = make_enhanced((0, 1, 2, 3, 0, 1, 2, 3))
    for index, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        group.MREchoSequence = sequence(EffectiveEchoTime=20.0 if index < SLICES else 90.0)
    folder = save(tmp_path / "series", [data], ["one.dcm"])
    assert [path.name for path in find_volumes(folder)] == [
        "5_t1-tra_echo-time-20-ms",
        "5_t1-tra_echo-time-90-ms",
    ]
    with pytest.raises(VolumeError, match="2 DICOM series"):
        read_volume(folder / "one.dcm")
    for name in ("5_t1-tra_echo-time-20-ms", "5_t1-tra_echo-time-90-ms"):
        assert read_volume(folder / "one.dcm" / name).shape[2] == SLICES


def test_a_classic_slice_is_no_volume(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series())
    with pytest.raises(VolumeError, match="one file of a DICOM series"):
        read_dicom_folder(folder / "IM0000.dcm")


# -- gaps and doubts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [(3,), (2, 3), (1, 5), (4, 5, 6)])
def test_gaps_are_filled_when_asked(tmp_path: Path, lost: tuple[int, ...]) -> None:
    slices = make_series(9)
    folder = save(tmp_path / "series", [data for index, data in enumerate(slices) if index not in lost])
    with pytest.raises(VolumeError, match="missing") as caught:
        read_volume(folder)
    assert caught.value.options == ("fill_gaps",)
    volume = read_volume(folder, fill_gaps=True)
    assert volume.shape[2] == 9
    assert volume.spacing[2] == pytest.approx(GAP)
    assert read_grid(folder, fill_gaps=True).shape == volume.shape
    for index in range(9):
        if index not in lost:
            np.testing.assert_array_equal(volume.data[0, :, :, index], pixels(index).T)
    before, after = min(lost) - 1, min(lost) + 1
    while after in lost:
        after += 1
    expected = pixels(before).T + (pixels(after).T - pixels(before).T) / (after - before)
    np.testing.assert_allclose(volume.data[0, :, :, before + 1], expected, rtol=1e-5)
    assert f"{len(lost)} of 9 slices" in "".join(volume.warnings)


def test_too_few_slices_are_not_filled(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", [make_slice(n) for n in (0, 1, 9)])
    with pytest.raises(VolumeError, match="too few"):
        read_volume(folder, fill_gaps=True)


def test_nothing_is_filled_where_nothing_is_missing(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series())
    volume = read_volume(folder, fill_gaps=True)
    np.testing.assert_array_equal(volume.data[0], expected_voxels())
    assert volume.warnings == ()


DOUBTS = {
    "thin": (field(SliceThickness=0.01), "Slice Thickness of 0.01 mm"),
    "every second slice is missing": (
        field(SpacingBetweenSlices=3.0, SliceThickness=2.5),
        "missing all over",
    ),
    "more were acquired": (field(ImagesInAcquisition=40), "40 images"),
    "metres": (field(PixelSpacing=[0.0009, 0.0008]), "unit"),
    "mosaic": (field(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic"),
}


@pytest.mark.parametrize(("edit", "words"), DOUBTS.values(), ids=DOUBTS.keys())
def test_doubtful_headers_are_told(tmp_path: Path, edit: Callable[[Dataset], None], words: str) -> None:
    slices = make_series()
    for data in slices:
        edit(data)
    volume = read_volume(save(tmp_path / "series", slices))
    assert words in "".join(volume.warnings)


@pytest.mark.parametrize(
    ("thickness", "distance"), [(5.0, 6.0), (5.0, 1.0), (6.0, 0.0), (7.0, 6.0), (8.0, -2.0), (5.0, None)]
)
def test_plausible_headers_raise_no_doubt(tmp_path: Path, thickness: float, distance: float | None) -> None:
    slices = make_series()
    for data in slices:
        data.SliceThickness, data.SpacingBetweenSlices = thickness, distance
    volume = read_volume(save(tmp_path / "series", slices))
    assert volume.warnings == ()
    assert volume.slice_thickness == thickness


def test_values_against_the_standard_are_nobodys_news(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    slices = make_series()
    for data in slices:
        data.PatientID = "x" * 90
        data.SeriesDescription = "y" * 90
        data.SliceThickness = "5.00000000000000000000"
    folder = save(tmp_path / "series", slices)
    recwarn.clear()
    assert read_volume(folder).shape[2] == SLICES
    assert [str(warning.message) for warning in recwarn] == []
