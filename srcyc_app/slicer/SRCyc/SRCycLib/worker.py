"""One request to a server in a process of its own: ``python -m SRCycLib.worker REQUEST.json``.

The file holds ``url``, ``action`` (a method of the client), ``arguments``, ``parent`` (Slicer's process) and ``folder``
(removed if that has crashed). Standard output gets one JSON object per line: ``pid``, ``progress``,
``news``, and last ``result`` or ``error``. The process ends at once when the file is removed or Slicer has ended: that
closes the connection, by which the server knows that nobody waits any more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SRCycLib.client import Client
from SRCycLib.processes import Say, answer

#: What can be asked for, and which of its arguments is a function of ours.
_ACTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "info": (Client.info, ""),
    "scans": (Client.scans, ""),
    "infer": (Client.infer, "progress"),
    "download": (Client.download, ""),
    "upload": (Client.upload, ""),
    "set_domain": (Client.set_domain, ""),
    "train": (Client.train, ""),
    "stop_training": (Client.stop_training, ""),
    "training": (Client.training, ""),
    "watch": (Client.watch, "news"),
    "wait": (Client.wait, ""),
}


def main(file: str) -> int:
    """Meet a request; give the exit code."""
    return answer(Path(file), _meet)


def _meet(request: dict[str, Any], say: Say) -> Any:
    method, told = _ACTIONS[request["action"]]
    arguments = dict(request.get("arguments") or {})
    if told == "progress":
        arguments[told] = lambda state, share: say({"progress": {"state": state, "share": share}})
    elif told == "news":
        arguments[told] = lambda news: say({"news": news})
    return method(Client(request["url"]), **arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
