"""From which pages a socket may be opened.

A browser sends the user's cookie with a socket that any page in the world opens. So the page must
come from the server's own host, or be named by the project. A client that is no browser sends no
``Origin`` and may open any socket.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest
from django.utils.http import is_same_domain

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.refusals import RefusedError
from channels_ws4redis.protocol.texts import shown

_DEFAULT_PORTS = {"http": "80", "https": "443"}

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


class Origin(NamedTuple):
    """Where a page comes from, RFC 6454; or a pattern ``https://*.example.com`` of such."""

    scheme: str
    host: str
    port: str

    @classmethod
    def of(cls, text: str) -> Self | None:
        """Return the origin that a text writes, None if the text is none, such as ``null``."""
        match = _ORIGIN.fullmatch(text.lower())
        if match is None:
            return None
        scheme, host, port = match["scheme"], match["host"], match["port"]
        return cls(scheme, host, port or _DEFAULT_PORTS.get(scheme, ""))

    def matches(self, pattern: Origin) -> bool:
        """Tell whether a pattern stands for this origin; a wildcard means what Django's do."""
        if "*" in self.host or (self.scheme, self.port) != (pattern.scheme, pattern.port):
            return False
        return is_same_domain(self.host, pattern.host.removeprefix("*"))


def origin_allowed(request: HttpRequest) -> bool:
    """Tell whether the page that opens a socket may do so."""
    text = request.META.get("HTTP_ORIGIN")
    if text is None:
        return True
    named = [name for name in settings.WS4REDIS_ALLOWED_ORIGINS if name]
    if "*" in named:
        return True
    origin = Origin.of(text)
    if origin is None:
        return text in named  # such as "null"
    patterns = [Origin.of(name.rstrip("/")) for name in [*named, *settings.CSRF_TRUSTED_ORIGINS]]
    is_named = any(pattern is not None and origin.matches(pattern) for pattern in patterns)
    return is_named or _is_own(origin, request)


def require_allowed_origin(request: HttpRequest) -> None:
    """Refuse a socket that a page opens which may not.

    :raises RefusedError: then.
    """
    if origin_allowed(request):
        return
    # Django shows the host that it does not allow to nobody but its own middleware.
    origin, host = shown(request.META["HTTP_ORIGIN"]), shown(request._get_raw_host())  # type: ignore[attr-defined] # not in the stubs
    try:
        request.get_host()
    except DisallowedHost:
        raise RefusedError(
            f"a page of the origin {origin} opens it, and its host {host} is not in ALLOWED_HOSTS",
            "host",
        ) from None
    raise RefusedError(
        f"a page of the foreign origin {origin} opens it on the host {host}; name the origin in "
        "WS4REDIS_ALLOWED_ORIGINS if it may",
        "origin",
    )


def _is_own(origin: Origin, request: HttpRequest) -> bool:
    """Tell whether a page is the server's own.

    Its scheme counts where the server knows that it is reached by https. Behind a proxy that ends
    TLS it often does not know.
    """
    if origin.scheme not in _DEFAULT_PORTS or (request.is_secure() and origin.scheme == "http"):
        return False
    try:
        return origin == Origin.of(f"{origin.scheme}://{request.get_host()}")
    except DisallowedHost:
        return False
