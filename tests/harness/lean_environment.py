"""Make an environment with the base installation alone, beside current releases: numpy 2, pydicom 3, no MONAI Label.

    python tests/harness/lean_environment.py FOLDER [PYTHON]

PyTorch is shown, not copied, where this Python has it for that one; else it is installed, which takes gigabytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

import lean_python

#: Newer than what the extra `server` allows; and what the tests of the library need besides.
CURRENT = ("numpy>=2", "pydicom>=3")
TOOLS = (
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.8",
    "hypothesis>=6.100",
    "PyWavelets>=1.5",
    "pyyaml>=6",
)


def make(folder: Path, python: str) -> None:
    """Make it, and say what is in it."""
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    own = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if _version(str(own)) == _version(sys.executable):
        _show_torch(folder, own)
    subprocess.run([own, "-m", "pip", "install", "--quiet", *_base(), *CURRENT, *TOOLS], check=True)
    subprocess.run([own, "-m", "pip", "list"], check=True)


def _base() -> list[str]:
    """Give what the library itself needs, and the extra `evaluate`, as our installation states it."""
    needs = [Requirement(text) for text in requires("srcyc") or ()]
    return [
        f"{need.name}{need.specifier}"
        for need in needs
        if need.name != "srcyc" and (need.marker is None or need.marker.evaluate({"extra": "evaluate"}))
    ]


def _version(python: str) -> str:
    return subprocess.check_output([python, "-c", "import sys; print(sys.version_info[:2])"], text=True)


def _show_torch(folder: Path, python: Path) -> None:
    """Let an environment find our PyTorch and what it needs, and pip see that they are there."""
    shown = folder / "shown"
    for package in lean_python.closure("torch"):
        lean_python.show(package, shown, with_metadata=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.check_output([python, "-c", where], text=True).strip()
    (Path(site) / "torch.pth").write_text(f"{shown.resolve()}\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else sys.executable)
