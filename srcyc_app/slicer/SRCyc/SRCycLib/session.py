"""What the panels share: where it is computed, what that offers, where messages go."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from SRCycLib import engine, engine_needs
from SRCycLib.calls import BY_ENGINE, BY_SERVER, Arguments, Call, Calls
from SRCycLib.connection import without_password
from SRCycLib.engine import Preparation, Say
from SRCycLib.processes import Problem

#: Where it is computed: by the library on this computer, or by a server.
ENGINE, SERVER = "engine", "server"


class Session:
    """The library on this computer, and the connection to one server.

    Args:
        calls: sends the requests.
        log: takes a line of the log.

    Attributes:
        where: ENGINE or SERVER.
        url: of the server that has answered last.
        server: what it says of itself; None: not connected.
    """

    def __init__(self, calls: Calls, log: Callable[[str], None]) -> None:
        self.where = ENGINE
        self.url = ""
        self.server: dict[str, Any] | None = None
        self._calls = calls
        self._engine_info: dict[str, Any] | None = None
        self._engine_obstacle = ""
        self._engine_ready = False
        self._log = log
        self._listeners: list[Callable[[], None]] = []
        self._complaints: list[Callable[[str], None]] = []
        self._scans: list[Callable[[list[dict[str, Any]]], None]] = []
        self._listing: Call | None = None
        self._see_engine()

    # -- where it is computed --------------------------------------------------------------------------------------

    @property
    def offer(self) -> dict[str, Any] | None:
        """What is offered where it is computed, as of :meth:`SRCycLib.client.Client.info`; None: nothing."""
        return self.server if self.where == SERVER else self._engine_info

    @property
    def obstacle(self) -> str:
        """Why nothing can be computed, as a sentence; '' if it can."""
        if self.where == SERVER:
            words = _(
                "Not connected to a server: see its address under Advanced, or compute on this computer."
            )
            return "" if self.server else words
        return self._engine_obstacle

    def choose(self, where: str) -> None:
        """Compute somewhere else from now on."""
        if where != self.where:
            self.where = where
            self._tell_listeners()

    def prepare(
        self, ask: Callable[[str], bool], say: Say, done: Callable[[], None], failed: Callable[[str], None]
    ) -> Preparation | None:
        """Install what is missing on this computer, if it has to be and may be.

        Args:
            ask: called with a question; whether it may be installed.
            say: told how the installation goes.
            done: called when all is there; at once, if that is known.
            failed: called with a sentence; '' if it may not be installed.

        Returns:
            what can be cancelled, if something has begun.
        """
        if self.where == SERVER or self._engine_ready:
            done()
            return None

        def ready() -> None:
            self._engine_ready = True
            done()

        return Preparation(self._calls, ask, say, self.tell, ready, failed)

    def infer(self, arguments: Arguments, *, failed: Callable[[str], None], **more: Any) -> Call:
        """Super-resolve; arguments as of :meth:`SRCycLib.client.Client.infer`, callbacks as of ``Calls.begin``.

        The states of the engine are ``starting``, ``reading``, ``running`` (with a share) and ``writing``.
        """
        if self.where == SERVER:
            return self.call("infer", arguments, failed=failed, **more)

        def wrong(sentence: str) -> None:
            # It may be that something is missing since: the next time it is looked.
            self._engine_ready = False
            failed(sentence)

        return self._calls.begin(BY_ENGINE, "infer", arguments, failed=wrong, **more)

    def _see_engine(self) -> None:
        if sys.version_info < engine_needs.OLDEST_PYTHON:
            self._engine_obstacle = _(
                "This Slicer is too old to compute itself: use Slicer {slicer} or newer, or choose a server."
            ).format(slicer=engine_needs.FIRST_SLICER)
            return
        try:
            self._engine_info = engine.info()
        except Problem as problem:
            self._engine_obstacle = str(problem)

    # -- a server --------------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever :attr:`offer` or :attr:`server` has changed: connected, lost, new models."""
        self._listeners.append(listener)

    def call(self, action: str, arguments: Arguments | None = None, **callbacks: Any) -> Call:
        """Begin a request to the server; ``action`` is a method of its client, the rest as of ``Calls.begin``."""
        return self._calls.begin(BY_SERVER, action, arguments, url=self.url, **callbacks)

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
            self.url = url
            self._set(server)
            where = without_password(url)
            self.tell(_("Connected to {url}, SRCyc {version}.").format(url=where, version=server["version"]))
            done()

        def lost(sentence: str) -> None:
            self._set(None)
            failed(sentence)

        action, arguments = ("wait", {"seconds": patience}) if patience else ("info", {})
        return self._calls.begin(BY_SERVER, action, arguments, url=url, done=connected, failed=lost)

    def refresh(self) -> None:
        """Ask again what models there are."""
        before = self.server

        def known(server: dict[str, Any]) -> None:
            if self.server is before:  # else it is another one by now, or none
                self._set(server)

        self.call("info", done=known, failed=self.complain)

    def hear_scans(self, listener: Callable[[list[dict[str, Any]]], None]) -> None:
        """Call ``listener`` with the server's scans when they are known, as of :meth:`SRCycLib.client.Client.scans`."""
        self._scans.append(listener)

    def list_scans(self) -> None:
        """Ask for the server's scans; what was asked before is not waited for."""
        self._forget_listing()
        self._listing = self.call("scans", done=self._tell_scans, failed=self.complain)

    def disconnect(self) -> None:
        """Use no server any more."""
        self._set(None)

    # -- messages --------------------------------------------------------------------------------------------------

    def tell(self, sentence: str) -> None:
        """Write to the log."""
        self._log(f"{time.strftime('%H:%M:%S')}  {sentence}")

    def hear_complaints(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with each complaint, and with '' when it is over: the user does something else."""
        self._complaints.append(listener)

    def complain(self, sentence: str) -> None:
        """Write to the log, and show it in the panels."""
        self.tell(sentence)
        for listener in self._complaints:
            listener(sentence)

    def calm(self) -> None:
        """Take away the last complaint."""
        for listener in self._complaints:
            listener("")

    def _set(self, server: dict[str, Any] | None) -> None:
        self.server = server
        self._tell_listeners()
        if server is None:
            self._forget_listing()
            self._tell_scans([])
        else:
            self.list_scans()

    def _forget_listing(self) -> None:
        if self._listing is not None:
            self._listing.cancel()

    def _tell_scans(self, scans: list[dict[str, Any]]) -> None:
        for listener in self._scans:
            listener(scans)

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            listener()
