"""What a name from the network may be. Ids and tags become parts of paths, so each is one plain path component."""

from __future__ import annotations

import re
import unicodedata
from importlib.machinery import all_suffixes
from pathlib import Path

from srcyc.volumes.image_files import volume_suffix
from srcyc_app.refusals import unusable

#: Key of an image's info and of a session's: who sent it.
OWNER = "added_by"
_LONGEST = 200
_SESSION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_REQUEST = re.compile(r"[A-Za-z0-9-]{8,64}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
#: Separators, what Windows keeps for itself, and what a shell or a log would stumble over.
_FORBIDDEN = frozenset('/\\:*?"<>|')
_PROGRAMS = (*all_suffixes(), ".pyd", ".pth", ".pyw", ".egg")
#: Names of devices on Windows, with whatever suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_plain_component(text: str) -> bool:
    """Tell whether a text can be a file name anywhere: no separator, no leading dot, nothing invisible."""
    return (
        0 < len(text.encode("utf-8", "replace")) <= _LONGEST
        and not text.startswith(".")
        and text == text.strip()
        and not text.endswith(".")
        and not _DEVICES.fullmatch(text)
        and not any(char in _FORBIDDEN or unicodedata.category(char).startswith("C") for char in text)
    )


def plain_name(name: str) -> str:
    """Give a file's name; of one that no file should have, a safe one with the same suffix."""
    if is_plain_component(name):
        return name
    suffix = ".zip" if name.lower().endswith(".zip") else volume_suffix(Path(name)) or ""
    return f"scan{suffix}"


def check_image_id(text: str) -> str:
    """Give an image id back if it is one.

    Raises:
        Refusal: 422.
    """
    return _checked(text, is_plain_component(text), "image id")


def check_tag(text: str) -> str:
    """Give a label tag back if it is one.

    Raises:
        Refusal: 422.
    """
    return _checked(text, is_plain_component(text), "label tag")


def check_name(text: str, what: str = "name") -> str:
    """Give the name of a model or a training run back if it is one: letters, digits, ``.``, ``_``, ``-``.

    Raises:
        Refusal: 422.
    """
    return _checked(text, bool(_NAME.fullmatch(text)) and is_plain_component(text), what)


def check_request_id(text: str) -> str:
    """Give the id that a client chose for its request back if it is one.

    Raises:
        Refusal: 422.
    """
    return _checked(text, bool(_REQUEST.fullmatch(text)), "request id")


def is_session_id(text: str) -> bool:
    """Tell whether a text is a session id (a UUID)."""
    return bool(_SESSION.fullmatch(text))


def is_program(name: str) -> bool:
    """Tell whether Python would run a file of this name if it found it among its modules."""
    return name.lower().endswith(_PROGRAMS)


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path, links followed, lies in a folder."""
    return path.resolve().is_relative_to(folder.resolve())


def _checked(text: str, fine: bool, what: str) -> str:
    if not fine:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise unusable(
            f"{what} {shown!r}: give a plain name without separators, leading dots or control characters."
        )
    return text
