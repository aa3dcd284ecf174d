"""Bringing files into the studies folder and taking them out: complete under their names, or not there at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from srcyc.files import remove, synchronise, writing
from srcyc.volumes.dicom import is_dicom_file, is_series_address
from srcyc.volumes.image_files import detached_data
from srcyc.volumes.volume import volume_stem
from srcyc_app.studies.archives import files_in, refuse_programs
from srcyc_app.studies.holders import held, left_behind

#: Hidden, so that no reader picks it up.
_COMING = ".srcyc-coming-"
#: A series that is being replaced.
_OLD = ".srcyc-old-"
_SERIES_SUFFIXES = (".dcm", ".ima", ".dicom")


@contextmanager
def brought(source: Path, folder: Path, suffix: str) -> Iterator[Path]:
    """Copy a file, or the files of a folder, under a hidden name into the studies folder, for the block.

    Raises:
        Refusal: 422, a program is among them.
        OutputError: the disk is full, or the folder cannot be written.
    """
    refuse_programs(source)
    coming = folder / held(_COMING, f"{uuid.uuid4().hex[:12]}{suffix}")
    try:
        # Where the server keeps its files is none of the client's business.
        with writing(Path(folder.name)):
            if source.is_dir():
                coming.mkdir()
                for path in files_in(source):
                    _copy(path, coming / path.name)
            else:
                _copy(source, coming)
        yield coming
    finally:
        remove(coming)


def put(coming: Path, place: Path, old: Path | None = None) -> None:
    """Let what was brought appear under its name, whole, in the place of what is there.

    Args:
        coming: was brought.
        place: under which it appears.
        old: what it replaces, if that has another name; the two differ in their suffixes only.

    Raises:
        OSError: not writable.
    """
    old = old or place
    if old == place and not (coming.is_dir() and place.is_dir()):
        os.replace(coming, place)
        return
    aside = old.with_name(held(_OLD, old.name))
    remove(aside)
    os.replace(old, aside)
    os.replace(coming, place)
    _leave(aside, old)


def _leave(old: Path, place: Path) -> None:
    """Remove a scan that was put aside; what else was in a series' folder stays there."""
    _remove_data_of(old)
    if old.is_dir() and not old.is_symlink():
        for path in old.iterdir():
            if not _is_of_series(path) and not (place / path.name).exists():
                place.mkdir(exist_ok=True)
                os.replace(path, place / path.name)
    remove(old)


def remove_scan(path: Path) -> None:
    """Remove a scan: a link, a file (an ``.mhd`` with its data), or a folder's DICOM files, and itself if empty then.

    Raises:
        OSError: not allowed.
    """
    if path.is_symlink() or not path.is_dir():
        _remove_data_of(path)
        path.unlink(missing_ok=True)
        return
    for file in path.iterdir():
        if _is_of_series(file):
            file.unlink()
    if not any(path.iterdir()):
        path.rmdir()


def is_there(path: Path) -> bool:
    """Tell whether a file or a folder is there, or the folder of which a path is one of several series."""
    return path.exists() or (is_series_address(path) and path.parent.is_dir())


def clear_leftovers(folder: Path) -> None:
    """Remove what a process that was killed was bringing, and put back what it had not replaced yet."""
    for path, _ in left_behind(folder, _COMING):
        remove(path)
    for path, name in left_behind(folder, _OLD):
        # What replaces it is called as it was, but for the suffix.
        if any(volume_stem(entry) == volume_stem(Path(name)) for entry in folder.iterdir()):
            _leave(path, folder / name)
        else:
            path.rename(folder / name)


def _is_of_series(path: Path) -> bool:
    return path.is_file() and (is_dicom_file(path) or path.suffix.lower() in _SERIES_SUFFIXES)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    synchronise(target)


def _remove_data_of(path: Path) -> None:
    """Remove the data file beside a header, if the header names it so."""
    if path.is_symlink() or path.suffix.lower() != ".mhd":
        return
    with suppress(OSError):
        name = detached_data(path)
        if name and name == os.path.basename(name) and name.lower().endswith(("raw", ".raw.gz")):
            (path.parent / name).unlink(missing_ok=True)
