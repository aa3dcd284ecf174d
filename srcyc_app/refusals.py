"""Requests that are refused: an HTTP status for the network, one sentence for whoever reads it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fastapi import HTTPException
from pydantic import ValidationError

from srcyc.errors import InputError, SRCycError
from srcyc.inference.options import first_problem
from srcyc.schema import Schema

#: What a system says of a disk that is full, a file that is as large as it may be, and a quota that is used up.
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
#: Without a path: where the server keeps its files is none of the client's business.
DISK_FULL = "the server's disk is full; free some space there and try again."
#: Characters of a value that is shown back.
_SHOWN = 200

#: What options of the library are called in a request, where they have no parameter of their name.
_NAMES = {
    "set": "settings:",
    "resume": "run: continue",
    "lr": "the thick-slice scans of the studies",
    "hr": "the thin-slice scans of the studies",
    "pacs_login": "--pacs-login",
}

Wanted = TypeVar("Wanted", bound=Schema)


class Refusal(HTTPException, InputError):
    """A request that cannot be met; MONAI Label's server passes status and sentence on, scripts show the sentence.

    Args:
        status: HTTP status, 4xx; 5xx where the server is to blame and the client can do something.
        sentence: names what was asked for, what is wrong with it, and what to do.
        retry_after: seconds after which it may be sent again.
    """

    def __init__(self, status: int, sentence: str, *, retry_after: int | None = None) -> None:
        InputError.__init__(self, sentence)
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        HTTPException.__init__(self, status_code=status, detail=sentence, headers=headers)

    def __str__(self) -> str:
        return str(self.detail)


def not_found(sentence: str) -> Refusal:
    """404: there is no such thing."""
    return Refusal(404, sentence)


def forbidden(sentence: str) -> Refusal:
    """403: not on this server."""
    return Refusal(403, sentence)


def conflict(sentence: str) -> Refusal:
    """409: not as things stand now."""
    return Refusal(409, sentence)


def unusable(sentence: str) -> Refusal:
    """422: what was sent cannot be used."""
    return Refusal(422, sentence)


def worded(error: SRCycError) -> str:
    """Give the sentence of an error in the words of a request."""
    return error.worded(lambda option: _NAMES.get(option, option))


def is_full(error: BaseException | None) -> bool:
    """Tell whether a full disk is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


@contextmanager
def refusing(path: Path | None = None, shown: str | None = None) -> Iterator[None]:
    """Turn the library's complaints about input into refusals (422), and those about a full disk (507).

    Args:
        path: a file that its sentences name.
        shown: how the client knows that file; where it lies on the server is none of the client's business.
    """
    try:
        yield
    except Refusal:
        raise
    except InputError as error:
        if is_full(error):
            raise Refusal(507, DISK_FULL) from error
        sentence = worded(error)
        if path is not None and shown is not None:
            sentence = sentence.replace(str(path), shown)
        raise unusable(sentence) from error


def validated(schema: type[Wanted], values: Mapping[str, Any]) -> Wanted:
    """Make a schema of what a client sent.

    Raises:
        Refusal: 422, names the first key that is wrong, its value, and why.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        key, reason = first_problem(error)
        raise unusable(f"{key} {str(values.get(key))[:_SHOWN]!r}: {reason}.") from error
