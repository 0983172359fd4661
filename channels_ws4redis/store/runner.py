"""Running scripts in one round trip: from any thread, or on the runner of an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import redis

from channels_ws4redis.store.clients import (
    MAX_PAUSE,
    OF_REDIS,
    UNREACHABLE,
    Pool,
    disconnect,
    make_async_client,
)
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.outages import Outage, server_address
from channels_ws4redis.store.process import this_process
from channels_ws4redis.store.scripts import Batch, Command, Reply, Request, Result, Role, pack
from channels_ws4redis.store.silence import QUESTION, NoAnswerError, Silence, shortened


def run(client: redis.Redis, commands: Sequence[Command]) -> list[Result]:
    """Run scripts in one round trip and return their replies or exceptions, in order.

    :param client: of the Redis to run them on; none of its own connections is used.
    :raises TypeError: if it is no synchronous client of redis-py.
    :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
    :raises NoAnswerError: if it does not answer in time; at once while it is known not to.
    """
    pool = this_process().pool_of(client)
    if not commands:
        return []
    if pool.silence.lasts:
        _require_answers(pool)
    batch = Batch(commands, pool.role)
    asked = time.monotonic()
    try:
        while batch.due:
            if batch.take(_exchange(pool, batch.requests())):
                pool.drop_idle()  # they lead to the server that has refused
    except UNREACHABLE as error:
        pool.outage.begin(error)
        if isinstance(error, redis.exceptions.TimeoutError):
            _look(pool, asked)  # it may have been the connection alone that was silent
            raise NoAnswerError(str(error)) from error
        raise
    pool.outage.end()
    pool.silence.end()
    return batch.outcomes


def _require_answers(pool: Pool) -> None:
    if pool.silence.take_look():
        _look(pool, time.monotonic())
    if pool.silence.lasts:
        raise pool.silence.error()


def _look(pool: Pool, asked: float) -> None:
    if pool.look():
        pool.silence.end()
    else:
        pool.silence.begin(asked)


def look_again(client: redis.Redis) -> None:
    """Look whether Redis answers again, if it is known not to; for those whom nobody waits for."""
    pool = this_process().pool_of(client)
    if pool.silence.lasts:
        _look(pool, time.monotonic())


def _exchange(pool: Pool, requests: Sequence[Request]) -> list[Result]:
    """Send requests in one go and return their replies.

    It is what a pipeline of redis-py does, without that one's bookkeeping.
    """
    connection = pool.take()
    try:
        connection.send_packed_command(pack(requests))
        replies = [_read(connection) for _ in requests]
    except BaseException:
        pool.discard(connection)  # there may be replies that nobody has read
        raise
    pool.give_back(connection)
    return replies


def _read(connection: Any) -> Result:
    try:
        return connection.read_response()
    except redis.exceptions.ResponseError as error:
        return error


class Runner:
    """Runs the scripts of all coroutines of one event loop, on one connection.

    Commands given while others are under way leave together in the next exchange: five hundred
    sockets that connect at once cost a handful of round trips.

    :param connection: redis-py's arguments, None for ``WS4REDIS_CONNECTION``.
    """

    def __init__(self, connection: dict[str, Any] | None = None) -> None:
        #: That of the process when the connection's settings were read.
        self.generation = this_process().generation
        self._client = make_async_client(connection, max_connections=2)
        pool = self._client.connection_pool
        self._outage = Outage(lambda: f"connection for commands to Redis at {server_address(pool)}")
        self._silence = Silence()
        self._role = Role()
        #: When the connection was last used, by `time.monotonic`; 0 if it was not.
        self._used = 0.0
        #: True if the next exchange must not take the connection that there is.
        self._stale = False
        #: What waits to be sent, and what has been sent and not been answered.
        self._pending: list[tuple[Command, asyncio.Future[Reply]]] = []
        self._under_way: list[tuple[Command, asyncio.Future[Reply]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def require_answers(self) -> None:
        """Fail at once while Redis is known not to answer, for those whom a page waits for.

        `run` asks Redis all the same: the fan-out and the channel layer have to know at once when
        it is back.

        :raises NoAnswerError: if it is known not to.
        """
        silence = self._silence
        if silence.lasts and silence.take_look():
            await self._look(time.monotonic())
        if silence.lasts:
            raise silence.error()

    async def _look(self, asked: float) -> None:
        """Find out, on a connection of its own, whether Redis answers or fails at once."""
        pool: Any = self._client.connection_pool
        connection = pool.connection_class(**shortened(pool.connection_kwargs))
        try:
            await connection.connect()
            await connection.send_command(*QUESTION)
            await connection.read_response()
        except (redis.exceptions.TimeoutError, TimeoutError):
            self._silence.begin(asked)
        except OF_REDIS:
            self._silence.end()
        else:
            self._silence.end()
        finally:
            with contextlib.suppress(*UNREACHABLE):
                await connection.disconnect(nowait=True)

    async def run(self, commands: Sequence[Command]) -> list[Result]:
        """Run scripts and return their replies or exceptions, in order; asyncio twin of `run`.

        :raises redis.exceptions.ConnectionError: if Redis cannot be reached.
        :raises NoAnswerError: if it does not answer in time.
        """
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        self._pending.extend(zip(commands, futures, strict=True))
        self._send_soon()
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, UNREACHABLE):
                raise outcome
        return outcomes

    def _send_soon(self) -> None:
        if self._sender is None and self._pending:
            self._sender = this_loop().spawn(self._send(), name="ws4redis-sender")
            self._sender.add_done_callback(self._on_sender_done)

    async def _send(self) -> None:
        while self._pending:
            self._under_way, self._pending = self._pending, []
            outcomes = await self._execute([command for command, _ in self._under_way])
            for (_, future), outcome in zip(self._under_way, outcomes, strict=True):
                _settle(future, outcome)
            self._under_way = []

    def _on_sender_done(self, sender: asyncio.Task[None]) -> None:
        """Leave nobody waiting, whatever has ended the sender, and go on with what is not sent.

        A task can also be cancelled by code that runs in it, and before its first step.
        """
        if sender is not self._sender:
            return  # closed meanwhile
        self._sender = None
        self._fail(self._under_way, "Sending to Redis was interrupted.")
        self._send_soon()

    def _fail(self, waiting: list[tuple[Command, asyncio.Future[Reply]]], reason: str) -> None:
        for _, future in waiting:
            _settle(future, redis.exceptions.ConnectionError(reason))
        waiting.clear()

    async def _execute(self, commands: Sequence[Command]) -> list[Result]:
        batch = Batch(commands, self._role)
        asked = time.monotonic()
        try:
            while batch.due:
                if batch.take(await self._exchange(batch.requests())):
                    self.renew()
            self._outage.end()
            self._silence.end()
        except UNREACHABLE as error:
            self._role.forget()
            self._outage.begin(error)
            if isinstance(error, redis.exceptions.TimeoutError):
                await self._look(asked)  # it may have been the connection alone that was silent
            batch.fail(_as_redis_error(error))
        except UnicodeEncodeError as error:  # nothing has been sent
            if len(commands) > 1:
                return [(await self._execute([each]))[0] for each in commands]
            batch.fail(error)
        except Exception as error:  # noqa: BLE001 # each caller is to get it, and the sender lives on
            batch.fail(error)
        return batch.outcomes

    async def _exchange(self, requests: Sequence[Request]) -> list[Result]:
        pool: Any = self._client.connection_pool
        connection = await pool.get_connection()
        try:
            if self._stale or 0 < self._used < time.monotonic() - MAX_PAUSE:
                self._stale = False
                await connection.disconnect(nowait=True)
                await connection.connect()
            await connection.send_packed_command(pack(requests))
            replies = [await _aread(connection) for _ in requests]
        except BaseException:
            await connection.disconnect(nowait=True)  # there may be replies that nobody has read
            raise
        finally:
            await pool.release(connection)
        self._used = time.monotonic()
        return replies

    def renew(self) -> None:
        """Take a new connection for the next command: this one may be silent for ever.

        It is not closed here. An exchange may be about to take it, and would find it half closed.
        """
        self._role.forget()
        self._stale = True

    async def close(self) -> None:
        """Close the connection and fail those who wait; a later command opens a new one."""
        sender, self._sender = self._sender, None
        waiting = self._under_way + self._pending
        self._under_way, self._pending = [], []
        self._fail(waiting, "The connection to Redis was closed.")
        if sender is not None:
            sender.cancel()
            # A connection that is just being made is not yet known to the pool.
            await asyncio.wait([sender])
        await disconnect(self._client)


def _settle(future: asyncio.Future[Reply], outcome: Result) -> None:
    if future.done():
        return  # whoever waited was cancelled
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _as_redis_error(error: Exception) -> Exception:
    if isinstance(error, redis.exceptions.TimeoutError):
        return NoAnswerError(str(error))
    if isinstance(error, redis.exceptions.RedisError):
        return error
    return redis.exceptions.ConnectionError(str(error))


async def _aread(connection: Any) -> Result:
    try:
        return await connection.read_response()
    except redis.exceptions.ResponseError as error:
        return error


def get_runner() -> Runner:
    """Return the runner of the running event loop, for the present connection settings."""
    loop = this_loop()
    runner = loop.get(Runner, Runner)
    if runner.generation != this_process().generation:
        loop.forget(Runner, runner)
        loop.spawn(runner.close())
        runner = loop.get(Runner, Runner)
    return runner
