"""The Django request of a WebSocket handshake, and who has made it."""

from __future__ import annotations

import io
from copy import copy
from functools import cache
from importlib import import_module
from typing import Any

from django.contrib.auth import get_user
from django.contrib.sessions.backends.base import SessionBase
from django.core.cache import caches
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
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

    async def auser(self) -> Any:
        """Return the user, in the way in which Django's asynchronous views ask for one."""
        return self.user

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
    from django.contrib.auth.models import AnonymousUser  # noqa: PLC0415 # see `_nobody`

    found = unwrapped(user)
    return _nobody() if found is None or issubclass(type(found), AnonymousUser) else user


def _nobody() -> Any:
    # Imported late, as asgi.py imports this package before Django has loaded its models.
    from channels_ws4redis.handshake.anonymous import Anonymous  # noqa: PLC0415

    return Anonymous()


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


def unshared_session_cache() -> str:
    """Return the class of the cache that keeps sessions, if other processes do not see into it.

    Empty for an engine without a cache, and for a cache that all processes share.
    """
    # Both of Django's engines with a cache have this attribute, and so has what extends them.
    if not hasattr(import_module(settings.SESSION_ENGINE).SessionStore, "cache_key_prefix"):
        return ""
    cache = caches[settings.SESSION_CACHE_ALIAS]
    return type(cache).__name__ if isinstance(cache, LocMemCache | DummyCache) else ""


def authenticate(request: WebSocketRequest) -> None:
    """Set the session and the user of a request. This may ask the database and so block."""
    request.session = open_session(request)
    if request.session is None:
        return
    drop_forged_session(request)
    request.user = user_of(request.session) or _nobody()


def user_of(session: Any) -> Any:
    """Return the user whom a session logs in; None for nobody. This may ask the database."""
    user = _Visitor(SessionSnapshot(session._get_session())).get_user()
    return user if user.is_authenticated else None


def authenticate_when_asked(request: WebSocketRequest) -> None:
    """Have the session and the user of a request looked up once somebody looks at either.

    Looking asks the database then, at most once, and may block.
    """
    if open_session(request) is None:
        return
    # Not on the request itself, which would refer to itself by what is set here.
    other = copy(request)

    @cache
    def found() -> WebSocketRequest:
        authenticate(other)
        return other

    request.session = SimpleLazyObject(lambda: found().session)
    request.user = SimpleLazyObject(lambda: found().user)


def drop_forged_session(request: WebSocketRequest) -> None:
    """Give a request an empty session if the key of its session is made up. This may block.

    The engine of signed cookies, when it finds the signature to be wrong, begins an empty session
    and leaves it the key that it was given. That shows by a modified session; but whoever had the
    session first may have modified it too.
    """
    session: Any = request.session
    if not isinstance(session, SessionBase):
        return
    session._get_session()  # type: ignore[attr-defined] # not in the stubs
    if session.modified and session.session_key:
        again: Any = import_module(settings.SESSION_ENGINE).SessionStore(session.session_key)
        again._get_session()
        if again.modified:
            request.session = type(again)()


class _Visitor:
    """As much of a request as ``django.contrib.auth.get_user`` looks at."""

    def __init__(self, session: SessionBase) -> None:
        self.session = session

    def get_user(self) -> Any:
        return get_user(self)  # type: ignore[arg-type] # it looks at .session alone
