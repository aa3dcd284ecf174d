"""The server's log: on the terminal, and in a file that does not grow for ever."""

from __future__ import annotations

import logging
import logging.handlers
import os
from io import TextIOWrapper
from pathlib import Path

from srcyc.files import make_folder, writing

_log = logging.getLogger(__name__)

#: Where the log lies in the model folder.
LOG = Path("logs", "app.log")
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
#: MONAI Label's names for what a training or a batch says; its lines have their own times.
_OUTPUT = ("task_train", "task_batch_infer")
#: Logger of the audit log: lines of its own, in files of its own.
AUDIT = "srcyc.audit"
_MOST_BYTES = 10_000_000
_FILES = 5


class LogFile(logging.handlers.RotatingFileHandler):
    """A log file that only its owner reads, and that is opened anew after :meth:`reopen`.

    Args:
        path: the file.
        keep: older files of 10 MB that are kept.
    """

    def __init__(self, path: Path, keep: int) -> None:
        super().__init__(path, maxBytes=_MOST_BYTES, backupCount=keep, encoding="utf-8", delay=True)
        self._complained = False

    def reopen(self) -> None:
        """Let go of the file: a program that rotates logs has moved it away."""
        self.acquire()
        try:
            if self.stream is not None:
                self.stream.close()
                self.stream = None  # type: ignore[assignment]
        finally:
            self.release()

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that the log cannot be written; the server goes on."""
        if not self._complained:
            self._complained = True
            _log.critical("%s: the log cannot be written; see to its disk.", self.baseFilename)

    def _open(self) -> TextIOWrapper:
        return open(
            self.baseFilename, "a", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)
        )


class Lines(logging.Formatter):
    """Time, level and message; what a background task said as it said it."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if record.name in _OUTPUT else super().format(record)


def log_to(path: Path) -> None:
    """Write the log to stderr and to a file.

    Raises:
        OutputError: the file cannot be written.
    """
    make_folder(path.parent)
    with writing(path):
        path.touch(0o600)
    handlers: list[logging.Handler] = [logging.StreamHandler(), LogFile(path, _FILES)]
    for handler in handlers:
        handler.setFormatter(Lines())
    # Whatever was set up before goes.
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in ("srcyc", "srcyc_app", *_OUTPUT):
        logging.getLogger(name).setLevel(logging.INFO)


def reopen_logs() -> None:
    """Write to new files where a program that rotates logs has moved the old ones away."""
    for name in (None, AUDIT):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, LogFile):
                handler.reopen()
