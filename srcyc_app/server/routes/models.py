"""Model files: told about to everybody, sent and changed only where the server was started for it."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, File, UploadFile
from fastapi.responses import FileResponse, Response

from srcyc.files import copied, sha256
from srcyc.models.model_file import SUFFIX
from srcyc_app.core import NAME
from srcyc_app.refusals import conflict, forbidden, refusing, unusable
from srcyc_app.server.access import current
from srcyc_app.server.audit import note
from srcyc_app.server.replies import OpenedFile
from srcyc_app.server.routes.datastore import Binary
from srcyc_app.server.services import Served, Services
from srcyc_app.server.uploads import check_object, save

router = APIRouter(prefix="/model", tags=["Model"])

_log = logging.getLogger(__name__)


@router.get("/active", summary="Which model is in use, and which were")
def active(served: Served) -> dict[str, Any]:
    """``active`` and ``history``: name, SHA-256, time, and who chose it."""
    return served.app.shelf.activations.as_json()


@router.put("/active", summary="Choose the model in use")
def activate(served: Served, params: Annotated[dict[str, Any] | None, Body()] = None) -> dict[str, Any]:
    """``{"model": NAME}``, or ``{"rollback": true}`` for the one before. It counts from the next inference on."""
    wanted, shelf = check_object(params, "params"), served.app.shelf
    before = shelf.activations.current
    if wanted.get("rollback") is True:
        made = shelf.roll_back(current().name)
    elif isinstance(name := wanted.get("model"), str):
        made = shelf.activate(name, current().name)
    else:
        raise unusable('params: send {"model": NAME} or {"rollback": true}.')
    note(model=made.name, sha256=made.sha256, before=before.sha256 if before is not None else None)
    return shelf.activations.as_json()


@router.get("/info/{model}", summary="Check sum and card of a model")
def info(served: Served, model: str) -> dict[str, Any]:
    """A name under ``weights`` in /info/; ``srcyc`` is the default model."""
    path = _find(served, model)
    stats = served.app.info()["train_stats"].get(NAME, {}) if model == NAME else {}
    return {
        **_state(path),
        "card": served.app.shelf.cards().get(path.stem, {}),
        **({"train_stats": stats} if stats else {}),
    }


@router.get("/{model}", summary="Download a model", response_class=FileResponse, responses=Binary)
def download(served: Served, model: str) -> Response:
    """The .safetensors file."""
    _require_allowed(served)
    path = _find(served, model)
    return OpenedFile(path)


@router.put("/{model}", summary="Upload a model")
def upload(served: Served, model: str, file: Annotated[UploadFile, File()]) -> dict[str, Any]:
    """A model that ``srcyc train`` or this server published; it replaces a retrained one of the same name."""
    _require_allowed(served)
    target = _target(served, model)
    with served.scratch.room() as room:
        given = save(file, room, f"{model}{SUFFIX}")
        with refusing(given, file.filename or "file"):
            served.app.reading.model(given)
        copied(given, target)
    _log.info("%s: uploaded", target)
    state = _state(target)
    note(sha256=state["checksum"].removeprefix("SHA256:"))
    return state


@router.delete("/{model}", summary="Take a retrained model off the shelf")
def remove(served: Served, model: str) -> dict[str, Any]:
    """The file stays, under a name that ends in ``.deleted``."""
    _require_allowed(served)
    target = _target(served, model)
    served.app.shelf.find(model)
    in_use = served.app.shelf.activations.current
    if in_use is not None and in_use.name == model:
        raise conflict(f"model {model!r}: is in use; activate another one first.")
    os.replace(target, target.with_name(f"{target.name}.{time.strftime('%Y%m%d_%H%M%S')}.deleted"))
    _log.info("%s: taken off the shelf", target)
    return {}


def _find(served: Services, model: str) -> Path:
    shelf = served.app.shelf
    return shelf.find(None if model == NAME and NAME not in shelf.names() else model)


def _target(served: Services, model: str) -> Path:
    if model == NAME:
        raise conflict(f"model name {NAME!r}: stands for the default model; name a retrained one.")
    return served.app.shelf.target(model)


def _require_allowed(served: Services) -> None:
    if not served.app.allow_model_files:
        raise forbidden(
            "model files are neither sent nor changed; start the server with --allow-model-files."
        )


def _state(path: Path) -> dict[str, Any]:
    return {"checksum": f"SHA256:{sha256(path)}", "modified_time": int(path.stat().st_mtime)}
