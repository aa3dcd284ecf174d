"""Super-resolve a scan: in the line, watched, and given up when the client hangs up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, Response

from srcyc_app.core import NAME
from srcyc_app.infers.options import Options
from srcyc_app.refusals import Refusal, not_found, unusable
from srcyc_app.server.access import current
from srcyc_app.server.audit import note
from srcyc_app.server.jobs import Cancelled, Job, T
from srcyc_app.server.replies import OCTETS, FileOnce, Json, MultipartOnce
from srcyc_app.server.routes.sessions import scan_of
from srcyc_app.server.services import Served
from srcyc_app.server.uploads import first, read_object, save
from srcyc_app.studies.identifiers import check_request_id

router = APIRouter(prefix="/infer", tags=["Infer"])

#: What nginx calls it.
_CLIENT_GONE = 499


class Output(str, Enum):
    """What the reply holds: the volume, the report, or both."""

    IMAGE = "image"
    JSON = "json"
    ALL = "all"


@dataclass(frozen=True)
class _Wanted:
    """A request that has been checked.

    Attributes:
        request: for the app.
        source: the scan's file, if it is not one of the datastore's.
        labels: the label map's file, if one was sent along.
        request_id: under which its progress can be asked for.
    """

    request: dict[str, Any]
    source: Path | None
    labels: Path | None
    request_id: str | None


def _checked(
    served: Served,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form(description="a JSON object: see `config` in /info/")] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File(description="a label map of the scan")] = None,
) -> Iterator[_Wanted]:
    """Refuse what can be refused before it waits in the line; give the rest, with its files while it is met.

    Raises:
        Refusal: 4xx.
    """
    if model != NAME:
        raise not_found(f"model {model[:60]!r} is unknown; there is {NAME}.")
    options = read_object(params, "params")
    given_id = first(options.pop("request_id", None))
    request_id = None if given_id is None else check_request_id(str(given_id))
    Options.of(options)
    with served.scratch.room() as room:
        source = None
        if session_id:
            source = scan_of(served, session_id)
            note(image=None, session=session_id)
        elif file is not None:
            source = save(file, room)
            note(image=None, source="upload")
        elif image:
            # The app looks it up again when its turn has come.
            served.app.find_scan(image, served.app.datastore())
            note(image=image)
        else:
            raise unusable("image: give an image id or a session_id, or upload a file.")
        labels = None
        if label is not None:
            (room / "label").mkdir()
            labels = save(label, room / "label")
        yield _Wanted({**options, "model": model, "image": image}, source, labels, request_id)


@router.post(
    "/{model}",
    summary="Super-resolve a scan",
    response_class=FileResponse,
    responses={
        200: {
            "description": "The volume, the report, or both",
            "content": {
                **OCTETS,
                "application/json": {"schema": {"type": "object"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "params": {"type": "object"},
                            "image": {"type": "string", "format": "binary"},
                        },
                    }
                },
            },
        }
    },
)
async def infer(
    request: Request,
    served: Served,
    wanted: Annotated[_Wanted, Depends(_checked, scope="function")],
    output: Output | None = None,
) -> Response:
    """The scan is a session's, an uploaded file (a volume, or a zip of a DICOM series), or one of the datastore.

    A label map sent along is brought to the result's grid: ``labels_session`` in the report.
    """
    job = served.line.submit(
        lambda tell: served.app.infer(
            wanted.request,
            progress=tell,
            source=wanted.source,
            shown=None if wanted.source is None else wanted.source.name,
            labels=wanted.labels,
        ),
        discard=lambda result: Path(result["file"]).unlink(missing_ok=True),
        request_id=wanted.request_id,
        owner=current().name,
        most=served.limits.queue,
    )
    result = await outcome(job, request)
    note_model(result["params"])
    return _reply(Path(result["file"]), result["params"], output)


async def outcome(job: Job[T], request: Request) -> T:
    """Give what comes of a job, which is waited for as long as its client is there.

    Raises:
        Refusal: 503, the server is ending; 499, nobody is there to read it.
    """
    try:
        return await job.wait(request.is_disconnected)
    except Cancelled:
        if await request.is_disconnected():
            raise Refusal(_CLIENT_GONE, "the client has hung up.") from None
        raise Refusal(503, "the server is ending; send the request again when it is back.") from None


def note_model(report: Mapping[str, Any]) -> None:
    """Let the audit log say by which model a result was made, and as what it was kept."""
    model = report.get("model", {})
    note(model=model.get("name"), sha256=model.get("sha256"), stored_as=report.get("stored_as"))


def _reply(path: Path, params: dict[str, Any], output: Output | None) -> Response:
    if output is Output.JSON:
        path.unlink(missing_ok=True)
        return Json(params)
    if output is Output.IMAGE:
        return FileOnce(path, filename=str(params.get("output", path.name)))
    return MultipartOnce(params, path)
