"""How much memory there is, asked before something large is allocated."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from srcyc.errors import VolumeError

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def available_memory() -> int | None:
    """Give the bytes that this process may still allocate without swapping; None where the system does not tell."""
    known = [amount for amount in (_of_machine(), _of_container()) if amount is not None]
    return min(known, default=None)


def require_memory(needed: int, subject: object) -> None:
    """Refuse what would not fit into memory, before it is tried.

    Args:
        needed: bytes.
        subject: the file, for the sentence.

    Raises:
        VolumeError: there is less.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise VolumeError(
            f"{subject}: its voxels need {_text(needed)} of memory and {_text(available)} are free",
            remedy="crop it or use another machine",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that there was not enough memory, of the machine or of a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # PyTorch's CPU allocator raises a plain RuntimeError.
    text = str(error)
    return isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text)


def _of_machine() -> int | None:
    with contextlib.suppress(OSError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    with contextlib.suppress(OSError, ValueError, AttributeError):  # Windows is not asked
        # All there is: what is free, macOS tells nobody who does not ask its kernel.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_container() -> int | None:
    """Give what is left of the tightest limit of the control groups (version 2) that this process is in."""
    try:
        own = _CGROUP / _OWN_CGROUP.read_text().strip().rpartition("::/")[2]
    except OSError:
        return None
    # A batch system limits the job, and leaves the group of its task unlimited.
    inside = [place for place in (own, *own.parents) if place.is_relative_to(_CGROUP)]
    return min((left for left in map(_left, inside) if left is not None), default=None)


def _left(group: Path) -> int | None:
    """Give what is left of a control group's limit; page cache that can go does not count as used."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        cached = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, ValueError, StopIteration):  # "max": no limit
        return None
    return max(limit - used + cached, 0)


def _text(amount: int) -> str:
    """Spell bytes."""
    return f"{amount / 1e9:.3g} GB" if amount >= 1e8 else f"{amount / 1e6:.3g} MB"
