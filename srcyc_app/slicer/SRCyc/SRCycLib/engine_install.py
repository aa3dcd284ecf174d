"""Installing what the library needs into Slicer's Python, by Slicer's own means, and nothing of Slicer's replaced."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SRCycLib import engine_needs
from SRCycLib.engine_needs import REQUIREMENTS

#: Told a sentence, and a share from 0 to 1 or None.
Say = Callable[[str, "float | None"], None]

#: The first pip that tells its progress in lines.
_TELLS_PROGRESS = (24, 1)
#: Lines of pip's that are kept to tell what went wrong.
_KEPT = 400

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
        kind: ``python``, ``slicer``, ``missing``, ``offline``, ``disk``, ``denied``, ``conflict``, ``replaced``,
            ``broken`` or ``failed``.
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


def install(needs: Needs, say: Say) -> str:
    """Install what is missing; blocks, while Slicer does what is due in between.

    Args:
        needs: what is missing.
        say: told how it goes.

    Returns:
        what pip said.

    Raises:
        EngineProblem: it could not be installed.
    """
    lacking = list(needs.missing)
    with _pinned(needs), _listening(say) as heard:
        torch = next((each for each in lacking if each.startswith("torch")), None)
        extension = _pytorch_extension()
        try:
            if torch is not None and extension is not None:
                say(_("Installing PyTorch by Slicer's extension of that name …"), None)
                lacking.remove(torch)
                extension.PyTorchUtilsLogic().installTorch(torchVersionRequirement=torch[len("torch") :])
            if lacking:
                say(_("Installing {packages} …").format(packages=", ".join(lacking)), None)
                slicer.util.pip_install(lacking)
        except (subprocess.CalledProcessError, RuntimeError, OSError, ValueError, ImportError) as error:
            raise _understood(heard(), error) from error
        return heard()


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


def _pytorch_extension() -> Any | None:
    """Give Slicer's extension PyTorch, if it is installed: it knows which PyTorch suits the graphics card."""
    if not hasattr(slicer.modules, "pytorchutils"):
        return None
    return importlib.import_module("PyTorchUtils")


@contextlib.contextmanager
def _pinned(needs: Needs) -> Iterator[None]:
    """Tell every pip that is started to leave what is installed as it is, and to ask nothing."""
    lines = [
        f"{name}=={version}\n"
        for name, version in sorted(needs.seen["installed"].items())
        if not _wanted(name, needs)
    ]
    # By the environment: so it holds too for the pip that the extension PyTorch starts.
    with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("".join(lines), encoding="utf-8")
        settings = {"PIP_CONSTRAINT": str(file), "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        pip = tuple(map(int, re.findall(r"\d+", needs.seen["installed"].get("pip", "0"))[:2]))
        if pip >= _TELLS_PROGRESS:
            # Else nothing is said while a gigabyte is fetched, and Slicer's window stands still.
            settings["PIP_PROGRESS_BAR"] = "raw"
        kept = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield
        finally:
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class _Listener(io.TextIOBase):
    """Takes the lines that Slicer prints of pip's, and passes them on."""

    def __init__(self, say: Say, on: Any) -> None:
        self.lines: list[str] = []
        self._say = say
        self._on = on
        self._rest = ""
        self._doing = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._hear(line.strip())
        return len(text)

    def _hear(self, line: str) -> None:
        counted = re.fullmatch(r"Progress (\d+) of (\d+)", line)
        if counted:
            done, size = int(counted[1]), int(counted[2])
            self._say(self._doing, done / size if size else None)
            return
        if not line:
            return
        self.lines = [*self.lines[-_KEPT:], line]
        if self._on is not None:
            self._on.write(line + "\n")
        doing = re.match(r"(Downloading|Collecting|Installing|Building|Processing) (.+)", line)
        if doing:
            self._doing = f"{doing[1]} {doing[2].rsplit('/', 1)[-1]}"
            self._say(self._doing, None)


@contextlib.contextmanager
def _listening(say: Say) -> Iterator[Callable[[], str]]:
    listener = _Listener(say, sys.stdout)
    with contextlib.redirect_stdout(listener):
        yield lambda: "\n".join(listener.lines)


def _understood(said: str, error: Exception) -> EngineProblem:
    """Tell what went wrong from what pip said."""
    text = f"{said}\n{error}"
    for kind, pattern, fact, remedy in (
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
