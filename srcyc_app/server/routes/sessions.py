"""Sessions: a scan that is sent once and named in several requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from srcyc_app.refusals import Refusal, conflict, not_found, unusable
from srcyc_app.server.access import current
from srcyc_app.server.audit import note
from srcyc_app.server.replies import OCTETS, FileOnce, OpenedFile
from srcyc_app.server.services import Served, Services
from srcyc_app.server.uploads import save_all
from srcyc_app.studies.archives import MOST_MEMBERS, pack_files
from srcyc_app.studies.datastore import files_of
from srcyc_app.studies.sessions import ScanSessions
from srcyc_app.studies.watching import mark_of

router = APIRouter(prefix="/session", tags=["Session"])

#: How often a series is packed that changes meanwhile.
_ATTEMPTS = 5
_LONGEST = 10 * 365 * 86400


async def _files(request: Request) -> AsyncIterator[list[UploadFile]]:
    """Read the form: a DICOM series has more files than the framework takes by default."""
    async with request.form(max_files=MOST_MEMBERS) as form:
        yield [file for file in form.getlist("files") if isinstance(file, UploadFile)]


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            }
        },
    }
}


@router.put("/", summary="Send a scan", openapi_extra=_FORM)
async def create(
    served: Served,
    files: Annotated[list[UploadFile], Depends(_files)],
    uncompress: bool = False,
    expiry: Annotated[int, Query(ge=0, le=_LONGEST, description="seconds; 0: the server's own")] = 0,
) -> dict[str, Any]:
    """A volume, the files of a DICOM series, or (``uncompress``) a zip archive of either."""
    if not files:
        raise unusable("files: send the scan as one or more files of a multipart form.")
    return await run_in_threadpool(_create, served, files, uncompress, expiry)


@router.get(
    "/{session_id}",
    summary="What is known of a session, or its image",
    responses={200: {"content": OCTETS}},
)
def get(served: Served, session_id: str, update_ts: bool = False, image: bool = False) -> Any:
    """With ``image``, the file (of a DICOM series, a zip archive)."""
    session = _sessions(served).get_session(session_id, update_ts=update_ts)
    if session is None:
        raise _unknown(session_id)
    if not image:
        return session.to_json()
    return send_scan(served, Path(session.image))


@router.delete("/{session_id}", summary="Remove a session")
def remove(served: Served, session_id: str) -> dict[str, Any]:
    """Removes the session and its files."""
    sessions = _sessions(served)
    session = sessions.get_session(session_id)
    if session is None:
        raise _unknown(session_id)
    sessions.remove_session(session_id)
    return dict(session.to_json())


def scan_of(served: Services, session_id: str) -> Path:
    """Give the scan of a session.

    Raises:
        Refusal: 404, there is no such session.
    """
    sessions = served.app.sessions()
    session = sessions.get_session(session_id) if sessions is not None else None
    if session is None:
        raise _unknown(session_id)
    return Path(session.image)


def send_scan(served: Services, path: Path) -> Response:
    """Send a volume's file, or a series as a zip archive."""
    if path.is_file():
        try:
            return OpenedFile(path)
        except FileNotFoundError:
            raise not_found(f"{path.name}: is not there any more.") from None
    with served.scratch.kept() as room:
        archive = room / f"{path.name}.zip"
        _pack(served, path, archive)
    return FileOnce(archive, filename=archive.name, room=room)


def _pack(served: Services, path: Path, archive: Path) -> None:
    """Pack a series as it is at one moment.

    Raises:
        Refusal: 409, it does not come to rest; 422, it cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    for _ in range(_ATTEMPTS):
        try:
            before = mark_of(folder)[0]
            with archive.open("wb") as stream:
                pack_files(files_of(path, served.app.reading), stream)
            if mark_of(folder)[0] == before:
                return
        except FileNotFoundError:
            continue
    raise conflict(f"{path.name}: is being replaced; try again.")


def _create(served: Services, files: list[UploadFile], uncompress: bool, expiry: int) -> dict[str, Any]:
    with served.scratch.room() as room:
        folder = room / "scan"
        folder.mkdir()
        served.limits.check_sessions(served.app)
        scan = save_all(files, folder)
        served.limits.check_storage(served.app, scan)
        session_id, session = _sessions(served).add_session(
            str(scan), expiry, uncompress, owner=current().name
        )
    note(session=session_id)
    return {"session_id": session_id, "session_info": session.to_json()}


def _sessions(served: Services) -> ScanSessions:
    sessions: ScanSessions | None = served.app.sessions()
    if sessions is None:
        raise Refusal(406, "sessions are switched off on this server (MONAI_LABEL_SESSIONS).")
    return sessions


def _unknown(session_id: str) -> Refusal:
    return not_found(f"session {session_id[:60]!r} is unknown or over; send the scan again.")
