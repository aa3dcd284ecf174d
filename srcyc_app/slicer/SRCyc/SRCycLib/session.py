"""What the panels share: which server, what it said of itself, where messages go."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from SRCycLib.remote import Call, Remote


class Session:
    """The connection to one server.

    Args:
        remote: sends the requests.
        log: takes a line of the log.
    """

    def __init__(self, remote: Remote, log: Callable[[str], None]) -> None:
        self.url = ""
        self.server: dict[str, Any] | None = None
        self._remote = remote
        self._log = log
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever :attr:`server` has changed: connected, lost, new models."""
        self._listeners.append(listener)

    def call(self, action: str, arguments: dict[str, Any] | None = None, **callbacks: Any) -> Call:
        """Begin a request to the server; the callbacks are those of :meth:`SRCycLib.remote.Remote.call`."""
        return self._remote.call(self.url, action, arguments or {}, **callbacks)

    def connect(
        self, url: str, done: Callable[[], None], failed: Callable[[str], None], patience: float = 0.0
    ) -> Call:
        """Ask a server what it is and, if it is one of ours, use it from now on.

        Args:
            url: its address.
            done: called when it has answered.
            failed: called with a sentence.
            patience: seconds that a server that is just starting may take.
        """

        def connected(server: dict[str, Any]) -> None:
            self._set(server)
            where = without_password(url)
            self.tell(_("Connected to {url}, SRCyc {version}.").format(url=where, version=server["version"]))
            done()

        def lost(sentence: str) -> None:
            self._set(None)
            failed(sentence)

        self.url = url
        if patience:
            return self.call("wait", {"seconds": patience}, done=connected, failed=lost)
        return self.call("info", done=connected, failed=lost)

    def refresh(self) -> None:
        """Ask again what models there are."""
        self.call("info", done=self._set, failed=self.complain)

    def disconnect(self) -> None:
        """Use no server any more."""
        self._set(None)

    def tell(self, sentence: str) -> None:
        """Write to the log."""
        self._log(f"{time.strftime('%H:%M:%S')}  {sentence}")

    def complain(self, sentence: str) -> None:
        """Write to the log, and show a dialog."""
        self.tell(sentence)
        slicer.util.errorDisplay(sentence, windowTitle="SRCyc")

    def complain_if_connected(self, sentence: str) -> None:
        """The same of a request nobody asked for by itself; of a server that is no longer used nobody needs to know."""
        if self.server is None:
            self.tell(sentence)
        else:
            self.complain(sentence)

    def _set(self, server: dict[str, Any] | None) -> None:
        self.server = server
        for listener in self._listeners:
            listener()


def without_password(url: str) -> str:
    """Give an address as it may be shown and kept."""
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1@", url)
