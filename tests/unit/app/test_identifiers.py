"""Names from the network: plain path components pass, everything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from srcyc_app.refusals import Refusal
from srcyc_app.studies.identifiers import (
    check_image_id,
    check_name,
    check_request_id,
    check_tag,
    is_inside,
    is_session_id,
)


@pytest.mark.parametrize(
    "text", ["brain1_image", "sub-01 T1w", "Müller_ä", "a.b.c", "x" * 200, "扫描", "scan (2)", "-x"]
)
def test_plain_names_are_ids(text: str) -> None:
    assert check_image_id(text) == text
    assert check_tag(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "C:x",
        ".hidden",
        "x\0y",
        "x\ny",
        "x\u202ey",  # turns the direction of writing: what is read is not what is there
        " x",
        "x ",
        "x.",
        "x" * 201,
        "ä" * 101,  # too many bytes for a file name
        "a*b",
        "a|b",
        "CON",
        "aux.nii",
        "\ud800",  # half a character
    ],
)
def test_everything_else_is_refused_with_a_sentence(text: str) -> None:
    for check in (check_image_id, check_tag, check_name, check_request_id):
        with pytest.raises(Refusal) as caught:
            check(text)
        assert caught.value.status_code == 422
        assert str(caught.value).endswith(".")
        assert len(str(caught.value)) < 250


def test_names_of_models_are_narrower() -> None:
    assert check_name("retrained-2.1_b") == "retrained-2.1_b"
    for text in ("a b", "ä", "-x", "_x", "x" * 65):
        with pytest.raises(Refusal):
            check_name(text)


def test_session_ids_are_uuids() -> None:
    assert is_session_id("0f2b1c3d-0a1b-4c5d-8e9f-a0b1c2d3e4f5")
    for text in ("", "x", "0F2B1C3D-0A1B-4C5D-8E9F-A0B1C2D3E4F5", "../0f2b1c3d-0a1b-4c5d-8e9f-a0b1c2d3e4f5"):
        assert not is_session_id(text)


def test_inside_follows_links(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "studies" / "link").symlink_to(tmp_path / "secret")
    assert is_inside(tmp_path / "studies" / "scan.nii", tmp_path / "studies")
    assert not is_inside(tmp_path / "studies" / "link", tmp_path / "studies")
    assert not is_inside(tmp_path / "studies-too" / "x", tmp_path / "studies")
    assert not is_inside(tmp_path / "studies" / ".." / "secret", tmp_path / "studies")
