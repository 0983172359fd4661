"""What Channels' specification of channel layers promises, on our layer and on the stock ones.

The stock layers show that the tests ask for what a project may rely on.
"""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import ChannelFull, StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, WebsocketConsumer
from channels.layers import InMemoryChannelLayer, channel_layers
from channels.testing import ApplicationCommunicator, WebsocketCommunicator
from channels_redis.core import RedisChannelLayer as CoreLayer

from channels_ws4redis.layers import RedisChannelLayer

PATIENCE = 10

#: As the core layer's blocking read wants it of redis-py 8.
LAYERS = {
    "own": lambda url, **options: RedisChannelLayer(**options),
    "core": lambda url, **options: CoreLayer(
        hosts=[{"address": url, "socket_timeout": 30}], **options
    ),
    "memory": lambda url, **options: InMemoryChannelLayer(**options),
}

MESSAGE = {
    "type": "chat.message",
    "text": "Größe ☃",
    "bytes": b"\x00\xff",
    "numbers": [0, -(2**63), 2**63 - 1, 2.5],
    "nested": {"true": True, "none": None, "list": [[], {}]},
}


@pytest.fixture(params=LAYERS)
async def layer(request, redis_url):
    """A layer with room for three messages, which is the project's own layer during the test."""
    layer = LAYERS[request.param](redis_url, capacity=3, channel_capacity={"one*": 1})
    if request.param == "memory":  # it does not compile them
        layer.channel_capacity = layer.compile_capacities({"one*": 1})
    channel_layers.set("default", layer)
    yield layer
    await layer.flush()
    channel_layers.backends.clear()


async def receive(layer, channel):
    """Return the next message; fail if there is none."""
    async with asyncio.timeout(PATIENCE):
        return await layer.receive(channel)


async def is_silent(layer, channel) -> bool:
    """Tell whether there is no message on a channel, as far as can be told by waiting."""
    try:
        async with asyncio.timeout(0.2):
            await layer.receive(channel)
    except TimeoutError:
        return True
    return False


async def channels_of(layer) -> list[str]:
    """Return a channel of each kind."""
    return ["named", await layer.new_channel()]


async def test_extensions(layer) -> None:
    """A layer says what it can, and for how long."""
    assert set(layer.extensions) >= {"groups", "flush"}
    assert (layer.expiry, layer.group_expiry) == (60, 86400)


async def test_messages_arrive_unchanged(layer) -> None:
    """All types that the specification names are received as they were sent."""
    for channel in await channels_of(layer):
        await layer.send(channel, MESSAGE)
        assert await receive(layer, channel) == MESSAGE


async def test_messages_are_queued_in_order(layer) -> None:
    """What is sent before anybody receives waits, on each kind of channel."""
    for channel in await channels_of(layer):
        for number in range(3):
            await layer.send(channel, {"type": f"{number}"})
        got = [(await receive(layer, channel))["type"] for _ in range(3)]
        assert got == ["0", "1", "2"]


async def test_a_message_is_received_once(layer) -> None:
    """Of several who receive on one channel, one gets a message."""
    if isinstance(layer, InMemoryChannelLayer):
        pytest.skip("it forgets those who wait when one of them has got a message")
    for channel in await channels_of(layer):
        receiving = [asyncio.create_task(layer.receive(channel)) for _ in range(2)]
        await asyncio.sleep(0.05)  # no layer tells when it waits
        await layer.send(channel, {"type": "0"})
        done, pending = await asyncio.wait(
            receiving, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        assert [task.result()["type"] for task in done] == ["0"]
        await layer.send(channel, {"type": "1"})
        await asyncio.wait(pending, timeout=PATIENCE)
        assert [task.result()["type"] for task in pending] == ["1"]


async def test_a_full_channel_refuses(layer) -> None:
    """Beyond the capacity of its name a channel raises ChannelFull."""
    for channel, room in (("named", 3), ("one.named", 1)):
        for _ in range(room):
            await layer.send(channel, MESSAGE)
        with pytest.raises(ChannelFull):
            await layer.send(channel, MESSAGE)


async def test_a_cancelled_receive_loses_nothing(layer) -> None:
    """What is sent after a receive on a named channel was cancelled is there for the next one."""
    assert await is_silent(layer, "named")
    await layer.send("named", MESSAGE)
    assert await receive(layer, "named") == MESSAGE


@pytest.mark.parametrize("name", [None, 7, b"bytes", ""])
async def test_wrong_names_are_type_errors(layer, name) -> None:
    """Names are text, for channels and for groups."""
    for attempt in (
        layer.send(name, MESSAGE),
        layer.receive(name),
        layer.group_add(name, "named"),
        layer.group_add("group", name),
        layer.group_discard(name, "named"),
        layer.group_discard("group", name),
        layer.group_send(name, MESSAGE),
    ):
        with pytest.raises(TypeError):
            await attempt


async def test_groups(layer) -> None:
    """A group reaches its members once, whichever kind they are, and nobody who has left."""
    one, two, three = [await layer.new_channel() for _ in range(3)]
    for channel in (one, one, two, three, "named", "named", "gone"):
        await layer.group_add("group", channel)
    for channel in (two, two, "gone", "never"):
        await layer.group_discard("group", channel)
    await layer.group_send("group", MESSAGE)
    for channel in (one, three, "named"):
        assert await receive(layer, channel) == MESSAGE
    for channel in (one, two, "named", "gone"):
        assert await is_silent(layer, channel)


async def test_a_full_channel_does_not_fail_its_group(layer) -> None:
    """Sending to a group never raises ChannelFull, and the other members get everything."""
    await layer.group_add("group", "one.named")
    for number in range(3):
        await layer.group_send("group", {"type": f"{number}"})
    await layer.group_add("group", "named")
    await layer.group_send("group", MESSAGE)
    assert await receive(layer, "named") == MESSAGE
    assert (await receive(layer, "one.named"))["type"] == "0"


async def test_flush(layer) -> None:
    """After a flush there are no messages and no groups."""
    await layer.send("named", MESSAGE)
    await layer.group_add("group", "member")
    await layer.flush()
    await layer.group_send("group", MESSAGE)
    for channel in ("named", "member"):
        assert await is_silent(layer, channel)


async def test_sending_from_threads(layer) -> None:
    """Synchronous code sends by async_to_sync."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)

    def work() -> None:
        async_to_sync(layer.send)(channel, {"type": "direct"})
        async_to_sync(layer.send)("named", {"type": "named"})
        async_to_sync(layer.group_send)("group", {"type": "group"})

    await sync_to_async(work)()
    got = [(await receive(layer, each))["type"] for each in (channel, "named", channel)]
    assert got == ["direct", "named", "group"]


# The consumers of Channels


class Room(AsyncJsonWebsocketConsumer):
    """Joins and leaves groups as its client says, and tells its own channel's name."""

    groups = ["everybody"]  # noqa: RUF012 # as everybody writes it

    async def receive_json(self, content) -> None:
        """Follow an order."""
        if "join" in content:
            await self.channel_layer.group_add(content["join"], self.channel_name)
        elif "leave" in content:
            await self.channel_layer.group_discard(content["leave"], self.channel_name)
        await self.send_json({"channel": self.channel_name})

    async def say(self, event) -> None:
        """Pass an event on."""
        await self.send_json(event["text"])


class SyncRoom(WebsocketConsumer):
    """Answers by a message to itself, from a thread."""

    groups = ["everybody"]  # noqa: RUF012

    def receive(self, text_data=None, bytes_data=None) -> None:
        """Send what the client says to this consumer's own channel."""
        async_to_sync(self.channel_layer.send)(
            self.channel_name, {"type": "say", "text": text_data}
        )

    def say(self, event) -> None:
        """Pass an event on."""
        self.send(text_data=event["text"])


@pytest.mark.django_db(transaction=True)  # Channels closes old connections after each message
async def test_sockets_in_groups(layer) -> None:
    """Consumers hear the groups that they are in while they are, and their own channel."""
    room = WebsocketCommunicator(Room.as_asgi(), "/")
    assert (await room.connect(PATIENCE))[0]
    await room.send_json_to({"join": "red"})
    channel = (await room.receive_json_from(PATIENCE))["channel"]
    for group in ("everybody", "red"):
        await layer.group_send(group, {"type": "say", "text": group})
        assert await room.receive_json_from(PATIENCE) == group
    await room.send_json_to({"leave": "red"})
    await room.receive_json_from(PATIENCE)
    await layer.group_send("red", {"type": "say", "text": "red"})
    await layer.send(channel, {"type": "say", "text": "direct"})
    assert await room.receive_json_from(PATIENCE) == "direct"
    await room.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_synchronous_sockets(layer) -> None:
    """A consumer in threads sends to itself, and hears its groups."""
    room = WebsocketCommunicator(SyncRoom.as_asgi(), "/")
    assert (await room.connect(PATIENCE))[0]
    await room.send_to("to myself")
    assert await room.receive_from(PATIENCE) == "to myself"
    await layer.group_send("everybody", {"type": "say", "text": "to all"})
    assert await room.receive_from(PATIENCE) == "to all"
    await room.disconnect()


class Work(AsyncConsumer):
    """Reports to whoever has sent the work, and stops when it is told to."""

    async def do(self, message) -> None:
        """Report."""
        await self.channel_layer.send(message["reply"], {"type": "done"})

    async def stop(self, message) -> None:
        """End."""
        raise StopConsumer


class SyncWork(SyncConsumer):
    """The same, in threads."""

    def do(self, message) -> None:
        """Report."""
        async_to_sync(self.channel_layer.send)(message["reply"], {"type": "done"})

    def stop(self, message) -> None:
        """End."""
        raise StopConsumer


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("consumer", [Work, SyncWork])
async def test_consumers_of_channels(layer, consumer) -> None:
    """What a worker runs answers on the channel of whoever has asked."""
    reply = await layer.new_channel()
    worker = ApplicationCommunicator(consumer.as_asgi(), {"type": "channel", "channel": "named"})
    await worker.send_input({"type": "do", "reply": reply})
    assert await receive(layer, reply) == {"type": "done"}
    await worker.send_input({"type": "stop"})
    await worker.wait(PATIENCE)
