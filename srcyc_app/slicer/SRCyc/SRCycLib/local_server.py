"""A server on this computer, as a process that ends with Slicer."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from SRCycLib.calls import beginning, new_folder
from SRCycLib.processes import Problem, console_options

_HOST = "127.0.0.1"
_FIRST_PORT = 8000
_PORTS = 20

#: Milliseconds between two looks whether it still runs.
_INTERVAL = 500
#: Seconds that it gets to end: a training saves its state. Fewer if Slicer itself ends.
_GRACE = 30.0
_LAST_GRACE = 5.0


def find_program() -> str:
    """Find the program `srcyc`: of the clone or environment that this module lies in, or on the path; else ''."""
    names = ("bin/srcyc", "Scripts/srcyc.exe")
    for folder in Path(__file__).resolve().parents:
        for name in (*(f".venv/{name}" for name in names), *names):
            if (folder / name).is_file():
                return str(folder / name)
    return shutil.which("srcyc", path=slicer.util.startupEnvironment().get("PATH")) or ""


def find_studies() -> str:
    """Find the sample scans of the clone that this module lies in; else ''."""
    folders = (folder / "sample-data" for folder in Path(__file__).resolve().parents[1:])
    return next((str(folder) for folder in folders if folder.is_dir()), "")


class LocalServer:
    """`srcyc serve`, started and watched.

    It ends, and lets a training save, when its standard input is closed: by us, or by the system if Slicer crashes.
    Signals would not do: Windows has none, and a program there may be a launcher of the real one.

    Args:
        ended: called when it has ended, with a sentence if it did so by itself, else with ''.
    """

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._deadline: float | None = None
        self._process: subprocess.Popen | None = None
        self._log: Path | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL)
        self._timer.connect("timeout()", self._look)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None

    def start(self, program: str, studies: str) -> str:
        """Start it; it answers some seconds later.

        Args:
            program: `srcyc`, in the environment that the server is installed in.
            studies: its folder of scans.

        Returns:
            its address.

        Raises:
            Problem: it cannot be started.
        """
        try:
            with beginning(program, _("choose another program")):
                port = _free_port()
                self._log = new_folder("server") / "log"
                with self._log.open("wb") as log:
                    self._process = subprocess.Popen(
                        [program, "serve", "--studies", studies, "--host", _HOST, "--port", str(port)],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        # Slicer's own variables would make another Python load Slicer's libraries.
                        env={
                            **slicer.util.startupEnvironment(),
                            "PYTHONUNBUFFERED": "1",
                            "SRCYC_END_WITH_INPUT": "1",
                        },
                        **console_options(),
                    )
        except Problem:
            self._clear()
            raise
        self._timer.start()
        return f"http://{_HOST}:{port}"

    def stop(self) -> None:
        """Tell it to end; a training on it saves its state first."""
        if self._process is not None and self._deadline is None:
            self._deadline = time.monotonic() + _GRACE
            self._ask_to_end()

    def close(self) -> None:
        """Stop it and wait."""
        self._timer.stop()
        if self._process is not None:
            self._ask_to_end()
            try:
                self._process.wait(_LAST_GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._clear()

    def _ask_to_end(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _look(self) -> None:
        if self._process is None:
            return
        code = self._process.poll()
        if code is None:
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._process.kill()
            return
        asked, said = self._deadline is not None, self._last_words()
        self._timer.stop()
        self._clear()
        if asked:
            self._ended("")
        else:
            said = said or _("it said nothing.")
            self._ended(_("The server ended (exit code {code}): {said}").format(code=code, said=said))

    def _last_words(self) -> str:
        """Give the end of what it has said: a refusal to start is its last lines."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log else []
        return " ".join(line.strip() for line in lines[-3:])

    def _clear(self) -> None:
        self._ask_to_end()
        self._process = None
        self._deadline = None
        if self._log:
            shutil.rmtree(self._log.parent, ignore_errors=True)
            self._log = None


def _free_port() -> int:
    """Find a port, the server's usual one if it is free."""
    for port in (*range(_FIRST_PORT, _FIRST_PORT + _PORTS), 0):
        with socket.socket() as probe:
            if os.name != "nt":
                # There this option would let two servers share a port; elsewhere it forgives a connection just closed.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(_("no port is free on this computer"))
