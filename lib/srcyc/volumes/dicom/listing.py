"""What DICOM there is at and below a folder, every series with a name and an address of its own."""

from __future__ import annotations

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.files import is_dicom_file, read_header
from srcyc.volumes.dicom.grouping import stacks_of
from srcyc.volumes.dicom.series import DicomSeries, Listing, meant
from srcyc.volumes.dicom.tree import Image, LeftOut, Tree, explained, read_tree, walk

#: A name: without dots but those of a UID, so that nothing looks like the suffix of a volume.
_NAME = re.compile(r"[\w+-]+|[\w+-]*\d+(\.\d+){2,}[\w+-]*")
#: Characters of a description in the name of an output.
_LONGEST_NAME = 60
#: The last folder listed, with the state it was in: the series of a medium are read one by one.
_last: dict[tuple[str, str], tuple[object, Listing]] = {}
#: Files that changed less than so many ns ago may change again within their time stamp.
_SETTLED = 2 * 10**9


def list_series(path: Path) -> Listing:
    """List the series at and below a folder, or in a file of many frames, by UID, wherever their files lie.

    A series is split where its slices run in several directions or differ in size, and where several lie at each place
    and the header tells them apart (echoes, kinds of image, b-values, time points).

    Raises:
        VolumeError: a single file that cannot be read, or holds one slice of a series.
        OSError: the folder cannot be listed.
    """
    # What is not as the standard has it and can be used is no news to a user: pydicom would write it to stderr.
    with disable_value_validation():
        if not path.is_dir():
            return _listing(path, Tree(images=[Image(path, _frames_header(path))]))
        key, state = (os.path.abspath(path), str(path)), _state(path)
        kept = _last.get(key)
        if kept is not None and state is not None and kept[0] == state:
            return kept[1]
        listing = _listing(path, read_tree(path))
    _last.clear()
    if state is not None:
        _last[key] = state, listing
    return listing


def is_series_address(path: Path) -> bool:
    """Tell whether a path can be that of one of several series: nothing is there, and it is named like one."""
    return not path.exists() and _NAME.fullmatch(path.name) is not None


def listing_of(address: Path) -> tuple[Listing, str | None] | None:
    """Give the listing of a folder or file, or the one in which an address is the name of a series, and this name.

    Returns:
        None: there is neither.

    Raises:
        VolumeError, OSError: see :func:`list_series`.
    """
    if address.exists():
        return list_series(address), None
    parent = address.parent
    if not (is_series_address(address) and (parent.is_dir() or is_dicom_file(parent))):
        return None
    listing = list_series(parent)
    known = any(address == series.folder / series.name for series in (*listing.series, *listing.unfit))
    return (listing, address.name) if known else None


def _state(folder: Path) -> object | None:
    """Give what changes when a file below a folder does; None if some changed just now, or it cannot be told."""
    found: list[tuple[Path, int, int]] = []
    newest = time.time_ns() - _SETTLED
    try:
        for place, files in walk(folder):
            for path in (place, *files):
                status = path.stat()
                if max(status.st_mtime_ns, status.st_ctime_ns) > newest:
                    return None
                found.append((path, status.st_size, status.st_mtime_ns))
    except OSError:
        return None
    return found


def _frames_header(file: Path) -> Dataset:
    """Read the header of a file that may be a whole volume."""
    header = read_header(file)
    if not header.get("PerFrameFunctionalGroupsSequence"):
        raise VolumeError(
            f"{file}: one file of a DICOM series", remedy="give the folder that holds the series"
        )
    return header


def _listing(where: Path, tree: Tree) -> Listing:
    groups: dict[str, list[Image]] = defaultdict(list)
    for image in tree.images:
        groups[_key(image.header)].append(image)
    found: list[DicomSeries] = []
    for group in groups.values():
        found += stacks_of(where, group)
    broken = {folder: explained(errors) for folder, errors in tree.broken.items()}
    blamed: set[Path] = set()
    for index, series in enumerate(found):
        folders = dict.fromkeys(file.parent for file in series.files if file.parent in broken)
        if folders:
            found[index] = replace(series, problem=broken[next(iter(folders))])
        if series.unfit is None:
            blamed |= folders.keys()
    found = _named(sorted(found, key=_order))
    return Listing(
        [series for series in found if series.unfit is None],
        [series for series in found if series.unfit is not None],
        [LeftOut(tuple(files), reason) for reason, files in tree.left_out.items()],
        {folder: error for folder, error in broken.items() if folder not in blamed},
        tuple(file for errors in tree.broken.values() for file in errors),
        tuple(tree.files),
    )


def _key(header: Dataset) -> str:
    """Give what the images of one series have in common: its UID, else what else names it."""
    keys = ("StudyInstanceUID", "PatientID", "SeriesNumber", "SeriesDescription")
    return str(header.get("SeriesInstanceUID", "") or "") or "\0".join(
        str(header.get(key, "")) for key in keys
    )


def _named(found: list[DicomSeries]) -> list[DicomSeries]:
    """Give every series a name and an address of its own."""
    plain = [_plain_name(series) for series in found]
    counts = Counter(plain)
    named: list[DicomSeries] = []
    taken: set[Path] = set()
    numbered = any(series.number is not None for series in found)
    for series, name in zip(found, plain, strict=True):
        name = name if counts[name] == 1 else "_".join(filter(None, (name, series.uid)))
        address, number = series.folder / name, 1
        while address in taken or address.exists():  # a folder or file that happens to be called so
            number += 1
            address = series.folder / f"{name}_{number}"
        taken.add(address)
        position = None if numbered else len(named) + 1
        named.append(replace(series, name=address.name, address=address, position=position))
    return [replace(one, address=one.folder) if _stands_for(one, named) else one for one in named]


def _plain_name(series: DicomSeries) -> str:
    number = "" if series.number is None else str(series.number)
    parts = (number, series.description[:_LONGEST_NAME], series.part[:_LONGEST_NAME])
    number, description, part = (re.sub(r"[^\w+-]+", "-", text).strip("-_") for text in parts)
    # A part alone names nothing.
    known = (number, description) if number or description else (series.uid,)
    return "_".join(text for text in (*known, part) if text)


def _stands_for(series: DicomSeries, others: Sequence[DicomSeries]) -> bool:
    """Tell whether whoever gives the folder of a series means it."""
    return series.unfit is None and meant([one for one in others if one.unfit is None], series.folder) == [
        series
    ]


def _order(series: DicomSeries) -> tuple[object, ...]:
    return (series.number is None, series.number or 0, str(series.folder), series.uid, series.part)
