"""`srcyc` and servers in real processes that begin with everything imported.

A process that trains or serves needs many seconds before it begins: PyTorch, its compiler (which the first optimiser
loads), MONAI Label, matplotlib. Here one process loads them, and every other is a fork of it, with a session, streams,
environment and signals of its own as `subprocess.Popen` would have given it. What a process does at its very start, and
what a program does that starts it (`torchrun`, `unshare`, `prlimit`), is tested with real starts.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

#: What a training and a server load by and by. MONAI Label's own web application reads its settings when it is loaded.
MODULES = (
    "srcyc.cli",
    "srcyc.training.run",
    "srcyc.training.watch.report",
    "srcyc.evaluation.figure",
    "torch._dynamo",
)
MODULES += ("torch.utils.tensorboard", "matplotlib.backends.backend_agg", "multiprocessing.popen_fork")
MODULES += ("srcyc_app.app", "srcyc_app.server.launch", "srcyc_app.server.application", "uvicorn")

#: Variable of the environment by which a server's processes are known, also from outside.
MARK = "SRCYC_TEST_SERVER"
_UNMARKED = "0" * 32

#: Of Linux's <sys/prctl.h>.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_context: Any = None


def _forks() -> Any:
    """The process that has imported it all; it ends with the tests."""
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload([__name__, *MODULES])
        # Room for the mark of every fork: see `_put_mark`.
        with _environment({MARK: _UNMARKED}):
            multiprocessing.forkserver.ensure_running()
    return _context


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Any:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _begin(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    files: tuple[str, str],
    environment: Mapping[str, str],
) -> None:
    """What the fork does."""
    os.setsid()
    # If the tests are killed, nothing of theirs is left.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Or its own processes, as loaders are, would be forks of yet another one that knows nothing.
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if MARK in environment:
        _put_mark(environment[MARK])
    for file, number in zip(files, (1, 2), strict=True):
        stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(stream, number)
        os.close(stream)
    _begin_anew(environment)
    sys.exit(function(*arguments, **options))


def _begin_anew(environment: Mapping[str, str]) -> None:
    """Forget what modules remember of another environment."""
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    if "monailabel.config" in sys.modules:
        sys.modules["monailabel.config"].settings.__init__()


#: Where this process's environment, as others see it, has its mark.
_mark_at: int | None = None


def _put_mark(mark: str) -> None:
    """Change the mark in the environment with which this process was born: that is what /proc shows of it."""
    global _mark_at
    if _mark_at is None:
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_void_p
        _mark_at = getenv(MARK.encode())
    assert _mark_at is not None and len(mark) == len(_UNMARKED)
    ctypes.memmove(_mark_at, mark.encode(), len(mark))


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


def program(
    words: Sequence[str],
    folder: str,
    *,
    nursery: bool = False,
    dies: tuple[Any, ...] = (),
    memory: int | None = None,
) -> NoReturn:
    """Be what `python -m` runs, on Linux.

    Args:
        words: the module and its arguments.
        folder: working directory.
        nursery: whether the processes that a server of ours begins for its trainings and batches are forks too.
        dies: at which change of a folder, as :func:`die_at_change` takes it.
        memory: bytes of data that it, and each process of its, may have.
    """
    # What libraries have registered would wait for threads of the process that has imported everything.
    atexit._clear()
    from srcyc_app.studies import decoding

    atexit.register(decoding._PROCESS._forget)
    os.chdir(folder)
    # As it is: the folder is searched for modules.
    sys.path.insert(0, folder)
    if nursery:
        _Nursery.found()
    if dies:
        die_at_change(*dies)
    if memory is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    _run(words)


def _run(words: Sequence[str]) -> NoReturn:
    sys.argv = list(words)
    code: Any = 0
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
    except BaseException:  # noqa: BLE001 - as Python does with whatever comes to the top
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


class _Nursery:
    """Begins processes for a server, which cannot fork itself: it has threads.

    A fork of the server, made before it began, forks each of them; as that one's parent ends at once, Linux gives it to
    the server, as whose child it is watched, signalled and waited for like any other.
    """

    def __init__(self, control: socket.socket, mark: str) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._mark = mark

    @classmethod
    def found(cls) -> None:
        """Found it, and have `srcyc_app.server.processes` begin its processes there."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        ours, theirs = socket.socketpair()
        nursery = cls(ours, os.environ[MARK])
        if os.fork() == 0:
            ours.close()
            nursery._serve(theirs)
        theirs.close()

        class Subprocess:
            """`subprocess` as `srcyc_app.server.processes` sees it."""

            Popen = nursery.begin

            def __getattr__(self, attribute: str) -> Any:
                return getattr(subprocess, attribute)

        from srcyc_app.server import processes

        processes.subprocess = Subprocess()  # type: ignore[attr-defined]

    def begin(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, **options: Any) -> Any:
        """As `subprocess.Popen`, as `srcyc_app.server.processes` calls it."""
        if list(command[:2]) != [sys.executable, "-m"]:
            return subprocess.Popen(command, env=env, cwd=cwd, **options)
        read, write = os.pipe()
        request = {"words": list(command[2:]), "environment": dict(env), "folder": str(cwd)}
        with self._lock:
            socket.send_fds(self._control, [b"."], [write])
            self._control.sendall(json.dumps(request).encode() + b"\n")
            pid = int(_line(self._control))
        os.close(write)
        return _Child(pid, os.fdopen(read, encoding=options["encoding"], errors=options["errors"]))

    def _serve(self, control: socket.socket) -> NoReturn:
        """Be the nursery, until the server is gone. It is no process of the server's."""
        os.setsid()
        _put_mark(_UNMARKED)
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                os._exit(0)
            request = json.loads(_line(control))
            read, write = os.pipe()
            middle = os.fork()
            if middle == 0:
                middle = os.getpid()
                if pid := os.fork():
                    os.write(write, b"%d" % pid)
                    os._exit(0)
                for used in (control.detach(), read, write):
                    os.close(used)
                self._be(request, descriptors[0], middle)
            for used in (write, descriptors[0]):
                os.close(used)
            os.waitpid(middle, 0)
            # From now on it is the server's.
            control.sendall(os.read(read, 20) + b"\n")
            os.close(read)

    def _be(self, request: Mapping[str, Any], output: int, middle: int) -> NoReturn:
        while os.getppid() == middle:
            time.sleep(0.001)
        os.setsid()
        _put_mark(self._mark)
        for number in (1, 2):
            os.dup2(output, number)
        os.close(output)
        _begin_anew(request["environment"])
        os.chdir(request["folder"])
        draw_nothing()
        _run(request["words"])


def _line(connection: socket.socket) -> bytes:
    """Read a line, and not a byte more."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := connection.recv(1)):
            raise EOFError("the nursery has ended")
        line += byte
    return line


class _Child:
    """What `subprocess.Popen` gives, as far as `srcyc_app.server.processes` uses it."""

    def __init__(self, pid: int, stdout: Any) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._ended.set()

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if not self._ended.is_set():
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


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
        output: a file to which both are added.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        joined: bool = False,
        output: Path | None = None,
        **options: Any,
    ) -> None:
        if output is not None:
            self._out = self._err = output
        else:
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


def die_at_change(folder: str, number: int) -> None:
    """Let this process be killed instead of making the ``number``-th change below a folder after a SIGUSR1.

    Changes are all by which names appear, move and go, and what says that a file is complete.
    """
    left: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: left.append(number))

    def is_below(place: Any, directory: Any) -> bool:
        if isinstance(place, int):
            place = os.readlink(f"/proc/self/fd/{place}")
        elif isinstance(directory, int):
            place = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), os.fspath(place))
        return os.path.abspath(os.fspath(place)).startswith(folder)

    def replaced(change: Callable[..., Any]) -> Callable[..., Any]:
        def changing(place: Any, *more: Any, **options: Any) -> Any:
            if left and is_below(place, options.get("dir_fd")):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return change(place, *more, **options)

        return changing

    for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync"):
        setattr(os, name, replaced(getattr(os, name)))
