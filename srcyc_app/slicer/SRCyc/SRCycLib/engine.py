"""The library on this computer, as a process beside Slicer's window: what a server is otherwise."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from SRCycLib import engine_needs
from SRCycLib.calls import Call, Calls
from SRCycLib.engine_install import EngineProblem, Installation, Needs, Say, verify

__all__ = ["Engine", "EngineProblem", "Needs", "Remaining"]

#: Module that meets a request.
_WORKER = "SRCycLib.engine_worker"


class Engine:
    """Super-resolves on this computer.

    Args:
        python: that runs the library; by default Slicer's own.
    """

    def __init__(self, python: str | None = None) -> None:
        self._python = python or shutil.which("PythonSlicer") or sys.executable
        self._calls = Calls(self._python)

    def info(self) -> dict[str, Any]:
        """Tell what the engine offers, as :meth:`SRCycLib.client.Client.info` does of a server.

        At once, and before anything is installed.

        Raises:
            EngineProblem: the library is not there.
        """
        package = engine_needs.library()
        if package is None:
            raise EngineProblem(
                "missing",
                _("The library srcyc is not beside this module"),
                _("install the extension again, or download the whole of SRCyc"),
            )
        models = engine_needs.models_of(package)
        return {
            "version": engine_needs.version_of(package),
            "models": models,
            "options": {
                "weights": [model["name"] for model in models],
                "device": list(engine_needs.DEVICES),
                "precision": list(engine_needs.PRECISIONS),
            },
            "warning": "" if models else _("No model comes with this module: install the extension again."),
        }

    def check(self, done: Callable[[Needs], None], failed: Callable[[EngineProblem], None]) -> Call:
        """Look what is missing, by a process of a moment.

        Args:
            done: called with it.
            failed: called with what makes the engine impossible here.
        """

        def seen(answer: dict[str, Any]) -> None:
            try:
                needs = Needs(answer)
            except EngineProblem as problem:
                failed(problem)
            else:
                done(needs)

        def broken(sentence: str) -> None:
            failed(EngineProblem("broken", sentence, _("install Slicer again, or choose a server")))

        return self._calls.begin(_WORKER, {"action": "look", "arguments": {}}, done=seen, failed=broken)

    def install(
        self, needs: Needs, say: Say, done: Callable[[Needs], None], failed: Callable[[EngineProblem], None]
    ) -> Installation:
        """Install what is missing, beside Slicer's window, then look again; ask the user first.

        Args:
            needs: of :meth:`check`.
            say: told how it goes: a sentence, and a share from 0 to 1 or None.
            done: called when everything is there.
            failed: called with what went wrong.

        Returns:
            what can be cancelled.
        """

        def look_again(said: str) -> Call:
            def seen(now: Needs) -> None:
                try:
                    verify(needs, now, said)
                except EngineProblem as problem:
                    failed(problem)
                else:
                    done(now)

            return self.check(seen, failed)

        return Installation(self._calls, needs, say, look_again, failed)

    def call(self, action: str, arguments: dict[str, Any], **callbacks: Any) -> Call:
        """Begin a piece of work, as :meth:`SRCycLib.calls.Remote.call` does with a server.

        Args:
            action: ``infer``.
            arguments: ``file``, ``folder`` and ``params``, as of :meth:`SRCycLib.client.Client.infer`.
            callbacks: ``done``, ``failed`` and ``progress`` of :meth:`SRCycLib.calls.Calls.begin`, and its ``folder``;
                states are ``starting``, ``reading``, ``running`` (with a share) and ``writing``.
        """
        return self._calls.begin(_WORKER, {"action": action, "arguments": arguments}, **callbacks)

    def close(self) -> None:
        """Cancel what is under way."""
        self._calls.close()


class Remaining:
    """Tells how long something will take from the shares that are done.

    Args:
        clock: seconds; for tests.
    """

    #: Share and seconds before which nothing is promised.
    _LEAST_SHARE, _LEAST_SECONDS = 0.08, 2.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def seconds(self, share: float) -> float | None:
        """Give the seconds that are left when a share is done, or None if it is too early to say."""
        now = self._clock()
        if self._first is None or share < self._first[1]:
            self._first = (now, share)
        begun, first = self._first
        done, passed = share - first, now - begun
        if done < self._LEAST_SHARE or passed < self._LEAST_SECONDS:
            return None
        return passed / done * (1.0 - share)
