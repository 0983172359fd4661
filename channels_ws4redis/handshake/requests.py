"""The Django request of a WebSocket handshake, and who has made it."""

from __future__ import annotations

import io
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.utils.functional import LazyObject, SimpleLazyObject, empty

from channels_ws4redis.conf import settings


class WebSocketRequest(ASGIRequest):
    """Django's own request class, made from the scope of a WebSocket.

    Session and user are those that a middleware has put into the scope, until `authenticate` or a
    hook sets others. Without a middleware there is no session, and the user is anonymous.

    :param scope: what the server says about the socket.
    """

    session: Any
    user: Any
    #: What the router has matched, or if its route names no facility, what follows WEBSOCKET_URL.
    facility: str

    def __init__(self, scope: dict[str, Any]) -> None:
        scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), "http")
        query_string = scope.get("query_string", b"").decode("latin-1")
        http_scope = {**scope, "method": "GET", "scheme": scheme, "query_string": query_string}
        super().__init__(http_scope, io.BytesIO())
        matched = scope.get("url_route", {}).get("kwargs", {}).get("facility")
        self.facility = facility_in(self.path_info) if matched is None else str(matched)
        self.session = scope.get("session")
        self.user = _user_in(scope)

    @property
    def environ(self) -> dict[str, Any]:
        """The same dictionary as ``META``, for hooks of legacy, whose request came from WSGI."""
        return self.META


def facility_in(path_info: str) -> str:
    """Return what follows WEBSOCKET_URL in a path."""
    return path_info.removeprefix(settings.WEBSOCKET_URL)


def unwrapped(user: Any) -> Any:
    """Return what a lazy user stands for, and what is no user if it has not been loaded yet."""
    # Not ``isinstance``, for which a proxy of another kind loads what it stands for.
    while issubclass(type(user), LazyObject):
        user = user._wrapped
    return user


def _user_in(scope: dict[str, Any]) -> Any:
    """Return the user that a middleware has found, and nobody as one that counts as false.

    This never loads a lazy user: it is called on the event loop.
    """
    user = scope.get("user")
    return SimpleLazyObject(lambda: _load(user)) if unwrapped(user) is empty else _or_nobody(user)


def _load(user: Any) -> Any:
    getattr(user, "is_authenticated", None)  # which has the user loaded
    return _or_nobody(user)


def _or_nobody(user: Any) -> Any:
    from django.contrib.auth.models import AnonymousUser  # noqa: PLC0415 # see `nobody`

    found = unwrapped(user)
    return nobody() if found is None or issubclass(type(found), AnonymousUser) else user


def nobody() -> Any:
    """Return the user of a socket on which nobody is logged in."""
    # Imported late, as asgi.py imports this package before Django has loaded its models.
    from channels_ws4redis.handshake.anonymous import Anonymous  # noqa: PLC0415

    return Anonymous()
