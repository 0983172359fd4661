"""Named channels: queues in Redis, each message of which is taken by one process.

Who asks for a message of an empty queue waits on the link to Redis, over which every new message
is announced, and asks again. A blocking command would need a connection for each channel, and
Redis would hand a message to a connection whose reader is just being cancelled.

Per named channel there is one key, and per group with named channels another one:

``asgi.queue:<channel>``
    a list of messages with their deadlines;
``asgi.members:<group>``
    a sorted set of named channels by the time at which their membership ends.

The scripts are in ``queue_*.lua``, whose first lines name keys and arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgpack
from channels.exceptions import ChannelFull

from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.clients import OF_REDIS, UNREACHABLE
from channels_ws4redis.store.commands import load_script
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.pubsub import Listener, Message
from channels_ws4redis.store.scripts import Command, Script
from channels_ws4redis.store.topics import Kind

logger = logging.getLogger(__name__)

#: Seconds between attempts to take a message while Redis cannot be asked.
RETRY = 1.0

_PUT = load_script("queue.lua", "queue_put.lua")
_TAKE = load_script("queue.lua", "queue_take.lua")
_RETURN = load_script("queue.lua", "queue_return.lua")
_JOIN = load_script("queue.lua", "queue_join.lua")
_LEAVE = Script("return redis.call('ZREM', KEYS[1], ARGV[1])")
_SEND_TO_GROUP = load_script("queue.lua", "queue_group.lua")
_CLEAR = load_script("queue.lua", "queue_clear.lua")


class Limits(NamedTuple):
    """What is kept of named channels, and for how long."""

    #: Seconds that a message may wait.
    expiry: float
    #: Seconds that a named channel is in a group after it was last put into it.
    group_expiry: float
    #: Returns how many messages may wait on a channel.
    capacity: Callable[[str], int]


class _Waiting:
    """Those on one event loop who want the next message of a channel. One at a time asks Redis."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        #: Set when there may be a message.
        self.woken = asyncio.Event()
        self.count = 0

    def wake(self, _: Any = None) -> None:
        """Note that there may be a message."""
        self.woken.set()


class Queues:
    """The named channels of a channel layer, as one event loop uses them.

    :param listener: of the same loop; has the connections.
    :param prefix: put before all keys.
    """

    def __init__(self, listener: Listener, prefix: str, limits: Limits) -> None:
        self._listener = listener
        self._prefix = prefix
        self._limits = limits
        #: By channel, while something is received there or its news are listened to.
        self._waiting: dict[str, _Waiting] = {}
        #: By queue, the task that puts back what was taken for somebody who has gone.
        self._returning: dict[str, asyncio.Task[None]] = {}

    async def put(self, channel: str, packed: bytes) -> None:
        """Put a message at the end of a queue.

        :raises channels.exceptions.ChannelFull: if too many messages wait there.
        :raises redis.exceptions.RedisError: if Redis cannot be reached, or refuses.
        """
        if await self._put([channel], packed):
            raise ChannelFull(channel)

    async def _put(self, channels: Sequence[str], packed: bytes) -> list[str]:
        """Put a message into some queues; return the channels that are full."""
        milliseconds = int(self._limits.expiry * 1000)
        replies = await self._listener.run(
            *(
                Command(
                    _PUT,
                    [queue_key(channel, self._prefix)],
                    [packed, self._limits.capacity(channel), milliseconds],
                )
                for channel in channels
            )
        )
        return [channel for channel, reply in zip(channels, replies, strict=True) if not reply]

    async def receive(self, channel: str) -> Message:
        """Return the next message of a channel, waiting for it.

        Redis may go meanwhile and come back. Once the message has been taken, nobody else gets it.

        :raises redis.exceptions.RedisError: if Redis refuses, or cannot be reached to begin with.
        """
        with self._one_of_those(channel) as waiting:
            async with waiting.turn:
                while True:
                    entry = await self._next(channel, waiting)
                    try:
                        message: Message = msgpack.unpackb(entry.partition(b" ")[2])
                        return message
                    except ValueError:
                        logger.exception("A message on %s cannot be understood", shown(channel))

    @contextlib.contextmanager
    def _one_of_those(self, channel: str) -> Iterator[_Waiting]:
        """Count somebody who waits; if the last one breaks that off, listen no more."""
        waiting = self._waiting.setdefault(channel, _Waiting())
        waiting.count += 1
        try:
            yield waiting
        except BaseException:
            if waiting.count == 1:
                del self._waiting[channel]
                self._listener.discard_channel(channel)
            raise
        finally:
            waiting.count -= 1

    async def _next(self, channel: str, waiting: _Waiting) -> bytes:
        """Return the next message with its deadline."""
        key = queue_key(channel, self._prefix)
        complained = False
        while True:
            waiting.woken.clear()
            listens = self._listener.hears(key, channel)
            try:
                entry = await self._take(key)
            except UNREACHABLE as error:
                if not listens:
                    raise
                if not complained:
                    logger.warning("Cannot receive on %s, trying again: %s", shown(channel), error)
                    complained = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY):
                        await waiting.woken.wait()
                continue
            if entry is not None:
                return entry
            if listens:
                await waiting.woken.wait()
            else:
                self._listener.receivers[channel] = waiting.wake
                await self._listener.subscribe(channel, {key: Kind.MESSAGE})

    async def _take(self, key: str) -> bytes | None:
        """Take the next message out of a queue, if there is one."""
        while key in self._returning:  # what is next is on its way back
            await asyncio.wait([self._returning[key]])
        work = self._listener.run(Command(_TAKE, [key], []))
        taking = asyncio.get_running_loop().create_task(work)
        try:
            # shield: what has been sent to Redis cannot be cancelled.
            (entry,) = await asyncio.shield(taking)
        except asyncio.CancelledError:
            self._returning[key] = this_loop().spawn(self._give_back(key, taking))
            self._returning[key].add_done_callback(lambda _: self._returning.pop(key))
            raise
        taken: bytes | None = entry
        return taken

    async def _give_back(self, key: str, taking: asyncio.Task[list[Any]]) -> None:
        """Put back what is being taken for somebody who has gone."""
        with contextlib.suppress(*OF_REDIS):
            (entry,) = await taking
            if entry is not None:
                await self._listener.run(Command(_RETURN, [key], [entry]))

    async def join(self, group: str, channel: str) -> None:
        """Put a named channel into a group."""
        milliseconds = int(self._limits.group_expiry * 1000)
        key = members_key(group, self._prefix)
        await self._listener.run(Command(_JOIN, [key], [channel, milliseconds]))

    async def leave(self, group: str, channel: str) -> None:
        """Take a named channel out of a group."""
        key = members_key(group, self._prefix)
        await self._listener.run(Command(_LEAVE, [key], [channel]))

    async def send_to_group(self, group: str, heard_on: str, packed: bytes) -> None:
        """Send a message to every channel in a group; one that is full misses it.

        :param heard_on: the pub/sub channel on which the other channels of the group hear it.
        :raises redis.exceptions.RedisError: if Redis cannot be reached, or refuses.
        """
        key = members_key(group, self._prefix)
        (named,) = await self._listener.run(Command(_SEND_TO_GROUP, [key], [heard_on, packed]))
        if named:
            for channel in await self._put([name.decode() for name in named], packed):
                logger.warning("Channel %s is full; a message was dropped", channel)

    async def clear(self) -> None:
        """Delete all queues of the layer, and take all named channels out of their groups."""
        for key in (queue_key, members_key):
            pattern = re.sub(r"([*?\[\]^\\-])", r"\\\1", key("", self._prefix)) + "*"
            cursor: bytes | int = 0
            while True:
                (cursor,) = await self._listener.run(Command(_CLEAR, [], [cursor, pattern]))
                if int(cursor) == 0:
                    break

    def wake(self) -> None:
        """Have all who wait look again, as they may have to listen anew."""
        for waiting in self._waiting.values():
            waiting.wake()


def queue_key(channel: str, prefix: str) -> str:
    """Return the key of a queue, and the pub/sub channel on which its news are announced."""
    return f"{prefix}asgi.queue:{channel}"


def members_key(group: str, prefix: str) -> str:
    """Return the key of the named channels in a group."""
    return f"{prefix}asgi.members:{group}"


def pack(message: Message) -> bytes:
    """Return a message as it goes through Redis.

    :raises TypeError: if it is no dict, or something in it cannot be serialised.
    :raises ValueError: if whoever receives it could not read it, as a key is no text.
    """
    require_message(message)
    packed: bytes = msgpack.packb(message)
    try:
        msgpack.unpackb(packed)
    except ValueError as error:
        raise ValueError(f"Nobody could read the message {message!r:.100}: {error}.") from None
    return packed


def require_message(message: Message) -> None:
    """Refuse what is no message.

    :raises TypeError: then.
    """
    if not isinstance(message, dict):
        raise TypeError(f"A message must be a dict, not {message!r:.100}.")
