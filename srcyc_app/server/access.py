"""Who may do what: users with roles from a file, told by a token of theirs or by a reverse proxy that is trusted.

A token is 256 random bits, so its SHA-256 is as good as any slower hash, and can be computed for every request.

    python -m srcyc_app.server.access FILE NAME ROLE
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import ipaddress
import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from srcyc.errors import ConfigError, OutputError
from srcyc_app.refusals import forbidden
from srcyc_app.server.actions import Role, action_of
from srcyc_app.server.asgi import HttpMiddleware
from srcyc_app.server.names import address_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
#: In place of a hash: the proxy has asked for a password.
_PROXY = "proxy"
_BYTES = 32

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Person:
    """Whoever sent a request.

    Attributes:
        name: None: nobody asked.
        role: what they may do.
        address: where the request comes from; behind a trusted proxy what that says.
    """

    name: str | None = None
    role: Role = Role.ADMIN
    address: str = ""


#: Who sent the request that is being answered; outside of one, this program itself.
_current: ContextVar[Person] = ContextVar("person", default=Person())  # noqa: B039 - it is frozen


def current() -> Person:
    """Give who sent the request that is being answered."""
    return _current.get()


def require(role: Role, what: str) -> None:
    """Refuse what only others may do.

    Raises:
        Refusal: 403.
    """
    person = current()
    if person.role < role:
        raise forbidden(f"{what}: for the role {role.label} or above; you are {person.role.label}.")


class Users:
    """The users in a file: ``NAME ROLE sha256:HASH`` or ``NAME ROLE proxy`` a line; read again when it changes.

    Args:
        path: the file.

    Raises:
        ConfigError: it cannot be read, or a line is not of that kind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._mark = self._mark_now()
        self._by_hash, self._by_name = read_users(path)

    def of_token(self, token: str) -> Person | None:
        """Give whose token it is."""
        self._look()
        # By its hash: how long that takes tells nothing of the tokens.
        return self._by_hash.get(hashlib.sha256(token.encode()).hexdigest())

    def of_name(self, name: str) -> Person | None:
        """Give a user that a trusted proxy names."""
        self._look()
        return self._by_name.get(name)

    def _look(self) -> None:
        with self._lock:
            before, self._mark = self._mark, self._mark_now()
            if self._mark == before:
                return
            try:
                self._by_hash, self._by_name = read_users(self._path)
            except ConfigError as error:
                # Nobody loses or gains access by a mistake in the file.
                _log.error("%s; the users stay as they were.", error)

    def _mark_now(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


def read_users(path: Path) -> tuple[dict[str, Person], dict[str, Person]]:
    """Read a file of users.

    Returns:
        by the hash of their token; by the name that a proxy gives them.

    Raises:
        ConfigError: names the line and what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if os.name == "posix" and path.stat().st_mode & 0o022:
            raise ConfigError(f"{path}: others may write it", remedy=f"run chmod 640 {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the users cannot be read ({error})", remedy="correct --users") from error
    by_hash: dict[str, Person] = {}
    by_name: dict[str, Person] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or not _NAME.fullmatch(words[0]) or words[1].upper() not in Role.__members__:
            raise ConfigError(
                f"{path}, line {number}: not a user",
                remedy=f"write NAME ROLE sha256:HASH, or NAME ROLE {_PROXY}; roles: {Role.labels()}",
            )
        name, role, proof = words
        person = Person(name, Role[role.upper()])
        if proof == _PROXY:
            by_name[name] = person
        elif match := _HASH.fullmatch(proof):
            by_hash[match[1]] = person
        else:
            raise ConfigError(
                f"{path}, line {number}: {name} has neither a hash nor {_PROXY}",
                remedy="make a token by `python -m srcyc_app.server.access`",
            )
    return by_hash, by_name


def new_token() -> tuple[str, str]:
    """Make a token, and the word by which a file of users knows it."""
    token = f"srcyc-{secrets.token_urlsafe(_BYTES)}"
    return token, f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


@dataclass(frozen=True)
class Rules:
    """How a request's sender is told.

    Attributes:
        users: None: nobody needs a token.
        proxies: networks whose requests say for whom they are.
        header: in which they say so.
        everybody: without users, requests that name nobody are met too.
    """

    users: Users | None = None
    proxies: Sequence[Network] = ()
    header: str = "x-remote-user"
    everybody: bool = True

    def who(self, scope: Scope) -> Person | None:
        """Give who sent a request; None if that is not known and has to be."""
        headers = Headers(scope=scope)
        name = headers.get(self.header, "").strip() if self._is_proxy(scope) else ""
        if name:
            known = Person(name) if self.users is None else self.users.of_name(name)
            found = known if _NAME.fullmatch(name) else None
        elif self.users is not None:
            token = token_of(headers)
            found = self.users.of_token(token) if token else None
        else:
            found = Person() if self.everybody else None
        return None if found is None else replace(found, address=self.address(scope))

    def address(self, scope: Scope) -> str:
        """Give where a request comes from."""
        return (_forwarded(Headers(scope=scope)) if self._is_proxy(scope) else None) or _peer(scope)

    def _is_proxy(self, scope: Scope) -> bool:
        address = address_of(_peer(scope))
        return address is not None and any(address in network for network in self.proxies)


class Access(HttpMiddleware):
    """Lets through whoever may do what a request asks for.

    Args:
        rules: who is who.
    """

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        super().__init__(app)
        self._rules = rules

    async def meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        from srcyc_app.server.failures import problem

        action = action_of(scope["method"], scope["path"])
        person = self._rules.who(scope)
        if person is None and action.role is Role.NOBODY:
            person = Person(role=Role.NOBODY, address=self._rules.address(scope))
        if person is None:
            reply = problem(
                401,
                "this server wants to know who asks: send a token of yours as Authorization: Bearer TOKEN, or as the "
                "password.",
                {"WWW-Authenticate": 'Basic realm="SRCyc", charset="UTF-8", Bearer realm="SRCyc"'},
            )
            await reply(scope, receive, send)
            return
        if person.role < action.role:
            sentence = (
                f"{action.words}: for the role {action.role.label} or above; you are {person.role.label}."
            )
            await problem(403, sentence)(scope, receive, send)
            return
        before = _current.set(person)
        try:
            await self._app(scope, receive, send)
        finally:
            _current.reset(before)


def token_of(headers: Mapping[str, str]) -> str | None:
    """Give the token of a request: a bearer's, or the password that a browser or a client asks its user for."""
    scheme, _, value = headers.get("authorization", "").strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value or None
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return text.partition(":")[2] or None


def networks(texts: Iterable[str]) -> list[Network]:
    """Read addresses and networks.

    Raises:
        ConfigError: one that is neither.
    """
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise ConfigError(
                f"--trusted-proxy {text!r}: not an address", remedy="give one, or a network: 10.0.0.0/24"
            ) from error
    return found


def _peer(scope: Scope) -> str:
    """Give the address at the other end of the connection."""
    return str((scope.get("client") or ("", 0))[0])


def _forwarded(headers: Headers) -> str | None:
    """Give the address that the nearest proxy saw: the last one; those before it are what a client says."""
    last = address_of(headers.get("x-forwarded-for", "").rpartition(",")[2].strip())
    return None if last is None else str(last)


def main(argv: Sequence[str] | None = None, say: Callable[[str], object] = sys.stdout.write) -> int:
    """Make a token for somebody and append its hash to a file of users; the token is shown once."""
    parser = argparse.ArgumentParser(
        prog="python -m srcyc_app.server.access",
        description="Make a token and append its hash to a file of users. To take it back, remove the line.",
    )
    parser.add_argument("file", type=Path, help="made if it is not there, readable by you alone")
    parser.add_argument("name")
    parser.add_argument("role", choices=[role.label for role in Role if role is not Role.NOBODY])
    parser.add_argument(
        "--proxy", action="store_true", help="no token: a trusted proxy asks for the password"
    )
    given = parser.parse_args(argv)
    if not _NAME.fullmatch(given.name):
        parser.error(f"name {given.name!r}: letters, digits, . _ @ - only")
    token, proof = (None, _PROXY) if given.proxy else new_token()
    try:
        descriptor = os.open(given.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
            stream.write(f"{given.name} {given.role} {proof}\n")
    except OSError as error:
        raise OutputError(f"{given.file}: cannot be written ({error.strerror})") from error
    say(f"{token}\n" if token else f"{given.name} may use the server through the proxy\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
