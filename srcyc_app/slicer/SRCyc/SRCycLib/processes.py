"""Processes beside Slicer: seen alive, ended, and ending with Slicer. Runs inside Slicer and outside.

PythonSlicer is a launcher, whose child is the Python that works: the process that Slicer has started is not the one
that holds the files open, and the parent of that one is not Slicer. So each says its own number, and is told Slicer's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Seconds between two looks whether a process is still wanted.
LOOK = 0.2
#: What a process ends with that is not wanted any more.
UNWANTED = 3

_SYNCHRONIZE, _TIMEOUT = 0x100000, 0x102


class Watched:
    """A process that may end.

    Args:
        pid: its number.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        if os.name == "nt":
            import ctypes

            # Held from the start: the number may be another process's later.
            self._kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
            self._handle = self._kernel.OpenProcess(_SYNCHRONIZE, False, pid)

    def alive(self) -> bool:
        """Tell whether it runs."""
        if os.name == "nt":
            return bool(self._handle and self._kernel.WaitForSingleObject(self._handle, 0) == _TIMEOUT)
        try:
            os.kill(self._pid, 0)
        except OSError:  # none, or somebody else's by now
            return False
        # One that has ended and whose parent does not care is there, but does not run.
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return True


def kill(pid: int) -> None:
    """End a process at once; none of this number is as good."""
    with contextlib.suppress(OSError):
        # On Windows, SIGTERM ends a process at once, and there is no SIGKILL.
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def end_with(file: Path, pid: int, folders: Sequence[str] = ()) -> None:
    """End this process when a file is removed, or when another process has ended.

    Args:
        file: of the request: without it nobody waits any more.
        pid: Slicer's.
        folders: with a patient's scan; removed here if Slicer has ended and cannot do it.
    """
    slicer = Watched(pid)

    def watch() -> None:
        while file.exists() and slicer.alive():
            time.sleep(LOOK)
        if not slicer.alive():
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        # Not by an exception: another thread may be waiting for an answer, which nothing interrupts.
        os._exit(UNWANTED)

    threading.Thread(target=watch, daemon=True).start()


def console_options() -> dict[str, Any]:
    """Options of `subprocess.Popen` with which no console window opens on Windows, and Ctrl-C stays ours elsewhere."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NO_WINDOW}  # type: ignore[attr-defined,unused-ignore]
    return {"start_new_session": True}
