"""Clients and connections of redis-py: how they are made from the settings."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import redis
import redis.asyncio
import redis.asyncio.connection
from django.core.exceptions import ImproperlyConfigured
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

#: What redis-py raises when Redis cannot be reached.
UNREACHABLE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)

#: Connections that a `Pool` keeps while nobody uses them. A server that answers HTTP requests in
#: threads seldom has more of them publish in the same instant.
MAX_IDLE = 10


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


class _Kind(NamedTuple):
    """The synchronous or the asyncio classes of redis-py."""

    client: Any
    pool: Any
    sentinel: Any
    retry: Any
    parse_url: Any


_SYNC = _Kind(redis.Redis, redis.ConnectionPool, Sentinel, Retry, redis.connection.parse_url)
_ASYNC = _Kind(
    redis.asyncio.Redis,
    redis.asyncio.ConnectionPool,
    AsyncSentinel,
    AsyncRetry,
    redis.asyncio.connection.parse_url,
)


def make_client(connection: dict[str, Any] | None = None, **overrides: Any) -> redis.Redis:
    """Return a synchronous client on a pool of its own; it connects when first used.

    :param connection: redis-py's arguments; by default ``WS4REDIS_CONNECTION``.
    :param overrides: further arguments, which win over those, and over the query of a URL.
    """
    client = _make_client(_SYNC, connection or connection_kwargs(), overrides)
    assert isinstance(client, redis.Redis)
    return client


def make_async_client(
    connection: dict[str, Any] | None = None, **overrides: Any
) -> redis.asyncio.Redis:
    """Return an asyncio client on a pool of its own; asyncio twin of `make_client`."""
    client = _make_client(_ASYNC, connection or connection_kwargs(), overrides)
    assert isinstance(client, redis.asyncio.Redis)
    return client


def _make_client(kind: _Kind, connection: dict[str, Any], overrides: dict[str, Any]) -> Any:
    # A retry after a timeout could publish twice: redis-py must leave retrying to its caller.
    kwargs = DEFAULTS | {"retry": kind.retry(NoBackoff(), 0)} | connection | overrides
    if "sentinels" in kwargs:
        special = {key: kwargs.pop(key) for key in SENTINEL_KEYS if key in kwargs}
        sentinel = kind.sentinel(
            special["sentinels"], sentinel_kwargs=special.get("sentinel_kwargs") or DEFAULTS
        )
        return sentinel.master_for(special.get("service_name", "mymaster"), **kwargs)
    if "url" in kwargs:
        # from_url() would let the query of the URL win over the overrides.
        kwargs |= kind.parse_url(kwargs.pop("url")) | overrides
        kwargs.pop("decode_responses", None)
        return kind.client(connection_pool=kind.pool(**kwargs))
    if "unix_socket_path" in kwargs:
        # Redis() knows which connection class and which arguments fit; ConnectionPool() does not.
        for key in ("host", "port", "socket_keepalive", "socket_keepalive_options"):
            kwargs.pop(key, None)
    return kind.client(**kwargs)


async def disconnect(client: redis.asyncio.Redis) -> None:
    """Close the connections of an asyncio client, those to sentinels included."""
    pool: Any = client.connection_pool
    sentinels = getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())
    for each in (pool, *(sentinel.connection_pool for sentinel in sentinels)):
        with contextlib.suppress(*UNREACHABLE):
            await each.disconnect()


class Pool:
    """Connections of the package's own to the Redis of a synchronous client; safe for threads.

    The connections are made as the pool of the client makes its own, and are none of them. A
    caller's pool may be capped, and redis-py takes longer to hand out a connection and to take it
    back than to send a message. There are never more connections than threads that use one at the
    same time.

    :param model: the ``connection_pool`` of a redis-py client.
    """

    def __init__(self, model: redis.ConnectionPool) -> None:
        kwargs = {
            key: value
            for key, value in model.connection_kwargs.items()
            # They belong to the newer protocol, and refer to the pool of the client.
            if "maint_notifications" not in key
        }
        self._class = model.connection_class
        self._kwargs = kwargs | {"decode_responses": False, "protocol": 2}
        # Used with pop() and append() only, each of which is one step for all threads.
        self._idle: list[Any] = []
        self._closed = False

    def take(self) -> Any:
        """Return a connection that works as far as can be told without asking Redis.

        :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
        :raises redis.exceptions.TimeoutError: if it cannot be reached in time.
        """
        connection = self._take_idle()
        while connection is not None and _is_stale(connection):
            connection.disconnect()
            connection = self._take_idle()
        if connection is None:
            connection = self._class(**self._kwargs)
            connection.connect()
        return connection

    def _take_idle(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def give_back(self, connection: Any) -> None:
        """Keep a connection, on which no reply is due any more, for the next one who takes it."""
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.disconnect()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close what nobody uses; what is in use is closed when it is given back."""
        self._closed = True
        while (connection := self._take_idle()) is not None:
            connection.disconnect()


def _is_stale(connection: Any) -> bool:
    """Tell whether Redis has closed a connection, by restarting for instance."""
    try:
        return bool(connection.can_read())
    except UNREACHABLE:
        return True
