"""`make benchmark`: a training step is as much faster than the textbook's as promised, and learns the same.

On one thread and in processor time, which other programs on the machine disturb least.
"""

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
    command = [sys.executable, str(SCRIPT), "--threads", "1", "--json", str(numbers)]
    subprocess.run(command, check=True)
    results = json.loads(numbers.read_text())
    aim = runpy.run_path(str(SCRIPT))["AIM"]
    assert results["srcyc"]["cpu_rate"] >= aim * results["textbook"]["cpu_rate"]
