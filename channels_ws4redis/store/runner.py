"""Running scripts: one round trip, on connections that are kept; one link per event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import redis

from channels_ws4redis.store import clients as connections
from channels_ws4redis.store.clients import (
    UNREACHABLE,
    close_with_loop,
    disconnect,
    make_async_client,
)
from channels_ws4redis.store.scripts import WHO, Batch, Command, Outcome, Reply, Request, pack

#: By pool of redis-py: connections that have been taken out of it to be kept. Taking one from the
#: pool for each message, and giving it back, takes longer than packing and sending the message.
_kept: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def run(client: redis.Redis, commands: Sequence[Command]) -> list[Outcome]:
    """Run scripts in one round trip and return their replies or exceptions, in order.

    :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
    :raises redis.exceptions.TimeoutError: if it does not answer in time.
    """
    batch = Batch(commands)
    for _ in range(2):
        if not batch.take(_exchange(client.connection_pool, batch.requests())):
            break
        batch.prepare(*_exchange(client.connection_pool, [WHO]))
    return batch.outcomes


def _exchange(pool: Any, requests: Sequence[Request]) -> list[Outcome]:
    """Send requests in one go and return their replies.

    It is what a pipeline of redis-py does, without that one's bookkeeping.
    """
    kept = _kept.setdefault(pool, [])
    connection = _take(pool, kept)
    try:
        connection.send_packed_command(pack(requests))
        replies = [_read(connection) for _ in requests]
    except BaseException:
        connection.disconnect()  # there may be replies that nobody has read
        pool.release(connection)
        raise
    kept.append(connection)
    return replies


def _take(pool: Any, kept: list[Any]) -> Any:
    while True:
        try:
            connection = kept.pop()
        except IndexError:
            return pool.get_connection()
        if not _is_stale(connection):
            return connection
        connection.disconnect()
        pool.release(connection)


def _is_stale(connection: Any) -> bool:
    """Tell whether Redis has closed a connection, by restarting for instance."""
    try:
        return bool(connection.can_read())
    except UNREACHABLE:
        return True


def _read(connection: Any) -> Outcome:
    try:
        return connection.read_response()
    except redis.exceptions.ResponseError as error:
        return error


# In a forked child they are the parent's; closing our copies does not concern it.
os.register_at_fork(after_in_child=_kept.clear)


class Link:
    """The connection of one event loop to Redis, shared by every coroutine in it.

    Commands given while others are under way leave together in the next exchange: five hundred
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
        batch = Batch(commands)
        try:
            for _ in range(2):
                if not batch.take(await self._exchange(batch.requests())):
                    break
                batch.prepare(*await self._exchange([WHO]))
        except UNREACHABLE as error:
            return [_as_redis_error(error)] * len(commands)
        except Exception as error:  # noqa: BLE001 # each caller is to get it, and the sender lives on
            return [error] * len(commands)
        return batch.outcomes

    async def _exchange(self, requests: Sequence[Request]) -> list[Outcome]:
        pool: Any = self._client.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(pack(requests))
            return [await _aread(connection) for _ in requests]
        except BaseException:
            await connection.disconnect(nowait=True)  # there may be replies that nobody has read
            raise
        finally:
            await pool.release(connection)

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


async def _aread(connection: Any) -> Outcome:
    try:
        return await connection.read_response()
    except redis.exceptions.ResponseError as error:
        return error


_links: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, Link, Any]] = WeakKeyDictionary()


async def get_link() -> Link:
    """Return the running event loop's link to Redis."""
    loop = asyncio.get_running_loop()
    found = _links.get(loop)
    if found is not None:
        made_from, link, _ = found
        if made_from == connections.generation():
            return link
        del _links[loop]
        await link.close()
    link = Link()
    _links[loop] = connections.generation(), link, await close_with_loop(link.close)
    return link
