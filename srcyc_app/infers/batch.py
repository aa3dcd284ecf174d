"""Batch inference: all thick-slice scans that have no result yet, one after the other, whatever one of them does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore

from srcyc.errors import InputError, NothingToDoError, StoppedError
from srcyc.inference.results import LABELS, MAPS
from srcyc.training.watch.signals import StopRequest
from srcyc_app.infers.options import Options
from srcyc_app.refusals import not_found, unusable
from srcyc_app.studies.datastore import StudiesFolder, studies_folder
from srcyc_app.studies.domains import scans_in
from srcyc_app.studies.identifiers import check_image_id
from srcyc_app.trainers.supervision import Asked, background_process, is_background_process, unwinding

_log = logging.getLogger(__name__)

#: MONAI Label's for which images are meant; labels are not made here, so all of them mean the scans without a result.
_WORDS = ("all", "labeled", "unlabeled")

Infer = Callable[[dict[str, Any], Datastore], dict[str, Any]]


class BatchSuperResolution:
    """Keeps each result in the datastore as image ``ID_sr`` in the domain SR."""

    def __call__(
        self, request: Mapping[str, Any], datastore: Datastore, infer: Infer
    ) -> dict[str, dict[str, Any]]:
        """Do them all.

        Returns:
            By id: ``status`` (written, skipped, refused, failed), ``stored_as`` and ``message``.

        Raises:
            Refusal: 4xx, nothing can be done at all.
            StoppedError: it was asked to stop.
            SystemExit: instead of these, in a server's process.
        """
        with background_process(is_background_process()):
            try:
                with unwinding(StopRequest()):
                    return self._do(request, datastore, infer)
            except Asked as asked:
                raise StoppedError(f"{asked}; what was finished is kept.", asked.number) from None

    def _do(
        self, request: Mapping[str, Any], datastore: Datastore, infer: Infer
    ) -> dict[str, dict[str, Any]]:
        datastore = studies_folder(datastore, "a batch")
        wanted = _options(request)
        Options.of(wanted)
        images = request.get("images", "all")
        check_images(images, datastore)
        images = scans_in(datastore, "LR") if isinstance(images, str) else list(dict.fromkeys(images))
        most = request.get("max_batch_size")
        if isinstance(most, int) and most > 0:
            images = images[:most]
        overwrite = str(request.get("overwrite", False)).lower() == "true"
        outcomes = {}
        for number, image in enumerate(images, 1):
            start = time.perf_counter()
            outcome = _one(image, wanted, datastore, infer, overwrite=overwrite)
            outcomes[image] = outcome
            _log.info(
                "[%d/%d] %s: %s, %.1f s%s",
                number,
                len(images),
                image,
                outcome["status"],
                time.perf_counter() - start,
                f" ({outcome['message']})" if outcome["message"] else "",
            )
        _log.info("done: %s", _counted(outcomes) or "there was nothing to do")
        return outcomes


def check_images(images: Any, datastore: Datastore) -> None:
    """Refuse what names no scans.

    Args:
        images: ``all`` or another word of MONAI Label's, or a list of ids.
        datastore: the scans.

    Raises:
        Refusal: 404 for an id that is not there, 422 for what is none, or where there is no studies folder.
    """
    studies_folder(datastore, "a batch")
    if isinstance(images, str) and images in _WORDS:
        return
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images) or not images:
        raise unusable("images: give all, labeled, unlabeled, or in params a list of image ids.")
    known = set(datastore.list_images())
    for image in images:
        if check_image_id(image) not in known:
            raise not_found(f"image {image[:60]!r} is unknown; /datastore/?output=all lists the images.")


def _options(request: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {key: request[key] for key in Options.model_fields if key in request}
    # With `multi_gpu` come the stock server's defaults: their device was nobody's choice.
    if "multi_gpu" in request and not torch.cuda.is_available() and wanted.get("device") == "cuda":
        _log.warning("device cuda is MONAI Label's default, and there is none here: computing on the CPU.")
        wanted["device"] = "auto"
    return {**wanted, "model": request.get("model"), "store": True}


def _one(
    image: str, wanted: dict[str, Any], datastore: StudiesFolder, infer: Infer, *, overwrite: bool
) -> dict[str, Any]:
    there = datastore.result_of(image)
    if there is not None and not overwrite:
        return {"status": "skipped", "stored_as": there, "message": "has a result already"}
    try:
        result = infer({**wanted, "image": image}, datastore)
    except InputError as error:
        # A scan that has the wanted spacing is nobody's mistake.
        idle = isinstance(error, NothingToDoError) or isinstance(error.__cause__, NothingToDoError)
        status = "skipped" if idle else "refused"
        return {"status": status, "stored_as": None, "message": str(error)}
    except Exception as error:  # one bad scan does not stop the rest  # noqa: BLE001
        _log.exception("%s", image)
        return {"status": "failed", "stored_as": None, "message": f"{type(error).__name__}: {error}"}
    params = result["params"]
    for file in (result["file"], *(params.get(f"{name}_file") for name in (*MAPS, LABELS))):
        if file:
            Path(file).unlink(missing_ok=True)
    return {"status": "written", "stored_as": params["stored_as"], "message": ""}


def _counted(outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    found = [outcome["status"] for outcome in outcomes.values()]
    return ", ".join(
        f"{found.count(s)} {s}" for s in ("written", "skipped", "refused", "failed") if s in found
    )
