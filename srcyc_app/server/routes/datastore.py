"""The scans: list, upload, download, tag, remove; and labels, as MONAI Label has them."""

from __future__ import annotations

import hashlib
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.interfaces.datastore import Datastore

from srcyc.pacs.remote import MOST_SERIES, Search
from srcyc_app.refusals import not_found, refusing, unusable
from srcyc_app.server.access import current, require
from srcyc_app.server.actions import Role
from srcyc_app.server.audit import note
from srcyc_app.server.replies import OCTETS, FileOnce
from srcyc_app.server.routes.sessions import send_scan
from srcyc_app.server.services import Served, Services
from srcyc_app.server.uploads import read_object, save, unpacked
from srcyc_app.studies.datastore import StudiesFolder
from srcyc_app.studies.identifiers import check_image_id, check_tag

router = APIRouter(prefix="/datastore", tags=["Datastore"])

_HASHES = ("SHA256", "SHA512", "MD5")

JsonField = Annotated[str, Form(description="a JSON object")]
Binary: dict[int | str, dict[str, Any]] = {200: {"description": "The file", "content": OCTETS}}


class Listing(str, Enum):
    """How much of the datastore is listed."""

    TRAIN = "train"
    STATS = "stats"
    ALL = "all"


@router.get("/", summary="The scans")
def listing(
    served: Served,
    output: Listing = Listing.STATS,
    patient: str = "",
    date: str = "",
    description: str = "",
    limit: Annotated[int | None, Query(ge=1, le=MOST_SERIES)] = None,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Any:
    """Counts; with ``output=all`` every scan with its info, with ``train`` those that have a final label.

    Of a DICOMweb server, ``all`` gives a page of ``limit`` series (200) from ``offset`` on, as it has them now: of a
    ``patient`` (ID or name, ``*`` for any letters), of a ``date`` (``YYYYMMDD``, or from-to), by a part of their
    ``description``. Of a folder a page if ``limit`` is given; ``description`` is a part of the id.
    """
    datastore = served.app.datastore()
    if output is Listing.ALL:
        with refusing():
            wanted = Search.of(patient, date, description, limit or 200, offset)
        if isinstance(datastore, StudiesFolder) and not (limit or offset or patient or date or description):
            return datastore.json()
        return datastore.search(wanted)
    return datastore.datalist() if output is Listing.TRAIN else datastore.status()


@router.put("/", include_in_schema=False)
@router.put("/image", summary="Upload a scan")
def add_image(
    served: Served,
    file: Annotated[UploadFile, File()],
    image: str | None = None,
    params: JsonField = "{}",
) -> dict[str, str]:
    """A volume, or a zip archive of one or of a DICOM series; ``"overwrite": true`` in ``params`` replaces a scan."""
    info = read_object(params, "params")
    with served.scratch.room() as room:
        scan = unpacked(save(file, room), served.app.max_upload)
        overwrite = str(info.get("overwrite", False)).lower() in ("true", "1")
        if overwrite:
            require(Role.ADMIN, "to replace a scan")
        served.limits.check_storage(served.app, scan)
        datastore, user = served.app.datastore(), current().name
        added = datastore.add_image(image or "", str(scan), info)
        if user is not None and isinstance(datastore, StudiesFolder):
            datastore.set_owner(added, user)
        note(image=added, replaced=overwrite or None)
        return {"image": added}


@router.delete("/", include_in_schema=False)
@router.delete("/image", summary="Remove a scan and its labels")
def remove_image(served: Served, id: str) -> dict[str, Any]:
    """The file is removed from the studies folder."""
    served.app.datastore().remove_image(check_image_id(id))
    return {}


@router.head("/image", summary="Whether a scan exists")
def check_image(served: Served, image: str, check_sum: str | None = None) -> dict[str, Any]:
    """404 if it does not, or has another ``check_sum`` (``SHA256:hex``; also SHA512, MD5)."""
    path = _image(served, image)
    if check_sum and (not path.is_file() or not _matches(path, check_sum)):
        raise not_found(f"image {image!r} has another check sum.")
    return {}


@router.get("/image", summary="Download a scan", response_class=FileResponse, responses=Binary)
def download_image(served: Served, image: str) -> Response:
    """The file; of a DICOM series a zip archive."""
    return send_scan(served, _image(served, image))


@router.get("/image/info", summary="What is known of a scan")
def image_info(served: Served, image: str) -> dict[str, Any]:
    """Tags, spacing, domain."""
    return served.app.datastore().get_image_info(check_image_id(image))


@router.put("/image/info", summary="Tag a scan")
def update_image_info(served: Served, image: str, info: JsonField = "{}") -> Any:
    """``domain`` (LR, HR, SR, neither, or "" for what the spacing says), ``person``, and whatever a client keeps."""
    return served.app.datastore().update_image_info(check_image_id(image), read_object(info, "info"))


@router.put("/label", summary="Save a label")
def save_label(
    served: Served,
    image: str,
    label: Annotated[UploadFile, File()],
    tag: str = "final",
    params: JsonField = "{}",
) -> dict[str, Any]:
    """Kept as MONAI Label does; nothing here trains on labels."""
    check_image_id(image)
    tag = check_tag(tag or "final")
    info = read_object(params, "params")
    with served.scratch.room() as room:
        label_id = served.app.datastore().save_label(image, str(save(label, room)), tag, info)
    return {**(served.app.on_save_label(image, label_id) or {}), "image": image, "label": label_id}


@router.delete("/label", summary="Remove a label")
def remove_label(served: Served, id: str, tag: str) -> dict[str, Any]:
    """The label of image ``id`` with this tag."""
    served.app.datastore().remove_label(check_image_id(id), check_tag(tag))
    return {}


@router.head("/label", summary="Whether a label exists")
def check_label(served: Served, image: str, tag: str) -> dict[str, Any]:
    """404 if it does not."""
    _label(served, image, tag)
    return {}


@router.get("/label", summary="Download a label", response_class=FileResponse, responses=Binary)
def download_label(served: Served, label: str, tag: str) -> Response:
    """The file."""
    return send_scan(served, _label(served, label, tag))


@router.get("/label/info", summary="What is known of a label")
def label_info(served: Served, label: str, tag: str) -> dict[str, Any]:
    """As MONAI Label keeps it."""
    return served.app.datastore().get_label_info(check_image_id(label), check_tag(tag))


@router.put("/label/info", summary="Change what is known of a label")
def update_label_info(served: Served, label: str, tag: str, info: JsonField = "{}") -> Any:
    """Keys are added or replaced."""
    datastore: Datastore = served.app.datastore()
    return datastore.update_label_info(check_image_id(label), check_tag(tag), read_object(info, "info"))


@router.put("/updatelabelinfo", include_in_schema=False)
def update_label_info_as_before(served: Served, label: str, tag: str, params: JsonField = "{}") -> Any:
    """Do the same under MONAI Label's old address."""
    return update_label_info(served, label, tag, params)


@router.get(
    "/dataset", summary="Download scans and final labels", response_class=FileResponse, responses=Binary
)
def dataset(served: Served, limit_cases: Annotated[int | None, Query(ge=1, le=1_000_000)] = None) -> Response:
    """A zip archive."""
    with served.scratch.kept() as room:
        archive = Path(served.app.datastore().get_dataset_archive(limit_cases, room))
    return FileOnce(archive, filename="dataset.zip", room=room)


def _image(served: Services, image: str) -> Path:
    return Path(served.app.datastore().get_image_uri(check_image_id(image)))


def _label(served: Services, image: str, tag: str) -> Path:
    return Path(served.app.datastore().get_label_uri(check_image_id(image), check_tag(tag)))


def _matches(path: Path, check_sum: str) -> bool:
    kind, separator, digest = check_sum.rpartition(":")
    kind = kind if separator else "SHA256"
    if kind not in _HASHES:
        raise unusable(
            f"check_sum {check_sum[:60]!r}: write HASH:HEX, HASH being one of {', '.join(_HASHES)}."
        )
    found = hashlib.new(kind.lower(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest() == digest.lower()
