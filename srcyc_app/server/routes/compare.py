"""The compare page, and any scan of the datastore as the one kind of file that the page reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

import srcyc_app
from srcyc.volumes.volume import write_volume
from srcyc_app.infers.baseline import Method, baseline
from srcyc_app.refusals import not_found, refusing, unusable
from srcyc_app.server.access import current
from srcyc_app.server.jobs import Tell
from srcyc_app.server.replies import OCTETS, FileOnce
from srcyc_app.server.routes.infer import outcome
from srcyc_app.server.routes.sessions import scan_of
from srcyc_app.server.services import Served, Services
from srcyc_app.studies.identifiers import check_image_id

router = APIRouter(prefix="/compare", tags=["Compare"])

_FOLDER = Path(srcyc_app.__file__).parent / "compare"

#: Suffix of a file that is sent -> kind of text that it is.
_KINDS = {".html": "html", ".css": "css", ".js": "javascript", ".txt": "plain"}

_HEADERS = {
    # Scripts and styles only from here, none in the page itself; NiiVue's letters are an image within its script.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # Kept, but asked for each time: after an update nobody sees old files with new ones.
    "Cache-Control": "no-cache",
}

_VOLUME: dict[int | str, dict[str, Any]] = {
    200: {"description": "The volume, uncompressed NIfTI", "content": OCTETS}
}


#: Of what is sent once, in a folder of its own.
_NAME = "volume.nii"


@dataclass(frozen=True)
class _File:
    """One of the page's files.

    Attributes:
        content: all of it.
        media_type: what it is sent as.
        tag: changes with the content.
    """

    content: bytes
    media_type: str
    tag: str


#: Voxels along each axis of a result, and digits of their number.
_Shape = Annotated[str, Query(pattern=r"^[1-9]\d{0,5},[1-9]\d{0,5},[1-9]\d{0,5}$", description="I,J,K")]


class Map(str, Enum):
    """What may have been made, and is kept, with a result."""

    UNCERTAINTY = "uncertainty"
    CORRECTION = "correction"


@router.get("/volume", summary="A scan as NIfTI", response_class=FileResponse, responses=_VOLUME)
def volume(
    served: Served,
    image: str = "",
    session_id: str = "",
    which: Annotated[Map | None, Query(alias="map", description="of a kept result, instead of it")] = None,
) -> Response:
    """A scan of the datastore, or of a session, whatever its format, with its geometry and voxel values."""
    path = _map(served, image, which) if which is not None else _scan(served, image, session_id)
    with served.scratch.kept() as room, refusing(path, path.name):
        written = room / _NAME
        served.app.reading.nifti(path, written)
    return FileOnce(written, filename=f"{image or 'scan'}.nii", room=room)


@router.get(
    "/baseline", summary="A scan, interpolated, as NIfTI", response_class=FileResponse, responses=_VOLUME
)
async def interpolated(
    request: Request,
    served: Served,
    method: Method,
    shape: _Shape,
    image: str = "",
    session_id: str = "",
    thickness: Annotated[float | None, Query(gt=0, le=1000, description="of the slices, mm")] = None,
) -> Response:
    """What needs no network: a scan on the grid of a result of ``shape``, by B-splines or the classical inverse."""
    path = await run_in_threadpool(_scan, served, image, session_id)
    wanted = [int(size) for size in shape.split(",")]

    def work(tell: Tell) -> Path:
        with served.scratch.kept() as room, refusing(path, path.name):
            scan = served.app.reading.volume(path, room)
            return write_volume(baseline(scan, wanted, method, thickness, tell), room / _NAME)

    def clear(written: Path) -> None:
        served.scratch.remove(written.parent)

    job = served.quick.submit(work, discard=clear, owner=current().name, most=served.limits.queue)
    written = await outcome(job, request)
    return FileOnce(written, filename=f"{image or 'scan'}_{method.value}.nii", room=written.parent)


def _map(served: Services, image: str, which: Map) -> Path:
    """Give the map that is kept with a result.

    Raises:
        Refusal: 404, there is none; 422, no id.
    """
    return Path(served.app.datastore().get_label_uri(check_image_id(image), which.value))


def _scan(served: Services, image: str, session_id: str) -> Path:
    """Give the scan that is meant.

    Raises:
        Refusal: 404, there is none; 422, neither an id nor a session, or both.
    """
    if bool(image) == bool(session_id):
        raise unusable("image: give an image id or a session_id.")
    if session_id:
        return scan_of(served, session_id)
    return served.app.find_scan(check_image_id(image), served.app.datastore())[0]


@router.api_route("", methods=["GET", "HEAD"], include_in_schema=False)
def to_the_page() -> Response:
    """The page's links are relative to an address that ends in a slash; so is this one, for the sake of proxies."""
    return RedirectResponse("compare/")


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
def page(request: Request) -> Response:
    """Send the page."""
    return file(request, "index.html")


@router.api_route("/{name}", methods=["GET", "HEAD"], include_in_schema=False)
def file(request: Request, name: str) -> Response:
    """Send one of its files."""
    found = files().get(name)
    if found is None:
        raise not_found(f"{name[:60]!r}: the compare page has no such file; it is at /compare/.")
    headers = {**_HEADERS, "ETag": found.tag}
    if found.tag in [
        tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
    ]:
        return Response(status_code=304, headers=headers)
    # For HEAD the web server leaves the content out and keeps its length.
    return Response(found.content, media_type=found.media_type, headers=headers)


@cache
def files() -> dict[str, _File]:
    """Give everything that is sent, by its name: none from the network ever becomes a path."""
    found = {}
    for path in _FOLDER.iterdir():
        if kind := _KINDS.get(path.suffix):
            content = path.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[path.name] = _File(content, f"text/{kind}; charset=utf-8", tag)
    return found
