"""What is asked of a DICOMweb server, and what it tells of its series."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from srcyc.errors import ConfigError

#: Series that one question is about.
MOST_SERIES = 1000
#: What is asked of a series, by DICOM's names and numbers.
FIELDS = {
    "SeriesInstanceUID": "0020000E",
    "StudyInstanceUID": "0020000D",
    "Modality": "00080060",
    "PatientID": "00100020",
    "StudyDate": "00080020",
    "StudyTime": "00080030",
    "SeriesDescription": "0008103E",
    "SeriesNumber": "00200011",
    "NumberOfSeriesRelatedInstances": "00201209",
}
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_DATE = re.compile(r"\d{8}(-(\d{8})?)?|-\d{8}")
_ISO_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")


@dataclass(frozen=True)
class Search:
    """Which series are wanted.

    Attributes:
        patient: a patient's ID or name; ``*`` stands for any letters.
        date: of the study, ``YYYYMMDD``, or from-to as ``YYYYMMDD-YYYYMMDD``.
        description: a part of the series' description, in any case.
        limit: series at most.
        offset: series to leave out.
    """

    patient: str = ""
    date: str = ""
    description: str = ""
    limit: int = 200
    offset: int = 0

    @classmethod
    def of(cls, patient: str, date: str, description: str, limit: int, offset: int) -> Search:
        """Check what somebody asks for.

        Raises:
            ConfigError: nothing that could be searched for.
        """
        for name, text in (("patient", patient), ("description", description)):
            if len(text) > 64 or "\\" in text or not text.isprintable():
                raise ConfigError(
                    f"{name} {text[:30]!r}: no such text",
                    remedy="give at most 64 letters, none of them a backslash",
                )
        date = _ISO_DATE.sub(r"\1\2\3", date.strip())
        if date and not _DATE.fullmatch(date):
            raise ConfigError(
                f"date {date[:30]!r}: no date",
                remedy="give YYYYMMDD, or the first and the last day as YYYYMMDD-YYYYMMDD",
            )
        return cls(patient.strip(), date, description.strip(), limit, offset)


@dataclass(frozen=True)
class RemoteSeries:
    """A series as its server tells of it.

    Attributes:
        study: Study Instance UID.
        uid: Series Instance UID.
        instances: how many it has; None: not told.
        told: more of it, by DICOM's names.
    """

    study: str
    uid: str
    instances: int | None
    told: Mapping[str, str] = field(compare=False)

    @classmethod
    def of(cls, told: Mapping[str, Any], study: str | None = None) -> RemoteSeries | None:
        """Read what a server tells of a series; None if it is nothing that could be asked for.

        Args:
            told: DICOM JSON.
            study: whose it is, where it was asked for by that.
        """
        texts = {name: _text(told.get(tag)) for name, tag in FIELDS.items()}
        texts["StudyInstanceUID"] = texts["StudyInstanceUID"] or study or ""
        if not is_uid(texts["SeriesInstanceUID"]) or not is_uid(texts["StudyInstanceUID"]):
            return None
        count = texts.pop("NumberOfSeriesRelatedInstances")
        instances = int(count) if count.isascii() and count.isdigit() else None
        return cls(texts["StudyInstanceUID"], texts["SeriesInstanceUID"], instances, texts)


def is_uid(text: str) -> bool:
    """Tell whether a text is a UID."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _text(element: Any) -> str:
    values = element.get("Value") if isinstance(element, Mapping) else None
    first = values[0] if isinstance(values, list) and values else ""
    return str(first)[:200] if isinstance(first, str | int | float) else ""
