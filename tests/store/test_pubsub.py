"""Hearing what is published: the link to Redis ends in every way there is, and comes back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar

import pytest
import redis
from django.test import override_settings

from channels_ws4redis.protocol.messages import EVENT_TYPE
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.pubsub import RELINKED_TYPE, Kind, Listener
from testproject.embedded import RedisServer

PATIENCE = 10

NAME = "broadcast:foo"
POISON = b"poison"


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
    assert "Lost the link to Redis, reconnecting: the task that reads was cancelled" in caplog.text
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


async def test_publishing_to_a_hanging_redis_ends(server):
    """Whoever sends through the layer is told after the timeout of a command."""
    with override_settings(WS4REDIS_CONNECTION={"url": server.url, "socket_timeout": 0.2}):
        listener = Listener(None, lambda channel: 100)
    await listener.publish(NAME, {"type": "t"})
    server.pause()
    try:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(redis.exceptions.TimeoutError):
                await listener.publish(NAME, {"type": "t"})
    finally:
        server.resume()
    await listener.publish(NAME, {"type": "t"})
    await listener.close()


async def test_any_number_may_publish_at_once(redis_url, redis_client):
    """Messages go one after the other in the order of the calls, whatever the number of them."""
    listener = Listener({"url": redis_url, "max_connections": 1}, lambda channel: 1000)
    queue = listener.open("queue")
    await listener.subscribe("queue", {NAME: Kind.MESSAGE})
    await asyncio.gather(*(listener.publish(NAME, {"number": n}) for n in range(300)))
    assert [(await given(queue))["number"] for _ in range(300)] == list(range(300))
    await listener.close()
