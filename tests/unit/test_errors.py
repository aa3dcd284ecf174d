from __future__ import annotations

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

import srcyc
from srcyc import errors

TYPES = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_error_is_ours_to_report(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.SRCycError)
    assert kind.__doc__


@pytest.mark.parametrize(
    "kind",
    [
        errors.VolumeError,
        errors.ModelError,
        errors.ConfigError,
        errors.DataError,
        errors.OutputError,
        errors.NothingToDoError,
    ],
)
def test_bad_input_is_told_from_a_failure(kind: type[Exception]) -> None:
    """The command line exits with 2 for the one, with 1 for the other; callers may catch ValueError."""
    assert issubclass(kind, errors.InputError)
    assert issubclass(kind, ValueError)
    assert not issubclass(errors.SRCycError, ValueError)
    assert str(kind("scan.nii: the reason")) == "scan.nii: the reason"


def test_fact_and_remedy_are_data_and_one_sentence() -> None:
    error = errors.VolumeError("scan.nii: 3 channels", remedy="give a grey-scale volume", options=["force"])
    assert (error.fact, error.remedy, error.options) == (
        "scan.nii: 3 channels",
        "give a grey-scale volume",
        ("force",),
    )
    assert str(error) == "scan.nii: 3 channels; give a grey-scale volume."


def test_a_front_end_words_the_options_and_ends_with_the_code() -> None:
    stopped = errors.StoppedError(
        "set: /force/set", 15, remedy="go on with force, not reset", options=["set", "force"]
    )
    assert stopped.worded(str.upper) == "SET: /force/set; go on with FORCE, not reset."
    assert [error.exit_code for error in (stopped, errors.SRCycError(""), errors.OutputError(""))] == [
        143,
        1,
        2,
    ]


def test_an_error_comes_out_of_another_process_as_it_was() -> None:
    error = pickle.loads(pickle.dumps(errors.VolumeError("a", remedy="b", options=["c"])))  # noqa: S301 - our own
    assert (str(error), error.fact, error.remedy, error.options) == ("a; b.", "a", "b", ("c",))


LIBRARY = Path(srcyc.__file__).parent
SOURCES = [path for path in LIBRARY.rglob("*.py") if path.parent != LIBRARY / "cli"]


def sentences(path: Path) -> list[tuple[int, str, bool]]:
    """Line, text and whether it has a remedy, of every error that a module makes."""
    kinds = {kind.__name__ for kind in TYPES}
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in kinds:
            texts = [
                each.value
                for each in ast.walk(node)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            remedy = any(keyword.arg == "remedy" for keyword in node.keywords)
            found.append((node.lineno, "".join(texts), remedy))
    return found


def test_the_library_does_not_speak_of_flags() -> None:
    """How an option is given is the command line's business; a server's client has no flags."""
    said = {
        f"{path.relative_to(LIBRARY)}:{line}": text
        for path in SOURCES
        for line, text, _ in sentences(path)
        if re.search(r"(?<![\w-])--[a-z]", text)
    }
    assert said == {}


def test_what_to_do_is_data() -> None:
    """A fact and a remedy in one text could be worded in one way only."""
    joined = {
        f"{path.relative_to(LIBRARY)}:{line}": text
        for path in SOURCES
        for line, text, remedy in sentences(path)
        if not remedy and re.search(r"; .*\.$", text)
    }
    assert joined == {}
    assert sum(remedy for path in SOURCES for _, _, remedy in sentences(path)) > 100
