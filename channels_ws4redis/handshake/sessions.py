"""The session of a visitor: opened from a cookie, and looked at without writing anything.

An engine may write while it loads a session. Some save when the visitor was last seen, others make
a new session in place of one that they do not find, as Django's own does with an expired file. An
HTTP response brings the browser the key of the new session. A handshake cannot, and would leave a
session behind for each cookie that a stranger makes up.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from django.contrib.auth import get_user
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookies
from django.core.cache import caches
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.utils.functional import SimpleLazyObject

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.requests import WebSocketRequest, nobody, unwrapped


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
    return session_engine()(key)


def session_engine() -> Any:
    """Return the class of sessions."""
    return import_module(settings.SESSION_ENGINE).SessionStore


def are_in_cookies() -> bool:
    """Tell whether a cookie holds the session itself, and another one after each change of it."""
    return issubclass(session_engine(), SignedCookies)


def unshared_session_cache() -> str:
    """Return the class of the cache that keeps sessions, if other processes do not see into it.

    Empty for an engine without a cache, and for a cache that all processes share.
    """
    # Both of Django's engines with a cache have this attribute, and so has what extends them.
    if not hasattr(session_engine(), "cache_key_prefix"):
        return ""
    cache = caches[settings.SESSION_CACHE_ALIAS]
    return type(cache).__name__ if isinstance(cache, LocMemCache | DummyCache) else ""


def authenticate(request: WebSocketRequest) -> None:
    """Set the session and the user of a request. This may ask the database and so block."""
    request.session = open_session(request)
    if request.session is None:
        return
    drop_forged_session(request)
    user = user_of(request.session)
    request.user = nobody() if user is None else user


def user_of(session: Any) -> Any:
    """Return the user whom a session logs in; None for nobody. This may block."""
    if not exists(session):
        return None
    # Of a request, Django looks at the session alone.
    request = SimpleNamespace(session=SessionSnapshot(session._get_session()))
    user = get_user(request)  # type: ignore[arg-type] # see above
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
    """Give a request an empty session if there is none of its session's key. This may block."""
    session: Any = request.session
    if isinstance(session, SessionBase) and session.session_key and not exists(session):
        request.session = type(unwrapped(session))()


def session_key(session: Any) -> str | None:
    """Return the key of a session, None for one that is unsaved, has ended or is made up.

    This may block. A session that extends nothing of Django's is taken as it is.
    """
    if not getattr(session, "session_key", None):
        return None
    if isinstance(session, SessionBase) and not exists(session):
        return None
    return str(session.session_key)


def exists(session: Any) -> bool:
    """Tell whether there is a session of this key, and load it if nobody has looked at it yet."""
    store = unwrapped(session)
    if hasattr(store, "_session_cache"):
        if not isinstance(store, SignedCookies):
            return bool(store.session_key)  # whoever has loaded it has found it
        # When this engine finds the signature to be wrong, it leaves the session the key that it
        # was given.
        store = type(store)(store.session_key)
    return _load(store)


def _load(session: Any) -> bool:
    """Load a session without writing anything; False if there is none, it has no key then."""
    key = session.session_key
    given_up: list[bool] = []

    def give_up(*_: object, **__: object) -> None:
        given_up.append(True)

    def save(must_create: bool = False, *_: object, **__: object) -> None:
        if must_create:
            give_up()

    def delete(session_key: str | None = None, *_: object, **__: object) -> None:
        if session_key is None or session_key == key:  # not one that it sweeps up
            give_up()

    # An engine that begins anew, or deletes what it has found, has no session of this key. One
    # that saves or renames what it has found does.
    stand_ins: dict[str, Callable[..., None]] = {
        **dict.fromkeys(("create", "flush"), give_up),
        "save": save,
        "delete": delete,
        "cycle_key": lambda: None,
    }
    vars(session).update(stand_ins)
    try:
        session._get_session()
    except Exception:
        if not given_up:
            raise
        # It has looked for the session that it wanted to begin anew.
    finally:
        for name in stand_ins:
            del vars(session)[name]
    if given_up or session.session_key != key:
        session._session_key, session._session_cache = None, {}
    return bool(session.session_key)
