"""Results appear under their names together and complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from srcyc.errors import OutputError


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Give a hidden folder inside ``folder`` (so on the same disk) that is removed in the end.

    Raises:
        OutputError: it cannot be created.
    """
    try:
        temporary = tempfile.TemporaryDirectory(dir=folder, prefix=".srcyc-", ignore_cleanup_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{folder}: cannot be written ({reason}); choose another folder as --output."
        ) from error
    with temporary as path:
        yield Path(path)


def publish(staged: Sequence[Path], folder: Path) -> None:
    """Move complete files to ``folder`` in the order given: a volume goes last, so it never lacks its sidecar.

    Raises:
        OutputError: a file cannot be moved; those of the set that were moved before are taken back.
    """
    new: list[Path] = []
    try:
        for path in staged:
            final = folder / path.name
            if not final.exists():
                new.append(final)
            os.replace(path, final)
    except OSError as error:
        for final in new:
            final.unlink(missing_ok=True)
        reason = error.strerror or error
        raise OutputError(
            f"{folder}: cannot be written ({reason}); choose another folder as --output."
        ) from error
