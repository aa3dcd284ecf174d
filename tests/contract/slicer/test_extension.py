"""The extension: what the Extensions Index asks, and a package by real CMake, with the module and its engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

import srcyc

ROOT = Path(__file__).resolve().parents[3]
#: Where a package has its modules.
MODULES = Path("lib/Slicer-5.12/qt-scripted-modules")

#: Of sample-data/, what Slicer's module Sample Data offers, and its licence.
SAMPLES = ("brain1_image.nrrd", "brain2_image.nrrd", "pyradiomics.txt")

#: Stands for the owner of a repository that is not public yet.
PLACEHOLDER = "OWNER_TO_BE_NAMED"

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
CONFIGURE = ["cmake", "-S", str(ROOT), f"-DSlicer_DIR={ROOT / 'tests' / 'harness' / 'slicer_cmake'}"]

#: Slicer's slicer-extension-catalog-entry-schema-v1.0.1.json; 1.0.2 allows these too.
SCHEMA = {
    "type": "object",
    "required": ["$schema", "category", "scm_url"],
    "additionalProperties": False,
    "properties": {
        **{name: {"type": "string"} for name in ("$schema", "category", "scm_url", "scm_revision")},
        "scm_type": {"type": "string", "enum": ["git", "local"]},
        "build_dependencies": {"type": "array", "items": {"type": "string"}},
        "build_subdirectory": {"type": "string"},
        "enabled": {"type": "boolean"},
        "tier": {"type": "integer", "enum": [1, 3, 5]},
    },
}
#: Of the categories that the Extensions Index accepts, those that fit.
CATEGORIES = {"Filtering", "Neuroimaging"}


def metadata() -> dict[str, str]:
    """Read the description in the root's CMakeLists.txt as the Index's own check does: by these patterns."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    name = re.findall(r"project\s*\(\s*([^\s\)\n\r]+)", text, re.IGNORECASE)[0]
    return {"project": name, **dict(re.findall(r'set\s*\(EXTENSION_(\w+)\s*"([^"]+)"[ ]*\)', text))}


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    """The description file for the Extensions Index."""
    return json.loads((ROOT / "srcyc_app" / "slicer" / "SRCyc.json").read_text())  # type: ignore[no-any-return]


def test_the_description_keeps_to_the_schema(description: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with MONAI Label")
    jsonschema.validate(description, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**description, "homepage": "x"}, SCHEMA)


def test_the_description_says_what_cmake_says(description: dict[str, Any]) -> None:
    stated = metadata()
    assert stated["project"] == "SRCyc", "the description file's name"
    assert description["category"] == stated["CATEGORY"]
    assert stated["CATEGORY"] in CATEGORIES
    assert description["build_dependencies"] == stated["DEPENDS"].split()
    assert description["scm_url"] == stated["HOMEPAGE"]
    assert description["scm_url"].startswith("https://")
    repository = description["scm_url"].rpartition("/")[2]
    assert "slicer" in repository.lower(), "a rule of the Index"
    assert "not for diagnostic use" in stated["DESCRIPTION"].lower()


def test_icon_and_screenshots_are_pictures_of_this_repository(description: dict[str, Any]) -> None:
    stated = metadata()
    raw = description["scm_url"].replace("github.com", "raw.githubusercontent.com")
    urls = [stated["ICONURL"], *stated["SCREENSHOTURLS"].split()]
    assert len(urls) > 1
    for url in urls:
        assert url.startswith(f"{raw}/{description['scm_revision']}/")
        picture = ROOT / url.removeprefix(f"{raw}/{description['scm_revision']}/")
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n"), picture


def test_the_repository_is_one_that_the_index_takes() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    size = sum((ROOT / name).stat().st_size for name in files if name and (ROOT / name).is_file())
    assert size < 100e6, "a rule of the Index"


@needs_cmake
def test_no_package_is_made_with_addresses_that_lead_nowhere(
    description: dict[str, Any], tmp_path: Path
) -> None:
    """Until somebody owns the public repository: then this test has nothing more to say."""
    done = subprocess.run([*CONFIGURE, "-B", str(tmp_path)], capture_output=True, text=True, check=False)
    named = PLACEHOLDER not in description["scm_url"] + "".join(metadata().values())
    assert (done.returncode == 0) == named, done.stderr
    assert named or "docs/slicer.md" in " ".join(done.stderr.split())


@pytest.mark.slow
@needs_cmake
def test_the_package_holds_the_module_and_its_engine(tmp_path: Path) -> None:
    """Built by CMake and CPack from the lists in our files; of Slicer's build there is a stand-in."""
    build = tmp_path / "build"
    for command in (
        [*CONFIGURE, "-B", build, "-DBUILD_TESTING=ON", "-DSRCYC_REHEARSAL=ON"],
        ["cmake", "--build", build],
        ["cpack", "--config", build / "CPackConfig.cmake", "-B", tmp_path],
    ):
        done = subprocess.run([str(each) for each in command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(tmp_path / "SRCyc.tar.gz") as archive:
        archive.extractall(tmp_path / "package")
    for tree in (tmp_path / "package" / MODULES, build / MODULES):
        made = _files(tree)
        module = _files(ROOT / "srcyc_app" / "slicer" / "SRCyc") - {"CMakeLists.txt"}
        library = {f"SRCycLib/engine/srcyc/{name}" for name in _files(ROOT / "lib" / "srcyc")}
        samples = {f"SRCycLib/sample-data/{name}" for name in SAMPLES}
        assert made - {"SRCycLib/engine/LICENSE"} == module | library | samples
    assert (tmp_path / "package" / MODULES / "SRCycLib" / "engine" / "LICENSE").is_file()
    # The package as it is unpacked, by a Python that knows nothing else.
    code = (
        "from SRCycLib import engine_needs as e; p = e.library(); print(p.parent.name, e.version_of(p), "
        "*(m['name'] for m in e.models_of(p) if m['card']))"
    )
    said = subprocess.check_output(
        [sys.executable, "-S", "-c", code], cwd=tmp_path / "package" / MODULES, text=True
    ).split()
    assert said == ["engine", srcyc.__version__, "srcyc-fidelity", "srcyc-perceptual"]


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
