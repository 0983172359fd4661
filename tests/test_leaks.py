"""Thousands of sockets come and go, some of them in the middle of something; nothing stays."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys

import pytest
from channels.layers import channel_layers, get_channel_layer
from channels.testing import WebsocketCommunicator

from channels_ws4redis.fanout import hearing
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.fanout.hearing import channel
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.routing import application
from tests.communicators import leave

#: WS4REDIS_TEST_LEAKS=10000 makes it thorough.
ROUNDS = int(os.environ.get("WS4REDIS_TEST_LEAKS", "1000"))

FACILITIES = 20

LAYERS = {
    "redis": "channels_ws4redis.layers.RedisChannelLayer",
    "memory": "channels.layers.InMemoryChannelLayer",
}


@pytest.fixture(params=LAYERS)
async def layer(request: pytest.FixtureRequest, settings, redis_url: str, monkeypatch):
    """A channel layer, which the package leaves at once when the last socket has gone."""
    monkeypatch.setattr(hearing, "LINGER", 0)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LAYERS[request.param]}}
    channel_layers.backends.clear()
    yield get_channel_layer()
    channel_layers.backends.clear()


async def come_and_go(index: int) -> None:
    """Open a socket, and leave it in one of several ways."""
    facility = random.randrange(FACILITIES)
    speaks = index % 2
    communicator = WebsocketCommunicator(
        application,
        f"/ws/leak-{facility}?subscribe-broadcast&publish-broadcast",
        subprotocols=[SUBPROTOCOL] if speaks else None,
    )
    how = index % 5
    if how == 0:  # dropped before it was accepted
        await communicator.send_input({"type": "websocket.connect"})
        await asyncio.sleep(random.random() * 0.01)
        communicator.stop(exceptions=False)
        return
    connected, _ = await communicator.connect(timeout=20)
    assert connected
    if speaks and how != 1:  # else it never says hello
        await communicator.send_json_to({"type": "hello", "positions": {}})
        if how == 2:
            assert (await communicator.receive_json_from(20))["type"] == "welcome"
            await communicator.send_json_to({"type": "publish", "data": "x"})
    if how == 3:  # cancelled by the server
        communicator.stop(exceptions=False)
    else:
        await leave(communicator)


async def many(rounds: int) -> None:
    """Let many sockets come and go, a hundred at a time."""
    for begin in range(0, rounds, 100):
        await asyncio.gather(*(come_and_go(index) for index in range(begin, begin + 100)))


async def settle() -> None:
    """Wait until what runs in the background has ended."""
    for _ in range(100):
        await asyncio.sleep(0.05)
        if len(asyncio.all_tasks()) == 1:
            return


async def test_nothing_stays(layer, redis_client, settings) -> None:
    """No group, subscription, task or memory."""
    settings.WS4REDIS_CLOSE_WINDOW = 0
    await many(200)
    await settle()
    gc.collect()
    blocks = sys.getallocatedblocks()
    await many(ROUNDS)
    await settle()
    gc.collect()
    assert [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}] == []
    assert redis_client.pubsub_channels() == []
    joined = get_fanout(layer)
    assert not joined._groups
    assert not joined._sockets
    if hasattr(layer, "groups"):
        assert not layer.groups
    else:
        listener = layer._listener
        assert not listener._topics
        assert not listener._queues
    # What a thousand sockets leave behind, in objects of Python; one each would be a thousand.
    assert sys.getallocatedblocks() - blocks < ROUNDS


async def test_a_group_ends_with_its_last_socket(layer, redis_client, settings) -> None:
    settings.WS4REDIS_CLOSE_WINDOW = 0
    one = WebsocketCommunicator(application, "/ws/one?subscribe-broadcast")
    two = WebsocketCommunicator(application, "/ws/two?subscribe-broadcast")
    await one.connect(timeout=10)
    await two.connect(timeout=10)
    joined = get_fanout(layer)
    assert set(joined._groups) == {"broadcast:one", "broadcast:two", channel()}
    await one.disconnect()
    for _ in range(50):
        await asyncio.sleep(0.02)
        if len(joined._groups) == 2:
            break
    assert set(joined._groups) == {"broadcast:two", channel()}
    if not hasattr(layer, "groups"):
        heard = {b"broadcast:two", b"{broadcast:two}:events"}
        heard |= {channel().encode(), f"{{{channel()}}}:events".encode()}
        assert set(redis_client.pubsub_channels()) == heard
    await two.disconnect()
    await settle()
    assert not joined._groups
