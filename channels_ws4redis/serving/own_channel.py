"""A channel of its own in the channel layer, for a subclass of the consumer that uses it. Private.

The stock consumer has none, which would cost each socket a subscription and two tasks.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction

from channels_ws4redis.layers import FANOUT_PREFIX
from channels_ws4redis.servers import AsgiEvent
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)

Source = Callable[[], Awaitable[AsgiEvent]]


def has_handlers(cls: type, base: type) -> bool:
    """Tell whether a class has methods of its own that may be handlers of messages of the layer.

    A handler is a public coroutine method that takes a message. One that is called by other methods
    only cannot be told from it, and costs no more than a channel that nobody sends to.

    :param base: the consumer that it extends; what that one and Channels have is left out.
    """
    own = {
        name
        for each in cls.__mro__
        if not issubclass(base, each) and each.__module__.partition(".")[0] != "channels"
        for name in vars(each)
        if not name.startswith("_") and not hasattr(base, name)
    }
    return any(_is_handler(getattr(cls, name, None)) for name in own)


def _is_handler(method: Any) -> bool:
    if not iscoroutinefunction(method):
        return False
    try:
        inspect.signature(method).bind("self", "message")
    except (TypeError, ValueError):
        return False
    return True


class OwnChannel:
    """A channel whose messages come among the events of the server, each in its turn.

    :param layer: the channel layer.
    :param receive: waits for the next event of the server.
    """

    def __init__(self, layer: Any, receive: Source) -> None:
        self._layer = layer
        self._events = receive
        #: Waits for the next message of the channel; None while the channel is not open.
        self._messages: Source | None = None
        #: What is being waited for; whoever has waited longest comes first.
        self._waiting: dict[Source, asyncio.Future[AsgiEvent]] = {}
        self._groups: list[str] = []
        #: Empty until it has been opened.
        self.name = ""

    async def open(self, groups: Iterable[str]) -> None:
        """Make the channel, and add it to groups, as consumers of Channels do when they connect.

        :raises Exception: whatever the layer raises.
        """
        # With the prefix of the fan-out's: channels_redis.core receives for one prefix at a time,
        # and leaves it after five seconds without a message.
        self.name = await self._layer.new_channel(FANOUT_PREFIX)
        self._messages = partial(self._layer.receive, self.name)
        for group in groups:
            self._groups.append(group)
            await self._layer.group_add(group, self.name)

    async def receive(self) -> AsgiEvent:
        """Return the next event of the server, or message of the channel.

        Whoever cancels that loses none: it is the next one then.
        """
        while True:
            for source in (self._events, self._messages):
                if source is not None and source not in self._waiting:
                    self._waiting[source] = asyncio.ensure_future(source())
            await asyncio.wait(self._waiting.values(), return_when=asyncio.FIRST_COMPLETED)
            for source, future in self._waiting.items():
                if future.done():
                    del self._waiting[source]
                    return future.result()
            # What was waited for is the channel, which has been closed meanwhile.

    def close(self) -> None:
        """Leave the groups; only events of the server come from now on."""
        messages, self._messages = self._messages, None
        if messages is None:
            return
        if messages in self._waiting:
            self._waiting.pop(messages).cancel()
        this_loop().spawn(self._discard(), "ws4redis-own-channel")

    def end(self) -> None:
        """Close, and wait for nothing any more."""
        self.close()
        for future in self._waiting.values():
            future.cancel()

    async def _discard(self) -> None:
        try:
            if hasattr(self._layer, "close_channel"):  # our own leaves its groups by that
                await self._layer.close_channel(self.name)
                return
            for group in self._groups:
                await self._layer.group_discard(group, self.name)
        except Exception as error:  # noqa: BLE001 # whatever a third-party layer raises
            logger.debug("Could not leave the groups of a consumer: %s", error)
