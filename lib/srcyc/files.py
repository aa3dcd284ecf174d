"""Files: written so that they appear under their names only when complete, alone or together, and hashed."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from srcyc.errors import OutputError, SRCycError, extra

#: The lock of a folder that one process at a time has.
LOCK = ".lock"
_BLOCK = 2**20
#: What a system says of a disk that is full, a file that is as large as it may be, and a quota that is used up.
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextlib.contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose content becomes ``path`` at the end of the block, also after a power cut.

    Missing folders are made. What stood there before stays if anything goes wrong, and nothing partial is left.

    Raises:
        OutputError: the place cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
    finally:
        remove(temporary)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the system complains of inside the block into one sentence that names the place.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{place}: cannot be written ({error.strerror or error})",
            remedy="free some space or choose another folder",
        ) from error


def is_full(error: BaseException | None) -> bool:
    """Tell whether a full disk is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there and can be."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, name: str | None = None, *, age: float = 0.0) -> None:
    """Remove what processes that were killed left in a folder: files being written, and folders to be published.

    Args:
        folder: nobody else is working in it, or at least
        name: on what has this name.
        age: seconds for which it has to have been left alone, where somebody may be working in it.
    """
    found = list(folder.glob(f".{'*' if name is None else glob.escape(name)}.{'[0-9a-f]' * 8}.part"))
    if name or age:
        found += folder.glob(f"{_staging_prefix(name or '')}{'[a-z0-9_]' * 8}")
    for path in found:
        with contextlib.suppress(OSError):
            if not age or time.time() - path.stat().st_mtime > age:
                remove(path)


@contextlib.contextmanager
def claimed(folder: Path, busy: SRCycError, *, wait: float = 0.0, private: bool = False) -> Iterator[None]:
    """Have a folder to oneself, without what killed processes left in it; who is killed holds nothing.

    Args:
        folder: is made.
        busy: is raised if another process has it,
        wait: still after so many seconds.
        private: only this user may look into it.

    Raises:
        OutputError: it cannot be written.
    """
    with extra("train"):
        from filelock import FileLock, Timeout
    lock = FileLock(folder / LOCK)
    make_folder(folder, private=private)
    with writing(folder):
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise busy from None
    try:
        for place in (folder, *(path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_dir())):
            remove_unfinished(place)
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 file, complete or not at all.

    Raises:
        OutputError: see :func:`written`.
    """
    with written(path) as stream:
        stream.write(text.encode())
    return path


def copied(source: Path, path: Path) -> Path:
    """Copy a file, complete or not at all.

    Raises:
        OutputError: see :func:`written`; or the source cannot be read.
    """
    with written(path) as stream, source.open("rb") as content:
        shutil.copyfileobj(content, stream, _BLOCK)
    return path


@contextlib.contextmanager
def staging(folder: Path, name: str = "", *, private: bool = False) -> Iterator[Path]:
    """Give a hidden folder inside ``folder`` (so on the same disk) that is removed in the end, unless it was renamed.

    Args:
        folder: is made.
        name: of what is made in it, by which it can be told from others when its process was killed.
        private: only this user may look into ``folder``.

    Raises:
        OutputError: it cannot be created.
    """
    with writing(folder / name):
        _make(folder, private)
        temporary = tempfile.TemporaryDirectory(
            dir=folder, prefix=_staging_prefix(name), ignore_cleanup_errors=True
        )
    with temporary as path:
        yield Path(path)


def make_folder(folder: Path, *, private: bool = False) -> None:
    """Make a folder if it is not there; if it is private, only this user may look into it.

    Raises:
        OutputError: it cannot be made.
    """
    with writing(folder):
        _make(folder, private)


def _make(folder: Path, private: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if private:
        folder.chmod(0o700)


def _staging_prefix(name: str) -> str:
    """Give how the names of folders begin in which something of a name is made."""
    return f".srcyc-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}-" if name else ".srcyc-"


def publish(staged: Sequence[Path], folder: Path) -> None:
    """Move complete files or folders to ``folder`` in the order given: a volume goes last, with its sidecar there.

    Raises:
        OutputError: a file cannot be moved; those of the set that were moved before are taken back.
    """
    new: list[Path] = []
    with writing(folder):
        try:
            for path in staged:
                if path.is_file():
                    synchronise(path)
                final = folder / path.name
                if not final.exists():
                    new.append(final)
                _move(path, final)
        except OSError:
            for final in new:
                remove(final)
            raise


def synchronise(path: Path) -> None:
    """Push a file to the disk: some file systems report that they are full only then."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _move(staged: Path, final: Path) -> None:
    """Move a file or a folder to its place; a folder there is put where the staged one was, to be removed with that."""
    if not (staged.is_dir() and final.is_dir()):
        os.replace(staged, final)
        return
    old = staged.with_name(f"{staged.name}.{uuid.uuid4().hex[:8]}.old")
    os.replace(final, old)
    try:
        os.replace(staged, final)
    except OSError:
        os.replace(old, final)
        raise


def sha256(path: Path, files: Sequence[Path] = ()) -> str:
    """Hash a file, or the files of a folder, all of them in the order of their names if not told which; hexadecimal."""
    digest = hashlib.sha256()
    for file in files or (sorted(path.iterdir()) if path.is_dir() else [path]):
        if file.is_file():
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
    return digest.hexdigest()
