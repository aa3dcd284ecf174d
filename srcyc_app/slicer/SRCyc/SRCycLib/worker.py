"""One request to a server in a process of its own: ``python -m SRCycLib.worker REQUEST.json``.

The file holds ``url``, ``action`` (a method of the client), ``arguments``, ``parent`` (Slicer's process) and
``folders`` (removed if that has crashed). Standard output gets one JSON object per line: ``pid``, ``progress``,
``news``, and last ``result`` or ``error``. The process ends at once when the file is removed or Slicer has ended: that
closes the connection, by which the server knows that nobody waits any more.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SRCycLib.client import Client, ServerError
from SRCycLib.processes import end_with

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

_saying = threading.Lock()


def main(arguments: list[str]) -> int:
    """Meet a request; give the exit code."""
    if len(arguments) != 1:
        _say({"error": "The request file is missing: give its path."})
        return 2
    file = Path(arguments[0])
    _say({"pid": os.getpid()})
    try:
        request = json.loads(file.read_text(encoding="utf-8"))
        end_with(file, int(request["parent"]), request.get("folders", ()))
        result = _meet(request)
    except ServerError as error:
        _say({"error": str(error)})
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(
            {
                "error": f"{where}{error.strerror or error}; check the disk and its permissions, and try once more."
            }
        )
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets a sentence, and the details go to the log
        kind = type(error).__name__
        sentence = f"The request failed unexpectedly ({kind}): please report it with the details in the log."
        _say({"error": sentence, "details": traceback.format_exc()})
        return 1
    _say({"result": result})
    return 0


def _meet(request: dict[str, Any]) -> Any:
    method, told = _ACTIONS[request["action"]]
    arguments = dict(request.get("arguments") or {})
    if told == "progress":
        arguments[told] = _tell_progress
    elif told == "news":
        arguments[told] = lambda news: _say({"news": news})
    return method(Client(request["url"]), **arguments)


def _tell_progress(state: str, share: float) -> None:
    _say({"progress": {"state": state, "share": share}})


def _say(what: dict[str, Any]) -> None:
    """Write a line; two threads may have something to say."""
    with _saying:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
