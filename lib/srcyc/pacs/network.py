"""DICOM's own network protocol: instances that come by C-STORE, and results that go."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from srcyc.errors import ArchiveError, ConfigError, OutputError
from srcyc.pacs.queue import Entry
from srcyc.volumes.dicom.derived import is_derived
from srcyc.volumes.dicom.source import MR_CLASSES

_log = logging.getLogger(__name__)

#: What the reader decodes.
_SYNTAXES = [
    *("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"),
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)),
]
#: Statuses of C-STORE: no room; not what it says it is.
_NO_ROOM, _UNFIT, _SUCCESS = 0xA700, 0xA900, 0x0000
#: Of the answers of others these say that an instance was stored (with coercions, say).
_STORED = (0x0000, 0xB000, 0xB006, 0xB007)
#: Seconds that the other side may take to answer.
_WAIT = 60
_MOST_ASSOCIATIONS = 10
_PEER = re.compile(
    r"(?P<title>[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]{0,15})@(?P<host>[^@\s]+):(?P<port>\d{1,5})"
)

#: Keeps an instance, given its series, its own UID and its file; says whether there was room by raising OutputError.
Keep = Callable[[str, str, bytes], Entry]


@dataclass(frozen=True)
class Peer:
    """A station that takes results: its AE title and address."""

    title: str
    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Peer:
        """Read ``AET@HOST:PORT``.

        Raises:
            ConfigError: it is not that.
        """
        found = _PEER.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 2**16:
            raise ConfigError(
                f"{text[:80]!r} is no station", remedy="give AET@HOST:PORT, for example PACS@10.0.0.5:104"
            )
        return cls(found["title"], found["host"], int(found["port"]))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"

    def send(self, files: Sequence[Path], own_title: str) -> None:
        """Send instances; those that were sent before are the same again to whoever takes them.

        Raises:
            ArchiveError: it cannot be reached, or does not take them all.
        """
        unit = ApplicationEntity(ae_title=own_title)
        unit.acse_timeout = unit.dimse_timeout = unit.network_timeout = unit.connection_timeout = _WAIT
        unit.add_requested_context(MR_CLASSES[0], _SYNTAXES[:2])
        link = unit.associate(self.host, self.port, ae_title=self.title)
        if not link.is_established:
            what = "refuses the association" if link.is_rejected else "cannot be reached"
            raise ArchiveError(f"{self} {what}", remedy="see whether it runs and knows this station")
        try:
            for number, file in enumerate(files, 1):
                try:
                    status = link.send_c_store(pydicom.dcmread(str(file)))
                except (RuntimeError, ValueError) as error:
                    raise ArchiveError(
                        f"{self} does not take MR images, or hung up", remedy="see its log"
                    ) from error
                code = status.get("Status") if status else None
                if code not in _STORED:
                    told = "hung up" if code is None else f"answers {code:04X}"
                    raise ArchiveError(
                        f"{self} {told} to instance {number} of {len(files)}", remedy="see its log"
                    )
        finally:
            if link.is_established:
                link.release()
            else:
                link.abort()


class Listener:
    """Takes MR images by C-STORE.

    Args:
        title: own AE title, by which it has to be called.
        host, port: where it listens.
        allowed: AE titles that may call; none: all.
        keep: see :data:`Keep`.

    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(self, title: str, host: str, port: int, allowed: Sequence[str], keep: Keep) -> None:
        self._title, self._allowed, self._keep = title, tuple(allowed), keep
        self._lock = threading.Lock()
        self._coming: dict[Any, set[str]] = {}
        unit = ApplicationEntity(ae_title=title)
        unit.require_called_aet = True
        unit.require_calling_aet = list(allowed)
        unit.maximum_associations = _MOST_ASSOCIATIONS
        unit.acse_timeout = unit.dimse_timeout = unit.network_timeout = _WAIT
        unit.add_supported_context(Verification)
        for kind in MR_CLASSES:
            unit.add_supported_context(kind, _SYNTAXES)
        handlers: Any = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            self._server: Any = unit.start_server((host, port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise ConfigError(f"{host}:{port}: cannot listen there ({error.strerror or error}).") from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def coming(self) -> set[str]:
        """Give the keys of the series whose senders are still connected."""
        with self._lock:
            return set().union(*self._coming.values())

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _store(self, event: Any) -> int:
        caller = _caller(event)
        try:
            image = event.dataset
            series, instance = str(image.SeriesInstanceUID), str(image.SOPInstanceUID)
            fits = instance == str(event.request.AffectedSOPInstanceUID) and len(series) > 0
            ours = is_derived(image)
        except Exception:  # noqa: BLE001 - pydicom lets whatever a damaged data set causes escape
            fits = ours = False
        if not fits:
            _log.error("%s sent an instance that cannot be read: refused", caller)
            return _UNFIT
        if ours:
            # Forwarded by a rule that sends us everything: it would go round for ever.
            _log.warning("%s sent a result of srcyc: not taken for a scan", caller)
            return _SUCCESS
        try:
            entry = self._keep(series, instance, event.encoded_dataset())
            with self._lock:
                self._coming.setdefault(event.assoc, set()).add(entry.key)
        except (OutputError, OSError) as error:
            _log.error(
                "%s sent an instance, and there is no room for it: refused (%s)", caller, type(error).__name__
            )
            return _NO_ROOM
        return _SUCCESS

    def _closed(self, event: Any) -> None:
        with self._lock:
            self._coming.pop(event.assoc, None)

    def _rejected(self, event: Any) -> None:
        called = _plain(event.assoc.requestor.primitive.called_ae_title)
        own = _plain(event.assoc.requestor.primitive.calling_ae_title)
        if called != self._title:
            reason = f"it calls {called!r}, this is {self._title!r}"
        elif self._allowed and own not in self._allowed:
            reason = "it is not among those allowed"
        else:
            reason = "too many associations"
        _log.warning("association of %s refused: %s", _caller(event), reason)

    def _accepted(self, event: Any) -> None:
        if not event.assoc.accepted_contexts:
            _log.warning("association of %s: it offers nothing that is received (MR images)", _caller(event))


def _caller(event: Any) -> str:
    requestor = event.assoc.requestor
    return f"{_plain(requestor.ae_title)!r} at {_plain(requestor.address)}"


def _plain(text: Any) -> str:
    """Bring what another station says of itself into one line of letters."""
    return str(text).encode("ascii", "replace").decode().strip()[:64].encode("unicode_escape").decode()
