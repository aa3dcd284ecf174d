"""Host names and addresses as requests have them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

#: A name, an IPv4 address, or what stands between the brackets of an IPv6 address.
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")


def split_host(text: str) -> tuple[str | None, int | None]:
    """Read ``name``, ``name:port``, ``[address]`` or ``[address]:port``.

    Returns:
        name in small letters without brackets, None if it is none of these; the port, None if there is none.
    """
    try:
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None, None
    if not name or not _HOST.fullmatch(name) or parts.netloc != text or "@" in text:
        return None, None
    return name, port


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address, without its zone; that of IPv4 as a server sees it that listens on IPv6; None if it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
