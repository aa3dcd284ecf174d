"""What a user installs is whole: metadata, modules, models and the command, away from the working copy."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # what pytest itself uses there
    import tomli as tomllib

import srcyc

SOURCES = {"srcyc": "lib/srcyc", "srcyc_app": "srcyc_app"}
#: Import name -> distribution, where they differ.
DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml"}
#: Packages of the host program of a file, not of our environment; and what it finds by a path of its own.
HOST_PROVIDED = {"slicer", "qt", "ctk", "vtk", "SRCycLib", "SampleData"}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def normalised(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def test_version_is_stated_once_and_agrees(repository: Path) -> None:
    assert metadata.version("srcyc") == srcyc.__version__
    stated = [
        path.relative_to(repository).as_posix()
        for source in SOURCES.values()
        for path in (repository / source).rglob("*.py")
        if re.search(r"^__version__\s*(:\s*\w+\s*)?=", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert stated == ["lib/srcyc/_version.py"]


def test_changelog_has_this_version(repository: Path) -> None:
    assert f"## [{srcyc.__version__}]" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_import_is_a_declared_dependency(repository: Path, project: dict) -> None:
    declared = {normalised(r) for r in project["project"]["dependencies"]}
    # Optional features: imported where they are used, with an error that names the extra.
    for extra in ("evaluate", "perceptual", "train", "itk", "monai", "server", "batch"):
        declared |= {normalised(r) for r in project["project"]["optional-dependencies"][extra]}
    known = set(sys.stdlib_module_names) | set(SOURCES) | HOST_PROVIDED
    undeclared = {
        f"{path.relative_to(repository).as_posix()}: {name}"
        for source in SOURCES.values()
        for path in (repository / source).rglob("*.py")
        for name in imports_of(path)
        if name not in known and normalised(DISTRIBUTIONS.get(name, name)) not in declared
    }
    assert not undeclared


def test_the_base_installation_has_no_upper_bounds(project: dict) -> None:
    """3D Slicer has a numpy and a pydicom of its own, which nothing may ask to replace."""
    assert not [each for each in project["project"]["dependencies"] if re.search("<|==|~", each)]


def test_library_root_is_not_a_package(repository: Path) -> None:
    """MONAI Label drops every module called `lib`: ours must never be imported by that name."""
    assert not (repository / "lib" / "__init__.py").exists()


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tracked sources, so that nothing is written into the working copy."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, copy / name)
    written_by_the_app = shutil.ignore_patterns("__pycache__", "bin", "logs", "model")
    for source in SOURCES.values():
        shutil.copytree(repository / source, copy / source, ignore=written_by_the_app)
    output = tmp_path_factory.mktemp("wheel")
    # From the output folder: a folder called `build` beside it would hide the module of that name.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", output, copy, cwd=output)
    (built,) = output.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_every_module_model_card_preset_page_and_slicer_module(
    repository: Path, wheel: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    expected = {"srcyc/py.typed", "srcyc/physics/slice_profile.json"}
    for package, source in SOURCES.items():
        root = repository / source
        modules = [path.relative_to(root) for path in root.rglob("*.py")]
        expected |= {
            f"{package}/{module.as_posix()}"
            for module in modules
            # The folders that MONAI Label writes are nobody's package.
            if module.parts[0] not in ("bin", "lib", "logs", "model")
        }
    models = repository / "lib" / "srcyc" / "models"
    expected |= {
        f"srcyc/models/{path.name}"
        for path in models.glob("*")
        if path.suffix in (".safetensors", ".md", ".json")
    }
    presets = repository / "lib" / "srcyc" / "training" / "presets"
    expected |= {f"srcyc/training/presets/{path.name}" for path in presets.glob("*.yaml")}
    app = repository / "srcyc_app"
    expected |= {
        path.relative_to(repository).as_posix()
        for folder in ("compare", "slicer")
        for path in (app / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected <= inside
    assert not any("__pycache__" in name for name in inside)
    top_level = {name.partition("/")[0] for name in inside if ".dist-info/" not in name}
    assert top_level == set(SOURCES), "nothing else may land in a user's site-packages"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in inside)


@pytest.mark.slow
def test_wheel_runs_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    """Installed into an environment of its own, beside the dependencies but without the working copy."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=tmp_path,
    )
    # A path in a .pth file is searched, but its own .pth files, among them that of the editable install, are not read.
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    dependencies = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")

    where = run(python, "-c", "import srcyc; print(srcyc.__file__, srcyc.__version__)", cwd=tmp_path)
    assert where.split() == [str(site / "srcyc" / "__init__.py"), srcyc.__version__]
    assert "infer" in run(scripts / "srcyc", "--help", cwd=tmp_path)
    run(scripts / "srcyc", "models", cwd=tmp_path)
