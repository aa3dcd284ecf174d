"""Which images are no scan: localizers, captures, segmentations, maps, projections, phases."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydicom.dataset import Dataset

from srcyc.volumes.dicom.frames import Frame

_NO_SCANS = {  # SOP classes, by the beginnings of their UIDs
    "1.2.840.10008.5.1.4.1.1.7": "a secondary capture",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.481": "of radiotherapy",
}
_MODALITIES = {"SEG": "a segmentation", "RTDOSE": "of radiotherapy", "PR": "a presentation state"}
_LOCALIZER = re.compile(
    r"\b(localizers?|localisers?|scouts?|surveys?|loc|3[- ]?(plane|pl)([- ]?loc)?)\b", re.I
)
_MAPS = {
    "ADC", "EADC", "FA", "COLFA", "TENSOR", "CBV", "RCBV", "CBF", "RCBF", "MTT", "RMTT", "TTP", "TMAX", "PBP", "GBP",
    "KTRANS", "SUBTRACTION", "VELOCITY",
}  # fmt: skip
_PROJECTIONS = {"MIP", "MINIP", "MNIP", "PROJECTION IMAGE", "PROJECTION"}
_CAPTURES = {"SCREEN SAVE", "SCREENSAVE", "SCREENSHOT", "POSDISP", "CSA REPORT", "REPORT"}


#: A slice in colour among others is a damaged series; whole series of such are maps.
COLOUR = "in colour"


def why_no_scan(header: Dataset) -> str | None:
    """Say why an image is no slice of a scan, a clause; None: it may be one."""
    uid = str(header.get("SOPClassUID", ""))
    for beginning, reason in _NO_SCANS.items():
        if uid == beginning or uid.startswith(beginning + "."):
            return reason
    modality = str(header.get("Modality", ""))
    if modality in _MODALITIES:
        return _MODALITIES[modality]
    if str(header.get("SamplesPerPixel", 1) or 1) != "1":
        return COLOUR
    tokens = image_type(header)
    description = plain_text(header.get("SeriesDescription")).replace("_", " ")
    if "LOCALIZER" in tokens or _LOCALIZER.search(description):
        return "a localizer"
    if tokens & _CAPTURES:
        return "a screen capture"
    if tokens & _PROJECTIONS:
        return "a projection"
    if tokens & _MAPS or any(re.search(r"(^|[ _])MAP$", token) for token in tokens):
        return "a derived map"
    return None


def why_phase(frames: Iterable[Frame]) -> str | None:
    """Say that all frames are phase or imaginary images."""
    kinds = {token for frame in frames for token in (frame.traits.get("image type", "") or "-").split()[:1]}
    return "a phase image" if kinds and kinds <= {"P", "PHASE", "I", "IMAGINARY"} else None


def image_type(header: Dataset) -> set[str]:
    """Give what follows the first two values of Image Type, in upper case."""
    value = header.get("ImageType") or []
    values = [value] if isinstance(value, str) else list(value)
    return {str(token).strip().upper() for token in values[2:]}


def plain_text(value: object) -> str:
    """Give a value as one line, empty where it is missing."""
    return re.sub(r"\s+", " ", str(value or "")).strip()
