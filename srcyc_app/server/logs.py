"""The server's log: on the terminal, and in a file that does not grow for ever."""

from __future__ import annotations

import logging
import logging.config
from pathlib import Path

from srcyc.errors import OutputError

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
#: MONAI Label's names for what a training or a batch says; its lines have their own times.
_OUTPUT = ("task_train", "task_batch_infer")
_MOST_BYTES = 10_000_000
_FILES = 5


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
    handlers = {
        "terminal": {"class": "logging.StreamHandler", "formatter": "line"},
        "file": {
            "class": "logging.handlers.RotatingFileHandler",
            "formatter": "line",
            "filename": str(path),
            "encoding": "utf-8",
            "maxBytes": _MOST_BYTES,
            "backupCount": _FILES,
        },
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"line": {"()": Lines}},
                "handlers": handlers,
                "root": {"level": "WARNING", "handlers": list(handlers)},
                "loggers": {name: {"level": "INFO"} for name in ("srcyc", "srcyc_app", *_OUTPUT)},
            }
        )
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: the log cannot be written ({error}); give another --model-dir."
        ) from error
