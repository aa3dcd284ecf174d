"""Received series on disk: every step is a rename, so a process that is killed loses nothing and does nothing twice.

Below the queue each series has a folder, named by a hash of its UID (nothing in a path or a log names a patient)::

    KEY/scan/HASH.dcm   an instance, there when it is complete, and only then acknowledged
    KEY/result/         the derived series, and `scan`, the digest of what they were made of
    KEY/state.json      what became of the scan of that digest: sent, or refused and why
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from srcyc.documents import known, write_json
from srcyc.errors import ConfigError, OutputError
from srcyc.files import claimed, write_text, written

_DIGITS = 16
_SCAN, _RESULT, _MADE, _STATE = "scan", "result", "made", "state.json"
_DIGEST = "digest"


class Status(str, Enum):
    """What became of a scan."""

    SENT = "sent"
    REFUSED = "refused"


@dataclass(frozen=True)
class Entry:
    """One series of the queue.

    Attributes:
        folder: its own.
    """

    folder: Path

    @property
    def key(self) -> str:
        """What it is called in a log."""
        return self.folder.name

    @property
    def scan(self) -> Path:
        """Folder of its instances."""
        return self.folder / _SCAN

    @property
    def result(self) -> Path:
        """Folder of its derived series, each in one of its own."""
        return self.folder / _RESULT

    @property
    def state(self) -> Path:
        """What became of it."""
        return self.folder / _STATE

    def digest(self) -> str:
        """Tell the instances that there are now from any others."""
        told = [(file.name, file.stat().st_size) for file in sorted(self.scan.glob("*.dcm"))]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def arrived(self) -> float:
        """When the last instance came, as the file system's clock has it."""
        return max((file.stat().st_mtime for file in self.scan.glob("*.dcm")), default=0.0)

    def status(self) -> Status | None:
        """What became of the instances that there are now; None: nothing yet."""
        told = known(self.state)
        if told.get("scan") != self.digest():
            return None
        try:
            return Status(str(told.get("status")))
        except ValueError:
            return None

    def settle(self, digest: str, status: Status, reason: str = "") -> None:
        """Write down what became of the scan of a digest."""
        told = {"scan": digest, "status": status.value, "reason": reason, "at": time.time()}
        write_json(self.state, told)

    def made_of(self) -> str | None:
        """Give the digest of the scan that the result is made of; None: there is no result."""
        try:
            return (self.result / _DIGEST).read_text(encoding="ascii")
        except OSError:
            return None

    def room(self) -> Path:
        """Give an empty folder for a result; :meth:`finish` makes it one."""
        made = self.folder / _MADE
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        return made

    def finish(self, room: Path, digest: str) -> None:
        """Let a complete result take its place."""
        write_text(room / _DIGEST, digest)
        shutil.rmtree(self.result, ignore_errors=True)
        os.replace(room, self.result)

    def settled_at(self) -> float:
        """When it was settled; now, if that cannot be told."""
        at = known(self.state).get("at")
        return float(at) if isinstance(at, int | float) else time.time()


class Queue:
    """The series in a folder, which one process at a time has.

    Args:
        folder: is made; only this user may look into it.
        spare: bytes that have to stay free on its disk.

    Raises:
        ConfigError: another process has it.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path, *, spare: int = 2**30) -> None:
        busy = ConfigError(f"{folder}: another srcyc receives into it", remedy="give another folder")
        # What was being written by a process that was killed was not acknowledged.
        self._claim = ExitStack()
        self._claim.enter_context(claimed(folder, busy, private=True))
        # What was cut off by the end of another process is given time to be sent again.
        self.folder, self._spare, self._began = folder, spare, time.time()

    def close(self) -> None:
        """Let another process have the folder."""
        self._claim.close()

    def put(self, series: str, instance: str, data: bytes) -> Entry:
        """Keep an instance, down to the disk; one that is there already is kept once.

        Args:
            series, instance: UIDs.
            data: the file.

        Raises:
            OutputError: there is no room.
        """
        if shutil.disk_usage(self.folder).free < self._spare + len(data):
            raise OutputError("the disk of the queue is full", remedy="make room on it")
        entry = Entry(self.folder / _hash(series))
        path = entry.scan / f"{_hash(instance)}.dcm"
        if path.is_file() and path.read_bytes() == data:
            return entry
        with written(path) as stream:
            stream.write(data)
        return entry

    def entries(self) -> list[Entry]:
        """List what there is."""
        return [Entry(path.parent) for path in sorted(self.folder.glob(f"*/{_SCAN}"))]

    def due(self, quiet: float, coming: Collection[str] = ()) -> Iterator[Entry]:
        """Give the series of which nothing has become yet, and that are complete.

        Args:
            quiet: seconds for which nothing has come to them.
            coming: keys of those of which more may come at any moment.
        """
        for entry in self.entries():
            if entry.key in coming or max(entry.arrived(), self._began) > time.time() - quiet:
                continue
            if entry.arrived() and entry.status() is None:
                yield entry

    def clear(self, keep: float) -> None:
        """Remove results that were sent, and series that were settled so many seconds ago."""
        for entry in self.entries():
            status = entry.status()
            if status is Status.SENT:
                shutil.rmtree(entry.result, ignore_errors=True)
            if status is not None and entry.settled_at() < time.time() - keep:
                shutil.rmtree(entry.folder, ignore_errors=True)


def _hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:_DIGITS]
