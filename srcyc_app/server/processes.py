"""MONAI Label's background tasks, training and batch inference: one process of a kind at a time, ended gracefully."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from srcyc_app.server.environment import of_subprocess
from srcyc_app.server.scratch import Scratch

_log = logging.getLogger(__name__)

#: Characters of a task's request: it becomes an argument of a process, which systems limit to 128 KiB.
LONGEST = 100_000
#: Seconds that a process has to save and end.
PATIENCE = 60.0
#: Log lines kept with a task.
_LINES = 20
#: Tasks whose outcome is remembered.
_REMEMBERED = 100

#: With it, Windows can send Ctrl-Break to a process and not to us.
_NEW_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)

Status = Literal["SUBMITTED", "RUNNING", "DONE", "ERROR", "STOPPED"]


def task_command(method: str, request: dict[str, Any]) -> list[str]:
    """Give the command that loads the app and has it meet one request."""
    program = (sys.executable, "-m", "srcyc_app.server.task")
    return [*program, method, json.dumps(request, separators=(",", ":"))]


@dataclass(eq=False)
class Task:
    """One request in the background, as MONAI Label's clients see it."""

    request: dict[str, Any]
    owner: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: Status = "SUBMITTED"
    start_ts: str = field(default_factory=lambda: _now())
    end_ts: str | None = None
    details: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))
    process: subprocess.Popen[str] | None = None

    def json(self) -> dict[str, Any]:
        """Give what MONAI Label's server sends."""
        task: dict[str, Any] = {
            "id": self.id,
            "status": self.status,
            "request": self.request,
            "start_ts": self.start_ts,
        }
        if self.details:
            task["details"] = list(self.details)
        if self.end_ts is not None:
            task["end_ts"] = self.end_ts
        return task


class Background:
    """Tasks of one kind, in their order, each in a process of its own.

    Args:
        method: ``train`` or ``batch_infer``.
        scratch: where its processes put temporary files; None: the system's temporary folder.
        folder: working directory of its processes; one in which nothing lies that Python could take for a module.
        command: makes the command line.
        patience: seconds that a process has to end before it is killed.
    """

    def __init__(
        self,
        method: str,
        folder: Path,
        *,
        scratch: Scratch | None = None,
        command: Callable[[str, dict[str, Any]], list[str]] = task_command,
        patience: float = PATIENCE,
    ) -> None:
        self._method = method
        self._folder = folder
        self._scratch = scratch
        self._command = command
        self._patience = patience
        self._lock = threading.Lock()
        self._tasks: list[Task] = []
        self._closed = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=method)
        # MONAI Label's logger of the task's output.
        self._output = logging.getLogger(f"task_{method}")

    def start(
        self, request: dict[str, Any], *, enqueue: bool = False, owner: str | None = None
    ) -> dict[str, Any] | None:
        """Begin a task, or with ``enqueue`` put it behind the one that runs.

        A task that was stopped but is still saving delays the next one, and does not refuse it.

        Returns:
            the task; None if one is running and this one was not to wait, or the server is ending.
        """
        with self._lock:
            if self._closed or (self._active() and not enqueue):
                return None
            task = Task(request, owner)
            self._tasks = [*self._tasks[-_REMEMBERED:], task]
            self._executor.submit(self._run, task)
        return task.json()

    def running(self) -> dict[str, Any] | None:
        """Give the task that runs, or is about to."""
        with self._lock:
            active = self._active()
            return active[0].json() if active else None

    def owner(self) -> str | None:
        """Give who began the task that runs; None if nobody was asked, or none runs."""
        with self._lock:
            active = self._active()
            return active[0].owner if active else None

    def tasks(self) -> list[dict[str, Any]]:
        """Give all tasks that are remembered, the newest last."""
        with self._lock:
            return [task.json() for task in self._tasks]

    def stop(self) -> dict[str, Any] | None:
        """Stop the task that runs: its process is asked to end, and killed if it does not; those waiting never begin.

        Returns:
            the task, at once; None if there was none.
        """
        with self._lock:
            active = self._active()
            for task in active:
                task.status, task.end_ts = "STOPPED", _now()
            process = active[0].process if active else None
        if process is not None:
            _log.info("%s: asked to stop (process %d)", self._method, process.pid)
            with suppress(ProcessLookupError):
                # On Windows SIGTERM would end it at once.
                process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
            threading.Thread(target=self._kill_after, args=(process,), daemon=True).start()
        return active[0].json() if active else None

    def halt(self) -> None:
        """Stop what runs and begin nothing more; returns at once."""
        with self._lock:
            self._closed = True
        self.stop()

    def close(self) -> None:
        """Halt, and wait until no process is left."""
        self.halt()
        self._executor.shutdown(wait=True)

    def _active(self) -> list[Task]:
        return [task for task in self._tasks if task.status in ("SUBMITTED", "RUNNING")]

    def _run(self, task: Task) -> None:
        try:
            with nullcontext() if self._scratch is None else self._scratch.room() as room:
                process = self._spawn(task, room)
                if process is None:
                    return
                code = self._watch(process, task)
            _log.info("%s: process %d ended with %d", self._method, process.pid, code)
            self._end(task, "DONE" if code == 0 else "ERROR")
        except OSError as error:
            _log.exception("%s: cannot be started", self._method)
            task.details.append(f"cannot be started: {error}")
            self._end(task, "ERROR")

    def _spawn(self, task: Task, room: Path | None) -> subprocess.Popen[str] | None:
        more = {"TMPDIR": str(room), "TEMP": str(room), "TMP": str(room)} if room is not None else {}
        command = self._command(self._method, task.request)
        environment = of_subprocess(**more)
        with self._lock:
            if task.status != "SUBMITTED":
                return None
            task.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                env=environment,
                cwd=self._folder,
                # Ctrl-C is for the server, which then asks its processes to save and end.
                start_new_session=True,
                creationflags=_NEW_GROUP,
            )
            task.status = "RUNNING"
            return task.process

    def _watch(self, process: subprocess.Popen[str], task: Task) -> int:
        """Log what the process says until it has ended."""
        # In a thread: a grandchild that survives it could keep the pipe open.
        reader = threading.Thread(target=self._read, args=(process.stdout, task), daemon=True)
        reader.start()
        code = process.wait()
        reader.join(5.0)
        return code

    def _read(self, stream: IO[str], task: Task) -> None:
        with stream as lines:
            for line in lines:
                if text := line.rstrip():
                    self._output.info("%s", text)
                    task.details.append(text)

    def _end(self, task: Task, status: Status) -> None:
        with self._lock:
            if task.status != "STOPPED":
                task.status, task.end_ts = status, _now()

    def _kill_after(self, process: subprocess.Popen[str]) -> None:
        try:
            process.wait(self._patience)
        except subprocess.TimeoutExpired:
            _log.warning("%s: process %d did not end and is killed", self._method, process.pid)
            kill_tree(process)


def kill_tree(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        for each in (*parent.children(recursive=True), parent):
            with suppress(psutil.NoSuchProcess):
                each.kill()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
