"""A tiny published model, and the command line run in this process."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import forks
from factories import free_port, make_head, save_people, save_tiny_settings
from srcyc.cli import main
from srcyc.training.checkpoint import load_checkpoint
from srcyc.volumes.volume import Volume, write_volume


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one sentence on stderr; fails if there is not exactly one."""
        assert "Traceback" not in self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith(".\n"), self.err
        return self.err.strip()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Srcyc = Callable[..., Ran]


@pytest.fixture
def srcyc(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Srcyc:
    """Run `srcyc` in this process: ``srcyc("infer", path, "-o", out) -> Ran``."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def thick() -> Volume:
    """A small head with slices four times as thick as wide, 12-bit integers."""
    return make_head()


@pytest.fixture
def thick_file(thick: Volume, tmp_path: Path) -> Path:
    """The same on disk."""
    return write_volume(thick, tmp_path / "scan.nii.gz", dtype=np.int16)


#: Longer than any tiny training takes to start, to end, or to stop.
PATIENCE = 120.0


class Team:
    """The processes of one run, as torchrun would have started them; the first one's folder, all of their words."""

    def __init__(self, count: int, arguments: list[str], environment: dict[str, str]) -> None:
        shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
        shared |= {"MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "test"}
        self.members = [
            forks.Fork(
                *(forks.command, arguments),
                environment={
                    **environment,
                    **{name: str(value) for name, value in shared.items()},
                    **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
                },
                pictures=False,
            )
            for rank in range(count)
        ]
        self.pid = self.members[0].pid

    def poll(self) -> int | None:
        codes = [member.poll() for member in self.members]
        return None if None in codes else max(codes, key=abs)  # type: ignore[type-var]

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        said = [member.communicate(timeout) for member in self.members]
        return "".join(out for out, _ in said), "".join(err for _, err in said)


class Training:
    """`srcyc train` in processes of its own, with one folder.

    Args:
        folder: of the run.
        given: scans and settings.
    """

    def __init__(self, folder: Path, given: Sequence[object]) -> None:
        self.folder = folder
        self.given = given
        self._started: list[Any] = []

    def start(
        self,
        *arguments: object,
        processes: int = 1,
        prefix: Sequence[str] = (),
        real: bool = False,
        **options: Any,
    ) -> Any:
        """Start it, in a process group of its own.

        Args:
            arguments: more than the folder, the scans and the settings.
            processes: how many.
            prefix: a program that starts it, with its arguments.
            real: from the beginning, several processes by torchrun; otherwise as forks of a process that has imported
                everything.
            options: for the forks: see ``forks.command``.
        """
        given = [] if "--resume" in arguments else self.given
        words = ["train", "-o", *map(str, (self.folder, "--device", "cpu", *given, *arguments))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        if real or prefix:
            torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", *(torchrun if processes > 1 else []), "srcyc.cli", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,
                # A test that itself runs in the background ignores Ctrl-C, and its children would too.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        elif processes > 1:
            process = Team(processes, words, environment)
        else:
            process = forks.Fork(
                forks.command, words, environment=environment, **{"pictures": False, **options}
            )
        self._started.append(process)
        return process

    def run(self, *arguments: object, **options: Any) -> Ran:
        """Run it to its end."""
        return self.ended(self.start(*arguments, **options))

    def ended(self, process: Any) -> Ran:
        """Wait for its end."""
        out, err = process.communicate(timeout=PATIENCE)
        return Ran(process.returncode, out, err)

    def waited(self, process: Any, happened: Callable[[], bool]) -> bool:
        """Wait for something, and tell whether the process still ran when it happened."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if happened():
                return process.poll() is None
            if process.poll() is not None:
                return False
            time.sleep(0.01)
        raise TimeoutError(f"{self.folder}: nothing happened in {PATIENCE:g} s")

    def end_all(self) -> None:
        """Leave nothing running."""
        for process in self._started:
            if process.poll() is None:
                for one in getattr(process, "members", [process]):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(one.pid, signal.SIGKILL)
                process.communicate()

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("*.pt"))

    @property
    def saved(self) -> int:
        """The step of the newest checkpoint."""
        return max((int(path.stem.removeprefix("step-")) for path in self.checkpoints), default=0)

    @property
    def last(self) -> dict[str, Any]:
        """What the newest checkpoint holds."""
        return load_checkpoint(self.checkpoints[-1])

    @property
    def history(self) -> list[dict[str, str]]:
        """The rows of history.csv, without the column that tells time."""
        with (self.folder / "history.csv").open() as file:
            return [
                {name: cell for name, cell in row.items() if name != "seconds"}
                for row in csv.DictReader(file)
            ]

    def processes(self) -> list[int]:
        """Those that work for this folder; zombies do not."""
        sessions = {one.pid for process in self._started for one in getattr(process, "members", [process])}
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                # Behind the name, which may hold anything: state, parent, group, session.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                named = os.fsencode(self.folder) in (entry / "cmdline").read_bytes().split(b"\0")
                if state != "Z" and (named or int(session) in sessions):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture(scope="session")
def training_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thin and two thick heads, and the settings of a tiny training."""
    folder = tmp_path_factory.mktemp("training-scans")
    # A loader process of its own, which has to end with its trainer.
    save_tiny_settings(folder / "tiny.yaml", data__workers=1)
    return save_people(folder, in_domains=True)


@pytest.fixture
def training(training_scans: Path, tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """Make a tiny training: ``training("name", "steps=40", "mode=paired") -> Training``."""
    made = []

    def make(name: str, *settings: str, folder: Path | None = None) -> Training:
        given: list[object] = ["--hr", training_scans / "hr", "--config", training_scans / "tiny.yaml"]
        if not any(setting.startswith("mode=") for setting in settings):
            given += ["--lr", training_scans / "lr"]
        given += [word for setting in settings for word in ("--set", setting)]
        made.append(Training(folder or tmp_path / name, given))
        return made[-1]

    yield make
    for one in made:
        one.end_all()


def differences(a: Any, b: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Give where two checkpoints differ, and by how much (tensors) or infinitely."""
    if isinstance(a, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            yield place, float("inf")
        elif not torch.equal(a, b):
            yield place, float((a.double() - b.double()).abs().max())
    elif isinstance(a, dict | list | tuple):
        ours, theirs = (dict(x) if isinstance(x, dict) else dict(enumerate(x)) for x in (a, b))
        if ours.keys() != theirs.keys():
            yield place, float("inf")
        for key in ours.keys() & theirs.keys():
            yield from differences(ours[key], theirs[key], f"{place}/{key}")
    elif a != b and not (a != a and b != b):
        yield place, float("inf")


@pytest.fixture
def differing() -> Callable[..., dict[str, float]]:
    """Compare two checkpoints, the time they took aside: ``differing(a, b, 1e-6) -> {place: difference}``."""

    def compare(a: dict[str, Any], b: dict[str, Any], tolerance: float = 0.0) -> dict[str, float]:
        return {place: by for place, by in differences(a, b) if by > tolerance and place != "/state/seconds"}

    return compare
