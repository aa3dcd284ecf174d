"""Sessions: scans that a client sends once and names in several requests, without their entering the studies folder."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from monailabel.utils.sessions import SessionInfo, Sessions

from srcyc.documents import read_json
from srcyc.errors import OutputError
from srcyc.files import remove, remove_unfinished, staging, write_text, writing
from srcyc_app.refusals import unusable
from srcyc_app.studies.archives import refuse_detached, refuse_programs, size_of, unpack_zip
from srcyc_app.studies.identifiers import OWNER, is_plain_component, is_session_id, plain_name

_log = logging.getLogger(__name__)

_META = "meta.info"
#: Seconds after which a session that never got ready is no longer waited for.
_ABANDONED = 3600


class ScanSessions(Sessions):
    """Keeps each session in a folder of its own, named by a random id.

    Args:
        store_path: where; default: in the user's cache, as MONAI Label has it.
        expiry: seconds after its last use at which a session may be removed.
        max_bytes: most that the files of one session may take.
    """

    def __init__(self, store_path: str = "", expiry: int = 3600, max_bytes: int = 4_000_000_000) -> None:
        super().__init__(store_path, expiry)
        self._max_bytes = max_bytes
        self._lock = threading.RLock()

    def get_session(
        self, session_id: str, update_ts: bool = True, fetch_cache: bool = True
    ) -> SessionInfo | None:
        """Give a session; None if there is none of that id, its image is gone, or what it says of itself is not so.

        It is read each time: another server with the same folder may have prolonged or removed it.
        """
        if not isinstance(session_id, str) or not is_session_id(session_id):
            return None
        with self._lock:
            info = self._read(session_id)
            if info is not None and update_ts:
                info.last_access_ts = int(time.time())
                try:
                    self._write_meta_info(session_id, info)
                except OutputError as error:  # a full disk is no reason to refuse the scan
                    _log.warning("%s", error)
            return info

    def add_session(
        self,
        data_file: str,
        expiry: int = 0,
        uncompress: bool = False,
        session_id: str | None = None,
        owner: str | None = None,
    ) -> tuple[str, SessionInfo]:
        """Move a file, or a folder of files, into a new session. On failure it is removed, as on success.

        Args:
            data_file: what was uploaded.
            expiry: seconds, at most that of all sessions; 0: that.
            uncompress: unpack it, a zip archive.
            session_id: default: a new random one.
            owner: who sent it.

        Returns:
            The id, and what is known of the session.

        Raises:
            Refusal: 422: an archive that cannot be unpacked, too large, a header without its voxels, a program, an id
                that is none or is taken.
            OutputError: the disk is full.
        """
        source = Path(data_file)
        packed = uncompress and source.is_file()
        session_id = session_id or str(uuid.uuid4())
        store = Path(self.store_path)
        try:
            if not is_session_id(session_id) or (folder := store / session_id).exists():
                raise unusable(f"session id {session_id[:60]!r}: give a UUID that no session has.")
            if not packed:
                refuse_programs(source)
            # Scans of patients: not for other users of the machine.
            with writing(store), staging(store, private=True) as coming:
                # What is known of the session lies beside it.
                image = coming / ("series" if packed or source.name == _META else plain_name(source.name))
                if packed:
                    unpack_zip(source, image, self._max_bytes)
                else:
                    if size_of(source) > self._max_bytes:
                        raise unusable(
                            f"{source.name}: larger than the {self._max_bytes / 1e9:g} GB that this server takes; "
                            "send less."
                        )
                    shutil.move(source, image)
                refuse_detached(image)
                info = self._info(session_id, folder, image.name, expiry)
                info.meta = {} if owner is None else {OWNER: owner}
                write_text(coming / _META, info.to_str())
                coming.rename(folder)
        finally:
            _remove_upload(source)
        return session_id, info

    def remove_session(self, session_id: str) -> None:
        if not isinstance(session_id, str) or not is_session_id(session_id):
            return
        with self._lock:
            remove(Path(self.store_path) / session_id)

    def remove_expired(self) -> int:
        """Remove the sessions whose time is over, and those that cannot be read; nothing else in the folder.

        Returns:
            How many.
        """
        count = 0
        try:
            entries = list(Path(self.store_path).iterdir())
        except OSError:
            return 0
        remove_unfinished(Path(self.store_path), age=_ABANDONED)
        now = time.time()
        for path in entries:
            with suppress(OSError):
                if not is_session_id(path.name) or not path.is_dir():
                    continue
                info = self.get_session(path.name, update_ts=False)
                # One without a word of itself may be on its way: of a stock server with the same folder.
                over = (
                    now - path.stat().st_mtime > _ABANDONED
                    if info is None
                    else 0 < info.expiry < now - info.last_access_ts
                )
                if over:
                    self.remove_session(path.name)
                    count += 1
        return count

    def of_owner(self, user: str) -> list[SessionInfo]:
        """List the sessions that somebody made."""
        try:
            names = [path.name for path in Path(self.store_path).iterdir()]
        except OSError:
            return []
        found = [self.get_session(name, update_ts=False) for name in names]
        return [info for info in found if info is not None and info.meta.get(OWNER) == user]

    def _read(self, session_id: str) -> SessionInfo | None:
        """Read what a session says of itself; None if it is not what :meth:`add_session` wrote."""
        folder = Path(self.store_path) / session_id
        try:
            info = SessionInfo(read_json(folder / _META))
            image = Path(info.image)
            times = (info.create_ts, info.last_access_ts, info.expiry)
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        if not all(isinstance(value, (int, float)) for value in times) or "\0" in str(image):
            return None
        if not is_plain_component(image.name) or image.name == _META:
            return None
        # Whatever it says, its image lies in its own folder.
        info.name, info.path, info.image = session_id, str(folder), str(folder / image.name)
        info.meta = info.meta if isinstance(info.meta, dict) else {}
        return info if Path(info.image).exists() else None

    def _write_meta_info(self, session_id: str, session_info: SessionInfo) -> None:
        folder = Path(self.store_path) / session_id
        if folder.is_dir():  # one removed meanwhile does not come back
            write_text(folder / _META, session_info.to_str())

    def _info(self, session_id: str, folder: Path, image: str, expiry: int) -> SessionInfo:
        now = int(time.time())
        info = SessionInfo()
        info.name, info.path, info.image, info.meta = session_id, str(folder), str(folder / image), {}
        info.create_ts = info.last_access_ts = now
        info.expiry = min(expiry, self.expiry) if expiry > 0 else self.expiry
        return info


def _remove_upload(source: Path) -> None:
    """Remove an upload, and the folder that MONAI Label's server made for it: it leaves both where it refuses one."""
    remove(source)
    if source.parent.parent == Path(tempfile.gettempdir()):
        with suppress(OSError):
            source.parent.rmdir()
