"""The library as an engine on this computer: where it lies, what it needs, which models come with it.

Nothing is imported of all that: this runs in Slicer before anything is installed, and in the process that looks.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import struct
import sys
from pathlib import Path
from typing import Any, NamedTuple

from SRCycLib import engine_pip

#: Pythons that the library runs with: 3.9, of Slicer 5.6 and 5.8, is none.
OLDEST_PYTHON = (3, 10)
#: The first Slicer with such a Python.
FIRST_SLICER = "5.10"

#: The model used where none is chosen.
DEFAULT_MODEL = "srcyc-fidelity"
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

#: Longest header of a model file that is read.
_LONGEST_HEADER = 1 << 24
_CARD_KEY = "srcyc"


class Requirement(NamedTuple):
    """A package that inference needs.

    Attributes:
        module: as it is imported.
        package: as it is installed.
        least: oldest version.
        of_slicer: Slicer comes with one of its own, which is never replaced.
    """

    module: str
    package: str
    least: str
    of_slicer: bool = False

    @property
    def specifier(self) -> str:
        """As pip takes it."""
        return f"{self.package}>={self.least}"


#: What the base installation of the library needs (pyproject.toml), without what only its command line uses.
REQUIREMENTS = (
    Requirement("numpy", "numpy", "1.26", of_slicer=True),
    Requirement("pydicom", "pydicom", "2.4", of_slicer=True),
    Requirement("SimpleITK", "SimpleITK", "2.3", of_slicer=True),
    Requirement("torch", "torch", "2.6"),
    Requirement("scipy", "scipy", "1.11"),
    Requirement("nibabel", "nibabel", "5.2"),
    Requirement("pydantic", "pydantic", "2.6"),
    Requirement("safetensors", "safetensors", "0.4.3"),
)


def library() -> Path | None:
    """Find the package `srcyc`: in this module's own folder, in the clone that it lies in, or installed; else None."""
    own = Path(__file__).resolve().parent
    beside = (folder for parent in own.parents for folder in (parent / "lib", parent))
    for folder in (own / "engine", *beside):
        if (folder / "srcyc" / "_version.py").is_file():
            return folder / "srcyc"
    found = importlib.util.find_spec("srcyc")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def version_of(package: Path) -> str:
    """Read the library's version, without running it."""
    found = re.search(r'^__version__ = "([^"]+)"', (package / "_version.py").read_text("utf-8"), re.MULTILINE)
    return found[1] if found else ""


def load(package: Path) -> None:
    """Make a package importable as `srcyc`, if none is imported yet, and nothing else that lies beside it."""
    if "srcyc" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "srcyc", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{package} is no Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["srcyc"] = module
    spec.loader.exec_module(module)


def look() -> dict[str, Any]:
    """Tell what this Python has.

    Returns:
        ``installed``: versions of all packages; ``missing`` and ``old``: packages of :data:`REQUIREMENTS` that are not
        there, or too old.
    """
    installed = {}
    for each in importlib.metadata.distributions():
        # A folder that an interrupted installation has left may have no metadata.
        name = each.metadata["Name"] if each.metadata is not None else None
        if name:
            installed[canonical(name)] = each.version
    for name in engine_pip.unfinished():
        installed.pop(canonical(name), None)
    missing, old = [], []
    for needed in REQUIREMENTS:
        version = installed.get(canonical(needed.package))
        if version is None:
            # Slicer's SimpleITK says nothing of its version.
            if not needed.of_slicer or importlib.util.find_spec(needed.module) is None:
                missing.append(needed.package)
        elif _numbers(version) < _numbers(needed.least):
            old.append(needed.package)
    return {"installed": installed, "missing": missing, "old": old}


def models_of(package: Path) -> list[dict[str, Any]]:
    """List the models that come with the library: ``name`` and ``card``, the default first."""
    files = {file.stem: file for file in sorted((package / "models").glob("*.safetensors"))}
    names = sorted(files, key=lambda name: (name != DEFAULT_MODEL, name))
    return [_model(name, files[name]) for name in names]


def _model(name: str, file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, _LONGEST_HEADER)))
        return {"name": name, "card": json.loads(header["__metadata__"][_CARD_KEY])}
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        return {"name": name, "card": None, "error": f"{file.name}: {error}"}


def canonical(name: str) -> str:
    """Give a package's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    """Give a release as numbers: ``2.13.0+cpu`` -> (2, 13, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
