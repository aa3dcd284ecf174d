"""Draws the Slicer module's panel after a super-resolution of a sample scan on this computer, with the stand-in.

    python tests/harness/panel_picture.py FOLDER

Pictures of the panel as Qt draws it from the module's .ui file with stand-ins for Slicer's widgets, not of a Slicer
window; they must be labelled so. ``slicer_panel.png``: after the result. ``slicer_panel_refused.png``: what a scan
far outside the model's range looks like.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULE = Path(__file__).resolve().parents[2] / "srcyc_app" / "slicer" / "SRCyc"
PATIENCE = 300.0


def main(folder: str) -> None:
    """Draw them."""
    import slicer_stand_in

    session = slicer_stand_in.start()
    try:
        panel = session.load_module(MODULE)
        ui = panel.self().ui

        def wait(happened: Callable[[], Any]) -> None:
            end = time.monotonic() + PATIENCE
            while not happened():
                session.process_events()
                time.sleep(0.02)
                if time.monotonic() > end:
                    raise SystemExit(f"no picture: {ui.logText.plainText}")

        def draw(name: str, height: int) -> None:
            panel.resize(480, height)
            session.process_events()
            panel.grab().save(str(Path(folder) / name))

        import SampleData

        SampleData.downloadSample("ThickBrain1")
        wait(lambda: ui.applyButton.enabled)
        ui.spacingComboBox.setCurrentText("0.2")
        draw("slicer_panel_refused.png", 560)
        ui.spacingComboBox.setCurrentText("isotropic")
        ui.applyButton.click()
        wait(lambda: ui.applyButton.text == "Apply")
        draw("slicer_panel.png", 740)
    finally:
        slicer_stand_in.close()


if __name__ == "__main__":
    main(sys.argv[1])
