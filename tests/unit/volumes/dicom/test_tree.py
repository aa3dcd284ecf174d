"""A file of a series folder that cannot be read is never left out silently; what has nothing to do with it is."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SLICES, expected_voxels, make_series, make_slice, save
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from srcyc.errors import VolumeError
from srcyc.volumes.dicom import is_dicom_file, is_dicom_folder, list_series, parts_of_one_series
from srcyc.volumes.volume import find_volumes, read_grid, read_volume

UIDS = [f"1.2.840.113619.2.1.{number}" for number in (4711, 4712, 4713, 4714, 4715)]
NAMES = [f"IM{number:04d}" for number in range(5)]


def spoiled(content: bytes) -> Callable[[Path], None]:
    return lambda file: (file.write_bytes(content), None)[1]


def link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.parent / "gone" / file.name)


def cut_to(count: int) -> Callable[[Path], None]:
    return lambda file: (file.write_bytes(file.read_bytes()[:count]), None)[1]


def packed(file: Path) -> None:
    file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()


def half_copied(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])
    file.rename(file.with_name(file.name + ".part"))


LOST = {
    "empty": spoiled(b""),
    "cut in the preamble": cut_to(60),
    "cut in the header": cut_to(300),
    "zeros": spoiled(bytes(5000)),
    "an error page": spoiled(b"<html><body>404 not found</body></html>"),
    "noise": spoiled(np.random.default_rng(0).bytes(3000)),
    "a link to nothing": link_to_nothing,
    "a link to itself": lambda file: (file.unlink(), file.symlink_to(file), None)[2],
    "packed": packed,
    "half copied": half_copied,
}


NAMINGS = {
    "bare": NAMES,
    "dcm": [f"{name}.dcm" for name in NAMES],
    "uid": UIDS,
    "odd": ["a1", "b", "c77", "d", "e"],
}
#: Nothing tells these from a note or an archive that happens to lie there.
UNTOLD = {("odd", "an error page"), ("odd", "packed")}


@pytest.mark.parametrize(
    ("naming", "way"), [(naming, way) for naming in NAMINGS for way in LOST if (naming, way) not in UNTOLD]
)
def test_a_lost_slice_at_the_end_is_noticed(tmp_path: Path, naming: str, way: str) -> None:
    names, spoil = NAMINGS[naming], LOST[way]
    folder = save(tmp_path / "series", make_series(5), names)
    spoil(folder / names[4])
    assert find_volumes(tmp_path) == [folder]
    for read in (read_volume, read_grid):
        with pytest.raises(VolumeError) as caught:
            read(folder)
        assert names[4] in str(caught.value)
        assert caught.value.remedy is not None


@pytest.mark.parametrize("place", [".", "more", "more/deep"])
def test_a_lost_slice_below_the_series_folder(tmp_path: Path, place: str) -> None:
    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / NAMES[4]).touch()
    with pytest.raises(VolumeError, match="IM0004: is empty"):
        read_volume(folder)


def test_a_lost_slice_spoils_no_other_series(tmp_path: Path) -> None:
    one = save(tmp_path / "one", make_series(), NAMES[:4])
    (one / NAMES[4]).touch()
    two = make_series()
    for data in two:
        data.SeriesInstanceUID = "1.2.9"
    save(tmp_path / "two", two, NAMES[:4])
    assert find_volumes(tmp_path) == [one, tmp_path / "two"]
    assert read_volume(tmp_path / "two").shape[2] == SLICES
    with pytest.raises(VolumeError, match="IM0004"):
        read_volume(one)


def test_a_folder_of_broken_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "IM0001.dcm").write_bytes(bytes(128) + b"DICM")
    assert find_volumes(tmp_path) == [folder]
    with pytest.raises(VolumeError, match=r"IM0001\.dcm"):
        read_volume(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README", b"how to read this\n"),
        ("notes.txt", b"hello"),
        ("empty.txt", b""),
        ("IM0007.txt", b"what was seen on image 7"),
        ("report.pdf", b"%PDF-1.4\0\1\2"),
        ("viewer.exe", b"MZ\x90\0\3"),
        ("autorun.inf", b"[autorun]\r\nopen=viewer.exe\r\n"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0"),
        ("preview.jpg", b"\xff\xd8\xff\xe0"),
        ("VERSION", b"1.2\n"),
        ("deep/notes.txt", b"hello"),
    ],
)
def test_what_lies_beside_a_series_is_named_and_harms_nothing(
    tmp_path: Path, name: str, content: bytes
) -> None:
    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.data[0], expected_voxels())
    assert volume.warnings == ()
    # What lies deeper is the business of whoever looks at all of a tree.
    named = [] if "/" in name else [name]
    assert [file.name for one in list_series(folder).left_out for file in one.files] == named


def test_what_is_left_out_for_one_reason_is_told_at_once(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    for name in ("b.txt", "a.txt", "more/c.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("hello")
    save(folder / "more", [make_slice(4)], [NAMES[4]])
    (left_out,) = list_series(folder).left_out
    assert left_out.files == tuple(folder / name for name in ("a.txt", "b.txt", "more/c.txt"))


def test_other_volumes_beside_a_series_are_theirs(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    (folder / "converted.nii.gz").touch()
    assert find_volumes(folder) == [folder, folder / "converted.nii.gz"]
    assert list_series(folder).left_out == []


def test_hidden_files_and_folders_are_not_looked_at(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    (folder / ".IM0005").touch()
    save(folder / ".trash", [make_slice(9)])
    assert read_volume(folder).shape[2] == SLICES


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    import os

    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    os.mkfifo(folder / "IM0009")
    assert read_volume(folder).shape[2] == SLICES


# -- without a preamble --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("meta", "implicit"), [(True, True), (True, False), (False, True)])
def test_files_without_a_preamble(tmp_path: Path, meta: bool, implicit: bool) -> None:
    """As old archives keep them: the data set, implicit, or the file meta information before it."""
    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    data = make_slice(4)
    if implicit:
        data.is_implicit_VR = True
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    save(tmp_path / "whole", [data], ["file"])
    whole = (tmp_path / "whole" / "file").read_bytes()
    start = 132 if meta else 132 + 12 + int.from_bytes(whole[140:144], "little")
    bare = folder / "IM0004"
    bare.write_bytes(whole[start:])
    assert is_dicom_file(bare)
    volume = read_volume(folder)
    assert volume.shape[2] == 5
    np.testing.assert_array_equal(volume.data[0, :, :, 4], data.pixel_array.T)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\2",
        b"\2\0\0\0",
        bytes(200),
        b"\x08\0\x08\0\x1e\0\0\0" + bytes(100),
        np.arange(8, 400, dtype="<u2").tobytes(),
    ],
)
def test_what_is_no_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_dicom_file(tmp_path / "file")


# -- the index of a medium -----------------------------------------------------------------------------------


def save_index(root: Path, files: Sequence[str], kind: str = "IMAGE") -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    index.is_little_endian, index.is_implicit_VR = True, False
    index.FileSetID = "CD"
    records = []
    for file in files:
        record = Dataset()
        record.DirectoryRecordType = kind
        record.ReferencedFileID = file.split("/")
        records.append(record)
    index.DirectoryRecordSequence = records
    index.save_as(root / "DICOMDIR", write_like_original=False)


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """A hospital's CD: an index, a viewer, two series in numbered folders."""
    root = tmp_path / "cd"
    for number, name in enumerate(("SE000000", "SE000001")):
        slices = make_series()
        for data in slices:
            data.SeriesInstanceUID = f"1.2.3.4.{number}"
        folder = root / "DICOM" / "PA000000" / name
        folder.mkdir(parents=True)
        save(folder, slices, [f"IM00000{index}" for index in range(SLICES)])
    (root / "viewer").mkdir()
    (root / "viewer" / "viewer.exe").write_bytes(b"MZ\0\0")
    (root / "autorun.inf").write_text("[autorun]")
    save_index(root, [file.relative_to(root).as_posix() for file in root.rglob("IM*")])
    return root


def test_a_medium(medium: Path) -> None:
    found = find_volumes(medium)
    assert [path.name for path in found] == ["SE000000", "SE000001"]
    for path in found:
        np.testing.assert_array_equal(read_volume(path).data[0], expected_voxels())
    assert list_series(medium).told() == []


def test_an_image_that_the_index_lists_is_missing(medium: Path) -> None:
    (medium / "DICOM" / "PA000000" / "SE000001" / "IM000003").unlink()
    listing = list_series(medium)
    assert [series.problem is None for series in listing.series] == [True, False]
    assert "IM000003" in str(listing.series[1].problem)


@pytest.mark.parametrize("way", ["lower case", "version", "whole series away"])
def test_an_index_is_read_with_leniency(medium: Path, way: str) -> None:
    folder = medium / "DICOM" / "PA000000" / "SE000001"
    for file in sorted(folder.iterdir()):
        if way == "whole series away":
            file.unlink()
        else:
            file.rename(folder / (file.name.lower() if way == "lower case" else f"{file.name};1"))
    assert all(series.problem is None for series in list_series(medium).series)


def test_a_damaged_index_is_named(medium: Path) -> None:
    whole = (medium / "DICOMDIR").read_bytes()
    (medium / "DICOMDIR").write_bytes(whole[:250])
    listing = list_series(medium)
    assert len(listing.series) == 2
    assert all(series.problem is None for series in listing.series)


def test_several_lost_slices_are_all_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    for name in ("IM0004", "IM0005", "IM0006"):
        (folder / name).touch()
    with pytest.raises(VolumeError) as caught:
        read_volume(folder)
    for name in ("IM0004", "IM0005", "IM0006"):
        assert name in str(caught.value)


def test_a_lost_slice_beside_a_localizer_alone(tmp_path: Path) -> None:
    slices = make_series()
    for data in slices:
        data.SeriesDescription = "localizer"
    folder = save(tmp_path / "series", slices, NAMES[:4])
    (folder / NAMES[4]).touch()
    assert find_volumes(tmp_path) == [folder]
    for choice in (None, "localizer"):
        with pytest.raises(VolumeError, match="IM0004"):
            read_volume(folder, series=choice)


def test_an_index_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    with (folder / "DICOMDIR").open("wb") as stream:
        stream.truncate(2**27)  # more than any index has
    assert read_volume(folder).shape[2] == SLICES
    (left_out,) = list_series(folder).left_out
    assert "index of the medium cannot be read" in left_out.reason


def test_a_folder_within_a_series_that_cannot_be_listed_may_hold_a_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it were somebody else's: permissions do not bind every user that runs this."""
    folder = save(tmp_path / "series", make_series(), NAMES[:4])
    closed, real = folder / "closed", Path.iterdir
    closed.mkdir()

    def listed(self: Path) -> Iterator[Path]:
        if self == closed:
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", listed)
    with pytest.raises(VolumeError, match="closed: cannot be listed"):
        read_volume(folder)
    with pytest.raises(VolumeError, match=r"closed: cannot be (listed|read)"):
        read_volume(closed)


def test_what_is_no_dicom_folder(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "gone")
    assert not is_dicom_folder(tmp_path) and not is_dicom_folder(tmp_path / "none")
    assert not is_dicom_file(tmp_path / "DICOMDIR")
    series = save(tmp_path / "series", make_series(), NAMES[:4])
    assert parts_of_one_series([tmp_path / "none", series, tmp_path / "x"]) == []
