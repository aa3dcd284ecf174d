"""HTTP connections that are not waited for without end, and not too many of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_log = logging.getLogger(__name__)

#: Seconds within which a request's head has to be complete.
HEAD_SECONDS = 20.0
#: Seconds within which more of a body has to come, and more of a reply has to be taken.
BODY_SECONDS = 60.0
#: Connections at a time; one more closes the one that has been idle for longest.
MOST = 500
#: More than the connections need: files, processes, pipes.
FILES = 4096


class PatientProtocol(H11Protocol):
    """uvicorn's, whose connections may be silent for ever, with an end to each silence."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._head_began: float | None = None
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        # One that is being closed is still among them for a moment.
        open_ones = [
            other for other in self.connections if isinstance(other, PatientProtocol) and other._is_open
        ]
        if len(open_ones) > MOST:
            # This one is idle too.
            min((o for o in open_ones if o._is_idle), key=lambda other: other._idle_since)._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        self._head_began = None
        self._idle_since = self.loop.time()
        super().on_response_complete()
        if not self.transport.is_closing():
            # Until then uvicorn's own timer for idle connections counts.
            self._stop_timer()
            self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_timer(BODY_SECONDS, self._not_taken)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_timer()

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _is_open(self) -> bool:
        return not self.transport.is_closing()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        """Begin to wait for what has to come next."""
        if self.transport.is_closing():
            return
        if self._is_idle:
            # A part of a head: it has to be complete in time, however slowly it drips.
            if self.conn.trailing_data[0] and self._head_began is None:
                self._await_head()
        elif self.cycle.more_body:
            self._head_began = None
            self._start_timer(BODY_SECONDS, self._no_body)
        else:
            self._head_began = None
            self._stop_timer()

    def _await_head(self) -> None:
        self._idle_since = self._head_began = self.loop.time()
        self._start_timer(HEAD_SECONDS, self._close)

    def _no_body(self) -> None:
        if self.flow.read_paused:
            # It is this side that does not take it.
            self._start_timer(BODY_SECONDS, self._no_body)
            return
        _log.info("%s: nothing more of a request came for %.0f s", self.client, BODY_SECONDS)
        self._close()

    def _not_taken(self) -> None:
        if self.flow.write_paused:
            _log.info("%s: nothing more of a reply was taken for %.0f s", self.client, BODY_SECONDS)
            self.transport.abort()

    def _close(self) -> None:
        self._stop_timer()
        self.transport.close()

    def _start_timer(self, seconds: float, then: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def allow_files() -> None:
    """Let this process open as many files as its connections need; 1,024 is what many systems begin with."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
