"""What the server is, how far a request is, the next sample, the log."""

from __future__ import annotations

import html
import time
from collections import deque
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from srcyc_app.refusals import Refusal, not_found
from srcyc_app.server.audit import note
from srcyc_app.server.jobs import State
from srcyc_app.server.logs import LOG
from srcyc_app.server.services import Served
from srcyc_app.server.uploads import check_object, first
from srcyc_app.studies.identifiers import check_request_id

router = APIRouter()

_MOST_LINES = 100_000

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>SRCyc</title>
<style>body {{ font: 1rem/1.5 sans-serif; margin: 3rem; max-width: 45rem }}</style></head>
<body><h1>SRCyc {version}</h1>
<p>{description}</p>
<ul>
<li><a href="compare/">compare</a>: a scan beside its result</li>
<li><a href="info/">info</a>: models, trainers, options, progress of training</li>
<li><a href="datastore/?output=all">datastore</a>: the scans</li>
<li><a href="logs/">logs</a></li>
<li><a href="openapi.json">openapi.json</a>: every address and its parameters</li>
</ul></body></html>
"""


@router.get("/", include_in_schema=False)
def page(served: Served) -> HTMLResponse:
    """Show a browser what is here."""
    app = served.app
    return HTMLResponse(
        _PAGE.format(version=html.escape(app.version), description=html.escape(app.description))
    )


@router.get("/info/", tags=["App"], summary="What the app offers, its scans, and the progress of training")
def info(served: Served) -> dict[str, Any]:
    """Models, trainers and strategies with their options; ``train_stats``; ``datastore``."""
    return served.app.info()


@router.get("/progress/{request_id}", tags=["Infer"], summary="How far an inference is")
def progress(served: Served, request_id: str) -> dict[str, Any]:
    """``state`` (queued, running, done, failed, cancelled) and ``share`` of an inference sent with ``request_id``.

    ``position``: how many are before it in the queue.
    """
    found = served.line.progress(check_request_id(request_id))
    told = {"state": found.state.value, "share": round(found.share, 4)}
    return {**told, "position": served.line.position(found)} if found.state is State.QUEUED else told


@router.post("/activelearning/{strategy}", tags=["ActiveLearning"], summary="The next sample")
def next_sample(
    served: Served, strategy: str, params: Annotated[dict[str, Any] | None, Body()] = None
) -> dict[str, Any]:
    """Choose a scan and tell all about it; an empty object if there is none."""
    options = check_object(params, "params")
    app = served.app
    result = app.next_sample({**options, "strategy": strategy})
    if not result:
        return {}
    datastore = app.datastore()
    image = result["id"]
    note(image=image)
    served_to = {"ts": int(time.time()), "client_id": str(first(options.get("client_id")) or "")[:100]}
    known = datastore.get_image_info(image)
    # A studies folder that is open for reading only remembers nothing.
    with suppress(Refusal):
        datastore.update_image_info(image, {"strategy": {**known.get("strategy", {}), strategy: served_to}})
    return {**result, **datastore.get_image_info(image)}


@router.get(
    "/logs/",
    tags=["Others"],
    summary="The end of the server's log",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def logs(served: Served, lines: Annotated[int, Query(ge=0, le=_MOST_LINES)] = 300) -> Response:
    """Send the last ``lines`` of the log as text."""
    path = served.app.model_dir / LOG
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            text = "".join(deque(stream, lines))
    except FileNotFoundError:
        raise not_found("no log has been written yet.") from None
    return PlainTextResponse(text)
