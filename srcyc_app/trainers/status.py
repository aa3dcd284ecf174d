"""How a training stands: a file in its run folder that outlives the process, and what clients are shown of it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from srcyc.documents import as_json, read_json, write_json
from srcyc_app.studies.holders import runs, this_process

_log = logging.getLogger(__name__)

STATUS_NAME = "status.json"

State = Literal["starting", "preparing", "running", "stopping", "stopped", "failed", "finished"]
#: States that need a process.
ALIVE = frozenset({"starting", "preparing", "running", "stopping"})
#: What a status says whose process ended without a word.
INTERRUPTED = "interrupted"

#: Rows of the history that are shown, and the columns that a validation fills.
_ROWS, _MEASURED = 200, {"psnr", "cycle", "correction"}

Status = dict[str, Any]


class StatusFile:
    """The status of one run, replaced as a whole at each change, by whichever thread.

    Args:
        folder: of the run; exists.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATUS_NAME
        #: What it says now.
        self.values: Status = {}
        self._changing = threading.Lock()

    def begin(self, kept: Mapping[str, Any], **values: Any) -> None:
        """Begin anew, as this process.

        Args:
            kept: of an earlier status, what stays.
            values: and what is new.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
        """
        pid, started = this_process()
        who = {"pid": pid, "process_started": started}
        self.values = {**kept, **who, "started": time.time(), "ended": None, **values}
        self.update(state="starting")

    def update(self, **changes: Any) -> None:
        """Change some values.

        Raises:
            OutputError: see :meth:`begin`.
        """
        with self._changing:
            self.values = {**self.values, **changes, "updated": time.time()}
            write_json(self.path, self.values)

    def end(self, state: State, message: str, **changes: Any) -> None:
        """Say how it ended.

        Raises:
            OutputError: see :meth:`begin`.
        """
        self.update(state=state, message=message, ended=time.time(), remaining=None, **changes)


def read_status(folder: Path) -> Status | None:
    """Read a run's status; None where there is none that can be read.

    One that needs a process which is not there any more is ``interrupted``.
    """
    try:
        found = read_json(folder / STATUS_NAME)
    except (OSError, ValueError):
        return None
    if found.get("state") in ALIVE and not _is_there(found):
        # Whoever reads it may take this very moment for the one at which training ended.
        found |= {
            "state": INTERRUPTED,
            "ended": _number(found.get("updated")),
            "remaining": None,
            "message": f"run {folder.name!r} was interrupted after step {found.get('step') or 0}: its process ended "
            "without a word; start it again under this name and it goes on from its last checkpoint.",
        }
    return found


def newest_status(runs: Path) -> Status | None:
    """Give the status of the run that changed last."""
    found = []
    for path in runs.glob(f"*/{STATUS_NAME}"):
        with suppress(OSError):
            found.append((path.stat().st_mtime_ns, path.parent))
    # Newest first; one that cannot be read hides no other.
    for _, folder in sorted(found, reverse=True):
        if (status := read_status(folder)) is not None:
            return status
    return None


def train_stats(runs: Path) -> Status:
    """Give what clients are shown, as JSON: the newest run's status, and what 3D Slicer reads of it; never raises.

    ``epoch`` of ``total_epochs`` (at least 1), ``best_metric`` (SSIM of the best validation, 0 to 1), and
    ``total_time`` only when nothing is running.
    """
    try:
        status = newest_status(runs)
        return as_json(_for_slicer(status)) if status else dict(_NOTHING)
    except Exception:  # noqa: BLE001 - /info/ shall not fail for whatever a damaged status makes of it
        _log.warning("%s: the status of the training cannot be shown.", runs, exc_info=True)
        return dict(_NOTHING)


_NOTHING: Status = {
    "state": "none",
    "message": "nothing was trained on this server yet.",
    "epoch": 0,
    "total_epochs": 1,
    "best_metric": 0.0,
}


def _for_slicer(status: Status) -> Status:
    running = status.get("state") in ALIVE
    started = _number(status.get("started")) or 0.0
    ended = time.time() if running else _number(status.get("ended")) or started
    best = _number(status.get("best_metric")) or 0.0
    shown = {
        **status,
        "epoch": int(_number(status.get("epoch")) or 0),
        "total_epochs": max(1, int(_number(status.get("total_epochs")) or 1)),
        "best_metric": min(max(best, 0.0), 1.0),
        "start_time": _clock(started),
        "current_time": _clock(ended),
    }
    # Slicer takes it as the sign that training has ended.
    shown.pop("total_time", None)
    if not running:
        shown["total_time"] = str(timedelta(seconds=max(0, round(ended - started))))
    return shown


def shown_history(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Choose the rows of a run's history that a plot needs, evenly; those with a validation first."""
    measured = [bool(row.keys() & _MEASURED) for row in rows]
    validations = _thinned([i for i, known in enumerate(measured) if known], _ROWS // 2)
    others = _thinned([i for i, known in enumerate(measured) if not known], _ROWS - len(validations))
    return [dict(rows[i]) for i in sorted([*validations, *others])]


def _thinned(indices: Sequence[int], most: int) -> list[int]:
    """Leave out evenly, never the last one."""
    count = len(indices)
    if count <= most:
        return list(indices)
    return [indices[(k + 1) * count // most - 1] for k in range(most)]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _is_there(status: Mapping[str, Any]) -> bool:
    """Tell whether the process that wrote a status still runs."""
    pid, started = status.get("pid"), _number(status.get("process_started"))
    return isinstance(pid, int) and started is not None and runs(pid, started)
