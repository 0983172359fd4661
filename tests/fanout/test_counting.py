"""How many sockets hear a channel, as all processes tell when they are asked."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from contextlib import AsyncExitStack, closing

import pytest
import redis
from channels.layers import get_channel_layer
from django.core.exceptions import SynchronousOnlyOperation
from django.test import override_settings

from channels_ws4redis.fanout import publishing
from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store.commands import ANSWER_EXPIRE
from tests.clients import Visitor
from tests.conftest import Serve
from tests.listeners import PATIENCE, Listener, all_left, close_layer
from tests.servers import ROOT


def everybody(facility: str = "foo") -> RedisPublisher:
    """Return a publisher to everybody on a facility."""
    return RedisPublisher(facility=facility, broadcast=True)


async def counted(publisher: RedisPublisher, count: int) -> None:
    """Wait until this many are counted, in asynchronous code and in a thread."""
    async with asyncio.timeout(PATIENCE):
        while await publisher.acount_listeners() != count:  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0.02)
    assert await asyncio.to_thread(publisher.count_listeners) == count


@pytest.fixture
def impatient(monkeypatch):
    """Wait less for answers, where nobody can tell how many there will be."""
    monkeypatch.setattr(publishing, "TRIES", (0.1, 0.3))


async def test_on_every_layer(layer_name, fanout, impatient) -> None:
    """Each socket counts once on each of its channels, and none where nobody is."""
    first, second = Listener(fanout), Listener(fanout, {"broadcast:foo": "broadcast"})
    await first.join("broadcast:foo", "user:john:foo", "user:mary:foo")
    await second.join("broadcast:foo")
    assert await everybody().acount_listeners() == 2
    assert await everybody("bar").acount_listeners() == 0
    users = RedisPublisher(facility="foo", users=["john", "mary", "jane"])
    assert await asyncio.to_thread(users.count_listeners) == 2
    first.leave()
    await counted(everybody(), 1)
    assert second.queue.empty()


async def test_a_question_is_no_message(fanout, redis_client) -> None:
    """Sockets get nothing of it, channels lose no number, and nothing is left in Redis."""
    raw, own = Listener(fanout), Listener(fanout, {"broadcast:foo": "broadcast"})
    await raw.join("broadcast:foo")
    await own.join("broadcast:foo")
    assert await everybody().acount_listeners() == 2
    keys = redis_client.keys()
    assert len(keys) == 1
    assert 0 < redis_client.ttl(keys[0]) <= ANSWER_EXPIRE
    for message in ("a", "b"):
        await everybody().apublish_message(message)
        assert await raw.receive() == message
        assert f'"data":"{message}"' in await own.receive()
        await everybody().acount_listeners()
    assert raw.queue.empty()
    assert own.queue.empty()


async def test_nobody_is_asked_about_nothing(fanout, redis_client) -> None:
    """A publisher without an audience has no listeners."""
    assert await RedisPublisher(facility="foo").acount_listeners() == 0
    assert redis_client.keys() == []


async def test_on_an_event_loop(fanout) -> None:
    """The loop could not answer while it waits; the error names what to write instead."""
    with pytest.raises(SynchronousOnlyOperation, match="acount_listeners"):
        everybody().count_listeners()


async def test_a_client_of_its_own(fanout, redis_url) -> None:
    """The question goes to the Redis of that client."""
    await Listener(fanout).join("broadcast:foo")
    publisher = everybody()
    publisher._connection = redis.Redis.from_url(redis_url)
    await counted(publisher, 1)


@pytest.mark.parametrize("pattern", ["{broadcast:foo}:events", "broadcast:foo", "*"])
async def test_a_program_that_looks_on(fanout, redis_client, monkeypatch, pattern) -> None:
    """It is no socket, and its answer, which will not come, is not waited for."""
    await Listener(fanout).join("broadcast:foo")
    monkeypatch.setattr(publishing, "TRIES", (PATIENCE, PATIENCE))
    with closing(redis_client.pubsub()) as onlooker:
        onlooker.psubscribe(pattern) if pattern == "*" else onlooker.subscribe(pattern)
        onlooker.get_message(timeout=PATIENCE)
        async with asyncio.timeout(PATIENCE):
            assert await everybody().acount_listeners() == 1
            assert await asyncio.to_thread(everybody().count_listeners) == 1


async def test_a_program_that_looks_at_both_pubsub_channels(fanout, redis_client) -> None:
    """It cannot be told from a process, and is waited for in vain."""
    await Listener(fanout).join("broadcast:foo")
    with closing(redis_client.pubsub()) as onlooker:
        onlooker.subscribe("{broadcast:foo}:events", "broadcast:foo")
        for _ in range(2):
            onlooker.get_message(timeout=PATIENCE)
        assert await everybody().acount_listeners() == 1


async def test_somebody_who_is_just_leaving(fanout, monkeypatch) -> None:
    """A process that had to answer and has left meanwhile is not waited for."""
    listener = Listener(fanout)
    await listener.join("broadcast:foo")
    monkeypatch.setattr(publishing, "TRIES", (0.1, PATIENCE))
    for _ in range(20):
        other = await Listener(fanout).join("broadcast:bar")
        other.leave()
        assert await everybody("bar").acount_listeners() == 0
    listener.leave()


@pytest.fixture
def user(redis_client, redis_url):
    """Give a user of Redis all rights but one; return a client of that user."""
    redis_client.acl_log_reset()
    clients = []

    def make(rule: str) -> redis.Redis:
        redis_client.execute_command(f"ACL SETUSER mute reset on >x ~* &* +@all {rule}")
        clients.append(redis.Redis.from_url(redis_url, username="mute", password="x"))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
    redis_client.execute_command("ACL DELUSER mute")


@pytest.mark.parametrize("rule", ["-publish", "-xrange"])
async def test_a_refusal_is_raised_and_explained(fanout, user, rule) -> None:
    """As it is where messages are published, whether the question is refused or the answer."""
    await Listener(fanout).join("broadcast:foo")
    publisher = everybody()
    publisher._connection = user(rule)
    words = "Redis's user 'mute' may not ask how many hear 'broadcast:foo'; its ACL needs"
    with pytest.raises(redis.exceptions.NoPermissionError, match=words):
        await publisher.acount_listeners()


async def test_a_process_that_may_not_answer(fanout, user, settings, caplog, impatient) -> None:
    """Its sockets do not count, and its log says why."""
    await Listener(fanout).join("broadcast:foo")
    user("-xadd")
    there = settings.WS4REDIS_CONNECTION.replace("//", "//mute:x@")
    with override_settings(WS4REDIS_CONNECTION=there):
        assert await everybody().acount_listeners() == 0
    (line, *_) = caplog.messages
    assert line.startswith(
        "The sockets of this process do not count: Redis's user 'mute' may not answer how many "
        "hear 'broadcast:foo'; its ACL needs the commands"
    )


async def test_a_user_of_redis_who_may_not_ask_who_else_hears(fanout, user, redis_client) -> None:
    """Without that right a program that looks on is waited for in vain."""
    await Listener(fanout).join("broadcast:foo")
    publisher = everybody()
    publisher._connection = user("-pubsub")
    assert await publisher.acount_listeners() == 1
    assert redis_client.acl_log() == []


async def test_a_user_of_redis_who_may_do_what_the_manual_says(
    fanout, redis_client, settings, redis_url
) -> None:
    """Nothing else is needed to ask and to answer."""
    page = (ROOT / "docs" / "reference" / "redis-keys.md").read_text()
    words = " ".join(re.findall(r'^    "(.*)"$', page, re.MULTILINE)).split()
    redis_client.execute_command(*words)
    settings.WS4REDIS_PREFIX = "mysite"
    settings.WS4REDIS_CONNECTION = redis_url.replace("//", "//mysite:secret@")
    listener = await Listener(fanout).join("mysite:broadcast:foo")
    try:
        assert await everybody().acount_listeners() == 1
        assert await asyncio.to_thread(everybody().count_listeners) == 1
    finally:
        listener.leave()
        redis_client.execute_command("ACL DELUSER mysite")


async def test_in_several_processes(serve: Serve, redis_client, settings) -> None:
    """All of them are asked; one that is frozen counts for nothing and is not waited for."""
    servers = [serve("daphne"), serve("uvicorn")]
    layer = get_channel_layer()
    async with AsyncExitStack() as stack:
        for index, count in ((0, 3), (1, 2)):
            visitor = Visitor(servers[index])
            for number in range(count):
                protocols = [SUBPROTOCOL] if number else None
                path = "/ws/foo?subscribe-broadcast"
                await stack.enter_async_context(visitor.socket(path, subprotocols=protocols))
        await counted(everybody(), 5)
        servers[0].process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert await asyncio.to_thread(everybody().count_listeners) == 2
        assert await everybody().acount_listeners() == 2
        assert time.monotonic() - begun < PATIENCE
        servers[0].process.send_signal(signal.SIGCONT)
        await counted(everybody(), 5)
    await counted(everybody(), 0)
    await close_layer(layer)


async def test_every_backend_answers_alike(layer_name, fanout, impatient) -> None:
    """By channel, for whoever wants to see more than a sum."""
    listener = await Listener(fanout).join("broadcast:foo")
    backend = backend_named("default")
    names = ["broadcast:foo", "broadcast:bar"]
    expected = {"broadcast:foo": 1, "broadcast:bar": 0}
    assert await backend.acount(names) == expected
    assert await asyncio.to_thread(backend.count, names) == expected
    listener.leave()
    await all_left()
