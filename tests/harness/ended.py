"""Whether a process has ended, asked in a way that does not fail when it ends while it is asked."""

from __future__ import annotations

import psutil


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process is gone, or waits only for its parent to look at how it ended."""
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
