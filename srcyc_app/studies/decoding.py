"""Files of strangers decoded in processes of their own: what one claims may end its process, never the server.

One process has the readers loaded and forks for each file; the fork's memory and time are limited. So a file costs
some milliseconds more than read in place. Where Python cannot fork, files are read in place.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil

import srcyc.errors
from srcyc.errors import ModelError, OutputError, SRCycError, VolumeError
from srcyc.memory import available_memory
from srcyc.volumes.dicom import files_of, list_series
from srcyc.volumes.formats.raw import Orientation, Scaling
from srcyc.volumes.geometry import Grid
from srcyc.volumes.volume import Volume, read_grid, read_volume, write_volume

#: Bytes for a header, whatever it says.
_HEADER_MEMORY = 512_000_000
#: Bytes that decoding takes per voxel at most: eight as stored, twice that where the header scales, then float32.
_BYTES_PER_VOXEL = 40
#: Share of the free memory that decoding one file may take.
_SHARE = 0.6
#: Bytes for PyTorch, and for a model per byte of its file.
_MODEL_MEMORY, _MODEL_FACTOR = 4_000_000_000, 6
#: Largest model file that a client may send: ours have some 10 MB.
LARGEST_MODEL = 500_000_000
#: Seconds of a processor that a header, a volume and a model may take, and seconds of waiting in all.
_SECONDS = {"grid": 20, "tree": 600, "files": 120, "volume": 120, "check": 120, "nifti": 240, "model": 60}
_PATIENCE = 600

#: Voxel types that are sent as they are; float32, as which scans are read, holds every value of theirs.
_KEPT = frozenset(np.dtype(name) for name in ("int8", "uint8", "int16", "uint16"))

#: What is told besides plain values.
_PARTS: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in (Volume, Grid, Orientation, Scaling)}
#: Values of an array that is told in the reply itself; a larger one becomes a file.
_FEW = 64

#: What a process says first.
_BEGUN = b"+"
#: Of what ended its process.
_GREEDY = "reading it took more memory or time than a file of its kind and size does"

T = TypeVar("T")


class Reading:
    """Reads files in this process: for files of one's own. All methods raise what the library's functions raise."""

    def prepare(self) -> None:
        """Have the readers loaded while other things go on."""

    def volume(
        self,
        path: Path,
        folder: Path | None = None,
        *,
        series: str | None = None,
        fill_gaps: bool = False,
    ) -> Volume:
        """Read a volume; ``folder`` is where temporary files may lie, the others are :func:`read_volume`'s."""
        return read_volume(path, series=series, fill_gaps=fill_gaps)

    def grid(self, path: Path) -> Grid:
        """Read a volume's place from its header."""
        return read_grid(path)

    def tree(self, folder: Path) -> dict[str, Grid | VolumeError]:
        """List the DICOM series at and below a folder: address below it ("": itself) -> place, or why it has none."""
        listing = list_series(folder)
        found: dict[str, Grid | VolumeError] = {}
        for series in listing.series:
            try:
                found[_below(series.address, folder)] = read_grid(folder, series=series)
            except VolumeError as error:
                found[_below(series.address, folder)] = error
        for place, problem in listing.broken.items():
            found.setdefault(_below(place, folder), problem)
        return found

    def files(self, path: Path) -> list[Path]:
        """List the files of a DICOM series."""
        return list(files_of(path))

    def check(self, path: Path) -> Grid:
        """Read a volume completely, and give its place."""
        return read_volume(path).grid

    def nifti(self, path: Path, target: Path) -> None:
        """Write a volume as NIfTI, integers as they are."""
        scan = read_volume(path)
        write_volume(scan, target, dtype=scan.stored_dtype if scan.stored_dtype in _KEPT else np.float32)

    def model(self, path: Path) -> None:
        """Load a model file completely."""
        from srcyc.models.model_file import load_model

        load_model(path)


class Apart(Reading):
    """Reads in other processes: for files of strangers.

    Args:
        most_voxels: that a volume may have.
    """

    def __init__(self, most_voxels: int) -> None:
        self._most = most_voxels

    def prepare(self) -> None:
        _PROCESS.start()

    def volume(
        self,
        path: Path,
        folder: Path | None = None,
        *,
        series: str | None = None,
        fill_gaps: bool = False,
    ) -> Volume:
        with tempfile.TemporaryDirectory(prefix="srcyc-", dir=folder) as place:
            # On POSIX a mapped file stays readable when its name has gone.
            return self._ask(Reading.volume, path, into=Path(place), series=series, fill_gaps=fill_gaps)

    def grid(self, path: Path) -> Grid:
        return self._ask(Reading.grid, path)

    def tree(self, folder: Path) -> dict[str, Grid | VolumeError]:
        return self._ask(Reading.tree, folder)

    def files(self, path: Path) -> list[Path]:
        return self._ask(Reading.files, path)

    def check(self, path: Path) -> Grid:
        return self._ask(Reading.check, path)

    def nifti(self, path: Path, target: Path) -> None:
        self._ask(Reading.nifti, path, target)

    def model(self, path: Path) -> None:
        size = path.stat().st_size
        if size > LARGEST_MODEL:
            raise ModelError(
                f"{path}: a model of {size / 1e6:.0f} MB", remedy=f"send at most {LARGEST_MODEL / 1e6:.0f} MB"
            )
        self._ask(Reading.model, path, memory=_MODEL_MEMORY + _MODEL_FACTOR * size)

    def _ask(
        self,
        task: Callable[..., T],
        *paths: Path,
        memory: int | None = None,
        into: Path | None = None,
        **choices: Any,
    ) -> T:
        """Have a method of :class:`Reading` called in another process.

        Args:
            task: the method.
            paths: its first arguments.
            memory: bytes that it may take; default: a share of what is free.
            into: folder for large arrays.
            choices: its other arguments, plain ones.
        """
        name = task.__name__
        reply = _PROCESS.ask(
            {
                "task": name,
                "paths": [os.path.abspath(path) for path in paths],
                "choices": choices,
                "into": None if into is None else str(into),
                "most": self._most,
                "memory": memory or int(_SHARE * free_memory()),
                "seconds": _SECONDS[name],
            }
        )
        if reply is None:
            raise _unreadable(name, paths[0], _GREEDY)
        told: T = _meant(reply["told"], into)
        if isinstance(told, SRCycError):
            raise told
        return told


class ReaderError(SRCycError):
    """No file can be read, whatever it holds: the installation or the machine is to blame."""


def reading(most_voxels: int) -> Reading:
    """Give the way to read files of strangers on this system."""
    return Apart(most_voxels) if hasattr(os, "fork") and hasattr(socket, "send_fds") else Reading()


def free_memory() -> int:
    """Give the bytes that may still be taken, by this machine and by the container that a server may run in."""
    free, known = psutil.virtual_memory().available, available_memory()
    return free if known is None else min(free, known)


# -- this side ---------------------------------------------------------------------------------------------------------


class _Process:
    """The process that forks, started when it is first needed; one for all of a program."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._owner = 0

    def start(self) -> None:
        """Start it, without waiting until it is ready."""
        with self._lock:
            self._start()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Have a request met; None if the process that did it ended without a word.

        Raises:
            ReaderError: none could be begun.
        """
        # The second time, because the one that forks may have been killed before it could.
        for _ in range(2):
            with contextlib.suppress(OSError):
                begun, reply = self._ask(request)
                if begun:
                    return reply
        raise ReaderError(
            f"the process that reads files does not run ({_why_not()})",
            remedy="mend the installation, or give the machine more memory",
        )

    def _ask(self, request: Mapping[str, Any]) -> tuple[bool, dict[str, Any] | None]:
        """Give whether somebody took the request on, and the reply."""
        begun = False
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._hand_over(theirs)
            ours.settimeout(_PATIENCE)
            try:
                ours.sendall(json.dumps(request).encode() + b"\n")
                with ours.makefile("rb") as stream:
                    begun = stream.read(len(_BEGUN)) == _BEGUN
                    line = stream.readline()
            except OSError:
                return begun, None
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError:
            return begun, None
        return begun, reply

    def _hand_over(self, connection: socket.socket) -> None:
        with self._lock:
            for attempt in (1, 2):
                control = self._start()
                try:
                    socket.send_fds(control, [b"."], [connection.fileno()])
                    return
                except OSError:
                    # It was killed, perhaps after it had taken another's: another one takes its place.
                    self._forget()
                    if attempt == 2:
                        raise

    def _start(self) -> socket.socket:
        alive = self._process is not None and self._owner == os.getpid() and self._process.poll() is None
        if alive and self._control is not None:
            return self._control
        self._forget()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c"),
                    f"from srcyc_app.studies.decoding import serve; serve({theirs.fileno()})",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for the server; this one ends when the other end of its socket is closed.
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"},
            )
        self._owner = os.getpid()
        return self._control

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None and self._owner == os.getpid():
            # Without its socket it ends at once.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._process = self._control = None


def _why_not() -> str:
    """Tell what Python says when it loads what that process does."""
    command = [sys.executable, "-c", f"import {__name__}"]
    try:
        tried = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    lines = tried.stderr.strip().splitlines()
    return lines[-1][:200] if tried.returncode and lines else f"exit code {tried.returncode}"


_PROCESS = _Process()
atexit.register(_PROCESS._forget)


# -- what one side says to the other -----------------------------------------------------------------------------------


def _told(value: Any, folder: Path | None) -> Any:
    """Say a value in JSON; large arrays go into files of a folder."""
    if isinstance(value, np.ndarray):
        if folder is None or value.size <= _FEW:
            return {"values": value.tolist(), "dtype": value.dtype.str}
        # The other side maps it, and holds in memory only what it looks at.
        name = f"{len(os.listdir(folder))}.npy"
        _save(folder / name, value)
        return {"file": name}
    if isinstance(value, np.dtype):
        return {"dtype": value.str}
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, list | tuple):
        return {"items": [_told(item, folder) for item in value], "tuple": isinstance(value, tuple)}
    if isinstance(value, dict):
        return {"by_name": {name: _told(item, folder) for name, item in value.items()}}
    if isinstance(value, SRCycError):
        return {
            "error": type(value).__name__,
            "fact": value.fact,
            "remedy": value.remedy,
            "options": value.options,
            "errno": value.__cause__.errno if isinstance(value.__cause__, OSError) else None,
        }
    if is_dataclass(value):
        told = {field.name: _told(getattr(value, field.name), folder) for field in fields(value)}
        return {"kind": type(value).__name__, "fields": told}
    return value


def _meant(told: Any, folder: Path | None) -> Any:
    """Give the value that :func:`_told` has said."""
    if not isinstance(told, dict):
        return told
    if "file" in told and folder is not None:
        # Copied when written to, as an array of this process's own.
        return np.load(folder / told["file"], mmap_mode="c", allow_pickle=False)
    if "values" in told:
        return np.array(told["values"], told["dtype"])
    if "dtype" in told:
        return np.dtype(told["dtype"])
    if "path" in told:
        return Path(told["path"])
    if "items" in told:
        items = [_meant(item, folder) for item in told["items"]]
        return tuple(items) if told["tuple"] else items
    if "by_name" in told:
        return {name: _meant(item, folder) for name, item in told["by_name"].items()}
    if "error" in told:
        error = getattr(srcyc.errors, told["error"])(
            told["fact"], remedy=told["remedy"], options=told["options"]
        )
        if told["errno"]:
            error.__cause__ = OSError(told["errno"], os.strerror(told["errno"]))
        return error
    return _PARTS[told["kind"]](**{name: _meant(item, folder) for name, item in told["fields"].items()})


def _save(path: Path, array: np.ndarray) -> None:
    """Write an array.

    Raises:
        OutputError: the disk is full; nothing is left in the array's folder.
    """
    try:
        np.save(path, array, allow_pickle=False)
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        # Of a full disk NumPy says nothing, or not what was wrong.
        number = getattr(error, "errno", None) or errno.ENOSPC
        raise OutputError(
            f"the scan cannot be unpacked on the server ({os.strerror(number)})",
            remedy="free some space there",
        ) from OSError(number, os.strerror(number))


def _unreadable(task: str, path: Path, reason: str) -> SRCycError:
    kind = ModelError if task == "model" else VolumeError
    return kind(f"{path}: {reason}", remedy="check it, or convert it to .nii.gz")


# -- the other side ----------------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork for every connection that comes through a socket, until its other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # NumPy's OpenBLAS takes its memory at its first use, and tries for ever where a limit leaves none.
    np.linalg.inv(np.eye(4))
    with socket.socket(fileno=descriptor) as control:
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            except OSError:
                return
            if not message:
                return
            if not descriptors:
                continue
            if os.fork() == 0:
                control.close()
                try:
                    _answer(descriptors[0])
                finally:
                    os._exit(0)
            os.close(descriptors[0])


def _answer(descriptor: int) -> None:
    """Meet one request, as a process that ends then."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # What decoders write to standard error says what a file said.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # If the machine runs out of memory, this is who goes.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rwb") as stream:
        stream.write(_BEGUN)
        stream.flush()
        request = json.loads(stream.readline())
        stream.write(json.dumps({"told": _met(request)}).encode() + b"\n")


def _met(request: Mapping[str, Any]) -> Any:
    """Do what is asked, within limits, and say what came of it."""
    task, paths = request["task"], [Path(path) for path in request["paths"]]
    into = None if request["into"] is None else Path(request["into"])
    try:
        _limit_time(request["seconds"])
        _limit_memory(min(_HEADER_MEMORY, request["memory"]))
        if task in ("volume", "check", "nifti"):
            _make_room(paths[0], request)
        elif task != "grid":
            # The headers of many files, or a model.
            _limit_memory(request["memory"])
        return _told(getattr(Reading(), task)(*paths, **request["choices"]), into)
    except SRCycError as error:
        return _told(error, None)
    except Exception as error:  # whatever a decoder makes of it, the file is to blame  # noqa: BLE001
        reason = _GREEDY if isinstance(error, MemoryError) else f"cannot be read ({type(error).__name__})"
        problem = _unreadable(task, paths[0], reason)
        problem.__cause__ = error
        return _told(problem, None)


def _limit_time(seconds: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(_PATIENCE)


def _limit_memory(more: int) -> None:
    """Limit what this process may take besides what it has; a limit that it was born with stays."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + more
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    # Not every system knows this limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def _make_room(path: Path, request: Mapping[str, Any]) -> None:
    """Let this process take as much memory as a volume says that it has, if that is not too much.

    Raises:
        VolumeError: it is.
    """
    shape = [int(size) for size in read_grid(path, **request["choices"]).shape]
    voxels = math.prod(shape)
    if voxels > request["most"]:
        raise VolumeError(
            f"{path}: {' x '.join(map(str, shape))} voxels are more than this server takes",
            remedy="crop it, or have the server started with a larger --max-upload",
        )
    _limit_memory(min(_HEADER_MEMORY + _BYTES_PER_VOXEL * voxels, request["memory"]))


def _below(place: Path, folder: Path) -> str:
    return "" if place == folder else place.relative_to(folder).as_posix()
