"""Whether the server lives, whether it can do its work, and its numbers: for systems that watch it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool

from srcyc.errors import SRCycError
from srcyc_app.server.replies import Json
from srcyc_app.server.services import Served, Services

router = APIRouter(tags=["Health"])

#: Bytes without which a place counts as full.
_ROOM = 500_000_000


@router.get("/health/live", summary="Whether the server answers")
async def live() -> dict[str, str]:
    """Always 200, at once: it needs no thread and no disk."""
    return {"status": "live"}


@router.get("/health/ready", summary="Whether it can do its work")
async def ready(served: Served) -> Response:
    """200, or 503 where a check says no: ``studies``, ``models``, ``disk``."""
    checks = await run_in_threadpool(_checks, served)
    fine = all(word == "ok" for word in checks.values())
    return Json({"status": "ready" if fine else "not ready", "checks": checks}, 200 if fine else 503)


@router.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Requests by action and outcome, seconds, the line, tasks, disks, the process."""
    text = await run_in_threadpool(generate_latest, request.app.state.metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _checks(served: Services) -> dict[str, str]:
    return {"studies": _studies(served), "models": _models(served), "disk": _disk(served)}


def _studies(served: Services) -> str:
    if served.app.folder is None:
        return str(served.app.datastore().status().get("error", "ok"))
    try:
        os.listdir(served.app.folder)
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    return "ok"


def _models(served: Services) -> str:
    try:
        served.app.shelf.find()
    except SRCycError:
        return "there is none to use"
    return "ok"


def _disk(served: Services) -> str:
    full = []
    for place, path in served.places().items():
        try:
            if shutil.disk_usage(Path(path)).free < _ROOM:
                full.append(place)
        except OSError:
            full.append(place)
    return f"full: {', '.join(full)}" if full else "ok"
