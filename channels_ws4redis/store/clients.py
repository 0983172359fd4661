"""Clients and connections of redis-py: how they are made from the settings."""

from __future__ import annotations

import contextlib
import select
import socket
import time
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis
import redis.asyncio
import redis.asyncio.connection
from django.core.exceptions import ImproperlyConfigured
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from channels_ws4redis.conf import settings
from channels_ws4redis.store.outages import Outage, server_address
from channels_ws4redis.store.scripts import Role
from channels_ws4redis.store.sentinels import AsyncSentinels, Sentinels
from channels_ws4redis.store.silence import QUESTION, Silence, shortened

#: Seconds. Publishing must fail soon when Redis is gone, and redis-py's own defaults differ from
#: release to release (none before 8, five seconds since).
TIMEOUTS = {"socket_connect_timeout": 3.0, "socket_timeout": 5.0}

#: The same for one sentinel, which answers in a moment or not at all: another one is to be asked.
SENTINEL_TIMEOUTS = {"socket_connect_timeout": 1.0, "socket_timeout": 1.0}

#: Seconds without traffic until the system asks the other end for a sign of life, seconds between
#: two such questions, and how many without an answer end the connection. Firewalls forget a
#: connection after some minutes without traffic, and drop what is sent on it without a word. macOS
#: has another name for the first; what a system does not have is left to its own settings.
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

#: What holds unless the settings say otherwise. redis-py has keepalive by default since 8.
DEFAULTS = TIMEOUTS | {
    "socket_keepalive": True,
    "socket_keepalive_options": {
        getattr(socket, name): value for name, value in KEEPALIVE.items() if hasattr(socket, name)
    },
}

#: What holds whatever the settings, the query of a URL or the client of a caller say. Payloads are
#: bytes, and names are UTF-8. With the newer protocol redis-py 8 switches on notifications about
#: maintenance, and then its asyncio pool hands out connections that Redis has closed meanwhile. A
#: check of redis-py's after a pause would be a second round trip; see `MAX_PAUSE`.
NEEDS = {
    "decode_responses": False,
    "encoding": "utf-8",
    "protocol": 2,
    "health_check_interval": 0,
}

#: Arguments that say where Redis is, and who connects to it. None and "" count as absent there, as
#: in settings that are read from the environment. For other arguments None has a meaning.
PLACES = {
    "url", "host", "port", "db", "username", "password", "unix_socket_path",
    "sentinels", "service_name", "sentinel_kwargs",
}  # fmt: skip

#: What redis-py raises when Redis cannot be reached; and all that is of Redis, refusals among it.
UNREACHABLE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
OF_REDIS = (redis.exceptions.RedisError, OSError)

#: Connections that a `Pool` keeps while nobody uses them. A server that answers HTTP requests in
#: threads seldom has more of them publish in the same instant.
MAX_IDLE = 10

#: Seconds for which nobody may have used a connection that is used once more. Firewalls that forget
#: connections do so after minutes, and keepalive does not help in a process that was asleep.
MAX_PAUSE = 60.0


def connection_kwargs() -> dict[str, Any]:
    """Return ``WS4REDIS_CONNECTION`` as arguments for redis-py's connection pools.

    A URL is passed as ``url``. A port given as text and an empty password, both common in legacy
    projects, are taken as meant.

    :raises django.core.exceptions.ImproperlyConfigured: if the port is no number.
    """
    configured = settings.WS4REDIS_CONNECTION
    if isinstance(configured, str):
        return {"url": configured}
    return _arguments(configured, "WS4REDIS_CONNECTION")


def _arguments(given: Mapping[str, Any], origin: str) -> dict[str, Any]:
    kwargs = {
        key: value
        for key, value in given.items()
        if value != "" and (value is not None or key not in PLACES)
    }
    for key in ("port", "db"):
        if key in kwargs:
            try:
                kwargs[key] = int(kwargs[key])
            except (TypeError, ValueError):
                raise ImproperlyConfigured(
                    f"{origin}[{key!r}] is {kwargs[key]!r}; it must be a number."
                ) from None
    return kwargs


class _Classes(NamedTuple):
    """The synchronous or the asyncio classes of redis-py."""

    client: Any
    pool: Any
    sentinels: Any
    retry: Any
    parse_url: Any


_SYNC = _Classes(redis.Redis, redis.ConnectionPool, Sentinels, Retry, redis.connection.parse_url)
_ASYNC = _Classes(
    redis.asyncio.Redis,
    redis.asyncio.ConnectionPool,
    AsyncSentinels,
    AsyncRetry,
    redis.asyncio.connection.parse_url,
)


def make_client(connection: Mapping[str, Any] | None = None, **overrides: Any) -> redis.Redis:
    """Return a synchronous client on a pool of its own; it connects when first used.

    :param connection: redis-py's arguments; by default ``WS4REDIS_CONNECTION``.
    :param overrides: further arguments, which win over those, and over the query of a URL.
    :raises django.core.exceptions.ImproperlyConfigured: if the port is no number.
    """
    client = _make_client(_SYNC, connection, overrides)
    assert isinstance(client, redis.Redis)
    return client


def make_async_client(
    connection: Mapping[str, Any] | None = None, **overrides: Any
) -> redis.asyncio.Redis:
    """Return an asyncio client on a pool of its own; asyncio twin of `make_client`."""
    client = _make_client(_ASYNC, connection, overrides)
    assert isinstance(client, redis.asyncio.Redis)
    return client


def _make_client(
    classes: _Classes, connection: Mapping[str, Any] | None, overrides: dict[str, Any]
) -> Any:
    given = _arguments(connection, "hosts") if connection else connection_kwargs()
    # A retry after a timeout could publish twice: redis-py must leave retrying to its caller.
    no_retry = {"retry": classes.retry(NoBackoff(), 0)}
    url = given.pop("url", None)
    of_url = classes.parse_url(url) if url else {}
    kwargs = DEFAULTS | no_retry | given | of_url | overrides | NEEDS
    if "sentinels" in kwargs:
        own = kwargs.pop("sentinel_kwargs", {})
        sentinels = classes.sentinels(
            kwargs.pop("sentinels"), sentinel_kwargs=SENTINEL_TIMEOUTS | no_retry | own | NEEDS
        )
        return sentinels.master_for(kwargs.pop("service_name", "mymaster"), **kwargs)
    if "unix_socket_path" in kwargs or "path" in kwargs:
        # What belongs to TCP is refused there.
        for key in ("host", "port", "socket_keepalive", "socket_keepalive_options"):
            kwargs.pop(key, None)
    if url:
        # from_url() would let the query of the URL win over the overrides.
        return classes.client(connection_pool=classes.pool(**kwargs))
    # Redis() knows which connection class and which arguments fit; ConnectionPool() does not.
    return classes.client(**kwargs)


async def disconnect(client: redis.asyncio.Redis) -> None:
    """Close the connections of an asyncio client."""
    with contextlib.suppress(*UNREACHABLE):
        await client.connection_pool.disconnect()


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
        there = weakref.proxy(model)  # which must not live as long as we do
        #: Of Redis, as far as those notice who use connections.
        self.outage = Outage(lambda: f"connection for commands to Redis at {server_address(there)}")
        #: The same, for as long as it does not answer.
        self.silence = Silence()
        #: That of this Redis.
        self.role = Role()
        self._class = model.connection_class
        self._kwargs = kwargs | NEEDS
        #: Connections that nobody uses, and since when. Used with pop() and append() only, each of
        #: which is one step for all threads.
        self._idle: list[tuple[Any, float]] = []
        self._closed = False

    def take(self) -> Any:
        """Return a connection that works as far as can be told without asking Redis.

        :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
        :raises redis.exceptions.TimeoutError: if it cannot be reached in time.
        """
        while (connection := self._take_idle()) is not None:
            if not _is_closed(connection):
                return connection
            connection.disconnect()
        connection = self._class(**self._kwargs)
        connection.connect()
        return connection

    def look(self) -> bool:
        """Tell whether Redis answers, or fails at once, on a new connection."""
        connection = self._class(**shortened(self._kwargs))
        try:
            connection.connect()
            connection.send_command(*QUESTION)
            connection.read_response()
        except OF_REDIS as error:
            return not isinstance(error, redis.exceptions.TimeoutError)
        finally:
            connection.disconnect()
        return True

    def _take_idle(self) -> Any:
        try:
            connection, since = self._idle.pop()
        except IndexError:
            return None
        if time.monotonic() - since > MAX_PAUSE:
            connection.disconnect()
            self.drop_idle()  # which have waited for longer
            return None
        return connection

    def give_back(self, connection: Any) -> None:
        """Keep a connection, on which no reply is due any more, for the next one who takes it."""
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.disconnect()
        else:
            self._idle.append((connection, time.monotonic()))

    def discard(self, connection: Any) -> None:
        """Close a connection that has failed, and those that lead to the same server."""
        connection.disconnect()
        self.drop_idle()

    def drop_idle(self) -> None:
        """Close what nobody uses; whoever comes next connects anew, perhaps to another server."""
        self.role.forget()
        with contextlib.suppress(IndexError):
            while True:
                connection, _ = self._idle.pop()
                connection.disconnect()

    def close(self) -> None:
        """Close what nobody uses; what is in use is closed when it is given back."""
        self._closed = True
        self.drop_idle()


def _is_closed(connection: Any) -> bool:
    """Tell whether Redis has closed a connection, by restarting for instance."""
    try:
        # The end of a connection can be read, and so can what TLS sends by itself.
        return _has_news(connection) and bool(connection.can_read())
    except UNREACHABLE:
        return True


def _has_news(connection: Any) -> bool:
    """Tell whether anything has come on an idle connection, for all that the system knows.

    ``can_read`` of redis-py tries to read: five of the 80 microseconds that a publish takes.
    """
    own = getattr(connection, "_sock", None)
    if own is None or not hasattr(select, "poll"):  # Windows has none
        return True
    poll = select.poll()
    poll.register(own, select.POLLIN)
    return bool(poll.poll(0))
