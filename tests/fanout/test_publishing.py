"""Storing and sending on every channel layer, from every place that code may publish from."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from functools import partial

import pytest
import redis
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.protocol.messages import Position
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store.commands import Publication
from testproject.embedded import RedisServer
from tests.listeners import PATIENCE, Listener, close_fanout, close_layer, configuration
from tests.torture.proxy import Proxy


@pytest.fixture
async def listen(layer_name):
    """Open sockets on channels; they are gone at the end of the test."""
    fanout = get_fanout(get_channel_layer())

    async def start(*channels):
        return await Listener(fanout).join(*channels)

    yield start
    await close_fanout(get_channel_layer())


def publish(publication):
    """Publish on the default layer."""
    backend_named("default").publish(publication)


async def apublish(publication):
    """Publish on the default layer; asyncio twin of `publish`."""
    await backend_named("default").apublish(publication)


def broadcast():
    """Return a publisher to everyone."""
    return RedisPublisher(facility="foo", broadcast=True)


async def test_from_a_thread(listen, redis_client):
    """What a plain thread publishes is stored and arrives, in order."""
    listener = await listen("broadcast:foo")

    def work():
        publisher = broadcast()
        for number in range(20):
            publisher.publish_message(str(number))

    thread = threading.Thread(target=work)
    thread.start()
    assert [await listener.receive() for _ in range(20)] == [str(number) for number in range(20)]
    await asyncio.to_thread(thread.join)
    assert redis_client.get("broadcast:foo") == b"19"


async def test_from_a_view(listen):
    """So does what a synchronous view publishes in asgiref's thread."""
    listener = await listen("broadcast:foo")
    await sync_to_async(broadcast().publish_message)("Hello")
    assert await listener.receive() == "Hello"


async def test_from_the_loop(listen):
    """Synchronous publishing in the thread of the event loop works as well, and keeps order."""
    listener = await listen("broadcast:foo")
    for number in range(20):
        broadcast().publish_message(str(number))
    assert [await listener.receive() for _ in range(20)] == [str(number) for number in range(20)]


async def test_from_a_coroutine(listen):
    """So does asynchronous publishing, many at once included."""
    listener = await listen("broadcast:foo")
    for number in range(20):
        await broadcast().apublish_message(str(number))
    assert [await listener.receive() for _ in range(20)] == [str(number) for number in range(20)]
    await asyncio.gather(*(broadcast().apublish_message(str(number)) for number in range(20)))
    got = {await listener.receive() for _ in range(20)}
    assert got == {str(number) for number in range(20)}


async def test_async_to_sync(listen):
    """A thread without a loop may wrap the asynchronous method, at a price."""
    listener = await listen("broadcast:foo")
    await asyncio.to_thread(async_to_sync(broadcast().apublish_message), "Hello")
    assert await listener.receive() == "Hello"


async def test_bytes(listen):
    """Payloads arrive as they were, on every layer."""
    listener = await listen("broadcast:foo")
    for payload in (b"\xff\x00", b"\x00ws4redis x 1 \n", b"\x00asgi x", b"x" * 100_000):
        await broadcast().apublish_message(payload)
        got = await listener.receive()
        assert (got if isinstance(got, bytes) else got.encode()) == payload


async def test_several_channels(listen):
    """One publish to several audiences arrives on each."""
    names = ["broadcast:foo", "user:john@x:foo", "group:a%3Ab:foo", "session:key:foo"]
    listeners = [await listen(name) for name in names]
    publisher = RedisPublisher(
        facility="foo", broadcast=True, users=["john@x"], groups=["a:b"], sessions=["key"]
    )
    assert publisher._publishers == set(names)
    await asyncio.to_thread(publisher.publish_message, "Hello")
    assert [await listener.receive() for listener in listeners] == ["Hello"] * 4


async def test_what_is_not_kept(listen, redis_client):
    """It arrives on every layer, on several channels too, and nothing is written."""
    names = ["broadcast:foo", "user:john:foo"]
    listeners = [await listen(name) for name in names]
    for number in range(3):
        publish_one, publish_both = (
            broadcast(),
            RedisPublisher(facility="foo", broadcast=True, users=["john"]),
        )
        await asyncio.to_thread(publish_one.publish_message, f"one {number}", keep=False)
        await publish_one.apublish_message(f"two {number}", keep=False)
        await asyncio.to_thread(publish_both.publish_message, f"both {number}", keep=False)
        await publish_both.apublish_message(f"all {number}", keep=False)
        assert redis_client.keys("*broadcast:foo*") == []
        kinds = ["one", "two", "both", "all"]
        assert [await listeners[0].receive() for _ in kinds] == [f"{k} {number}" for k in kinds]
        assert [await listeners[1].receive() for _ in kinds[2:]] == [
            f"{kind} {number}" for kind in kinds[2:]
        ]
    await broadcast().apublish_message("kept")
    assert await listeners[0].receive() == "kept"
    assert redis_client.hget("{broadcast:foo}:meta", "offset") == b"1"


async def test_what_is_not_kept_for_legacy_servers(listen, redis_client, settings):
    """They get the bare payload; a socket here gets the message once."""
    settings.WS4REDIS_LEGACY_SERVERS = True
    listener = await listen("broadcast:foo")
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("broadcast:foo")
        pubsub.get_message(timeout=5)
        await asyncio.to_thread(broadcast().publish_message, "Hello", keep=False)
        assert pubsub.get_message(timeout=5)["data"] == b"Hello"
    await broadcast().apublish_message("end")
    assert [await listener.receive(), await listener.receive()] == ["Hello", "end"]
    assert redis_client.hget("{broadcast:foo}:meta", "offset") == b"1"


async def test_an_empty_message_for_legacy_servers(redis_client, settings):
    """They get it as well, and what one of them publishes next is not taken for the copy."""
    settings.WS4REDIS_LEGACY_SERVERS = True
    layer = get_channel_layer()
    listener = await Listener(get_fanout(layer)).join("broadcast:foo")
    await broadcast().apublish_message("", keep=False)
    redis_client.publish("broadcast:foo", "theirs")
    assert await listener.receive() == "theirs"
    await close_fanout(layer)


async def test_nobody_listens(layer_name, redis_client):
    """Publishing without a listener anywhere stores the message all the same."""
    broadcast().publish_message("one")
    await asyncio.to_thread(broadcast().publish_message, "two")
    await broadcast().apublish_message("three")
    assert redis_client.get("broadcast:foo") == b"three"
    await close_layer(get_channel_layer())


def test_without_any_loop(layer_name, redis_client):
    """In a process without any event loop publishing works, on every layer."""
    broadcast().publish_message("one")
    assert redis_client.get("broadcast:foo") == b"one"
    asyncio.run(close_layer(get_channel_layer()))


def publish_in_child():
    """Publish in a forked child."""
    broadcast().publish_message("from the child")


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
async def test_forked_child(listen, layer_name, redis_client):
    """A child forked off while the parent's loops are running publishes, and is not held up."""
    listener = await listen("broadcast:foo")
    await asyncio.to_thread(broadcast().publish_message, "from the parent")
    assert await listener.receive() == "from the parent"
    child = multiprocessing.get_context("fork").Process(target=publish_in_child)
    child.start()
    await asyncio.to_thread(child.join, PATIENCE)
    if child.is_alive():
        child.kill()
        child.join()
    assert child.exitcode == 0
    assert redis_client.get("broadcast:foo") == b"from the child"
    if layer_name != "memory":  # which has no other process
        assert await listener.receive() == "from the child"


async def test_nobody(redis_client, settings):
    """A message for no channel is no message, and needs not even a channel layer."""
    settings.CHANNEL_LAYERS = {}
    nobody = RedisPublisher(facility="foo", users=[])
    nobody.publish_message("x")
    await nobody.apublish_message("x")
    assert redis_client.keys() == []


def test_many_channels_cost_few_scripts(redis_client):
    """A publish to many channels is one script for fifty of them."""
    names = [f"user:{number}:foo" for number in range(101)]
    publish(Publication(names, b"warm up", 10))
    redis_client.config_resetstat()
    publish(Publication(names, b"x", 10))
    assert redis_client.info("commandstats")["cmdstat_evalsha"]["calls"] == 3
    assert redis_client.mget(names) == [b"x"] * 101


@pytest.mark.parametrize("name", ["sync", "async"])
async def test_what_is_not_kept_is_one_command(redis_client, name):
    """A bare PUBLISH, but for one in a second, by which the role of the server is asked for."""
    publication = Publication(["broadcast:foo"], b"x", 10, keep=False)
    for _ in range(2):
        redis_client.config_resetstat()
        for _ in range(20):
            await apublish(publication) if name == "async" else publish(publication)
    commands = redis_client.info("commandstats")
    assert commands["cmdstat_publish"]["calls"] == 20
    assert commands.get("cmdstat_evalsha", {"calls": 0})["calls"] <= 2
    await close_layer(get_channel_layer())


def test_what_is_not_kept_may_be_forbidden(redis_client, redis_url, settings):
    """The error is the same for one channel and for several; those that are allowed get it."""
    redis_client.execute_command("ACL SETUSER few on >p +@all ~* resetchannels &{broadcast:foo}*")
    settings.WS4REDIS_CONNECTION = redis_url.replace("://", "://few:p@")
    redis_client.config_resetstat()
    for names in (["broadcast:bar"], ["broadcast:bar"], ["broadcast:bar", "broadcast:foo"]):
        with pytest.raises(redis.exceptions.NoPermissionError, match="publish to 'broadcast:bar'"):
            publish(Publication(names, b"x", 10, keep=False))
    assert redis_client.info("commandstats")["cmdstat_publish"]["calls"] == 1
    redis_client.execute_command("ACL DELUSER few")


@pytest.mark.parametrize("name", ["sync", "async"])
async def test_a_replica_reaches_nobody(settings, name):
    """Each publish says so of what is not kept, and not only the first one, which asks."""
    with RedisServer(port=0) as server, RedisServer(port=0) as other:
        with redis.Redis.from_url(server.url) as client:
            client.replicaof("127.0.0.1", other.port)
        settings.WS4REDIS_CONNECTION = server.url
        publication = Publication(["broadcast:foo"], b"x", 10, keep=False)
        for _ in range(3):
            with pytest.raises(redis.exceptions.RedisError, match="replica"):
                await apublish(publication) if name == "async" else publish(publication)
        await close_layer(get_channel_layer())


async def test_what_is_not_kept_follows_a_failover(settings):
    """Behind one name a replica takes over; the old primary would take a PUBLISH for ever."""
    with RedisServer(port=0) as server, RedisServer(port=0) as other:
        proxy = Proxy(server.port)
        await proxy.start()
        settings.WS4REDIS_CONNECTION = {"host": "127.0.0.1", "port": proxy.port}
        publication = Publication(["broadcast:foo"], b"x", 10, keep=False)
        with redis.Redis.from_url(server.url) as old, redis.Redis.from_url(other.url) as new:
            for function in (partial(asyncio.to_thread, publish), apublish):
                await function(publication)
            old.replicaof("127.0.0.1", other.port)
            proxy.lead_to(other.port)
            for function in (partial(asyncio.to_thread, publish), apublish):
                new.config_resetstat()
                async with asyncio.timeout(PATIENCE):
                    while "cmdstat_publish" not in new.info("commandstats"):
                        await function(publication)
                        await asyncio.sleep(0.05)
        await close_layer(get_channel_layer())
        await proxy.close()


@pytest.mark.parametrize("at_once", [1, 2, 10])
def test_a_channel_that_cannot_be_written(redis_client, monkeypatch, at_once):
    """It raises, and keeps no other channel from its message, in whatever parts they go."""
    monkeypatch.setattr(backend_named("default"), "channels_at_once", at_once)
    names = ["broadcast:a", "broadcast:b", "broadcast:c"]
    redis_client.rpush("{broadcast:b}:meta", "no hash")
    with pytest.raises(redis.exceptions.ResponseError, match="of another program"):
        publish(Publication(names, b"x", 10))
    assert redis_client.mget(names) == [b"x", None, b"x"]


@pytest.fixture
def cluster():
    """A Redis in cluster mode that is alone and has all slots."""
    with RedisServer(port=0, options={"cluster-enabled": "yes"}) as server:
        client = redis.Redis.from_url(server.url)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            time.sleep(0.01)
        yield client, server.url
        client.close()


@pytest.mark.parametrize("name", ["redis", "memory"])
@pytest.mark.parametrize("function", [publish, apublish])
async def test_cluster_mode_publishes_once(settings, cluster, name, function):
    """What such a Redis has taken of a publish is not published again with what it has refused."""
    client, settings.WS4REDIS_CONNECTION = cluster
    settings.CHANNEL_LAYERS = configuration(name, settings.WS4REDIS_CONNECTION)
    at_once = backend_named("default").channels_at_once
    names = [f"user:{number}:foo" for number in range(at_once + 1)]
    outcome = function(Publication(names, b"x", 10))
    if outcome is not None:
        await outcome
    assert {client.hget(f"{{{name}}}:meta", "offset") for name in names} == {b"1"}
    await close_layer(get_channel_layer())


async def test_cluster_mode(settings, cluster):
    """A Redis that takes no channels of different slots at once gets them one by one."""
    client, settings.WS4REDIS_CONNECTION = cluster
    names = ["user:john:foo", "user:mary:foo", "user:ann:foo"]
    for function in (publish, apublish):
        backend_named("default").channels_at_once = 50
        for _ in range(2):
            outcome = function(Publication(names, b"x", 10))
            if outcome is not None:
                await outcome
    assert [client.get(name) for name in names] == [b"x"] * 3
    assert [client.hget(f"{{{name}}}:meta", "offset") for name in names] == [b"4"] * 3


@pytest.mark.parametrize("channel_layers", [{}, {"other": {"BACKEND": "x"}}])
async def test_no_layer(settings, channel_layers):
    """Without a channel layer publishing tells which setting is missing."""
    settings.CHANNEL_LAYERS = channel_layers
    with pytest.raises(ImproperlyConfigured, match="CHANNEL_LAYERS = "):
        broadcast().publish_message("Hello")
    with pytest.raises(ImproperlyConfigured, match="RedisChannelLayer"):
        await broadcast().apublish_message("Hello")


async def test_layer_alias(settings, redis_client, redis_url):
    """A subclass may use another of the project's layers."""
    settings.CHANNEL_LAYERS = {"mine": configuration("redis", redis_url)["default"]}

    class MyPublisher(RedisPublisher):
        channel_layer_alias = "mine"

    MyPublisher(facility="foo", broadcast=True).publish_message("one")
    await MyPublisher(facility="foo", broadcast=True).apublish_message("two")
    assert redis_client.hget("{broadcast:foo}:meta", "offset") == b"2"


@pytest.mark.parametrize("name", ["own redis", "pubsub", "core"])
async def test_layer_is_down(settings, free_port, name, redis_client):
    """If only the layer's Redis is down, publishing raises after the message was stored."""
    settings.CHANNEL_LAYERS = configuration(name, f"redis://127.0.0.1:{free_port}")
    publication = Publication(["broadcast:foo"], b"x", 10)
    with pytest.raises((redis.exceptions.ConnectionError, OSError)):
        publish(publication)
    with pytest.raises((redis.exceptions.ConnectionError, OSError)):
        await apublish(publication)
    assert redis_client.get("broadcast:foo") == b"x"
    await close_layer(get_channel_layer())


async def test_layer_of_its_own_redis(settings):
    """With a Redis of the layer's own, messages are stored in one and sent through the other."""
    with RedisServer(port=0) as server:
        settings.CHANNEL_LAYERS = configuration("own redis", server.url)
        layer = get_channel_layer()
        fanout = get_fanout(layer)
        listener = await Listener(fanout).join("broadcast:foo")
        await broadcast().apublish_message("one")
        await asyncio.to_thread(broadcast().publish_message, "two")
        assert [await listener.receive(), await listener.receive()] == ["one", "two"]
        with redis.Redis.from_url(server.url) as client:
            assert client.keys() == []
        await close_fanout(layer)


async def test_a_publisher_elsewhere_is_told_of_a_layer_for_one_process(
    settings, redis_url, redis_client, caplog
):
    """Once, with the remedy; and not where a server runs the code, on its loop or in a thread."""
    settings.CHANNEL_LAYERS = configuration("memory", redis_url)
    await broadcast().apublish_message("in an asynchronous view")
    await sync_to_async(broadcast().publish_message)("in a view")
    assert caplog.text == ""
    for _ in range(2):
        command = threading.Thread(target=broadcast().publish_message, args=["in a command"])
        command.start()
        await asyncio.to_thread(command.join)
    (record,) = caplog.records
    assert "set CHANNEL_LAYERS = {'default': {'BACKEND': 'channels_ws4redis." in record.message
    settings.CHANNEL_LAYERS = configuration("redis", redis_url)
    await asyncio.to_thread(broadcast().publish_message, "on the package's own layer")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["redis", "pubsub", "memory"])
async def test_positions_are_returned(settings, redis_url, redis_client, name):
    """Of each channel; none of what is not kept, and the present one if nothing is published."""
    settings.CHANNEL_LAYERS = configuration(name, redis_url)
    backend, channels = backend_named("default"), [f"user:{number}:foo" for number in range(120)]
    first = await backend.apublish(Publication(channels, b"x", 60, version=1))
    assert list(first) == channels
    late = await backend.apublish(Publication(channels, b"y", 60, version=1))
    assert late == first
    assert {redis_client.get(channel) for channel in channels} == {b"x"}
    assert await backend.apublish(Publication(channels, b"x", 0, keep=False)) == {}
    second = await asyncio.to_thread(backend.publish, Publication(channels, b"z", 60, version=2))
    assert {position.offset for position in second.values()} == {2}
    assert await asyncio.to_thread(backend.purge, channels[:2]) == {
        channel: Position(second[channel].epoch, 3) for channel in channels[:2]
    }
    await close_fanout(get_channel_layer())


async def test_nobody_hears_a_late_version(listen):
    """Nor is a socket told anything of it."""
    listener = await listen("broadcast:foo")
    for version in (2, 1, 2, 3):
        publication = Publication(["broadcast:foo"], b"%d" % version, 60, version=version)
        await apublish(publication)
    assert [await listener.receive() for _ in range(2)] == ["2", "3"]
    assert listener.queue.empty()
