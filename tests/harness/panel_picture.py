"""Draws the Slicer module's panel after a super-resolution of a sample scan, with the stand-in and a real server.

    python tests/harness/panel_picture.py FILE.png

A picture of the panel as Qt draws it from the module's .ui file with stand-ins for Slicer's widgets, not of a Slicer
window; it must be labelled so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULE = Path(__file__).resolve().parents[2] / "srcyc_app" / "slicer" / "SRCyc"
PATIENCE = 300.0


def main(file: str) -> None:
    """Draw it."""
    import slicer_stand_in

    session = slicer_stand_in.start()
    try:
        panel = session.load_module(MODULE)
        widget = panel.self()
        ui = widget.ui

        def wait(happened: Callable[[], Any]) -> None:
            end = time.monotonic() + PATIENCE
            while not happened():
                session.process_events()
                time.sleep(0.02)
                if time.monotonic() > end:
                    raise SystemExit(f"no picture: {ui.logText.plainText}")

        ui.localServerButton.click()
        wait(lambda: ui.sampleComboBox.count > 0)
        ui.loadButton.click()
        wait(lambda: ui.inputSelector.currentNode() is not None)
        ui.applyButton.click()
        wait(lambda: ui.applyButton.text == "Apply")
        panel.resize(500, 860)
        session.process_events()
        panel.grab().save(file)
    finally:
        slicer_stand_in.close()


if __name__ == "__main__":
    main(sys.argv[1])
