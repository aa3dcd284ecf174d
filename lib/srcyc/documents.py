"""JSON: the one way it is written, shown and read.

Python's own encoder writes numbers that JSON does not have (NaN, Infinity), its decoder takes them; both go through
here instead, where they are null. orjson does the same, but refuses file names that are no UTF-8. What processes of
ours tell one another, and what a client sends before it is checked, does not go through here: it is taken exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from srcyc.files import write_text


def as_json(value: Any) -> Any:
    """Give a value as JSON can hold it: NumPy's and PyTorch's numbers as numbers, what is no number as null."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    return str(value)


def json_text(
    document: Any,
    *,
    indent: int | None = 2,
    broken: Literal["backslashreplace", "replace"] = "backslashreplace",
) -> str:
    """Give a document as people read it, with one line feed at its end.

    Args:
        document: see :func:`as_json`.
        indent: of each level; None: all in one line.
        broken: what becomes of half characters (of names that are no UTF-8): JSON's escapes, from which they can be
            read again, or question marks.
    """
    text = json.dumps(as_json(document), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", broken).decode() + "\n"


def json_line(document: Any) -> str:
    """Give a document in one line of ASCII, as programs read it."""
    return json.dumps(as_json(document), allow_nan=False)


def write_json(path: Path, document: Any) -> Path:
    """Write a document, complete or not at all.

    Raises:
        OutputError: see :func:`srcyc.files.written`.
    """
    return write_text(path, json_text(document))


def json_object(text: str | bytes) -> dict[str, Any]:
    """Read an object; numbers that are none, or beyond all bounds, are None.

    Raises:
        ValueError: not JSON, not an object, or nested too deep.
    """
    try:
        document = json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_number)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document


def read_json(path: Path) -> dict[str, Any]:
    """Read a file with an object.

    Raises:
        OSError: it cannot be read.
        ValueError: see :func:`json_object`.
    """
    return json_object(path.read_bytes())


def known(path: Path) -> dict[str, Any]:
    """Give what a file with an object says; nothing if there is none that can be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def checked_json(value: Any) -> str:
    """Write a value that somebody else sent, in one line, exactly.

    Raises:
        ValueError: JSON cannot hold it: a number that is not finite, half a character, another type, too much nesting.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return text


def _number(text: str) -> int | float | None:
    value = float(text)
    if not math.isfinite(value):
        return None
    return int(text) if text.lstrip("-").isdigit() else value
