"""The pub/sub connection of an event loop, which is made anew for as long as it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from typing import Any, Protocol

import redis

from channels_ws4redis.store.clients import UNREACHABLE
from channels_ws4redis.store.fairness import let_others
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.outages import Outage
from channels_ws4redis.store.unanswered import Unanswered

#: Seconds without a sign of life from Redis after which the link is tested, and after the same
#: time again given up.
SILENCE = 2.0

#: Seconds between attempts to reconnect: the first, and the longest.
BACKOFF = 0.05, 1.0

#: Seconds for connecting and the handshake.
CONNECT_TIMEOUT = 3.0

#: Messages and answers, and bytes, that are read before others get their turns.
MAX_READ, MAX_BYTES_READ = 200, 8 * 1024 * 1024


class LinkOwner(Protocol):
    """What is told of all that happens on a link."""

    def wanted(self) -> Iterable[str]:
        """Return the pub/sub channels that a new connection has to subscribe to."""

    def confirm(self, name: str) -> None:
        """Note that from now on everything published on a pub/sub channel is heard."""

    def refuse(self, name: str, error: redis.exceptions.NoPermissionError) -> None:
        """Note that Redis's user may not hear a pub/sub channel."""

    def hear(self, name: str, data: bytes) -> None:
        """Take what was published on a pub/sub channel."""

    def lose(self, error: Exception) -> None:
        """Note that nothing is heard any more, and that no confirmation holds."""

    def relink(self) -> None:
        """Note that all is heard again that may be, and that some may have been missed."""


class Link:
    """A connection that hears pub/sub channels.

    One task connects, subscribes and reads. However that task ends, the link is lost and a new task
    begins. A task may end without an error: what the owner calls runs in this task, and may cancel
    it. Only `end` and `close` are the end of the link.

    :param make_connection: returns an asyncio connection of redis-py, without a timeout for
        reading.
    :param where: returns the address of Redis, for the log.
    """

    def __init__(
        self, make_connection: Callable[[], Any], owner: LinkOwner, where: Callable[[], str]
    ) -> None:
        self._make_connection = make_connection
        self._owner = owner
        self._outage = Outage(lambda: f"link to Redis at {where()}")
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None
        #: While there is a connection it tests that, and while there is none it waits for the next.
        self._timer: asyncio.TimerHandle | None = None
        self._delay = BACKOFF[0]
        #: Tests in a row between which nothing was heard.
        self._silent_tests = 0
        #: On the present connection.
        self._unanswered = Unanswered()
        #: After a loss, what the new connection began with and that is not answered.
        self._relinking: set[str] | None = None

    def open(self) -> None:
        """Begin to connect, unless that has been done."""
        if self._task is None and self._timer is None:
            self._begin()

    def _begin(self) -> None:
        self._timer = None
        # In a context of its own: the link outlives the request that was the first to want it.
        self._task = asyncio.get_running_loop().create_task(
            self._live(), name="ws4redis-link", context=Context()
        )
        self._task.add_done_callback(self._on_done)

    def subscribe(self, *names: str) -> None:
        """Ask Redis for pub/sub channels; without a connection the next one will do that."""
        if names:
            self._ask("SUBSCRIBE", names)

    def unsubscribe(self, *names: str) -> None:
        """Tell Redis that pub/sub channels are not wanted any more."""
        if names:
            self._ask("UNSUBSCRIBE", names)

    def _ask(self, command: str, names: Sequence[str] = ()) -> None:
        """Send a command for each name, or one without.

        The order of the commands is that of the calls, also if somebody wants a channel at the
        moment at which somebody else has left it. Each is sent in a task of its own, and whole:
        redis-py closes a connection when sending is broken off, and all would be deaf without it.
        """
        if self._connection is not None:  # the next one begins with what is wanted then
            packed = self._unanswered.add(command, names)
            this_loop().spawn(self._send(self._connection, packed), "ws4redis-command")

    async def _send(self, connection: Any, packed: list[bytes]) -> None:
        try:
            if connection is self._connection:  # there may be another one by now
                await connection.send_packed_command(packed, check_health=False)
        except UNREACHABLE as error:
            if connection is self._connection:
                self.lose(str(error))

    def lose(self, fault: str) -> None:
        """Give up the present connection, as it does not work any more, and make another one."""
        self._connection = None
        if self._task is not None:
            self._task.cancel(fault)

    async def _live(self) -> None:
        """Connect, subscribe, and read until the connection is lost."""
        connection = self._make_connection()
        try:
            # The handshake has no timeout of its own: the link may wait for ever.
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connection.connect()
            self._connection = connection
            _widen(connection)
            self._silent_tests = 0
            self._test_later()
            names = list(self._owner.wanted())
            # Not also those that join later: there may always be somebody who does.
            self._relinking = None if self._relinking is None else set(names)
            self.subscribe(*names)
            await self._read(connection)
        finally:
            if self._connection is connection:
                self._connection = None  # or redis-py would open it again for the next command
            with contextlib.suppress(*UNREACHABLE):
                await connection.disconnect(nowait=True)

    async def _read(self, connection: Any) -> None:
        count = size = 0
        while True:
            reply = await _read_reply(connection)
            self._silent_tests = 0
            if isinstance(reply, list) and reply[0] == b"message":
                self._owner.hear(reply[1].decode(), reply[2])
                size += len(reply[2])
            else:
                self._take_answer(reply)
            count += 1
            if count > MAX_READ or size > MAX_BYTES_READ:
                count = size = 0
                await let_others(1)  # reading does not wait while there is something to read

    def _take_answer(self, reply: Any) -> None:
        name = self._unanswered.take()
        if name is None:
            return
        if isinstance(reply, redis.exceptions.NoPermissionError):
            self._owner.refuse(name, reply)
        else:
            self._owner.confirm(name)
        if self._relinking is None:
            self._outage.end()
            return
        self._relinking.discard(name)
        if not self._relinking:
            self._relinking = None
            self._outage.end()
            self._owner.relink()

    def _test_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SILENCE / 2, self._test)

    def _test(self) -> None:
        """Ask a silent Redis for an answer, and give the link up if there is none.

        Tests are counted, not seconds: after the event loop was held up, what has arrived meanwhile
        is read before the next test.
        """
        self._delay = BACKOFF[0]
        self._silent_tests += 1
        if self._silent_tests == 2:
            self._ask("PING")
        if self._silent_tests >= 4:
            self.lose(f"no answer for {SILENCE:.1f} s")
        else:
            self._test_later()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        reason = self._reason(task)
        if task is not self._task:
            return  # ended by ourselves
        self._forget()
        self._relinking = set()
        self._owner.lose(redis.exceptions.ConnectionError(str(reason) or repr(reason)))
        # Jitter, or all processes of a site would come back in the same instant.
        pause = self._delay * random.uniform(0.5, 1.0)  # noqa: S311 # no secret
        self._delay = min(2 * self._delay, BACKOFF[1])
        self._timer = asyncio.get_running_loop().call_later(pause, self._begin_again, reason)

    def _reason(self, task: asyncio.Task[None]) -> BaseException:
        try:
            reason = task.exception()
        except asyncio.CancelledError as cancelled:
            # By `lose` with its reason, or by anybody.
            fault = str(cancelled) or "the task that reads was cancelled"
            return redis.exceptions.ConnectionError(fault)
        return reason or redis.exceptions.ConnectionError("the task that reads ended")

    def _begin_again(self, reason: BaseException) -> None:
        # Not logged before: an event loop that ends cancels all tasks, and this is never reached.
        self._outage.begin(reason, None if isinstance(reason, UNREACHABLE) else reason)
        self._begin()

    def _forget(self) -> None:
        """Forget all that belongs to the present connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._task = self._timer = self._connection = None
        self._unanswered = Unanswered()

    def end(self) -> asyncio.Task[None] | None:
        """Give up the link for good, or until it is opened again.

        :returns: the task in which the connection is being closed, None if there is none.
        """
        task = self._task
        self._forget()
        self._relinking = None
        if task is not None:
            task.cancel()
        return task

    async def close(self) -> None:
        """Give up the link; done once the connection is closed."""
        task = self.end()
        if task is not None and task is not asyncio.current_task():
            await asyncio.wait([task])


async def _read_reply(connection: Any) -> Any:
    """Return the next message or answer; that Redis's user may not do something is an answer."""
    try:
        return await connection.read_response(disconnect_on_error=False)
    except redis.exceptions.NoPermissionError as refusal:
        return refusal


def _widen(connection: Any) -> None:
    """Let the event loop read all that Redis has sent whenever it comes by.

    While a process writes to many sockets, a round of its event loop may take 50 ms. By default
    asyncio reads 256 KiB in a round, and nothing in the next one as `StreamReader` is full. Redis
    would cut the link off for that. redis-py has no argument for either.
    To be deleted when redis-py passes a ``limit`` to ``open_connection``, and asyncio reads until
    nothing is left, as uvloop does.
    """
    reader: Any = getattr(connection, "_reader", None)
    if not isinstance(reader, asyncio.StreamReader):
        return
    reader._limit = MAX_BYTES_READ  # type: ignore[attr-defined] # not public
    transport: Any = connection._writer.transport
    usual = getattr(transport, "max_size", None)
    if not isinstance(usual, int):
        return  # not asyncio's own transport
    feed = reader.feed_data

    def feed_and_fit(data: Any) -> None:
        # Only after a read that was full: Python allocates as much as may be read, which takes
        # 10 us for this size.
        transport.max_size = usual if len(data) < usual else MAX_BYTES_READ
        feed(data)

    reader.feed_data = feed_and_fit  # type: ignore[method-assign] # called once for each read
