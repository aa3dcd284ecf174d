"""What is there already is kept only if it is just what is asked for; else it is said what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srcyc.errors import InputError, OutputError
from srcyc.files import sha256
from srcyc.inference.finished import Asked, is_finished
from srcyc.inference.options import InferenceOptions
from srcyc.inference.results import Place


def _made(folder: Path, **other: Any) -> tuple[Place, Path]:
    """A result and its scan, of model `m` with no wishes; with other entries in its sidecar."""
    scan, place = folder / "a.nii.gz", Place(folder / "a_sr.nii.gz")
    scan.write_bytes(b"scan")
    place.volume.write_bytes(b"result")
    sidecar = {
        "software": "srcyc 0.1.0",
        "output": place.volume.name,
        "input": {"name": scan.name, "sha256": sha256(scan)},
        "model": {"name": "one", "sha256": "m"},
        "options": InferenceOptions().model_dump(mode="json"),
    }
    place.sidecar.write_text(json.dumps(sidecar | other), encoding="utf-8")
    return place, scan


def _options(**made: Any) -> dict[str, Any]:
    return {"options": InferenceOptions().model_dump(mode="json") | made}


@pytest.mark.parametrize(
    ("other", "asked", "told"),
    [
        ({"input": {"name": "a.nii.gz", "sha256": "x"}}, Asked("m", InferenceOptions()), "another a.nii.gz"),
        (
            {"input": {"name": "b.nii.gz", "sha256": "x"}},
            Asked("m", InferenceOptions()),
            "of b.nii.gz, not of",
        ),
        ({"stacks": []}, Asked("m", InferenceOptions()), "not of"),
        ({}, Asked("other", InferenceOptions()), "'one'"),
        ({}, Asked("m", InferenceOptions(target_spacing=2.0)), "target_spacing isotropic, not 2.0"),
        ({}, Asked("m", InferenceOptions(uncertainty=True)), "uncertainty False, not True"),
        ({}, Asked("m", InferenceOptions(), {"keep_type": True}), "keep_type False, not True"),
        (_options(keep_type=True), Asked("m", InferenceOptions()), "keep_type True, not False"),
        ({"software": "another"}, Asked("m", InferenceOptions()), "not made by srcyc"),
        ({"output": "b_sr.nii.gz"}, Asked("m", InferenceOptions()), "not made by srcyc"),
        ({"model": "m"}, Asked("m", InferenceOptions()), "weights"),
    ],
)
def test_what_is_something_else_is_said(tmp_path, other, asked, told):
    place, scan = _made(tmp_path, **other)
    with pytest.raises(OutputError) as caught:
        is_finished(place, [scan], asked)
    assert told in caught.value.fact and str(place.volume) in caught.value.fact
    assert caught.value.options == ("overwrite",)


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ({}, Asked("m", InferenceOptions())),
        # Who may force a model, or asks for less than is there, gets the same voxels.
        ({}, Asked("m", InferenceOptions(force=True))),
        ({"uncertainty": True, "labels": True}, Asked("m", InferenceOptions())),
        ({"keep_type": True}, Asked("m", InferenceOptions(), {"keep_type": True})),
        ({"target_spacing": [1.0, 1.0, 2.0]}, Asked("m", InferenceOptions(target_spacing=(1, 1, 2)))),
    ],
)
def test_what_is_just_that_is_finished(tmp_path, made, asked):
    place, scan = _made(tmp_path, **_options(**made))
    assert is_finished(place, [scan], asked)


def test_without_its_volume_or_its_scan_nothing_is_finished(tmp_path):
    place, scan = _made(tmp_path)
    scan.unlink()
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        is_finished(place, [scan], Asked("m", InferenceOptions()))
    place.volume.unlink()
    assert not is_finished(place, [scan], Asked("m", InferenceOptions()))


def test_one_that_does_not_say_its_options_is_of_the_right_scan_and_model(tmp_path):
    place, scan = _made(tmp_path, options=None)
    assert is_finished(place, [scan], Asked("m", InferenceOptions()))
    with pytest.raises(OutputError, match="weights"):
        is_finished(place, [scan], Asked("other", InferenceOptions()))
