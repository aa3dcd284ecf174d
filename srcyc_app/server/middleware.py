"""What every request has to pass: ASGI middleware, so that nothing of a body is read before it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from srcyc_app.refusals import Refusal
from srcyc_app.server.asgi import HttpMiddleware
from srcyc_app.server.failures import problem
from srcyc_app.server.names import address_of, split_host

#: Names by which a server on this machine may always be called.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

#: Bytes of a body without files; of the fields beside a file.
SMALL_BODY = 1 << 20

#: Routes that know what HEAD is.
_OWN_HEADS = ("/datastore/image", "/datastore/label", "/compare")
_DEFAULT_PORTS = {"http": 80, "https": 443}

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # Scans and what is made of them are nobody's cache's business.
    "Cache-Control": "no-store",
}


class SecureHeaders(HttpMiddleware):
    """Adds the headers that keep a browser from making more of a reply than it is."""

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class KnownHosts(HttpMiddleware):
    """Refuses requests under a name that is not the server's: a foreign page may have made its own name point here.

    Args:
        hosts: names without port, besides :data:`LOCAL_HOSTS`.
        addresses: let every IP address pass too: no name was made to point there.
        option: by which a name is allowed.
    """

    def __init__(
        self, app: ASGIApp, hosts: Sequence[str], *, addresses: bool = False, option: str = "--allowed-host"
    ) -> None:
        super().__init__(app)
        self._hosts = {host.lower().strip("[]") for host in (*LOCAL_HOSTS, *hosts)}
        self._addresses = addresses
        self._option = option

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).getlist("host")
        name = split_host(given[0])[0] if len(given) == 1 else None
        handler: ASGIApp = self._app
        if name is None or not (name in self._hosts or (self._addresses and address_of(name) is not None)):
            shown = given[0][:100] if given else ""
            handler = problem(
                400,
                f"host {shown!r}: the server does not go by this name; start it with {self._option} NAME.",
            )
        await handler(scope, receive, send)


class KnownOrigins(HttpMiddleware):
    """Refuses what a page from elsewhere makes a browser send.

    Args:
        origins: pages that may, as ``https://host[:port]``.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(app)
        self._origins = set(origins)

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        handler: ASGIApp = self._app
        if origin is not None and origin not in self._origins and not _same(origin, headers["host"]):
            handler = problem(
                403, f"origin {origin[:100]!r}: pages from there may not use this server; see --cors-origin."
            )
        await handler(scope, receive, send)


class HeadAsGet(HttpMiddleware):
    """Lets whoever asks for the head of a reply have it: that of GET, where a route has none of its own."""

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD" or scope["path"].startswith(_OWN_HEADS):
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, without_body)


class UploadLimit(HttpMiddleware):
    """Refuses bodies that are too large: at once if they say so, else when the limit has been reached.

    The form parser reads a whole body before a route runs: a route would come too late.

    Args:
        limit: gives the bytes that files may have.
    """

    def __init__(self, app: ASGIApp, limit: Callable[[], int]) -> None:
        super().__init__(app)
        self._limit = limit

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        has_files = headers.get("content-type", "").lower().startswith("multipart/")
        limit = SMALL_BODY + (self._limit() if has_files else 0)
        said = headers.get("content-length", "0")
        if not (said.isascii() and said.isdigit()):
            await problem(400, f"content-length {said[:30]!r}: give a number of bytes.")(scope, receive, send)
            return
        if int(said) > limit:
            # The connection stays open: a client that is cut off while it sends does not read the reply.
            await problem(413, _too_large(limit))(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise Refusal(413, _too_large(limit))
            return message

        await self._app(scope, counted, send)


def _same(origin: str, host: str) -> bool:
    """Tell whether a page comes from this server: the name and the port by which the browser called it."""
    scheme, separator, place = origin.partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        return False
    name, port = split_host(place)
    own_name, own_port = split_host(host)
    default = _DEFAULT_PORTS[scheme]
    return name is not None and (name, port or default) == (own_name, own_port or default)


def _too_large(limit: int) -> str:
    return f"the request is larger than the {limit / 1e6:.0f} MB that this server takes; see --max-upload."
