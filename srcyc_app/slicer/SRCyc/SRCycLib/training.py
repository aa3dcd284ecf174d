"""What a training's statistics mean while one follows the other."""

from __future__ import annotations

from typing import Any

_ALIVE = ("starting", "preparing", "running", "stopping")
_WAITING = ("SUBMITTED", "RUNNING")


def is_over(stats: dict[str, Any], task: dict[str, Any]) -> bool:
    """Tell whether a training has ended, and its process with it: only then can the next one begin."""
    return not is_alive(stats) and task.get("status") not in _WAITING


class Watch:
    """Follows one training.

    For some seconds after its start, the server still shows the one before; and one that fails at its start never
    shows anything. The server's task tells them apart.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._looked = False

    def look(self, stats: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
        """Give what there is to be shown.

        Args:
            stats: as the server shows them.
            task: as it was shortly before; {} if there is none.
        """
        waiting = task.get("status") in _WAITING
        which = (stats.get("run"), stats.get("started"))
        if not self._looked:
            self._looked = True
            # Of another training, or of this one if it has ended in this moment: then the next look says so.
            self._before = which if waiting and not is_alive(stats) else None
        if is_alive(stats) or which != self._before:
            return stats
        if waiting:
            return {"state": "starting", "message": "begins.", "step": 0, "steps": 0, "history": []}
        return _without_a_word(stats, task)


def is_alive(stats: dict[str, Any]) -> bool:
    """Tell whether something is under way in a training."""
    return stats.get("state") in _ALIVE


def _without_a_word(stats: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Say how a task ended that has shown nothing of itself."""
    if task.get("status") == "DONE":
        return stats
    if task.get("status") == "STOPPED":
        return {"state": "stopped", "message": "stopped before it began.", "history": []}
    details = [str(line) for line in task.get("details") or ()]
    return {
        "state": "failed",
        "message": details[-1] if details else "it ended without a word; the server's log has more.",
        "history": [],
    }
