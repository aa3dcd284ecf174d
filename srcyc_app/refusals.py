"""Requests that are refused: an HTTP status for the network, one sentence for whoever reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fastapi import HTTPException
from pydantic import ValidationError

from srcyc.errors import InputError, SRCycError
from srcyc.files import is_full
from srcyc.inference.options import first_problem
from srcyc.schema import Schema

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


def validated(
    schema: type[Wanted], request: Mapping[str, Any], whole: Callable[[str, Any], bool] = lambda *_: False
) -> Wanted:
    """Make a schema of what a client sent; what is no field of it is left to others.

    The stock client sends lists of choices back as they are, Slicer the item chosen: of a list the first item counts.

    Args:
        schema: what may be sent.
        request: what was.
        whole: tells of key and list whether all of it counts.

    Raises:
        Refusal: 422, names the first key that is wrong, its value, and why.
    """
    known = {}
    for key in schema.model_fields:
        value = request.get(key)
        if isinstance(value, list | tuple) and not whole(key, value):
            value = value[0] if value else None
        if value is not None:
            known[key] = value
    try:
        return schema.model_validate(known)
    except ValidationError as error:
        key, reason = first_problem(error)
        raise unusable(f"{key} {str(known.get(key))[:_SHOWN]!r}: {reason}.") from error
