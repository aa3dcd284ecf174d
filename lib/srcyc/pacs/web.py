"""A DICOMweb server: series found and fetched, and derived ones stored in it, all instances or none."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pydicom
import requests
from dicomweb_client.web import DICOMwebClient, _Transaction
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from srcyc.errors import (
    ArchiveError,
    ArchiveTimeoutError,
    ConfigError,
    NotInArchiveError,
    SRCycError,
    VolumeError,
)
from srcyc.pacs.remote import FIELDS, RemoteSeries, Search, is_uid

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Where a login may stand, in place of a file.
LOGIN_VARIABLE = "SRCYC_PACS_LOGIN"
#: Seconds for a connection, and for an answer or more of one: what a server does with one request it does in that time.
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 60.0
#: Questions that may wait for a server at a time.
_QUESTIONS = 16
#: Bytes of the instances of one request.
_AT_ONCE = 16 * 2**20
#: How often a server is asked for what it has just said that it stored, and after how many seconds again.
_LOOKS, _LOOK_SECONDS = 5, 1.0
_MOST = 100_000
_CODED = re.compile(r"[^A-Za-z0-9._*?-]")


class Login(AuthBase):
    """Says who asks: by one line, ``NAME:PASSWORD`` or ``Bearer TOKEN``, of a file or the environment.

    Args:
        file: that holds it; None: the variable :data:`LOGIN_VARIABLE` does, if it is set.
        otherwise: the line where there is neither.
        anew: read the file for every question, so that it can change. (One that is a pipe can be read once.)

    Raises:
        ConfigError: there is no such line.
    """

    def __init__(self, file: Path | None = None, *, otherwise: str = "", anew: bool = False) -> None:
        self._file, self._anew = file, anew
        self._text = os.environ.get(LOGIN_VARIABLE, "").strip() or otherwise
        self._line = self._read()
        if file is not None and file.is_file() and os.name == "posix" and file.stat().st_mode & 0o077:
            _log.warning("%s: others of this machine can read it; chmod 600 it.", file)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if line := self._read() if self._anew else self._line:
            bearer = line.startswith("Bearer ")
            coded = base64.b64encode(line.encode()).decode()
            request.headers["Authorization"] = line if bearer else f"Basic {coded}"
        return request

    def _read(self) -> str:
        """Read the line as it is now.

        Raises:
            ConfigError: there is no such line.
        """
        where = str(self._file or f"${LOGIN_VARIABLE}")
        try:
            line = self._text if self._file is None else self._file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where}: the login cannot be read ({type(error).__name__}).") from error
        is_line = "\n" not in line and (line.startswith("Bearer ") or ":" in line)
        if not is_line and (line or self._file is not None):
            raise ConfigError(f"{where}: give one line, NAME:PASSWORD or Bearer TOKEN.")
        return line


class DicomWeb:
    """One server.

    Args:
        url: its root, without a name or a password.
        login: who asks.
        seconds: within which a question is answered, whatever it is that takes longer: the name that is looked up, the
            connection, or the answer.
        only: what a series has to be, such as ``{"Modality": "MR"}``.
        qido_prefix: of the paths for questions, where they have one; wado_prefix: for fetching.

    Raises:
        ConfigError: no such address.
    """

    def __init__(
        self,
        url: str,
        login: AuthBase | None = None,
        *,
        seconds: float = ANSWER_SECONDS,
        only: Mapping[str, Any] | None = None,
        qido_prefix: str | None = None,
        wado_prefix: str | None = None,
    ) -> None:
        self.url = checked_address(url)
        self._name = urlsplit(self.url).netloc
        self._session = requests.Session()
        self._session.auth = login or Login()
        self._seconds = seconds
        self._only = dict(only or {})
        self._room = threading.BoundedSemaphore(_QUESTIONS)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Ending())
        self._client = _Client(self.url, self._session, qido_prefix or None, wado_prefix or None)
        # It would come back five times to a server that does not answer, and show a traceback where we have a sentence.
        self._client.set_http_retry_params(retry=False)
        logging.getLogger("retrying").setLevel(logging.CRITICAL)

    # -- from it ---------------------------------------------------------------------------------------------

    def search(self, wanted: Search) -> tuple[list[RemoteSeries], bool]:
        """List series.

        Returns:
            the series, and whether there are more.

        Raises:
            ArchiveError: the server cannot be asked.
        """
        filters: dict[str, Any] = {}
        if wanted.date:
            filters["StudyDate"] = wanted.date
        if wanted.description:
            filters["SeriesDescription"] = f"*{_plain(wanted.description)}*"
        if not wanted.patient:
            return self._page(filters, wanted)
        patient = _plain(wanted.patient)
        found = self._page({**filters, "PatientID": patient}, wanted)
        if found[0] or wanted.offset:
            return found
        return self._page({**filters, "PatientName": patient if "*" in patient else f"*{patient}*"}, wanted)

    def find(self, *, study: str | None = None, series: str | None = None) -> list[RemoteSeries]:
        """List the MR series of a study, or the one of a UID.

        Raises:
            NotInArchiveError: there is none.
            ArchiveError: the server cannot be asked.
            ConfigError: no UIDs.
        """
        for uid in filter(None, (study, series)):
            if not is_uid(uid):
                raise ConfigError(f"{uid[:70]!r} is no UID", remedy="give the Study or Series Instance UID")
        found, _ = self._series({"SeriesInstanceUID": series} if series else {"Modality": "MR"}, study=study)
        found = [one for one in found if series in (None, one.uid) and study in (None, one.study)]
        if not found:
            what = f"series {series}" if series else f"MR series of the study {study}"
            raise NotInArchiveError(f"the DICOMweb server {self._name} has no {what}", remedy="check the UID")
        return found

    def fetch(self, series: RemoteSeries, folder: Path, *, max_bytes: int | None = None) -> int:
        """Fetch a series, complete or not at all, as files of a folder that exists, as they come.

        Args:
            series: as it was found.
            folder: for its files.
            max_bytes: that it may have.

        Returns:
            how many there are.

        Raises:
            ArchiveError: the server cannot be asked, or gives fewer instances than it says.
            VolumeError: it has more than ``max_bytes``.
            OSError: the disk is full.
        """
        count = size = 0
        with self._explained():
            for count, part in enumerate(self._client.files(series.study, series.uid), 1):
                size += len(part)
                if max_bytes is not None and size > max_bytes:
                    raise VolumeError(
                        f"series {series.uid}: has more than the {max_bytes / 1e9:g} GB that are taken",
                        remedy="take more, or choose another",
                    )
                (folder / f"{count:05d}.dcm").write_bytes(part)
        if not count or (series.instances is not None and count < series.instances):
            raise ArchiveError(
                f"the DICOMweb server {self._name} gave {count} of {series.instances} instances of a series",
                remedy="try again",
            )
        return count

    def _page(self, filters: Mapping[str, Any], wanted: Search) -> tuple[list[RemoteSeries], bool]:
        found, count = self._series(filters, limit=wanted.limit + 1, offset=wanted.offset)
        return found[: wanted.limit], count > wanted.limit

    def _series(
        self,
        filters: Mapping[str, Any],
        study: str | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> tuple[list[RemoteSeries], int]:
        """Give what the server tells of series, and how many that were."""

        def ask() -> list[RemoteSeries | None]:
            told = self._client.search_for_series(
                study,
                limit=limit,
                offset=offset,
                fields=list(FIELDS),
                search_filters={**self._only, **filters},
            )
            return [RemoteSeries.of(one, study) for one in told]

        found = self._ask(ask, self._seconds)
        return [series for series in found if series is not None], len(found)

    # -- to it -----------------------------------------------------------------------------------------------

    def store(self, files: Sequence[Path]) -> int:
        """Store instances, all of them or none; those that are there already are not sent again.

        What was stored before something went wrong is taken back where the server lets it be; where it does not, or
        this process is killed, storing the same files again completes them.

        Args:
            files: of one study.

        Returns:
            how many were sent.

        Raises:
            ArchiveError: not stored; says whether anything is left there.
        """
        wanted = {_Instance.of(file): file for file in files}
        series = {(one.study, one.series) for one in wanted}
        before = self._there(series)
        new = [one for one in wanted if one not in before]
        try:
            for batch in _batches([wanted[one] for one in new]):
                self._send(batch, new[0].study)
            missing = self._missing(new, series)
            if missing:
                raise ArchiveError(
                    f"the DICOMweb server {self._name} did not keep {len(missing)} of {len(wanted)} instances",
                    remedy="see its log, then try again",
                )
        except ArchiveError as error:
            left = self._withdraw(new, series)
            if left is None or left:
                what = "perhaps some" if left is None else str(len(left))
                raise ArchiveError(
                    f"{error.fact}; {what} of {len(wanted)} instances of the result are left there and cannot be taken "
                    "back",
                    remedy="store it again once the server is well, which completes them",
                ) from error
            raise ArchiveError(
                f"{error.fact}; nothing of the result is left there", remedy=error.remedy
            ) from error
        return len(new)

    def _send(self, files: Sequence[Path], study: str) -> None:
        with self._explained():
            images = (pydicom.dcmread(str(file)) for file in files)
            answer: Any = self._client.store_instances(images, study_instance_uid=study)  # type: ignore[arg-type]
        failed = answer.get("FailedSOPSequence") if isinstance(answer, Dataset) else None
        if failed:
            reason = failed[0].get("FailureReason")
            code = f" (reason {reason:04X})" if isinstance(reason, int) else ""
            raise ArchiveError(
                f"the DICOMweb server {self._name} refused {len(failed)} of {len(files)} instances{code}",
                remedy="see its log, then try again",
            )

    def _missing(self, wanted: Sequence[_Instance], series: set[tuple[str, str]]) -> list[_Instance]:
        """Give what the server does not have a while after it has said that it stored it."""
        missing: list[_Instance] = list(wanted)
        for look in range(_LOOKS):
            if look:
                time.sleep(_LOOK_SECONDS)
            there = self._there(series)
            missing = [one for one in wanted if one not in there]
            if not missing:
                break
        return missing

    def _there(self, series: set[tuple[str, str]]) -> set[_Instance]:
        def ask(study: str, uid: str) -> set[_Instance]:
            told = self._client.search_for_instances(study, uid, fields=["SOPInstanceUID"], limit=_MOST)
            return {_Instance(study, uid, str(one["00080018"]["Value"][0])) for one in told}

        return {one for place in series for one in self._ask(partial(ask, *place), ANSWER_SECONDS)}

    def _withdraw(self, sent: Sequence[_Instance], series: set[tuple[str, str]]) -> list[_Instance] | None:
        """Take instances back that were sent just now; give those that stay, None if that cannot be told."""
        try:
            there = self._there(series)
            for one in (one for one in sent if one in there):
                self._delete(one)
            there = self._there(series)
        except ArchiveError:
            return None
        return [one for one in sent if one in there]

    def _delete(self, instance: _Instance) -> None:
        """Delete one instance: DICOMweb has no way that all servers know, Orthanc has one of its own."""
        with self._explained():
            path = f"studies/{instance.study}/series/{instance.series}/instances/{instance.uid}"
            if self._session.delete(f"{self.url}/{path}").ok:
                return
            root = self.url.rpartition("/")[0]
            found = self._session.post(f"{root}/tools/lookup", data=instance.uid)
            if found.ok:
                for one in found.json():
                    if one.get("Type") == "Instance":
                        self._session.delete(f"{root}{one['Path']}")

    # -- asking it -------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[], T], seconds: float) -> T:
        """Put a question from a thread of its own: nothing else ends the look-up of a name that no server answers.

        Raises:
            ArchiveError: no answer.
        """
        end = time.monotonic() + seconds
        answer: Future[T] = Future()

        def ask() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:  # whatever it is, it is the asker's  # noqa: BLE001
                answer.set_exception(error)
            finally:
                self._room.release()

        with self._explained(seconds):
            # Those that nobody waits for any more end when the system gives up.
            if not self._room.acquire(timeout=seconds):
                raise requests.Timeout
            threading.Thread(target=ask, name="dicomweb", daemon=True).start()
            try:
                return answer.result(end - time.monotonic())
            except NotInTime:
                raise requests.Timeout from None

    @contextlib.contextmanager
    def _explained(self, seconds: float = ANSWER_SECONDS) -> Iterator[None]:
        """Turn what goes wrong between us and the server into sentences, without what it says of patients."""
        who = f"the DICOMweb server {self._name}"
        try:
            yield
        except SRCycError:
            raise
        except requests.Timeout as error:
            raise ArchiveTimeoutError(
                f"{who} does not answer within {seconds:g} s", remedy="try again when it does"
            ) from error
        except requests.exceptions.SSLError as error:
            raise ArchiveError(
                f"the certificate of {who} is not trusted", remedy="name its authority in REQUESTS_CA_BUNDLE"
            ) from error
        except requests.HTTPError as error:
            response: Any = error.response  # there: raise_for_status made the error
            if response.status_code in (401, 403):
                raise ArchiveError(
                    f"{who} refuses the login", remedy="give another by pacs_login", options=("pacs_login",)
                ) from error
            raise ArchiveError(
                f"{who} answers {response.status_code}{_reason(response)}",
                remedy="see its log, then try again",
            ) from error
        except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError) as error:
            told, remedy = "answers with what is no DICOMweb", "check its address"
            if isinstance(error, requests.RequestException) and not isinstance(
                error, requests.JSONDecodeError
            ):
                told, remedy = "cannot be reached, or hangs up", "see whether it runs"
            raise ArchiveError(f"{who} {told}", remedy=remedy) from error


@dataclass(frozen=True)
class _Instance:
    study: str
    series: str
    uid: str

    @classmethod
    def of(cls, file: Path) -> _Instance:
        keys = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
        header = pydicom.dcmread(str(file), stop_before_pixels=True, specific_tags=list(keys))
        return cls(*(str(header[key].value) for key in keys))


class _Ending(HTTPAdapter):
    """Gives every wait an end, and every wildcard its plainest spelling."""

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        # An address may hold these as they are, and some servers (Orthanc's before 1.11) know them only so.
        address, mark, query = (request.url or "").partition("?")
        request.url = address + mark + query.replace("%2A", "*").replace("%3F", "?")
        more["timeout"] = more.get("timeout") or (CONNECT_SECONDS, ANSWER_SECONDS)
        return super().send(request, *args, **more)


class _Client(DICOMwebClient):
    """dicomweb-client's, which would decode every file; here that is left to whoever reads them."""

    def files(self, study: str, series: str) -> Iterator[bytes]:
        response = self._http_get(
            self._get_series_url(_Transaction.RETRIEVE, study, series),
            headers={"Accept": 'multipart/related; type="application/dicom"'},
            stream=True,
        )
        with response:
            if not response.headers.get("content-type", "").lower().startswith("multipart/related"):
                raise ValueError("not multipart/related")
            yield from self._decode_multipart_message(response, stream=True)


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size = 0
    for file in files:
        length = file.stat().st_size
        if batch and size + length > _AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += length
    if batch:
        yield batch


def _reason(response: requests.Response) -> str:
    """Give what Orthanc says by a word of its own (the storage is full), never what may name a patient."""
    try:
        told = response.json().get("OrthancError")
    except (ValueError, AttributeError):
        return ""
    return f" ({told[:60]})" if isinstance(told, str) and re.fullmatch(r"[A-Za-z ,'()/-]+", told) else ""


def _plain(text: str) -> str:
    """Let any letter stand for one that an address cannot hold as it is: not every server decodes it."""
    return _CODED.sub("?", text)


def checked_address(url: str) -> str:
    """Give the address of a DICOMweb server back.

    Raises:
        ConfigError: none, or one with a login: everybody on the machine sees a command line.
    """
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # half a bracket, a port beyond all
        is_one = False
    if not is_one or parts.query or parts.fragment:
        raise ConfigError(
            "no address of a DICOMweb server", remedy="give one, such as https://pacs.example/dicom-web"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{parts.scheme}://…@{parts.hostname}: everybody on the machine sees a login in an address",
            remedy=f"put it into ${LOGIN_VARIABLE}, or into a file and give that by pacs_login",
            options=("pacs_login",),
        )
    return urlunsplit(parts).rstrip("/")
