"""Subclasses of the consumer that use the channel layer as other consumers of Channels do."""

from __future__ import annotations

import asyncio

import pytest
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import channel_layers, get_channel_layer
from channels.testing import WebsocketCommunicator

from channels_ws4redis.consumers import WS4RedisConsumer
from channels_ws4redis.fanout.hearing import channel
from channels_ws4redis.store.loops import this_loop
from testproject.settings import _LAYERS
from tests.communicators import PATIENCE, ended, leave, publish

pytestmark = [pytest.mark.django_db, pytest.mark.server]

PATH = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"


class Grouped(WS4RedisConsumer):
    """Is in a group of its class, and in one that it joins by itself."""

    groups = ("everybody",)

    async def connect(self) -> None:
        """Join, as the documentation of Channels shows it."""
        await self.channel_layer.group_add("game", self.channel_name)
        await super().connect()

    async def disconnect(self, code) -> None:
        """Leave."""
        await self.channel_layer.group_discard("game", self.channel_name)

    async def game_over(self, message) -> None:
        """Handle a message."""
        await asyncio.sleep(0.01)  # the next one waits for its turn
        await self.send(text_data=message["text"])


class Closing(WS4RedisConsumer):
    """Has a handler and no groups, and tells its name."""

    async def connect(self) -> None:
        """Tell."""
        await super().connect()
        self.scope["name"] = self.channel_name

    async def sent_away(self, message) -> None:
        """Close the socket, as its project asks for."""
        await self.close(4001)

    async def broken(self, message) -> None:
        """Fail."""
        raise LookupError("of the project")


class Nameless(WS4RedisConsumer):
    """Has neither, but methods of other kinds, and wants to know its channel."""

    async def no_handler(self) -> None:
        """Take no message."""

    def neither(self, message) -> None:
        """Block."""

    async def _private(self, message) -> None:
        """Be of no use to the layer."""

    async def connect(self) -> None:
        """Ask for the name."""
        await super().connect()
        self.scope["name"] = self.channel_name


class Jsonic(WS4RedisConsumer, AsyncJsonWebsocketConsumer):
    """Has coroutine methods of Channels, which are no handlers."""


class Mixin:
    """Brings a handler, which is decorated."""

    @database_sync_to_async
    def stored(self, message) -> None:
        """Block in a thread."""


class Mixed(Mixin, WS4RedisConsumer):
    """Has it."""


def test_who_has_handlers():
    """A public coroutine method of the project's that takes a message may be one."""
    found = {cls for cls in (Grouped, Closing, Nameless, Jsonic, Mixed) if cls._has_handlers}
    assert found == {Grouped, Closing, Mixed}
    assert not WS4RedisConsumer._has_handlers


@pytest.fixture(params=["redis", "pubsub", "core", "memory"])
async def layer(request, settings, redis_url):
    """The channel layer, of each kind."""
    if request.param == "redis":
        settings.CHANNEL_LAYERS = {"default": _LAYERS["redis"]}
    elif request.param == "memory":
        settings.CHANNEL_LAYERS = {"default": _LAYERS["memory"]}
    else:
        config = {"hosts": [{"address": redis_url, "socket_timeout": 30}]}
        backend = _LAYERS[request.param]["BACKEND"]
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}
    channel_layers.backends.clear()
    yield get_channel_layer()
    channel_layers.backends.clear()


async def channel_left() -> None:
    """Wait until no channel is being left any more."""
    tasks = [each for each in this_loop()._tasks if each.get_name() == "ws4redis-own-channel"]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*tasks)


async def open_socket(cls) -> WebsocketCommunicator:
    """Return a client that has connected."""
    client = WebsocketCommunicator(cls.as_asgi(), PATH)
    assert (await client.connect(PATIENCE))[0]
    return client


async def test_groups_and_handlers(layer):
    """Messages of groups come in their order, beside what is published."""
    client = await open_socket(Grouped)
    for number in range(3):
        await layer.group_send("everybody", {"type": "game.over", "text": str(number)})
    assert [await client.receive_from(PATIENCE) for _ in range(3)] == ["0", "1", "2"]
    await layer.group_send("game", {"type": "game.over", "text": "mine"})
    assert await client.receive_from(PATIENCE) == "mine"
    await client.send_to(text_data="published")
    assert await client.receive_from(PATIENCE) == "published"
    await publish("another")
    assert await client.receive_from(PATIENCE) == "another"
    await leave(client)


async def test_nothing_is_left_behind(settings):
    """On the package's own layer; no queue, and no subscription but the control channel's."""
    layer = get_channel_layer()
    client = await open_socket(Grouped)
    assert len(layer._listener._queues) == 1
    await leave(client)
    await channel_left()
    assert layer._listener._queues == {}
    assert all(channel() in topic for topic in layer._listener._topics)


class Noted(Grouped):
    """Can be found by the test."""

    async def __call__(self, scope, receive, send) -> None:
        """Say where it is."""
        scope["consumer"] = self
        await super().__call__(scope, receive, send)

    async def connect(self) -> None:
        """Note that it has come so far."""
        self.scope["connects"] = True
        await super().connect()


async def test_a_foreign_page_is_refused_before_a_channel_is_opened():
    """It costs Redis nothing, and the project's own code is not asked."""
    headers = [(b"host", b"testserver"), (b"origin", b"http://evil.example")]
    client = WebsocketCommunicator(Noted.as_asgi(), PATH, headers=headers)
    assert not (await client.connect(PATIENCE))[0]
    assert client.scope["consumer"]._channel.name == ""
    assert "connects" not in client.scope
    await ended(client)


async def test_the_stock_consumer_has_no_channel():
    """It costs nothing."""
    client = await open_socket(WS4RedisConsumer)
    assert get_channel_layer()._listener._queues == {}
    await leave(client)


async def test_a_consumer_without_a_channel_says_so():
    """With the remedy, at the moment at which the name is asked for."""
    client = WebsocketCommunicator(Nameless.as_asgi(), PATH)
    await client.send_input({"type": "websocket.connect"})
    with pytest.raises(AttributeError, match=r"Nameless has no channel_name: .* or a handler"):
        await ended(client)
    assert "name" not in client.scope


async def test_a_handler_may_close_the_socket():
    """No message is handled after that, and nothing that the client has sent."""
    layer = get_channel_layer()
    client = await open_socket(Closing)
    name = client.scope["name"]
    await layer.send(name, {"type": "sent.away"})
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 4001}
    await layer.send(name, {"type": "broken"})
    assert await client.receive_nothing(0.1)
    await leave(client)


async def test_a_handler_that_fails_ends_the_socket():
    """As with any consumer of Channels."""
    layer = get_channel_layer()
    client = await open_socket(Closing)
    await layer.send(client.scope["name"], {"type": "broken"})
    with pytest.raises(LookupError):
        await ended(client)
    assert layer._listener._queues == {}


async def test_a_server_may_tell_later_that_the_client_has_gone():
    """Than the connection is lost, with which the channel is closed: uvicorn's websockets do so."""
    client = await open_socket(Noted)
    client.scope["consumer"]._leave()
    await channel_left()
    await leave(client)
