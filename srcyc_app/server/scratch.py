"""The server's own temporary folder: it goes with the server, or, if that was killed, when the next one starts."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from srcyc_app.studies.holders import held, left_behind

_PREFIX = "srcyc-server-"


class Scratch:
    """A folder that only this process uses.

    Attributes:
        folder: exists until :meth:`close`.
    """

    def __init__(self) -> None:
        remove_leftovers(Path(tempfile.gettempdir()))
        self.folder = Path(tempfile.mkdtemp(prefix=held(_PREFIX)))

    def remove(self, folder: Path) -> None:
        """Remove a folder with all that is in it."""
        shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def room(self) -> Iterator[Path]:
        """Give a folder that is removed with all that is in it at the end of the block."""
        with self.kept() as folder:
            yield folder
            self.remove(folder)

    @contextmanager
    def kept(self) -> Iterator[Path]:
        """Give a folder that stays at the end of the block, unless that fails; whoever asked removes it."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield folder
        except BaseException:
            self.remove(folder)
            raise

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_leftovers(place: Path) -> None:
    """Remove what servers of this user that were killed left behind; those that live keep theirs."""
    for path, _ in left_behind(place, _PREFIX):
        # Another server that starts may have removed it meanwhile.
        with suppress(OSError):
            if _is_ours(path):
                shutil.rmtree(path)


def _is_ours(path: Path) -> bool:
    """The temporary folder is everybody's: a link, or another user's folder, is left alone."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())
