"""`srcyc` in real processes that begin with everything imported.

A process that trains needs many seconds before it begins: PyTorch, its compiler (which the first optimiser loads),
matplotlib. Here one process loads them, and every other is a fork of it, with a session, streams and signals of its
own as `subprocess.Popen` would have given it. What a process does at its very start, and what a program does that
starts it (`torchrun`, `unshare`), is tested with real starts.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: What a training loads by and by.
MODULES = (
    "srcyc.cli",
    "srcyc.training.run",
    "srcyc.training.report",
    "srcyc.evaluation.figure",
    "torch._dynamo",
)
MODULES += ("torch.utils.tensorboard", "matplotlib.backends.backend_agg", "multiprocessing.popen_fork")

_context: Any = None


def _forks() -> Any:
    """The process that has imported it all; it ends with the tests."""
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload([__name__, *MODULES])
    return _context


def _begin(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    files: tuple[str, str],
    environment: Mapping[str, str],
) -> None:
    """What the fork does."""
    os.setsid()
    # Or its own processes, as loaders are, would be forks of yet another one that knows nothing.
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for file, number in zip(files, (1, 2), strict=True):
        stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(function(*arguments, **options))


def command(arguments: Sequence[str], *, pictures: bool = True, dies: tuple[Any, ...] = ()) -> int:
    """Run `srcyc`, as `python -m srcyc.cli` does.

    Args:
        arguments: of the command line.
        pictures: whether figures are drawn.
        dies: at which named point, as :func:`die_at` takes it.
    """
    from srcyc.cli import main

    if not pictures:
        draw_nothing()
    if dies:
        die_at(*dies)
    return main(arguments)


def train(studies: str, models: str, request: Mapping[str, Any]) -> int:
    """What a server's process does that trains, without the seconds that MONAI Label takes to load."""
    import json
    import logging

    from srcyc_app.models import ModelShelf
    from srcyc_app.studies.datastore import StudiesFolder
    from srcyc_app.trainers.task import UnpairedTraining

    draw_nothing()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    task = UnpairedTraining(Path(models), ModelShelf(Path(models), with_packaged=False), supervised=True)
    said = task(dict(request), StudiesFolder(studies, watch=False))
    sys.stdout.write(json.dumps(said, allow_nan=False) + "\n")
    return 0


def draw_nothing(setattr: Callable[[object, str, object], None] = setattr) -> None:
    """Have figures saved as one pixel: drawing a report takes longer than a tiny training.

    Args:
        setattr: a test's own process gives ``monkeypatch.setattr``.
    """
    from matplotlib.figure import Figure
    from PIL import Image

    def save(self: Figure, target: Any, **options: Any) -> None:
        Image.new("L", (1, 1)).save(target, "png")

    setattr(Figure, "savefig", save)


class Fork:
    """A process like those of `subprocess.Popen`, as far as tests use them.

    Args:
        function: what it does, of a module that can be imported; its result is the exit code.
        arguments: for it, and ``options``.
        environment: all of it; default: this process's.
        joined: whether its errors go where its output goes.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        joined: bool = False,
        **options: Any,
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="fork-"))
        # With the object goes what the process said.
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._out, self._err = folder / "out", folder / "err"
        files = (str(self._out), str(self._out if joined else self._err))
        self.args = arguments
        self._process = _forks().Process(
            target=_begin, args=(function, arguments, options, files, dict(environment or os.environ))
        )
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode  # type: ignore[no-any-return]

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired([str(word) for word in self.args], timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and give what it said."""
        self.wait(timeout)
        return tuple(file.read_text() if file.exists() else "" for file in (self._out, self._err))  # type: ignore[return-value]


# -- faults ------------------------------------------------------------------------------------------------------------

#: Where `srcyc.files.written`, the one place that writes files, can be killed: see :func:`die_at`.
FAULTS = ("half written", "not renamed", "renamed")


def die_at(fault: str, name: str, number: int = 1) -> None:
    """Let this process be killed at a named point of writing the ``number``-th file with ``name`` in its name.

    Half written: only the first half of its bytes has reached the temporary file. Not renamed: all have. Renamed: the
    file stands under its name, and nothing that follows has been done.
    """
    from srcyc import files

    seen = 0

    class Os:
        """`os` as `srcyc.files` sees it."""

        def __getattr__(self, attribute: str) -> Any:
            return getattr(os, attribute)

        def fsync(self, descriptor: int) -> None:
            nonlocal seen
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            seen += name in os.path.basename(path)
            if seen == number and name in os.path.basename(path):
                if fault == "half written":
                    os.truncate(path, os.path.getsize(path) // 2)
                if fault != "renamed":
                    os.kill(os.getpid(), signal.SIGKILL)
            os.fsync(descriptor)

        def replace(self, source: os.PathLike[str], target: os.PathLike[str]) -> None:
            os.replace(source, target)
            if fault == "renamed" and seen == number and name in os.path.basename(target):
                os.kill(os.getpid(), signal.SIGKILL)

    assert fault in FAULTS, fault
    files.os = Os()  # type: ignore[attr-defined]
