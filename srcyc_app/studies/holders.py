"""Whose something is: processes named so that another one can tell whether they still run, and what the others left."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

#: Seconds by which two readings of a process's start may differ, as the clock is set.
_CLOCK = 10.0


def this_process() -> tuple[int, float]:
    """Give the number of this process, and its start: the next one of that number has another."""
    process = psutil.Process()
    return process.pid, process.create_time()


def runs(pid: int, started: float) -> bool:
    """Tell whether a process still runs, and is not another one of the same number."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < _CLOCK
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False


def held(prefix: str, name: str = "") -> str:
    """Give the name under which this process makes something."""
    pid, started = this_process()
    return f"{prefix}{pid}-{int(started)}-{name}"


def left_behind(folder: Path, prefix: str) -> list[tuple[Path, str]]:
    """List what processes that are gone were making in a folder, each with the name given to :func:`held`."""
    found = re.compile(re.escape(prefix) + r"(\d+)-(\d+)-(.*)", re.DOTALL)
    matches = [(path, found.fullmatch(path.name)) for path in folder.glob(f"{prefix}*")]
    return [(path, match[3]) for path, match in matches if match and not runs(int(match[1]), int(match[2]))]
