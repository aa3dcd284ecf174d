"""What the documents show is what happens: their examples and commands are run, and their site is built."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # what pytest itself uses there
    import tomli as tomllib

from factories import make_affine, make_head, save_head, save_people, save_series, tiny_words
from srcyc import SuperResolver, read_volume, write_volume

#: Commands of README that others run: how they begin, who does, and as what.
ELSEWHERE = {
    "make ": (".ci/run", "{}"),
    "python3 -m venv": ("Makefile", "-m venv"),
    "source ": ("README.md", ".venv"),
    "pip install": ("Makefile", "pip install -e"),
    ".venv/bin/pip install": ("Makefile", "pip install -e"),
    "srcyc infer sample-data/": ("Makefile", "$(BIN)/{}"),
    "srcyc evaluate --hr sample-data/": ("Makefile", "$(BIN)/{}"),
    "srcyc serve": ("tests/contract/conftest.py", '"serve"'),
    "curl ": ("tests/contract/test_server_inference.py", "README.md"),
}


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands(document: Path) -> Iterator[str]:
    """Lines of its shell blocks, without comments."""
    for block in blocks(document, "bash"):
        for line in block.splitlines():
            if command := line.partition("  #")[0].partition("    #")[0].strip():
                yield command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the documents speak of."""
    head = make_head((24, 26, 6), make_affine(np.eye(3), (0.9, 0.9, 5.0)))
    for name in ("thick.nii.gz", "scans/one.nii.gz"):
        write_volume(head, tmp_path / name, dtype=np.int16)
    save_series(head, tmp_path / "dicom" / "series_5")
    save_people(tmp_path / "people", in_domains=True)
    (tmp_path / "people" / "lr").rename(tmp_path / "thick")
    (tmp_path / "people" / "hr").rename(tmp_path / "thin")
    save_head(tmp_path / "sample-data" / "ch2.nii.gz", (40, 44, 48), (1, 1, 1))
    save_head(tmp_path / "your_thin_scan.nii.gz", (40, 40, 40), (1, 1, 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_examples_in_python_run(repository: Path, place: Path) -> None:
    pytest.importorskip("monai", reason="MONAI is not installed (extra monai)")
    names: dict[str, Any] = {}
    for block in blocks(repository / "docs" / "python.md", "python"):
        exec(compile(block, "docs/python.md", "exec"), names)
    by_command = SuperResolver.from_pretrained()(read_volume("thick.nii.gz")).volume
    for name in ("thin.nii.gz", "out/thick_sr.nii.gz", "out/thick_engine.nii.gz"):
        np.testing.assert_array_equal(read_volume(name).data, by_command.data, err_msg=name)
    stated = SuperResolver.from_pretrained()(read_volume("thick.nii.gz"), slice_thickness=4.5).volume
    for name in ("thin.nrrd", "thin.mha"):
        np.testing.assert_array_equal(read_volume(name).data, stated.data, err_msg=name)
    assert read_volume("thin_uncertainty.nii.gz").shape == by_command.shape


def test_example_of_the_readme_runs(repository: Path, place: Path) -> None:
    (example,) = blocks(repository / "README.md", "python")
    exec(compile(example, "README.md", "exec"), {})
    assert read_volume("thin.nii.gz").spacing == pytest.approx((0.9, 0.9, 0.9), rel=0.05)


@pytest.mark.slow
def test_commands_of_the_readme_run(repository: Path, place: Path, srcyc: Callable[..., Any]) -> None:
    """Those of `srcyc`, one after the other as they stand; trainings with tiny networks."""
    ran = 0
    for command in commands(repository / "README.md"):
        if any(command.startswith(start) for start in ELSEWHERE):
            continue
        program, verb, *words = shlex.split(command)
        assert program == "srcyc", f"{command!r}: nothing runs this"
        if verb == "train":
            words += [f"--set={word}" for word in tiny_words(steps=4, validate_every=4).split()]
        done = srcyc(verb, *words)
        assert done.code == 0, f"{command}\n{done.err}"
        ran += 1
    assert ran >= 10
    for made in ("thin.nii.gz", "thin_1mm.nrrd", "series_5.nii.gz", "results/one_sr.nii.gz", "mine.nii.gz"):
        assert (place / made).is_file(), made


def test_others_run_the_other_commands(repository: Path) -> None:
    for command in commands(repository / "README.md"):
        for start, (runner, form) in ELSEWHERE.items():
            if command.startswith(start):
                text = (repository / runner).read_text(encoding="utf-8").replace("$(DEMO)", "demo-output")
                assert form.format(command.partition(" && ")[0]) in text, f"{command!r} is not in {runner}"


def test_every_extra_that_a_document_installs_is_there(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["optional-dependencies"].keys()
    for document in (repository / "README.md", *(repository / "docs").glob("*.md")):
        for extras in re.findall(r"pip install[^`\n]*\[([\w,]+)\]", document.read_text(encoding="utf-8")):
            assert set(extras.split(",")) <= declared, document.name


def test_the_training_that_the_readme_asks_a_server_for_is_one(repository: Path) -> None:
    (command,) = (line for line in commands(repository / "README.md") if "/train/" in line)
    words = shlex.split(command)
    wishes = pytest.importorskip("srcyc_app.trainers.wishes", reason="no MONAI Label (extra server)")
    assert wishes.Wishes.of(json.loads(words[words.index("-d") + 1])).preset == "quick"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(repository: Path, tmp_path: Path) -> None:
    """Broken links, names that docstrings give and that are not there, pages that no list has."""
    build = pytest.importorskip("sphinx.cmd.build", reason="Sphinx is not installed (extra docs)")
    arguments = ["-q", "-W", "--keep-going", "-b", "dummy", "-c", str(repository / "docs")]
    warnings = tmp_path / "warnings"
    code = build.build_main(
        [
            *arguments,
            "-w",
            str(warnings),
            "-d",
            str(tmp_path / "trees"),
            str(repository),
            str(tmp_path / "site"),
        ]
    )
    assert code == 0, warnings.read_text(encoding="utf-8")
