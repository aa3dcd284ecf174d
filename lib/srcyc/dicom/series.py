"""The series among DICOM files, one entry for each stack of parallel slices: listed, judged, chosen."""

from __future__ import annotations

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from srcyc.dicom.files import brief, is_dicom_file, read_header, whole
from srcyc.dicom.frames import Frame, frames_of
from srcyc.dicom.kinds import COLOUR, image_type, plain_text, why_no_scan, why_phase
from srcyc.dicom.pixels import equal_pixels
from srcyc.dicom.stack import Stack, repeated
from srcyc.dicom.tree import Image, LeftOut, read_tree
from srcyc.errors import VolumeError

#: Series that a sentence lists.
_LISTED = 12
#: Stacks that share their places have at least this share of each other's slices.
_LEAST_PART = 0.5
_SINGLE = "a single slice"
#: A name: without dots but those of a UID, so that nothing looks like the suffix of a volume.
_NAME = re.compile(r"[\w+-]+|[\w+-]*\d+(\.\d+){2,}[\w+-]*")
#: Characters of a description in the name of an output.
_LONGEST_NAME = 60


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A stack of parallel slices of one series; most series are one.

    Attributes:
        folder: the innermost one that holds all its files; a file that holds all frames and was given is its own.
        uid: Series Instance UID.
        number: Series Number, or None.
        description: Series Description, or Protocol Name; may be empty.
        part: what this stack is among those of its series; empty if it is the only one.
        frames: in no order.
        unfit: why it is no scan, a clause; None: it may be one.
        problem: why it cannot be read, found in its headers or beside its files.
        announced: how many images the header says the acquisition has, or None.
        mosaic: each image is tiled of slices.
        position: in its listing, from 1, where no series of it has a number.
        name: short, fit for a file name, unlike that of any other in the same listing.
        address: the path that stands for it: its folder where that holds no other scan, else FOLDER/NAME, as if it were
            a file there.
    """

    folder: Path
    uid: str
    number: int | None
    description: str
    part: str
    frames: tuple[Frame, ...]
    unfit: str | None = None
    problem: VolumeError | None = None
    announced: int | None = None
    mosaic: bool = False
    position: int | None = None
    name: str = ""
    address: Path = Path()

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, sorted."""
        return tuple(sorted({frame.file for frame in self.frames}))

    @property
    def label(self) -> str:
        """Number, description and part, else the UID."""
        number = "" if self.number is None else str(self.number)
        text = " ".join(part for part in (number, self.description) if part) or self.uid or "unnamed"
        text = f"{self.position}. {text}" if self.position is not None else text
        return f"{text} ({self.part})" if self.part else text

    def describe(self) -> str:
        """Name it, and how large it is, for a sentence."""
        files = self.files
        count = f"{len(files)} file{'s' * (len(files) != 1)}"
        if len(self.frames) != len(files):
            count += f" with {len(self.frames)} frames"
        return f"{self.label}: {count}, first {files[0].name}"

    def is_called(self, wanted: str) -> bool:
        """Tell whether a number, UID, description or name means this series."""
        text = wanted.strip().casefold()
        names = {self.uid, self.description.casefold(), self.name.casefold(), self.label.casefold()}
        numbers = {str(number) for number in (self.number, self.position) if number is not None}
        return text != "" and text in names | numbers


@dataclass(frozen=True)
class Listing:
    """What DICOM there is at and below a folder.

    Attributes:
        series: those that may be scans, readable or not, by number.
        unfit: localizers, captures, maps and the like; they can be read if they are chosen.
        left_out: files that are no part of any series.
        broken: what cannot be read and belongs to no series that is there, by folder.
    """

    series: list[DicomSeries]
    unfit: list[DicomSeries]
    left_out: list[LeftOut]
    broken: dict[Path, VolumeError]

    def told(self) -> list[LeftOut]:
        """Give all that is no scan, with its reason."""
        return [
            LeftOut(series.files, f"{series.label}: {series.unfit}") for series in self.unfit
        ] + self.left_out


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
            return _listing(path, [Image(path, _frames_header(path))], [], {})
        state = _state(path)
        if state is not None and _last.get(path) and _last[path][0] == state:
            return _last[path][1]
        tree = read_tree(path)
        listing = _listing(path, tree.images, tree.left_out, tree.broken)
    _last.clear()
    if state is not None:
        _last[path] = state, listing
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


def choose(listing: Listing, wanted: str, where: Path) -> list[DicomSeries]:
    """Give the stacks of the series that a number, UID, description (or a part of it) or name means, scans first.

    Raises:
        VolumeError: none, or several series, are called so; says which there are.
    """
    text = wanted.strip().casefold()
    groups = (listing.series, listing.unfit)
    called = [[series for series in group if series.is_called(wanted)] for group in groups]
    # Without a series of that name, one whose description has it in it.
    called += [
        [series for series in group if text and text in series.description.casefold()] for group in groups
    ]
    found = next((group for group in called if group), [])
    exact = [series for series in found if series.name.casefold() == text]
    found = exact or found
    if len({series.uid for series in found}) == 1:
        return found
    what = "no series is" if not found else f"{len(found)} series are"
    raise VolumeError(
        f"{where}: {what} called {wanted!r} ({_list(found or [*listing.series, *listing.unfit])})",
        remedy="give the number, description or UID of one as series",
        options=("series",),
    )


def the_one(listing: Listing, wanted: str | None, where: Path) -> DicomSeries:
    """Give the one stack that is meant: the one called so, else the only scan there is.

    Without a name, series with a file directly in a folder go before those that lie in its subfolders only.

    Raises:
        VolumeError: none, or several.
    """
    if wanted is not None:
        found = choose(listing, wanted, where)
    elif listing.series:
        found = _meant(listing.series, where)
    elif listing.broken:
        raise next(iter(listing.broken.values()))
    elif listing.unfit:
        if len(listing.unfit) == 1 and listing.unfit[0].unfit == _SINGLE:
            return listing.unfit[0]  # whose reader says what is wrong with it
        reasons = "; ".join(f"{series.label} is {series.unfit}" for series in listing.unfit[:_LISTED])
        raise VolumeError(
            f"{where}: no scan among its DICOM series ({reasons})",
            remedy="choose one by series to read it all the same",
            options=("series",),
        )
    else:
        raise VolumeError(
            f"{where}: no DICOM image series in this folder", remedy="give the folder that holds the slices"
        )
    if len(found) > 1:
        raise VolumeError(
            f"{where}: holds {len(found)} DICOM series ({_list(found)})",
            remedy="choose one by series (number, description or UID), or put each in a folder of its own",
            options=("series",),
        )
    return found[0]


def without_copies(frames: Sequence[Frame]) -> tuple[list[Frame], list[tuple[Frame, Frame]]]:
    """Leave out frames that are exact copies of another at their place: a file that was copied twice.

    Returns:
        the frames that are left, and each copy with what it is a copy of.

    Raises:
        VolumeError: pixels that cannot be read; only those of frames that share a place are looked at.
    """
    kept = list(frames)
    copies: list[tuple[Frame, Frame]] = []
    while True:
        found = [(first, second) for first, second in repeated(kept) if equal_pixels(first, second)]
        if not found:
            return kept, copies
        for first, second in found:
            # The longer name is that of the copy: "IM4 (1)", "Copy of IM4".
            first, second = sorted((first, second), key=lambda frame: (len(str(frame.file)), str(frame.file)))
            if first in kept and second in kept:
                kept.remove(second)
                copies.append((second, first))


# -- listing -------------------------------------------------------------------------------------------------


#: The last folder listed, with the state it was in: the series of a medium are read one by one.
_last: dict[Path, tuple[object, Listing]] = {}
#: Files that changed less than so many ns ago may change again within their time stamp.
_SETTLED = 2 * 10**9


def _state(folder: Path) -> object | None:
    """Give what changes when a file below a folder does; None if some changed just now, or it cannot be told."""
    found: list[tuple[str, int, int]] = []
    newest = time.time_ns() - _SETTLED
    for place, _, names in os.walk(folder, followlinks=False):
        try:
            status = os.stat(place)
            if status.st_mtime_ns > newest:
                return None
            for name in names:
                status = os.stat(os.path.join(place, name))
                if max(status.st_mtime_ns, status.st_ctime_ns) > newest:
                    return None
                found.append((os.path.join(place, name), status.st_size, status.st_mtime_ns))
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


def _listing(
    where: Path, images: Iterable[Image], left_out: list[LeftOut], broken: dict[Path, VolumeError]
) -> Listing:
    groups: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        groups[_key(image.header)].append(image)
    found: list[DicomSeries] = []
    for group in groups.values():
        for reason, members in _by_reason(group):
            found += _series_of(where, members, reason)
    lost = dict(broken)
    for index, series in enumerate(found):
        problem = next((broken[file.parent] for file in series.files if file.parent in broken), None)
        for file in series.files:
            lost.pop(file.parent, None)
        if problem is not None and series.unfit is None:
            found[index] = replace(series, problem=problem)
    found = _named(sorted(found, key=_order))
    return Listing(
        [series for series in found if series.unfit is None],
        [series for series in found if series.unfit is not None],
        left_out,
        lost,
    )


def _key(header: Dataset) -> str:
    """Give what the images of one series have in common: its UID, else what else names it."""
    keys = ("StudyInstanceUID", "PatientID", "SeriesNumber", "SeriesDescription")
    return str(header.get("SeriesInstanceUID", "") or "") or "\0".join(
        str(header.get(key, "")) for key in keys
    )


def _by_reason(images: Sequence[Image]) -> list[tuple[str | None, list[Image]]]:
    """Split a series into what may be a scan, and what is none for one reason or another (a capture, projections)."""
    groups: dict[str | None, list[Image]] = defaultdict(list)
    for image in images:
        groups[why_no_scan(image.header)].append(image)
    if COLOUR in groups and None in groups:
        groups[None] += groups.pop(COLOUR)
    return list(groups.items())


def _series_of(where: Path, images: Sequence[Image], unfit: str | None) -> list[DicomSeries]:
    """Give the stacks of the images of one series, all of which are no scan for the reason given, if there is one."""
    header = images[0].header
    files = [image.file for image in images]
    folder = _folder_of(files, where)
    announced = [_whole_or_none(image.header, "ImagesInAcquisition") for image in images]
    whole_series = DicomSeries(
        folder=folder,
        uid=str(header.get("SeriesInstanceUID", "") or ""),
        number=_whole_or_none(header, "SeriesNumber"),
        description=plain_text(header.get("SeriesDescription")) or plain_text(header.get("ProtocolName")),
        part="",
        frames=(),
        unfit=unfit,
        announced=max((n for n in announced if n is not None), default=None),
        mosaic=all("MOSAIC" in image_type(image.header) for image in images),
    )
    try:
        frames = [frame for image in images for frame in _frames_of(image)]
    except VolumeError as error:
        return [replace(whole_series, frames=_placeless(files), problem=error)]
    parts = _parts(frames, folder)
    if isinstance(parts, VolumeError):
        return [replace(whole_series, frames=tuple(frames), problem=parts)]
    scans = [part for part in parts if len(part[1]) > 1]
    if len(parts) > 1 and not scans:
        no_stack = (
            whole_series.unfit or f"{len(parts)} slices in different directions, no stack (a localizer?)"
        )
        return [
            replace(whole_series, frames=tuple(frames), unfit=no_stack, problem=_directions(frames, folder))
        ]
    found = []
    if len(frames) == 1:
        return [replace(whole_series, frames=tuple(frames), unfit=unfit or _SINGLE)]
    for label, members in parts:
        why = unfit or why_phase(members)
        if len(members) == 1:
            why = why or f"{_SINGLE} beside others of its series"
        place = _folder_of([frame.file for frame in members], where)
        found.append(replace(whole_series, folder=place, part=label, frames=tuple(members), unfit=why))
    return found


def _frames_of(image: Image) -> list[Frame]:
    """Give the frames of an image.

    Raises:
        VolumeError: its header is unusable.
    """
    try:
        return list(frames_of(image.file, image.header))
    except VolumeError:
        raise
    except Exception as error:  # pydicom converts the frames' headers only now, and lets anything escape
        raise VolumeError(
            f"{image.file}: cannot be read as DICOM ({brief(error)})",
            remedy="copy the file again or take it out",
        ) from error


def _folder_of(files: Sequence[Path], where: Path) -> Path:
    """Give the innermost folder that holds all files; a file that was given is its own."""
    return where if where in files else Path(os.path.commonpath([file.parent for file in files]))


def _parts(frames: Sequence[Frame], where: Path) -> list[tuple[str, list[Frame]]] | VolumeError:
    """Split the frames of a series into stacks; an error where that leaves stacks with holes."""
    planes: list[list[Frame]] = []
    for frame in frames:
        for plane in planes:
            if frame.lies_as(plane[0]) and frame.sampled_as(plane[0]):
                plane.append(frame)
                break
        else:
            planes.append([frame])
    parts: list[tuple[str, list[Frame]]] = []
    for number, plane in enumerate(planes, 1):
        name = f"stack {number}" if len(planes) > 1 else ""
        for label, members in _told_apart(plane):
            parts.append((", ".join(text for text in (name, label) if text), members))
    # A slice that was turned or resized by mistake leaves a hole: that series is damaged, not two.
    if len(planes) > 1 and any(len(members) > 1 and not _regular(members, where) for _, members in parts):
        return _directions(frames, where)
    return parts


def _directions(frames: Sequence[Frame], where: Path) -> VolumeError:
    """Say which slices do not fit together."""
    first = frames[0]
    for other in frames[1:]:
        if not other.lies_as(first):
            return VolumeError(
                f"{where}: the slices {first.label} and {other.label} lie in different directions (a localiser?)",
                remedy="give the folder of one stack of parallel slices",
            )
        if not other.sampled_as(first):
            return VolumeError(
                f"{where}: the slices {first.label} and {other.label} differ in size or pixel spacing "
                f"({_sampling(first)} and {_sampling(other)})",
                remedy="give the folder of one stack",
            )
    raise AssertionError("parallel frames of one size")


def _told_apart(frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Split parallel frames that share places by what their headers say; as they are if nothing tells them apart."""
    if not repeated(frames):
        return [("", frames)]
    varying = dict.fromkeys(name for frame in frames for name in frame.traits)
    names = [name for name in varying if len({frame.traits.get(name, "") for frame in frames}) > 1]

    def by_traits(wanted: Sequence[str]) -> Callable[[Frame], str]:
        return lambda frame: ", ".join(f"{name} {frame.traits.get(name, 'unknown')}" for name in wanted)

    ways: list[Callable[[Frame], str]] = [by_traits([name]) for name in names]
    ways += [by_traits(names)] if len(names) > 1 else []
    ways.append(lambda frame: f"folder {frame.file.parent.name}")
    if all(frame.enhanced for frame in frames):
        ways.append(lambda frame: f"file {frame.file.name}")
    for way in ways:
        parts: dict[str, list[Frame]] = defaultdict(list)
        for frame in frames:
            parts[way(frame)].append(frame)
        sizes = [len(part) for part in parts.values()]
        # A few slices that were acquired again are no second scan.
        alike = len(parts) > 1 and min(sizes) > 1 and min(sizes) >= _LEAST_PART * max(sizes)
        if alike and not any(repeated(part) for part in parts.values()):
            # Exact copies in another folder are no second scan.
            first, *others = parts.values()
            if any(without_copies([*first, *other])[1] for other in others):
                return [("", frames)]
            return list(parts.items())
    return [("", frames)]


def _regular(frames: Sequence[Frame], where: Path) -> bool:
    try:
        Stack.of(without_copies(frames)[0], where)
    except VolumeError:
        return False
    return True


def _placeless(files: Sequence[Path]) -> tuple[Frame, ...]:
    """Stand in for frames whose headers cannot be used: they are listed, never read."""
    import numpy as np

    nowhere = np.zeros(3)
    return tuple(
        Frame(file, 0, "", "", nowhere, nowhere, nowhere, (1, 1), (0, 0), None, None, (1, 0), False, None, {})
        for file in files
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
    return series.unfit is None and _meant([one for one in others if one.unfit is None], series.folder) == [
        series
    ]


def _meant(scans: Iterable[DicomSeries], folder: Path) -> list[DicomSeries]:
    """Give the scans that a folder stands for: those with a file directly in it, else those below it."""
    below = [one for one in scans if one.folder == folder or folder in one.folder.parents]
    return [one for one in below if any(file.parent == folder for file in one.files)] or below


def _order(series: DicomSeries) -> tuple[object, ...]:
    return (series.number is None, series.number or 0, str(series.folder), series.uid, series.part)


def _sampling(frame: Frame) -> str:
    rows, columns = frame.size
    return f"{columns} x {rows} at {frame.pixel_spacing[1]:g} x {frame.pixel_spacing[0]:g} mm"


def _list(series: Sequence[DicomSeries]) -> str:
    more = f"; {len(series) - _LISTED} more" if len(series) > _LISTED else ""
    return "; ".join(one.describe() for one in series[:_LISTED]) + more


def _whole_or_none(header: Dataset, key: str) -> int | None:
    """Give a whole number of a header, None where it is missing or none."""
    try:
        return whole(header, key, -1) if header.get(key) not in (None, "") else None
    except (TypeError, ValueError):
        return None
