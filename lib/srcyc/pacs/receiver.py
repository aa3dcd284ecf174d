"""Scans that are sent here become results that are sent on: series by series, whatever happens in between."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srcyc.errors import ArchiveError, InputError, OutputError
from srcyc.files import is_full
from srcyc.inference.options import InferenceOptions
from srcyc.inference.results import Dicom, write_result
from srcyc.inference.super_resolver import SuperResolver
from srcyc.pacs.queue import Entry, Queue, Status
from srcyc.volumes.dicom import list_series
from srcyc.volumes.volume import read_volume

_log = logging.getLogger(__name__)

#: Sends the files of one result on; raises ArchiveError.
Send = Callable[[Sequence[Path]], object]
#: Seconds after which what failed is tried again: they double up to the last.
_FIRST_WAIT, _LAST_WAIT = 5.0, 300.0


@dataclass
class Receiver:
    """Works off a queue.

    Logs say series by their keys; what may name a patient stands only in the queue itself.

    Attributes:
        queue: what has come.
        resolver: computes.
        options: of each result.
        targets: that every result goes to.
        quiet: seconds without another instance after which a series is complete.
        keep: seconds that a scan is kept after it is settled.
        coming: gives the keys of series of which more may come at any moment.
    """

    queue: Queue
    resolver: SuperResolver
    options: InferenceOptions
    targets: Sequence[Send]
    quiet: float
    keep: float
    coming: Callable[[], Collection[str]] = tuple
    _later: dict[str, tuple[float, float]] = field(default_factory=dict)

    def work(self) -> bool:
        """Do one series that is due; False: there is none now."""
        for entry in self.queue.due(self.quiet, self.coming()):
            again, wait = self._later.get(entry.key, (0.0, _FIRST_WAIT))
            if time.monotonic() < again:
                continue
            digest = entry.digest()
            try:
                self._settle(entry, digest)
                self._later.pop(entry.key, None)
            except (ArchiveError, OutputError) as error:
                _log.error("series %s: %s It is tried again in %.0f s.", entry.key, error, wait)
                self._later[entry.key] = time.monotonic() + wait, min(2 * wait, _LAST_WAIT)
            return True
        self.queue.clear(self.keep)
        return False

    def _settle(self, entry: Entry, digest: str) -> None:
        if entry.made_of() != digest:
            start = time.perf_counter()
            try:
                count = self._make(entry, digest)
            except Exception as error:
                if entry.digest() != digest:
                    _log.info("series %s: more of it came meanwhile", entry.key)
                    return
                if is_full(error):
                    raise OutputError(
                        f"{entry.folder}: the disk is full", remedy="make room on it"
                    ) from error
                entry.settle(digest, Status.REFUSED, f"{type(error).__name__}: {error}")
                what = "refused" if isinstance(error, InputError) else "failed"
                _log.error("series %s: %s, %s says why", entry.key, what, entry.state)
                return
            _log.info("series %s: %d made in %.1f s", entry.key, count, time.perf_counter() - start)
        files = sorted(entry.result.glob("*/*.dcm"))
        for send in self.targets:
            send(files)
        entry.settle(digest, Status.SENT)
        _log.info("series %s: %d instances sent", entry.key, len(files))

    def _make(self, entry: Entry, digest: str) -> int:
        """Make the result of a scan, complete or not at all; give how many stacks it has."""
        listing = list_series(entry.scan)
        if not listing.series:
            reasons = "; ".join(one.reason for one in listing.told()) or "no images"
            raise InputError(f"no scan: {reasons}")
        room = entry.room()
        for number, series in enumerate(listing.series, 1):
            scan = read_volume(entry.scan, series=series)
            result = self.resolver(scan, self.options)
            write_result(
                result, scan, room / str(number), sidecar=False, private=True, dicom=Dicom(stable=True)
            )
        entry.finish(room, digest)
        return len(listing.series)
