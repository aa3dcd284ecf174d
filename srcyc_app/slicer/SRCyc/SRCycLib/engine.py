"""The library on this computer, as a process beside Slicer's window: what it offers, and what has to be done before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from SRCycLib import engine_needs
from SRCycLib.calls import BY_ENGINE, Call, Calls, Failed
from SRCycLib.engine_install import Needs, commands, settings, understood, wrong_after
from SRCycLib.processes import Problem

#: Told a sentence, and a share from 0 to 1; 0: unknown.
Say = Callable[[str, float], None]


def info() -> dict[str, Any]:
    """Tell ``models`` and ``options`` of the engine, as :meth:`SRCycLib.client.Client.info` does of a server.

    At once, and before anything is installed.

    Raises:
        Problem: the library is not there, or has no models.
    """
    package = engine_needs.library()
    if package is None:
        raise Problem(
            _(
                "The library srcyc is not beside this module: install the extension again, or download the whole of "
                "SRCyc."
            )
        )
    models = engine_needs.models_of(package)
    if not models:
        raise Problem(_("No model comes with this module: install the extension again."))
    return {
        "models": models,
        "options": {
            "weights": [model["name"] for model in models],
            "device": list(engine_needs.DEVICES),
            "precision": list(engine_needs.PRECISIONS),
        },
    }


def look(calls: Calls, done: Callable[[Needs], None], failed: Failed) -> Call:
    """Look what is missing, by a process of a moment.

    Args:
        calls: that begin processes.
        done: called with it.
        failed: called with what makes the engine impossible here, as a sentence.
    """

    def seen(answer: dict[str, Any]) -> None:
        try:
            needs = Needs(answer)
        except Problem as problem:
            failed(str(problem))
        else:
            done(needs)

    return calls.begin(BY_ENGINE, "look", done=seen, failed=failed)


class Preparation:
    """What has to be done before a computation: a look, then perhaps an installation, and another look.

    It is installed by one process of pip's after the other; nothing of Slicer's is replaced.

    Args:
        calls: that begin processes.
        ask: called with a question; whether it may be installed.
        say: told how an installation goes.
        tell: writes to the log.
        done: called when all is there.
        failed: called with a sentence; '' if it may not be installed.
    """

    def __init__(
        self,
        calls: Calls,
        ask: Callable[[str], bool],
        say: Say,
        tell: Callable[[str], None],
        done: Callable[[], None],
        failed: Failed,
    ) -> None:
        self._calls, self._ask, self._say, self._tell = calls, ask, say, tell
        self._done, self._failed = done, failed
        self._cancelled = False
        self._said: list[str] = []
        self._call = look(calls, self._seen, failed)

    def cancel(self) -> None:
        """End it now; nobody is called back any more. What is half installed is mended by the next one."""
        self._cancelled = True
        self._call.cancel()

    def _seen(self, needs: Needs) -> None:
        if needs.complete:
            self._done()
            return
        wanted = self._ask(needs.question)
        if self._cancelled:  # while it was asked
            return
        if not wanted:
            self._failed("")
            return
        self._tell(_("Installing: {packages}").format(packages=", ".join(needs.missing)))
        self._needs, self._waiting = needs, commands(needs)
        self._install()

    def _install(self) -> None:
        module, words = self._waiting.pop(0)
        self._say(_("Installing {packages} …").format(packages=", ".join(words[1:])), 0.0)
        self._call = self._calls.begin(
            BY_ENGINE,
            "pip",
            lambda folder: {"module": module, "words": words, "settings": settings(self._needs, folder)},
            done=self._installed,
            failed=self._refused,
            progress=self._say,
        )

    def _installed(self, answer: dict[str, Any]) -> None:
        self._said.append(answer["said"])
        if answer["code"]:
            self._refused("")
        elif self._waiting:
            self._install()
        else:
            self._call = look(self._calls, self._checked, self._failed)

    def _refused(self, sentence: str) -> None:
        said = "\n".join([*self._said, sentence]).strip()
        self._tell(said)
        self._failed(
            understood(said) or sentence or _("The installation failed: look at the log, and try once more.")
        )

    def _checked(self, now: Needs) -> None:
        wrong = wrong_after(self._needs, now)
        if wrong:
            self._tell("\n".join(self._said))
            self._failed(wrong)
        else:
            self._done()
