"""Hearing what is published through Redis, and handing it to the channels of this process."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgpack
import redis
from channels.exceptions import ChannelFull

from channels_ws4redis.protocol.messages import EVENT_TYPE, Event
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.clients import disconnect, make_async_client
from channels_ws4redis.store.commands import parse_envelope
from channels_ws4redis.store.links import Link
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.runner import Runner
from channels_ws4redis.store.scripts import Command, Script

logger = logging.getLogger(__name__)

#: ``type`` of the message that tells a fan-out that the link to Redis had been lost and is back.
RELINKED_TYPE = "ws4redis.relinked"

#: Seconds that joining a group may take; daphne gives a handshake five in all.
JOIN_TIMEOUT = 4.0

_PUBLISH = Script("return redis.call('PUBLISH', ARGV[1], ARGV[2])")

Message = dict[str, Any]
Handler = Callable[[Message], None]


class Kind(enum.Enum):
    """What travels on a Redis pub/sub channel. Its name alone tells, never what is heard there."""

    #: What consumers of the project send through the layer, packed.
    MESSAGE = enum.auto()
    #: Our own messages, in the envelopes that ``publish.lua`` writes.
    EVENT = enum.auto()
    #: Payloads alone, of legacy programs and for them.
    PAYLOAD = enum.auto()


class Topic:
    """One Redis pub/sub channel and the channels of this process that listen on it.

    :param group: the group whose messages are published on it, "" for that of a single channel.
    """

    def __init__(self, kind: Kind, group: str) -> None:
        self.kind = kind
        self.group = group
        self.channels: set[str] = set()
        #: Payloads to come that are copies, made for legacy servers, of events already heard.
        self.mirrors = 0
        self.renew()

    def renew(self) -> None:
        """Begin to wait for a confirmation, as there is another connection, or none."""
        #: Done once Redis has confirmed the subscription on the present connection.
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.mirrors = 0

    async def wait(self) -> None:
        """Wait until Redis has confirmed the subscription.

        :raises redis.exceptions.ConnectionError: if the link to Redis is lost meanwhile.
        """
        while not self.confirmed.done():
            # shield: the future is shared with everyone else who joins this group now.
            await asyncio.shield(self.confirmed)


class Listener:
    """The part of a channel layer that belongs to one event loop: its queues and its link.

    :param connection: redis-py's arguments, None for ``WS4REDIS_CONNECTION``.
    :param capacity: returns how many messages may wait on a channel.
    """

    def __init__(self, connection: dict[str, Any] | None, capacity: Callable[[str], int]) -> None:
        self._capacity = capacity
        # One connection for all, which keeps the order of what several coroutines send.
        self._runner = Runner(connection)
        # The link waits for messages for as long as it takes; it watches over silence by itself.
        self._client = make_async_client(connection, protocol=2, socket_timeout=None)
        pool: Any = self._client.connection_pool
        self._link = Link(pool.make_connection, self)
        self._queues: dict[str, asyncio.Queue[Message]] = {}
        #: By channel, the fan-outs of this process.
        self.receivers: dict[str, Handler] = {}
        self._topics: dict[str, Topic] = {}

    def open(self, channel: str) -> asyncio.Queue[Message]:
        """Return the queue of a channel, made when first asked for."""
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = asyncio.Queue(self._capacity(channel))
        return queue

    def _taker(self, channel: str) -> Handler | None:
        """Return what takes the messages of a channel, if it is one of this process."""
        if channel in self._queues:
            return self._queues[channel].put_nowait
        return self.receivers.get(channel)

    def put(self, channel: str, message: Message) -> bool:
        """Put a message on a local channel; False if the channel is not one of this process.

        :raises channels.exceptions.ChannelFull: if too many messages wait there.
        """
        take = self._taker(channel)
        if take is None:
            return False
        try:
            # A copy, as if it came from another process: sender and receiver may change their own.
            take(msgpack.unpackb(msgpack.packb(message)))
        except asyncio.QueueFull:
            raise ChannelFull(channel) from None
        return True

    async def publish(self, name: str, message: Message) -> None:
        """Publish a message of another consumer on a pub/sub channel.

        :raises redis.exceptions.RedisError: if Redis cannot be reached, does not answer in time, or
            refuses.
        """
        command = Command(_PUBLISH, [], [name, msgpack.packb(message)])
        (outcome,) = await self._runner.run([command])
        if isinstance(outcome, Exception):
            raise outcome

    def hears(self, name: str, channel: str) -> bool:
        """Tell whether a channel listens on a pub/sub channel, or will once the link is back."""
        topic = self._topics.get(name)
        return topic is not None and channel in topic.channels

    async def subscribe(self, channel: str, heard: Mapping[str, Kind], group: str = "") -> None:
        """Make a channel listen on pub/sub channels; done once Redis has confirmed all of them.

        :param heard: the pub/sub channels, and what travels on each.
        :param group: see `Topic`.
        :raises redis.exceptions.ConnectionError: if Redis does not confirm it in time.
        """
        new = {name: Topic(kind, group) for name, kind in heard.items() if name not in self._topics}
        self._topics |= new
        topics = [self._topics[name] for name in heard]
        for topic in topics:
            topic.channels.add(channel)
        if new:
            self._link.open()
            await self._link.subscribe(*new)
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                for topic in topics:
                    await topic.wait()
        except TimeoutError:
            names = " and ".join(map(repr, heard))
            raise redis.exceptions.ConnectionError(
                f"Redis did not confirm the subscription to {names} within {JOIN_TIMEOUT:.0f} s."
            ) from None

    async def unsubscribe(self, channel: str, names: Iterable[str]) -> None:
        """Stop a channel from listening on pub/sub channels."""
        left = [name for name in names if self._discard(name, channel)]
        if left:
            await self._link.unsubscribe(*left)

    def _discard(self, name: str, channel: str) -> bool:
        """Take a channel from a topic; tell whether Redis has to be told."""
        topic = self._topics.get(name)
        if topic is None:
            return False
        topic.channels.discard(channel)
        if topic.channels:
            return False
        del self._topics[name]
        return True

    def discard_channel(self, channel: str) -> None:
        """Forget a channel and all its subscriptions, and with the last one the link."""
        self._queues.pop(channel, None)
        self.receivers.pop(channel, None)
        left = [name for name in list(self._topics) if self._discard(name, channel)]
        if not self._topics:
            self._link.end()
            return
        if left:
            this_loop().spawn(self._link.unsubscribe(*left))

    async def close(self) -> None:
        """Forget everything and close all connections."""
        self._queues.clear()
        self.receivers.clear()
        self._topics.clear()
        await self._link.close()
        await disconnect(self._client)
        await self._runner.close()

    def wanted(self) -> Iterable[str]:
        """Return the pub/sub channels that a new connection has to subscribe to."""
        return self._topics

    def confirm(self, name: str) -> None:
        """Let those go on who wait for the confirmation."""
        topic = self._topics.get(name)
        if topic is not None and not topic.confirmed.done():
            topic.confirmed.set_result(None)

    def lose(self, error: Exception) -> None:
        """Tell those who wait for a confirmation that there will be none for now."""
        for topic in self._topics.values():
            if not topic.confirmed.done():
                topic.confirmed.set_exception(error)
                topic.confirmed.exception()  # nobody need be waiting
            topic.renew()

    def relink(self) -> None:
        """Tell the fan-outs that they may have missed something."""
        for receiver in list(self.receivers.values()):
            receiver({"type": RELINKED_TYPE})

    def hear(self, name: str, data: bytes) -> None:
        """Hand on what was published on a pub/sub channel."""
        topic = self._topics.get(name)
        if topic is None or not topic.confirmed.done():
            return  # for one who has left, though somebody may be about to come back
        try:
            self._hand_on(topic, data)
        except Exception:
            logger.exception("A message on %s cannot be understood", shown(name))

    def _hand_on(self, topic: Topic, data: bytes) -> None:
        if topic.kind is Kind.MESSAGE:
            # Unpacked per channel, as each consumer may change what it gets.
            for channel in list(topic.channels):
                self._hand_over(channel, msgpack.unpackb(data))
            return
        if topic.kind is Kind.EVENT:
            event, mirrored = parse_envelope(topic.group, data)
            if mirrored:
                self._expect_mirror(topic.group)
        elif topic.mirrors:
            topic.mirrors -= 1
            return
        else:
            event = Event(topic.group, data)
        message = {"type": EVENT_TYPE, "event": event}
        for channel in list(topic.channels):
            if channel in self.receivers:
                self.receivers[channel](message)

    def _expect_mirror(self, group: str) -> None:
        """Note that the event just heard follows a second time, as a bare payload.

        Both were published by one script and Redis keeps the order on one connection, so the next
        bare payload on that channel is the copy and no message of a legacy program.
        """
        bare = self._topics.get(group)
        if bare is not None and bare.confirmed.done():
            bare.mirrors += 1

    def _hand_over(self, channel: str, message: Message) -> None:
        take = self._taker(channel)
        if take is not None:
            try:
                take(message)
            except asyncio.QueueFull:
                logger.warning("Channel %s is full; a message was dropped", channel)
