from __future__ import annotations

import errno

import pytest
import torch

from srcyc.cli.console import Console, sentence_of, show_error
from srcyc.errors import ConfigError, NothingToDoError, OutputError, SRCycError


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OutputError("out.nii: already exists; choose another name."), 2, "already exists"),
        (NothingToDoError("nothing to do: ask for less."), 2, "nothing to do"),
        (SRCycError("the result is not finite."), 1, "not finite"),
        (MemoryError(), 1, "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "--max-memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            1,
            "out of memory",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "free some space"),
        (OSError(errno.EFBIG, "File too large"), 2, "free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), 2, "permissions"),
        (KeyError("surprise"), 1, "unexpected KeyError"),
    ],
)
def test_every_error_is_one_sentence_with_the_file_and_its_code(error, code, words):
    sentence, found = sentence_of(error, "scan.nii.gz")
    assert found == code
    assert words in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "scan.nii.gz" in sentence or "out.nii" in sentence or isinstance(error, OutputError)


def test_options_that_an_error_names_become_flags():
    error = ConfigError(
        "slice_thickness 40 mm in /data/slice_thickness.nii",
        remedy="give less, or leave out slice_thickness and n4, but not my_n4 or n4_x",
        options=["slice_thickness", "n4"],
    )
    assert sentence_of(error)[0] == (
        "--slice-thickness 40 mm in /data/slice_thickness.nii; "
        "give less, or leave out --slice-thickness and --n4, but not my_n4 or n4_x."
    )
    # Elsewhere it is called as in Python.
    assert str(error).startswith("slice_thickness 40 mm")


def test_a_file_that_the_sentence_names_is_not_named_twice():
    sentence, _ = sentence_of(OutputError("/data/out.nii: is a folder; give a file name."), "/data/out.nii")
    assert sentence.count("/data/out.nii") == 1


def test_the_traceback_is_shown_on_request_only(capsys, monkeypatch):
    try:
        raise ValueError("deep inside")
    except ValueError as error:
        show_error(error)
        assert "Traceback" not in capsys.readouterr().err
        monkeypatch.setenv("SRCYC_DEBUG", "1")
        show_error(error)
        assert "Traceback" in capsys.readouterr().err


def test_with_json_stdout_holds_the_document_only(capsys):
    console = Console(json=True)
    console.say("some news")
    console.warn("beware")
    console.answer({"x": 1})
    captured = capsys.readouterr()
    assert captured.out == '{\n  "x": 1\n}\n'
    assert "some news" in captured.err
    assert "beware" in captured.err


def test_on_a_terminal_bars_come_and_go_and_lines_stay(capsys, monkeypatch):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)  # rich takes the output for a terminal then
    console = Console()
    with console.progress("two scans") as show:
        show(0.5)
    with console.training(10) as told:
        told(3, "step 3/10  content 0.5")
    said = capsys.readouterr()
    assert "two scans" in said.err and "training" in said.err
    assert "step 3/10  content 0.5" in said.err
    assert said.out == ""


def test_long_sentences_and_brackets_are_printed_as_they_are(capsys):
    text = "[red]/a/very/long/path" + "/folder" * 40 + "[/red]: done"
    Console().say(text)
    assert capsys.readouterr().out == text + "\n"
