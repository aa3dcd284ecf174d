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
from typing import Any, Protocol

import numpy as np
import psutil

import srcyc.errors
from srcyc.errors import ModelError, OutputError, SRCycError, VolumeError
from srcyc.volumes.dicom import files_of, list_series
from srcyc.volumes.geometry import Grid
from srcyc.volumes.image_files import Orientation, Scaling
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


#: What a volume consists of besides plain values.
_PARTS: dict[str, Callable[..., Any]] = {"Orientation": Orientation, "Scaling": Scaling}

#: What a process says first.
_BEGUN = b"+"


class Reading(Protocol):
    """Reads files. All methods raise what the library's functions raise."""

    def volume(
        self,
        path: Path,
        folder: Path | None = None,
        *,
        series: str | None = None,
        fill_gaps: bool = False,
    ) -> Volume:
        """Read a volume; ``folder`` is where temporary files may lie, the others are :func:`read_volume`'s."""

    def grid(self, path: Path) -> Grid:
        """Read a volume's place from its header."""

    def tree(self, folder: Path) -> dict[str, Grid | VolumeError]:
        """List the DICOM series at and below a folder: address below it ("": itself) -> place, or why it has none."""

    def files(self, path: Path) -> list[Path]:
        """List the files of a DICOM series."""

    def check(self, path: Path) -> Grid:
        """Read a volume completely, and give its place."""

    def nifti(self, path: Path, target: Path) -> None:
        """Write a volume as NIfTI, integers as they are."""

    def model(self, path: Path) -> None:
        """Load a model file completely."""


class InPlace:
    """Reads in this process: for files of one's own."""

    def volume(
        self,
        path: Path,
        folder: Path | None = None,
        *,
        series: str | None = None,
        fill_gaps: bool = False,
    ) -> Volume:
        return read_volume(path, series=series, fill_gaps=fill_gaps)

    def grid(self, path: Path) -> Grid:
        return read_grid(path)

    def tree(self, folder: Path) -> dict[str, Grid | VolumeError]:
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
        return list(files_of(path))

    def check(self, path: Path) -> Grid:
        return read_volume(path).grid

    def nifti(self, path: Path, target: Path) -> None:
        scan = read_volume(path)
        write_volume(scan, target, dtype=scan.stored_dtype if scan.stored_dtype in _KEPT else np.float32)

    def model(self, path: Path) -> None:
        from srcyc.models.model_file import load_model

        load_model(path)


class Apart:
    """Reads in other processes: for files of strangers.

    Args:
        most_voxels: that a volume may have.
    """

    def __init__(self, most_voxels: int) -> None:
        self._most = most_voxels

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
            told = self._ask("volume", path, target=place, series=series, fill_gaps=fill_gaps)
            return _volume_of(told, Path(place))

    def grid(self, path: Path) -> Grid:
        return _grid_of(self._ask("grid", path))

    def tree(self, folder: Path) -> dict[str, Grid | VolumeError]:
        told: dict[str, dict[str, Any]] = self._ask("tree", folder)
        return {
            name: VolumeError(one["fact"], remedy=one["remedy"]) if "fact" in one else _grid_of(one)
            for name, one in told.items()
        }

    def files(self, path: Path) -> list[Path]:
        return [Path(file) for file in self._ask("files", path)]

    def check(self, path: Path) -> Grid:
        return _grid_of(self._ask("check", path))

    def nifti(self, path: Path, target: Path) -> None:
        self._ask("nifti", path, target=str(target))

    def model(self, path: Path) -> None:
        size = path.stat().st_size
        if size > LARGEST_MODEL:
            raise ModelError(
                f"{path}: a model of {size / 1e6:.0f} MB", remedy=f"send at most {LARGEST_MODEL / 1e6:.0f} MB"
            )
        memory = _MODEL_MEMORY + _MODEL_FACTOR * size
        self._ask("model", path, memory=memory)

    def _ask(self, task: str, path: Path, *, memory: int | None = None, **more: Any) -> Any:
        request = {
            "task": task,
            "path": os.path.abspath(path),
            "most": self._most,
            "memory": memory or int(_SHARE * psutil.virtual_memory().available),
            "seconds": _SECONDS[task],
            **more,
        }
        reply = _PROCESS.ask(request)
        if reply is None:
            kind = ModelError if task == "model" else VolumeError
            raise kind(
                f"{path}: reading it took more memory or time than a file of its kind and size does",
                remedy="check it, or convert it to .nii.gz",
            )
        if "error" in reply:
            raise _error_of(reply, path, task)
        return reply["value"]


class ReaderError(SRCycError):
    """No file can be read, whatever it holds: the installation or the machine is to blame."""


def reading(most_voxels: int) -> Reading:
    """Give the way to read files of strangers on this system."""
    return Apart(most_voxels) if hasattr(os, "fork") and hasattr(socket, "send_fds") else InPlace()


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


def prepare() -> None:
    """Have the readers that work apart loaded while other things go on."""
    _PROCESS.start()


def _error_of(reply: Mapping[str, Any], path: Path, task: str) -> SRCycError:
    kind = getattr(srcyc.errors, reply["error"], None)
    if not (isinstance(kind, type) and issubclass(kind, SRCycError)):
        kind = ModelError if task == "model" else VolumeError
    error: SRCycError = kind(reply["fact"], remedy=reply["remedy"], options=reply["options"])
    if reply["errno"]:
        error.__cause__ = OSError(reply["errno"], os.strerror(reply["errno"]))
    return error


def _grid_of(value: Mapping[str, Any]) -> Grid:
    return Grid(tuple(value["shape"]), np.array(value["affine"], np.float64))


def _volume_of(told: Mapping[str, Any], folder: Path) -> Volume:
    return Volume(**{name: _meant(value, folder) for name, value in told.items()})


def _meant(told: Mapping[str, Any], folder: Path) -> Any:
    """Give the value that :func:`_told` has said."""
    if "array" in told:
        # Copied when written to, as an array of this process's own.
        return np.load(folder / f"{told['array']}.npy", mmap_mode="c", allow_pickle=False)
    if "dtype" in told:
        return np.dtype(told["dtype"])
    if "path" in told:
        return Path(told["path"])
    if "tuple" in told:
        return tuple(_meant(part, folder) for part in told["tuple"])
    if "fields" in told:
        return _PARTS[told["kind"]](**{name: _meant(value, folder) for name, value in told["fields"].items()})
    return told["plain"]


# -- the other side ----------------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork for every connection that comes through a socket, until its other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
        try:
            _limit_time(request["seconds"])
            _limit_memory(min(_HEADER_MEMORY, request["memory"]))
            reply = {"value": _TASKS[request["task"]](request)}
        except Exception as error:  # whatever a decoder makes of it, the file is to blame  # noqa: BLE001
            reply = _reply_of(error, request["path"])
        stream.write(json.dumps(reply).encode() + b"\n")


def _reply_of(error: Exception, path: str) -> dict[str, Any]:
    if isinstance(error, SRCycError):
        number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
        return {
            "error": type(error).__name__,
            "fact": error.fact,
            "remedy": error.remedy,
            "options": error.options,
            "errno": number,
        }
    if isinstance(error, MemoryError):
        fact = f"{path}: reading it took more memory than a file of its kind and size does"
    else:
        fact = f"{path}: cannot be read ({type(error).__name__})"
    return {
        "error": "",
        "fact": fact,
        "remedy": "check it, or convert it to .nii.gz",
        "options": (),
        "errno": error.errno if isinstance(error, OSError) else None,
    }


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


def _header(request: Mapping[str, Any]) -> Grid:
    """Read where a volume is, and make room for as much as it says that it has, if that is not too much.

    Raises:
        VolumeError: it is.
    """
    grid = read_grid(request["path"], **_choice(request))
    voxels = math.prod(map(int, grid.shape))
    if voxels > request["most"]:
        shape = " x ".join(map(str, grid.shape))
        raise VolumeError(
            f"{request['path']}: {shape} voxels are more than this server takes",
            remedy="crop it, or have the server started with a larger --max-upload",
        )
    _limit_memory(min(_HEADER_MEMORY + _BYTES_PER_VOXEL * voxels, request["memory"]))
    return grid


def _grid(request: Mapping[str, Any]) -> dict[str, Any]:
    return _place(read_grid(request["path"]))


def _tree(request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    # Headers of many files.
    _limit_memory(request["memory"])
    found = InPlace().tree(Path(request["path"]))
    return {
        name: {"fact": one.fact, "remedy": one.remedy} if isinstance(one, VolumeError) else _place(one)
        for name, one in found.items()
    }


def _files(request: Mapping[str, Any]) -> list[str]:
    _limit_memory(request["memory"])
    return [str(file) for file in InPlace().files(Path(request["path"]))]


def _below(place: Path, folder: Path) -> str:
    return "" if place == folder else place.relative_to(folder).as_posix()


def _check(request: Mapping[str, Any]) -> dict[str, Any]:
    _header(request)
    return _place(read_volume(request["path"]).grid)


def _place(grid: Grid) -> dict[str, Any]:
    return {"shape": [int(size) for size in grid.shape], "affine": grid.affine.tolist()}


def _volume(request: Mapping[str, Any]) -> dict[str, Any]:
    _header(request)
    scan = read_volume(request["path"], **_choice(request))
    return _told(scan, "", Path(request["target"]))["fields"]


def _choice(request: Mapping[str, Any]) -> dict[str, Any]:
    return {key: request[key] for key in ("series", "fill_gaps") if key in request}


def _told(value: Any, name: str, folder: Path) -> dict[str, Any]:
    """Say a value in JSON; arrays go into files."""
    if isinstance(value, np.ndarray):
        # A file's: the server maps it, and holds in memory only what it looks at.
        _save(folder / f"{name}.npy", value)
        return {"array": name}
    if isinstance(value, np.dtype):
        return {"dtype": value.str}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [_told(part, f"{name}.{number}", folder) for number, part in enumerate(value)]}
    if is_dataclass(value):
        told = {
            field.name: _told(getattr(value, field.name), f"{name}.{field.name}", folder)
            for field in fields(value)
        }
        return {"kind": type(value).__name__, "fields": told}
    return {"plain": value}


def _nifti(request: Mapping[str, Any]) -> None:
    _header(request)
    InPlace().nifti(Path(request["path"]), Path(request["target"]))


def _model(request: Mapping[str, Any]) -> None:
    _limit_memory(request["memory"])
    InPlace().model(Path(request["path"]))


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


_TASKS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "grid": _grid,
    "tree": _tree,
    "files": _files,
    "check": _check,
    "volume": _volume,
    "nifti": _nifti,
    "model": _model,
}
