from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from starlette.datastructures import UploadFile

from srcyc_app.refusals import Refusal
from srcyc_app.server.uploads import check_object, first, plain_name, read_object, save, save_all, unpacked
from srcyc_app.studies.archives import size_of


def upload(name: str | None, content: bytes = b"content") -> UploadFile:
    return UploadFile(io.BytesIO(content), filename=name)


@pytest.mark.parametrize(
    ("text", "value"), [("", {}), ("  ", {}), ("{}", {}), ('{"a": [1, "ä"]}', {"a": [1, "ä"]})]
)
def test_objects_are_read(text, value):
    assert read_object(text, "params") == value


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "1", '"text"', "null x", "[" * 100_000),
        *('{"a": NaN}', '{"a": Infinity}', '{"a": [1e999]}', '{"a": "\\ud800"}', '{"\\udfff": 1}'),
        '{"a": ' * 5000 + "1" + "}" * 5000,
    ],
)
def test_what_could_not_be_sent_back_is_refused(text):
    with pytest.raises(Refusal, match="params") as refused:
        read_object(text, "params")
    assert refused.value.status_code == 422
    assert len(str(refused.value)) < 250


def test_of_a_list_the_first_counts():
    assert (first("a"), first(["a", "b"]), first([])) == ("a", "a", None)


def test_what_a_scan_takes_is_counted(tmp_path):
    (tmp_path / "below").mkdir()
    for path, size in ((tmp_path / "1.dcm", 3), (tmp_path / "2.dcm", 4), (tmp_path / "below" / "other", 5)):
        path.write_bytes(bytes(size))
    assert [size_of(path) for path in (tmp_path, tmp_path / "1.dcm", tmp_path / "gone")] == [7, 3, 0]


def test_a_body_may_be_left_out_but_not_too_long():
    assert check_object(None, "params") == {}
    with pytest.raises(Refusal, match="at most 10"):
        check_object({"a": "b" * 10}, "params", longest=10)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("scan.nii.gz", "scan.nii.gz"),
        ("/home/somebody/scan.NRRD", "scan.NRRD"),
        (r"C:\scans\scan.mha", "scan.mha"),
        ("../../etc/passwd", "passwd"),
        ("größe 1.nii", "größe 1.nii"),
        ("..", "scan"),
        (".hidden.nii.gz", "scan.nii.gz"),
        ("a\0b.nii.gz", "scan.nii.gz"),
        ("x" * 300 + ".zip", "scan.zip"),
        ("", "scan"),
        (None, "scan"),
    ],
)
def test_names_become_plain(given, name):
    assert plain_name(upload(given)) == name


def test_files_are_saved_under_their_own_names(tmp_path):
    path = save_all([upload("../scan.nii", b"abc")], tmp_path)
    assert path == tmp_path / "scan.nii"
    assert path.read_bytes() == b"abc"


def test_files_of_the_same_name_are_all_kept(tmp_path):
    # Two are called as a second and a third "1.dcm" would be.
    names = ("2-1.dcm", "a/1.dcm", "b/1.dcm", "1-1.dcm", "1.dcm")
    series = [upload(name, bytes([number])) for number, name in enumerate(names)]
    assert save_all(series, tmp_path) == tmp_path
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [bytes([n]) for n in range(5)]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "scan.nii").touch()
    with pytest.raises(FileExistsError):
        save(upload("scan.nii"), tmp_path)


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            packed.writestr(name, name)
    return path


def test_a_file_is_taken_as_it_is(tmp_path):
    path = tmp_path / "scan.nii"
    path.touch()
    assert unpacked(path, 100) == path


def test_an_archive_of_a_series_becomes_a_folder_of_its_name(tmp_path):
    path = archive(tmp_path / "knee.ZIP", "series/1.dcm", "series/2.dcm")
    folder = unpacked(path, 100)
    assert folder.name == "knee"
    assert sorted(file.name for file in folder.iterdir()) == ["1.dcm", "2.dcm"]
    assert not path.exists()


def test_an_archive_of_one_volume_is_that_volume(tmp_path):
    assert unpacked(archive(tmp_path / "x.zip", "in/scan.nii.gz"), 100).name == "scan.nii.gz"


@pytest.mark.parametrize("limit", [5, 0])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, limit):
    with pytest.raises(Refusal):
        unpacked(archive(tmp_path / "x.zip", "a" * 6), limit)
    assert not any(path.is_file() for path in (tmp_path / "unpacked").rglob("*"))
