"""Make environments with the base installation alone, beside current releases: numpy 2, pydicom 3, no MONAI Label.

    python tests/harness/lean_environment.py FOLDER PYTHON...

A PYTHON is a path, or a version such as 3.13, which is looked for on PATH and among pyenv's; where none of them is
there, this Python serves. Standard output gets the path of each environment's Python, in that order.

PyTorch is shown, not copied, to a Python of this version; another one gets its own, and is shown the gigabytes of CUDA.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import Distribution, requires, version
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


def make(folder: Path, python: str) -> Path:
    """Make one in a folder within, and give its Python."""
    folder = folder / str(_version(python))
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    own = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    _show_torch(folder, own)
    torch = f"torch=={version('torch')}"  # whose CUDA is the one that is shown
    subprocess.run([own, "-m", "pip", "install", "--quiet", torch, *_base(), *CURRENT, *TOOLS], check=True)
    return own


def try_to_make(folder: Path, python: str) -> Path | None:
    """Make one; a Python for which a package cannot be had (PyTorch of this version, say) is told and left out."""
    try:
        return make(folder, python)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{python}: nothing is tested with it: {error}\n")
        return None


def find(wanted: str) -> str | None:
    """Give a Python that runs and is of a version; a path is given back."""
    if not wanted.replace(".", "").isdigit():
        return wanted
    managed = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    # A name on PATH proves nothing: a version manager's stub may fail.
    for python in (f"python{wanted}", *map(str, managed.glob(f"{wanted}.*/bin/python"))):
        if _version(python) == wanted:
            return python
    return None


def _version(python: str | Path) -> str | None:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.check_output([python, "-c", code], text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _base() -> list[str]:
    """Give what the library itself needs, and the extra `evaluate`, as our installation states it."""
    needs = [Requirement(text) for text in requires("srcyc") or ()]
    return [
        f"{need.name}{need.specifier}"
        for need in needs
        if need.name != "srcyc" and (need.marker is None or need.marker.evaluate({"extra": "evaluate"}))
    ]


def _show_torch(folder: Path, python: Path) -> None:
    """Let an environment find our PyTorch and what it needs, and pip see that they are there."""
    shown = folder / "shown"
    alike = _version(python) == _version(sys.executable)
    for package in lean_python.closure("torch"):
        if alike or _of_any_python(package):
            lean_python.show(package, shown, with_metadata=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.check_output([python, "-c", where], text=True).strip()
    (Path(site) / "torch.pth").write_text(f"{shown.resolve()}\n")


def _of_any_python(package: Distribution) -> bool:
    # Triton is compiled for one, but imported only where there is a graphics card.
    return package.name == "triton" or "Tag: py3-none-" in (package.read_text("WHEEL") or "")


def main(folder: Path, wanted: list[str]) -> None:
    """Make one for each Python that is there, at a time: pip mostly waits for the network and the disk."""
    found = {each: find(each) for each in wanted}
    for each, python in found.items():
        if python is None:
            sys.stderr.write(f"Python {each} was not found: nothing is tested with it.\n")
    with ThreadPoolExecutor() as makers:
        made = [own for own in makers.map(partial(try_to_make, folder), filter(None, found.values())) if own]
    for own in made or [make(folder, sys.executable)]:
        sys.stdout.write(f"{own}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
