"""The Django request of a WebSocket handshake, who has made it, and from which page."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth import get_user
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest

from channels_ws4redis.conf import settings


class WebSocketRequest(ASGIRequest):
    """Django's own request class, made from the scope of a WebSocket.

    Session and user are those that a middleware has put into the scope, until `authenticate` or a
    hook sets others. Without a middleware there is no session, and the user is anonymous.

    :param scope: what the server says about the socket.
    """

    session: Any
    user: Any

    def __init__(self, scope: dict[str, Any]) -> None:
        scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), "http")
        query_string = scope.get("query_string", b"").decode("latin-1")
        http_scope = {**scope, "method": "GET", "scheme": scheme, "query_string": query_string}
        super().__init__(http_scope, io.BytesIO())
        # Imported late, as asgi.py imports this package before Django has loaded its models.
        from django.contrib.auth.models import AnonymousUser  # noqa: PLC0415

        self.session = scope.get("session")
        self.user = scope.get("user") or AnonymousUser()

    @property
    def environ(self) -> dict[str, Any]:
        """The same dictionary as ``META``, for hooks of legacy, whose request came from WSGI."""
        return self.META


class SessionSnapshot(SessionBase):
    """A copy of a session's data, to be changed without any effect on the session itself.

    Django's ``get_user`` flushes a session whose hash is stale, and gives the session a new key
    while a ``SECRET_KEY`` is being rotated. Both would log the user out if a socket did them, as a
    socket cannot set the new cookie.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__()
        self._session_cache = dict(data)

    def flush(self) -> None:
        """Forget the copy."""
        self._session_cache = {}

    def cycle_key(self) -> None:
        """Do nothing, as a copy has no key."""


def open_session(request: WebSocketRequest) -> Any:
    """Return the session that a request's cookie names, not yet loaded; None without a cookie."""
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if not key:
        return None
    return import_module(settings.SESSION_ENGINE).SessionStore(key)


def authenticate(request: WebSocketRequest) -> None:
    """Set the session and the user of a request. This may ask the database and so block."""
    request.session = open_session(request)
    if request.session is None:
        return
    request.session._get_session()
    if request.session.modified:
        # The engine of signed cookies has found the signature to be wrong, and has begun an empty
        # session under the key that it was given.
        request.session = type(request.session)()
    request.user = _Visitor(SessionSnapshot(request.session._get_session())).get_user()


class _Visitor:
    """As much of a request as ``django.contrib.auth.get_user`` looks at."""

    def __init__(self, session: SessionBase) -> None:
        self.session = session

    def get_user(self) -> Any:
        return get_user(self)  # type: ignore[arg-type] # it looks at .session alone


def origin_allowed(request: WebSocketRequest) -> bool:
    """Tell whether the page that opens a socket may do so.

    A browser sends the user's cookie with a socket that any page in the world opens. The page must
    therefore come from this host, or be named by ``WS4REDIS_ALLOWED_ORIGINS`` or
    ``CSRF_TRUSTED_ORIGINS``. A client that is no browser sends no ``Origin`` and may open any.
    """
    origin = request.META.get("HTTP_ORIGIN")
    if origin is None:
        return True
    origin = origin.lower()
    allowed = [*settings.WS4REDIS_ALLOWED_ORIGINS, *settings.CSRF_TRUSTED_ORIGINS]
    if "*" in allowed or any(_same_origin(origin, pattern.lower()) for pattern in allowed):
        return True
    try:
        host = request.get_host().lower()
        page = urlsplit(origin)
        # Schemes are not compared. Behind a proxy that ends TLS the server often does not know its
        # own; and an attacker who can serve pages for this host can do worse than open a socket.
        default_port = {"http": 80, "https": 443}[page.scheme]
        own = urlsplit(f"//{host}")
        return page.hostname == own.hostname and (page.port or default_port) == (
            own.port or default_port
        )
    except (DisallowedHost, KeyError, ValueError):
        return False


def _same_origin(origin: str, pattern: str) -> bool:
    scheme, separator, host = pattern.partition("://")
    if separator and host.startswith("*."):
        return origin.startswith(f"{scheme}://") and origin.endswith(host[1:])
    return origin in (pattern, pattern.rstrip("/"))  # not stripped for "file://", an origin too
