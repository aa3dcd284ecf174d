"""Write a volume as a DICOM series that is derived from the one it was made of.

With pydicom, which every installation has: highdicom has no writer of MR images, and its current releases need
pydicom 3, where MONAI Label holds 2.
"""

from __future__ import annotations

import hashlib
import math
import os
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from srcyc.errors import OutputError, VolumeError
from srcyc.files import publish, staging, synchronise, writing
from srcyc.volumes.dicom.attributes import OF_IMAGE, OF_SERIES, OF_WINDOW, REQUIRED, code, item, quietly, take
from srcyc.volumes.dicom.enhanced import enhanced
from srcyc.volumes.dicom.files import read_whole_header, whole_or_none
from srcyc.volumes.dicom.reader import files_of
from srcyc.volumes.dicom.source import MR_IMAGE, DicomSource
from srcyc.volumes.formats.raw import LPS_TO_RAS, Origin

if TYPE_CHECKING:
    from srcyc.volumes.volume import Volume

#: Who made a series, as Contributing Equipment says it.
MANUFACTURER = "SRCyc"
#: Ends a Series Description; a reader sees that in every list of series.
_ENDING = "(not for diagnostic use) SRCyc"
_LONGEST_DESCRIPTION, _LONGEST_TEXT = 64, 1024
#: Volume and maps of one scan get the numbers behind a hundred times its own.
_NUMBERS = {"volume": 1, "uncertainty": 2, "correction": 3}
_LARGEST_NUMBER = 2**31 - 1
_MOST = 2**16 - 1
#: Share of a volume's values that a window made up for it leaves out on either side.
_OUTSIDE_WINDOW = 0.005


@dataclass(frozen=True)
class SeriesWritten:
    """A series that was written.

    Attributes:
        folder: that holds its files and nothing else.
        files: in the order of their instance numbers.
        study: Study Instance UID.
        series: Series Instance UID.
        slope: distance of two stored values: what is read back is within half of it.
    """

    folder: Path
    files: tuple[Path, ...]
    study: str
    series: str
    slope: float


def write_dicom_series(
    volume: Volume,
    folder: Path,
    scan: Volume | DicomSource,
    *,
    origin: Origin,
    stable: bool = False,
    whole: bool = False,
    multi_frame: bool = False,
    overwrite: bool = False,
) -> SeriesWritten:
    """Write a volume as classic MR images, one file for each plane of its last axis, or as one enhanced image.

    Patient, study, frame of reference, equipment and acquisition are those of the scan, of each image those of the
    nearest slice; series and instances are new. Values are stored in 16 bits with a rescale that uses all of them.

    Args:
        volume: ``(1, I, J, K)``, made of the scan; NaN becomes Pixel Padding Value.
        folder: where the files go; it appears when it is complete.
        scan: read from a DICOM series whose files are still there, or its headers, read before.
        origin: how the volume was made: ``software``, ``content`` (volume, or which map), ``model``, ``model_sha256``
            and ``note`` of its fields.
        stable: UIDs follow from the scan, the model and the values, so that the same result is the same series each
            time it is written; False: new ones each time.
        whole: store whole numbers in the scan's unit, without a rescale.
        multi_frame: write an enhanced MR image.
        overwrite: replace the folder if it is there.

    Raises:
        OutputError: a scan that was read from no MR series; values that do not fit; a place that cannot be written
            or holds something.
    """
    from srcyc.volumes.volume import Volume

    source = DicomSource.of(scan) if isinstance(scan, Volume) else scan
    require_free(folder, overwrite=overwrite)
    if volume.data.shape[0] != 1:
        raise OutputError(
            f"{folder}: the volume has {volume.data.shape[0]} channels", remedy="write them one by one"
        )
    planes = _Planes.of(volume, source, folder, whole=whole)
    identity = _Identity.of(source, planes, origin, stable=stable, multi_frame=multi_frame)
    with disable_value_validation(), quietly(), staging(folder.parent, folder.name) as room:
        images = room / folder.name
        images.mkdir()
        common = _common(source, planes, origin, identity)
        names = []
        if multi_frame:
            made = iter([_frames(common, source, planes, origin, identity)])
        else:
            numbers = range(1, planes.count + 1)
            made = (_image(common, source, planes, origin, identity, number) for number in numbers)
        for number, image in enumerate(made, 1):
            file = images / f"{number:04d}.dcm"
            _write(image, file, folder)
            names.append(folder / file.name)
        publish([images], folder.parent)
    return SeriesWritten(folder, tuple(names), str(common.StudyInstanceUID), identity.series, planes.slope)


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a place where something is; what may be replaced is a series of ours, and nothing else.

    Raises:
        OutputError: something is there.
    """
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise OutputError(f"{folder}: already exists", remedy="choose another name or allow overwriting")
    try:
        files = list(folder.iterdir())
        ours = all(file.is_file() and is_derived(read_whole_header(file)) for file in files)
    except (OSError, VolumeError):
        ours = False
    if not ours:
        raise OutputError(
            f"{folder}: holds something else than a series made by srcyc", remedy="choose another name"
        )


def is_derived(header: Dataset) -> bool:
    """Tell whether an image says that SRCyc made it."""
    return any(
        str(item.get("Manufacturer", "")) == MANUFACTURER
        for item in header.get("ContributingEquipmentSequence") or ()
    )


def made_by_srcyc(path: Path) -> bool:
    """Tell whether SRCyc made a series, by its first file; what cannot be read is nobody's."""
    try:
        return is_derived(read_whole_header(files_of(path)[0]))
    except (OSError, VolumeError):
        return False


@dataclass(frozen=True, eq=False)
class _Planes:
    """A volume as it is stored.

    Attributes:
        stored: ``(planes, rows, columns)`` 16-bit integers, lowest byte first, in the order of instance numbers.
        positions: ``(planes, 3)`` centres of the first pixels, LPS mm.
        directions: ``(3, 3)``, columns: in which indices along the volume's axes grow, LPS.
        steps: mm between voxels along them.
        slope, intercept: from stored values to the volume's, as the header's text has them.
        padding: stored value that means "no pixel here", or None.
        window: centre and width that show the volume.
    """

    stored: npt.NDArray[Any]
    positions: npt.NDArray[np.float64]
    directions: npt.NDArray[np.float64]
    steps: npt.NDArray[np.float64]
    slope: float
    intercept: float
    padding: int | None
    window: tuple[float, float]

    @property
    def count(self) -> int:
        return len(self.positions)

    @classmethod
    def of(cls, volume: Volume, source: DicomSource, folder: Path, *, whole: bool) -> _Planes:
        data = volume.data[0]
        known = np.isfinite(data)
        lps = LPS_TO_RAS @ volume.affine
        steps = np.linalg.norm(lps[:3, :3], axis=0)
        directions = lps[:3, :3] / steps
        indices = np.arange(data.shape[2])
        # Instance numbers run as the scan's do, whichever way the volume's last axis runs.
        if (float(directions[:, 2] @ source.frames[0].normal) > 0) != source.ascending:
            indices = indices[::-1]
        positions = lps[:3, 3] + indices[:, None] * lps[:3, 2]
        slope, intercept, kind = _rescale(data[known], folder, whole=whole, all_known=bool(known.all()))
        limits = np.iinfo(kind)
        stored = np.rint((np.where(known, data, intercept).astype(np.float64) - intercept) / slope)
        stored = np.clip(stored, limits.min, limits.max).astype(kind)
        if known.all():
            padding = _padding(data, stored, source.padding, slope, intercept)
        else:
            padding = 0
            stored[~known] = 0
        return cls(
            stored.transpose(2, 1, 0)[indices],
            positions,
            directions,
            steps,
            slope,
            intercept,
            padding,
            _window(data[known]),
        )


def _rescale(
    data: npt.NDArray[np.float32], folder: Path, *, whole: bool, all_known: bool
) -> tuple[float, float, np.dtype[Any]]:
    """Give slope, intercept and integer type that use all of 16 bits, and in which 0 is a stored value.

    Where some voxels have no value, the stored 0 is theirs alone.

    Raises:
        OutputError: whole numbers that are too large.
    """
    low, high = min(float(data.min(initial=0)), 0.0), max(float(data.max(initial=0)), 0.0)
    if whole and all_known:
        kind = np.dtype("<i2" if low < 0 else "<u2")
        limits = np.iinfo(kind)
        if not limits.min <= round(low) <= round(high) <= limits.max:
            raise OutputError(
                f"{folder}: values of {low:g} to {high:g} are beyond whole numbers of 16 bits",
                remedy="let them be scaled",
            )
        return 1.0, 0.0, kind
    # Some steps are left, for what the rounding of the header's texts may cost, and for voxels without a value.
    slope = float(format_number_as_ds((high - low) / (_MOST - 4))) if high > low else 1.0
    below = math.ceil(-low / slope) + (0 if all_known else 1)
    return slope, float(format_number_as_ds(-below * slope)) if below else 0.0, np.dtype("<u2")


def _padding(
    data: npt.NDArray[np.float32],
    stored: npt.NDArray[Any],
    value: float | None,
    slope: float,
    intercept: float,
) -> int | None:
    """Give what the scan's padding is stored as, where that is told from all else."""
    if value is None:
        return None
    there = data == np.float32(value)
    found = round((value - intercept) / slope)
    return found if there.any() and not (stored[~there] == found).any() else None


def _window(data: npt.NDArray[np.float32]) -> tuple[float, float]:
    inside = data[data != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.quantile(inside, (_OUTSIDE_WINDOW, 1 - _OUTSIDE_WINDOW)))
    low = min(low, 0.0) if low < 0.1 * high else low
    return (low + high) / 2, max(high - low, 1e-6)


@dataclass(frozen=True)
class _Identity:
    """What tells a series from all others, and when it was made.

    Attributes:
        series: Series Instance UID.
        made: None for a series that is the same each time it is made.
    """

    series: str
    made: datetime | None

    @classmethod
    def of(
        cls, source: DicomSource, planes: _Planes, origin: Origin, *, stable: bool, multi_frame: bool
    ) -> _Identity:
        if not stable:
            return cls(_uid(uuid.uuid4().bytes), _now(source))
        digest = hashlib.sha256()
        for frame in source.frames:
            digest.update(f"{frame.instance}#{frame.index}\0".encode())
        for key in ("software", "content", "model_sha256"):
            digest.update(f"{origin.fields.get(key, '')}\0".encode())
        digest.update(b"frames" if multi_frame else b"")
        digest.update(repr((planes.positions.round(3).tolist(), planes.slope, planes.intercept)).encode())
        digest.update(planes.stored.tobytes())
        return cls(_uid(digest.digest()), None)

    def instance(self, number: int) -> str:
        return _uid(hashlib.sha256(f"{self.series}#{number}".encode()).digest())


def _uid(digest: bytes) -> str:
    """Give a UID of the root that needs no registration: that of UUIDs (PS3.5, B.2)."""
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def _now(source: DicomSource) -> datetime:
    """Give the time in the zone that the scan's own times are told in."""
    text = str(source.first.get("TimezoneOffsetFromUTC", "") or "")
    try:
        offset = timedelta(hours=int(text[:3]), minutes=int(text[0] + text[3:5]))
        return datetime.now(timezone(offset))
    except (ValueError, IndexError):
        return datetime.now()


def _common(source: DicomSource, planes: _Planes, origin: Origin, identity: _Identity) -> Dataset:
    """Give what all images of the series have in common."""
    image = Dataset()
    first, fields = source.first, origin.fields
    take(first, image, OF_SERIES)
    content = fields.get("content", "volume")
    image.Modality = "MR"
    image.SOPClassUID = MR_IMAGE
    image.SeriesInstanceUID = identity.series
    image.SeriesDescription = _described(first, content)
    image.SeriesNumber = _numbered(first, content)
    if identity.made is not None:
        image.SeriesDate, image.SeriesTime = f"{identity.made:%Y%m%d}", f"{identity.made:%H%M%S.%f}"
        image.InstanceCreationDate, image.InstanceCreationTime = image.SeriesDate, image.SeriesTime
        image.ContentDate, image.ContentTime = image.SeriesDate, image.SeriesTime
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER"] + (
        [] if content == "volume" else [f"{content.upper()} MAP"]
    )
    note = fields.get("note", "")
    model = f"model {fields.get('model', '')} (SHA-256 {fields.get('model_sha256', '')})"
    what = (
        "Super-resolved" if content == "volume" else f"{content.capitalize()} map of a super-resolved volume"
    )
    how = f"slices of {len(source.frames)} images brought to {planes.count} by {fields.get('software', '')}"
    image.DerivationDescription = f"{what}: {how}, {model}. {note}"[:_LONGEST_TEXT]
    image.DerivationCodeSequence = [code("113085", "Spatial resampling")]
    image.ImageComments = f"{what} by {MANUFACTURER}. {note}"
    image.SourceImageSequence = [
        _reference(frame.instance, str(header.SOPClassUID), frame.index + 1 if frame.enhanced else None)
        for frame, header in zip(source.frames, source.headers, strict=True)
    ]
    image.Rows, image.Columns = planes.stored.shape[1:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation = int(planes.stored.dtype.kind == "i")
    if planes.padding is not None:
        image.PixelPaddingValue = planes.padding
    image.RescaleSlope, image.RescaleIntercept = _number(planes.slope), _number(planes.intercept)
    image.RescaleType = "US"
    image.PixelSpacing = [_number(planes.steps[1]), _number(planes.steps[0])]
    image.SliceThickness = image.SpacingBetweenSlices = _number(planes.steps[2])
    image.ImageOrientationPatient = [_number(value) for value in planes.directions[:, :2].T.ravel()]
    return image


def _image(
    common: Dataset, source: DicomSource, planes: _Planes, origin: Origin, identity: _Identity, number: int
) -> Dataset:
    """Give one image, without its file meta information."""
    image = Dataset()
    image.update(common)
    position = planes.positions[number - 1]
    nearest = source.nearest(position)
    take(nearest, image, OF_IMAGE)
    # Everything of type 2 that the scan does not know: empty says just that.
    for keyword in REQUIRED:
        if keyword not in image:
            setattr(image, keyword, None)
    if "BodyPartExamined" not in image and "Laterality" not in image:
        image.Laterality = None  # whether the part is one of a pair is not known either
    image.SOPInstanceUID = identity.instance(number)
    image.InstanceNumber = number
    image.ImagePositionPatient = [_number(value) for value in position]
    image.SliceLocation = _number(float(position @ source.frames[0].normal))
    _show(image, nearest, planes, mapped=origin.fields.get("content", "volume") != "volume")
    image.ContributingEquipmentSequence = [
        *(image.get("ContributingEquipmentSequence") or ()),
        _equipment(origin, identity),
    ]
    image.PixelData = planes.stored[number - 1].tobytes()
    return image


def _frames(
    common: Dataset, source: DicomSource, planes: _Planes, origin: Origin, identity: _Identity
) -> Dataset:
    """Give the enhanced image that has all planes as its frames, without its file meta information."""
    shown = Dataset()
    _show(shown, source.first, planes, mapped=origin.fields.get("content", "volume") != "volume")
    first = [
        value[0] if isinstance(value, MultiValue) else value
        for value in (shown.WindowCenter, shown.WindowWidth)
    ]
    image = enhanced(
        common,
        source.first,
        [[_number(value) for value in position] for position in planes.positions],
        (_number(first[0]), _number(first[1])),
        instance=identity.instance(1),
        organisation=identity.instance(0),
    )
    image.ContributingEquipmentSequence = [_equipment(origin, identity)]
    image.PixelData = planes.stored.tobytes()
    return image


def _show(image: Dataset, nearest: Dataset, planes: _Planes, *, mapped: bool) -> None:
    """Give an image the scan's window, whose values mean the same; one of its own where there is none that shows."""
    if not mapped:
        take(nearest, image, OF_WINDOW)
        widths = image.get("WindowWidth")
        widths = [widths] if isinstance(widths, float | int | str) else list(widths or [])
        if widths and "WindowCenter" in image and all(float(width) >= 1 for width in widths):
            return
    for keyword in OF_WINDOW:
        if keyword in image:
            delattr(image, keyword)
    image.WindowCenter, image.WindowWidth = (_number(value) for value in planes.window)
    if planes.window[1] < 1:
        image.VOILUTFunction = "LINEAR_EXACT"  # the usual one has no widths below 1


def _equipment(origin: Origin, identity: _Identity) -> Dataset:
    fields = origin.fields
    model = f"model {fields.get('model', '')}, SHA-256 {fields.get('model_sha256', '')}"
    equipment = item(
        PurposeOfReferenceCodeSequence=[code("109102", "Processing Equipment")],
        Manufacturer=MANUFACTURER,
        ManufacturerModelName=fields.get("model", "")[:_LONGEST_DESCRIPTION],
        SoftwareVersions=fields.get("software", "")[:_LONGEST_DESCRIPTION],
        ContributionDescription=f"Super-resolution; {model}. {fields.get('note', '')}"[:_LONGEST_TEXT],
    )
    if identity.made is not None:
        equipment.ContributionDateTime = identity.made.strftime("%Y%m%d%H%M%S.%f%z")
    return equipment


def _reference(instance: str, kind: str, frame: int | None) -> Dataset:
    reference = item(
        ReferencedSOPClassUID=kind,
        ReferencedSOPInstanceUID=instance,
        PurposeOfReferenceCodeSequence=[code("121322", "Source image for image processing operation")],
    )
    if frame is not None:
        reference.ReferencedFrameNumber = frame
    return reference


def _described(first: Dataset, content: str) -> str:
    """Say in a list of series what this one is: the scan's description, and what no reader may miss."""
    text = str(first.get("SeriesDescription", "") or first.get("ProtocolName", "") or "").strip()
    ending = _ENDING if content == "volume" else f"{content} {_ENDING}"
    return f"{text[: _LONGEST_DESCRIPTION - 1 - len(ending)].rstrip()} {ending}".strip()


def _numbered(first: Dataset, content: str) -> int:
    behind = _NUMBERS.get(content, 9)
    number = 100 * abs(whole_or_none(first, "SeriesNumber") or 0) + behind
    return number if number <= _LARGEST_NUMBER else behind


def _number(value: float) -> str:
    return format_number_as_ds(float(value))


def _write(image: Dataset, file: Path, folder: Path) -> None:
    """Write one file, down to the disk.

    Raises:
        OutputError: the place is full or cannot be written, or a value of the scan's cannot be.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # pydicom counts
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = PYDICOM_IMPLEMENTATION_UID, "SRCYC"
    whole = FileDataset(str(file), image, preamble=bytes(128), file_meta=meta, is_implicit_VR=False)
    with writing(folder):
        pydicom.dcmwrite(str(file), whole)
        synchronise(file)
