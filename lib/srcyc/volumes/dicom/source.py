"""The images that a scan was read from, with their whole headers: what a derived series is written with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from srcyc.errors import OutputError
from srcyc.volumes.dicom.attributes import flattened, quietly
from srcyc.volumes.dicom.files import read_whole_header, whole_or_none
from srcyc.volumes.dicom.frames import Frame
from srcyc.volumes.dicom.listing import list_series
from srcyc.volumes.dicom.series import DicomSeries
from srcyc.volumes.dicom.stack import in_order

if TYPE_CHECKING:
    from srcyc.volumes.volume import Volume

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
#: Of which a derived MR series can be made: the two, and the legacy converted enhanced one.
MR_CLASSES = (MR_IMAGE, ENHANCED_MR_IMAGE, "1.2.840.10008.5.1.4.1.1.4.4")


@dataclass(frozen=True, eq=False)
class DicomSource:
    """The frames of one scan, sorted along their normal.

    Attributes:
        frames: as the reader sees them.
        headers: of each, as a classic image would have it; without pixels.
    """

    frames: tuple[Frame, ...]
    headers: tuple[Dataset, ...]

    @classmethod
    def of(cls, scan: Volume) -> DicomSource:
        """Read the headers of the files that a scan was read from, which must still be there.

        Raises:
            OutputError: it comes from no DICOM series, from no MR images, or these tell no study.
            VolumeError: they cannot be read any more.
        """
        name = scan.name
        if scan.series is None or not scan.files or scan.source is None:
            raise OutputError(
                f"{name}: no DICOM series, there is no patient and no study that a derived one could belong to",
                remedy="write another format, or give the DICOM series itself",
            )
        series = _series_of(scan, scan.source)
        whole = {file: read_whole_header(file) for file in series.files}
        with disable_value_validation(), quietly():
            frames = tuple(in_order(series.frames))
            headers = tuple(flattened(whole[frame.file], frame.index) for frame in frames)
        first = headers[0]
        if str(first.get("SOPClassUID")) not in MR_CLASSES:
            kind = getattr(first.get("SOPClassUID"), "name", "of no kind")
            raise OutputError(f"{name}: no MR images ({kind})", remedy="write another format")
        if not first.get("StudyInstanceUID"):
            raise OutputError(f"{name}: its images name no study", remedy="write another format")
        return cls(frames, headers)

    @property
    def first(self) -> Dataset:
        """The header that speaks for the series: that of its first instance by number."""
        return min(self.headers, key=_instance_number)

    @property
    def ascending(self) -> bool:
        """Whether instance numbers grow along the normal."""
        if self.frames[0].enhanced and len({frame.file for frame in self.frames}) == 1:
            return self.frames[0].index <= self.frames[-1].index
        return _instance_number(self.headers[0]) <= _instance_number(self.headers[-1])

    @property
    def padding(self) -> float | None:
        """The value, rescaled, that means "no pixel here" in all frames; None: there is none, or several."""
        found = {(frame.padding, frame.rescale) for frame in self.frames}
        padding, (slope, intercept) = found.pop()
        if found or padding is None or padding[0] != padding[1]:
            return None
        return padding[0] * slope + intercept

    def nearest(self, position: npt.NDArray[np.float64]) -> Dataset:
        """Give the header of the frame nearest to a place ``(3,)``, LPS mm, along the normal."""
        normal = self.frames[0].normal
        return self.headers[np.argmin([abs((frame.position - position) @ normal) for frame in self.frames])]


def _series_of(scan: Volume, source: Path) -> DicomSeries:
    """Find the stack that a scan is.

    Raises:
        OutputError: it is not there any more, or several are alike.
    """
    # Its folder, its file of many frames, or what its address lies in.
    listing = list_series(next(place for place in (source, *source.parents) if place.exists()))
    alike = [
        one
        for one in (*listing.series, *listing.unfit)
        if one.uid == scan.series and one.files == scan.files and one.problem is None
    ]
    found = [one for one in alike if len(alike) == 1 or source in (one.address, one.folder / one.name)]
    if not found:
        what = "hold several stacks" if alike else "are not where they were"
        raise OutputError(
            f"{source}: the files of its series {what}", remedy="read the scan again, by its address"
        )
    return found[0]


def _instance_number(header: Dataset) -> int:
    return whole_or_none(header, "InstanceNumber") or 0
