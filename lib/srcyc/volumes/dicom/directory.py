"""A DICOMDIR, the index of a medium: which of the files that it lists are not there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.files import brief

_LARGEST = 64 * 2**20
#: Preamble, mark, and the element that says how long the file meta information behind it is.
_META_START = 128 + 4 + 12


def missing_images(index: Path, present: Iterable[Path]) -> list[Path]:
    """Give the images that an index lists and that are not among the files present, as paths.

    Media spell names in another case, or with a version behind them, than the index does.

    Raises:
        VolumeError: it cannot be read.
    """
    there = {
        _spelled(file.relative_to(index.parent).parts) for file in present if index.parent in file.parents
    }
    try:
        if index.stat().st_size > _LARGEST:
            raise ValueError("too large")
        with index.open("rb") as stream:
            head = stream.read(_META_START)
            stream.seek(_META_START + int.from_bytes(head[-4:], "little"))
            # The standard leaves the encoding no choice; pydicom's own class for these files is about to go.
            records = (
                read_dataset(stream, is_implicit_VR=False, is_little_endian=True).get(
                    "DirectoryRecordSequence"
                )
                or ()
            )
        listed = [_parts(record) for record in records if record.get("DirectoryRecordType") == "IMAGE"]
    except Exception as error:  # pydicom lets whatever a damaged file causes escape
        raise VolumeError(
            f"{index}: the index of the medium cannot be read ({brief(error)})", remedy="take it out"
        ) from error
    return [index.parent.joinpath(*parts) for parts in listed if parts and _spelled(parts) not in there]


def _parts(record: Dataset) -> tuple[str, ...]:
    """Give the components of a record's file name."""
    name = record.get("ReferencedFileID") or ()
    parts = (name,) if isinstance(name, str) else tuple(str(part) for part in name)
    return () if any(part in ("", ".", "..") or "/" in part for part in parts) else parts


def _spelled(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(part.split(";")[0].rstrip(".").casefold() for part in parts)
