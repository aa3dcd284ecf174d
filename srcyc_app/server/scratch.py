"""The server's own temporary folder: it goes with the server, or, if that was killed, when the next one starts."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_PREFIX = "srcyc-server-"
_NAME = re.compile(re.escape(_PREFIX) + r"(\d+)-(\d+)-.*")
#: Seconds by which the same process's start may seem to move when the clock is set.
_TOLERANCE = 10


class Scratch:
    """A folder that only this process uses.

    Attributes:
        folder: exists until :meth:`close`.
    """

    def __init__(self) -> None:
        remove_leftovers(Path(tempfile.gettempdir()))
        start = int(psutil.Process().create_time())
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-{start}-"))

    def new(self) -> Path:
        """Make a folder in it; whoever asked removes it."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def remove(self, folder: Path) -> None:
        """Remove a folder with all that is in it."""
        shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def room(self) -> Iterator[Path]:
        """Give a folder that is removed with all that is in it at the end of the block."""
        folder = self.new()
        try:
            yield folder
        finally:
            self.remove(folder)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_leftovers(place: Path) -> None:
    """Remove what servers of this user that were killed left behind; those that live keep theirs."""
    for path in place.glob(f"{_PREFIX}*"):
        match = _NAME.fullmatch(path.name)
        if match and _is_ours(path) and not _lives(int(match[1]), int(match[2])):
            shutil.rmtree(path, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    """The temporary folder is everybody's: a link, or another user's folder, is left alone."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def _lives(pid: int, start: int) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - start) < _TOLERANCE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
