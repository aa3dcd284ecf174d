"""A series, and a list of them: how they are named, and which one is meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.files import listed
from srcyc.volumes.dicom.frames import Frame
from srcyc.volumes.dicom.tree import LeftOut

#: Series that a sentence lists.
_LISTED = 12
#: Why a slice by itself is no scan.
SINGLE = "a single slice"


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A stack of parallel slices of one series; most series are one.

    Attributes:
        folder: the innermost one that holds all its files; a file that holds all frames and was given is its own.
        uid: Series Instance UID.
        number: Series Number, or None.
        description: Series Description, or Protocol Name; may be empty.
        files: its files, sorted.
        part: what this stack is among those of its series; empty if it is the only one.
        frames: in no order; none where their headers cannot be used.
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
    files: tuple[Path, ...]
    part: str = ""
    frames: tuple[Frame, ...] = ()
    unfit: str | None = None
    problem: VolumeError | None = None
    announced: int | None = None
    mosaic: bool = False
    position: int | None = None
    name: str = ""
    address: Path = Path()

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
        if len(self.frames) > len(files):
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
        lost: all files that cannot be read, of series or not; their problems name them.
        files: all that there is, but what is hidden; empty for a file of many frames.
    """

    series: list[DicomSeries]
    unfit: list[DicomSeries]
    left_out: list[LeftOut]
    broken: dict[Path, VolumeError]
    lost: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()

    def told(self) -> list[LeftOut]:
        """Give all that is no scan, with its reason."""
        return [
            LeftOut(series.files, f"{series.label}: {series.unfit}", series=True) for series in self.unfit
        ] + self.left_out


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
        found = meant(listing.series, where)
    elif listing.broken:
        raise next(iter(listing.broken.values()))
    elif listing.unfit:
        if len(listing.unfit) == 1 and listing.unfit[0].unfit == SINGLE:
            return listing.unfit[0]  # whose reader says what is wrong with it
        reasons = listed([f"{one.label} is {one.unfit}" for one in listing.unfit], _LISTED, "; ")
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


def meant(scans: Iterable[DicomSeries], folder: Path) -> list[DicomSeries]:
    """Give the scans that a folder stands for: those with a file directly in it, else those below it."""
    below = [one for one in scans if one.folder == folder or folder in one.folder.parents]
    return [one for one in below if any(file.parent == folder for file in one.files)] or below


def _list(series: Sequence[DicomSeries]) -> str:
    """List series for a sentence; the UID tells those of one label apart."""
    labels = [one.label for one in series]
    texts = [one.describe() + (f", UID {one.uid}" if labels.count(one.label) > 1 else "") for one in series]
    return listed(texts, _LISTED, "; ")
