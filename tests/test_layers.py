"""The package's own channel layer, as any app of a project uses it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
import redis
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import channel_layers, get_channel_layer
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from channels_ws4redis.fanout.own import OwnBackend
from channels_ws4redis.fanout.stock import StockBackend
from channels_ws4redis.fanout.stock_layers import encode_name
from channels_ws4redis.layers import RedisChannelLayer
from channels_ws4redis.protocol.messages import EVENT_TYPE
from channels_ws4redis.store.pubsub import RELINKED_TYPE
from testproject.embedded import RedisServer
from tests.servers import ROOT

PATIENCE = 10

MESSAGE = {"type": "chat.message", "text": "Größe ☃", "n": [1, 2.5, None, True], "bytes": b"\xff"}


@pytest.fixture
async def layer():
    """A channel layer of one process."""
    layer = RedisChannelLayer()
    yield layer
    await layer.flush()


@pytest.fixture
async def other():
    """The channel layer of another process, as far as Redis can tell."""
    other = RedisChannelLayer()
    yield other
    await other.flush()


@pytest.fixture
def server():
    """A server of the test's own, to stop and to pause."""
    with RedisServer(port=0) as server, override_settings(WS4REDIS_CONNECTION=server.url):
        yield server


async def receive(layer, channel):
    """Return the next message; fail if there is none."""
    async with asyncio.timeout(PATIENCE):
        return await layer.receive(channel)


async def new_fanout(layer):
    """Return the name of a fan-out's channel, and a queue of what it is given."""
    queue = asyncio.Queue()
    return await layer.new_fanout(queue.put_nowait), queue


async def given(queue):
    """Return the next message that a fan-out is given."""
    async with asyncio.timeout(PATIENCE):
        return await queue.get()


async def payload_given(queue):
    """Return the payload of the next message that a fan-out is given."""
    return (await given(queue))["event"].payload


async def subscribed(client, *names):
    """Wait until Redis has exactly these subscriptions."""
    async with asyncio.timeout(PATIENCE):
        while {name.decode() for name in client.pubsub_channels()} != set(names):  # noqa: ASYNC110 # Redis tells nobody
            await asyncio.sleep(0)


def listeners(client):
    """Return the addresses of the connections that are subscribed to anything."""
    return [each["addr"] for each in client.client_list() if each["sub"] != "0"]


async def test_send_and_receive(layer):
    """A message sent to a channel is received there, in order."""
    channel = await layer.new_channel()
    await layer.send(channel, MESSAGE)
    await layer.send(channel, {"type": "second"})
    assert await receive(layer, channel) == MESSAGE
    assert await receive(layer, channel) == {"type": "second"}


async def test_channels_are_apart(layer):
    """Every channel has its own messages, and its own name."""
    one, two = await layer.new_channel(), await layer.new_channel("mine.")
    assert one != two
    assert two.startswith("mine.")
    await layer.send(two, {"type": "two"})
    await layer.send(one, {"type": "one"})
    assert (await receive(layer, one))["type"] == "one"
    assert (await receive(layer, two))["type"] == "two"


async def test_messages_are_copies(layer):
    """Sender and receiver may change what they have."""
    channel = await layer.new_channel()
    message = {"type": "t", "list": [1]}
    await layer.send(channel, message)
    message["list"].append(2)
    assert await receive(layer, channel) == {"type": "t", "list": [1]}


async def test_send_between_processes(layer, other):
    """A channel may be sent to by any process as soon as its name is known."""
    channel = await layer.new_channel()
    for number in range(100):
        await other.send(channel, {"type": "t", "number": number})
    assert [(await receive(layer, channel))["number"] for _ in range(100)] == list(range(100))


async def test_groups(layer, other):
    """A group reaches its members in every process, nobody else, and each has its own copy."""
    one, two = await layer.new_channel(), await layer.new_channel()
    three, stranger = await other.new_channel(), await other.new_channel()
    for channel in (one, two):
        await layer.group_add("chat room: ☃", channel)
    await other.group_add("chat room: ☃", three)
    await other.group_send("chat room: ☃", MESSAGE)
    got = [await receive(layer, one), await receive(layer, two), await receive(other, three)]
    assert got == [MESSAGE] * 3
    assert got[0] is not got[1]
    await other.send(stranger, {"type": "end"})
    assert await receive(other, stranger) == {"type": "end"}


async def test_joining_is_confirmed(layer, other):
    """Once group_add has returned nothing that is sent is missed."""
    for number in range(50):
        channel = await layer.new_channel()
        await layer.group_add(f"group{number}", channel)
        await other.group_send(f"group{number}", {"type": "t", "number": number})
        assert (await receive(layer, channel))["number"] == number


async def test_joining_twice(layer):
    """Who joins twice gets each message once."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "one"})
    await layer.group_send("group", {"type": "two"})
    assert [(await receive(layer, channel))["type"] for _ in range(2)] == ["one", "two"]


async def test_discard(layer, redis_client):
    """Who has left a group hears no more of it; Redis forgets the group after the last one."""
    one, two = await layer.new_channel(), await layer.new_channel()
    own = [name.decode() for name in redis_client.pubsub_channels()]
    for channel in (one, two):
        await layer.group_add("group", channel)
    await layer.group_discard("group", one)
    await layer.group_discard("group", one)
    await layer.group_discard("unknown", one)
    await layer.group_send("group", {"type": "t"})
    assert (await receive(layer, two))["type"] == "t"
    await layer.send(one, {"type": "end"})
    assert (await receive(layer, one))["type"] == "end"
    await layer.group_discard("group", two)
    await subscribed(redis_client, *own)


async def test_groups_and_channels_are_apart(layer, other):
    """A group and a channel of the same name have nothing to do with each other."""
    member = await layer.new_channel()
    await layer.group_add("name", member)
    await other.send("name", {"type": "to the channel"})
    await other.group_send("name", {"type": "to the group"})
    assert (await receive(layer, member))["type"] == "to the group"
    assert (await receive(layer, "name"))["type"] == "to the channel"


async def test_group_names_are_literal(layer, redis_client):
    """Redis has the group under its very name, for what others publish and for our events."""
    channel, _ = await new_fanout(layer)
    await layer.group_add("broadcast:foo", channel)
    await subscribed(redis_client, "broadcast:foo", "{broadcast:foo}:events")
    assert OwnBackend(layer).group_name("user:john@x:Größe ☃") == "user:john@x:Größe ☃"


async def test_prefix(redis_client):
    """With a prefix, layers of several sites share a Redis without hearing each other."""
    one, two = RedisChannelLayer(prefix="one:"), RedisChannelLayer(prefix="two:")
    channel = await one.new_channel()
    await one.group_add("group", channel)
    await subscribed(redis_client, "one:asgi.group:group", f"one:asgi.channel:{channel}")
    await two.group_send("group", {"type": "wrong"})
    await one.group_send("group", {"type": "right"})
    assert (await receive(one, channel))["type"] == "right"
    await one.flush()
    await two.flush()


@pytest.mark.parametrize("name", ["", None, 7, b"bytes", "x" * 65536])
async def test_wrong_names(layer, name):
    """What is no name is a TypeError, as in other layers."""
    channel = await layer.new_channel()
    with pytest.raises(TypeError, match="Group name"):
        await layer.group_add(name, channel)
    with pytest.raises(TypeError, match="Group name"):
        await layer.group_send(name, MESSAGE)
    with pytest.raises(TypeError, match="Channel name"):
        await layer.send(name, MESSAGE)
    with pytest.raises(TypeError, match="Channel name"):
        await layer.group_add("group", name)


async def test_message_that_cannot_be_sent(layer, other):
    """What cannot be serialised is a TypeError for the sender, near or far."""
    channel = await layer.new_channel()
    for sender in (layer, other):
        with pytest.raises(TypeError):
            await sender.send(channel, {"type": "t", "object": object()})


async def test_capacity():
    """A full channel refuses a direct message and drops one to a group; both are taken up again."""
    layer = RedisChannelLayer(capacity=2, channel_capacity={"big.*": 5})
    small, big = await layer.new_channel(), await layer.new_channel("big.")
    for channel in (small, big):
        await layer.group_add("group", channel)
    for number in range(4):
        await layer.group_send("group", {"type": "t", "number": number})
    assert [(await receive(layer, big))["number"] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ChannelFull):
        await layer.send(small, {"type": "t"})
    assert [(await receive(layer, small))["number"] for _ in range(2)] == [0, 1]
    await layer.send(small, {"type": "t", "number": 9})
    assert (await receive(layer, small))["number"] == 9
    await layer.flush()


async def test_cancelled_receive(layer, redis_client):
    """A consumer that is gone leaves nothing behind: no queue, no group, no connection."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait([receiving])
    await subscribed(redis_client)
    async with asyncio.timeout(PATIENCE):
        while listeners(redis_client):  # noqa: ASYNC110 # Redis tells nobody
            await asyncio.sleep(0)


async def test_one_channel_of_many_leaves(layer, redis_client):
    """When one channel closes, its groups are left and the others stay."""
    (one, _), (two, queue) = await new_fanout(layer), await new_fanout(layer)
    await layer.group_add("a", one)
    await layer.group_add("b", one)
    await layer.group_add("b", two)
    await layer.close_channel(one)
    await subscribed(redis_client, "b", "{b}:events")
    redis_client.publish("b", "payload")
    assert await payload_given(queue) == b"payload"


async def test_flush(layer, redis_client):
    """After a flush there is nothing left, and the layer works on."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.send(channel, {"type": "lost"})
    await layer.flush()
    await subscribed(redis_client)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "t"})
    assert (await receive(layer, channel))["type"] == "t"


async def test_killed_link(layer, other, redis_client):
    """A lost link is made anew with all its groups, and fan-outs are told."""
    channel, queue = await new_fanout(layer)
    await layer.group_add("group", channel)
    stock = await layer.new_channel()
    await layer.group_add("group", stock)
    redis_client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    assert await given(queue) == {"type": RELINKED_TYPE}
    redis_client.publish("group", "payload")
    assert await payload_given(queue) == b"payload"
    await other.group_send("group", {"type": "t"})
    assert await receive(layer, stock) == {"type": "t"}


async def test_restart(server):
    """After a restart of Redis the groups are there again."""
    layer = RedisChannelLayer()
    channel, queue = await new_fanout(layer)
    await layer.group_add("group", channel)
    await asyncio.to_thread(server.restart)
    assert await given(queue) == {"type": RELINKED_TYPE}
    with redis.Redis.from_url(server.url) as client:
        client.publish("group", "payload")
    assert await payload_given(queue) == b"payload"
    await layer.flush()


async def test_silent_link(server, monkeypatch):
    """A Redis that keeps the connection but says nothing is noticed, and left."""
    monkeypatch.setattr("channels_ws4redis.store.links.SILENCE", 0.1)
    layer = RedisChannelLayer()
    channel, queue = await new_fanout(layer)
    await layer.group_add("group", channel)
    receiving = asyncio.create_task(given(queue))
    await asyncio.wait([receiving], timeout=0.5)  # long enough for it to be asked, and to answer
    assert not receiving.done()
    server.pause()
    await asyncio.wait([receiving], timeout=0.5)
    server.resume()
    async with asyncio.timeout(PATIENCE):
        assert await receiving == {"type": RELINKED_TYPE}
    await layer.flush()


async def test_redis_is_down(free_port):
    """While Redis is away, joining and sending raise redis-py's ConnectionError."""
    with override_settings(WS4REDIS_CONNECTION=f"redis://127.0.0.1:{free_port}"):
        layer = RedisChannelLayer()
        channel, _ = await new_fanout(layer)
        with pytest.raises(redis.exceptions.ConnectionError):
            await layer.group_add("group", channel)
        with pytest.raises(redis.exceptions.ConnectionError):
            await layer.group_send("group", MESSAGE)
        with pytest.raises(redis.exceptions.ConnectionError):
            await layer.new_channel()
        with pytest.raises(redis.exceptions.ConnectionError):
            await layer.flush()


async def test_consumers_survive_an_outage(server):
    """A consumer that waits for its next message while Redis is away gets it when it is back."""
    layer = RedisChannelLayer()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.send(channel, {"type": "before"})
    await asyncio.to_thread(server.stop)
    assert await receive(layer, channel) == {"type": "before"}
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(PATIENCE):
        while not receiving.done():
            await layer.group_send("group", {"type": "after"})
            await asyncio.wait([receiving], timeout=0.02)
    assert receiving.result() == {"type": "after"}
    await layer.flush()


async def test_foreign_publications(layer, redis_client):
    """What a foreign program publishes reaches fan-outs as an event, and no other consumer."""
    (fanout, queue), stock = await new_fanout(layer), await layer.new_channel()
    for channel in (fanout, stock):
        await layer.group_add("broadcast:foo", channel)
    redis_client.publish("broadcast:foo", b"raw")
    await layer.group_send("broadcast:foo", {"type": "end"})
    message = await given(queue)
    assert message["type"] == EVENT_TYPE
    assert (message["event"].channel, message["event"].payload) == ("broadcast:foo", b"raw")
    assert (await receive(layer, stock))["type"] == "end"
    assert queue.empty()


@pytest.mark.parametrize(
    "hosts",
    [
        "{url}",
        ["{url}"],
        [("127.0.0.1", "{port}")],
        [{"address": "{url}"}],
        [{"address": "{url}", "socket_connect_timeout": 1}],
        [{"host": "127.0.0.1", "port": "{port}"}],
        {"host": "127.0.0.1", "port": "{port}"},
    ],
)
async def test_hosts(hosts, settings):
    """The layer may have a Redis of its own, named in any way that channels_redis knows."""
    with RedisServer(port=0) as server:

        def fill(value):
            if isinstance(value, list | tuple):
                return type(value)(map(fill, value))
            if isinstance(value, dict):
                return {key: fill(item) for key, item in value.items()}
            return {"{url}": server.url, "{port}": server.port}.get(value, value)

        settings.CHANNEL_LAYERS = {
            "default": {
                "BACKEND": "channels_ws4redis.layers.RedisChannelLayer",
                "CONFIG": {"hosts": fill(hosts)},
            }
        }
        layer = get_channel_layer()
        assert not layer.stores
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        with redis.Redis.from_url(server.url) as client:
            assert b"asgi.group:group" in client.pubsub_channels()
        await layer.flush()


class Chat(AsyncJsonWebsocketConsumer):
    """A consumer as the tutorial of Channels writes it."""

    groups = ["chat"]  # noqa: RUF012 # as everybody writes it

    async def receive_json(self, content):
        await self.channel_layer.group_send("chat", {"type": "chat.message", **content})

    async def chat_message(self, event):
        await self.send_json(event["text"])


class SyncChat(JsonWebsocketConsumer):
    """The same, synchronous."""

    groups = ["chat"]  # noqa: RUF012

    def chat_message(self, event):
        self.send_json(event["text"])


@pytest.mark.django_db(transaction=True)  # Channels closes old connections after each message
async def test_generic_consumers(settings, redis_client):
    """Generic consumers of another app work on the layer, and leave nothing behind."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}}
    one = WebsocketCommunicator(Chat.as_asgi(), "/")
    two = WebsocketCommunicator(SyncChat.as_asgi(), "/")
    assert (await one.connect())[0]
    assert (await two.connect())[0]
    for text in ("Hello", "☃"):
        await one.send_json_to({"text": text})
        assert await one.receive_json_from(PATIENCE) == text
        assert await two.receive_json_from(PATIENCE) == text
    await one.disconnect()
    await two.disconnect()
    await subscribed(redis_client)
    await channel_layers["default"].flush()


def test_closes_with_its_loop(redis_url, redis_client):
    """A loop that ends closes the layer's connections; nothing warns of anything left open."""
    code = """
import asyncio, django
django.setup()
from channels.layers import get_channel_layer
async def main():
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "t"})
    await layer.receive(channel)
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
asyncio.run(main())
asyncio.run(main())
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        env={
            "DJANGO_SETTINGS_MODULE": "tests.site.settings",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'testproject'}",
            "REDIS_URL": redis_url,
        },
        cwd=ROOT,
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert redis_client.pubsub_channels() == []


def test_each_loop_has_its_own_link():
    """One layer object serves several loops, one after the other."""
    layer = RedisChannelLayer()

    async def main():
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_send("group", {"type": "t"})
        return await receive(layer, channel)

    assert [asyncio.run(main()) for _ in range(3)] == [{"type": "t"}] * 3


def test_layers_without_checks_take_literal_names():
    """A layer that has no rule for names, or none outside of a loop, is given them as they are."""

    class Lenient:
        pass

    class Strict:
        def require_valid_group_name(self, name):
            raise TypeError(name)

    assert StockBackend(Lenient()).group_name("broadcast:foo") == "broadcast:foo"
    assert StockBackend(Strict()).group_name("broadcast:foo") == encode_name("broadcast:foo")
