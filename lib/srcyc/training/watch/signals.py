"""Being asked to stop: the step is finished and everything saved before the program goes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

#: SIGTERM is what a scheduler, a container or a shutting-down system sends; SIGINT is Ctrl-C; SIGHUP, which Windows
#: does not have, comes when the terminal goes away; SIGBREAK is Windows' own: a closed console, and the only one that
#: another process can send there.
STOPPING = [
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
def handled(numbers: Iterable[int], act: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Let signals call ``act`` with their number (main thread only; in others, nothing changes).

    What is ignored (nohup) stays so. Gives what puts the earlier handlers back before the end of the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    handlers = {number: signal.getsignal(number) for number in numbers}
    previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

    def restore() -> None:
        for number, handler in previous.items():
            # None: set by a program that embeds Python; it cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    for number in previous:
        signal.signal(number, lambda number, frame: act(number))
    try:
        yield restore
    finally:
        restore()


@contextmanager
def listening(request: StopRequest) -> Iterator[None]:
    """Let SIGTERM, SIGINT, SIGHUP and SIGBREAK ask ``request`` to stop, as :func:`handled` says.

    A second Ctrl-C acts as it did before: somebody is impatient. A second SIGTERM says nothing new: a process group
    and torchrun each send their own; who has waited long enough sends SIGKILL.
    """

    def asked(number: int) -> None:
        if request.number == signal.SIGINT == number:
            restore()
            signal.raise_signal(number)
        else:
            request.stop(number)

    with handled(STOPPING, asked) as restore:
        yield
