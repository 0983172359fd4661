"""The Redis pub/sub channels that a process hears, and what a message on one of them is."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from channels_ws4redis.protocol.messages import Event, Question
from channels_ws4redis.store.commands import parse_envelope


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

    def __init__(self, name: str, kind: Kind, group: str) -> None:
        self.name = name
        self.kind = kind
        self.group = group
        self.channels: set[str] = set()
        #: True once Redis has confirmed the subscription, be it on an earlier connection.
        self.was_heard = False
        #: Payloads to come that are copies, made for legacy servers, of events already heard.
        self.mirrors = 0
        self.renew()

    @property
    def lane(self) -> str:
        """Whose order its messages keep: events and payloads of a group are in one."""
        return self.name if self.kind is Kind.MESSAGE else self.group

    def renew(self) -> None:
        """Begin to wait for a confirmation, as there is another connection, or none."""
        #: Done once Redis has confirmed the subscription on the present connection.
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.mirrors = 0

    async def wait(self) -> None:
        """Wait until Redis has confirmed the subscription.

        :raises redis.exceptions.ConnectionError: if the link to Redis is lost meanwhile.
        :raises redis.exceptions.NoPermissionError: if Redis refuses.
        """
        while not self.confirmed.done():
            # shield: the future is shared with everyone else who joins this group now.
            await asyncio.shield(self.confirmed)
        self.confirmed.result()

    def fail(self, error: Exception) -> None:
        """Tell those who wait for the confirmation that there will be none for now."""
        if not self.confirmed.done():
            self.confirmed.set_exception(error)
            self.confirmed.exception()  # nobody need be waiting


class Arrival(NamedTuple):
    """A message that is to be handed on."""

    topic: Topic
    #: A packed message of other consumers is bytes.
    content: Event | Question | bytes


class Topics:
    """The pub/sub channels of one link.

    What is heard is judged when it is read, in the order of the link, however late it is handed on.
    """

    def __init__(self) -> None:
        self._topics: dict[str, Topic] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)

    def has(self, name: str, channel: str) -> bool:
        """Tell whether a channel listens on a pub/sub channel."""
        topic = self._topics.get(name)
        return topic is not None and channel in topic.channels

    def add(
        self, channel: str, heard: Mapping[str, Kind], group: str
    ) -> tuple[list[Topic], list[str]]:
        """Let a channel listen; return the topics, and the names of those that are new."""
        new = [name for name in heard if name not in self._topics]
        for name in new:
            self._topics[name] = Topic(name, heard[name], group)
        topics = [self._topics[name] for name in heard]
        for topic in topics:
            topic.channels.add(channel)
        return topics, new

    def discard(self, name: str, channel: str) -> bool:
        """Take a channel from a topic; tell whether Redis has to be told."""
        topic = self._topics.get(name)
        if topic is None:
            return False
        topic.channels.discard(channel)
        if topic.channels:
            return False
        del self._topics[name]
        return True

    def clear(self) -> None:
        """Forget everything."""
        for topic in self._topics.values():
            topic.channels.clear()
        self._topics.clear()

    def confirm(self, name: str) -> None:
        """Let those go on who wait for the confirmation."""
        topic = self._topics.get(name)
        if topic is not None and not topic.confirmed.done():
            topic.confirmed.set_result(None)
            topic.was_heard = True

    def refuse(self, name: str, error: Exception) -> Topic | None:
        """Forget a topic, as Redis refuses it; return the topic, None if it is not wanted."""
        topic = self._topics.pop(name, None)
        if topic is not None:
            topic.fail(error)
        return topic

    def lose(self, error: Exception) -> None:
        """Tell those who wait for a confirmation that there will be none for now."""
        for topic in self._topics.values():
            topic.fail(error)
            topic.renew()

    def read(self, name: str, data: bytes) -> Arrival | None:
        """Return what was published on a pub/sub channel, None if it is not for us.

        :raises ValueError: if it is an envelope that was written by none of `commands`.
        """
        topic = self._topics.get(name)
        if topic is None or not topic.confirmed.done():
            return None  # for one who has left, though somebody may be about to come back
        if topic.kind is Kind.MESSAGE:
            return Arrival(topic, data)
        if topic.kind is Kind.EVENT:
            event, mirrored = parse_envelope(topic.group, data)
            if mirrored:
                self._expect_mirror(topic.group)
            return Arrival(topic, event)
        if topic.mirrors:
            topic.mirrors -= 1
            return None
        return Arrival(topic, Event(topic.group, data))

    def _expect_mirror(self, group: str) -> None:
        """Note that the event just heard follows a second time, as a bare payload.

        Both were published by one script and Redis keeps the order on one connection, so the next
        bare payload on that channel is the copy and no message of a legacy program.
        """
        bare = self._topics.get(group)
        if bare is not None and bare.confirmed.done():
            bare.mirrors += 1
