"""Multipart bodies that are never held in memory: a form that is sent from disk, a reply that is read to disk."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from email.parser import BytesHeaderParser
from email.policy import HTTP
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK = 1 << 20
_MOST_HEADERS = 1 << 16
#: Of a part that is kept in memory.
_MOST_JSON = 1 << 26


class Malformed(Exception):
    """A reply that is not what it says, or ends too early."""


class Form:
    """A form with one file and a JSON field, in the shape that `requests` streams.

    Args:
        file: is read while it is sent.
        fields: name -> value, sent as JSON.
        sent: called with the share that is sent, from 0 to 1.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, file: Path, fields: dict[str, Any], sent: Callable[[float], None]) -> None:
        boundary = uuid.uuid4().hex
        name = re.sub(r'[\r\n"\\/]', "_", file.name)
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{json.dumps(value)}\r\n'
            for key, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._head = head.encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._file: BinaryIO = file.open("rb")
        self._size = len(self._head) + file.stat().st_size + len(self._tail)
        self._sent = sent

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        for block in chain([self._head], iter(lambda: self._file.read(_BLOCK), b""), [self._tail]):
            self._sent(done / self._size)
            yield block
            done += len(block)
        if done != self._size:
            raise OSError(f"{self._file.name}: became shorter or longer while it was sent.")
        self._sent(1.0)


class Reply:
    """Takes a multipart reply apart: JSON parts into :attr:`fields`, files into a folder.

    Args:
        content_type: the reply's header.
        folder: files are written into it, named like their part with the suffix that ``suffix`` gives.
        suffix: of the file name that the reply gives.

    Raises:
        Malformed: no multipart content type.
    """

    def __init__(self, content_type: str, folder: Path, suffix: Callable[[str], str]) -> None:
        boundary = _headers(f"Content-Type: {content_type}\r\n\r\n".encode()).get_boundary()
        if not boundary:
            raise Malformed(f"{content_type[:60]!r} instead of a multipart form")
        self.fields: dict[str, Any] = {}
        self.files: dict[str, Path] = {}
        self._folder = folder
        self._suffix = suffix
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")

    def read(self, blocks: Iterator[bytes]) -> None:
        """Read it all.

        Raises:
            Malformed: it is damaged, or ends too early.
            OSError: the disk is full.
        """
        source = _Source(blocks)
        # The first delimiter has no line break in front of it.
        source.push(b"\r\n")
        source.until(self._delimiter, lambda _: None)
        while source.take(2) == b"\r\n":
            self._part(source)

    def _part(self, source: _Source) -> None:
        text = bytearray()
        source.until(b"\r\n\r\n", _limited(text, _MOST_HEADERS))
        headers = _headers(bytes(text) + b"\r\n\r\n")
        name = headers.get_param("name", header="content-disposition")
        filename = headers.get_filename()
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
            raise Malformed("a part without a name")
        if filename is None:
            value = bytearray()
            source.until(self._delimiter, _limited(value, _MOST_JSON))
            try:
                self.fields[name] = json.loads(bytes(value))
            except ValueError as error:
                raise Malformed(f"{name} is not JSON") from error
            return
        path = self._folder / (name + self._suffix(filename))
        with path.open("wb") as stream:
            source.until(self._delimiter, lambda block: stream.write(block))
        self.files[name] = path


class _Source:
    """Bytes that come in blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = b""

    def push(self, data: bytes) -> None:
        """Put bytes in front of what comes."""
        self._held = data + self._held

    def until(self, end: bytes, take: Callable[[bytes], Any]) -> None:
        """Give all bytes before ``end`` to ``take``, and leave out ``end`` itself."""
        while True:
            place = self._held.find(end)
            if place >= 0:
                take(self._held[:place])
                self._held = self._held[place + len(end) :]
                return
            # It may have begun at the end of this block.
            keep = len(end) - 1
            take(self._held[: max(0, len(self._held) - keep)])
            self._held = self._held[-keep:] + self._next()

    def take(self, count: int) -> bytes:
        """Give the next bytes."""
        while len(self._held) < count:
            self._held += self._next()
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def _next(self) -> bytes:
        block = next(self._blocks, b"")
        if not block:
            raise Malformed("the reply ended too early")
        return block


def _limited(text: bytearray, most: int) -> Callable[[bytes], None]:
    def take(block: bytes) -> None:
        if len(text) + len(block) > most:
            raise Malformed("a part is too long")
        text.extend(block)

    return take


def _headers(text: bytes) -> Any:
    return BytesHeaderParser(policy=HTTP).parsebytes(text)
