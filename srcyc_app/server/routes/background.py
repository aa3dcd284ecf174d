"""Training and batch inference: begin, watch, stop."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Body

from srcyc_app.core import NAME
from srcyc_app.infers.batch import check_images
from srcyc_app.infers.options import Options
from srcyc_app.refusals import Refusal, not_found, unusable
from srcyc_app.server.access import current, require
from srcyc_app.server.actions import Role
from srcyc_app.server.audit import note
from srcyc_app.server.processes import LONGEST, Background
from srcyc_app.server.services import Served
from srcyc_app.server.uploads import check_object

router = APIRouter()

Params = Annotated[dict[str, Any] | None, Body()]


class Images(str, Enum):
    """MONAI Label's choices; labels are not made here, so all of them mean the scans without a result."""

    ALL = "all"
    LABELED = "labeled"
    UNLABELED = "unlabeled"


@router.get("/train/", tags=["Train"], summary="How training is going")
def training(served: Served, all: bool = False, check_if_running: bool = False) -> Any:
    """The newest task, or ``all``; with ``check_if_running`` 404 unless one runs. Losses: ``train_stats`` of /info/."""
    return _status(served.training, "training", all, check_if_running)


@router.post("/train/", tags=["Train"], include_in_schema=False)
def train_all(served: Served, params: Params = None, run_sync: bool = False) -> dict[str, Any]:
    """Begin with every trainer; there is one."""
    given = check_object(params, "params", LONGEST)
    own = given.get(NAME, given)
    return {NAME: {"result": train(served, NAME, own, run_sync, enqueue=True), "detail": None}}


@router.post("/train/{model}", tags=["Train"], summary="Begin a training, or go on with one")
def train(
    served: Served, model: str, params: Params = None, run_sync: bool = False, enqueue: bool = False
) -> dict[str, Any]:
    """Options: ``trainers`` in /info/. 429 while another one runs."""
    request = {**check_object(params, "params", LONGEST), "model": model}
    _refuse_sync(run_sync)
    if model != NAME:
        raise not_found(f"model {model[:60]!r} is unknown; there is {NAME}.")
    busy = Refusal(429, "a training is running already; stop it first, or wait for its end.")
    if served.training.running() and not enqueue:
        raise busy
    served.app.check_training(request)
    note(run=str(request.get("name") or "retrained"))
    task = served.training.start(request, enqueue=enqueue, owner=current().name)
    if task is None:
        raise busy
    return task


@router.delete("/train/", tags=["Train"], summary="Stop the training")
def stop_training(served: Served) -> dict[str, Any] | None:
    """It finishes its step and saves everything; the same request begins again from there. null if none runs."""
    if served.training.running() and served.training.owner() != current().name:
        require(Role.ADMIN, "to stop the training of somebody else")
    return served.training.stop()


@router.get("/batch/infer", tags=["Infer"], summary="How batch inference is going")
def batch(served: Served, all: bool = False, check_if_running: bool = False) -> Any:
    """The newest task, or ``all``; ``details`` has a line for each of the last scans."""
    return _status(served.batch, "batch inference", all, check_if_running)


@router.post("/batch/infer/{model}", tags=["Infer"], summary="Super-resolve many scans")
def start_batch(
    served: Served,
    model: str,
    images: Images = Images.ALL,
    params: Params = None,
    run_sync: bool = False,
) -> dict[str, Any]:
    """All thick-slice scans without a result, or ``images`` in ``params``: a list of ids. 429 while one runs."""
    request = {"images": images.value, **check_object(params, "params", LONGEST), "model": model}
    _refuse_sync(run_sync)
    if model != NAME:
        raise not_found(f"model {model[:60]!r} is unknown; there is {NAME}.")
    check_images(request["images"], served.app.datastore())
    # MONAI Label's default is a GPU, be there one or not: the task deals with it.
    Options.of({key: value for key, value in request.items() if key != "device"})
    images_ = request["images"]
    note(images=images_ if isinstance(images_, str) else " ".join(images_))
    task = served.batch.start(request, owner=current().name)
    if task is None:
        raise Refusal(429, "a batch inference is running already; stop it first, or wait for its end.")
    return task


@router.delete("/batch/infer", tags=["Infer"], summary="Stop the batch inference")
def stop_batch(served: Served) -> dict[str, Any] | None:
    """What is finished is kept. null if none runs."""
    return served.batch.stop()


def _status(background: Background, what: str, everything: bool, running: bool) -> Any:
    tasks = background.tasks()
    found = background.running() if running else tasks[-1] if tasks else None
    if found is None:
        raise not_found(f"no {what} is running now." if running else f"no {what} has been started yet.")
    return tasks if everything and not running else found


def _refuse_sync(run_sync: bool) -> None:
    if run_sync:
        raise unusable("run_sync: it would take hours; leave it out and ask for the status.")
