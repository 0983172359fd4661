"""The Django request of a WebSocket handshake, and who has made it."""

from __future__ import annotations

import io
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.utils.functional import LazyObject, SimpleLazyObject, cached_property, empty

from channels_ws4redis.handshake.paths import facility_of, path_info_of


class WebSocketRequest(ASGIRequest):
    """Django's own request class, made from the scope of a WebSocket.

    Session and user are those that a middleware has put into the scope, until `authenticate` or a
    hook sets others. Without a middleware there is no session, and the user is anonymous.

    :param scope: what the server says about the socket.
    :param age: seconds since the handshake began. A token that was good then may be too old by the
        time at which it is found out again what the socket may use.
    """

    session: Any
    user: Any
    age: float

    def __init__(self, scope: dict[str, Any], age: float = 0.0) -> None:
        scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), "http")
        query_string = scope.get("query_string", b"").decode("latin-1")
        http_scope = {**scope, "method": "GET", "scheme": scheme, "query_string": query_string}
        super().__init__(http_scope, io.BytesIO())
        self.path_info = self.META["PATH_INFO"] = path_info_of(scope)
        self.session = scope.get("session")
        self.user = _user_in(scope)
        self.age = age

    @cached_property
    def facility(self) -> str:
        """The facility of the socket; see `facility_of`, also for what it raises."""
        return facility_of(self)

    async def auser(self) -> Any:
        """Return the user, in the way in which Django's asynchronous views ask for one."""
        return self.user

    @property
    def environ(self) -> dict[str, Any]:
        """The same dictionary as ``META``, for hooks of legacy, whose request came from WSGI."""
        return self.META


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
