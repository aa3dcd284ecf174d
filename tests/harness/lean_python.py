"""A Python as a bare Slicer has it, and a folder of wheels from which real pip completes it, offline and in seconds.

Both show packages of the tests' own environment: PyTorch alone would be gigabytes to copy.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import venv
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

#: What Slicer brings along that matters here.
BARE = ("numpy", "pydicom", "SimpleITK", "requests", "pip", "setuptools")
#: What SRCyc needs besides, and what each asks of the others.
WANTED = {"torch": (), "scipy": ("numpy>=1.26",), "nibabel": ("numpy",), "pydantic": (), "safetensors": ()}


def make_python(folder: Path, packages: Sequence[str] = BARE) -> Path:
    """Make an environment with a few packages, and give its Python.

    What pip finds there lies outside of it, so that no pip can remove anything of the tests' own environment.
    """
    venv.create(folder / "python", with_pip=False, symlinks=os.name != "nt")
    shown = folder / "slicer"
    for name in packages:
        show(distribution(name), shown, with_metadata=True)
    (site_packages(folder) / "slicer.pth").write_text(f"{shown}\n")
    return folder / "python" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def site_packages(folder: Path) -> Path:
    """Give the place where pip installs into what :func:`make_python` has made."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return folder / "python" / ("Lib/site-packages" if os.name == "nt" else f"lib/{version}/site-packages")


def launch(python: Path, program: Path) -> None:
    """Make a program PythonSlicer of a Python: a launcher, whose child it is."""
    program.write_text(f'#!/bin/sh\n"{python}" "$@"\nexit $?\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def make_wheels(folder: Path) -> Path:
    """Make a wheel of each package that SRCyc needs: its metadata, and the way to where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, needs in WANTED.items():
        shown = folder / "shown" / name
        for each in closure(name):
            show(each, shown, with_metadata=False)
        make_wheel(folder, name, distribution(name).version, needs, {f"{name}.pth": f"{shown}\n"})
    return folder


def make_wheel(
    folder: Path, name: str, version: str, needs: Sequence[str] = (), files: dict[str, str] | None = None
) -> None:
    """Write a wheel of text files."""
    info = f"{name}-{version}.dist-info"
    files = {
        **(files or {}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def closure(name: str) -> Iterator[Distribution]:
    """Give a package and those that it needs, without what a bare Slicer has."""
    found: dict[str, Distribution] = {}
    _add(Requirement(name), found, {each.lower() for each in BARE})
    yield from found.values()


def _add(wanted: Requirement, found: dict[str, Distribution], seen: set[str]) -> None:
    key = re.sub(r"[-_.]+", "-", wanted.name).lower()
    if key not in seen:
        seen.add(key)
        try:
            found[key] = distribution(wanted.name)
        except PackageNotFoundError:
            return  # of another system
    elif key not in found or not wanted.extras:
        return
    for text in found[key].requires or ():
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in ("", *wanted.extras)):
            _add(need, found, seen)


def show(package: Distribution, folder: Path, *, with_metadata: bool) -> None:
    """Make the modules of a package importable from a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        if (with_metadata or not top.endswith(".dist-info")) and not (folder / top).exists():
            (folder / top).symlink_to(package.locate_file(top))  # type: ignore[arg-type]
