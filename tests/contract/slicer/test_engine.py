"""The engine on this computer: what it needs, real pip installing it into a lean Python, the library as a process."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

import lean_python
from ended import has_ended
from srcyc.models.model_file import DEFAULT_MODEL, load_model, packaged_models
from srcyc.volumes.volume import read_volume
from SRCycLib import engine_needs, engine_pip, processes

if sys.version_info >= (3, 11):
    import tomllib
else:  # what pytest itself uses there
    import tomli as tomllib

MODULE = Path(engine_needs.__file__).resolve().parents[1]
#: What only the command line needs of the base installation.
COMMAND_LINE = {"matplotlib", "rich", "typer"}
#: As :data:`SRCycLib.calls.BY_ENGINE`.
ENGINE = "SRCycLib.engine_worker"
#: Longer than anything takes on a busy machine.
PATIENCE = 120.0


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels, all that is missing in a bare Slicer."""
    return lean_python.make_wheels(tmp_path_factory.mktemp("wheels"))


class Desk:
    """Somebody who uses the engine from within Slicer.

    Attributes:
        folder: of the lean Python.
        library: SRCycLib's module `engine`.
        said: how an installation went.
        log: of the panel.
    """

    def __init__(self, session: Any, folder: Path) -> None:
        self.session = session
        self.folder = folder
        self.python = lean_python.make_python(folder)
        lean_python.launch(self.python, Path(session.folder) / "bin" / "PythonSlicer")
        session._search_path_before = list(sys.path)
        self.library = importlib.import_module("SRCycLib.engine")
        self.calls = importlib.import_module("SRCycLib.calls").Calls()
        self.said: list[tuple[str, float]] = []
        self.log: list[str] = []

    def wait(self, begin: Callable[..., Any]) -> Any:
        """Begin something, let Slicer run until it has ended, and give the answer, or what is wrong as a sentence."""
        answers: list[Any] = []
        begin(answers.append, answers.append)
        end = time.monotonic() + PATIENCE
        while not answers and time.monotonic() < end:
            self.session.process_events()
            time.sleep(0.01)
        (answer,) = answers
        return answer

    def check(self) -> Any:
        return self.wait(lambda done, failed: self.library.look(self.calls, done, failed))

    def install(self) -> Any:
        """Let what is missing be installed; give "" or what is wrong."""
        return self.wait(lambda done, failed: self.begin(lambda: done(""), failed))

    def begin(self, done: Callable[[], None], failed: Callable[[str], None]) -> Any:
        return self.library.Preparation(
            self.calls,
            lambda _question: True,
            lambda *each: self.said.append(each),
            self.log.append,
            done,
            failed,
        )

    def infer(self, scan: Path, folder: Path, **params: Any) -> Any:
        arguments = {"file": str(scan), "folder": str(folder), "params": params}
        told: list[tuple[str, float]] = []
        answer = self.wait(
            lambda done, failed: self.calls.begin(
                ENGINE, "infer", arguments, done=done, failed=failed, progress=lambda *each: told.append(each)
            )
        )
        return answer, told

    def versions(self) -> dict[str, str]:
        """Ask the lean Python itself which numpy and pydicom it has."""
        code = "import numpy, pydicom, json; print(json.dumps([numpy.__version__, pydicom.__version__]))"
        return json.loads(subprocess.check_output([self.python, "-c", code], text=True))  # type: ignore[no-any-return]


@pytest.fixture
def desk(stand_in: Any, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A Slicer with a bare Python; pip finds the wheels, and nothing else."""
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "",
    }.items():
        monkeypatch.setenv(name, value)
    desk = Desk(stand_in, tmp_path / "lean")
    yield desk
    desk.calls.close()


# -- what is needed --------------------------------------------------------------------------------------------------


def test_what_is_needed_is_the_base_installation_of_the_library(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {each.specifier for each in engine_needs.REQUIREMENTS}
    assert {each for each in project["dependencies"] if each.split(">")[0] not in COMMAND_LINE} == needed
    oldest = re.search(r">=3\.(\d+)", project["requires-python"])
    assert oldest and (3, int(oldest[1])) == engine_needs.OLDEST_PYTHON


def test_the_models_are_told_without_running_anything() -> None:
    """Before PyTorch is there, the panel shows them already."""
    package = engine_needs.library()
    assert package is not None
    models = engine_needs.models_of(package)
    assert models[0]["name"] == DEFAULT_MODEL == engine_needs.DEFAULT_MODEL
    assert {model["name"] for model in models} == set(packaged_models())
    for model in models:
        assert model["card"] == load_model(packaged_models()[model["name"]]).card.model_dump(mode="json")


def test_a_damaged_model_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name, content in (("a", b""), ("b", b"\xff" * 40), ("c", b"\x02" + bytes(7) + b"{}")):
        (tmp_path / "models" / f"{name}.safetensors").write_bytes(content)
    models = engine_needs.models_of(tmp_path)
    assert [model["card"] for model in models] == [None] * 3
    assert all(f"{model['name']}.safetensors" in model["error"] for model in models)


@pytest.mark.parametrize("place", ["engine of the module", "clone", "site-packages"])
def test_the_library_is_found_where_it_is_shipped(place: str, tmp_path: Path) -> None:
    module = tmp_path / "a" / "srcyc_app" / "slicer" / "SRCyc"
    package = {
        "engine of the module": module / "SRCycLib" / "engine" / "srcyc",
        "clone": tmp_path / "a" / "lib" / "srcyc",
        "site-packages": tmp_path / "a" / "srcyc",
    }[place]
    (module / "SRCycLib").mkdir(parents=True)
    package.mkdir(parents=True)
    (package / "_version.py").write_text('__version__ = "9.8.7"\n')
    (package / "__init__.py").write_text("from srcyc._version import __version__\n")
    for name in ("__init__.py", "engine_needs.py", "engine_pip.py"):
        shutil.copy(MODULE / "SRCycLib" / name, module / "SRCycLib")
    # Something of another kind beside it, which must stay unknown.
    (package.parent / "numpy.py").write_text("raise RuntimeError('imported')\n")
    code = (
        "import sys; from SRCycLib import engine_needs as e; p = e.library(); print(p, e.version_of(p)); e.load(p)\n"
        "import srcyc; print(srcyc.__version__); print(any(str(p.parent) == x for x in sys.path[1:]))"
    )
    said = subprocess.check_output([sys.executable, "-S", "-c", code], cwd=module, text=True)
    assert said.split() == [str(package), "9.8.7", "9.8.7", "False"]


def test_the_library_that_is_installed_is_the_last_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import srcyc

    monkeypatch.setattr(engine_needs, "__file__", str(tmp_path / "SRCycLib" / "engine_needs.py"))
    assert engine_needs.library() == Path(srcyc.__file__).parent
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert engine_needs.library() is None


def test_what_is_missing_or_too_old_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a package without metadata nothing is known; of Slicer's own, that it can be imported is enough."""
    found = {"numpy": "2.1.0", "pydicom": "3.0", "Torch": "2.5.1+cpu", "scipy": "1.14", "nibabel": "5.3"}
    packages = [SimpleNamespace(metadata={"Name": name}, version=version) for name, version in found.items()]
    monkeypatch.setattr(
        engine_needs.importlib.metadata,
        "distributions",
        lambda: [*packages, SimpleNamespace(metadata=None), SimpleNamespace(metadata={"Name": None})],
    )
    monkeypatch.setattr(engine_pip, "unfinished", lambda: {"scipy"})
    seen = engine_needs.look()
    assert seen["old"] == ["torch"]
    assert seen["missing"] == ["scipy", "pydantic", "safetensors"]
    assert set(seen["installed"]) == {"numpy", "pydicom", "torch", "nibabel"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "SimpleITK" in engine_needs.look()["missing"]


@pytest.mark.parametrize("change", [{"missing": ["SimpleITK"]}, {"old": ["numpy"]}])
def test_a_slicer_that_cannot_run_the_engine_is_told_so(
    change: dict[str, Any], library: Callable[[str], ModuleType]
) -> None:
    install = library("engine_install")
    seen = {"installed": {}, "missing": [], "old": []}
    assert install.Needs(seen).complete
    (package,) = next(iter(change.values()))
    with pytest.raises(processes.Problem, match=f"lacks {package}.*use Slicer 5.10 or newer"):
        install.Needs({**seen, **change})


# -- installed -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_installed_on_the_first_use_by_real_pip(
    desk: Desk, scans: Any, tmp_path: Path, tiny_model: Path, command_line: Callable[..., Any]
) -> None:
    """From a bare Python to a result; the same voxels as the command line's."""
    offered = desk.library.info()
    assert offered["options"]["weights"][0] == DEFAULT_MODEL
    needs = desk.check()
    assert not needs.complete
    assert {each.split(">")[0] for each in needs.missing} == set(lean_python.WANTED)
    assert all(name in needs.question for name in lean_python.WANTED)
    before = desk.versions()

    assert desk.install() == ""
    assert desk.check().complete
    assert desk.versions() == before
    assert "torch" in desk.said[0][0] and "torch" in desk.log[0]
    made = sorted(path.name for path in lean_python.site_packages(desk.folder).iterdir())
    assert not [name for name in made if re.match("numpy|pydicom|SimpleITK|simpleitk", name)]
    assert not [name for name in os.environ if name == "PIP_CONSTRAINT"], "set only while pip runs"

    answer, told = desk.infer(
        scans.nrrd, tmp_path, weights=str(tiny_model), device="cpu", target_spacing="isotropic"
    )
    expected, sidecar = command_line(scans.nrrd)
    result = read_volume(Path(answer["volume"]))
    np.testing.assert_array_equal(result.data, expected.data)
    np.testing.assert_allclose(result.affine, expected.affine, atol=1e-6)
    assert answer["report"]["model"] == sidecar["model"]
    assert list(dict.fromkeys(state for state, _ in told)) == ["starting", "reading", "running", "writing"]
    shares = [share for state, share in told if state == "running"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_where_slicers_extension_pytorch_is_its_tool_chooses_the_pytorch(
    desk: Desk, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It alone knows which PyTorch suits the graphics card; here it is one that notes what it is asked for."""
    import slicer

    more = tmp_path / "more"
    shutil.copytree(wheels, more, symlinks=True)
    asked = tmp_path / "asked"
    notes = f"import sys; open({str(asked)!r}, 'a').write(' '.join(sys.argv[1:]))\n"
    runs_pip = f"{notes}from pip._internal.cli.main import main\n"
    files = {
        "light_the_torch/__init__.py": "",
        "light_the_torch/__main__.py": f"{runs_pip}sys.exit(main())\n",
    }
    lean_python.make_wheel(more, "light_the_torch", "0.8", (), files)
    monkeypatch.setenv("PIP_FIND_LINKS", str(more))
    monkeypatch.setattr(slicer.modules, "pytorchutils", object(), raising=False)
    before = desk.versions()
    assert desk.install() == ""
    assert asked.read_text() == "install torch>=2.6"
    assert desk.versions() == before


_STANDS_STILL = """
import sys, time
def hook(event, arguments):
    if event == "open" and "torch-" in str(arguments[0]) and "INSTALLER" in str(arguments[0]) and arguments[2] & 3:
        open({there!r}, "w").close()
        time.sleep(600)
sys.addaudithook(hook)
"""


@pytest.mark.slow
def test_an_installation_is_cancelled_and_mended(desk: Desk, wheels: Path, tmp_path: Path) -> None:
    """In the midst of PyTorch's files, when pip takes it for installed already: the next one does not."""
    (torch,) = wheels.glob("torch-*.whl")
    site, there = lean_python.site_packages(desk.folder), tmp_path / "there"
    metadata = site / f"torch-{torch.name.split('-')[1]}.dist-info" / "METADATA"
    # Read by every Python of it: pip stands still where it would write that PyTorch is whole.
    (site / "stands_still.pth").write_text("import stands_still\n")
    (site / "stands_still.py").write_text(_STANDS_STILL.format(there=str(there)))
    told: list[str] = []
    installation = desk.begin(lambda: told.append("done"), told.append)
    until(desk, there.exists)
    (pip,) = (p for p in _workers() if p.name() not in ("sh", "PythonSlicer"))
    # As another Slicer would: it takes nothing of the first one's for left over.
    assert "Another Slicer" in desk.install() and metadata.exists()
    second = a_second()
    begun = time.monotonic()
    installation.cancel()
    temporary = Path(desk.session.app.temporaryPath)
    until(desk, lambda: has_ended(pip) and not list(temporary.iterdir()))
    assert time.monotonic() - begun < second
    assert metadata.exists() and not metadata.with_name("INSTALLER").exists()
    assert told == []

    (site / "stands_still.pth").unlink()
    assert "torch" in " ".join(desk.check().missing)
    assert desk.install() == ""
    assert desk.check().complete
    assert metadata.with_name("INSTALLER").is_file()


def test_offline(desk: Desk, monkeypatch: pytest.MonkeyPatch, new_port: Callable[[], int]) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{new_port()}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    # Without another try pip does not even say that nobody answers.
    assert "internet" in desk.install()
    assert "torch" in desk.log[-1]
    assert not desk.check().complete


def test_nothing_of_slicers_is_replaced(
    desk: Desk, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that wants another numpy is not installed, though that numpy is to be had."""
    greedy = tmp_path / "greedy"
    shutil.copytree(wheels, greedy, symlinks=True)
    for wheel in greedy.glob("scipy-*.whl"):
        wheel.unlink()
    lean_python.make_wheel(greedy, "scipy", "1.99", ("numpy>=99",))
    lean_python.make_wheel(greedy, "numpy", "99.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(greedy))
    before = desk.versions()
    assert "no packages that fit" in desk.install()
    assert desk.versions() == before


def test_what_was_replaced_all_the_same_is_told(library: Callable[[str], ModuleType]) -> None:
    install = library("engine_install")

    def needs(**more: Any) -> Any:
        return install.Needs({"installed": {}, "missing": [], "old": [], **more})

    before = needs(installed={"numpy": "2.0.2", "nibabel": "4.0"}, missing=["torch"], old=["nibabel"])
    kept = {"numpy": "2.0.2", "nibabel": "5.4"}
    assert install.wrong_after(before, needs(installed={**kept, "torch": "2.9"})) == ""
    replaced = install.wrong_after(before, needs(installed={**kept, "numpy": "2.5.0", "torch": "2.9"}))
    assert "changed numpy" in replaced and "restart Slicer" in replaced
    assert "torch>=2.6 could not" in install.wrong_after(before, needs(installed=kept, missing=["torch"]))


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ("disk is full", "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"),
        ("cannot be written", "ERROR: Could not install packages: [WinError 5] Access is denied: 'c:\\\\x'"),
        ("internet", "WARNING: Retrying ... [Errno 11001] getaddrinfo failed\nERROR: No matching distribution"),
        ("internet", "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate"),
        ("no packages that fit", "ERROR: Could not find a version that satisfies the requirement torch>=2.6"),
        ("", "something else"),
    ],
)  # fmt: skip
def test_what_pip_says_becomes_a_sentence_with_a_remedy(
    says: str, said: str, library: Callable[[str], ModuleType]
) -> None:
    sentence = library("engine_install").understood(said)
    assert says in sentence if says else not sentence
    assert said not in sentence


def test_pips_progress_is_passed_on() -> None:
    told: list[tuple[str, float]] = []
    listener = engine_pip._Listener(lambda *each: told.append(each))
    listener.write(
        "Collecting torch>=2.6\n  Downloading https://x/torch-2.9.0-cp312-cp312-win_amd64.whl (1 MB)\nProgr"
    )
    listener.write("ess 50 of 200\n")
    assert [share for _, share in told] == [0.0, 0.0, 0.25]
    assert "torch-2.9.0" in told[-1][0]
    assert "Downloading" in "".join(listener.lines) and "Progress" not in "".join(listener.lines)


def test_pip_runs_with_its_settings_after_what_the_last_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, and a program of ours as pip: that what it has not finished is gone again, before and after."""
    site = tmp_path / "site"
    for name, installer in (("torch-2.9", True), ("left-1", False), ("~orch-2.8", True)):
        (site / f"{name}.dist-info").mkdir(parents=True)
        if installer:
            (site / f"{name}.dist-info" / "INSTALLER").write_text("pip")
    (site / "srcyc-installing.json").write_text('["torch-2.9.dist-info"]')
    (tmp_path / "likepip.py").write_text(
        "import os, sys\nprint('Collecting', *sys.argv[1:], os.environ['PIP_NO_INPUT'])\n"
        f"os.mkdir({str(site / 'half-1.dist-info')!r})\nsys.exit(int(sys.argv[1]))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(engine_pip.sysconfig, "get_path", lambda name: str(site))
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setenv("PIP_NO_INPUT", "0")
    assert engine_pip.unfinished() == {"left", "~orch"}
    told: list[Any] = []
    for code in (0, 3):
        answer = engine_pip.run(
            "likepip", [str(code)], {"PIP_NO_INPUT": "1"}, lambda *each: told.append(each)
        )
        assert answer == {"code": code, "said": f"Collecting {code} 1"}
        assert told.pop() == (f"Collecting {code} 1", 0.0)
        left = {path.name for path in site.iterdir()}
        assert left == {"srcyc-installing.lock", "torch-2.9.dist-info"}
    shutil.rmtree(site)
    assert engine_pip.run("likepip", ["0"], {}, pytest.fail)["code"] == 1, "the folder cannot be written"


def test_how_pip_is_asked_depends_on_what_there_is(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    install = importlib.import_module("SRCycLib.engine_install")
    monkeypatch.setattr(slicer.modules, "pytorchutils", object(), raising=False)
    seen = {"missing": ["torch"], "old": []}
    folder = Path(stand_in.app.temporaryPath)
    for installed, modules, bar in (
        ({"pip": "24.0"}, ["pip", "light_the_torch"], None),
        ({"pip": "24.1.2", "light-the-torch": "0.8"}, ["light_the_torch"], "raw"),
    ):
        needs = install.Needs({**seen, "installed": installed})
        assert [module for module, _words in install.commands(needs)] == modules
        assert install.settings(needs, folder).get("PIP_PROGRESS_BAR") == bar
    (folder / "constraints.txt").unlink()


# -- at work ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_broken_installation_is_told_with_what_to_do(
    desk: Desk, scans: Any, tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(wheels, broken, symlinks=True)
    for wheel in broken.glob("torch-*.whl"):
        wheel.unlink()
    lean_python.make_wheel(
        broken, "torch", "2.9", (), {"torch/__init__.py": "raise OSError('c10.dll is damaged')\n"}
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(broken))
    assert desk.install() == ""
    sentence, _ = desk.infer(scans.nrrd, tmp_path)
    assert "c10.dll is damaged" in sentence
    assert "PyTorch Utils" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancelled", pytest.param("Slicer closes", marks=pytest.mark.exhaustive)])
def test_cancelled_within_a_second_with_nothing_left(
    how: str, stand_in: Any, patient: Any, tmp_path: Path
) -> None:
    """Also of the child of the launcher, and of the patient's scan."""
    calls = importlib.import_module("SRCycLib.calls").Calls()
    temporary = Path(stand_in.app.temporaryPath)
    shares: list[float] = []
    params = {"weights": str(patient[1]), "device": "cpu", "precision": "fp32", "uncertainty": True}

    def arguments(folder: Path) -> dict[str, Any]:
        return {"file": shutil.copy(patient[0], folder), "folder": str(folder), "params": params}

    call = calls.begin(
        ENGINE,
        "infer",
        arguments,
        done=pytest.fail,
        failed=pytest.fail,
        progress=lambda state, share: shares.append(share if state == "running" else 0.0),
    )
    end = time.monotonic() + PATIENCE
    while not (shares and shares[-1] > 0) and time.monotonic() < end:
        stand_in.process_events()
        time.sleep(0.01)
    assert shares[-1] > 0, "it does not compute"
    workers = _workers()
    assert len(workers) == 2, "a launcher and its child"
    second = a_second()
    begin = time.monotonic()
    if how == "cancelled":
        call.cancel()
        while [*temporary.iterdir(), *(each for each in workers if not has_ended(each))]:
            assert time.monotonic() < begin + PATIENCE
            stand_in.process_events()
    else:
        calls.close()
    assert time.monotonic() - begin < second
    assert all(map(has_ended, workers))
    assert not list(temporary.iterdir())


def a_second() -> float:
    """Give a second; on a machine whose processors are all taken it is not what it is elsewhere."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    return max(1.0, 20 * (time.monotonic() - begun))


def until(desk: Desk, happened: Callable[[], Any]) -> None:
    """Let Slicer run until something is so."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it does not come"
        desk.session.process_events()


def _workers() -> list[psutil.Process]:
    """List the processes of requests, launchers and their children."""
    children = psutil.Process().children(recursive=True)
    found = []
    for each in children:
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "engine_worker" in " ".join(each.cmdline()):
                found.append(each)
    return found


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"target_spacing": "-1"}, "Target spacing"),
        ({"weights": "no such model"}, "no such model"),
        ({"device": "cuda:77"}, "cuda:77"),
    ],
)
def test_a_refusal_names_the_panels_labels(
    params: dict[str, Any], says: str, scans: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process: what is said is the point here."""
    from SRCycLib import engine_worker

    arguments = {"file": str(scans.nrrd), "folder": str(tmp_path), "params": params}
    with pytest.raises(processes.Problem) as problem:
        engine_worker._meet({"action": "infer", "arguments": arguments}, lambda told: None)
    sentence = str(problem.value)
    assert says in sentence
    assert "--" not in sentence
    assert "_" not in sentence.replace(str(scans.nrrd), "")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "too little memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "too little memory"),
        (OSError(28, "No space left on device", "a.nrrd"), "a.nrrd: No space left on device; check the disk"),
        (OSError("no such thing"), "no such thing; check the disk"),
        (KeyError("x"), "unexpectedly (KeyError)"),
        (ImportError("DLL load failed"), "not complete (DLL load failed)"),
        (ModuleNotFoundError("No module named 'srcyc.inference'", name="srcyc.inference"), "is not the one"),
        (None, "srcyc is not beside this module"),
    ],
)
def test_whatever_fails_is_a_sentence(
    error: Exception | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SRCycLib import engine_worker

    def load(package: Path) -> None:
        assert error is not None
        raise error

    if isinstance(error, ImportError):
        monkeypatch.setattr(engine_needs, "load", load)
    elif error is None:
        monkeypatch.setattr(engine_needs, "library", lambda: None)
    else:
        monkeypatch.setattr(engine_worker, "_library", lambda: load(tmp_path))
    said: list[dict[str, Any]] = []
    request = {"action": "infer", "arguments": {"file": "a.nrrd", "folder": str(tmp_path), "params": {}}}
    with pytest.raises(Exception) as raised:
        engine_worker._meet(request, said.append)
    assert said == [{"progress": {"state": "starting", "share": 0.0}}]
    known = isinstance(raised.value, processes.Problem)
    assert says in (str(raised.value) if known else processes._unexpected(raised.value))


def test_a_library_of_another_series_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was installed long ago, say: what it would do nobody knows."""
    from SRCycLib import engine_worker

    (tmp_path / "_version.py").write_text('__version__ = "0.0.9"\n')
    monkeypatch.setattr(engine_needs, "library", lambda: tmp_path)
    arguments = {"file": "a.nrrd", "folder": str(tmp_path), "params": {}}
    with pytest.raises(processes.Problem, match=r"0\.0\.9.*install the extension again"):
        engine_worker._meet({"action": "infer", "arguments": arguments}, lambda told: None)


def test_time_that_remains(library: Callable[[str], ModuleType]) -> None:
    now = [100.0]
    remaining = library("widgets").Remaining(clock=lambda: now[0])
    assert remaining.seconds(0.05) is None
    now[0] += 10
    assert remaining.seconds(0.06) is None, "too early to promise anything"
    assert remaining.seconds(0.25) == pytest.approx(10 / 0.2 * 0.75)
    now[0] += 30
    assert remaining.seconds(1.0) == 0.0
