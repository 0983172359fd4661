"""Connections to Redis: one pool per process for synchronous code, one link per event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

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


def _renew_lock() -> None:
    """Replace the lock in a forked child: another thread may have held it at the fork."""
    global _lock
    _lock = threading.Lock()


def _on_setting_changed(*, setting: str, **_: Any) -> None:
    if setting == "WS4REDIS_CONNECTION":
        forget_connections()


setting_changed.connect(_on_setting_changed)
os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script whose first line gives it the run id of the server it runs on.

    Redis forgets its scripts when it restarts, so a script that is still known proves that the
    server has not restarted since, and ``RUN`` in it is right without a look-up per call.
    """

    body: str

    def source(self, run_id: str) -> str:
        """Return the text for the server with this run id."""
        return f"local RUN = '{run_id}'\n{self.body}"

    def sha(self, run_id: str) -> str:
        """Return the digest under which that server knows the script."""
        return _sha(self.body, run_id)


@functools.lru_cache(maxsize=64)
def _sha(body: str, run_id: str) -> str:
    # SHA-1 is the name that EVALSHA asks for; nothing depends on its strength.
    return hashlib.sha1(Script(body).source(run_id).encode(), usedforsecurity=False).hexdigest()


class Command(NamedTuple):
    """A run of a script, as plain values, so that both kinds of client can send it."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes | int]


Reply = Any
Outcome = Reply | Exception

#: What redis-py raises when Redis cannot be reached.
UNREACHABLE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)


class _Batch:
    """Commands on their way through one pipeline; the body that `run` and `Link` share.

    A script that Redis does not know (restart, ``SCRIPT FLUSH``, first use) is sent in full; it has
    not run before, so nothing happens twice. ``SCRIPT LOAD`` would not do: Redis before 7 writes it
    to the append-only file and to replicas, which would then know the script under a run id that
    is not theirs.
    """

    #: Run id of the server that this process talked to last.
    run_id = ""

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.outcomes: list[Outcome] = [None] * len(commands)
        self.due: Sequence[int] = range(len(commands))
        self._unknown: set[Script] = set()

    def fill(self, pipeline: Any) -> None:
        """Put every command that has not run yet into a pipeline of either kind."""
        for index in self.due:
            script, keys, args = self.commands[index]
            if script in self._unknown:
                self._unknown.discard(script)
                run = "EVAL", script.source(self.run_id)
            else:
                run = "EVALSHA", script.sha(self.run_id)
            pipeline.execute_command(*run, len(keys), *keys, *args)

    def take(self, replies: Sequence[Outcome]) -> bool:
        """Keep the replies of a pipeline; tell whether there must be a second run."""
        lost = []
        for index, reply in zip(self.due, replies, strict=True):
            self.outcomes[index] = reply
            if isinstance(reply, redis.exceptions.NoScriptError):
                lost.append(index)
        self.due = lost
        return bool(lost)

    def prepare(self, info: Any) -> None:
        """Get ready for a second run on the server that answered ``INFO server`` thus."""
        # First for this batch alone: another thread may be talking to another server.
        _Batch.run_id = self.run_id = str(info.get("run_id", ""))
        self._unknown = {self.commands[index].script for index in self.due}


def run(client: redis.Redis, commands: Sequence[Command]) -> list[Outcome]:
    """Run scripts in one pipeline and return their replies or exceptions, in order.

    :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
    :raises redis.exceptions.TimeoutError: if it does not answer in time.
    """
    batch = _Batch(commands)
    for _ in range(2):
        pipeline = client.pipeline(transaction=False)
        batch.fill(pipeline)
        if not batch.take(pipeline.execute(raise_on_error=False)):
            break
        batch.prepare(client.info("server"))
    return batch.outcomes


class Link:
    """The connection of one event loop to Redis, shared by every coroutine in it.

    Commands given while others are under way leave together in the next pipeline: five hundred
    sockets that connect at once cost a handful of round trips on one connection.
    """

    def __init__(self) -> None:
        self._client = make_async_client(max_connections=2)
        self._pending: list[tuple[Command, asyncio.Future[Reply]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def run(self, commands: Sequence[Command]) -> list[Outcome]:
        """Run scripts and return their replies or exceptions, in order; asyncio twin of `run`.

        :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
        """
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        self._pending.extend(zip(commands, futures, strict=True))
        if self._sender is None:
            self._sender = loop.create_task(self._send())
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, asyncio.CancelledError):
                raise redis.exceptions.ConnectionError("The link to Redis was closed.")
            if isinstance(outcome, UNREACHABLE):
                raise outcome
        return outcomes

    async def _send(self) -> None:
        batch: list[tuple[Command, asyncio.Future[Reply]]] = []
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                outcomes = await self._execute([command for command, _ in batch])
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    _settle(future, outcome)
        finally:
            if self._sender is asyncio.current_task():
                self._sender = None
                batch, self._pending = [*batch, *self._pending], []
            for _, future in batch:
                future.cancel()  # without effect unless this task was cancelled

    async def _execute(self, commands: Sequence[Command]) -> list[Outcome]:
        batch = _Batch(commands)
        try:
            for _ in range(2):
                pipeline = self._client.pipeline(transaction=False)
                batch.fill(pipeline)
                if not batch.take(await pipeline.execute(raise_on_error=False)):
                    break
                batch.prepare(await self._client.info("server"))
        except UNREACHABLE as error:
            return [_as_redis_error(error)] * len(commands)
        except Exception as error:  # noqa: BLE001 # each caller is to get it, and the sender lives on
            return [error] * len(commands)
        return batch.outcomes

    async def renew(self) -> None:
        """Take a new connection for the next command: this one may be silent for ever."""
        with contextlib.suppress(*UNREACHABLE):
            await self._client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Close the connection; a later command opens a new one."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
            # A connection that is just being made is not yet known to the pool.
            await asyncio.wait([sender])
        # The sender cannot tell them if it was cancelled before its first step.
        pending, self._pending = self._pending, []
        for _, future in pending:
            future.cancel()
        await disconnect(self._client)


def _settle(future: asyncio.Future[Reply], outcome: Outcome) -> None:
    if future.done():
        return  # whoever waited was cancelled
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _as_redis_error(error: Exception) -> Exception:
    if isinstance(error, redis.exceptions.RedisError):
        return error
    return redis.exceptions.ConnectionError(str(error))


_links: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, Link, Any]] = WeakKeyDictionary()


async def get_link() -> Link:
    """Return the running event loop's link to Redis."""
    loop = asyncio.get_running_loop()
    found = _links.get(loop)
    if found is not None:
        generation, link, _ = found
        if generation == _generation:
            return link
        del _links[loop]
        await link.close()
    link = Link()
    _links[loop] = _generation, link, await close_with_loop(link.close)
    return link


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
