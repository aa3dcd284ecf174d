from __future__ import annotations

import inspect
import pickle

import pytest

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


def test_an_error_comes_out_of_another_process_as_it_was() -> None:
    error = pickle.loads(pickle.dumps(errors.VolumeError("a", remedy="b", options=["c"])))  # noqa: S301 - our own
    assert (str(error), error.fact, error.remedy, error.options) == ("a; b.", "a", "b", ("c",))
