"""What may be asked of an inference: values that are taken, and those that are refused by name."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from srcyc.errors import ConfigError
from srcyc.inference.options import InferenceOptions


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("isotropic", "isotropic"),
        ("1", 1.0),
        (1, 1.0),
        ("0.9,0.9,1", (0.9, 0.9, 1.0)),
        ([1, 1, 2], (1.0, 1.0, 2.0)),
        (np.array([1.0, 1.0, 2.0]), (1.0, 1.0, 2.0)),
        ("1e-1", 0.1),
    ],
)
def test_target_spacings(given: Any, value: Any) -> None:
    assert InferenceOptions(target_spacing=given).target_spacing == value


@pytest.mark.parametrize(
    "given",
    [
        *("", "1,2", "0", "-1", "inf", "nan", "1,1,x", "Isotropic", 0, -1.0, True, None),
        *([1, 2], [1, 1, 0], {"mm": 1}, [[1]], 10**400),
    ],
)
def test_wrong_target_spacings(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^target_spacing .*three as X,Y,Z") as caught:
        InferenceOptions.of({"target_spacing": given})
    assert caught.value.options == ("target_spacing",)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"slice_thickness": 0}, "slice_thickness 0: give a value greater than 0."),
        ({"slice_thickness": float("nan")}, "slice_thickness nan: give a finite number."),
        ({"consistency": "perhaps"}, "consistency 'perhaps': give a valid boolean"),
        ({"sharpness": 3}, "sharpness 3: there is no such option."),
    ],
)
def test_a_wrong_option_is_named_with_its_value(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        InferenceOptions.of(values)
    assert str(caught.value).startswith(says)


def test_every_option_has_a_label_and_a_help() -> None:
    for name, field in InferenceOptions.model_fields.items():
        assert field.title, name
        assert field.description and field.description.endswith("."), name


def test_whoever_asks_for_the_options_only_does_not_wait_for_pytorch() -> None:
    code = (
        "import sys; from srcyc.inference.options import InferenceOptions; "
        "sys.exit(bool({'torch', 'nibabel', 'SimpleITK'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
