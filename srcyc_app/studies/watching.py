"""Looking at a folder again and again: what lies there, what has settled, and a thread that never dies of it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from srcyc.volumes.image_files import volume_suffix
from srcyc.volumes.volume import is_volume_path, volume_stem
from srcyc_app.studies.identifiers import is_plain_component

_log = logging.getLogger(__name__)

#: Seconds after its last change at which a file counts as complete at first sight.
SETTLED_AGE = 2.0
#: A look at what is known already may take this share of the time.
_BUSY_SHARE = 0.1

#: Where labels lie: not scans.
LABELS = "labels"


class FolderView:
    """Remembers what was seen in a folder, so that a file that is still being copied is told from a complete one.

    Args:
        folder: the studies folder.
        interval: seconds that two looks must lie apart to show that a file does not grow any more.
        list_tree: lists the DICOM series at and below one of its subfolders, by their names below the studies folder.
    """

    def __init__(self, folder: Path, interval: float, list_tree: Callable[[Path], list[str]]) -> None:
        self._folder = folder
        self._interval = interval
        self._list_tree = list_tree
        #: Subfolder -> the mark that it had when it was listed, and its series.
        self._trees: dict[str, tuple[str, list[str]]] = {}
        self._seen: dict[str, tuple[str, float]] = {}
        self._warned: set[str] = set()

    def look(self, known: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
        """List the scans now.

        Args:
            known: name -> mark of those that need not be looked for again.

        Returns:
            name -> mark (another content has another one) of every scan, and the names of those that have settled; a
            series within a subfolder is called by its address, and has the mark of the subfolder.

        Raises:
            OSError: the folder cannot be listed.
        """
        now, clock = time.monotonic(), time.time()
        scans: dict[str, str] = {}
        settled: set[str] = set()
        seen: dict[str, tuple[str, float]] = {}
        for name, mark, changed, is_folder in self._entries():
            before = self._seen.get(name)
            since = before[1] if before is not None and before[0] == mark else now
            seen[name] = mark, since
            complete = now - since >= self._interval or clock - changed > SETTLED_AGE
            names = self._series(name, mark, complete, known) if is_folder else [name]
            scans.update(dict.fromkeys(names, mark))
            if complete:
                settled.update(names)
        self._seen = seen
        self._trees = {name: tree for name, tree in self._trees.items() if name in seen}
        return scans, settled

    def knows(self, name: str) -> bool:
        """Tell whether a name is one in a subfolder that has been listed as it is now."""
        top = name.split("/")[0]
        return top in self._trees and self._trees[top][0] == self._seen.get(top, ("",))[0]

    def _entries(self) -> list[tuple[str, str, float, bool]]:
        """Give name, mark and time of the last change of what may be scans, and whether it is a folder."""
        folders: list[tuple[str, str, float, bool]] = []
        files: list[tuple[str, str, float, bool]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == LABELS:
                    continue
                try:
                    is_folder = entry.is_dir()
                    if not is_folder and not (volume_suffix(Path(entry.name)) and entry.is_file()):
                        continue
                    mark, changed = mark_of(Path(entry.path))
                except OSError:  # gone meanwhile, or not ours to read
                    continue
                if is_folder or self._is_plain(entry.name):
                    (folders if is_folder else files).append((entry.name, mark, changed, is_folder))
        return sorted(folders) + sorted(files)

    def _series(self, top: str, mark: str, complete: bool, known: Mapping[str, str]) -> list[str]:
        """Name the DICOM series at and below a subfolder; its files are opened only when something has changed."""
        listed = self._trees.get(top)
        if listed is None:
            same = [name for name, seen in known.items() if name.split("/")[0] == top and seen == mark]
            if same:
                listed = self._trees[top] = mark, same
        if complete and (listed is None or listed[0] != mark):
            names = [name for name in self._list_tree(self._folder / top) if self._is_plain(name)]
            listed = self._trees[top] = mark, names
        if listed is not None:
            return listed[1]
        # Still being copied.
        return [top] if self._is_plain(top) and is_volume_path(self._folder / top) else []

    def _is_plain(self, name: str) -> bool:
        plain = is_plain_component(volume_stem(Path(name.replace("/", "_"))))
        if not plain and name not in self._warned:
            self._warned.add(name)
            _log.warning("%r: left out, its name cannot be an image id; rename it.", name)
        return plain


def mark_of(path: Path) -> tuple[str, float]:
    """Give a text that is another one when a file, or the files at and below a folder, change; and when that was.

    Hidden files and folders, and links to folders, are left out.

    Raises:
        OSError: it is not there.
    """
    if not path.is_dir():
        status = path.stat()
        return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}", status.st_mtime
    count = size = latest = 0
    waiting = [str(path)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file():
                    status = entry.stat()
                    count, size = count + 1, size + status.st_size
                    latest = max(latest, status.st_mtime_ns)
    return f"{count}-{size}-{latest}", latest / 1e9


class Poller:
    """Calls a function again and again in a thread of its own; whatever it raises is logged, once per message.

    Args:
        look: the function; tells whether there was anything new, whose reading takes time once.
        interval: seconds between two calls; more where a call that finds nothing new takes long.
    """

    def __init__(self, look: Callable[[], bool], interval: float) -> None:
        self._look = look
        self._interval = interval
        self._stopping = threading.Event()
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="studies-folder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a call that runs is waited for a few seconds."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        pause = self._interval
        while not self._stopping.wait(pause):
            started, new = time.monotonic(), False
            try:
                new = self._look()
            except Exception as error:  # noqa: BLE001 - files that appear must be seen tomorrow too
                message = f"{type(error).__name__}: {error}"
                if message not in self._logged:
                    self._logged.add(message)
                    _log.exception("The studies folder could not be looked at.")
            took = time.monotonic() - started
            pause = self._interval if new else max(self._interval, took / _BUSY_SHARE)
