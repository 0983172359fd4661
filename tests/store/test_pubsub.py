"""Hearing what is published: the link to Redis ends in every way there is, and comes back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar

import msgpack
import pytest
import redis
from django.test import override_settings

from channels_ws4redis.protocol.messages import EVENT_TYPE
from channels_ws4redis.store import inbox
from channels_ws4redis.store.commands import events_channel
from channels_ws4redis.store.fairness import MAX_SLICE_BYTES
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.pubsub import MISSED_TYPE, RELINKED_TYPE, Listener
from channels_ws4redis.store.scripts import Command, Script
from channels_ws4redis.store.topics import Kind
from testproject.embedded import RedisServer

PATIENCE = 10

NAME = "broadcast:foo"
POISON = b"poison"
PUBLISH = Script("return redis.call('PUBLISH', ARGV[1], ARGV[2])")


@pytest.fixture
def server():
    """A server of the test's own, to pause."""
    with RedisServer(port=0) as server, override_settings(WS4REDIS_CONNECTION=server.url):
        yield server


@pytest.fixture
async def listener():
    """A listener with nobody on it."""
    listener = Listener(None, lambda channel: 100)
    yield listener
    await listener.close()


async def join(listener: Listener, on_poison: Callable[[], None] = lambda: None) -> asyncio.Queue:
    """Let a fan-out listen on NAME; return the payloads and types of what it is given."""
    queue: asyncio.Queue = asyncio.Queue()

    def receive(message):
        if message["type"] != EVENT_TYPE:
            queue.put_nowait(message["type"])
        elif message["event"].payload == POISON:
            on_poison()
        else:
            queue.put_nowait(message["event"].payload)

    listener.receivers["fanout"] = receive
    await listener.subscribe("fanout", {NAME: Kind.PAYLOAD}, NAME)
    return queue


async def given(queue: asyncio.Queue):
    """Return the next thing in a queue."""
    async with asyncio.timeout(PATIENCE):
        return await queue.get()


def link_task() -> asyncio.Task:
    """Return the task that holds the link."""
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "ws4redis-link"]
    return task


def _cancel() -> None:
    asyncio.current_task().cancel()


def _raise() -> None:
    raise asyncio.CancelledError


def _enter_a_timeout() -> None:
    """Enter asyncio.timeout as a coroutine does that is stepped by hand."""
    entering = asyncio.timeout(0.01).__aenter__()
    with pytest.raises(StopIteration):
        entering.send(None)


@pytest.mark.parametrize("end", [_cancel, _raise, _enter_a_timeout])
async def test_a_link_that_is_ended_from_within_is_made_anew(listener, redis_client, caplog, end):
    """Code that a message runs may cancel the task that reads; the process goes on hearing."""
    queue = await join(listener, end)
    redis_client.publish(NAME, POISON)
    assert await given(queue) == RELINKED_TYPE
    assert "the task that reads was cancelled: lost the link to Redis at" in caplog.text
    redis_client.publish(NAME, b"after")
    assert await given(queue) == b"after"
    async with asyncio.timeout(PATIENCE):
        await listener.subscribe("fanout", {"another": Kind.PAYLOAD}, "another")


async def test_a_link_whose_task_is_cancelled_from_outside_is_made_anew(listener, redis_client):
    """Whoever cancels all tasks of a loop that goes on does not make the process mute."""
    queue = await join(listener)
    link_task().cancel()
    assert await given(queue) == RELINKED_TYPE
    redis_client.publish(NAME, b"after")
    assert await given(queue) == b"after"


async def test_a_link_that_is_cancelled_before_it_is_there_is_made_anew(listener, redis_client):
    """Who waits for the confirmation is told, and the next one joins."""
    joining = asyncio.create_task(join(listener))
    await asyncio.sleep(0)
    link_task().cancel()
    with pytest.raises(redis.exceptions.ConnectionError, match="cancelled"):
        await joining
    async with asyncio.timeout(PATIENCE):
        await listener.subscribe("fanout", {NAME: Kind.PAYLOAD}, NAME)


async def test_the_link_is_in_no_request_of_those_who_use_it(listener, redis_client):
    """What a request has set in context variables is not seen by what all sockets share."""
    who = ContextVar("who", default="nobody")
    who.set("the first to join")
    seen = []
    queue = await join(listener, lambda: seen.append(who.get()))
    redis_client.publish(NAME, POISON)
    redis_client.publish(NAME, b"after")
    assert await given(queue) == b"after"
    assert seen == ["nobody"]


async def test_a_link_that_is_given_up_stays_ended(listener, redis_client):
    """When the last channel is gone there is no connection, and none is made."""
    await join(listener)
    task = link_task()
    listener.discard_channel("fanout")
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([task])
        while any(each["sub"] != "0" for each in redis_client.client_list()):  # noqa: ASYNC110 # Redis tells nobody
            await asyncio.sleep(0)
    await asyncio.sleep(0.2)  # longer than the first pause
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "ws4redis-link"]
    assert await join(listener)  # and it comes back when it is wanted again


async def test_a_receiver_may_end_the_link(listener, redis_client):
    """The last fan-out may leave in the middle of a message."""
    queue = await join(listener, lambda: listener.discard_channel("fanout"))
    task = link_task()
    redis_client.publish(NAME, POISON)
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([task])
    assert queue.empty()
    assert await join(listener)


@pytest.mark.parametrize("turns", range(4))
async def test_whoever_comes_while_another_channel_closes_hears(listener, redis_client, turns):
    """Redis is told in the order in which they have left and come."""
    await listener.subscribe("stays", {"another": Kind.PAYLOAD})  # or the link would be given up
    await listener.subscribe("goes", {NAME: Kind.PAYLOAD}, NAME)
    listener.discard_channel("goes")
    for _ in range(turns):
        await asyncio.sleep(0)
    queue = await join(listener)
    redis_client.publish(NAME, b"Hello")
    assert await given(queue) == b"Hello"


def test_a_loop_that_ends_has_lost_no_link(caplog) -> None:
    """The end of an event loop cancels all tasks, and is nothing to be logged."""
    caplog.set_level(logging.INFO)

    async def main():
        listener = this_loop().get("listener", lambda: Listener(None, lambda channel: 1))
        await join(listener)

    asyncio.run(main())
    assert caplog.messages == []


async def test_a_loop_that_is_held_up_keeps_its_link(listener, redis_client, monkeypatch):
    """What Redis has answered meanwhile counts, however late it is read."""
    monkeypatch.setattr("channels_ws4redis.store.links.SILENCE", 0.1)
    queue = await join(listener)
    for _ in range(3):
        time.sleep(0.25)  # noqa: ASYNC251 # this is what the test is about
        for _ in range(20):
            await asyncio.sleep(0)
    redis_client.publish(NAME, b"after")
    assert await given(queue) == b"after"


async def test_a_timeout_in_the_url_does_not_end_the_link(redis_url, redis_client, monkeypatch):
    """The link may be silent for longer than any command may take."""
    separator = "&" if "?" in redis_url else "?"
    with override_settings(WS4REDIS_CONNECTION=f"{redis_url}{separator}socket_timeout=0.1"):
        listener = Listener(None, lambda channel: 100)
    queue = await join(listener)
    await asyncio.sleep(0.4)
    redis_client.publish(NAME, b"after")
    assert await given(queue) == b"after"
    await listener.close()


async def send(listener: Listener, name: str, message: dict[str, object]) -> None:
    """Send what another consumer sends."""
    await listener.run(Command(PUBLISH, [], [name, msgpack.packb(message)]))


async def test_publishing_to_a_hanging_redis_ends(server):
    """Whoever sends through the layer is told after the timeout of a command."""
    with override_settings(WS4REDIS_CONNECTION={"url": server.url, "socket_timeout": 0.2}):
        listener = Listener(None, lambda channel: 100)
    await send(listener, NAME, {"type": "t"})
    server.pause()
    try:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(redis.exceptions.TimeoutError):
                await send(listener, NAME, {"type": "t"})
    finally:
        server.resume()
    await send(listener, NAME, {"type": "t"})
    await listener.close()


async def test_any_number_may_publish_at_once(redis_url, redis_client):
    """Messages go one after the other in the order of the calls, whatever the number of them."""
    listener = Listener({"url": redis_url, "max_connections": 1}, lambda channel: 1000)
    queue = listener.open("queue")
    await listener.subscribe("queue", {NAME: Kind.MESSAGE})
    await asyncio.gather(*(send(listener, NAME, {"number": n}) for n in range(300)))
    assert [(await given(queue))["number"] for _ in range(300)] == list(range(300))
    await listener.close()


# What waits


LARGE = b"x" * (MAX_SLICE_BYTES + 1)


async def hold_up(listener: Listener, client: redis.Redis) -> None:
    """Have the messages that are read from now on wait until the turn of others is over."""
    await listener.subscribe("fanout", {"block": Kind.PAYLOAD}, "block")
    client.publish("block", LARGE)


@pytest.fixture
def waiting(monkeypatch) -> None:
    """Let reading always be busy, so that what is read waits."""
    monkeypatch.setattr(inbox, "BUSY_BYTES", -1)
    monkeypatch.setattr(inbox, "MAX_READING", 0.05)
    monkeypatch.setattr("channels_ws4redis.store.fairness.MAX_SLICE", 0)


async def test_a_message_read_before_a_channel_came_back_is_not_for_it(
    listener, redis_client, waiting
) -> None:
    """However late it is handed on."""
    queue = await join(listener)
    await hold_up(listener, redis_client)
    assert await given(queue) == LARGE
    redis_client.publish(NAME, b"before")
    async with asyncio.timeout(PATIENCE):
        while not len(listener._inbox):  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0)
    listener.unsubscribe("fanout", [NAME])
    await listener.subscribe("fanout", {NAME: Kind.PAYLOAD}, NAME)
    redis_client.publish(NAME, b"after")
    assert await given(queue) == b"after"


async def test_a_task_that_hands_on_and_is_ended_from_within_is_a_lost_link(
    listener, redis_client, waiting, caplog
) -> None:
    """Whatever waits behind is handed on once the link is back."""
    queue = await join(listener, _cancel)
    await hold_up(listener, redis_client)
    assert await given(queue) == LARGE
    for payload in (POISON, LARGE, b"after"):
        redis_client.publish(NAME, payload)
    assert [await given(queue) for _ in range(3)] == [RELINKED_TYPE, LARGE, b"after"]
    assert "the task that hands on was cancelled: lost the link" in caplog.text


async def test_what_is_too_much_is_given_up_for_one_channel_alone(
    listener, redis_client, waiting, monkeypatch, caplog
) -> None:
    """The fan-out is told, the log has one line, and the other channels miss nothing."""
    monkeypatch.setattr(inbox, "MAX_BYTES", 20 * len(LARGE))
    told = []
    queue = await join(listener)
    receive = listener.receivers["fanout"]

    def take(message):
        told.append(message) if message["type"] == MISSED_TYPE else receive(message)

    listener.receivers["fanout"] = take
    await listener.subscribe("fanout", {"flood": Kind.PAYLOAD}, "flood")
    await hold_up(listener, redis_client)
    assert await given(queue) == LARGE
    for number in range(100):
        redis_client.publish("flood", LARGE)
        redis_client.publish(NAME, b"%d" % number)
    redis_client.publish("flood", b"end")
    got = [await given(queue)]
    while b"end" not in got or b"99" not in got:
        got.append(await given(queue))
    assert [each for each in got if each.isdigit()] == [b"%d" % number for number in range(100)]
    assert 1 <= len(told) <= 5
    assert told[0] == {"type": MISSED_TYPE, "group": "flood"}
    assert caplog.text.count("More arrives than can be handed on; dropped") == 1
    assert "on 'flood'" in caplog.text
    assert "lost the link" not in caplog.text


async def test_consumers_miss_what_is_too_much_and_get_the_rest(
    listener, redis_client, waiting, monkeypatch, caplog
) -> None:
    """As with a channel that is full."""
    monkeypatch.setattr(inbox, "MAX_BYTES", 20 * len(LARGE))
    await join(listener)
    queue = listener.open("queue")
    await listener.subscribe("queue", {"asgi.group:chat": Kind.MESSAGE}, "chat")
    await hold_up(listener, redis_client)
    for number in range(30):
        await send(listener, "asgi.group:chat", {"number": number, "bytes": LARGE})
    numbers = [(await given(queue))["number"]]
    while numbers[-1] != 29:
        numbers.append((await given(queue))["number"])
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 30
    assert "on 'asgi.group:chat'" in caplog.text


async def test_copies_for_legacy_servers_are_counted_whatever_is_given_up(
    listener, redis_client, waiting, monkeypatch
) -> None:
    """No copy counts as a foreign program's message, and no such message as a copy."""
    monkeypatch.setattr(inbox, "MAX_BYTES", 20 * len(LARGE))
    queue: asyncio.Queue = asyncio.Queue()
    listener.receivers["fanout"] = queue.put_nowait
    await listener.subscribe("fanout", {events_channel(NAME): Kind.EVENT, NAME: Kind.PAYLOAD}, NAME)
    await hold_up(listener, redis_client)

    def publish(offset: int) -> None:
        redis_client.publish(events_channel(NAME), b"e %d sender 1\n" % offset + LARGE)
        redis_client.publish(NAME, LARGE)

    for offset in range(1, 51):
        publish(offset)
        if offset % 5 == 0:
            redis_client.publish(NAME, b"foreign %d" % offset)
    redis_client.publish(NAME, b"end")
    assert (await given(queue))["event"].payload == LARGE  # it has held up the others
    missed, offsets, foreign = 0, [], []
    while b"end" not in foreign:
        message = await given(queue)
        if message["type"] == MISSED_TYPE:
            missed += 1
        elif message["event"].offset:
            offsets.append(message["event"].offset)
        else:
            foreign.append(message["event"].payload)
    assert missed
    assert 0 < len(offsets) < 50
    assert offsets == sorted(set(offsets))
    assert set(foreign) <= {b"end", *(b"foreign %d" % offset for offset in range(5, 51, 5))}
    publish(51)
    redis_client.publish(NAME, b"foreign at last")
    assert (await given(queue))["event"].offset == 51
    assert (await given(queue))["event"].payload == b"foreign at last"


async def test_the_link_is_read_while_messages_are_handed_on(server, caplog) -> None:
    """Redis does not cut off a process for a message that takes long to hand on."""
    client = redis.Redis.from_url(server.url)
    client.config_set("client-output-buffer-limit", "pubsub 2mb 2mb 1")
    listener = Listener(None, lambda channel: 100)
    queue = await join(listener)
    receive = listener.receivers["fanout"]

    def take(message):
        if message["type"] == EVENT_TYPE and len(message["event"].payload) > len(LARGE):
            time.sleep(0.03)
        receive(message)

    listener.receivers["fanout"] = take
    await listener.subscribe("fanout", {"flood": Kind.PAYLOAD}, "flood")

    def flood() -> None:
        for number in range(200):
            client.publish("flood", LARGE * 16)
            client.publish(NAME, b"%d" % number)
            time.sleep(0.005)

    async with asyncio.timeout(PATIENCE):
        await asyncio.to_thread(flood)
    got = [await given(queue)]
    while got[-1] != b"199":
        got.append(await given(queue))
    assert [each for each in got if each.isdigit()] == [b"%d" % number for number in range(200)]
    assert RELINKED_TYPE not in got
    assert "lost the link" not in caplog.text
    await listener.close()
    client.close()
