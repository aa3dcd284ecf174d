"""Requests that run beside Slicer's GUI: one process each, looked after by a timer.

Not threads: Slicer's GUI thread holds Python's lock while it waits for events, and other Python threads stand still.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Union

import qt
import slicer
from slicer.i18n import tr as _

from SRCycLib.processes import Problem, console_options, kill

Done = Callable[[Any], None]
Failed = Callable[[str], None]
Progress = Callable[[str, float], None]
News = Callable[[dict], None]
#: Of a request: as they are, or what gives them, and may put files into the request's folder before.
Arguments = Union[dict, Callable[[Path], dict]]

#: Modules that meet requests: by a server, by the library on this computer.
BY_SERVER, BY_ENGINE = "SRCycLib.worker", "SRCycLib.engine_worker"

#: Milliseconds between two looks at what the processes have said.
_INTERVAL = 100
#: Seconds that a process has to end by itself, once nobody needs it, and seconds for all of them when Slicer ends.
_PATIENCE = 5.0

#: What the system says where the disk is full, and where no process more can be; on Windows, its paging file is full.
_DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_TOO_MANY = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
_PAGING_FILE_FULL = 1455
#: What it says of a program that cannot be run.
_NO_PROGRAM = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR)

_log = logging.getLogger(__name__)

_MODULE_FOLDER = Path(__file__).resolve().parents[1]


def new_folder(purpose: str) -> Path:
    """Make a folder of its own where Slicer keeps temporary files; its maker removes it."""
    return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=slicer.app.temporaryPath))


@contextlib.contextmanager
def beginning(program: str, remedy: str) -> Iterator[None]:
    """Begin a process inside the block: what the system has against it becomes a sentence.

    Args:
        program: that is run.
        remedy: what to do if that is not possible.

    Raises:
        Problem: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _DISK_FULL:
            said = _("The disk is full ({reason}): free some space on it, and try once more.")
        elif error.errno in _TOO_MANY or getattr(error, "winerror", None) == _PAGING_FILE_FULL:
            said = _(
                "There is no room for another process ({reason}): close other programs, and try once more."
            )
        elif error.errno in _NO_PROGRAM and error.filename in (None, program):
            said = _("{program} cannot be run ({reason}): {remedy}.")
        else:
            said = _("{file}: {reason}; check the disk and its permissions, and try once more.")
        raise Problem(
            said.format(program=program, remedy=remedy, reason=reason, file=error.filename or program)
        ) from error


class Call:
    """One request under way, or one that could not be begun, which is told as every other failure is.

    When it is over, its process gets time to end; only then are the files removed that it may have open: Windows
    refuses to remove those, and one of them is a patient's scan.

    Args:
        done: gets the answer.
        failed: gets a sentence.
        progress: gets a state and a share from 0 to 1.
        news: gets what a watch reports.

    Attributes:
        active: whether somebody will be called back.
        gone: whether nothing is left of it: no process, no file.
    """

    def __init__(self, done: Done, failed: Failed, progress: Progress | None, news: News | None) -> None:
        self.active = True
        self.gone = False
        self._done = done
        self._failed = failed
        self._progress = progress
        self._news = news
        self._folder: Path | None = None
        self._process: subprocess.Popen | None = None
        self._said: BinaryIO = io.BytesIO()
        self._rest = b""
        self._worker = 0
        self._trouble = ""
        self._deadline = 0.0

    def begin(self, python: str, module: str, request: dict[str, Any], arguments: Arguments) -> None:
        """Begin the process, which may be a launcher: into ``said`` it writes what becomes of the request."""
        try:
            with beginning(python, _("restart Slicer, and install it again if that does not help")):
                self._folder = folder = new_folder("request")
                given = arguments(folder) if callable(arguments) else arguments
                whole = {**request, "arguments": given, "parent": os.getpid(), "folder": str(folder)}
                file = folder / "request.json"
                file.write_text(json.dumps(whole))
                with (folder / "said").open("wb") as said, (folder / "errors").open("wb") as errors:
                    self._process = subprocess.Popen(
                        [python, "-m", module, str(file)],
                        cwd=_MODULE_FOLDER,
                        stdin=subprocess.DEVNULL,
                        stdout=said,
                        stderr=errors,
                        **console_options(),
                    )
                self._said = (folder / "said").open("rb")
        except Problem as problem:
            self._trouble = str(problem)

    def cancel(self) -> None:
        """End the request now; nothing is called back any more. The server notices that the connection is closed."""
        if not self.active:
            return
        for said in self._heard():
            self._worker = int(said.get("pid", self._worker))
        self._over()
        if self._folder:
            # A worker that has not said who it is yet ends by this.
            with contextlib.suppress(OSError):
                (self._folder / "request.json").unlink()
        self._kill_worker()
        self._clear()

    def look(self) -> None:
        """Pass on what the process has said since the last look, and clear up behind it."""
        ended = self._ended
        if self.active:
            for said in self._heard():
                if self.active:
                    self._hear(said)
        if ended and self.active:
            trouble = self._trouble or self._unexpected_end()
            self._over()
            self._failed(trouble)
        if not self.active:
            self._clear()

    def finish(self, until: float) -> None:
        """Wait for the end of a process that nobody needs any more, and clear up."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, until - time.monotonic()))
        self._deadline = 0.0
        self._clear()

    @property
    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _heard(self) -> Iterator[dict[str, Any]]:
        """Give what has been said since the last time."""
        *lines, self._rest = (self._rest + self._said.read()).split(b"\n")
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:  # of the launcher, or of what a Python runs at its start
                continue
            if isinstance(said, dict):
                yield said

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

    def _unexpected_end(self) -> str:
        log = (self._folder / "errors").read_text(errors="replace").strip() if self._folder else ""
        last = log.splitlines()[-1] if log else _("it said nothing")
        return _(
            "The request's process ended unexpectedly ({reason}): see that memory and disk of this computer are not "
            "full, and try once more; restart Slicer if that does not help."
        ).format(reason=last)

    def _over(self) -> None:
        self.active = False
        self._said.close()
        self._deadline = time.monotonic() + _PATIENCE

    def _kill_worker(self) -> None:
        # While the launcher lives, the number of its child is nobody else's.
        if self._worker and not self._ended:
            kill(self._worker)

    def _clear(self) -> None:
        """Remove the files if the process has ended; end it if it had its time."""
        if self._process is not None and not self._ended:
            if time.monotonic() < self._deadline:
                return
            self._kill_worker()
            self._process.kill()
            self._process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        # What is still open somewhere goes at the next look.
        self.gone = not (self._folder and self._folder.exists())


class Calls:
    """Begins requests and looks after them, by Slicer's own Python, which has `requests`."""

    def __init__(self) -> None:
        self._python = shutil.which("PythonSlicer") or sys.executable
        self._calls: list[Call] = []
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL)
        self._timer.connect("timeout()", self._look)

    def begin(
        self,
        module: str,
        action: str,
        arguments: Arguments | None = None,
        *,
        url: str = "",
        done: Done,
        failed: Failed,
        progress: Progress | None = None,
        news: News | None = None,
    ) -> Call:
        """Begin a request; what becomes of it is called back from Qt's event loop, also that it cannot be begun.

        Args:
            module: that meets it: :data:`BY_SERVER` or :data:`BY_ENGINE`.
            action: of the module.
            arguments: of the action, or what gives them for the request's folder, where it may put files, and may raise
                an OSError or :class:`~SRCycLib.processes.Problem`. The folder is removed at the end, after ``done`` or
                ``failed`` has returned.
            url: of the server.
            done: called with its result.
            failed: called with a sentence: what is wrong, and what to do.
            progress: called with a state and a share from 0 to 1.
            news: called with each report of a watch.
        """
        call = Call(done, failed, progress, news)
        call.begin(self._python, module, {"url": url, "action": action}, arguments or {})
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
