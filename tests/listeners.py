"""Sockets on the fan-out of the tests' own process, on every channel layer."""

from __future__ import annotations

import asyncio

from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer as CoreLayer

from channels_ws4redis.fanout import groups as fanout_module
from channels_ws4redis.fanout import publishing as delivery
from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Recipient

PATIENCE = 10

#: As the demo's settings name them.
LAYERS = ["redis", "own redis", "pubsub", "core", "memory"]


def configuration(name, url):
    """Return CHANNEL_LAYERS for one of the layers."""
    hosts = {"hosts": [{"address": url, "socket_timeout": None}]}
    backend, config = {
        "redis": ("channels_ws4redis.layers.RedisChannelLayer", {}),
        "own redis": ("channels_ws4redis.layers.RedisChannelLayer", {"hosts": url}),
        "pubsub": ("channels_redis.pubsub.RedisPubSubChannelLayer", hosts),
        "core": ("channels_redis.core.RedisChannelLayer", hosts | {"capacity": 10_000}),
        "memory": ("channels.layers.InMemoryChannelLayer", {"capacity": 10_000}),
    }[name]
    return {"default": {"BACKEND": backend, "CONFIG": config}}


async def close_layer(layer):
    """Close the connections of a layer on the running loop and on the background loop."""

    async def flush():
        if isinstance(layer, CoreLayer):  # its own flush() empties Redis, close_pools() all loops
            part = layer._layers.pop(asyncio.get_running_loop(), None)
            await (layer.wait_received() if part is None else part.flush())
        else:
            await layer.flush()

    await flush()
    if delivery._loop is not None and not isinstance(layer, InMemoryChannelLayer):
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(flush(), delivery._loop))


async def all_left():
    """Wait until the fan-outs that nobody uses any more have closed."""
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*fanout_module._closing)


class Listener:
    """A socket on the fan-out, without a server."""

    def __init__(self, fanout, labels=None):
        self.fanout = fanout
        self.queue = asyncio.Queue()
        outbox = Outbox(self._send, 10_000, 10_000_000, lambda: None)
        self.recipient = Recipient(outbox, echo=False, labels=labels)

    async def _send(self, frame):
        self.queue.put_nowait(frame["text"] if "text" in frame else frame["bytes"])

    async def receive(self):
        """Return the next payload."""
        async with asyncio.timeout(PATIENCE):
            return await self.queue.get()

    async def join(self, *channels):
        """Listen on channels, beginning with what is stored."""
        await self.fanout.join(self.recipient, channels)
        self.recipient.replay(await self.fanout.read(channels), {})
        return self

    def leave(self, *channels):
        """Stop listening on these channels, or on all and for good."""
        self.fanout.leave(self.recipient, channels or None)
