from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from srcyc.config import TrainingConfig
from srcyc.data.domains import AssignedScan, Domain
from srcyc.data.gathering import TrainingSet
from srcyc.errors import ConfigError, DataError, ModelError, OutputError
from srcyc.training.folder import Plan, RunFolder


def scans(folder: Path) -> TrainingSet:
    def scan(
        name: str, domain: Domain, spacing: tuple[float, float, float] | None = (1, 1, 2.5)
    ) -> AssignedScan:
        return AssignedScan(folder / name, domain, "given as such", name[:1], spacing)

    lr, hr = scan("a-lr.nii", Domain.LR), scan("a-hr.nii", Domain.HR)
    return TrainingSet(
        lr=[lr],
        hr=[hr],
        validation_hr=[scan("ü.nii", Domain.HR)],
        validation_lr=[],
        left_out=[scan("c.nii", Domain.NEITHER, None)],
        pairs=[(lr, hr)],
    )


@pytest.fixture
def begun(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.write(Plan(TrainingConfig(steps=7), scans(tmp_path), None))
    return run


def test_a_run_is_taken_up_from_its_folder_alone(begun: RunFolder, tmp_path: Path) -> None:
    assert RunFolder(begun.path).read() == Plan(TrainingConfig(steps=7), scans(tmp_path), None)
    assert begun.holds_a_run


def test_paths_are_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("run"))
    run.write(Plan(TrainingConfig(), scans(Path()), None))
    monkeypatch.chdir("/")
    assert RunFolder(tmp_path / "run").read().scans == scans(tmp_path.resolve())


def test_what_cannot_be_read_is_named(begun: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="elsewhere: no run to resume"):
        RunFolder(tmp_path / "elsewhere").read()
    whole = begun.scans.read_text()
    for damage in ("", whole[:50], "[]", '{"lr": [{}]}', whole.replace('"HR"', '"XR"')):
        begun.scans.write_text(damage)
        with pytest.raises(DataError, match=r"scans\.json: the list of scans cannot be read"):
            begun.read()
    begun.config.write_text("steps: [")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        begun.read()


HOLD = """
import os, sys, time
from pathlib import Path
from srcyc.training.folder import RunFolder
with RunFolder(Path(sys.argv[1])).claimed():
    child = os.fork()  # as a loader process, which may outlive the trainer by seconds
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes fork on POSIX only")
def test_a_folder_belongs_to_one_process_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(OutputError, match="another process is training here"), run.claimed():
            pass
        holder.kill()
        holder.wait()
        with run.claimed():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.communicate()


def test_claiming_removes_what_a_killed_run_left_unfinished(begun: RunFolder) -> None:
    begun.store.folder.mkdir()
    unfinished = [
        begun.path / ".model.safetensors.01234567.part",
        begun.store.folder / ".key.npy.01234567.part",
        begun.path / "report" / ".curves.png.01234567.part",
    ]
    for path in unfinished:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    with begun.claimed():
        assert not any(path.exists() for path in unfinished)
    assert begun.holds_a_run


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OutputError, match=r"file: cannot be written \("),
        RunFolder(tmp_path / "file").claimed(),
    ):
        pass


def test_no_trace_is_left_of_what_never_began_and_nothing_else_is_touched(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.claimed():
        run.store.folder.mkdir()
        (run.store.folder / "key.npy").write_bytes(b"voxels")
        run.remove_if_nothing_began()
    assert not run.path.exists()
    other = RunFolder(tmp_path / "used")
    other.path.mkdir()
    (other.path / "notes.txt").write_text("mine")
    with other.claimed():
        other.remove_if_nothing_began()
    assert [path.name for path in other.path.iterdir()] == ["notes.txt"]


def test_a_mistake_before_the_run_begins_leaves_no_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ConfigError), run.claimed():
        raise ConfigError("a wrong setting")
    assert not run.path.exists()


def test_a_run_that_began_is_not_removed(begun: RunFolder) -> None:
    begun.store.folder.mkdir()
    begun.remove_if_nothing_began()
    assert begun.store.folder.exists()
    begun.remove_prepared_scans()
    assert not begun.store.folder.exists()
    assert begun.holds_a_run
