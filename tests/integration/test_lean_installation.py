"""The base installation, without any extra: inference whole, the rest with a sentence that names the extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from srcyc.volumes.volume import read_volume

#: Runs `srcyc` where the packages of the first argument cannot be imported.
RUNNER = """
import sys
from importlib.abc import MetaPathFinder

missing = set(sys.argv.pop(1).split(","))

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from srcyc.cli import main
sys.exit(main())
"""
#: What the extras bring, as it is imported. filelock and jinja2 are there with PyTorch.
EXTRAS = {"skimage", "torchvision", "lpips", "tensorboard", "yaml", "itk", "monai", "monailabel"}


def run(*arguments: object, without: set[str] = EXTRAS) -> subprocess.CompletedProcess[str]:
    """Run `srcyc` in a process of its own, without some packages."""
    command = [sys.executable, "-c", RUNNER, ",".join(without), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_inference_is_whole(thick_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = run(
        *("infer", thick_file, "--model", tiny_model, "-o", tmp_path / "out.nii.gz"),
        *("--preview", "--uncertainty", "--correction-map", "--denoise"),
    )
    assert done.returncode == 0, done.stderr
    assert min(read_volume(tmp_path / "out.nii.gz").shape) > 1
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"out.json", "out.png", "out_uncertainty.nii.gz", "out_correction.nii.gz"}


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (("evaluate", "--hr", "{scan}", "--thickness", "4", "-o", "{out}"), "skimage", "evaluate"),
        (("train", "--lr", "{scan}", "--hr", "{scan}", "-o", "{out}"), "yaml", "train"),
    ],
)
def test_what_is_not_there_names_the_extra(
    arguments: tuple[str, ...], package: str, extra: str, sample_data: Path, tmp_path: Path
) -> None:
    places: dict[str, Any] = {"scan": sample_data / "ch2.nii.gz", "out": tmp_path / "out"}
    done = run(*(each.format(**places) for each in arguments))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"srcyc[{extra}]" in done.stderr
    assert package in done.stderr
    assert not (tmp_path / "out").exists()
