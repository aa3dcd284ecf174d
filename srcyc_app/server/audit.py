"""The audit log: who did what with which scan or model, and what came of it; of a patient only the scan's id."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from starlette.datastructures import QueryParams

from srcyc.documents import json_line
from srcyc.errors import OutputError
from srcyc_app.server.access import Rules
from srcyc_app.server.actions import action_of
from srcyc_app.server.asgi import HttpMiddleware
from srcyc_app.server.logs import AUDIT, LogFile
from srcyc_app.server.replies import Reply

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


_log = logging.getLogger(__name__)

Format = Literal["text", "json"]

#: Characters of a value that came from a client.
_LONGEST = 200
_REFUSED = (401, 403)
_HARMLESS = ("GET", "HEAD", "OPTIONS")

#: What a route adds to the line of its request.
_notes: ContextVar[dict[str, Any] | None] = ContextVar("notes", default=None)


def note(**facts: Any) -> None:
    """Add to the line of the request that is being answered: ``image``, ``model``, ``reason`` …"""
    notes = _notes.get()
    if notes is not None:
        notes.update(facts)


class Audit(HttpMiddleware):
    """Writes a line for every request that touches a scan or a model, and for all that are refused access.

    It is written before the reply has gone out whole: nobody has a scan of which the log does not tell. The server's
    own log tells of every request that may change something, without its query.

    Args:
        rules: tell who asks.
        observe: told action, outcome and seconds of every request.
    """

    def __init__(
        self, app: ASGIApp, rules: Rules, observe: Callable[[str, str, float], None] = lambda *_: None
    ) -> None:
        super().__init__(app)
        self._rules = rules
        self._observe = observe

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        notes: dict[str, Any] = {}

        def end() -> None:
            method, path, status = scope["method"], scope["path"], reply.status
            action, seconds = action_of(method, path), time.perf_counter() - start
            if method not in _HARMLESS:
                shown = path[:_LONGEST].encode("unicode_escape").decode()
                _log.info("%s %s: %s, %.2f s", method, shown, status or "no reply", seconds)
            self._observe(action.name, outcome_of(status), seconds)
            if action.logged or status in _REFUSED:
                person = self._rules.who(scope)
                _write(
                    {
                        "user": person.name if person is not None else None,
                        "address": self._rules.address(scope),
                        "action": action.name,
                        **_subject(scope),
                        **notes,
                        "outcome": outcome_of(status),
                        "status": status or None,
                        "seconds": round(seconds, 3),
                    }
                )

        reply = Reply(send, scope, end)
        before = _notes.set(notes)
        try:
            await self._app(scope, receive, reply)
        finally:
            _notes.reset(before)
            reply.over()


def outcome_of(status: int) -> str:
    """Put a status into a word."""
    if status == 0 or status == 499:
        return "hung up"
    if status < 400:
        return "done"
    return "refused" if status < 500 or status in (501, 503, 507) else "failed"


def audit_to(path: Path, form: Format = "text", keep: int = 50) -> LogFile:
    """Write the audit log to a file.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = LogFile(path, keep)
        handler.stream = handler._open()
    except OSError as error:
        raise OutputError(
            f"{path}: the audit log cannot be written ({error.strerror})", remedy="give another --audit-log"
        ) from error
    handler.setFormatter(_Lines(form))
    logger = logging.getLogger(AUDIT)
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return handler


class _Lines(logging.Formatter):
    def __init__(self, form: Format) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        facts: Mapping[str, Any] = record.__dict__["facts"]
        told = {
            key: value[:_LONGEST] if isinstance(value, str) else value
            for key, value in facts.items()
            if value is not None
        }
        if self._form == "json":
            return json_line(told)
        time_, *others = told.items()
        return " ".join([str(time_[1]), *(f"{key}={_word(value)}" for key, value in others)])


def _write(facts: Mapping[str, Any]) -> None:
    now = datetime.now().astimezone().isoformat(timespec="milliseconds")
    logging.getLogger(AUDIT).info("", extra={"facts": {"time": now, **facts}})


def _subject(scope: Scope) -> dict[str, Any]:
    """Give what a request is about, as far as its address says it."""
    query = QueryParams(scope["query_string"])
    parts = [part for part in scope["path"].split("/") if part]
    facts: dict[str, Any] = {}
    if image := query.get("image") or query.get("id") or query.get("label"):
        facts["image"] = image
    if session := query.get("session_id") or (
        parts[1] if parts[:1] == ["session"] and len(parts) > 1 else None
    ):
        facts["session"] = session
    if parts[:1] == ["model"] and len(parts) > 1 and parts[-1] != "active":
        facts["model"] = parts[-1]
    if tag := query.get("tag"):
        facts["tag"] = tag
    return facts


def _word(value: Any) -> str:
    """Give a value that no blank, quote or line end of a client's can make look like something else."""
    text = str(value)
    plain = text.isascii() and text.isprintable() and not any(char in text for char in ' "=\\')
    return text if plain and text else json_line(text)
