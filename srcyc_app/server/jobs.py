"""Inferences wait in one line: computed one after the other, watched, and taken out when nobody waits for them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import Generic, TypeVar

from srcyc_app.refusals import Refusal, conflict, not_found

T = TypeVar("T")

#: Jobs that may wait beside the one that is computed.
LONGEST = 16
#: Jobs whose progress is remembered after their end.
_REMEMBERED = 256
#: Seconds between two looks at whether the client is still there.
_LOOK = 0.25

#: Seconds after which a refused request may be sent again.
RETRY_AFTER = 15

#: Told the share done, 0 to 1.
Tell = Callable[[float], None]


class State(str, Enum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Cancelled(Exception):
    """Nobody waits for the job any more."""


class Progress:
    """How far a job is.

    Attributes:
        state: where it is.
        share: done, 0 to 1.
    """

    def __init__(self) -> None:
        self.state = State.QUEUED
        self.share = 0.0

    @property
    def over(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self.state not in (State.QUEUED, State.RUNNING)


class Job(Generic[T]):
    """One piece of work in the line.

    Attributes:
        progress: how far it is; lives longer than the job.
        owner: who asked for it; None: nobody knows.
        number: in the order in which they came.
        future: its result.
    """

    def __init__(
        self,
        work: Callable[[Tell], T],
        discard: Callable[[T], None],
        progress: Progress,
        owner: str | None,
        number: int,
    ) -> None:
        self._work = work
        self._discard = discard
        self._given_up = threading.Event()
        self.progress = progress
        self.owner = owner
        self.number = number
        self.future: Future[T]

    def run(self) -> T:
        """Do the work; for the line's thread.

        Raises:
            Cancelled: it was given up.
        """
        progress = self.progress
        progress.state = State.RUNNING
        try:
            self._tell(0.0)
            result = self._work(self._tell)
        except Cancelled:
            progress.state = State.CANCELLED
            raise
        except BaseException:
            progress.state = State.FAILED
            raise
        progress.state, progress.share = State.DONE, 1.0
        return result

    def give_up(self) -> None:
        """Let nobody wait for it any more: it ends at the next sign of progress, and what it makes is discarded."""
        self._given_up.set()
        if self.future.cancel():
            self.progress.state = State.CANCELLED
        else:
            self.future.add_done_callback(self._drop)

    async def wait(self, is_gone: Callable[[], Awaitable[bool]]) -> T:
        """Wait for the result as long as the client does.

        Args:
            is_gone: tells whether the client has hung up.

        Raises:
            Cancelled: the client has hung up, or the server is ending.
        """
        future = asyncio.wrap_future(self.future)
        try:
            while not (await asyncio.wait({future}, timeout=_LOOK))[0]:
                if await is_gone():
                    raise Cancelled
        except BaseException:
            self.give_up()
            future.cancel()
            raise
        if future.cancelled():
            raise Cancelled
        return future.result()

    def _tell(self, share: float) -> None:
        if self._given_up.is_set():
            raise Cancelled
        self.progress.share = min(max(share, 0.0), 1.0)

    def _drop(self, future: Future[T]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._discard(future.result())


class Line:
    """Jobs in their order; one thread does them, so that memory is used once and the machine's cores by one job.

    Args:
        longest: jobs that may wait.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="infer")
        self._active: set[Job] = set()
        self._known: OrderedDict[str, Progress] = OrderedDict()
        self._closed = False
        self._count = 0

    def submit(
        self,
        work: Callable[[Tell], T],
        *,
        discard: Callable[[T], None],
        request_id: str | None = None,
        owner: str | None = None,
        most: int | None = None,
    ) -> Job[T]:
        """Put a job at the end of the line.

        Args:
            work: is given the function to tell its progress to, from which an exception comes when it is given up.
            discard: takes care of a result that nobody waits for any more.
            request_id: under which its progress can be asked for.
            owner: who asks for it.
            most: jobs that an owner may have.

        Raises:
            Refusal: 503, too many are waiting, or the server is ending; 429, the owner has too many; 409, another job
                has this id.
        """
        with self._lock:
            self._check(owner, most)
            self._count += 1
            job = Job(work, discard, self._remember(request_id), owner, self._count)
            job.future = self._executor.submit(job.run)
            self._active.add(job)
        # Called at once if the job is over already.
        job.future.add_done_callback(lambda future: self._over(job))
        return job

    def progress(self, request_id: str) -> Progress:
        """Tell how far a job is.

        Raises:
            Refusal: 404, no job has or had this id.
        """
        with self._lock:
            if request_id not in self._known:
                raise not_found(f"request {request_id!r} is unknown, or was over long ago.")
            return self._known[request_id]

    def counts(self) -> tuple[int, int]:
        """Count the jobs that wait, and those that run."""
        with self._lock:
            states = [job.progress.state for job in self._active]
        return states.count(State.QUEUED), states.count(State.RUNNING)

    def position(self, progress: Progress) -> int:
        """Count the jobs that come before one that waits: 0, it is the next when the one that runs is over."""
        with self._lock:
            waiting = [job for job in self._active if job.progress.state is State.QUEUED]
            number = next((job.number for job in waiting if job.progress is progress), 0)
            return sum(job.number < number for job in waiting)

    def close(self) -> None:
        """Give up all jobs and take no more; returns at once, though what is being computed may take a while to end."""
        with self._lock:
            self._closed = True
            active = list(self._active)
        for job in active:
            job.give_up()
        self._executor.shutdown(wait=False)

    def is_idle(self, within: float = 0.0) -> bool:
        """Tell whether no job is left, after waiting for that at most ``within`` seconds."""
        end = time.monotonic() + within
        while self._active and time.monotonic() < end:
            time.sleep(0.05)
        return not self._active

    def _check(self, owner: str | None, most: int | None) -> None:
        if self._closed:
            raise Refusal(
                503, "the server is ending; send the request again when it is back.", retry_after=RETRY_AFTER
            )
        waiting = sum(job.progress.state is State.QUEUED for job in self._active)
        if waiting >= self._longest:
            raise Refusal(
                503,
                f"{waiting} inferences are waiting already; send the request again later.",
                retry_after=RETRY_AFTER,
            )
        own = sum(job.owner == owner for job in self._active)
        if owner is not None and most is not None and own >= most:
            raise Refusal(
                429,
                f"{own} inferences of yours wait or run already, as many as may; send the request again later.",
                retry_after=RETRY_AFTER,
            )

    def _remember(self, request_id: str | None) -> Progress:
        progress = Progress()
        if request_id is None:
            return progress
        if request_id in self._known and not self._known[request_id].over:
            raise conflict(f"request id {request_id!r}: a request with this id is under way; choose another.")
        self._known[request_id] = progress
        self._known.move_to_end(request_id)
        over = [known for known, progress in self._known.items() if progress.over]
        for known in over[: max(0, len(over) - _REMEMBERED)]:
            del self._known[known]
        return progress

    def _over(self, job: Job) -> None:
        with self._lock:
            self._active.discard(job)
