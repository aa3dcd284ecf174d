"""Zip archives from the network, unpacked without trust; and folders packed for it."""

from __future__ import annotations

import contextlib
import lzma
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from srcyc.volumes.image_files import detached_data, volume_suffix
from srcyc_app.refusals import unusable
from srcyc_app.studies.identifiers import is_plain_component, is_program

#: No series has more files.
MOST_MEMBERS = 20_000

_BLOCK = 1 << 20
#: What Python's zipfile and its decoders raise for damaged, encrypted and unusual archives.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)


def unpack_zip(archive: Path, folder: Path, max_bytes: int) -> None:
    """Unpack a zip archive flat into a folder: of a member's path, only the last part reaches the disk.

    Members of the same name get a number; what is no plain name gets one of ours. Folders, hidden files and what
    macOS adds are left out.

    Args:
        archive: the file.
        folder: is made if it is not there; nothing is left in it on failure.
        max_bytes: most bytes that may come out, counted, whatever the archive says of itself.

    Raises:
        Refusal: 422: no zip archive, damaged, encrypted, holding links, too large, empty, or with a header whose
            voxels lie in another file.
        OSError: the disk is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    try:
        with _refusing(archive):
            packed = zipfile.ZipFile(archive)
        with packed:
            left, names = max_bytes, Names()
            for member in _members(packed, archive):
                base = member.filename.replace("\\", "/").split("/")[-1]
                path = folder / names.give(base if is_plain_component(base) else f"file-{len(written)}")
                written.append(path)
                left -= _extract(packed, member, path, archive, left)
        refuse_detached(folder)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def unpack_scan(archive: Path, folder: Path, max_bytes: int) -> Path:
    """Unpack a zip archive of one scan as :func:`unpack_zip` does; one of a single volume is as good as the volume.

    Returns:
        the volume, or the folder of a DICOM series.
    """
    unpack_zip(archive, folder, max_bytes)
    files = files_in(folder)
    return files[0] if len(files) == 1 and volume_suffix(files[0]) is not None else folder


class Names:
    """Gives every name once: one that comes again gets a number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def give(self, name: str) -> str:
        """Give a name that was not given yet, this one if it can be."""
        # Some systems do not tell small letters from capital ones.
        given, key = name, name.casefold()
        while given.casefold() in self._taken:
            self._numbers[key] += 1
            given = f"{self._numbers[key]}-{name}"
        self._taken.add(given.casefold())
        return given


def files_in(folder: Path) -> list[Path]:
    """List the files that lie directly in a folder, sorted, hidden ones left out."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]


def size_of(path: Path) -> int:
    """Give the bytes of a file, or of the files in a folder; 0 if it is gone."""
    size = 0
    with contextlib.suppress(OSError):
        for file in _all(path):
            size += file.stat().st_size if file.is_file() else 0
    return size


def pack_folder(folder: Path, target: BinaryIO) -> None:
    """Write the files that lie directly in a folder, hidden ones left out, into a zip archive.

    Raises:
        OSError: a file cannot be read.
    """
    pack_files(files_in(folder), target)


def pack_files(files: Sequence[Path], target: BinaryIO) -> None:
    """Write files into a zip archive; what lies in several folders gets a number where names are the same.

    Raises:
        OSError: a file cannot be read.
    """
    names = Names()
    with zipfile.ZipFile(
        target, "w", zipfile.ZIP_DEFLATED, compresslevel=1, strict_timestamps=False
    ) as packed:
        for path in files:
            packed.write(path, names.give(path.name))


def refuse_detached(path: Path, shown: str | None = None) -> None:
    """Refuse an uploaded header that takes its voxels from another file, which could be any of the server's.

    Args:
        path: a file, or a folder of files.
        shown: how the client calls it; default: the file's name.

    Raises:
        Refusal: 422.
    """
    for file in _all(path):
        if file.is_file() and detached_data(file) is not None:
            raise unusable(
                f"{shown or file.name}: its voxels lie in another file; send it as a single .nrrd, .mha or .nii.gz."
            )


def refuse_programs(path: Path) -> None:
    """Refuse a file that Python would run if its folder came to be on the import path, or a folder with one.

    Raises:
        Refusal: 422.
    """
    for file in _all(path):
        if is_program(file.name):
            raise unusable(f"{file.name}: a program, not part of a scan; leave it out.")


def _all(path: Path) -> list[Path]:
    """List what lies in a folder, hidden files too; of a file, itself."""
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _members(packed: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    members = []
    for member in packed.infolist():
        parts = member.filename.replace("\\", "/").split("/")
        if member.is_dir() or "__MACOSX" in parts or parts[-1].startswith("."):
            continue
        if stat.S_ISLNK(member.external_attr >> 16):
            raise unusable(f"{archive.name}: holds a link ({parts[-1][:60]!r}); pack the files themselves.")
        if is_program(parts[-1]):
            raise unusable(
                f"{archive.name}: holds a program ({parts[-1][:60]!r}); pack the files of the scan only."
            )
        members.append(member)
    if not members:
        raise unusable(f"{archive.name}: an archive without files; pack the scan again.")
    if len(members) > MOST_MEMBERS:
        raise unusable(
            f"{archive.name}: {len(members)} files, at most {MOST_MEMBERS} are taken; send one series."
        )
    return members


def _extract(packed: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, archive: Path, limit: int) -> int:
    """Unpack one member; give its size.

    Raises:
        Refusal: 422: damaged, encrypted, or larger than the limit.
    """
    size = 0
    with contextlib.ExitStack() as stack:
        with _refusing(archive):
            source = stack.enter_context(packed.open(member))
        target = stack.enter_context(path.open("xb"))
        while True:
            with _refusing(archive):
                block = source.read(_BLOCK)
            if not block:
                return size
            size += len(block)
            if size > limit:
                raise unusable(
                    f"{archive.name}: unpacks to more than this server takes; send a smaller scan."
                )
            target.write(block)


@contextlib.contextmanager
def _refusing(archive: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        # Not the whole of a system error: it names the path.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)[:100]
        raise unusable(
            f"{archive.name}: not a zip archive that can be unpacked ({reason}); pack it again."
        ) from error
