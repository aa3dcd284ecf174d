"""Installing what the library needs into Slicer's Python, with nothing of Slicer's replaced.

By the pip that `slicer.util.pip_install` runs, but beside Slicer's window: that function blocks it for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SRCycLib import engine_needs
from SRCycLib.calls import Call, Calls, new_folder
from SRCycLib.engine_needs import REQUIREMENTS
from SRCycLib.engine_pip import BUSY

#: Told a sentence, and a share from 0 to 1 or None.
Say = Callable[[str, "float | None"], None]

#: The first pip that tells its progress in lines.
_TELLS_PROGRESS = (24, 1)
#: What finds the PyTorch for a graphics card, as Slicer's extension PyTorch asks for it.
_LIGHT_THE_TORCH = "light-the-torch>=0.5"

#: What pip says, and what it means; the first that fits counts.
_OFFLINE = (
    "NewConnection|Failed to establish|getaddrinfo|Name or service not known|Temporary failure in name resolution"
    "|ConnectTimeout|ReadTimeout|Max retries|ProxyError|ConnectionError|Network is unreachable|CERTIFICATE_VERIFY"
    # Of a package that exists: nobody was there to tell.
    "|from versions: none"
)
_DISK = r"No space left on device|\[Errno 28\]|WinError 112|There is not enough space"
_DENIED = r"Permission denied|Access is denied|\[Errno 13\]|WinError 5\b|WinError 32\b"
_CONFLICT = (
    "ResolutionImpossible|conflicting dependencies|No matching distribution found|Could not find a version"
)


class EngineProblem(Exception):
    """The engine cannot be used; its text is one sentence.

    Attributes:
        kind: ``python``, ``slicer``, ``missing``, ``busy``, ``offline``, ``disk``, ``denied``, ``conflict``,
            ``replaced``, ``broken`` or ``failed``.
        fact: what is wrong.
        remedy: what to do, in the imperative, without a full stop.
        details: for the log.
    """

    def __init__(self, kind: str, fact: str, remedy: str, details: str = "") -> None:
        super().__init__(f"{fact}: {remedy}.")
        self.kind, self.fact, self.remedy, self.details = kind, fact, remedy, details


class Needs:
    """What Slicer's Python lacks.

    Args:
        seen: of :func:`SRCycLib.engine_needs.look`.

    Raises:
        EngineProblem: this Slicer cannot run the engine whatever is installed.
    """

    def __init__(self, seen: dict[str, Any]) -> None:
        self.seen = seen
        if tuple(map(int, seen["python"].split(".")[:2])) < engine_needs.OLDEST_PYTHON:
            raise EngineProblem(
                "python",
                _("This Slicer has Python {version}").format(version=seen["python"]),
                _("use Slicer {slicer} or newer, or choose a server").format(
                    slicer=engine_needs.FIRST_SLICER
                ),
            )
        if not seen["library"]:
            raise EngineProblem(
                "missing",
                _("The library srcyc is not beside this module"),
                _("install the extension again, or download the whole of SRCyc"),
            )
        wrong = [*seen["missing"], *seen["old"]]
        own = [each for each in REQUIREMENTS if each.of_slicer and each.package in wrong]
        if own:
            raise EngineProblem(
                "slicer",
                _("This Slicer lacks {packages}").format(packages=", ".join(each.specifier for each in own)),
                _("use Slicer {slicer} or newer, or choose a server").format(
                    slicer=engine_needs.FIRST_SLICER
                ),
            )
        self.missing = tuple(each.specifier for each in REQUIREMENTS if each.package in wrong)

    @property
    def complete(self) -> bool:
        """Whether nothing has to be installed."""
        return not self.missing

    @property
    def question(self) -> str:
        """What to ask before something is installed."""
        names = ", ".join(re.split(r"[<>=]", each)[0] for each in self.missing)
        return _(
            "To compute on this computer, SRCyc needs {packages} in Slicer's own Python. They are fetched from the "
            "internet, which takes some minutes; nothing that Slicer brings along is replaced. Install them now?"
        ).format(packages=names)


class Installation:
    """Installs what is missing, by one process of pip's after the other; nothing of Slicer's is replaced.

    Args:
        calls: that begin processes with Slicer's Python.
        needs: what is missing.
        say: told how it goes.
        done: called with what pip said, when all have ended well; begins what comes then.
        failed: called with what went wrong.

    Raises:
        OSError: the disk is full.
    """

    def __init__(
        self,
        calls: Calls,
        needs: Needs,
        say: Say,
        done: Callable[[str], Call],
        failed: Callable[[EngineProblem], None],
    ) -> None:
        self._calls, self._needs, self._say = calls, needs, say
        self._done, self._failed = done, failed
        self._waiting = _commands(needs)
        self._said: list[str] = []
        self._next()

    def cancel(self) -> None:
        """End it now; nobody is called back any more. What is half installed is mended by the next one."""
        self._call.cancel()

    def _next(self) -> None:
        module, words = self._waiting.pop(0)
        self._say(_("Installing {packages} …").format(packages=", ".join(words[1:])), None)
        folder = new_folder("install")
        self._call = self._calls.begin(
            "SRCycLib.engine_worker",
            {
                "action": "pip",
                "arguments": {"module": module, "words": words, "settings": _settings(self._needs, folder)},
            },
            done=self._ended,
            failed=lambda sentence: self._failed(_understood("\n".join(self._said), sentence)),
            progress=lambda sentence, share: self._say(sentence, share or None),
            folder=folder,
        )

    def _ended(self, answer: dict[str, Any]) -> None:
        self._said.append(answer["said"])
        said = "\n".join(self._said)
        if answer["code"]:
            self._failed(_understood(said, ""))
        elif self._waiting:
            self._next()
        else:
            self._call = self._done(said)


def _commands(needs: Needs) -> list[tuple[str, list[str]]]:
    """Give module and arguments of each process.

    Which PyTorch suits the graphics card, Slicer's extension PyTorch finds out by light-the-torch; so do we, where it
    is installed, but in a process that can be cancelled, and without what we do not need of it.
    """
    lacking = list(needs.missing)
    torch = next((each for each in lacking if each.startswith("torch")), None)
    commands = []
    if torch is not None and hasattr(slicer.modules, "pytorchutils"):
        lacking.remove(torch)
        if "light-the-torch" not in needs.seen["installed"]:
            commands.append(("pip", ["install", _LIGHT_THE_TORCH]))
        commands.append(("light_the_torch", ["install", torch]))
    return [*commands, *([("pip", ["install", *lacking])] if lacking else [])]


def _settings(needs: Needs, folder: Path) -> dict[str, str]:
    """Give the environment of a pip that leaves what is installed as it is, asks nothing, and leaves no files."""
    installed = sorted(needs.seen["installed"].items())
    constraints = folder / "constraints.txt"
    constraints.write_text(
        "".join(f"{name}=={version}\n" for name, version in installed if not _wanted(name, needs)), "utf-8"
    )
    settings = {
        "PIP_CONSTRAINT": str(constraints),
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # Nothing is compiled here; and nothing runs that was only downloaded.
        "PIP_ONLY_BINARY": ":all:",
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)),
    }
    pip = tuple(map(int, re.findall(r"\d+", needs.seen["installed"].get("pip", "0"))[:2]))
    if pip >= _TELLS_PROGRESS:
        settings["PIP_PROGRESS_BAR"] = "raw"
    return settings


def verify(before: Needs, now: Needs, said: str) -> None:
    """Check an installation.

    Args:
        before: what was needed before it.
        now: what is needed after it.
        said: what pip said, for the log.

    Raises:
        EngineProblem: something is missing still, or something was replaced.
    """
    here, kept = now.seen["installed"], before.seen["installed"].items()
    replaced = [name for name, version in kept if here.get(name) != version and not _wanted(name, before)]
    if replaced:
        raise EngineProblem(
            "replaced",
            _("The installation has changed {packages}, which Slicer had already").format(
                packages=", ".join(sorted(replaced))
            ),
            _("restart Slicer; if it does not work as before, install it again"),
            said,
        )
    if not now.complete:
        raise EngineProblem(
            "failed",
            _("{packages} could not be installed").format(packages=", ".join(now.missing)),
            _("look at the log, and try once more"),
            said,
        )


def _wanted(name: str, needs: Needs) -> bool:
    return name in {engine_needs.canonical(package) for package in needs.seen["old"]}


def _understood(said: str, error: str) -> EngineProblem:
    """Tell what went wrong from what pip said."""
    text = f"{said}\n{error}".strip()
    for kind, pattern, fact, remedy in (
        ("busy", BUSY, _("Another Slicer is installing what SRCyc needs"),
         _("wait until it has done so, and press Apply again")),
        ("disk", _DISK, _("The disk is full"), _("free some gigabytes, and press Apply again")),
        ("denied", _DENIED, _("Slicer's folder cannot be written"),
         _("close other windows of Slicer, or start it as its owner or an administrator, and press Apply again")),
        ("offline", _OFFLINE, _("The internet cannot be reached, or not the place that the packages come from"),
         _("check the connection and the proxy, and press Apply again; or choose a server")),
        ("conflict", _CONFLICT, _("There are no packages that fit to this Slicer and what is installed in it"),
         _("use a newer Slicer, or choose a server")),
    ):  # fmt: skip
        if re.search(pattern, text):
            return EngineProblem(kind, fact, remedy, text)
    return EngineProblem(
        "failed", _("The installation failed"), _("look at the log, and try once more"), text
    )
