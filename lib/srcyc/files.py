"""Files that appear under their names only when they are complete."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from srcyc.errors import OutputError


@contextlib.contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose content becomes ``path`` at the end of the block, also after a power cut.

    What stood there before stays if anything goes wrong, and nothing partial is left.

    Raises:
        OutputError: the place cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{path}: cannot be written ({reason}); free some space or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 file, complete or not at all.

    Raises:
        OutputError: see :func:`written`.
    """
    with written(path) as stream:
        stream.write(text.encode())
    return path
