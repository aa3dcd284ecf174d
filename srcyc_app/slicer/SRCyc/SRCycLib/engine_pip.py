"""pip in a process that may be killed at any moment, and what such an end has left behind.

pip writes a package's metadata before it is done with its files, and takes it for installed ever after. So what was
there is noted before it begins; what is new and incomplete afterwards is no package, and goes before the next try.
So one process at a time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Told a sentence, and a share from 0 to 1.
Progress = Callable[[str, float], None]

#: Beside the packages, while pip runs: names of their metadata before it began.
_NOTE = "srcyc-installing.json"
#: Beside it, and there for good: locked by the process in which pip runs.
_LOCK = "srcyc-installing.lock"
#: What is said where that is another one.
BUSY = "Another process installs into this Python."
#: Lines of pip's that are kept to tell what went wrong.
_KEPT = 400


def run(module: str, words: list[str], settings: dict[str, str], progress: Progress) -> dict[str, Any]:
    """Run pip, or what wraps it, in this process; once.

    Args:
        module: ``pip`` or ``light_the_torch``.
        words: its arguments.
        settings: of its environment.
        progress: told how it goes.

    Returns:
        ``code``: 0 if all is installed; ``said``: the end of what it said.
    """
    os.environ.update(settings)
    listener = _Listener(progress)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_alone())
            _mend()
            _note()
        except OSError as error:
            return {"code": 1, "said": str(error)}
        sys.argv = [module, *words]
        code: Any = 0
        try:
            with contextlib.redirect_stdout(listener), contextlib.redirect_stderr(listener):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        _mend()
    return {"code": code, "said": "\n".join(listener.lines)}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock, which the system takes from a process that ends, however it ends.

    Raises:
        OSError: another process has it, or the folder cannot be written.
    """
    with (_places()[0] / _LOCK).open("ab") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise OSError(BUSY) from error
        yield


def unfinished() -> set[str]:
    """Name the packages that an installation has left half done, as their metadata's folders spell them."""
    return {path.name.partition("-")[0] for path in _leftovers() if path.suffix == ".dist-info"}


def _mend() -> None:
    """Remove what is half done, and the note."""
    for path in _leftovers():
        # Files of the package itself are overwritten by the next installation of it.
        shutil.rmtree(path, ignore_errors=True)
    for place in _places():
        (place / _NOTE).unlink(missing_ok=True)


def _note() -> None:
    for place in _places():
        (place / _NOTE).write_text(json.dumps(sorted(path.name for path in _metadata(place))), "utf-8")


def _leftovers() -> list[Path]:
    """List metadata of packages that pip has not finished, and what it had set aside of older ones."""
    found = []
    for place in _places():
        try:
            before = set(json.loads((place / _NOTE).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        new = (path for path in _metadata(place) if path.name not in before)
        # The last file that pip writes but one.
        found += [path for path in new if path.name.startswith("~") or not (path / "INSTALLER").is_file()]
    return found


def _metadata(place: Path) -> list[Path]:
    return [*place.glob("[!~]*.dist-info"), *(path for path in place.glob("~*") if path.is_dir())]


def _places() -> list[Path]:
    """List the folders into which pip installs."""
    return list({Path(sysconfig.get_path(name)): None for name in ("purelib", "platlib")})


class _Listener(io.TextIOBase):
    """Takes the lines that pip prints, and passes on what tells how it goes."""

    def __init__(self, progress: Progress) -> None:
        self.lines: list[str] = []
        self._progress = progress
        self._rest = ""
        self._doing = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._hear(line.strip())
        return len(text)

    def _hear(self, line: str) -> None:
        counted = re.fullmatch(r"Progress (\d+) of (\d+)", line)
        if counted:
            done, size = int(counted[1]), int(counted[2])
            self._progress(self._doing, done / size if size else 0.0)
            return
        if not line:
            return
        self.lines = [*self.lines[-_KEPT:], line]
        doing = re.match(r"(Downloading|Collecting|Installing|Processing) (.+)", line)
        if doing:
            self._doing = f"{doing[1]} {doing[2].rsplit('/', 1)[-1]}"
            self._progress(self._doing, 0.0)
