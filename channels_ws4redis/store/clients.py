"""Connections to Redis: how they are made from the settings, and the process's own client."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import redis
import redis.asyncio
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from channels_ws4redis.conf import settings

#: Seconds. Publishing must fail soon when Redis is gone, and redis-py's own defaults differ from
#: release to release (none before 8, five seconds since).
TIMEOUTS = {"socket_connect_timeout": 3.0, "socket_timeout": 5.0}

#: The newer protocol brings nothing here. With it redis-py 8 switches on notifications about
#: maintenance, and then its asyncio pool hands out connections that Redis has closed meanwhile.
DEFAULTS = TIMEOUTS | {"protocol": 2}

#: What only the package's own settings understand; the rest goes to redis-py as it is.
SENTINEL_KEYS = ("sentinels", "service_name", "sentinel_kwargs")


def connection_kwargs() -> dict[str, Any]:
    """Return ``WS4REDIS_CONNECTION`` as arguments for redis-py's connection pools.

    A URL is passed as ``url``. A port given as text and an empty password, both common in legacy
    projects, are taken as meant.

    :raises django.core.exceptions.ImproperlyConfigured: if the port is no number.
    """
    configured = settings.WS4REDIS_CONNECTION
    if isinstance(configured, str):
        return {"url": configured}
    kwargs = {key: value for key, value in configured.items() if value not in (None, "")}
    for key in ("port", "db"):
        if key in kwargs:
            try:
                kwargs[key] = int(kwargs[key])
            except (TypeError, ValueError):
                raise ImproperlyConfigured(
                    f"WS4REDIS_CONNECTION[{key!r}] is {kwargs[key]!r}; it must be a number."
                ) from None
    # Payloads are bytes; a legacy project may have asked for text, which it never got.
    kwargs.pop("decode_responses", None)
    return kwargs


def make_client(connection: dict[str, Any] | None = None, **overrides: Any) -> redis.Redis:
    """Return a synchronous client on a pool of its own; it connects when first used.

    :param connection: redis-py's arguments; by default ``WS4REDIS_CONNECTION``.
    """
    # A retry after a timeout could publish twice: redis-py must leave retrying to its caller.
    retry = Retry(NoBackoff(), 0)
    kwargs = DEFAULTS | {"retry": retry} | (connection or connection_kwargs()) | overrides
    client = _make_client(redis.Redis, redis.ConnectionPool, Sentinel, kwargs)
    assert isinstance(client, redis.Redis)
    return client


def make_async_client(
    connection: dict[str, Any] | None = None, **overrides: Any
) -> redis.asyncio.Redis:
    """Return an asyncio client on a pool of its own; asyncio twin of `make_client`."""
    retry = AsyncRetry(NoBackoff(), 0)
    kwargs = DEFAULTS | {"retry": retry} | (connection or connection_kwargs()) | overrides
    client = _make_client(redis.asyncio.Redis, redis.asyncio.ConnectionPool, AsyncSentinel, kwargs)
    assert isinstance(client, redis.asyncio.Redis)
    return client


def _make_client(
    client_class: Any, pool_class: Any, sentinel_class: Any, kwargs: dict[str, Any]
) -> Any:
    if "sentinels" in kwargs:
        special = {key: kwargs.pop(key) for key in SENTINEL_KEYS if key in kwargs}
        sentinel = sentinel_class(
            special["sentinels"], sentinel_kwargs=special.get("sentinel_kwargs") or DEFAULTS
        )
        return sentinel.master_for(special.get("service_name", "mymaster"), **kwargs)
    if "url" in kwargs:
        url = kwargs.pop("url")
        return client_class(connection_pool=pool_class.from_url(url, **kwargs))
    if "unix_socket_path" in kwargs:
        # Redis() knows which connection class and which arguments fit; ConnectionPool() does not.
        for key in ("host", "port", "socket_keepalive", "socket_keepalive_options"):
            kwargs.pop(key, None)
    return client_class(**kwargs)


#: What redis-py raises when Redis cannot be reached.
UNREACHABLE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)


async def disconnect(client: redis.asyncio.Redis) -> None:
    """Close the connections of an asyncio client, those to sentinels included."""
    pool: Any = client.connection_pool
    sentinels = getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())
    for each in (pool, *(sentinel.connection_pool for sentinel in sentinels)):
        with contextlib.suppress(*UNREACHABLE):
            await each.disconnect()


_client: redis.Redis | None = None
_generation = 0
_lock = threading.Lock()


def get_client() -> redis.Redis:
    """Return the process's synchronous client.

    Its pool is thread-safe and drops connections inherited over a fork.
    """
    global _client
    client = _client
    if client is None:
        with _lock:
            client = _client = _client or make_client()
    return client


def is_own_client(client: Any) -> bool:
    """Tell whether a client is the one that `get_client` returns."""
    return client is not None and client is _client


def forget_connections() -> None:
    """Make everything that connects from now on read the settings anew."""
    global _client, _generation
    _client = None
    _generation += 1


def generation() -> int:
    """Return a number that changes whenever `forget_connections` is called."""
    return _generation


def _renew_lock() -> None:
    """Replace the lock in a forked child: another thread may have held it at the fork."""
    global _lock
    _lock = threading.Lock()


def _on_setting_changed(*, setting: str, **_: Any) -> None:
    if setting == "WS4REDIS_CONNECTION":
        forget_connections()


setting_changed.connect(_on_setting_changed)
os.register_at_fork(after_in_child=_renew_lock)


async def close_with_loop(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    """Arrange for the coroutine function ``close`` to be awaited when the running loop ends.

    ``asyncio.run``, uvicorn and asgiref end a loop with ``shutdown_asyncgens()``, which closes
    every generator that has been started and not finished: the one hook that asyncio has for this.
    Whoever calls must keep the result referenced.
    """

    async def waiter() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await close()

    generator = waiter()
    await anext(generator)
    return generator
