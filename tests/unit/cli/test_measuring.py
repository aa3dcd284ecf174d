"""Scans that are measured: what the tables are followed by."""

from __future__ import annotations

import numpy as np
import pytest

from srcyc.cli.console import Console
from srcyc.cli.measuring import Measurement
from srcyc.evaluation.benchmark import CUBIC, Simulation, compare
from srcyc.volumes.volume import Volume


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"flipped": True}, "is mirrored against the truth"),
        ({"shift_j": 0.6}, "is shifted by +0.00, +0.60, +0.00 voxels"),
        ({"aligned": True}, None),
    ],
)
def test_a_result_that_does_not_lie_on_the_truth_is_named(phantom, capsys, changes, told) -> None:
    found = compare(Volume(phantom((24, 24, 30)), np.eye(4)), Simulation(3.0), {}, name="head").rows
    (row,) = [row for row in found if row.method == CUBIC]
    run = Measurement(Console(), {})
    run.rows = [row.model_copy(update={"aligned": False, **changes})]
    run.tell()
    said = capsys.readouterr()
    assert ("WRONG" in said.out) is (told is not None)
    assert said.err == "" if told is None else f"head, 3 mm, {CUBIC}: the result {told}" in said.err
