"""Named channels: queues in Redis, of which ``manage.py runworker`` works off the messages."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import msgpack
import pytest
import redis
from channels.exceptions import ChannelFull
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from channels_ws4redis.layers import RedisChannelLayer
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store import queues
from testproject.embedded import RedisServer
from tests.workers import PATIENCE, until, worker

QUEUE = "asgi.queue:thumbnails"


@pytest.fixture
async def layer(redis_url):
    """A channel layer of one process."""
    layer = RedisChannelLayer()
    yield layer
    await layer.flush()


@pytest.fixture
async def other(redis_url):
    """The channel layer of another process, as far as Redis can tell."""
    other = RedisChannelLayer()
    yield other
    await other.flush()


@pytest.fixture
def server():
    """A server of the test's own, to stop and to pause."""
    with RedisServer(port=0) as server, override_settings(WS4REDIS_CONNECTION=server.url):
        yield server


def number(value: int) -> dict:
    """Return a message."""
    return {"type": "t", "number": value}


async def receive(layer, channel="thumbnails"):
    """Return the number of the next message; fail if there is none."""
    async with asyncio.timeout(PATIENCE):
        return (await layer.receive(channel))["number"]


def waits(client: redis.Redis, channel: str = "thumbnails", count: int = 1) -> bool:
    """Tell whether so many processes wait for a message of a named channel."""
    return client.pubsub_numsub(f"asgi.queue:{channel}")[0][1] == count


async def test_messages_wait_for_a_receiver(layer, other, redis_client) -> None:
    """What was sent while nobody received is received later, in order and in any process."""
    for value in range(5):
        await layer.send("thumbnails", number(value))
    assert redis_client.llen(QUEUE) == 5
    assert [await receive(other) for _ in range(3)] == [0, 1, 2]
    assert [await receive(layer) for _ in range(2)] == [3, 4]
    assert redis_client.keys() == []


async def test_a_receiver_that_waits_gets_what_is_sent(layer, other, redis_client) -> None:
    """Whoever waits gets a message in the moment in which it is sent."""
    for value in range(20):
        receiving = asyncio.create_task(receive(layer))
        await until(lambda: waits(redis_client))
        await other.send("thumbnails", number(value))
        assert await receiving == value


async def test_one_receiver_gets_each_message(layer, other, redis_client) -> None:
    """However many receive in however many processes, each message comes once."""
    got: list[int] = []

    async def work(where) -> None:
        while True:
            got.append((await where.receive("thumbnails"))["number"])

    workers = [asyncio.create_task(work(each)) for each in (layer, layer, layer, other, other)]
    await until(lambda: waits(redis_client, count=2))
    for value in range(200):
        await other.send("thumbnails", number(value))
    await until(lambda: len(got) >= 200)
    assert sorted(got) == list(range(200))
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    await until(lambda: waits(redis_client, count=0))


async def test_a_receiver_that_leaves_takes_nothing_with_it(layer, redis_client) -> None:
    """A receive that is cancelled at any moment loses no message and leaves no subscription."""
    for value in range(100):
        await layer.send("thumbnails", number(value))
        receiving = asyncio.create_task(layer.receive("thumbnails"))
        for _ in range(value % 10):
            await asyncio.sleep(0)
        if receiving.done() or not receiving.cancel():
            assert (await receiving)["number"] == value
            continue
        await asyncio.wait([receiving])
        assert receiving.cancelled()
        assert await receive(layer) == value
    await until(lambda: not redis_client.exists(QUEUE))


async def test_a_message_that_is_put_back_is_the_next_one(layer, redis_client) -> None:
    """It keeps its deadline, and its place before those that came after it."""
    for value in range(3):
        await layer.send("thumbnails", number(value))
    before = redis_client.lrange(QUEUE, 0, -1)
    for receives_at_once in (False, True):
        receiving = asyncio.create_task(layer.receive("thumbnails"))
        await asyncio.sleep(0)  # it has asked for a message now
        receiving.cancel()
        await asyncio.wait([receiving])
        if not receives_at_once:
            await until(lambda: redis_client.lrange(QUEUE, 0, -1) == before)
    assert [await receive(layer) for _ in range(3)] == [0, 1, 2]


async def test_several_who_wait_here_take_turns(layer, other, redis_client) -> None:
    """If one of those who wait in a process leaves, the others go on waiting."""
    first, second, third = (asyncio.create_task(receive(layer)) for _ in range(3))
    await until(lambda: waits(redis_client))
    first.cancel()
    await asyncio.wait([first])
    await other.send("thumbnails", number(1))
    await other.send("thumbnails", number(2))
    assert {await second, await third} == {1, 2}


async def test_a_full_queue_refuses(redis_url, redis_client) -> None:
    """Beyond the capacity of the channel the sender gets ChannelFull, until there is room."""
    layer = RedisChannelLayer(capacity=2, channel_capacity={"big*": 3})
    for channel, room in (("thumbnails", 2), ("big.one", 3)):
        for value in range(room):
            await layer.send(channel, number(value))
        with pytest.raises(ChannelFull):
            await layer.send(channel, number(9))
        assert await receive(layer, channel) == 0
        await layer.send(channel, number(room))
        assert [await receive(layer, channel) for _ in range(room)] == list(range(1, room + 1))
    await layer.flush()


async def test_messages_expire(redis_url, redis_client) -> None:
    """A message that has waited too long is not received, and takes no room."""
    hasty, patient = RedisChannelLayer(expiry=0.05, capacity=3), RedisChannelLayer(capacity=3)
    for value in range(3):
        await hasty.send("thumbnails", number(value))
    await asyncio.sleep(0.1)  # nobody announces that they have expired
    await patient.send("thumbnails", number(3))
    assert redis_client.llen(QUEUE) == 1
    await hasty.send("thumbnails", number(4))
    await patient.send("thumbnails", number(5))
    await asyncio.sleep(0.1)
    assert [await receive(patient) for _ in range(2)] == [3, 5]
    await hasty.flush()
    await patient.flush()


async def test_keys_expire(layer, redis_client) -> None:
    """What nobody takes is gone by itself, also what was put back."""
    await layer.send("thumbnails", number(1))
    assert 60 <= redis_client.ttl(QUEUE) <= 61
    receiving = asyncio.create_task(layer.receive("thumbnails"))
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait([receiving])
    await until(lambda: redis_client.llen(QUEUE) == 1)
    assert 59 <= redis_client.ttl(QUEUE) <= 61
    await layer.group_add("group", "thumbnails")
    assert 86400 <= redis_client.ttl("asgi.members:group") <= 86401


async def test_named_channels_in_groups(layer, other, redis_client) -> None:
    """A group may have named channels, for all processes; each gets a message once."""
    local = await layer.new_channel()
    await layer.group_add("group", local)
    await layer.group_add("group", "thumbnails")
    await other.group_add("group", "thumbnails")
    await other.group_add("group", "prints")
    await layer.group_discard("group", "prints")
    await layer.group_discard("unknown", "prints")
    await other.group_send("group", number(1))
    assert [await receive(layer, local), await receive(other)] == [1, 1]
    assert redis_client.keys("asgi.queue:*") == []
    await other.group_discard("group", "thumbnails")
    await layer.group_send("group", number(2))
    assert await receive(layer, local) == 2
    assert redis_client.keys() == []


async def test_membership_ends(redis_url) -> None:
    """A named channel that nobody has put into a group again is out of it after group_expiry."""
    layer = RedisChannelLayer(group_expiry=0.05)
    await layer.group_add("group", "thumbnails")
    await asyncio.sleep(0.1)
    await layer.group_send("group", number(1))
    await layer.send("thumbnails", number(2))
    assert await receive(layer) == 2
    await layer.flush()


async def test_a_full_queue_misses_what_goes_to_its_group(redis_url, caplog) -> None:
    """Sending to a group never fails for that; the log tells."""
    layer = RedisChannelLayer(capacity=1)
    local = await layer.new_channel()
    for channel in ("thumbnails", local):
        await layer.group_add("group", channel)
    for value in range(2):
        await layer.group_send("group", number(value))
        assert await receive(layer, local) == value
    assert caplog.messages == ["Channel thumbnails is full; a message was dropped"]
    assert await receive(layer) == 0
    await layer.flush()


async def test_flush_empties_what_is_the_layers(redis_url, redis_client) -> None:
    """It deletes queues and members, also of other processes, and nothing of other prefixes."""
    layer, longer = RedisChannelLayer(prefix="a[1]*"), RedisChannelLayer(prefix="a[1]*b")
    for each in (layer, longer):
        await each.send("thumbnails", number(1))
        await each.group_add("group", "thumbnails")
    redis_client.set("a1:asgi.queue:mine", "x")
    receiving = asyncio.create_task(receive(layer, "prints"))
    await until(lambda: redis_client.pubsub_channels("a*prints"))
    await layer.flush()
    assert {key.decode() for key in redis_client.scan_iter()} == {
        "a[1]*basgi.queue:thumbnails",
        "a[1]*basgi.members:group",
        "a1:asgi.queue:mine",
    }
    await layer.send("prints", number(2))
    assert await receiving == 2
    await layer.flush()
    await longer.flush()


@pytest.mark.parametrize("size", [0, 2 * 1024 * 1024])
async def test_sizes(layer, other, size: int) -> None:
    """Layers must take messages of a megabyte."""
    message = {"type": "t", "text": "x" * size, "bytes": b"\xff" * size}
    local = await layer.new_channel()
    for channel in ("thumbnails", local):
        await other.send(channel, message)
        async with asyncio.timeout(PATIENCE):
            assert await layer.receive(channel) == message


async def send(layer, message) -> None:
    """Send to a named channel."""
    await layer.send("thumbnails", message)


async def send_to_group(layer, message) -> None:
    """Send to a group."""
    await layer.group_send("group", message)


@pytest.mark.parametrize("way", [send, send_to_group])
@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("text", "must be a dict, not 'text'"),
        (None, "must be a dict, not None"),
        ({"type": "t", "object": object()}, "serialize"),
        ({"type": "t", "keys": {1: 2}}, "int is not allowed"),
    ],
)
async def test_what_is_no_message(
    layer, redis_client, way: Callable[..., Awaitable[None]], message, error: str
) -> None:
    """The sender is told, and not whoever would have received it."""
    with pytest.raises((TypeError, ValueError), match=error):
        await way(layer, message)
    assert redis_client.keys() == []


@pytest.mark.parametrize("name", ["", None, 7, b"bytes", "x" * 65536])
async def test_wrong_names(layer, name) -> None:
    """What is no name is a TypeError."""
    with pytest.raises(TypeError, match="Channel name"):
        await layer.receive(name)
    with pytest.raises(TypeError, match="Channel name"):
        await layer.group_discard("group", name)


@pytest.mark.parametrize("name", ["expiry", "group_expiry", "capacity"])
@pytest.mark.parametrize("value", [0, -1, None, "60"])
def test_wrong_numbers(name: str, value) -> None:
    """What is no number above 0 is named in the error."""
    with pytest.raises(ImproperlyConfigured, match=f"{name!r} of the channel layer is {value!r}"):
        RedisChannelLayer(**{name: value})


def test_several_hosts() -> None:
    """A layer has one Redis, and does not drop the others without a word."""
    with pytest.raises(ImproperlyConfigured, match="names 2 servers"):
        RedisChannelLayer(hosts=["redis://a", "redis://b"])


async def test_foreign_entries(layer, redis_client, caplog) -> None:
    """What another program has put into a queue is logged, and keeps nobody from the others."""
    redis_client.rpush(QUEUE, b"foreign", b"", b"\xc1 \xc1")
    await layer.send("thumbnails", number(1))
    assert await receive(layer) == 1
    assert len(caplog.messages) == 3
    redis_client.set("asgi.queue:prints", "foreign")
    for attempt in (layer.send("prints", number(1)), layer.receive("prints")):
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            await attempt
    assert redis_client.get("asgi.queue:prints") == b"foreign"


async def test_no_facility_names_a_queue(layer, redis_client) -> None:
    """A client that chooses the facility writes no queue, whatever name it thinks of."""
    await layer.send("thumbnails", number(1))
    before = redis_client.lrange(QUEUE, 0, -1)
    for facility in (QUEUE, "x}asgi.queue:thumbnails", "\nasgi.queue:thumbnails"):
        publisher = RedisPublisher(facility=facility, broadcast=True)
        await publisher.apublish_message("x", idempotency_key=QUEUE)
    assert redis_client.lrange(QUEUE, 0, -1) == before
    assert redis_client.keys("asgi.*") == [QUEUE.encode()]


async def test_receiving_outlasts_an_outage(server, caplog, monkeypatch) -> None:
    """Whoever waits while Redis restarts gets what is sent afterwards."""
    monkeypatch.setattr(queues, "RETRY", 0.05)
    layer, other = RedisChannelLayer(), RedisChannelLayer()
    receiving = asyncio.create_task(receive(layer))
    with redis.Redis.from_url(server.url) as client:
        await until(lambda: waits(client))
    await asyncio.to_thread(server.stop)
    with pytest.raises(redis.exceptions.ConnectionError):
        await other.send("thumbnails", number(1))
    await asyncio.to_thread(server.start)
    await other.send("thumbnails", number(2))
    assert await receiving == 2
    await layer.flush()
    await other.flush()


async def test_receiving_begins_anew_while_redis_is_away(server, caplog, monkeypatch) -> None:
    """A worker between two messages does not end either; the log tells once."""
    monkeypatch.setattr(queues, "RETRY", 0.05)
    layer = RedisChannelLayer()
    receiving = asyncio.create_task(receive(layer))
    with redis.Redis.from_url(server.url) as client:
        await until(lambda: waits(client))
    await layer.send("thumbnails", number(1))
    assert await receiving == 1
    await asyncio.to_thread(server.stop)
    receiving = asyncio.create_task(receive(layer))
    await until(lambda: any("Cannot receive on 'thumbnails'" in text for text in caplog.messages))
    await asyncio.to_thread(server.start)
    await layer.send("thumbnails", number(2))
    assert await receiving == 2
    assert sum("Cannot receive" in text for text in caplog.messages) == 1
    await layer.flush()


async def test_a_lost_link_is_no_lost_message(layer, other, redis_client) -> None:
    """What is sent while the link is down is found once it is back, without another message."""
    receiving = asyncio.create_task(receive(layer))
    await until(lambda: waits(redis_client))
    pipeline = redis_client.pipeline(transaction=False)
    # Past the layer, as the announcement is to be missed.
    pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    pipeline.rpush(QUEUE, b"9999999999999 " + msgpack.packb(number(7)))
    pipeline.execute()
    assert await receiving == 7


async def test_no_redis(free_port) -> None:
    """While Redis cannot be reached from the beginning, both sides get an error."""
    with override_settings(WS4REDIS_CONNECTION=f"redis://127.0.0.1:{free_port}"):
        layer = RedisChannelLayer()
        for attempt in (
            layer.send("thumbnails", number(1)),
            layer.receive("thumbnails"),
            layer.group_add("group", "thumbnails"),
            layer.group_send("group", number(1)),
            layer.flush(),
        ):
            with pytest.raises(redis.exceptions.ConnectionError):
                await attempt


# Workers


async def test_two_workers(redis_url, redis_client, layer) -> None:
    """Of two processes that work off two channels, one gets each message, and answers."""
    reply = await layer.new_channel()
    with ExitStack() as stack:
        processes = {
            stack.enter_context(worker(redis_url, "thumbnails", "prints")).pid for _ in range(2)
        }
        for channel in ("thumbnails", "prints"):
            await until(lambda channel=channel: waits(redis_client, channel, 2))
            for value in range(50):
                message = {"type": "generate", "number": value, "reply": reply}
                await layer.send(channel, message)
            answers = [await layer.receive(reply) for _ in range(50)]
            assert sorted(answer["number"] for answer in answers) == list(range(50))
            assert {answer["process"] for answer in answers} <= processes


async def test_a_worker_is_restarted(redis_url, redis_client, layer) -> None:
    """What is sent while there is no worker is done by the next one, in order."""
    reply = await layer.new_channel()
    with worker(redis_url, "prints") as process:
        await until(lambda: waits(redis_client, "prints"))
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.wait, PATIENCE)
    for value in range(20):
        await layer.send("prints", {"type": "generate", "number": value, "reply": reply})
    with worker(redis_url, "prints"):
        assert [await receive(layer, reply) for _ in range(20)] == list(range(20))
