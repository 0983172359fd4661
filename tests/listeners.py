"""Sockets on the fan-out of the tests' own process, on every channel layer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

import redis
from channels.layers import InMemoryChannelLayer, get_channel_layer
from channels_redis.core import RedisChannelLayer as CoreLayer

from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.process import BACKGROUND_LOOP, this_process
from tests.outboxes import open_outbox

PATIENCE = 30

FOO, BAR = "broadcast:foo", "broadcast:bar"

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
            with suppress(redis.exceptions.RedisError, OSError):  # named channels stay in Redis
                await layer.flush()

    await flush()
    background = this_process().find(BACKGROUND_LOOP)
    if background is not None and not isinstance(layer, InMemoryChannelLayer):
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(flush(), background))


async def close_fanout(layer):
    """Have all sockets on a layer leave, and close the layer's connections."""
    fanout = get_fanout(layer)
    for socket in list(fanout._sockets):
        fanout.leave(socket)
    await all_left()
    await close_layer(layer)


def sockets_here():
    """Return the sockets that hear something on this loop; the control channel may linger on it."""
    return [each for each in get_fanout(get_channel_layer())._sockets if isinstance(each, Socket)]


async def all_left():
    """Wait until the fan-outs that nobody uses any more have closed."""
    async with asyncio.timeout(PATIENCE):
        names = ("ws4redis-leave", "ws4redis-close")
        await asyncio.gather(*(t for t in this_loop()._tasks if t.get_name() in names))


async def publish(message, facility="foo", **kwargs):
    """Publish to everyone on a facility."""
    await RedisPublisher(facility=facility, broadcast=True).apublish_message(message, **kwargs)


class Listener:
    """A socket on the fan-out, without a server."""

    def __init__(self, fanout, labels=None):
        self.fanout = fanout
        self.queue = asyncio.Queue()
        outbox = open_outbox(self._send, 10_000, 10_000_000, lambda: None)
        self.socket = Socket(outbox, echo=False, labels=labels, replay="all", owner=self)
        #: The codes with which it would be closed, and why.
        self.endings = []

    def end(self, code, why):
        """Note that the socket may hear no more."""
        self.endings.append((code, str(why)))

    async def _send(self, frame):
        self.queue.put_nowait(frame["text"] if "text" in frame else frame["bytes"])

    async def receive(self):
        """Return the next payload."""
        async with asyncio.timeout(PATIENCE):
            return await self.queue.get()

    async def join(self, *channels):
        """Listen on channels, beginning with what is stored."""
        await self.fanout.join(self.socket, channels)
        await self.fanout.enter(self.socket, channels, partial(self.socket.start, positions={}))
        if self.socket.labels is not None:
            await self.receive()  # the welcome
        return self

    def leave(self, *channels):
        """Stop listening on these channels, or on all and for good."""
        self.fanout.leave(self.socket, channels or None)
