"""What clients send: JSON that can be kept and sent back, and files under names that are safe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile

from srcyc.documents import checked_json
from srcyc_app.refusals import unusable
from srcyc_app.studies import identifiers
from srcyc_app.studies.archives import Names, unpack_scan


def read_object(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object from a form field; an empty field is an empty object.

    Raises:
        Refusal: 422: something else.
    """
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise unusable(
            f'{what}: not JSON ({str(error)[:100]}); send an object such as {{"key": "value"}}.'
        ) from error
    return check_object(value, what)


def check_object(value: Any, what: str, longest: int | None = None) -> dict[str, Any]:
    """Give a JSON object back if it can be written, kept and sent: finite numbers, whole characters.

    Args:
        value: as it was parsed; None is an empty object.
        what: how the sentence calls it.
        longest: most characters of its text.

    Raises:
        Refusal: 422.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise unusable(f'{what}: not a JSON object; send one such as {{"key": "value"}}.')
    try:
        text = checked_json(value)
    except ValueError as error:
        raise unusable(
            f"{what}: holds a number that is not finite, a broken character, or too much nesting; leave it out."
        ) from error
    if longest is not None and len(text) > longest:
        raise unusable(f"{what}: {len(text)} characters of JSON, at most {longest} are taken; send less.")
    return value


def first(value: Any) -> Any:
    """Give the first of a list's items: the stock client sends the lists of ``config`` back as they are."""
    if isinstance(value, list):
        return value[0] if value else None
    return value


def plain_name(upload: UploadFile) -> str:
    """Give the file name of an upload without its folders; a name that no file should have becomes a safe one."""
    return identifiers.plain_name((upload.filename or "").replace("\\", "/").split("/")[-1].strip())


def save(upload: UploadFile, folder: Path, name: str | None = None) -> Path:
    """Write an upload into a folder under its own plain name, or another.

    Raises:
        OSError: the disk is full.
    """
    path = folder / (name or plain_name(upload))
    with path.open("xb") as stream:
        shutil.copyfileobj(upload.file, stream, 1 << 20)
    return path


def save_all(uploads: Sequence[UploadFile], folder: Path) -> Path:
    """Write uploads into a folder; several of the same name get a number.

    Returns:
        the file if there is one only, else the folder.

    Raises:
        OSError: the disk is full.
    """
    if len(uploads) == 1:
        return save(uploads[0], folder)
    names = Names()
    for upload in uploads:
        save(upload, folder, names.give(plain_name(upload)))
    return folder


def unpacked(path: Path, max_bytes: int) -> Path:
    """Give the scan that a file is, or that an archive holds: a volume, or the folder of a DICOM series.

    Raises:
        Refusal: 422: an archive that cannot be unpacked, or unpacks to more than ``max_bytes``.
    """
    if path.suffix.lower() != ".zip":
        return path
    scan = unpack_scan(path, path.parent / "unpacked" / path.stem, max_bytes)
    path.unlink()
    return scan
