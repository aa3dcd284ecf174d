"""A DICOMweb server as a client sees it: asked with an end to each wait, and its failures in sentences."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import requests
from dicomweb_client.web import DICOMwebClient, _Transaction
from requests.adapters import HTTPAdapter

from srcyc.errors import ArchiveError, ConfigError
from srcyc.pacs import web
from srcyc.pacs.web import is_uid
from srcyc_app.refusals import Refusal, not_found, unusable

_log = logging.getLogger(__name__)

#: Seconds for a connection, and for the answer to a question.
CONNECT_SECONDS, ANSWER_SECONDS = 2.0, 2.5
#: Seconds for more of a series: an archive may have to fetch it from a tape. Its server has just answered a question.
SERIES_SECONDS = 60.0
#: Series that one question is about.
MOST = 1000

_DATE = re.compile(r"\d{8}(-(\d{8})?)?|-\d{8}")
_ISO_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_CODED = re.compile(r"[^A-Za-z0-9._*?-]")
#: What is asked of a series, by DICOM's names and numbers.
_FIELDS = {
    "SeriesInstanceUID": "0020000E",
    "StudyInstanceUID": "0020000D",
    "Modality": "00080060",
    "PatientID": "00100020",
    "StudyDate": "00080020",
    "StudyTime": "00080030",
    "SeriesDescription": "0008103E",
    "SeriesNumber": "00200011",
    "NumberOfSeriesRelatedInstances": "00201209",
}


@dataclass(frozen=True)
class Search:
    """Which series are wanted.

    Attributes:
        patient: a patient's ID or name; ``*`` stands for any letters.
        date: of the study, ``YYYYMMDD``, or from-to as ``YYYYMMDD-YYYYMMDD``.
        description: a part of the series' description, in any case.
        limit: series at most.
        offset: series to leave out.
    """

    patient: str = ""
    date: str = ""
    description: str = ""
    limit: int = 200
    offset: int = 0

    @classmethod
    def of(cls, patient: str, date: str, description: str, limit: int, offset: int) -> Search:
        """Check what a client asks for.

        Raises:
            Refusal: 422.
        """
        for name, text in (("patient", patient), ("description", description)):
            if len(text) > 64 or "\\" in text or not text.isprintable():
                raise unusable(f"{name} {text[:30]!r}: give at most 64 letters, none of them a backslash.")
        date = _ISO_DATE.sub(r"\1\2\3", date.strip())
        if date and not _DATE.fullmatch(date):
            raise unusable(
                f"date {date[:30]!r}: give YYYYMMDD, or the first and the last day as YYYYMMDD-YYYYMMDD."
            )
        return cls(patient.strip(), date, description.strip(), limit, offset)


@dataclass(frozen=True)
class RemoteSeries:
    """A series as its server tells of it.

    Attributes:
        uid: its own.
        study: its study's.
        instances: how many it has; None: not told.
        told: by DICOM's names.
    """

    uid: str
    study: str
    instances: int | None
    told: dict[str, str]


class Login(web.Login):
    """One line of a file or the environment, read anew for every question, so that it can change.

    Args:
        file: as of :class:`srcyc.pacs.web.Login`.
        name, password: MONAI Label's, if there is neither file nor variable.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, file: Path | None, name: str = "", password: str = "") -> None:
        super().__init__(file, otherwise=f"{name}:{password}" if name else "")
        if file is not None and os.name == "posix" and file.stat().st_mode & 0o077:
            _log.warning("%s: others of this machine can read it; chmod 600 it.", file)

    def line(self) -> str:
        return self.read()


class Archive:
    """Asks one DICOMweb server.

    Args:
        url: its root, without a name or a password.
        login: who asks.
        search_filter: by which its scans are told from all else, such as ``{"Modality": "MR"}``.
        qido_prefix, wado_prefix: of the paths for questions and for fetching, where it has any.

    Raises:
        ConfigError: no address of a DICOMweb server.
    """

    def __init__(
        self,
        url: str,
        login: Login,
        search_filter: Mapping[str, Any],
        qido_prefix: str | None = None,
        wado_prefix: str | None = None,
    ) -> None:
        self.url = checked_address(url)
        self._login = login
        self._filter = dict(search_filter)
        session = requests.Session()
        session.auth = login
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Patient())
        try:
            self._client = _Client(self.url, session, qido_prefix or None, wado_prefix or None)
            # It would come back five times to one that does not answer.
            self._client.set_http_retry_params(retry=False)
        except ValueError as error:
            raise ConfigError(f"{self.url}: no address of a DICOMweb server.") from error

    def search(self, wanted: Search) -> tuple[list[RemoteSeries], bool]:
        """List series.

        Returns:
            the series, and whether there are more.

        Raises:
            Refusal: 502 or 504, the server cannot be asked.
        """
        filters: dict[str, Any] = {}
        if wanted.date:
            filters["StudyDate"] = wanted.date
        if wanted.description:
            filters["SeriesDescription"] = f"*{_plain(wanted.description)}*"
        if not wanted.patient:
            return self._ask(filters, wanted)
        patient = _plain(wanted.patient)
        found = self._ask({**filters, "PatientID": patient}, wanted)
        if found[0] or wanted.offset:
            return found
        return self._ask({**filters, "PatientName": patient if "*" in patient else f"*{patient}*"}, wanted)

    def find(self, uid: str) -> RemoteSeries:
        """Give one series.

        Raises:
            Refusal: 404, there is none; 502 or 504, the server cannot be asked.
        """
        if is_uid(uid):
            for series in self._ask({"SeriesInstanceUID": uid}, Search(limit=1))[0]:
                if series.uid == uid:
                    return series
        raise not_found(f"image {uid[:64]!r} is unknown to the DICOMweb server, or is no MR series.")

    def files(self, series: RemoteSeries) -> Iterator[bytes]:
        """Fetch the files of a series, as they come.

        Raises:
            Refusal: 502 or 504.
        """
        with self._in_sentences(SERIES_SECONDS):
            yield from self._client.files(series.study, series.uid)

    def store(self, folder: Path) -> str:
        """Store the series in the folders of a folder, all instances or none; give the UID of the one called `volume`.

        Raises:
            Refusal: 502; says whether anything is left there.
        """
        files = sorted(folder.glob("*/*.dcm"))
        try:
            web.DicomWeb(self.url, self._login).store(files)
        except ArchiveError as error:
            raise self._refusal(502, str(error)) from error
        first = pydicom.dcmread(str(folder / "volume" / "0001.dcm"), specific_tags=["SeriesInstanceUID"])
        return str(first.SeriesInstanceUID)

    def _ask(self, filters: Mapping[str, Any], wanted: Search) -> tuple[list[RemoteSeries], bool]:
        with self._in_sentences(ANSWER_SECONDS):
            told = self._client.search_for_series(
                limit=wanted.limit + 1,
                offset=wanted.offset,
                fields=list(_FIELDS),
                search_filters={**self._filter, **filters},
            )
            found = [series for series in map(_series, told) if series is not None]
        return found[: wanted.limit], len(told) > wanted.limit

    @contextmanager
    def _in_sentences(self, seconds: float) -> Iterator[None]:
        """Turn what goes wrong between two servers into refusals that say which of them it is."""
        who = f"the DICOMweb server {urlsplit(self.url).netloc}"
        try:
            yield
        except requests.Timeout as error:
            raise self._refusal(504, f"{who} does not answer within {seconds:g} s; see to it.") from error
        except requests.exceptions.SSLError as error:
            raise self._refusal(
                502, f"the certificate of {who} is not trusted; name its authority in REQUESTS_CA_BUNDLE."
            ) from error
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                raise self._refusal(502, f"{who} refuses the login of this one; see --pacs-login.") from error
            raise self._refusal(502, f"{who} answers {status}; see its log.") from error
        except requests.RequestException as error:
            raise self._refusal(502, f"{who} cannot be reached, or hangs up; see whether it runs.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._refusal(502, f"{who} answers with what is no DICOMweb; check its address.") from error

    @staticmethod
    def _refusal(status: int, sentence: str) -> Refusal:
        _log.error("%s", sentence)
        return Refusal(status, sentence, retry_after=10)


def checked_address(url: str) -> str:
    """Give the address of a DICOMweb server back.

    Raises:
        ConfigError: none, or one with a password: everybody on the machine sees a command line.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(
            "--studies: no address of a DICOMweb server, such as https://pacs.example/dicom-web."
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"--studies {parts.scheme}://…@{parts.hostname}: a name or a password in an address is seen by everybody; "
            "put NAME:PASSWORD into a file and give it by --pacs-login."
        )
    return url.rstrip("/")


class _Patient(HTTPAdapter):
    """Gives every wait an end, and every wildcard its plainest spelling."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        # An address may hold these as they are, and some servers (Orthanc's before 1.11) know them only so.
        address, mark, query = (request.url or "").partition("?")
        request.url = address + mark + query.replace("%2A", "*").replace("%3F", "?")
        seconds = timeout or (CONNECT_SECONDS, SERIES_SECONDS if stream else ANSWER_SECONDS)
        return super().send(request, stream, seconds, verify, cert, proxies)


class _Client(DICOMwebClient):
    """dicomweb-client's, which would decode every file; here that is left to a process of its own."""

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


def _plain(text: str) -> str:
    """Let any letter stand for one that an address cannot hold as it is: not every server decodes it."""
    return _CODED.sub("?", text)


def _series(told: Mapping[str, Any]) -> RemoteSeries | None:
    """Read what a server tells of a series; None if it is nothing that could be asked for."""
    texts = {name: _text(told.get(tag)) for name, tag in _FIELDS.items()}
    if not is_uid(texts["SeriesInstanceUID"]) or not is_uid(texts["StudyInstanceUID"]):
        return None
    count = texts.pop("NumberOfSeriesRelatedInstances")
    instances = int(count) if count.isascii() and count.isdigit() else None
    return RemoteSeries(texts["SeriesInstanceUID"], texts["StudyInstanceUID"], instances, texts)


def _text(element: Any) -> str:
    values = element.get("Value") if isinstance(element, Mapping) else None
    first = values[0] if isinstance(values, list) and values else ""
    return str(first)[:200] if isinstance(first, (str, int, float)) else ""
