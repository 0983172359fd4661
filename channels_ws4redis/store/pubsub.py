"""Hearing what is published through Redis, and handing it to the channels of this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgpack
import redis
from channels.exceptions import ChannelFull

from channels_ws4redis.protocol.messages import EVENT_TYPE
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.clients import disconnect, make_async_client
from channels_ws4redis.store.inbox import Complaint, Inbox
from channels_ws4redis.store.links import Link
from channels_ws4redis.store.outages import server_address
from channels_ws4redis.store.refusals import explained
from channels_ws4redis.store.runner import Runner
from channels_ws4redis.store.scripts import Command
from channels_ws4redis.store.topics import Arrival, Kind, Topic, Topics

logger = logging.getLogger(__name__)

#: ``type`` of the message that tells a fan-out that the link to Redis had been lost and is back.
RELINKED_TYPE = "ws4redis.relinked"

#: ``type`` of the message that tells a fan-out that messages of one ``group`` were not handed on.
MISSED_TYPE = "ws4redis.missed"

#: ``type`` of the message that tells a fan-out that Redis refuses one ``group``, and the ``error``.
REFUSED_TYPE = "ws4redis.refused"

#: What an ACL needs for the project's other consumers.
LAYER_NEEDS = "~asgi.*, &asgi.* and the commands for them, see the manual on keys in Redis"

#: Seconds that joining a group may take; daphne gives a handshake five in all.
JOIN_TIMEOUT = 4.0

Message = dict[str, Any]
#: Takes a message, and may return what is done when the next one of its group may follow.
Handler = Callable[[Message], asyncio.Future[None] | None]


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
        self._client = make_async_client(connection, socket_timeout=None)
        pool: Any = self._client.connection_pool
        self._link = Link(pool.make_connection, self, lambda: server_address(pool))
        self._inbox = Inbox(self._hand_on, self._give_up, self._link.lose)
        self._queues: dict[str, asyncio.Queue[Message]] = {}
        #: By channel, the fan-outs of this process.
        self.receivers: dict[str, Handler] = {}
        self._topics = Topics()
        self._complaint = Complaint()

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

    async def run(self, *commands: Command) -> list[Any]:
        """Run scripts for other consumers, in one round trip, and return their replies.

        :raises redis.exceptions.RedisError: if Redis cannot be reached, does not answer in time, or
            refuses one of them.
        """
        outcomes = await self._runner.run(commands)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise explained(outcome, self._client, "use the channel layer", LAYER_NEEDS)
        return outcomes

    def hears(self, name: str, channel: str) -> bool:
        """Tell whether a channel listens on a pub/sub channel, or will once the link is back."""
        return self._topics.has(name, channel)

    async def subscribe(self, channel: str, heard: Mapping[str, Kind], group: str = "") -> None:
        """Make a channel listen on pub/sub channels; done once Redis has confirmed all of them.

        :param heard: the pub/sub channels, and what travels on each.
        :param group: see `topics.Topic`.
        :raises redis.exceptions.ConnectionError: if Redis does not confirm it in time.
        :raises redis.exceptions.NoPermissionError: if Redis's user may not hear one of them.
        """
        for error in (await self.join(channel, {group: heard})).values():
            raise error

    async def join(
        self, channel: str, groups: Mapping[str, Mapping[str, Kind]]
    ) -> dict[str, Exception]:
        """Make a channel listen on the pub/sub channels of some groups, in one round trip.

        :param groups: the pub/sub channels of each group, and what travels on them.
        :returns: the groups that Redis refuses, and why.
        :raises redis.exceptions.ConnectionError: if Redis does not confirm the others in time.
        """
        topics: dict[str, list[Topic]] = {}
        new: list[str] = []
        for group, heard in groups.items():
            topics[group], added = self._topics.add(channel, heard, group)
            new += added
        if new:
            self._link.open()
            self._link.subscribe(*new)
        elif all(topic.confirmed.done() for each in topics.values() for topic in each):
            return await _refusals(topics)  # at once, as for nearly every handshake
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                return await _refusals(topics)
        except TimeoutError:
            all_topics = [topic for each in topics.values() for topic in each]
            name = next((each.name for each in all_topics if not each.confirmed.done()), "")
            raise redis.exceptions.ConnectionError(
                f"Redis did not confirm the subscription to {shown(name)} within "
                f"{JOIN_TIMEOUT:.0f} s."
            ) from None

    def unsubscribe(self, channel: str, names: Iterable[str]) -> None:
        """Stop a channel from listening on pub/sub channels."""
        self._link.unsubscribe(*[name for name in names if self._topics.discard(name, channel)])

    def discard_channel(self, channel: str) -> None:
        """Forget a channel and all its subscriptions, and with the last one the link."""
        self._queues.pop(channel, None)
        self.receivers.pop(channel, None)
        left = [name for name in list(self._topics) if self._topics.discard(name, channel)]
        if self._topics:
            self._link.unsubscribe(*left)
        else:
            self._link.end()
            self._inbox.clear()

    async def close(self) -> None:
        """Forget everything and close all connections."""
        self._queues.clear()
        self.receivers.clear()
        self._topics.clear()
        self._inbox.clear()
        await self._link.close()
        await disconnect(self._client)
        await self._runner.close()

    def wanted(self) -> Iterable[str]:
        """Return the pub/sub channels that a new connection has to subscribe to."""
        return self._topics

    def confirm(self, name: str) -> None:
        """Let those go on who wait for the confirmation."""
        self._topics.confirm(name)

    def refuse(self, name: str, error: redis.exceptions.NoPermissionError) -> None:
        """Tell those who listen on a pub/sub channel that they will not hear it."""
        remedy = "+subscribe, and & with a pattern for that name"
        reason = explained(error, self._client, f"subscribe to {shown(name)}", remedy)
        topic = self._topics.refuse(name, reason)
        if topic is None or not topic.was_heard:
            return  # only those are concerned who wait for the answer
        for channel in list(topic.channels):
            if channel in self.receivers:
                refusal = {"type": REFUSED_TYPE, "group": topic.group, "error": reason}
                self.receivers[channel](refusal)
            else:
                logger.error("Channel %s gets no more messages: %s", channel, reason)

    def lose(self, error: Exception) -> None:
        """Tell those who wait for a confirmation that there will be none for now."""
        self._topics.lose(error)

    def relink(self) -> None:
        """Tell the fan-outs that they may have missed something."""
        for receiver in list(self.receivers.values()):
            receiver({"type": RELINKED_TYPE})
        self._inbox.go_on()  # the link may have been lost because the inbox did not

    def hear(self, name: str, data: bytes) -> None:
        """Take what was published on a pub/sub channel, and hand it on, now or in its turn."""
        try:
            arrival = self._topics.read(name, data)
        except Exception:
            logger.exception("A message on %s cannot be understood", shown(name))
            return
        if arrival is not None:
            self._inbox.put(arrival.topic.lane, arrival, len(data))

    def _hand_on(self, arrival: Arrival) -> asyncio.Future[None] | None:
        topic, content = arrival
        busy = None
        try:
            message = {"type": EVENT_TYPE, "event": content}
            for channel in list(topic.channels):
                if isinstance(content, bytes):
                    # Unpacked per channel, as each consumer may change what it gets.
                    message = msgpack.unpackb(content)
                busy = self._hand_over(channel, message) or busy
        except Exception:
            logger.exception("A message on %s cannot be understood", shown(topic.name))
        return busy

    def _hand_over(self, channel: str, message: Message) -> asyncio.Future[None] | None:
        take = self._taker(channel)
        try:
            return None if take is None else take(message)
        except asyncio.QueueFull:
            logger.warning("Channel %s is full; a message was dropped", channel)
            return None

    def _give_up(self, items: Sequence[Arrival]) -> None:
        """Have fan-outs read in the history what is not handed on; other consumers miss it."""
        for topic in {arrival.topic for arrival in items}:
            for channel in list(topic.channels):
                if channel in self.receivers:
                    self.receivers[channel]({"type": MISSED_TYPE, "group": topic.group})
        self._complaint.note(len(items), items[-1].topic.name)


async def _refusals(topics: Mapping[str, Sequence[Topic]]) -> dict[str, Exception]:
    """Wait for the confirmations of groups; return those that Redis refuses, and why."""
    refusals: dict[str, Exception] = {}
    for group, waiting in topics.items():
        try:
            for topic in waiting:
                await topic.wait()
        except redis.exceptions.NoPermissionError as error:
            refusals[group] = error
    return refusals
