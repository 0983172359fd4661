"""Reading many sessions at once, on the engines of Django, without writing anything.

An engine of the project's own is asked for one session after the other, elsewhere: only it knows
how that is done, and for whom. The same goes for the table or the cache in which it keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, Final

from django.contrib.sessions.backends import cache as cache_engine
from django.contrib.sessions.backends import cached_db, db, file
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookies
from django.core.cache import caches
from django.utils import timezone

from channels_ws4redis.conf import settings
from channels_ws4redis.handshake.managers import finds_as_django
from channels_ws4redis.handshake.sessions import exists, session_engine

#: Sockets whose sessions and users are read together. That takes a thread some milliseconds of
#: Python, for which the event loop has to wait.
AT_ONCE: Final = 100

#: By key, the data of those sessions that there are.
Found = dict[str, dict[str, Any]]

Reader = Callable[[Any, Collection[str]], Found]

#: What a class may have that extends one of Django's engines and leaves to it how to read: a model,
#: and ways of its own to write. Any other name may have a say in what is read.
_HARMLESS = {
    *("__module__", "__qualname__", "__doc__", "__annotations__"),
    *("__static_attributes__", "__firstlineno__"),
    *("get_model_class", "create_model_instance", "cache_key_prefix"),
    *("create", "acreate", "save", "asave"),
}

#: How Django writes the keys of sessions. A table or a cache might take one with a space, a NUL or
#: a capital letter for another one, or refuse all that are asked for together with it.
_ORDINARY = re.compile(r"[0-9a-z]{8,40}")


def can_read(key: str) -> bool:
    """Tell whether `read_sessions` tells for certain if there is a session of this key."""
    engine = session_engine()
    if _reader(engine) is None:
        return False
    return issubclass(engine, SignedCookies) or _ORDINARY.fullmatch(key) is not None


def read_sessions(keys: Collection[str]) -> Found:
    """Return the data of those sessions that there are, by their keys.

    A table or a cache is asked once for all. What can be read one by one only has none for this.
    This may block.

    :raises Exception: whatever says that the engine cannot be asked at the moment.
    """
    engine = session_engine()
    read = _reader(engine)
    return read(engine(), keys) if read is not None and keys else {}


def _reader(engine: type) -> Reader | None:
    """Return what reads the sessions of an engine; None if that has to be done one by one."""
    # Both of Django's engines with a cache have this attribute, and so has what extends them. The
    # function may name one session in another way for each socket, such as by its site.
    if hasattr(engine, "cache_key_prefix"):
        kept_in = caches.settings.get(settings.SESSION_CACHE_ALIAS, {})
        if kept_in.get("KEY_FUNCTION") is not None:
            return None
    return _reader_of(engine)


@cache
def _reader_of(engine: type) -> Reader | None:
    """Return what reads the sessions of an engine; None if it, or its table, has its own way."""
    base = next((cls for cls in engine.__mro__ if cls in _READERS), None)
    if base is None:
        return None
    own = {name for cls in engine.__mro__ if cls not in base.__mro__ for name in vars(cls)}
    if not own <= _HARMLESS:
        return None
    store: Any = engine()
    if isinstance(store, db.SessionStore) and not finds_as_django(store.model.objects):
        return None
    return _READERS[base]


def _read_table(store: Any, keys: Collection[str]) -> Found:
    rows = store.model.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
    return {row.session_key: store.decode(row.session_data) for row in rows}


def _read_cache(store: Any, keys: Collection[str]) -> Found:
    prefix = store.cache_key_prefix
    found = store._cache.get_many([prefix + key for key in keys])
    return {name.removeprefix(prefix): data for name, data in found.items()}


def _read_both(store: Any, keys: Collection[str]) -> Found:
    try:
        found = _read_cache(store, keys)
    except Exception:  # noqa: BLE001 # whatever the cache raises; the engine, too, goes on then
        found = {}
    others = [key for key in keys if key not in found]
    return found | _read_table(store, others) if others else found


def _read_each(store: Any, keys: Collection[str]) -> Found:
    stores = {key: type(store)(key) for key in keys}
    return {key: each._session_cache for key, each in stores.items() if exists(each)}


_READERS: dict[type, Reader] = {
    db.SessionStore: _read_table,
    cache_engine.SessionStore: _read_cache,
    cached_db.SessionStore: _read_both,
    file.SessionStore: _read_each,
    SignedCookies: _read_each,
}
