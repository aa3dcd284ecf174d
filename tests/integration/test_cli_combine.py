"""`srcyc combine`: what it writes, keeps, refuses, and says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from factories import leave_unfinished, make_affine, make_head
from srcyc.physics.simulation import simulate_thick
from srcyc.volumes.volume import read_volume, write_volume


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One head, its slices axial and coronal."""
    folder = tmp_path_factory.mktemp("stacks")
    head = make_head((32, 36, 32), make_affine(np.eye(3), (1, 1, 1)))
    paths = []
    for name, axis in (("axial", 2), ("coronal", 1)):
        thick, _ = simulate_thick(head, 4.0, axis=axis)
        paths.append(write_volume(thick, folder / f"{name}.nii.gz"))
    return paths


def test_stacks_become_one_volume_with_its_sidecar_and_are_kept(srcyc, stacks, tiny_model, tmp_path):
    out = tmp_path / "out" / "thin.nii.gz"
    call = ("combine", *stacks, "-o", out, "--model", tiny_model)
    leave_unfinished(out)
    ran = srcyc(*call, "--preview", "--json")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in out.parent.iterdir()) == ["thin.json", "thin.nii.gz", "thin.png"]
    sidecar = json.loads((out.parent / "thin.json").read_text(encoding="utf-8"))
    assert ran.json == sidecar
    assert [stack["input"]["name"] for stack in sidecar["stacks"]] == ["axial.nii.gz", "coronal.nii.gz"]
    assert [stack["thick_axis"] for stack in sidecar["stacks"]] == [2, 1]
    assert np.allclose(sidecar["stacks"][1]["translation"], 0, atol=0.3)
    thin = read_volume(out)
    assert thin.shape == (32, 36, 32)
    np.testing.assert_allclose(thin.grid.field_of_view, read_volume(stacks[0]).grid.field_of_view, atol=1e-3)
    before = out.stat().st_mtime_ns
    again = srcyc(*call)
    assert (again.code, out.stat().st_mtime_ns) == (0, before)
    assert "--overwrite" in again.out
    # The same name made of others is not kept silently.
    turned = srcyc("combine", *stacks[::-1], "-o", out, "--model", tiny_model)
    assert turned.code == 2
    assert str(out) in turned.sentence and "was made of axial.nii.gz, coronal.nii.gz" in turned.sentence
    again = srcyc(*call, "--no-correct-slices")
    assert again.code == 2
    assert "correct_slices" in again.sentence
    # What is doubtful is said.
    holes = read_volume(stacks[0])
    holes.data[0, 3, 4, 2] = np.nan
    first = write_volume(holes, tmp_path / "holes.nii.gz")
    ran = srcyc("combine", first, stacks[1], "-o", out, "--model", tiny_model, "--overwrite")
    assert ran.code == 0 and "no value (NaN)" in ran.err and "moved by" in ran.out


def test_bad_calls_are_refused_and_leave_nothing(srcyc, stacks, tiny_model, tmp_path):
    out = tmp_path / "out" / "thin.nii.gz"
    for given, place, told in (
        (stacks[:1], out, "two or more"),
        (stacks, tmp_path / "out", "combined"),
        (stacks, stacks[0], "--output"),
        ([stacks[0], stacks[0]], out, "same stack"),
        ([stacks[0], tmp_path / "none.nii.gz"], out, "none.nii.gz"),
    ):
        ran = srcyc("combine", *given, "-o", place, "--model", tiny_model)
        assert ran.code == 2
        assert told in ran.sentence
    assert not out.parent.exists()
