"""`make benchmark`: a training step is as much faster than the textbook's as promised, and learns the same."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("bench_training.py")


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_a_training_step_is_as_fast_as_promised(tmp_path):
    numbers = tmp_path / "numbers.json"
    # The script itself refuses steps whose losses or updates are not the textbook's.
    subprocess.run([sys.executable, str(SCRIPT), "--json", str(numbers)], check=True)
    results = json.loads(numbers.read_text())
    assert results["srcyc"]["rate"] >= runpy.run_path(str(SCRIPT))["AIM"] * results["textbook"]["rate"]
