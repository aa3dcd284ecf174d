"""DICOM through the command line: one output a series, what is no scan is named, what is lost is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_files import SLICES, make_enhanced, save

from factories import make_head, save_series
from srcyc.data.store import ScanStore
from srcyc.errors import VolumeError
from srcyc.volumes.volume import Volume, find_volumes, read_volume

SHAPE = (16, 18, 6)


def _edit(folder: Path, edit: Callable[[pydicom.Dataset, int], None]) -> Path:
    for index, file in enumerate(sorted(folder.glob("IM*"))):
        data = pydicom.dcmread(file)
        edit(data, index)
        data.save_as(file)
    return folder


def _named(number: int | None, description: str | None) -> Callable[[pydicom.Dataset, int], None]:
    def edit(data: pydicom.Dataset, index: int) -> None:
        data.SeriesNumber, data.SeriesDescription = number, description

    return edit


@pytest.fixture
def head() -> Volume:
    return make_head(SHAPE)


@pytest.fixture
def series(head: Volume, tmp_path: Path) -> Path:
    return save_series(head, tmp_path / "series")


@pytest.fixture
def study(head: Volume, tmp_path: Path) -> Path:
    """One folder with two scans, a localizer, and a report."""
    folder = tmp_path / "study"
    folder.mkdir()
    for number, name in ((3, "localizer"), (5, "t1 tra"), (7, "t2 tra")):
        made = _edit(save_series(head, tmp_path / f"made-{number}"), _named(number, name))
        for file in made.iterdir():
            file.rename(folder / f"{number}-{file.name}")
    (folder / "read me.txt").write_text("hello")
    return folder


def test_several_series_give_several_outputs(srcyc, tiny_model, study, tmp_path):
    for number in range(25):
        (study / f"slide {number:02}.txt").write_text("hello")
    ran = srcyc("infer", study, "-o", tmp_path / "out", "--model", tiny_model)
    assert ran.code == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        "5_t1-tra_sr.nii.gz",
        "7_t2-tra_sr.nii.gz",
    ]
    # A series in one line.
    (line,) = [line for line in ran.out.splitlines() if "localizer" in line]
    assert line.startswith("left out") and "more of its series" in line
    # Of other files no more than are read.
    assert "read me.txt: no DICOM" in ran.out
    assert "left out 6 more (--json names them): no DICOM" in ran.out


def test_json_names_series_and_what_is_left_out(srcyc, tiny_model, study, tmp_path):
    answer = srcyc("infer", study, "-o", tmp_path / "out", "--model", tiny_model, "--json").json
    uids = [result["report"]["input"]["series"] for result in answer["results"]]
    assert len(set(uids)) == 2
    assert all(uid.startswith("2.25.") for uid in uids)
    reasons = {Path(one["files"][0]).name: one["reason"] for one in answer["left_out"]}
    assert "localizer" in reasons["3-IM0000.dcm"]
    assert reasons["read me.txt"] == "no DICOM"


@pytest.mark.parametrize("wanted", ["7", "t2 tra", "uid"])
def test_series_chooses(srcyc, tiny_model, study, tmp_path, wanted):
    if wanted == "uid":
        wanted = pydicom.dcmread(study / "7-IM0000.dcm").SeriesInstanceUID
    out = tmp_path / "out.nii.gz"
    ran = srcyc("infer", study, "--series", wanted, "-o", out, "--model", tiny_model, "--json")
    assert ran.code == 0
    (result,) = ran.json["results"]
    assert result["report"]["input"]["name"] == "7_t2-tra"
    assert out.is_file()


def test_a_file_that_holds_a_whole_series_is_enough(srcyc, tiny_model, study, tmp_path):
    (file,) = save(tmp_path / "one", [make_enhanced()]).iterdir()
    ran = srcyc("infer", file, "-o", tmp_path / "out.nii.gz", "--model", tiny_model, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["results"][0]["report"]["input"]["shape"][2] == SLICES
    ran = srcyc("infer", study / "5-IM0002.dcm", "-o", tmp_path / "other.nii.gz", "--model", tiny_model)
    assert ran.code == 2 and "5-IM0002.dcm" in ran.sentence and "folder" in ran.sentence


def test_series_may_be_repeated_and_choose_what_is_left_out(srcyc, tiny_model, study, tmp_path):
    ran = srcyc(
        "infer", study, "--series", 5, "--series", "localizer", "-o", tmp_path / "o", "--model", tiny_model
    )
    assert ran.code == 0
    assert sorted(path.name for path in (tmp_path / "o").glob("*.nii.gz")) == [
        "3_localizer_sr.nii.gz",
        "5_t1-tra_sr.nii.gz",
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--series", "9"], ["no series", "5 t1 tra: 6 files", "7 t2 tra", "--series"]),
        (["--series", "tra"], ["2 series", "5 t1 tra", "7 t2 tra", "--series"]),
        ([], ["5_t1-tra", "7_t2-tra", "--series"]),
    ],
)
def test_an_ambiguous_choice_lists_what_there_is(srcyc, tiny_model, study, tmp_path, more, words):
    ran = srcyc("infer", study, *more, "-o", tmp_path / "one.nii.gz", "--model", tiny_model)
    assert ran.code == 2
    for word in words:
        assert word in ran.err
    assert not (tmp_path / "one.nii.gz").exists()


def test_a_folder_that_cannot_be_listed(srcyc, tiny_model, series, tmp_path, monkeypatch):
    """As if it were somebody else's: permissions do not bind every user that runs this."""

    def closed(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", closed)
    ran = srcyc("infer", series, "--series", "5", "-o", tmp_path / "out", "--model", tiny_model)
    assert ran.code == 2
    assert str(series) in ran.sentence and "permissions" in ran.sentence


def test_series_of_what_is_no_dicom(srcyc, tiny_model, thick_file, tmp_path):
    ran = srcyc("infer", thick_file, "--series", "5", "-o", tmp_path / "one.nii.gz", "--model", tiny_model)
    assert ran.code == 2
    assert "--series" in ran.sentence


def test_outputs_of_series_are_kept_and_their_scans_known(srcyc, tiny_model, head, study, tmp_path):
    out = tmp_path / "out"
    assert srcyc("infer", study, "-o", out, "--model", tiny_model).code == 0
    before = (out / "5_t1-tra_sr.nii.gz").stat().st_mtime_ns
    again = srcyc("infer", study, "-o", out, "--model", tiny_model)
    assert again.code == 0
    assert "2 skipped" in again.out
    assert (out / "5_t1-tra_sr.nii.gz").stat().st_mtime_ns == before
    # Another person's series of the same name.
    file = study / "5-IM0002.dcm"
    data = pydicom.dcmread(file)
    data.PixelData = data.PixelData[::-1]
    data.save_as(file)
    other = srcyc("infer", study, "-o", out, "--model", tiny_model)
    assert other.code == 2
    assert "another 5_t1-tra" in other.err


def test_a_series_over_two_folders(srcyc, tiny_model, series, tmp_path):
    (series / "more").mkdir()
    for name in ("IM0004.dcm", "IM0005.dcm"):
        (series / name).rename(series / "more" / name)
    out = tmp_path / "out.nii.gz"
    assert srcyc("infer", series, "-o", out, "--model", tiny_model).code == 0
    assert nib.load(out).shape[:2] == SHAPE[:2]
    assert nib.load(out).shape[2] == SHAPE[2] * 4


def test_a_file_that_cannot_be_read_is_named(srcyc, tiny_model, series, tmp_path):
    (series / "IM0005.dcm").write_bytes(b"")
    ran = srcyc("infer", series, "-o", tmp_path / "out.nii.gz", "--model", tiny_model)
    assert ran.code == 2
    assert "IM0005.dcm" in ran.sentence
    assert "left out" not in ran.out
    assert not (tmp_path / "out.nii.gz").exists()


def test_missing_slices_are_filled_when_asked(srcyc, tiny_model, series, tmp_path):
    (series / "IM0003.dcm").unlink()
    out = tmp_path / "out.nii.gz"
    refused = srcyc("infer", series, "-o", out, "--model", tiny_model)
    assert refused.code == 2
    assert "--fill-gaps" in refused.sentence
    ran = srcyc("infer", series, "-o", out, "--model", tiny_model, "--fill-gaps")
    assert ran.code == 0
    assert "1 of 6 slices" in ran.err
    assert nib.load(out).shape[2] == SHAPE[2] * 4


def test_an_exact_copy_is_dropped(srcyc, tiny_model, series, tmp_path):
    clean, copied = tmp_path / "clean.nii.gz", tmp_path / "copied.nii.gz"
    assert srcyc("infer", series, "-o", clean, "--model", tiny_model).code == 0
    shutil.copy(series / "IM0003.dcm", series / "IM0003 (1).dcm")
    ran = srcyc("infer", series, "-o", copied, "--model", tiny_model)
    assert ran.code == 0
    assert "IM0003 (1).dcm" in ran.err
    np.testing.assert_array_equal(nib.load(clean).get_fdata(), nib.load(copied).get_fdata())


def test_a_folder_without_a_scan_says_what_is_there(srcyc, tiny_model, series, tmp_path):
    _edit(series, _named(1, "scout"))
    ran = srcyc("infer", series, "-o", tmp_path / "out", "--model", tiny_model)
    assert ran.code == 2
    assert "a localizer" in ran.sentence
    assert "--series" in ran.sentence


def test_the_index_of_a_medium_stands_for_it(srcyc, tiny_model, series, tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(12))
    ran = srcyc("infer", tmp_path / "DICOMDIR", "-o", tmp_path / "out.nii.gz", "--model", tiny_model)
    assert ran.code == 0
    assert (tmp_path / "out.nii.gz").is_file()


def test_domains_lists_every_series(srcyc, study):
    scans = srcyc("domains", study, "--json").json
    assert [Path(scan["path"]).name for scan in scans] == ["5_t1-tra", "7_t2-tra"]
    assert {scan["domain"] for scan in scans} == {"LR"}


def test_halves_of_a_series_as_two_inputs(srcyc, tiny_model, series, tmp_path):
    for half, names in (
        ("one", ("IM0000.dcm", "IM0001.dcm", "IM0002.dcm")),
        ("two", ("IM0003.dcm", "IM0004.dcm")),
    ):
        (tmp_path / "study" / half).mkdir(parents=True)
        for name in names:
            (series / name).rename(tmp_path / "study" / half / name)
    halves = [tmp_path / "study" / half for half in ("one", "two")]
    ran = srcyc("infer", *halves, "-o", tmp_path / "out", "--model", tiny_model)
    assert ran.code == 2
    assert f"{halves[0]}: holds a part of a series that goes on in {halves[1]}" in ran.err
    assert not (tmp_path / "out").exists()
    assert srcyc("infer", tmp_path / "study", "-o", tmp_path / "out", "--model", tiny_model).code == 0


def test_the_same_series_in_two_inputs_is_no_part(srcyc, tiny_model, series, tmp_path):
    shutil.copytree(series, tmp_path / "again")
    ran = srcyc("infer", series, tmp_path / "again", "-o", tmp_path / "out", "--model", tiny_model)
    assert ran.code == 0


def test_a_training_keeps_every_series_of_a_folder_apart(study, tmp_path):
    store = ScanStore(tmp_path / "store")
    first, second = (store.get(path) for path in find_volumes(study))
    assert [first.name, second.name] == ["5_t1-tra", "7_t2-tra"]
    assert len(list((tmp_path / "store").glob("*.npy"))) == 2
    assert store.get(study / "7_t2-tra").name == "7_t2-tra"
    assert len(list((tmp_path / "store").glob("*.npy"))) == 2
    with pytest.raises(VolumeError):
        store.get(study / "absent")


def _checked_series(folder: Path, result: Volume) -> pydicom.Dataset:
    """See that a series is a volume, within its rounding; give one of its images."""
    found = read_volume(folder, series=pydicom.dcmread(folder / "0001.dcm").SeriesInstanceUID)
    image = pydicom.dcmread(folder / "0001.dcm")
    np.testing.assert_allclose(found.data, result.data, rtol=0, atol=0.502 * float(image.RescaleSlope))
    ends = np.array([[0, 0, 0, 1], [*(n - 1 for n in result.shape), 1]]).T
    np.testing.assert_allclose(found.affine @ ends, result.affine @ ends, atol=1e-3)
    return image


def test_dicom_out_is_what_nifti_out_is(srcyc, tiny_model, series, tmp_path):
    given = ("infer", series, "--model", tiny_model, "--uncertainty", "--correction-map")
    assert srcyc(*given, "-o", tmp_path / "nifti").code == 0
    answer = srcyc(*given, "-o", tmp_path / "dicom", "--format", "dicom", "--preview", "--json").json
    (result,) = answer["results"]
    assert Path(result["output"]) == tmp_path / "dicom" / "series_sr"
    told = result["report"]["dicom"]
    for content, ending in (("volume", ""), ("uncertainty", "_uncertainty"), ("correction", "_correction")):
        volume = read_volume(tmp_path / "nifti" / f"series_sr{ending}.nii.gz")
        image = _checked_series(tmp_path / "dicom" / f"series_sr{ending}", volume)
        assert told[content]["series"] == image.SeriesInstanceUID
        assert image.StudyInstanceUID == pydicom.dcmread(series / "IM0000.dcm").StudyInstanceUID
    assert sorted(path.name for path in (tmp_path / "dicom").iterdir()) == [
        *("series_sr", "series_sr.json", "series_sr.png", "series_sr_correction", "series_sr_uncertainty")
    ]


def test_a_series_that_is_there_is_kept_and_is_no_scan(srcyc, tiny_model, series, tmp_path):
    given = (
        "infer",
        series,
        "--model",
        tiny_model,
        "-o",
        tmp_path / "out",
        "--format",
        "dicom",
        "--stable-uids",
    )
    assert srcyc(*given).code == 0
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.dcm")}
    assert "skipped" in srcyc(*given).out
    assert srcyc(*given, "--overwrite").code == 0
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.dcm")} == before
    (tmp_path / "out" / "series_sr.json").unlink()
    again = srcyc("infer", tmp_path / "out", "--model", tiny_model, "-o", tmp_path / "again")
    assert again.code == 2
    assert "only volumes that srcyc made" in again.sentence


def test_what_is_no_dicom_has_no_series_to_be_derived_from(srcyc, tiny_model, series, thick_file, tmp_path):
    ran = srcyc(
        "infer", thick_file, series, "--model", tiny_model, "-o", tmp_path / "out", "--format", "dicom"
    )
    assert ran.code == 2
    assert "no DICOM series" in ran.err
    assert (tmp_path / "out" / "series_sr").is_dir()  # one bad input does not stop the rest
    ran = srcyc("infer", series, "--model", tiny_model, "-o", tmp_path / "a.nii.gz", "--format", "dicom")
    assert ran.code == 2 and "--format" in ran.sentence
    ran = srcyc("infer", series, "--model", tiny_model, "-o", tmp_path / "b", "--format", "minc")
    assert ran.code == 2 and "--format" in ran.sentence
    assert not (tmp_path / "b").exists()


def test_one_enhanced_image(srcyc, tiny_model, series, tmp_path):
    given = ("infer", series, "--model", tiny_model, "-o", tmp_path / "out", "--format", "dicom-enhanced")
    assert srcyc(*given).code == 0
    (file,) = (tmp_path / "out" / "series_sr").iterdir()
    assert pydicom.dcmread(file).SOPClassUID.name == "Enhanced MR Image Storage"


def test_other_formats_by_name(srcyc, tiny_model, series, tmp_path):
    assert srcyc("infer", series, "--model", tiny_model, "-o", tmp_path / "out", "--format", "nrrd").code == 0
    assert (tmp_path / "out" / "series_sr.nrrd").is_file()
