"""An archive of the server's, unpacked without trust in it."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

_BLOCK = 1 << 20
_MOST_MEMBERS = 20_000


def unpack(archive: Path, folder: Path, suffix: Callable[[str], str]) -> Path:
    """Unpack the files of an archive flat into a new folder; their names are ours, in the archive's order.

    Args:
        archive: zip.
        folder: is made.
        suffix: gives the suffix of a volume's name.

    Returns:
        the folder; the file if there is only one.

    Raises:
        zipfile.BadZipFile, ValueError: it is damaged, has links, or nothing in it.
        OSError: the disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            if not 0 < len(members) <= _MOST_MEMBERS:
                raise ValueError(f"{len(members)} files in it")
            if any(stat.S_ISLNK(member.external_attr >> 16) for member in members):
                raise ValueError("links in it")
            if sum(member.file_size for member in members) > shutil.disk_usage(archive.parent).free:
                raise ValueError("the disk has no room for its files")
            folder.mkdir()
            for number, member in enumerate(members):
                path = folder / f"{number:05d}{suffix(member.filename) if len(members) == 1 else '.dcm'}"
                # Never more than it said: `zipfile` stops there.
                with packed.open(member) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
    except (RuntimeError, NotImplementedError, EOFError) as error:  # encrypted, or an unusual compression
        raise ValueError(str(error)) from error
    return path if len(members) == 1 else folder
