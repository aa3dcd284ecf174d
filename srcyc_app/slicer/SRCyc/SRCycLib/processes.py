"""Processes beside Slicer: seen alive, ended, ending with Slicer, meeting a request. Runs inside Slicer and outside.

PythonSlicer is a launcher, whose child is the Python that works: the process that Slicer has started is not the one
that holds the files open, and the parent of that one is not Slicer. So each says its own number, and is told Slicer's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds between two looks whether a process is still wanted.
LOOK = 0.2
#: What a process ends with that is not wanted any more.
UNWANTED = 3

#: Takes what is said to Slicer.
Say = Callable[[dict[str, Any]], None]

_SYNCHRONIZE, _TIMEOUT = 0x100000, 0x102


class Problem(Exception):
    """Something that the user is told; its text is one sentence: what is wrong, and what to do."""


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


def end_with(file: Path, pid: int, folder: str = "") -> None:
    """End this process when a file is removed, or when another process has ended.

    Args:
        file: of the request: without it nobody waits any more.
        pid: Slicer's.
        folder: with a patient's scan; removed here if Slicer has ended and cannot do it.
    """
    slicer = Watched(pid)

    def watch() -> None:
        while file.exists() and slicer.alive():
            time.sleep(LOOK)
        if folder and not slicer.alive():
            shutil.rmtree(folder, ignore_errors=True)
        # Not by an exception: another thread may be waiting for an answer, which nothing interrupts.
        os._exit(UNWANTED)

    threading.Thread(target=watch, daemon=True).start()


def answer(file: Path, meet: Callable[[dict[str, Any], Say], Any]) -> int:
    """Meet a request, and say what becomes of it to standard output, one JSON object per line; give the exit code.

    What libraries print goes to standard error.

    Args:
        file: with the request: ``parent`` and ``folder`` of :func:`end_with`, and what is asked for.
        meet: gives the result of a request, or raises a :class:`Problem`; may say something meanwhile, in any thread.
    """
    out, saying = os.fdopen(os.dup(1), "w", encoding="utf-8"), threading.Lock()
    os.dup2(2, 1)

    def say(what: dict[str, Any]) -> None:
        with saying:
            out.write(json.dumps(what) + "\n")
            out.flush()

    say({"pid": os.getpid()})
    try:
        request = json.loads(file.read_text(encoding="utf-8"))
        end_with(file, int(request["parent"]), request.get("folder", ""))
        result = meet(request, say)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets a sentence, and the details go to the log
        if isinstance(error, Problem):
            say({"error": str(error)})
        else:
            say({"error": _unexpected(error), "details": traceback.format_exc()})
        return 1
    say({"result": result})
    return 0


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or " ".join(str(error).split())
        return f"{where}{reason}; check the disk and its permissions, and try once more."
    kind = type(error).__name__
    return f"This failed unexpectedly ({kind}): please report it with the details in the log."


def console_options() -> dict[str, Any]:
    """Options of `subprocess.Popen` with which no console window opens on Windows, and Ctrl-C stays ours elsewhere."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NO_WINDOW}  # type: ignore[attr-defined,unused-ignore]
    return {"start_new_session": True}
