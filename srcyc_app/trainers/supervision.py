"""The life of a background process: it ends with the server that started it, and when asked to, tidily."""

from __future__ import annotations

import logging
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from srcyc.errors import SRCycError
from srcyc.training.watch.signals import STOPPING, StopRequest, handled
from srcyc_app.refusals import worded

_log = logging.getLogger(__name__)

#: Seconds between two looks at the parent.
INTERVAL = 1.0
#: Seconds that a process has to save and end once its server is gone.
LAST_SECONDS = 60.0
#: The programs that our server and MONAI Label's start for a background task.
_BACKGROUND_PROGRAMS = ("srcyc_app.server.task", "monailabel.interfaces.utils.app")
#: Those that ask a process to end. SIGINT comes as KeyboardInterrupt.
_ENDING = [number for number in STOPPING if number != signal.SIGINT]


def is_background_process() -> bool:
    """Tell whether a server started this process for a task; else this is a script, or the server itself."""
    specification = getattr(sys.modules.get("__main__"), "__spec__", None)
    return getattr(specification, "name", None) in _BACKGROUND_PROGRAMS


@contextmanager
def background_process(supervised: bool) -> Iterator[None]:
    """Run a task as a server's process does: it ends when its parent is gone, and fails with a sentence.

    The last line of its log, which the server shows, is that sentence and not the end of a traceback.

    Args:
        supervised: False: do nothing at all.
    """
    if not supervised:
        yield
        return
    with ending_with_parent():
        try:
            yield
        except SRCycError as error:
            _log.error("%s", worded(error))
            raise SystemExit(error.exit_code) from None


@contextmanager
def ending_with_parent(interval: float = INTERVAL, last_seconds: float = LAST_SECONDS) -> Iterator[None]:
    """Ask this process to end (SIGTERM) when its parent is gone, and end it if it does not.

    Args:
        interval: seconds between two looks.
        last_seconds: that it has to save and end.
    """
    parent = os.getppid()
    waiting = threading.Event()

    def watch() -> None:
        while not parent_gone(parent):
            if waiting.wait(interval):
                return
        _log.error("the server that started this process is gone: it saves and ends.")
        if os.name == "nt":
            # There the other one ends the process at once; this one calls the handler, which lets it save.
            signal.raise_signal(signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        if not waiting.wait(last_seconds):
            os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    try:
        yield
    finally:
        waiting.set()


def parent_gone(parent: int) -> bool:
    """Tell whether the process that started this one has ended.

    Args:
        parent: its number, as it was at the start.
    """
    # It may have ended before that, and the number be that of whoever adopts orphans: nobody reads our output then.
    return os.getppid() != parent or not psutil.pid_exists(parent) or _nobody_reads()


def _nobody_reads() -> bool:
    """Tell whether standard output is a pipe whose other end is closed."""
    with suppress(OSError):
        if hasattr(select, "poll") and stat.S_ISFIFO(os.fstat(1).st_mode):
            poll = select.poll()
            poll.register(1, 0)
            return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


class Asked(BaseException):
    """The process was asked to end; unwinds everything, as Ctrl-C does, and no reader of scans catches it.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def unwinding(request: StopRequest) -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise :class:`Asked`, once, as :func:`srcyc.training.watch.signals.handled` says.

    Inside, the trainer's own handlers take their place while steps are taken, for the same request.

    Args:
        request: told the signal; one that was told already is not disturbed again while it saves.
    """

    def asked(number: int) -> None:
        if not request.number:
            request.stop(number)
            raise Asked(number)

    with handled(_ENDING, asked):
        yield


@contextmanager
def once(happened: Callable[[], object], act: Callable[[], None], interval: float = 0.2) -> Iterator[None]:
    """Look from a thread of its own whether something happened during the block, and act on it, once.

    A signal's handler must not write files: it interrupts whoever is just writing one.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(interval):
            if happened():
                act()
                return

    thread = threading.Thread(target=watch, name="once", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
