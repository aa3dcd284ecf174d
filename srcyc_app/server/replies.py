"""Replies: JSON that can always be sent, files that are removed once they have been, and a watch on the status."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from requests_toolbelt import MultipartEncoder
from starlette.types import Message, Receive, Scope, Send

from srcyc.documents import json_line, json_text

#: What the schema says of a reply that is a file.
OCTETS: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BLOCK = 1 << 20


class Json(JSONResponse):
    """JSON; what the format cannot hold (infinities, broken text) becomes null or a question mark."""

    def render(self, content: Any) -> bytes:
        return json_text(content, indent=None, broken="replace").encode()


class OpenedFile(StreamingResponse):
    """Sends a file as it is now, whole, whatever takes its place meanwhile.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        # `FileResponse` asks for the size first and opens the file later.
        self._stream = path.open("rb")
        name, coded = path.name, quote(path.name)
        super().__init__(
            iter(lambda: self._stream.read(_BLOCK), b""),
            media_type="application/octet-stream",
            headers={
                "content-length": str(os.fstat(self._stream.fileno()).st_size),
                "content-disposition": f'attachment; filename="{name}"'
                if name == coded
                else f"attachment; filename*=utf-8''{coded}",
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


class FileOnce(FileResponse):
    """Sends a file and removes it, also if the client hangs up.

    Args:
        path: the file.
        filename: what the client sees.
        room: a folder that goes with it.
    """

    def __init__(self, path: Path, *, filename: str, room: Path | None = None) -> None:
        super().__init__(path, media_type="application/octet-stream", filename=filename)
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            _remove(Path(self.path), self._room)


class MultipartOnce(StreamingResponse):
    """MONAI Label's reply to an inference, ``params`` and ``image``; removes the file, also if the client hangs up.

    Args:
        params: the report.
        path: the volume.
    """

    def __init__(self, params: dict[str, Any], path: Path) -> None:
        # The stock client makes this the name of its file, and reads the head as Latin-1.
        name = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)
        self._path, self._stream = path, path.open("rb")
        encoder = MultipartEncoder(
            {
                "params": (None, json_line(params), "application/json"),
                "image": (name, self._stream, "application/octet-stream"),
            }
        )
        super().__init__(
            iter(lambda: encoder.read(_BLOCK), b""),
            media_type=encoder.content_type,
            headers={"content-length": str(encoder.len)},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()
            _remove(self._path)


def _remove(path: Path, room: Path | None = None) -> None:
    path.unlink(missing_ok=True)
    if room is not None:
        shutil.rmtree(room, ignore_errors=True)


class Reply:
    """Hands the messages of a reply on, and says when they end, before the client can know.

    Args:
        send: takes the messages.
        scope: of the request.
        end: called once, before the last byte goes out: what it writes is there when somebody has the reply.

    Attributes:
        status: of the reply; 0 until there is one.
    """

    def __init__(self, send: Send, scope: Scope, end: Callable[[], None]) -> None:
        self._send = send
        self._end = end
        self._ended = False
        # Bytes that the client still waits for; None: until there are no more.
        self._left: int | None = None
        self._empty = scope["method"] == "HEAD"
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            length = dict(message.get("headers", ())).get(b"content-length")
            if self._empty or self.status in (204, 304):
                self._left = 0
            elif length is not None:
                self._left = int(length)
        else:
            if self._left is not None:
                self._left -= len(message.get("body", b""))
            if not message.get("more_body", False):
                self._left = 0
        if self._left is not None and self._left <= 0:
            self.over()
        await self._send(message)

    def over(self) -> None:
        """There is nothing more, whatever there has been."""
        if not self._ended:
            self._ended = True
            self._end()
