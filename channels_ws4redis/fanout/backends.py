"""How a process publishes, hears and reads: one interface, chosen once for a channel layer.

A `Backend` belongs to a layer and serves publishers in any thread. Its `Feed` belongs to one
event loop and serves the fan-out there::

    backend = backend_of(get_channel_layer())
    backend.publish(Publication(["broadcast:foo"], b"Hello", expire=3600))
    feed = backend.feed(fanout)
    await feed.open()
    refused = await feed.join(["broadcast:foo"])  # fanout.receive(event) is called from now on
    [reading] = await backend.aread(["broadcast:foo"])
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from channels_ws4redis.protocol.history import Reading
from channels_ws4redis.protocol.messages import Event, Positions, Question
from channels_ws4redis.store.commands import Publication


class Receiver(Protocol):
    """What a feed calls: the fan-out."""

    def receive(self, event: Event | Question) -> asyncio.Future[None] | None:
        """Take a message, or answer a question.

        :returns: None if the next message of the channel may follow at once, or what is done when
            it may: messages are on their way to many sockets.
        """

    def suspect(self, channel: str) -> None:
        """Learn that messages of a channel were not handed on."""

    def suspect_all(self) -> None:
        """Learn that messages may have been lost on any channel."""

    def refuse(self, channel: str, error: Exception) -> None:
        """Learn that Redis refuses a channel that was listened on."""

    def channels(self) -> list[str]:
        """Return the names of the channels that are listened on."""

    async def refresh(self, channels: Sequence[str]) -> None:
        """Read the histories of channels, and make good what they have that did not arrive."""


class Feed(ABC):
    """The part of a backend that brings one event loop the messages of the layer."""

    #: Channels that may be joined or left at once.
    at_once = 500

    @abstractmethod
    async def open(self) -> None:
        """Begin to receive."""

    @abstractmethod
    async def join(self, channels: Sequence[str]) -> Mapping[str, Exception]:
        """Listen on channels; done once nothing can be missed any more.

        :param channels: not more than may be joined at once.
        :returns: those that cannot be listened on while the others can, and why.
        :raises redis.exceptions.ConnectionError: if it cannot be made sure of in time.
        """

    async def ensure(self, channel: str) -> None:  # noqa: B027 # most layers notice nothing
        """Wait until a channel is heard that has been joined, where a lost link is noticed.

        :raises redis.exceptions.ConnectionError: if it cannot be made sure of in time.
        """

    @abstractmethod
    async def leave(self, channels: Sequence[str]) -> None:
        """Listen no more on channels."""

    @abstractmethod
    async def close(self) -> None:
        """Receive no more."""


class Backend(ABC):
    """What a process does for one channel layer."""

    #: True if a message is stored and sent in one step. Messages then arrive in their order, and
    #: what arrives after a hole proves a loss.
    atomic = False
    #: True if what a foreign program publishes on the bare name of a channel is heard.
    hears_foreign = False
    #: True if messages reach the sockets of this process only.
    one_process = False

    @abstractmethod
    def publish(self, publication: Publication, client: Any = None) -> Positions:
        """Store a message and send it to its groups.

        :param client: a redis-py client other than the process's own.
        :returns: where each channel stands now; nothing for a message that is not kept.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses the message on a
            channel; the others have got it then.
        """

    @abstractmethod
    async def apublish(self, publication: Publication) -> Positions:
        """Store a message and send it to its groups; asyncio twin of `publish`."""

    @abstractmethod
    def read(
        self, channels: Sequence[str], client: Any = None, *, position_only: bool = False
    ) -> list[Reading | Exception]:
        """Return what is kept of each channel, or why that cannot be told.

        :param client: a redis-py client other than the process's own.
        :param position_only: read where the channels stand, and nothing of their messages.
        """

    @abstractmethod
    async def aread(
        self, channels: Sequence[str], *, position_only: bool = False
    ) -> list[Reading | Exception]:
        """Return what is kept of each channel; asyncio twin of `read`."""

    def purge(self, channels: Sequence[str], client: Any = None) -> Positions:
        """Delete the histories and the stored values of channels, and tell those who hear them.

        It raises what `publish` does, and returns where each channel stands then.
        """
        return self.publish(Publication.purge(channels), client)

    async def apurge(self, channels: Sequence[str]) -> Positions:
        """Delete what is kept of channels; asyncio twin of `purge`."""
        return await self.apublish(Publication.purge(channels))

    @abstractmethod
    def count(self, channels: Sequence[str], client: Any = None) -> dict[str, int]:
        """Ask all processes how many sockets hear each channel; a process that is silent has none.

        :param client: a redis-py client other than the process's own.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """

    @abstractmethod
    async def acount(self, channels: Sequence[str]) -> dict[str, int]:
        """Ask all processes how many sockets hear each channel; asyncio twin of `count`."""

    @abstractmethod
    def feed(self, receiver: Receiver) -> Feed:
        """Return what receives on the running event loop."""
