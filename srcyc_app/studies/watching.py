"""Looking at a folder again and again: what lies there, what has settled, and a thread that never dies of it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from srcyc.volumes.image_files import volume_suffix
from srcyc.volumes.volume import is_volume_path
from srcyc_app.studies.identifiers import is_plain_component

_log = logging.getLogger(__name__)

#: Seconds after its last change at which a file counts as complete at first sight.
SETTLED_AGE = 2.0
#: A look may take this share of the time.
_BUSY_SHARE = 0.1

#: Where labels lie: not scans.
LABELS = "labels"


class FolderView:
    """Remembers what was seen in a folder, so that a file that is still being copied is told from a complete one.

    Args:
        folder: the studies folder.
        interval: seconds that two looks must lie apart to show that a file does not grow any more.
    """

    def __init__(self, folder: Path, interval: float) -> None:
        self._folder = folder
        self._interval = interval
        self._seen: dict[str, tuple[str, float]] = {}
        self._are_scans: dict[str, tuple[str, bool]] = {}
        self._warned: set[str] = set()

    def look(self) -> tuple[dict[str, str], set[str]]:
        """List the scans now.

        Returns:
            name -> mark (another content has another one) of every scan, and the names of those that have settled.

        Raises:
            OSError: the folder cannot be listed.
        """
        now, clock = time.monotonic(), time.time()
        scans: dict[str, str] = {}
        settled: set[str] = set()
        seen: dict[str, tuple[str, float]] = {}
        for name, mark, changed in self._entries():
            scans[name] = mark
            before = self._seen.get(name)
            since = before[1] if before is not None and before[0] == mark else now
            seen[name] = mark, since
            if now - since >= self._interval or clock - changed > SETTLED_AGE:
                settled.add(name)
        self._seen = seen
        return scans, settled

    def _entries(self) -> list[tuple[str, str, float]]:
        """Give name, mark and time of the last change of every scan, series first."""
        folders: list[tuple[str, str, float]] = []
        files: list[tuple[str, str, float]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == LABELS:
                    continue
                try:
                    if entry.is_dir():
                        found = self._series(Path(entry.path))
                        target = folders
                    elif volume_suffix(Path(entry.name)) and entry.is_file():
                        found = mark_of(Path(entry.path))
                        target = files
                    else:
                        continue
                except OSError:  # gone meanwhile, or not ours to read
                    continue
                if found is not None and self._is_plain(entry.name):
                    target.append((entry.name, *found))
        return sorted(folders) + sorted(files)

    def _series(self, folder: Path) -> tuple[str, float] | None:
        """Mark a folder if DICOM files lie in it; its files are opened only when something changed."""
        mark, changed = mark_of(folder)
        known = self._are_scans.get(folder.name)
        if known is None or known[0] != mark:
            known = self._are_scans[folder.name] = mark, is_volume_path(folder)
        return (mark, changed) if known[1] else None

    def _is_plain(self, name: str) -> bool:
        suffix = volume_suffix(Path(name)) or ""
        plain = is_plain_component(name[: len(name) - len(suffix)])
        if not plain and name not in self._warned:
            self._warned.add(name)
            _log.warning("%r: left out, its name cannot be an image id; rename it.", name)
        return plain


def mark_of(path: Path) -> tuple[str, float]:
    """Give a text that is another one when a file, or the files in a folder, change; and the last change's time.

    Raises:
        OSError: it is not there.
    """
    if not path.is_dir():
        status = path.stat()
        return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}", status.st_mtime
    count = size = latest = 0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_file():
                continue
            status = entry.stat()
            count, size = count + 1, size + status.st_size
            latest = max(latest, status.st_mtime_ns)
    return f"{count}-{size}-{latest}", latest / 1e9


class Poller:
    """Calls a function again and again in a thread of its own; whatever it raises is logged, once per message.

    Args:
        look: the function.
        interval: seconds between two calls; more where a call takes long.
    """

    def __init__(self, look: Callable[[], None], interval: float) -> None:
        self._look = look
        self._interval = interval
        self._stopping = threading.Event()
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="studies-folder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a call that runs is waited for a few seconds."""
        self._stopping.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        pause = self._interval
        while not self._stopping.wait(pause):
            started = time.monotonic()
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - files that appear must be seen tomorrow too
                message = f"{type(error).__name__}: {error}"
                if message not in self._logged:
                    self._logged.add(message)
                    _log.exception("The studies folder could not be looked at.")
            pause = max(self._interval, (time.monotonic() - started) / _BUSY_SHARE)
