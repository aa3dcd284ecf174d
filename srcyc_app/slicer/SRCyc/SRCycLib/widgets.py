"""What several panels do with Qt's widgets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


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
