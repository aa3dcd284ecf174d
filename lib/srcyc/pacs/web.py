"""A DICOMweb server: series fetched from it, and derived ones stored in it, all instances or none."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pydicom
import requests
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from srcyc.errors import ArchiveError, ConfigError

#: Where a login may stand, in place of a file.
LOGIN_VARIABLE = "SRCYC_PACS_LOGIN"
#: Seconds for a connection, and for an answer: what a server does with one request it does in that time.
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 60.0
#: Bytes of the instances of one request.
_AT_ONCE = 16 * 2**20
#: How often a server is asked for what it has just said that it stored, and after how many seconds again.
_LOOKS, _LOOK_SECONDS = 5, 1.0
_MOST = 100_000
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True)
class RemoteSeries:
    """A series of a server.

    Attributes:
        study: Study Instance UID.
        uid: Series Instance UID.
        modality: as told.
        instances: how many it has; None: not told.
    """

    study: str
    uid: str
    modality: str
    instances: int | None


class Login(AuthBase):
    """Says who asks: by one line, ``NAME:PASSWORD`` or ``Bearer TOKEN``, of a file or the environment.

    Args:
        file: that holds it; None: the variable :data:`LOGIN_VARIABLE` does, if it is set.
        otherwise: the line where there is neither.

    Raises:
        ConfigError: there is no such line.
    """

    def __init__(self, file: Path | None = None, *, otherwise: str = "") -> None:
        self._file = file
        self._text = os.environ.get(LOGIN_VARIABLE, "").strip() or otherwise
        self._line = self.read()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if line := self.line():
            bearer = line.startswith("Bearer ")
            coded = base64.b64encode(line.encode()).decode()
            request.headers["Authorization"] = line if bearer else f"Basic {coded}"
        return request

    def line(self) -> str:
        """Give the line as it was when this was made: a file may be one that can be read once."""
        return self._line

    def read(self) -> str:
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
        seconds: for an answer.

    Raises:
        ConfigError: no such address.
    """

    def __init__(self, url: str, login: AuthBase | None = None, *, seconds: float = ANSWER_SECONDS) -> None:
        self.url = _checked(url)
        self._name = urlsplit(self.url).netloc
        self._session = requests.Session()
        self._session.auth = login or Login()
        self._seconds = seconds
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Ending(seconds))
        try:
            self._client = DICOMwebClient(self.url, session=self._session)
        except ValueError as error:
            raise ConfigError(f"{self.url}: no address of a DICOMweb server.") from error
        # It would come back five times to a server that does not answer, and show a traceback where we have a sentence.
        self._client.set_http_retry_params(retry=False)
        logging.getLogger("retrying").setLevel(logging.CRITICAL)

    # -- from it ---------------------------------------------------------------------------------------------

    def find(self, *, study: str | None = None, series: str | None = None) -> list[RemoteSeries]:
        """List the MR series of a study, or the one of a UID.

        Raises:
            ArchiveError: there is none, or the server cannot be asked.
            ConfigError: no UIDs.
        """
        for uid in filter(None, (study, series)):
            if not is_uid(uid):
                raise ConfigError(f"{uid[:70]!r} is no UID", remedy="give the Study or Series Instance UID")
        filters = {"SeriesInstanceUID": series} if series else {"Modality": "MR"}
        with self._explained():
            told = self._client.search_for_series(
                study_instance_uid=study,
                fields=[
                    "StudyInstanceUID",
                    "SeriesInstanceUID",
                    "Modality",
                    "NumberOfSeriesRelatedInstances",
                ],
                search_filters=filters,
            )
            found = [_series(one, study) for one in told]
        found = [one for one in found if series in (None, one.uid) and study in (None, one.study)]
        if not found:
            what = f"series {series}" if series else f"MR series of the study {study}"
            raise ArchiveError(f"the DICOMweb server {self._name} has no {what}", remedy="check the UID")
        return found

    def fetch(self, series: RemoteSeries, folder: Path) -> int:
        """Fetch a series, complete or not at all, as files of a folder that exists.

        Returns:
            how many there are.

        Raises:
            ArchiveError: the server cannot be asked, or gives fewer instances than it says.
        """
        count = 0
        with self._explained():
            for count, image in enumerate(self._client.iter_series(series.study, series.uid), 1):
                pydicom.dcmwrite(str(folder / f"{count:05d}.dcm"), image)
        if not count or (series.instances is not None and count < series.instances):
            raise ArchiveError(
                f"the DICOMweb server {self._name} gave {count} of {series.instances} instances of a series",
                remedy="try again",
            )
        return count

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
        found: set[_Instance] = set()
        for study, uid in series:
            with self._explained():
                told = self._client.search_for_instances(study, uid, fields=["SOPInstanceUID"], limit=_MOST)
                found |= {_Instance(study, uid, str(one["00080018"]["Value"][0])) for one in told}
        return found

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

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what goes wrong between us and the server into sentences, without what it says of patients."""
        who = f"the DICOMweb server {self._name}"
        try:
            yield
        except requests.Timeout as error:
            raise ArchiveError(
                f"{who} does not answer within {self._seconds:g} s", remedy="try again when it does"
            ) from error
        except requests.exceptions.SSLError as error:
            raise ArchiveError(
                f"the certificate of {who} is not trusted", remedy="name its authority in REQUESTS_CA_BUNDLE"
            ) from error
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                raise ArchiveError(
                    f"{who} refuses the login", remedy="give one", options=("pacs_login",)
                ) from error
            reason = _reason(error.response)
            raise ArchiveError(
                f"{who} answers {status}{reason}", remedy="see its log, then try again"
            ) from error
        except requests.exceptions.JSONDecodeError as error:
            raise ArchiveError(
                f"{who} answers with what is no DICOMweb", remedy="check its address"
            ) from error
        except requests.RequestException as error:
            raise ArchiveError(
                f"{who} cannot be reached, or hangs up", remedy="see whether it runs"
            ) from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ArchiveError(
                f"{who} answers with what is no DICOMweb", remedy="check its address"
            ) from error


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
    """Gives every wait an end."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        more["timeout"] = more.get("timeout") or (CONNECT_SECONDS, self._seconds)
        return super().send(request, *args, **more)


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


def _reason(response: requests.Response | None) -> str:
    """Give what Orthanc says by a word of its own (the storage is full), never what may name a patient."""
    try:
        told = response.json().get("OrthancError") if response is not None else None
    except (ValueError, AttributeError):
        return ""
    return f" ({told[:60]})" if isinstance(told, str) and re.fullmatch(r"[A-Za-z ,'()/-]+", told) else ""


def _series(told: dict[str, Any], study: str | None) -> RemoteSeries:
    def text(tag: str) -> str:
        values = told.get(tag, {}).get("Value") or [""]
        return str(values[0])

    count = text("00201209")
    uids = text("0020000D") or study or "", text("0020000E")
    if not all(map(is_uid, uids)):
        raise ValueError("no UIDs")
    return RemoteSeries(*uids, text("00080060"), int(count) if count.isdigit() else None)


def is_uid(text: str) -> bool:
    """Tell whether a text is a UID."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(
            "no address of a DICOMweb server", remedy="give one, such as https://pacs.example/dicom-web"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{parts.scheme}://…@{parts.hostname}: everybody on the machine sees a login in an address",
            remedy=f"put it into ${LOGIN_VARIABLE} or a file",
        )
    return urlunsplit(parts).rstrip("/")
