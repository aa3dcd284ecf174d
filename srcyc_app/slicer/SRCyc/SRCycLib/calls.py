"""Requests that run beside Slicer's GUI: one process each, looked after by a timer.

Not threads: Slicer's GUI thread holds Python's lock while it waits for events, and other Python threads stand still.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SRCycLib.processes import console_options, kill

Done = Callable[[Any], None]
Failed = Callable[[str], None]
Progress = Callable[[str, float], None]
News = Callable[[dict], None]

#: Milliseconds between two looks at what the processes have said.
_INTERVAL = 100
#: Seconds that a process has to end by itself, once nobody needs it, and seconds for all of them when Slicer ends.
_PATIENCE = 5.0

_log = logging.getLogger(__name__)

_MODULE_FOLDER = Path(__file__).resolve().parents[1]


def new_folder(purpose: str) -> Path:
    """Make a folder of its own where Slicer keeps temporary files; its maker removes it."""
    return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=slicer.app.temporaryPath))


class Call:
    """One request under way.

    When it is over, its process gets time to end; only then are the files removed that it may have open: Windows
    refuses to remove those, and one of them is a patient's scan.

    Args:
        folder: of this request alone.
        process: that meets it and writes what becomes of it to ``said`` in the folder; it may be a launcher.
        done: gets the answer.
        failed: gets a sentence.
        progress: gets a state and a share from 0 to 1.
        news: gets what a watch reports.
        more: another folder that goes with the request's.

    Attributes:
        active: whether somebody will be called back.
        gone: whether nothing is left of it: no process, no file.
    """

    def __init__(
        self,
        folder: Path,
        process: subprocess.Popen,
        done: Done,
        failed: Failed,
        progress: Progress | None,
        news: News | None,
        more: Path | None,
    ) -> None:
        self.active = True
        self.gone = False
        self._folders = [folder, *([more] if more else [])]
        self._process = process
        self._worker = 0
        self._done = done
        self._failed = failed
        self._progress = progress
        self._news = news
        self._said = (folder / "said").open("rb")
        self._rest = b""
        self._deadline = 0.0

    def cancel(self) -> None:
        """End the request now; nothing is called back any more. The server notices that the connection is closed."""
        if self.active:
            self.look()
        if self.active:
            self._over()
            # A worker that has not said who it is yet ends by this.
            with contextlib.suppress(OSError):
                (self._folders[0] / "request.json").unlink()
            self._kill_worker()
            self._clear()

    def look(self) -> None:
        """Pass on what the process has said since the last look, and clear up behind it."""
        ended = self._process.poll() is not None
        if self.active:
            *lines, self._rest = (self._rest + self._said.read()).split(b"\n")
            for line in lines:
                if self.active:
                    self._hear(json.loads(line))
        if ended and self.active:
            log = (self._folders[0] / "errors").read_text(errors="replace").strip()
            self._over()
            last = log.splitlines()[-1] if log else _("it said nothing")
            self._failed(_("The request's process ended unexpectedly: {reason}.").format(reason=last))
        if not self.active:
            self._clear()

    def finish(self, until: float) -> None:
        """Wait for the end of a process that nobody needs any more, and clear up."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        self._deadline = 0.0
        self._clear()

    def _hear(self, said: dict[str, Any]) -> None:
        if "pid" in said:
            self._worker = int(said["pid"])
        elif "progress" in said and self._progress:
            self._progress(said["progress"]["state"], said["progress"]["share"])
        elif "news" in said and self._news:
            self._news(said["news"])
        # Over before anybody is told: who is told may begin the next one.
        elif "result" in said:
            self._over()
            self._done(said["result"])
        elif "error" in said:
            self._over()
            if "details" in said:
                _log.error(said["details"])
            self._failed(said["error"])

    def _over(self) -> None:
        self.active = False
        self._said.close()
        self._deadline = time.monotonic() + _PATIENCE

    def _kill_worker(self) -> None:
        # While the launcher lives, the number of its child is nobody else's.
        if self._worker and self._process.poll() is None:
            kill(self._worker)

    def _clear(self) -> None:
        """Remove the files if the process has ended; end it if it had its time."""
        if self._process.poll() is None:
            if time.monotonic() < self._deadline:
                return
            self._kill_worker()
            self._process.kill()
            self._process.wait()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        # What is still open somewhere goes at the next look.
        self.gone = not any(folder.exists() for folder in self._folders)


class Calls:
    """Begins requests and looks after them.

    Args:
        python: that runs them; by default Slicer's own, which has `requests`.
    """

    def __init__(self, python: str | None = None) -> None:
        self._python = python or shutil.which("PythonSlicer") or sys.executable
        self._calls: list[Call] = []
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL)
        self._timer.connect("timeout()", self._look)

    def begin(
        self,
        module: str,
        request: dict[str, Any],
        *,
        done: Done,
        failed: Failed,
        progress: Progress | None = None,
        news: News | None = None,
        folder: Path | None = None,
    ) -> Call:
        """Begin a request; what becomes of it is called back from Qt's event loop.

        Args:
            module: of this package, that meets it: ``python -m MODULE request.json``. It says one JSON object per
                line: first ``pid``, then ``progress`` or ``news``, last ``result`` or ``error``.
            request: for the module; ``parent``, Slicer's process, and ``folders``, of its files, are added.
            done: called with its result.
            failed: called with a sentence.
            progress: called with a state and a share from 0 to 1.
            news: called with each report of a watch.
            folder: of files that belong to the request; removed at its end, after ``done`` or ``failed`` has returned.

        Raises:
            OSError: the disk is full, or this Python cannot be run; nothing is left then.
        """
        own = new_folder("request")
        file = own / "request.json"
        folders = [str(each) for each in (folder, own) if each]
        try:
            file.write_text(json.dumps({**request, "parent": os.getpid(), "folders": folders}))
            with (own / "said").open("wb") as said, (own / "errors").open("wb") as errors:
                process = subprocess.Popen(
                    [self._python, "-m", module, str(file)],
                    cwd=_MODULE_FOLDER,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=errors,
                    **console_options(),
                )
        except OSError:
            for each in folders:
                shutil.rmtree(each, ignore_errors=True)
            raise
        call = Call(own, process, done, failed, progress, news, folder)
        self._calls.append(call)
        self._timer.start()
        return call

    def close(self) -> None:
        """Cancel what is under way, and wait until nothing is left of it."""
        self._timer.stop()
        until = time.monotonic() + _PATIENCE
        for call in self._calls:
            call.cancel()
        for call in self._calls:
            call.finish(until)
        self._calls = []

    def _look(self) -> None:
        for call in list(self._calls):
            call.look()
        self._calls = [call for call in self._calls if not call.gone]
        if not self._calls:
            self._timer.stop()


class Remote(Calls):
    """Sends requests to a server."""

    def call(
        self, url: str, action: str, arguments: dict[str, Any], *, done: Done, failed: Failed, **more: Any
    ) -> Call:
        """Begin a request.

        Args:
            url: of the server.
            action: a method of :class:`SRCycLib.client.Client`.
            arguments: of that method.
            done: called with its result.
            failed: called with a sentence.
            more: callbacks and ``folder`` of :meth:`begin`.
        """
        request = {"url": url, "action": action, "arguments": arguments}
        return self.begin("SRCycLib.worker", request, done=done, failed=failed, **more)
