"""How a process publishes, hears and reads: one interface, chosen once for a channel layer.

A `Backend` belongs to a layer and serves publishers in any thread. Its `Hearing` belongs to one
event loop and serves the fan-out there::

    backend = backend_of(get_channel_layer())
    hearing = backend.hearing(fanout)
    await hearing.open()
    await hearing.join("broadcast:foo")  # fanout.receive(event) is called from now on
    readings = await backend.read(["broadcast:foo"])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import redis

from channels_ws4redis.protocol.history import Reading
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.store.commands import Affixes, parse_reading, read_command
from channels_ws4redis.store.runner import get_runner


class Receiver(Protocol):
    """What a hearing calls: the fan-out."""

    def receive(self, event: Event) -> None:
        """Take a message."""

    def suspect_all(self) -> None:
        """Learn that messages may have been lost on any channel."""

    def channels(self) -> list[str]:
        """Return the names of the channels that are listened on."""

    async def refresh(self, channels: Sequence[str]) -> None:
        """Read the histories of channels, and make good what they have that did not arrive."""


class Hearing(ABC):
    """The part of a backend that receives for one event loop."""

    #: True if messages arrive in the order in which they were numbered.
    ordered = True

    @abstractmethod
    async def open(self) -> None:
        """Begin to receive."""

    @abstractmethod
    async def join(self, channel: str) -> None:
        """Listen on a channel; done once nothing can be missed any more.

        :raises redis.exceptions.ConnectionError: if that cannot be made sure of in time.
        """

    @abstractmethod
    async def leave(self, channel: str) -> None:
        """Listen no more on a channel."""

    @abstractmethod
    async def close(self) -> None:
        """Receive no more."""


class Backend(ABC):
    """What a process does for one channel layer."""

    #: True if one script stores a message and sends it, in one round trip and one step.
    atomic = False
    #: True if what a foreign program publishes on the bare name of a channel is heard.
    hears_foreign = False
    #: True if messages reach the sockets of this process only.
    one_process = False

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        #: Channels that one run of the script serves: few enough not to hold up Redis for a
        #: millisecond. A Redis in cluster mode takes one at a time, be it of one node only.
        self.channels_at_once = 50

    @abstractmethod
    def affixes(self, mirror: bool) -> Affixes | None:
        """Return how the script names pub/sub channels, None if it does not publish.

        :param mirror: servers of the legacy package own the bare names.
        """

    @abstractmethod
    def send(self, events: Sequence[Event]) -> None:
        """Send what has been stored, where the script does not."""

    @abstractmethod
    async def asend(self, events: Sequence[Event]) -> None:
        """Send what has been stored; asyncio twin of `send`."""

    @abstractmethod
    def hearing(self, receiver: Receiver) -> Hearing:
        """Return what receives on the running event loop."""

    async def read(self, channels: Sequence[str]) -> list[Reading | Exception]:
        """Return all that is kept of each channel, or why that cannot be told."""
        try:
            replies = await get_runner().run([read_command(channel) for channel in channels])
        except (redis.exceptions.RedisError, OSError) as error:
            return [error] * len(channels)
        return [
            reply if isinstance(reply, Exception) else parse_reading(channel, reply)
            for channel, reply in zip(channels, replies, strict=True)
        ]
