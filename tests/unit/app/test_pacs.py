"""A DICOMweb server's series as a datastore, as far as no server is asked; tests/contract asks a real one."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srcyc.pacs.remote import RemoteSeries
from srcyc.pacs.web import DicomWeb
from srcyc_app.refusals import Refusal
from srcyc_app.server.limits import Limits
from srcyc_app.studies.pacs import Pacs


@pytest.fixture
def pacs(tmp_path: Path) -> Pacs:
    return Pacs(DicomWeb("http://127.0.0.1:9/dicom-web"), tmp_path / "cache", expiry=60, max_bytes=1000)


@pytest.mark.parametrize(
    ("method", "arguments", "status"),
    [
        ("set_name", ("x",), 409),
        ("set_description", ("x",), 409),
        ("add_image", ("1.2", "scan.nii", {}), 409),
        ("remove_image", ("1.2",), 409),
        ("update_image_info", ("1.2", {"domain": "HR"}), 409),
        ("save_label", ("1.2", "label.nii", "final", {}), 409),
        ("remove_label", ("1.2", "final"), 409),
        ("update_label_info", ("1.2", "final", {}), 409),
        ("get_label", ("1.2", "final"), 404),
        ("get_label_uri", ("1.2", "final"), 404),
        ("get_label_info", ("1.2", "final"), 404),
        ("get_dataset_archive", (None,), 404),
        ("get_image_info", ("../1.2",), 404),
        ("get_image_info", ("1.2",), 502),
        ("get_unlabeled_images", (), 502),
        ("json", (), 502),
    ],
)
def test_what_only_a_folder_or_the_server_itself_can_do_is_refused(
    pacs: Pacs, method: str, arguments: tuple[Any, ...], status: int
) -> None:
    with pytest.raises(Refusal) as caught:
        getattr(pacs, method)(*arguments)
    assert caught.value.status_code == status


def test_no_labels_are_kept_of_its_series(pacs: Pacs) -> None:
    assert pacs.get_labeled_images() == pacs.datalist() == []
    assert pacs.get_labels_by_image_id("1.2") == {}
    assert pacs.get_label_by_image_id("1.2", "final") == ""
    assert not pacs.has("no UID")
    pacs.refresh()


def test_a_series_that_is_here_is_given_without_asking_again(
    pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srcyc_app.studies.pacs._KEPT", 2)
    for uid in ("1.1", "1.2", "1.3"):
        pacs._remember(RemoteSeries("1", uid, 1, {}))
    folder = pacs._cache / "1.3"
    folder.mkdir(parents=True)
    (folder / "1.dcm").write_bytes(b"slice")
    with zipfile.ZipFile(pacs.get_image("1.3")) as packed:
        assert packed.read("1.dcm") == b"slice"
    with pytest.raises(Refusal) as forgotten:
        pacs.get_image("1.1")
    assert forgotten.value.status_code == 502


def test_a_series_of_a_pacs_is_nobodys_storage(pacs: Pacs) -> None:
    app: Any = SimpleNamespace(sessions=lambda: None, datastore=lambda: pacs)
    assert Limits()._taken(app, "anna") == 0


def test_what_has_no_uid_is_no_series() -> None:
    series = {"0020000E": {"vr": "UI", "Value": ["1.2.3"]}}
    assert RemoteSeries.of(series) is None
    assert RemoteSeries.of(series, "../1.2") is None
    assert (found := RemoteSeries.of(series, "1.2")) is not None and (found.study, found.uid) == (
        "1.2",
        "1.2.3",
    )
