"""Files: written so that they appear under their names only when complete, and hashed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from srcyc.errors import OutputError

#: How the temporary names end.
_UNFINISHED = ".part"


@contextlib.contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose content becomes ``path`` at the end of the block, also after a power cut.

    Missing folders are made. What stood there before stays if anything goes wrong, and nothing partial is left.

    Raises:
        OutputError: the place cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def remove_unfinished(folder: Path) -> None:
    """Remove what :func:`written` was writing into a folder when its process was killed."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 file, complete or not at all.

    Raises:
        OutputError: see :func:`written`.
    """
    with written(path) as stream:
        stream.write(text.encode())
    return path


def sha256(path: Path) -> str:
    """Hash a file, or all files of a folder in the order of their names; hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
    return digest.hexdigest()
