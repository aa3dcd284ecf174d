"""What goes wrong reaches the client as a status and one sentence; a traceback only reaches the log."""

from __future__ import annotations

import logging
from http.client import responses
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from srcyc.errors import InputError, SRCycError
from srcyc.files import is_full
from srcyc.memory import is_out_of_memory
from srcyc_app.refusals import DISK_FULL, worded
from srcyc_app.server.asgi import HttpMiddleware
from srcyc_app.server.audit import note
from srcyc_app.server.replies import Json

_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """What every refusal and failure looks like.

    Attributes:
        detail: one sentence: what, which value, what to do.
    """

    detail: str


#: For the schema of every route.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "Refused: the request cannot be met, and why"},
    "5XX": {"model": Problem, "description": "Failed, or not possible now"},
}


def add_handlers(app: FastAPI) -> None:
    """Let an application answer what its routes raise."""
    app.add_exception_handler(RequestValidationError, _mistaken)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(SRCycError, _failed)


class Failures(HttpMiddleware):
    """ASGI middleware: answers 500 to whatever else a route raises, and logs it."""

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            _log.info("%s %s: the client hung up", scope["method"], scope["path"])
        except Exception as error:
            if begun:
                raise
            status, sentence = _unexpected(error)
            _log.exception("%s %s: %s", scope["method"], scope["path"], sentence)
            await problem(status, sentence)(scope, receive, send)


def problem(status: int, sentence: str, headers: Any = None) -> Response:
    """Make the reply that says what is wrong, and let the audit log say it too."""
    note(reason=sentence)
    return Json({"detail": sentence}, status_code=status, headers=headers)


async def _mistaken(request: Request, error: Any) -> Response:
    """Say the first of the mistakes that FastAPI found in a request."""
    first = error.errors()[0]
    place = " ".join(str(part) for part in first.get("loc", ()) if not isinstance(part, int)) or "request"
    reason = str(first.get("msg", "not valid"))
    more = first.get("ctx", {}).get("error") if first.get("type") == "json_invalid" else None
    # "Input should be ..." goes on in small letters, "JSON decode error" does not.
    reason = reason[:1].lower() + reason[1:] if reason[1:2].islower() else reason
    return problem(422, f"{place}: {reason}{f' ({more})' if more else ''}.")


async def _refused(request: Request, error: Any) -> Response:
    """Answer a refusal; the framework's own phrases become sentences."""
    status, detail = error.status_code, str(error.detail)
    if detail == responses.get(status):
        detail = {
            404: f"{request.url.path[:100]}: there is no such address here; / lists what there is.",
            405: f"{request.url.path[:100]}: {request.method} is not possible here.",
        }.get(status, f"{detail}: the request cannot be met.")
    return problem(status, detail, error.headers)


async def _failed(request: Request, error: Any) -> Response:
    """Answer what the library complains of: the input's fault, a full disk, or a failure."""
    if is_full(error):
        _log.error("%s", error)
        return problem(507, DISK_FULL)
    if isinstance(error, InputError):
        return problem(422, worded(error))
    _log.error("%s", error)
    return problem(500, worded(error))


def _unexpected(error: Exception) -> tuple[int, str]:
    if is_full(error):
        return 507, DISK_FULL
    if is_out_of_memory(error):
        return 507, "the server is out of memory; ask for a coarser target_spacing, or try again later."
    return 500, f"unexpected {type(error).__name__} on the server; its log has the rest."
