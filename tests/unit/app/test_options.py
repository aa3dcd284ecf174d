"""Options as the stock client, 3D Slicer and scripts send them."""

from __future__ import annotations

import pytest

from srcyc_app.infers.options import Options, choices
from srcyc_app.refusals import Refusal


def test_what_the_server_offers_is_understood_when_it_comes_back_as_it_is() -> None:
    options = Options.of(choices(["srcyc-t1", "other"]))
    assert options == Options(weights="srcyc-t1")


def test_text_stands_for_numbers_and_switches() -> None:
    options = Options.of(
        {
            "target_spacing": "0.9,0.9,1",
            "consistency": "false",
            "uncertainty": "true",
            "result_extension": "nii.gz",
            "result_dtype": ["int16", "float32"],
            "weights": "",
            "client_id": "somebody",
            "model": "srcyc",
        }
    )
    assert options.target_spacing == (0.9, 0.9, 1)
    assert not options.consistency
    assert options.uncertainty
    assert options.result_extension == ".nii.gz"
    assert options.result_dtype == "int16"
    assert options.weights is None


@pytest.mark.parametrize(
    ("value", "expected"), [("1", 1.0), (1, 1.0), ([1, 1, 2], (1, 1, 2)), (["isotropic"], "isotropic")]
)
def test_spacings(value: object, expected: object) -> None:
    got = Options.of({"target_spacing": value}).target_spacing
    assert got == expected or tuple(got) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_spacing", "thin"),
        ("target_spacing", "nan"),
        ("target_spacing", {"mm": 1}),
        ("target_spacing", True),
        ("device", 3),
        ("precision", "fp8"),
        ("consistency", "perhaps"),
        ("result_dtype", "float16"),
        ("result_extension", ".exe"),
        ("result_extension", "/../x.nii"),
        ("weights", 7),
        ("weights", "x" * 10_000),
        ("store", [[1]]),
    ],
)
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    with pytest.raises(Refusal) as caught:
        Options.of({key: value})
    assert caught.value.status_code == 422
    assert str(caught.value).startswith(key)
    assert len(str(caught.value)) < 500


def test_choices_are_text_for_the_table_of_slicer() -> None:
    for value in choices(["srcyc-t1"]).values():
        assert isinstance(value, str | bool | list)
        if isinstance(value, list):
            assert value
            assert all(isinstance(item, str) for item in value)
