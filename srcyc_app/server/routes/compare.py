"""The compare page, and any scan of the datastore as the one kind of file that the page reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

import srcyc_app
from srcyc_app.refusals import not_found, refusing
from srcyc_app.server.replies import FileOnce
from srcyc_app.server.services import Served
from srcyc_app.studies.identifiers import check_image_id

router = APIRouter(prefix="/compare", tags=["Compare"])

_FOLDER = Path(srcyc_app.__file__).parent / "compare"

_HTML, _STYLE, _SCRIPT, _TEXT = (
    f"text/{kind}; charset=utf-8" for kind in ("html", "css", "javascript", "plain")
)
#: Everything that is sent, and as what: no name from the network ever becomes a path.
FILES = {
    "": ("index.html", _HTML),
    "style.css": ("style.css", _STYLE),
    **{
        name: (name, _SCRIPT)
        for name in (
            "main.js",
            "server.js",
            "view.js",
            "pane.js",
            "pointer.js",
            "keys.js",
            "lists.js",
            "runner.js",
            "address.js",
            "text.js",
            "niivue.js",
        )
    },
    "NOTICE.txt": ("NOTICE.txt", _TEXT),
}

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
    200: {
        "description": "The volume, uncompressed NIfTI",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


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


@router.get("/volume", summary="A scan as NIfTI", response_class=FileResponse, responses=_VOLUME)
def volume(served: Served, image: str) -> Response:
    """The scan ``image`` of the datastore, whatever its format, with its geometry and voxel values."""
    datastore = served.app.datastore()
    path, _ = served.app.find_scan(check_image_id(image), datastore)
    if not path.exists():
        raise not_found(f"image {image!r} is not there any more.")
    room = served.scratch.new()
    written = room / f"{image}.nii"
    try:
        with refusing(path, path.name):
            served.app.reading.nifti(path, written)
    except BaseException:
        served.scratch.remove(room)
        raise
    return FileOnce(written, filename=written.name, room=room)


@router.api_route("", methods=["GET", "HEAD"], include_in_schema=False)
def to_the_page() -> Response:
    """The page's links are relative to an address that ends in a slash; so is this one, for the sake of proxies."""
    return RedirectResponse("compare/")


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
def page(request: Request) -> Response:
    """Send the page."""
    return file(request, "")


@router.api_route("/{name}", methods=["GET", "HEAD"], include_in_schema=False)
def file(request: Request, name: str) -> Response:
    """Send one of its files."""
    if name not in FILES:
        raise not_found(f"{name[:60]!r}: the compare page has no such file; it is at /compare/.")
    found = _load(name)
    headers = {**_HEADERS, "ETag": found.tag}
    if found.tag in [
        tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
    ]:
        return Response(status_code=304, headers=headers)
    # For HEAD the web server leaves the content out and keeps its length.
    return Response(found.content, media_type=found.media_type, headers=headers)


@cache
def _load(name: str) -> _File:
    path, media_type = FILES[name]
    content = (_FOLDER / path).read_bytes()
    return _File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
