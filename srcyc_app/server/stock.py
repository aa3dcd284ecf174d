"""MONAI Label's own server with the app in it: what its routes hand on from a client is checked in front of them."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from srcyc_app.refusals import Refusal, forbidden, not_found, unusable
from srcyc_app.server.asgi import HttpMiddleware
from srcyc_app.server.failures import Failures, problem
from srcyc_app.server.middleware import KnownHosts, KnownOrigins, UploadLimit
from srcyc_app.server.names import address_of
from srcyc_app.server.processes import LONGEST

_SERVER = "monailabel.app"
#: Its background tasks set CUDA_VISIBLE_DEVICES to it.
_GPUS = re.compile(r"(all|\d{1,3}(,\d{1,3})*)?")
#: Read by MONAI Label from a task's request and put into the environment, the import path or a process.
_INTERNAL = ("bundle_path", "local_rank")
_TRUE = ("1", "true", "yes", "on", "t", "y")


def is_stock_server() -> bool:
    """Tell whether this process is MONAI Label's own server."""
    return _SERVER in sys.modules


def guard(hosts: Sequence[str], largest: Callable[[], int]) -> None:
    """Put the checks in front of the routes of MONAI Label's own server, if this process is one.

    Args:
        hosts: names by which it may be called, besides this machine's own and any address.
        largest: gives the bytes that an upload may have.
    """
    module = sys.modules.get(_SERVER)
    application = getattr(module, "app", None)
    if application is None or application.middleware_stack is None:
        return
    from monailabel.config import settings

    origins = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    # Complete by now: this runs when the server has begun to start. What comes in from here on takes the new way.
    guarded: ASGIApp = HandedOn(application.middleware_stack)
    guarded = UploadLimit(Failures(guarded), largest)
    guarded = KnownHosts(
        KnownOrigins(guarded, origins), [*own_names(), *hosts], addresses=True, option="--conf allowed_hosts"
    )
    if not _host_was_chosen(sys.argv):
        guarded = OwnMachine(guarded)
    application.middleware_stack = guarded
    for handler in logging.getLogger().handlers:
        handler.addFilter(one_line)


class HandedOn(HttpMiddleware):
    """Refuses what MONAI Label's routes would hand on to a process, a path, or the PACS."""

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_address(scope["method"], scope["path"], QueryParams(scope["query_string"]))
            if _begins_a_task(scope):
                # Of a size that the upload limit bounds.
                body = await Request(scope, receive).body()
                check_task(body)
                receive = _again(body, receive)
        except Refusal as refusal:
            await problem(refusal.status_code, str(refusal))(scope, receive, send)
            return
        await self._app(scope, receive, send)


class OwnMachine(HttpMiddleware):
    """Refuses whoever is not on this machine: where nobody chose an address, MONAI Label's server listens on all."""

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = address_of((scope.get("client") or ("", 0))[0])
        if address is None or not address.is_loopback:
            sentence = (
                "this server has no login and was started without --host, so it answers this machine only; use "
                "`srcyc serve` behind a proxy, or choose --host if everybody on the network may use it."
            )
            await problem(403, sentence)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def check_address(method: str, path: str, query: Mapping[str, str]) -> None:
    """Refuse the routes of MONAI Label that this app has no use for, and that lead out of it.

    Raises:
        Refusal: 403, 404 or 422.
    """
    if path.startswith("/proxy/"):
        raise forbidden("the DICOMweb server is not passed through here; ask it itself.")
    if path.startswith("/ohif") and ("\\" in path or ".." in path):
        raise not_found("/ohif: there is no such file.")
    if method in ("GET", "HEAD", "OPTIONS"):
        return
    if path == "/reload":
        raise forbidden("the app is not loaded anew on request; restart the server.")
    if path.startswith("/scoring"):
        raise not_found("there are no scoring methods here.")
    if path.startswith(("/infer/wsi/", "/infer/wsi_v2/")):
        raise not_found("there are no whole-slide images here.")
    if query.get("output") == "dicom_seg":
        raise unusable("output: results are volumes, not segmentations; ask for image, json or all.")
    if query.get("run_sync", "").lower() in _TRUE:
        raise unusable("run_sync: it would take hours; leave it out and ask for the status.")


def check_task(body: bytes) -> None:
    """Refuse a training's or a batch's request that sets what is MONAI Label's or the server's own to set.

    Raises:
        Refusal: 422.
    """
    if len(body) > LONGEST:
        raise unusable(f"params: {len(body)} bytes, at most {LONGEST} are taken; send less.")
    try:
        request = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise unusable("params: not JSON; send an object.") from None
    # POST /train/ has one object for each trainer.
    for part in (request, *(request.values() if isinstance(request, dict) else ())):
        if not isinstance(part, dict):
            continue
        for key in _INTERNAL:
            if key in part:
                raise unusable(f"{key}: set by the server itself; leave it out.")
        gpus = part.get("gpus") or ""
        if not isinstance(gpus, str) or not _GPUS.fullmatch(gpus):
            raise unusable(f"gpus {str(gpus)[:60]!r}: give all, or numbers with commas between them.")


def own_names() -> list[str]:
    """Give the names of this machine."""
    name = socket.gethostname()
    return [name, name.partition(".")[0], socket.getfqdn(name)]


def one_line(record: logging.LogRecord) -> bool:
    """Keep what a client sent from beginning a line of the log, where MONAI Label logs it as it came."""
    message = record.getMessage()
    if any(char in message for char in "\r\n"):
        record.msg, record.args = message.replace("\r", "\\r").replace("\n", "\\n"), None
    return True


def _begins_a_task(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"].startswith(("/train", "/batch/"))


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to whoever reads it next."""
    left = [body]

    async def replay() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replay


def _host_was_chosen(arguments: Sequence[str]) -> bool:
    """Tell whether the command line names an address; `argparse` takes its option's beginnings too."""
    return any(text.startswith(("--ho", "-i")) for text in arguments)
