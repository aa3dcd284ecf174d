"""How much of the server one user may take; where nobody is asked who they are, nobody is limited."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srcyc_app.refusals import Refusal
from srcyc_app.server.access import current
from srcyc_app.studies.archives import size_of
from srcyc_app.studies.datastore import StudiesFolder

if TYPE_CHECKING:
    from srcyc_app.core import AppCore


@dataclass(frozen=True)
class Limits:
    """What one user may take at a time.

    Attributes:
        queue: inferences that wait or run.
        sessions: scans sent for some time.
        storage: bytes of those, and of the scans that the user added.
    """

    queue: int = 4
    sessions: int = 20
    storage: int = 100_000_000_000

    def check_sessions(self, app: AppCore) -> None:
        """Refuse one session too many.

        Raises:
            Refusal: 429.
        """
        user = current().name
        sessions = app.sessions()
        if user is None or sessions is None:
            return
        count = len(sessions.of_owner(user))
        if count >= self.sessions:
            raise Refusal(
                429,
                f"you have {count} sessions, and may have {self.sessions}; remove some, or wait until they are over.",
            )

    def check_storage(self, app: AppCore, scan: Path) -> None:
        """Refuse a scan for which its sender has no room left.

        Raises:
            Refusal: 413.
        """
        user = current().name
        if user is None:
            return
        taken, more = self._taken(app, user), size_of(scan)
        if taken + more > self.storage:
            raise Refusal(
                413,
                f"you keep {taken / 1e9:.2f} GB here and may keep {self.storage / 1e9:g} GB, too little for "
                f"{more / 1e9:.2f} GB more; remove sessions, or have scans removed.",
            )

    def _taken(self, app: AppCore, user: str) -> int:
        sessions, datastore = app.sessions(), app.datastore()
        paths: list[Path] = [] if sessions is None else [Path(info.image) for info in sessions.of_owner(user)]
        if isinstance(datastore, StudiesFolder):
            paths += datastore.of_owner(user)
        return sum(map(size_of, paths))
