"""JSON that is written can be read by anybody, and what anybody wrote can be read without harm."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from srcyc.documents import checked_json, json_line, json_object, json_text, known, read_json, write_json

#: A file's name that is no UTF-8, as Python has it.
BROKEN = b"scan-\xff.nii".decode("utf-8", "surrogateescape")


def strict(text: str) -> object:
    """Read it as a decoder does that knows JSON only."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_what_json_cannot_hold_is_null_or_plain() -> None:
    document = {
        "psnr": math.inf,
        "noise": np.float32("nan"),
        1: np.arange(2),
        "path": Path("a/b"),
        "of": ({"x"}, True, None, np.int64(3), 0.5),
    }
    told = {"psnr": None, "noise": None, "1": [0, 1], "path": "a/b", "of": [["x"], True, None, 3, 0.5]}
    for text in (json_text(document), json_text(document, indent=None), json_line(document)):
        assert strict(text) == told


def test_what_is_written_for_people_is_utf8_and_for_programs_one_line_of_ascii() -> None:
    assert "0.9 × 5" in json_text({"size": "0.9 × 5"})
    assert json_text({"a": 1, "b": 2}).count("\n") == 4
    line = json_line({"size": "0.9 × 5\n"})
    assert line.isascii() and "\n" not in line


def test_a_name_that_is_no_utf8_comes_back_as_it_was(tmp_path: Path) -> None:
    path = write_json(tmp_path / "new" / "a.json", {"name": BROKEN})
    assert read_json(path) == {"name": BROKEN}
    assert strict(json_text({"name": BROKEN}, broken="replace")) == {"name": "scan-?.nii"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NaN", None),
        ("-Infinity", None),
        ("1e999", None),
        ("9" * 400, None),
        ("9" * 5000, None),
        ("9" * 40, int("9" * 40)),
        ("-12", -12),
        ("4.5", 4.5),
        ("1e2", 100.0),
    ],
)
def test_numbers_that_are_read(text: str, value: float | None) -> None:
    assert json_object(f'{{"n": {text}}}') == {"n": value}


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"a": ' + "[" * 100_000, b"\xff\xfe{"])
def test_what_is_no_object_is_refused_and_known_to_say_nothing(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_object(text)
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert known(path) == known(tmp_path / "missing.json") == {}
    with pytest.raises(OSError):
        read_json(tmp_path / "missing.json")


def test_an_editors_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": "é"}', encoding="utf-8-sig")
    assert known(path) == {"a": "é"}


def test_what_somebody_sent_is_kept_exactly_or_refused() -> None:
    assert json.loads(checked_json({"a": ["é", 1.5]})) == {"a": ["é", 1.5]}
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in (math.nan, BROKEN, b"x", {1}, deep):
        with pytest.raises(ValueError, match=r"."):
            checked_json({"a": value})
