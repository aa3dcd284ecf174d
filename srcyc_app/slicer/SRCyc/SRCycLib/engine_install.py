"""Installing what the library needs into Slicer's Python, with nothing of Slicer's replaced.

By the pip that `slicer.util.pip_install` runs, but beside Slicer's window: that function blocks it for minutes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SRCycLib import engine_needs
from SRCycLib.engine_needs import REQUIREMENTS
from SRCycLib.engine_pip import BUSY
from SRCycLib.processes import Problem

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


class Needs:
    """What Slicer's Python lacks.

    Args:
        seen: of :func:`SRCycLib.engine_needs.look`.

    Attributes:
        missing: what has to be installed, as pip takes it.

    Raises:
        Problem: this Slicer cannot run the engine whatever is installed.
    """

    def __init__(self, seen: dict[str, Any]) -> None:
        self.seen = seen
        wrong = [each for each in REQUIREMENTS if each.package in (*seen["missing"], *seen["old"])]
        own = [each.specifier for each in wrong if each.of_slicer]
        if own:
            raise Problem(
                _("This Slicer lacks {packages}: use Slicer {slicer} or newer, or choose a server.").format(
                    packages=", ".join(own), slicer=engine_needs.FIRST_SLICER
                )
            )
        self.missing = tuple(each.specifier for each in wrong)

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


def commands(needs: Needs) -> list[tuple[str, list[str]]]:
    """Give module and arguments of each process.

    Which PyTorch suits the graphics card, Slicer's extension PyTorch finds out by light-the-torch; so do we, where it
    is installed, but in a process that can be cancelled, and without what we do not need of it.
    """
    lacking = list(needs.missing)
    torch = next((each for each in lacking if each.startswith("torch")), None)
    found = []
    if torch is not None and hasattr(slicer.modules, "pytorchutils"):
        lacking.remove(torch)
        if "light-the-torch" not in needs.seen["installed"]:
            found.append(("pip", ["install", _LIGHT_THE_TORCH]))
        found.append(("light_the_torch", ["install", torch]))
    return [*found, *([("pip", ["install", *lacking])] if lacking else [])]


def settings(needs: Needs, folder: Path) -> dict[str, str]:
    """Give the environment of a pip that leaves what is installed as it is, asks nothing, and leaves no files."""
    installed = sorted(needs.seen["installed"].items())
    constraints = folder / "constraints.txt"
    constraints.write_text(
        "".join(f"{name}=={version}\n" for name, version in installed if not _wanted(name, needs)), "utf-8"
    )
    told = {
        "PIP_CONSTRAINT": str(constraints),
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # Nothing is compiled here; and nothing runs that was only downloaded.
        "PIP_ONLY_BINARY": ":all:",
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)),
    }
    pip = tuple(map(int, re.findall(r"\d+", needs.seen["installed"].get("pip", "0"))[:2]))
    if pip >= _TELLS_PROGRESS:
        told["PIP_PROGRESS_BAR"] = "raw"
    return told


def wrong_after(before: Needs, now: Needs) -> str:
    """Check an installation; give what is wrong as a sentence, '' if all is well.

    Args:
        before: what was needed before it.
        now: what is needed after it.
    """
    here, kept = now.seen["installed"], before.seen["installed"].items()
    replaced = [name for name, version in kept if here.get(name) != version and not _wanted(name, before)]
    if replaced:
        return _(
            "The installation has changed {packages}, which Slicer had already: restart Slicer; if it does not work "
            "as before, install it again."
        ).format(packages=", ".join(sorted(replaced)))
    if not now.complete:
        return _("{packages} could not be installed: look at the log, and try once more.").format(
            packages=", ".join(now.missing)
        )
    return ""


def _wanted(name: str, needs: Needs) -> bool:
    return name in {engine_needs.canonical(package) for package in needs.seen["old"]}


def understood(said: str) -> str:
    """Tell what went wrong from what pip said, as a sentence; '' if that says nothing."""
    meanings = {
        BUSY: _(
            "Another Slicer is installing what SRCyc needs: wait until it has done so, and press Apply again."
        ),
        _DISK: _("The disk is full: free some gigabytes, and press Apply again."),
        _DENIED: _(
            "Slicer's folder cannot be written: close other windows of Slicer, or start it as its owner or an "
            "administrator, and press Apply again."
        ),
        _OFFLINE: _(
            "The internet cannot be reached, or not the place that the packages come from: check the connection and "
            "the proxy, and press Apply again; or choose a server."
        ),
        _CONFLICT: _(
            "There are no packages that fit to this Slicer and what is installed in it: use a newer Slicer, or choose "
            "a server."
        ),
    }
    return next((sentence for pattern, sentence in meanings.items() if re.search(pattern, said)), "")
