"""The DICOM files at and below a folder: images, other objects, and what cannot be read.

A file that belongs to a series and cannot be read must not be left out silently: the series would come back shorter. So
whatever lies beside images is judged: a name as theirs, a preamble, or no content at all mean a lost slice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.directory import missing_images
from srcyc.volumes.dicom.files import (
    DICOM_SUFFIXES,
    begins_as_dicom,
    is_directory_file,
    read_header,
    unreadable,
)
from srcyc.volumes.image_files import volume_suffix

_HEAD = 4096
#: Files that a sentence lists.
_NAMED = 5
#: Endings that programs give to files which are not complete, or packed.
_UNFINISHED = (".part", ".partial", ".crdownload", ".filepart", ".download", ".tmp", ".gz", ".zip", ".bz2")


@dataclass(frozen=True, eq=False)
class Image:
    """One file with pixels, and its header."""

    file: Path
    header: Dataset


@dataclass(frozen=True)
class LeftOut:
    """Files that are no part of any scan, and why: a clause.

    Attributes:
        files: sorted.
        reason: a clause.
        series: they are one series, which its reason names.
    """

    files: tuple[Path, ...]
    reason: str
    series: bool = False


@dataclass
class Broken:
    """What cannot be read of one folder: files, and why for each."""

    errors: dict[Path, VolumeError] = field(default_factory=dict)

    def error(self) -> VolumeError:
        """Say it in one sentence."""
        first, *others = self.errors.values()
        if not others:
            return first
        named = ", ".join(file.name for file in list(self.errors)[1 : 1 + _NAMED])
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        return VolumeError(f"{first.fact}; nor can {named}{more} be used", remedy=first.remedy)


@dataclass
class Tree:
    """What there is below a folder.

    Attributes:
        images: in the order of their paths.
        left_out: reports and the like, and files beside images that are no DICOM.
        broken: what cannot be read, by the folder whose series may lack it.
    """

    images: list[Image] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    broken: dict[Path, Broken] = field(default_factory=dict)

    def miss(self, folder: Path, file: Path, error: VolumeError) -> None:
        """Note what cannot be read of a folder."""
        self.broken.setdefault(folder, Broken()).errors.setdefault(file, error)


@dataclass(frozen=True)
class _Doubtful:
    """A file that does not begin as DICOM does."""

    file: Path
    head: bytes
    error: VolumeError


def read_tree(folder: Path) -> Tree:
    """Read the header of every DICOM file at and below a folder; hidden files and folders are left out.

    Raises:
        OSError: the folder cannot be listed.
    """
    tree = Tree()
    doubtful: list[_Doubtful] = []
    present: list[Path] = []
    for place, files in _walk(folder, tree):
        present += files
        for file in files:
            _sort_in(place, file, tree, doubtful)
    _judge(tree, doubtful)
    for index in filter(is_directory_file, present):
        _compare(index, present, tree)
    return tree


def has_dicom(folder: Path) -> bool:
    """Tell whether DICOM files lie directly in a folder, by content or, if that cannot be read, by suffix.

    Raises:
        OSError: the folder cannot be listed.
    """
    for file in _entries(folder)[0]:
        try:
            if not is_directory_file(file) and begins_as_dicom(_head(file)):
                return True
        except OSError:
            continue
    return False


def _walk(folder: Path, tree: Tree) -> Iterator[tuple[Path, list[Path]]]:
    """Give every folder once, whatever the links in it lead to, with its files."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        try:
            files, folders = _entries(place)
        except OSError as error:
            if place == folder:
                raise
            tree.miss(
                place.parent,
                place,
                VolumeError(
                    f"{place}: cannot be listed ({error.strerror or error})",
                    remedy="check its permissions or take it out",
                ),
            )
            continue
        yield place, files
        waiting += reversed(folders)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """List files (links to nothing among them) and folders; pipes and devices are neither."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if path.is_file() or (path.is_symlink() and not path.exists())]
    return files, [path for path in entries if path.is_dir()]


def _sort_in(place: Path, file: Path, tree: Tree, doubtful: list[_Doubtful]) -> None:
    if is_directory_file(file):
        return
    named = file.suffix.lower() in DICOM_SUFFIXES
    try:
        head = _head(file)
        if not (named or begins_as_dicom(head)):
            if volume_suffix(file) is not None:
                return
            what = "is empty" if not head else "is no DICOM file"
            doubtful.append(_Doubtful(file, head, _damaged(file, what)))
            return
        header = read_header(file)
    except OSError as error:
        problem = unreadable(file, error)
        if named:
            tree.miss(place, file, problem)
        else:
            doubtful.append(_Doubtful(file, b"", problem))
        return
    except VolumeError as error:
        tree.miss(place, file, error)
        return
    if "Rows" in header:
        tree.images.append(Image(file, header))
    else:
        tree.left_out.append(LeftOut((file,), f"no image ({_kind(header)})"))


def _judge(tree: Tree, doubtful: list[_Doubtful]) -> None:
    """Tell lost slices from files that have nothing to do with the series beside them."""
    files = [image.file for image in tree.images]
    folders = {file.parent for file in files}
    patterns = {_pattern(file) for file in files}
    suffixes = {file.suffix.lower() for file in files} - {""}
    for one in doubtful:
        # Where one of a series' files is, its folder and those inside hold the rest.
        place = next((folder for folder in one.file.parents if folder in folders), None)
        if place is None:
            continue
        name = _finished(one.file)
        alike = _pattern(name) in patterns or name.suffix.lower() in suffixes
        anonymous = not re.fullmatch(r"\.[A-Za-z]\w*", name.suffix) and not _is_text(one.head)
        cut = len(one.head) > 0 and not any(one.head[:128])
        if alike or ((anonymous or cut) and one.file.parent in folders):
            tree.miss(place, one.file, one.error)
        elif one.file.parent in folders:
            tree.left_out.append(LeftOut((one.file,), "no DICOM"))


def _compare(index: Path, present: list[Path], tree: Tree) -> None:
    """Miss what the index of a medium lists in folders that are there."""
    try:
        missing = missing_images(index, present)
    except VolumeError as error:
        tree.left_out.append(LeftOut((index,), error.fact.removeprefix(f"{index}: ")))
        return
    folders = {str(image.file.parent).casefold(): image.file.parent for image in tree.images}
    for file in missing:
        place = folders.get(str(file.parent).casefold())
        if place is not None:
            tree.miss(
                place,
                file,
                VolumeError(
                    f"{file}: is listed in {index.name} and is not there",
                    remedy=f"copy the medium again, or take {index.name} out if the image is not wanted",
                ),
            )


def _finished(file: Path) -> Path:
    """Give the name that a file has, or will have, when it is complete and unpacked."""
    return file.with_suffix("") if file.suffix.lower() in _UNFINISHED else file


def _pattern(file: Path) -> str:
    """Give what the names of a series' files have in common."""
    return re.sub(r"[0-9]+", "#", file.name)


def _is_text(head: bytes) -> bool:
    """Tell whether bytes read as text; nothing does not."""
    return bool(head) and not re.search(rb"[\x00-\x08\x0e-\x1a]", head)


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_HEAD)


def _damaged(file: Path, what: str) -> VolumeError:
    return VolumeError(
        f"{file}: {what} and lies among the slices of a series", remedy="copy it again or take it out"
    )


def _kind(header: Dataset) -> str:
    return str(getattr(header.SOPClassUID, "name", header.SOPClassUID))
