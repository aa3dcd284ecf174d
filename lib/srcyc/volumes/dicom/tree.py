"""The DICOM files at and below a folder: images, other objects, and what cannot be read.

A file that belongs to a series and cannot be read must not be left out silently: the series would come back shorter. So
whatever lies beside images is judged: a name as theirs, a preamble, or no content at all mean a lost slice.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.directory import missing_images
from srcyc.volumes.dicom.files import (
    DICOM_SUFFIXES,
    begins_as_dicom,
    head_of,
    is_dicom_file,
    is_directory_file,
    listed,
    read_header,
    unreadable,
)
from srcyc.volumes.image_files import volume_suffix

#: Why a file beside images is left out that is none of their series'.
NO_DICOM = "no DICOM"
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
class Tree:
    """What there is below a folder.

    Attributes:
        files: all that is no folder, and not hidden.
        images: in the order of their paths.
        left_out: reports and the like, and files beside images that are no DICOM, by the reason.
        broken: what cannot be read and why, by the folder whose series may lack it.
    """

    files: list[Path] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    broken: dict[Path, dict[Path, VolumeError]] = field(default_factory=lambda: defaultdict(dict))

    def miss(self, folder: Path, file: Path, error: VolumeError) -> None:
        """Note what cannot be read of a folder."""
        self.broken[folder].setdefault(file, error)


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

    def unlisted(place: Path, error: OSError) -> None:
        if place == folder:
            raise error
        reason = f"cannot be listed ({error.strerror})"
        tree.left_out[reason].append(place)
        problem = VolumeError(f"{place}: {reason}", remedy="check its permissions or take it out")
        tree.miss(place.parent, place, problem)

    for place, files in walk(folder, unlisted):
        tree.files += files
        for file in files:
            _sort_in(place, file, tree, doubtful)
    _judge(tree, doubtful)
    for index in filter(is_directory_file, tree.files):
        _compare(index, tree)
    return tree


def is_dicom_folder(folder: Path) -> bool:
    """Tell whether DICOM files lie directly in a folder (by content: their names often have no suffix)."""
    try:
        return any(
            os.path.isfile(file) and is_dicom_file(file)
            for file in folder.iterdir()
            if not file.name.startswith(".")
        )
    except OSError:
        return False


def walk(
    folder: Path, unlisted: Callable[[Path, OSError], None] | None = None
) -> Iterator[tuple[Path, list[Path]]]:
    """Give a folder and those below it once, whatever the links in them lead to, with all that is not hidden.

    Args:
        folder: where to begin.
        unlisted: takes the folders that cannot be listed; None: they are an error.

    Yields:
        a folder, and what lies in it and is none: files, links to nothing, pipes.

    Raises:
        OSError: a folder cannot be listed.
    """
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        try:
            paths = sorted(path for path in place.iterdir() if not path.name.startswith("."))
        except OSError as error:
            if unlisted is None:
                raise
            unlisted(place, error)
            continue
        folders: list[Path] = []
        files: list[Path] = []
        for path in paths:
            (folders if os.path.isdir(path) else files).append(path)
        yield place, files
        waiting += reversed(folders)


def explained(errors: Mapping[Path, VolumeError]) -> VolumeError:
    """Say in one sentence which files cannot be used, and why the first one cannot."""
    first, *others = errors.values()
    if not others:
        return first
    named = listed([file.name for file in errors][1:])
    return VolumeError(f"{first.fact}; nor can {named} be used", remedy=first.remedy)


def _sort_in(place: Path, file: Path, tree: Tree, doubtful: list[_Doubtful]) -> None:
    is_pipe = os.path.exists(file) and not os.path.isfile(file)
    if is_pipe or is_directory_file(file):
        return
    named = file.suffix.lower() in DICOM_SUFFIXES
    try:
        head = head_of(file)
        if not (named or begins_as_dicom(head)):
            if volume_suffix(file) is not None:
                return
            what = "is empty" if not head else "is no DICOM file"
            problem = VolumeError(
                f"{file}: {what} and lies among the slices of a series", remedy="copy it again or take it out"
            )
            doubtful.append(_Doubtful(file, head, problem))
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
        kind = getattr(header.SOPClassUID, "name", header.SOPClassUID)
        tree.left_out[f"no image ({kind})"].append(file)


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
            tree.left_out[NO_DICOM].append(one.file)


def _compare(index: Path, tree: Tree) -> None:
    """Miss what the index of a medium lists in folders that are there."""
    try:
        missing = missing_images(index, tree.files)
    except VolumeError as error:
        tree.left_out[error.fact.removeprefix(f"{index}: ")].append(index)
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
