"""HTTP to one server; whatever goes wrong on the way becomes one sentence that says what to do."""

from __future__ import annotations

import json
import math
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from SRCycLib.processes import Problem

#: Seconds for what the server does with a scan before it answers: reads it, checks it.
LONG = 600.0

_EXAMPLE = "http://127.0.0.1:8000"
#: Addresses to listen on, which are none to connect to.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

#: What tells of a connection that died without a word: seconds of silence, seconds between questions, how many.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


class ServerError(Problem):
    """Says with which server or scan."""


class Unreachable(ServerError):
    """Nobody answers: not there, not yet, or not any more."""


class Connection:
    """The way to one server.

    Args:
        url: its address; ``http://`` may be left out; ``user:password@`` is sent as Basic authentication.
        timeout: seconds for a connection, and for each answer that needs no computing.
        agent: what the client calls itself.

    Attributes:
        url: the address without password.

    Raises:
        ServerError: no address of a server.
    """

    def __init__(self, url: str, timeout: float, agent: str) -> None:
        self._given = url
        self.url, auth = _address(url)
        self._timeout = timeout
        self._agent = agent
        self._session = session = requests.Session()
        session.headers["User-Agent"] = agent
        if auth is not None:
            session.auth = HTTPBasicAuth(*auth)
        # No proxy of the network leads to this machine.
        session.trust_env = urlsplit(self.url).hostname not in _LOOPBACK
        for prefix in ("http://", "https://"):
            session.mount(prefix, _KeptAlive())

    def beside(self) -> Connection:
        """Give another one to the same server, for another thread."""
        return Connection(self._given, self._timeout, self._agent)

    def close(self) -> None:
        """Close what is open."""
        self._session.close()

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and give the JSON of the reply.

        Raises:
            ServerError: a refusal, or no JSON; Unreachable: nobody answers.
        """
        with self.open(method, path, **options) as response:
            try:
                return json.loads(b"".join(self.blocks(response)))
            except ValueError as error:
                raise self._somebody_else(response) from error

    def open(self, method: str, path: str, *, patience: float = 0.0, **options: Any) -> requests.Response:
        """Send a request and give the reply, its body not read yet; the caller closes it.

        Args:
            method: of HTTP.
            path: below the server's address, with a slash.
            patience: seconds for the answer, infinity: as long as the connection lives; by default the timeout.
            options: of `requests`.

        Raises:
            ServerError: a refusal; Unreachable: nobody answers.
        """
        patience = patience or self._timeout
        try:
            response = self._session.request(
                method,
                self.url + path,
                timeout=(self._timeout, None if math.isinf(patience) else patience),
                # To send a password or a scan to another place than the user said is not ours to decide.
                allow_redirects=False,
                stream=True,
                **options,
            )
        except (requests.RequestException, UnicodeError) as error:
            raise self._unreachable(error, patience) from error
        try:
            self._check(response)
        except BaseException:
            response.close()
            raise
        return response

    def blocks(self, response: requests.Response) -> Iterator[bytes]:
        """Give the body in blocks.

        Raises:
            Unreachable: the connection was lost.
        """
        try:
            yield from response.iter_content(1 << 18)
        except requests.RequestException as error:
            raise self._unreachable(error) from error

    # -- sentences -------------------------------------------------------------------------------------------------

    def _check(self, response: requests.Response) -> None:
        """Refuse every reply but a good one."""
        status = response.status_code
        if 200 <= status < 300:
            return
        if status in (301, 302, 303, 307, 308):
            to = response.headers.get("location", "")
            raise ServerError(
                f"{self.url} points to another address, {to[:200]}: connect to that one instead."
            )
        if status in (401, 407):
            raise ServerError(self._who())
        if status == 413:
            # Before the server's own sentence: whoever runs it knows what that means, and may be somebody else.
            raise ServerError(
                f"{self.url} does not take files as large as this one (413): ask whoever runs it to raise the limit "
                "of the server or of the proxy in front of it."
            )
        if detail := _detail(self._beginning(response)):
            raise ServerError(f"The server says: {detail}")
        if status == 403:
            raise ServerError(f"{self.url} refuses the request (403): ask whoever runs it for access.")
        if status in (502, 503, 504):
            raise Unreachable(
                f"The proxy at {self.url} answers, but not the SRCyc server behind it ({status}): start that server, "
                "or ask whoever runs it."
            )
        raise self._somebody_else(response)

    def _who(self) -> str:
        if self._session.auth is None:
            return (
                f"{self.url} needs a user name and a password: write them into the address, as in "
                f"{self.url.replace('://', '://NAME:PASSWORD@')}."
            )
        return f"{self.url} does not accept this user name and password: correct them in the address."

    def _somebody_else(self, response: requests.Response) -> ServerError:
        kind = response.headers.get("content-type", "").partition(";")[0].strip() or "no content type"
        return ServerError(
            f"{self.url} answers, but not as an SRCyc server does ({response.status_code}, {kind[:60]}): check the "
            "address and the port."
        )

    def _beginning(self, response: requests.Response) -> bytes:
        """Give the start of a refusal, which may be a page of any length."""
        text = b""
        for block in self.blocks(response):
            text += block
            if len(text) > 1 << 16:
                break
        return text

    def _unreachable(self, error: Exception, patience: float = 0.0) -> ServerError:
        """Say why a request got no answer."""
        causes = list(_causes(error))
        place = self.url
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return ServerError(_about_tls(place, causes))
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            name = urlsplit(place).hostname
            return Unreachable(
                f"There is no computer named {name!r}: check the address {place} and the network."
            )
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return Unreachable(f"No server listens at {place}: start it, or correct the address.")
        if isinstance(error, requests.exceptions.ProxyError):
            return Unreachable(
                f"The network's proxy does not let through to {place}: check the proxy's settings."
            )
        if isinstance(error, requests.Timeout) or any(isinstance(cause, TimeoutError) for cause in causes):
            seconds = (
                self._timeout if isinstance(error, requests.ConnectTimeout) else patience or self._timeout
            )
            return Unreachable(
                f"{place} does not answer within {seconds:g} s: check the address, that the server runs, and "
                "that no firewall is in between."
            )
        if isinstance(error, (requests.exceptions.InvalidURL, UnicodeError)):
            return ServerError(_nonsense(place))
        if any("BadStatusLine" in type(cause).__name__ for cause in causes):
            return ServerError(f"{place} does not speak HTTP: check the port.")
        return Unreachable(
            f"The connection to {place} was lost ({_reason(causes)}): see whether the server still runs, start it "
            "again if not, and try once more."
        )


class _KeptAlive(HTTPAdapter):
    """Notices that the other end is gone while a computation is waited for: a cable, a sleeping computer."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        wanted = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        wanted += [
            (socket.IPPROTO_TCP, getattr(socket, name), value)
            for name, value in _KEEP_ALIVE.items()
            if hasattr(socket, name)
        ]
        options["socket_options"] = wanted
        super().init_poolmanager(*args, **options)


def _address(text: str) -> tuple[str, tuple[bytes, bytes] | None]:
    """Give the address in its normal form, and user and password.

    Raises:
        ServerError: no address of a server.
    """
    text = text.strip()
    if not text:
        raise ServerError(f"There is no address: type the server's, such as {_EXAMPLE}.")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ServerError(_nonsense(text)) from error
    if parts.scheme not in ("http", "https"):
        raise ServerError(f"{parts.scheme}:// is no address of a server: begin it with http:// or https://.")
    if not host or re.search(r"[\s\"'<>\\^`{|}%,;]", host) or re.search(r"\s", parts.path):
        raise ServerError(_nonsense(without_password(text)))
    host = _EVERYWHERE.get(host, host)
    place = f"[{host}]" if ":" in host else host
    url = f"{parts.scheme}://{place}{f':{port}' if port is not None else ''}{parts.path.rstrip('/')}"
    if parts.username is None:
        return url, None
    user, password = (unquote(part or "").encode() for part in (parts.username, parts.password))
    return url, (user, password)


def _nonsense(text: str) -> str:
    return f"{without_password(text)[:100]!r} is no address of a server: write it as in {_EXAMPLE}."


def without_password(url: str) -> str:
    """Give an address, as it was typed, as it may be shown and kept."""
    # Up to the last @ before the path, as `urlsplit` has it.
    return re.sub(r"^(\s*(?:\w+://)?[^/@:]*):[^/]*@", r"\1@", url)


def _detail(text: bytes) -> str:
    """Give the sentence of a refusal; '' if it has none."""
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    if isinstance(detail, list):
        # The framework's own list of what is wrong with the fields.
        detail = "; ".join(
            str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in detail
        )
    return " ".join(str(detail).split())[:1000]


def _about_tls(place: str, causes: list[BaseException]) -> str:
    said = " ".join(str(cause) for cause in causes)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return (
            f"The certificate of {place} cannot be trusted: ask whoever runs the server for the file of its "
            "certificate authority, and set REQUESTS_CA_BUNDLE to it before you start Slicer."
        )
    if "WRONG_VERSION_NUMBER" in said or "UNKNOWN_PROTOCOL" in said:
        return f"{place} does not speak https: connect to {place.replace('https://', 'http://', 1)} instead."
    return f"No secure connection to {place} can be made: ask whoever runs the server to look at its TLS settings."


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an exception and all that it came from, wherever the libraries keep it."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]


def _reason(causes: list[BaseException]) -> str:
    """Give the system's own words, if there are any."""
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
    return "the server closed it"
