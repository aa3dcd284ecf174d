"""What several panels do with Qt's widgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from slicer.i18n import tr as _

#: Colours of a message, readable on light and dark windows: both the letters' and what is behind them.
_COLOURS = {
    "good": "color: #0a3622; background: #d1e7dd;",
    "warning": "color: #664d03; background: #fff3cd;",
    "error": "color: #58151c; background: #f8d7da;",
}


def fill(combo: Any, entries: Iterable[tuple[str, str]], chosen: str = "") -> None:
    """Replace a combo box's entries without its signals; what was chosen stays chosen, if it is still there.

    Args:
        combo: the box.
        entries: text and data of each.
        chosen: data of the entry to choose instead.
    """
    wanted = chosen or data(combo)
    blocked = combo.blockSignals(True)
    combo.clear()
    for text, value in entries:
        combo.addItem(text, value)
    combo.setCurrentIndex(max(0, combo.findData(wanted)))
    combo.blockSignals(blocked)


def data(combo: Any) -> str:
    """Give the data of the entry that is chosen; '' if there is none."""
    return combo.itemData(combo.currentIndex) or ""


def show_message(label: Any, text: str, kind: str) -> None:
    """Show a message in its colour, or hide the label if there is none.

    Args:
        label: for messages.
        text: plain; lines may be parted.
        kind: ``good``, ``warning`` or ``error``.
    """
    label.text = text
    label.styleSheet = f"{_COLOURS[kind]} padding: 4px; border-radius: 3px;" if text else ""
    label.visible = bool(text)


def duration(seconds: float) -> str:
    """Give a time as one says it."""
    if seconds < 55:
        return _("{seconds} s").format(
            seconds=max(1, 5 * round(seconds / 5) if seconds > 7 else round(seconds))
        )
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    if hours:
        return _("{hours} h {minutes} min").format(hours=hours, minutes=minutes)
    return _("{minutes} min").format(minutes=minutes)


class Remaining:
    """Tells how long something will take from the shares that are done.

    Args:
        clock: seconds; for tests.
    """

    #: Share and seconds before which nothing is promised.
    _LEAST_SHARE, _LEAST_SECONDS = 0.08, 2.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def seconds(self, share: float) -> float | None:
        """Give the seconds that are left when a share is done, or None if it is too early to say."""
        now = self._clock()
        if self._first is None or share < self._first[1]:
            self._first = (now, share)
        begun, first = self._first
        done, passed = share - first, now - begun
        if done < self._LEAST_SHARE or passed < self._LEAST_SECONDS:
            return None
        return passed / done * (1.0 - share)
