"""Messages that a feed sends through its layer to itself: those that come back show it delivers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

import redis

#: ``type`` of such a message.
PROBE_TYPE = "ws4redis.probe"

#: Seconds after which a test is repeated for the first time; each time it takes twice as long.
PAUSE = 0.05


class Probes:
    """The tests of a feed that are under way.

    :param layer: the channel layer.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._token = uuid.uuid4().hex
        self._under_way: dict[str, asyncio.Future[None]] = {}

    def take(self, message: Mapping[str, Any]) -> None:
        """Take what has come through the layer; it may be anything."""
        if message.get("type") == PROBE_TYPE:
            future = self._under_way.get(message["token"])
            if future is not None and not future.done():
                future.set_result(None)

    async def send(self, channel: str, group: str | None, patience: float) -> None:
        """Send a message to ourselves, through a group or directly, until one comes back.

        The first may be lost: it may overtake the layer's request to join, which goes to Redis on
        another connection.

        :param channel: on which the feed receives.
        :param group: of which it is a member; None for directly.
        :param patience: seconds.
        :raises redis.exceptions.ConnectionError: if it does not arrive in time.
        """
        token = f"{self._token}.{uuid.uuid4().hex}"
        future = self._under_way[token] = asyncio.get_running_loop().create_future()
        message = {"type": PROBE_TYPE, "token": token}
        try:
            async with asyncio.timeout(patience):
                pause = PAUSE
                while not future.done():
                    if group is None:
                        await self._layer.send(channel, message)
                    else:
                        await self._layer.group_send(group, message)
                    await asyncio.wait([future], timeout=pause)
                    pause *= 2
        except TimeoutError:
            raise redis.exceptions.ConnectionError(
                "A message to ourselves did not come back through the channel layer."
            ) from None
        finally:
            del self._under_way[token]
