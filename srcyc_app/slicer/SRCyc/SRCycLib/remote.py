"""Requests that run beside Slicer's GUI: one process each, looked after by a timer.

Not threads: Slicer's GUI thread holds Python's lock while it waits for events, and other Python threads stand still.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

Done = Callable[[Any], None]
Failed = Callable[[str], None]
Progress = Callable[[str, float], None]
News = Callable[[dict], None]

#: Milliseconds between two looks at what the processes have said.
_INTERVAL = 100

_log = logging.getLogger(__name__)

_MODULE_FOLDER = Path(__file__).resolve().parents[1]


def new_folder(purpose: str) -> Path:
    """Make a folder of its own where Slicer keeps temporary files; its maker removes it."""
    return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=slicer.app.temporaryPath))


def console_options() -> dict[str, Any]:
    """Options of `subprocess.Popen` with which no console window opens on Windows, and Ctrl-C stays ours elsewhere."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NO_WINDOW}  # type: ignore[attr-defined,unused-ignore]
    return {"start_new_session": True}


class Call:
    """One request under way.

    Args:
        folder: of this request alone; removed at its end.
        process: that sends it and writes what becomes of it to ``said`` in the folder.
        done: gets the answer.
        failed: gets a sentence.
        progress: gets a state and a share from 0 to 1.
        news: gets what a watch reports.
    """

    def __init__(
        self,
        folder: Path,
        process: subprocess.Popen,
        done: Done,
        failed: Failed,
        progress: Progress | None,
        news: News | None,
    ) -> None:
        self.active = True
        self._folder = folder
        self._process = process
        self._done = done
        self._failed = failed
        self._progress = progress
        self._news = news
        self._said = (folder / "said").open("rb")
        self._rest = b""

    def cancel(self) -> None:
        """End the request now; nothing is called back any more. The server notices that the connection is closed."""
        if self.active:
            # The request file first: where the process is a launcher, its child ends by that.
            (self._folder / "request.json").unlink()
            self._end()

    def look(self) -> None:
        """Pass on what the process has said since the last look."""
        ended = self._process.poll() is not None
        *lines, self._rest = (self._rest + self._said.read()).split(b"\n")
        for line in lines:
            if self.active:
                self._hear(json.loads(line))
        if ended and self.active:
            log = (self._folder / "errors").read_text(errors="replace").strip()
            self._end()
            last = log.splitlines()[-1] if log else _("it said nothing")
            self._failed(_("The request's process ended unexpectedly: {reason}.").format(reason=last))

    def _hear(self, said: dict[str, Any]) -> None:
        if "progress" in said and self._progress:
            self._progress(said["progress"]["state"], said["progress"]["share"])
        elif "news" in said and self._news:
            self._news(said["news"])
        # Ended before anybody is told: who is told may open a dialog, in which the timer goes on.
        elif "result" in said:
            self._end()
            self._done(said["result"])
        elif "error" in said:
            self._end()
            if "details" in said:
                _log.error(said["details"])
            self._failed(said["error"])

    def _end(self) -> None:
        self.active = False
        self._said.close()
        self._process.kill()  # it has said all that matters
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class Remote:
    """Sends requests to a server.

    Args:
        python: that runs them; by default Slicer's own, which has `requests`.
    """

    def __init__(self, python: str | None = None) -> None:
        self._python = python or shutil.which("PythonSlicer") or sys.executable
        self._calls: list[Call] = []
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL)
        self._timer.connect("timeout()", self._look)

    def call(
        self,
        url: str,
        action: str,
        arguments: dict[str, Any],
        *,
        done: Done,
        failed: Failed,
        progress: Progress | None = None,
        news: News | None = None,
    ) -> Call:
        """Begin a request; what becomes of it is called back from Qt's event loop.

        Args:
            url: of the server.
            action: a method of :class:`SRCycLib.client.Client`.
            arguments: of that method.
            done: called with its result.
            failed: called with a sentence.
            progress: called with a state and a share from 0 to 1.
            news: called with each report of a watch.
        """
        folder = new_folder("request")
        request = folder / "request.json"
        request.write_text(json.dumps({"url": url, "action": action, "arguments": arguments}))
        with (folder / "said").open("wb") as said, (folder / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [self._python, "-m", "SRCycLib.worker", str(request)],
                cwd=_MODULE_FOLDER,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=errors,
                **console_options(),
            )
        call = Call(folder, process, done, failed, progress, news)
        self._calls.append(call)
        self._timer.start()
        return call

    def close(self) -> None:
        """Cancel what is under way."""
        for call in self._calls:
            call.cancel()
        self._look()

    def _look(self) -> None:
        for call in list(self._calls):
            if call.active:
                call.look()
        self._calls = [call for call in self._calls if call.active]
        if not self._calls:
            self._timer.stop()
