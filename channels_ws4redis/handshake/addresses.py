"""From which address a client comes, as far as that can be known, and what counts as one client.

A connection may be that of a proxy, behind which there are any number of clients. What is said of
them in ``X-Forwarded-For`` is believed only as far as WS4REDIS_TRUSTED_PROXIES goes: anybody may
send that header.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from channels_ws4redis.conf import settings

Address = IPv4Address | IPv6Address

#: As some proxies write an address: with a port, or in brackets, or both.
_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]*)\](?::\d+)?|(?P<v4>[\d.]+):\d+")


class Proxy(NamedTuple):
    """A place from which the connections of any number of clients may come."""

    host: str


#: Characters of a text that may be an address. What is longer is not kept either.
_LONGEST = 100


def address_of(scope: Mapping[str, Any]) -> Hashable:
    """Return whom a stranger's socket counts for: an address, or a `Proxy`.

    A network of IPv6 counts as one, since a client may have as many addresses there as it likes.
    Without WS4REDIS_TRUSTED_PROXIES, an address that is not of the public internet is taken for a
    proxy's. What is no address, such as a Unix socket, always is.

    :param scope: what the server says about the socket. The server may have replaced the address of
        the connection by a forwarded one already.
    """
    client = scope.get("client")
    host = str(client[0]) if client else ""
    trusted = settings.WS4REDIS_TRUSTED_PROXIES
    address = _parse(host)
    if trusted is None:
        if address is not None and not address.is_global:
            address = None
    elif isinstance(trusted, int):
        address = _behind_so_many(host, _forwarded(scope), trusted)
    else:
        address = _behind_these(host, _forwarded(scope), trusted)
    return Proxy(host) if address is None else _as_one(address)


def _forwarded(scope: Mapping[str, Any]) -> list[str]:
    """Return what proxies say of who has connected to them, beginning with the nearest proxy."""
    headers: Sequence[tuple[bytes, bytes]] = scope.get("headers", ())
    values = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    return ",".join(values).split(",")[::-1] if values else []


def _behind_so_many(host: str, forwarded: Sequence[str], hops: int) -> Address | None:
    """Return the address behind a number of proxies; or else that of the connection.

    One with fewer proxies on its way has passed by them, and may have made the header up.
    """
    way = [host, *forwarded]
    address = _parse(way[hops]) if hops < len(way) else None
    return address or _parse(host)


def _behind_these(
    host: str, forwarded: Sequence[str], proxies: Sequence[IPv4Network | IPv6Network]
) -> Address | None:
    """Return the first address on the way to the client that is not one of these proxies'.

    Whoever connects through a Unix socket is on this machine, and is a proxy.
    """
    address = _parse(host)
    if address is None and host:
        return None
    for text in forwarded:
        if address is not None and not any(address in network for network in proxies):
            break
        further = _parse(text)
        if further is None:
            break
        address = further
    return address


def _parse(text: str) -> Address | None:
    """Return the address that a text writes; None if it writes none."""
    return _parse_short(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=4096)
def _parse_short(text: str) -> Address | None:
    text = text.strip()
    if match := _WITH_PORT.fullmatch(text):
        text = match["v6"] or match["v4"] or ""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def _as_one(address: Address) -> str:
    is_v4 = isinstance(address, IPv4Address)
    return str(address if is_v4 else ip_network((address, 64), strict=False))
