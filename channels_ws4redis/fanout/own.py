"""The backend of the package's own channel layer, which tells when its link to Redis was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from channels_ws4redis.fanout.backends import Feed, Receiver
from channels_ws4redis.fanout.stock import StockBackend
from channels_ws4redis.fanout.stock_layers import carried_by
from channels_ws4redis.layers import RedisChannelLayer
from channels_ws4redis.store.pubsub import MISSED_TYPE, REFUSED_TYPE, RELINKED_TYPE

logger = logging.getLogger(__name__)


class OwnBackend(StockBackend):
    """Stores and sends in one step, where the layer's Redis is the one that stores."""

    def __init__(self, layer: RedisChannelLayer) -> None:
        super().__init__(layer)
        #: With ``hosts`` of its own the layer sends through another Redis.
        self.atomic = self.hears_foreign = layer.stores
        if layer.stores:
            self.prefix = layer.prefix

    def group_name(self, channel: str) -> str:
        """Return the name of a group, which the layer takes literally."""
        return channel

    def feed(self, receiver: Receiver) -> Feed:
        """Return what receives on the running event loop."""
        return OwnFeed(self.layer, receiver)


class OwnFeed(Feed):
    """Is called by the layer with each message when it is read from Redis."""

    def __init__(self, layer: RedisChannelLayer, receiver: Receiver) -> None:
        self._layer = layer
        self._receiver = receiver
        self._channel = ""

    async def open(self) -> None:
        """Begin to receive."""
        self._channel = await self._layer.new_fanout(self._take)

    async def join(self, channels: Sequence[str]) -> dict[str, Exception]:
        """Listen on channels; done once Redis has confirmed or refused each of them."""
        return await self._layer.join_groups(channels, self._channel)

    async def ensure(self, channel: str) -> None:
        """Wait until Redis has confirmed a channel on the present connection."""
        await self._layer.join_groups([channel], self._channel)

    async def leave(self, channels: Sequence[str]) -> None:
        """Listen no more on channels."""
        await self._layer.leave_groups(channels, self._channel)

    async def close(self) -> None:
        """Receive no more."""
        if self._channel:
            await self._layer.close_channel(self._channel)

    def _take(self, message: dict[str, Any]) -> asyncio.Future[None] | None:
        try:
            event = message.get("event") or carried_by(message)
            kind = message.get("type")
            if event is not None:
                return self._receiver.receive(event)
            if kind == MISSED_TYPE:
                self._receiver.suspect(message["group"])
            elif kind == REFUSED_TYPE:
                self._receiver.refuse(message["group"], message["error"])
            elif kind == RELINKED_TYPE:
                self._receiver.suspect_all()
        except Exception:
            logger.exception("A message could not be delivered")
        return None
