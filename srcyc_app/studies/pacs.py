"""The series of a DICOMweb server as MONAI Label's datastore: listed as they are now, fetched when asked for."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pydicom
from monailabel.interfaces.datastore import Datastore

from srcyc.errors import ArchiveError, ArchiveTimeoutError, NotInArchiveError
from srcyc.files import remove, remove_unfinished, staging, writing
from srcyc.pacs.remote import MOST_SERIES, RemoteSeries, Search, is_uid
from srcyc.pacs.web import DicomWeb
from srcyc_app.refusals import Refusal, conflict, not_found, refusing, worded
from srcyc_app.studies.archives import pack_folder

_log = logging.getLogger(__name__)

#: Seconds within which a PACS answers a question.
ANSWER_SECONDS = 2.5
#: Seconds after which a client may ask again.
_RETRY_AFTER = 10
#: Seconds for which an answer counts: a request asks the same question more than once.
_FRESH = 10.0
#: Seconds for which a count does.
_COUNTED = 3.0
#: Answers that are kept.
_KEPT = 1000
#: Seconds after which a fetch that never ended is cleared away.
_ABANDONED = 3600


class Pacs(Datastore):
    """MR series of a DICOMweb server, by their Series Instance UIDs.

    Args:
        archive: the server.
        cache: folder in which series are kept for a while; made when it is needed, for its owner only.
        expiry: seconds after its last use at which a series is removed from there.
        max_bytes: that a series may have.
    """

    def __init__(self, archive: DicomWeb, cache: Path, *, expiry: float, max_bytes: int) -> None:
        self._archive = archive
        self._cache = cache / f"srcyc-{hashlib.sha256(archive.url.encode()).hexdigest()[:16]}"
        self._expiry = expiry
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._known: dict[str, tuple[float, RemoteSeries]] = {}
        self._status: tuple[float, dict[str, Any]] | None = None

    # -- what there is -------------------------------------------------------------------------------------------

    def name(self) -> str:
        return self._archive.url

    def description(self) -> str:
        return "MR series of a DICOMweb server"

    def has(self, image_id: str) -> bool:
        """Tell whether there is a series of this UID.

        Raises:
            Refusal: 502 or 504, the server cannot be asked.
        """
        try:
            self._find(image_id)
        except Refusal as refusal:
            if refusal.status_code != 404:
                raise
            return False
        return True

    def list_images(self) -> list[str]:
        """Give the UIDs of the first thousand series; a search finds the others."""
        return [series.uid for series in self._search(Search(limit=MOST_SERIES))[0]]

    def search(self, wanted: Search) -> dict[str, Any]:
        """List series as :meth:`json` does, a page of them; ``more`` tells whether there are others behind it.

        Raises:
            Refusal: 502 or 504, the server cannot be asked.
        """
        found, more = self._search(wanted)
        return {
            "name": self.name(),
            "description": self.description(),
            "objects": {s.uid: {"image": {"ext": "", "info": _info(s)}, "labels": {}} for s in found},
            "limit": wanted.limit,
            "offset": wanted.offset,
            "more": more,
        }

    def json(self) -> dict[str, Any]:
        return self.search(Search())

    def status(self) -> dict[str, Any]:
        """Count the series, up to a thousand; ``error``: why they cannot be counted now."""
        with self._lock:
            kept = self._status
        if kept is not None and time.monotonic() - kept[0] < _COUNTED:
            return kept[1]
        status: dict[str, Any] = {"total": 0, "completed": 0, "label_tags": {}, "domains": {}}
        try:
            found, more = self._search(Search(limit=MOST_SERIES))
            status |= {"total": len(found), "more": more}
        except Refusal as refusal:
            status["error"] = str(refusal)
        with self._lock:
            self._status = time.monotonic(), status
        return status

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        return _info(self._find(image_id))

    # -- storing -------------------------------------------------------------------------------------------------

    def store_series(self, folder: Path) -> str:
        """Store the series that lie in the folders of a folder, all instances or none; give the UID of the volume's.

        Raises:
            Refusal: 502, they are not stored; says whether anything is left there.
        """
        with _in_refusals():
            self._archive.store(sorted(folder.glob("*/*.dcm")))
        first = pydicom.dcmread(str(folder / "volume" / "0001.dcm"), specific_tags=["SeriesInstanceUID"])
        return str(first.SeriesInstanceUID)

    # -- fetching ------------------------------------------------------------------------------------------------

    def get_image_uri(self, image_id: str) -> str:
        """Give the folder of a series; it is fetched if it is not here, or has grown since it was.

        Raises:
            Refusal: 404; 422, larger than may be; 502 or 504, it cannot be fetched, or not completely.
            OutputError: the disk is full.
        """
        series = self._find(image_id)
        folder = self._cache / series.uid
        with self._lock:
            mine = self._fetching[series.uid]
        with mine:
            if not self._is_here(folder, series):
                self._fetch(series, folder)
            # The time of its last use.
            os.utime(folder)
        return str(folder)

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:
        packed = io.BytesIO()
        pack_folder(Path(self.get_image_uri(image_id)), packed)
        packed.seek(0)
        return packed

    def remove_expired(self) -> int:
        """Remove the series that nobody used for long.

        Returns:
            How many.
        """
        try:
            entries = list(self._cache.iterdir())
        except OSError:
            return 0
        remove_unfinished(self._cache, age=_ABANDONED)
        count = 0
        for path in entries:
            with suppress(OSError):
                if not path.name.startswith(".") and time.time() - path.stat().st_mtime > self._expiry:
                    remove(path)
                    count += 1
        return count

    # -- inside --------------------------------------------------------------------------------------------------

    def _search(self, wanted: Search) -> tuple[list[RemoteSeries], bool]:
        with _in_refusals():
            found, more = self._archive.search(wanted)
        for series in found:
            self._remember(series)
        return found, more

    def _find(self, uid: str) -> RemoteSeries:
        with self._lock:
            kept = self._known.get(uid)
        if kept is not None and time.monotonic() - kept[0] < _FRESH:
            return kept[1]
        try:
            if not is_uid(uid):
                raise NotInArchiveError(f"{uid[:64]!r} is no UID")
            with _in_refusals():
                series = self._archive.find(series=uid)[0]
        except NotInArchiveError as error:
            raise not_found(
                f"image {uid[:64]!r} is unknown to the DICOMweb server, or is no MR series."
            ) from error
        self._remember(series)
        return series

    def _remember(self, series: RemoteSeries) -> None:
        with self._lock:
            self._known.pop(series.uid, None)
            self._known[series.uid] = time.monotonic(), series
            while len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]

    def _is_here(self, folder: Path, series: RemoteSeries) -> bool:
        try:
            count = len(os.listdir(folder))
        except OSError:
            return False
        return count >= max(series.instances or 0, 1)

    def _fetch(self, series: RemoteSeries, folder: Path) -> None:
        start = time.monotonic()
        # Scans of patients: not for other users of the machine.
        with writing(self._cache), staging(self._cache, private=True) as coming:
            with _in_refusals(), refusing():
                count = self._archive.fetch(series, coming, max_bytes=self._max_bytes)
            remove(folder)
            coming.rename(folder)
        _log.info("series %s: fetched, %d files, %.1f s", series.uid, count, time.monotonic() - start)

    # -- what only a folder can do -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Do nothing: every question is asked anew."""

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return []

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        return self.list_images()

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        return []

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        return {}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return ""

    def _no_labels(self, *_: Any, **__: Any) -> NoReturn:
        raise not_found("no labels are kept of scans on a DICOMweb server.")

    get_label = get_label_uri = get_label_info = get_dataset_archive = _no_labels

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise conflict(
            "the scans are a DICOMweb server's, of which nothing is changed here; serve a folder to tag or keep scans."
        )

    set_name = set_description = add_image = remove_image = update_image_info = _refuse
    save_label = remove_label = update_label_info = _refuse


@contextmanager
def _in_refusals() -> Iterator[None]:
    """Turn what goes wrong between two servers into refusals that say which of them it is.

    Raises:
        Refusal: 502; 504, no answer in time.
        NotInArchiveError: as it is.
    """
    try:
        yield
    except NotInArchiveError:
        raise
    except ArchiveError as error:
        sentence = worded(error)
        _log.error("%s", sentence)
        status = 504 if isinstance(error, ArchiveTimeoutError) else 502
        raise Refusal(status, sentence, retry_after=_RETRY_AFTER) from error


def _info(series: RemoteSeries) -> dict[str, Any]:
    told = series.told
    date = told["StudyDate"]
    day = f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 else date
    words = (told["PatientID"], day, " ".join((told["SeriesNumber"], told["SeriesDescription"])).strip())
    return {
        **told,
        "name": series.uid,
        "description": ", ".join(word for word in words if word),
        "images": series.instances,
        "domain": "",
        "domain_tag": "",
        "domain_reason": "on a DICOMweb server",
    }
