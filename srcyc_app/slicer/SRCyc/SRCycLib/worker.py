"""One request to a server in a process of its own: ``python -m SRCycLib.worker REQUEST.json``.

The file holds ``url``, ``action`` (a method of the client), ``arguments``, ``parent`` (Slicer's process) and ``folder``
(removed if that has crashed). Standard output gets one JSON object per line: ``pid``, ``progress``,
``news``, and last ``result`` or ``error``. The process ends at once when the file is removed or Slicer has ended: that
closes the connection, by which the server knows that nobody waits any more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from SRCycLib.client import Client
from SRCycLib.processes import Say, answer

#: What can be asked for.
_ACTIONS = {name: method for name, method in vars(Client).items() if not name.startswith("_")}


def main(file: str) -> int:
    """Meet a request; give the exit code."""
    return answer(Path(file), _meet)


def _meet(request: dict[str, Any], say: Say) -> Any:
    action, arguments = request["action"], dict(request["arguments"])
    if action == "infer":
        arguments["progress"] = lambda state, share: say({"progress": {"state": state, "share": share}})
    elif action == "watch":
        arguments["news"] = lambda news: say({"news": news})
    return _ACTIONS[action](Client(request["url"]), **arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
