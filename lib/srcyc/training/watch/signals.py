"""Being asked to stop: the step is finished and everything saved before the program goes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: SIGTERM is what a scheduler, a container or a shutting-down system sends; SIGINT is Ctrl-C; SIGHUP, which Windows
#: does not have, comes when the terminal goes away; SIGBREAK is Windows' own: a closed console, and the only one that
#: another process can send there.
_SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]


class StopRequest:
    """Whether somebody wants the run to stop.

    Attributes:
        number: of the signal that came, 0 as long as none has.
    """

    number: int = 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask for it; a thread that runs a training is asked in this way."""
        self.number = int(number)


@contextmanager
def listening(request: StopRequest) -> Iterator[None]:
    """Let SIGTERM, SIGINT, SIGHUP and SIGBREAK ask ``request`` to stop (main thread only); what is ignored stays so.

    A second Ctrl-C acts as it did before: somebody is impatient. A second SIGTERM says nothing new: a process group
    and torchrun each send their own; who has waited long enough sends SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

    def asked(number: int, frame: FrameType | None) -> None:
        if request.number == signal.SIGINT == number:
            restore()
            signal.raise_signal(number)
            return
        request.stop(number)

    def restore() -> None:
        for number, handler in previous.items():
            # None: set by a program that embeds Python; it cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    for number in previous:
        signal.signal(number, asked)
    try:
        yield
    finally:
        restore()
