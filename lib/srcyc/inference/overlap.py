"""Two scans at a time in one process: while one is computed, the other is read or written.

A scan is done by one thread from its beginning to its end, so its errors and its tries are its own; the threads take
turns at computing, which has all the arithmetic of the processor or the GPU to itself, and at writing. No more than two
scans are in memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from srcyc.errors import InputError

if TYPE_CHECKING:
    from srcyc.volumes.volume import Volume

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")

#: Raises if the work is to stop: called where nothing is half done.
Check = Callable[[], None]

#: Scans at a time: one is computed, one read or written.
AT_A_TIME = 2
#: Seconds after which is seen whether somebody wants to stop: Windows tells nobody who waits without an end.
_PATIENCE = 0.5

_computing, _writing = threading.Lock(), threading.Lock()


class _Stopped(BaseException):
    """Unwinds a thread whose result nobody wants any more: no failure of a scan."""


def never() -> None:
    """Never stop."""


def in_order(do: Callable[[_Item, Check], _Done], items: Sequence[_Item]) -> Generator[_Done, None, None]:
    """Do two items at a time, and give the results in the order of the items.

    Whatever ends it early (closing it, Ctrl-C) stops what is computed, lets what is written be finished, and waits for
    both.

    Args:
        do: one, in any thread, within :func:`computing` and :func:`writing` where it does so; calls the check that it
            is given now and then.
        items: all of them; a single one is done by this thread.
    """
    if len(items) < AT_A_TIME:
        yield from (do(item, never) for item in items)
        return
    stopped = threading.Event()

    def check() -> None:
        if stopped.is_set():
            raise _Stopped

    pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="scan")
    try:
        futures = deque(pool.submit(do, item, check) for item in items)
        while futures:
            while not wait([futures[0]], timeout=_PATIENCE).done:
                pass
            yield futures.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def computing(check: Check) -> Iterator[None]:
    """Have this process's arithmetic to oneself."""
    with _computing:
        check()
        yield


@contextmanager
def writing(check: Check) -> Iterator[None]:
    """Write alone: what draws pictures is not made for several threads."""
    with _writing:
        check()
        yield


def read(source: Path, *, fill_gaps: bool = False) -> Volume:
    """Read a scan; one that is refused while another is in memory is read again when it is gone: room may have lacked.

    Raises:
        VolumeError: see :func:`srcyc.volumes.volume.read_volume`.
    """
    from srcyc.volumes.volume import read_volume

    try:
        return read_volume(source, fill_gaps=fill_gaps)
    except InputError:
        if not (_computing.locked() or _writing.locked()):
            raise
    with _computing, _writing:
        return read_volume(source, fill_gaps=fill_gaps)
