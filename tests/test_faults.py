"""Redis fails in every way it can, under real servers with open sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import redis

from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store.process import get_client
from channels_ws4redis.store.runner import look_again
from testproject.embedded import RedisServer
from tests.clients import Socket, Visitor
from tests.servers import AsgiServer
from tests.torture.proxy import Proxy

PATH = "/ws/fault?subscribe-broadcast"

#: Seconds in which all sockets must receive again once Redis is back.
RECOVERY = 5

SERVER_SETTINGS = {"WS4REDIS_REPLAY": "all"}


@pytest.fixture
def forgetful() -> Iterator[RedisServer]:
    """A Redis that comes back empty."""
    with RedisServer(port=0) as server:
        yield server


@pytest.fixture
async def proxy(persistent: RedisServer) -> AsyncIterator[Proxy]:
    """A link to Redis that can be cut."""
    proxy = Proxy(persistent.port)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
def at(settings) -> Callable[[str], None]:
    """Let this process publish to a Redis."""

    def point(url: str) -> None:
        settings.WS4REDIS_CONNECTION = url
        settings.WS4REDIS_HISTORY = 100

    return point


async def publish(*messages: str, **kwargs) -> None:
    """Publish from a thread, as Django's views do."""
    publisher = RedisPublisher(facility="fault", broadcast=True)
    for message in messages:
        await asyncio.to_thread(publisher.publish_message, message, **kwargs)


async def hello(socket: Socket, positions: dict | None = None) -> dict:
    """Begin to speak the package's own protocol and return what is said of the channel."""
    await socket.send_json({"type": "hello", "positions": positions or {}})
    return (await socket.receive_json())["channels"]["broadcast"]


async def texts(socket: Socket, count: int) -> list[str]:
    """Return the data of the next frames, or their types if they are no messages."""
    frames = [json.loads(text) for text in await socket.receive_many(count)]
    return [frame.get("data", frame["type"]) for frame in frames]


async def check(
    site: AsgiServer, fault: Callable[[], Awaitable[list[str]]], told: list[str] | None = None
) -> None:
    """Cause a fault and see that a raw socket and one with positions get what it has published.

    :param told: what the one with positions gets, if that is not the same.
    """
    async with (
        Visitor(site).socket(PATH) as raw,
        Visitor(site).socket(PATH, subprotocols=[SUBPROTOCOL]) as speaking,
    ):
        await hello(speaking)
        await publish("before")
        assert await raw.receive() == "before"
        assert await texts(speaking, 1) == ["before"]
        expected = await fault()
        await publish("after")
        begun = time.monotonic()
        assert await raw.receive_many(len(expected) + 1) == [*expected, "after"]
        told = [*(told or expected), "after"]
        assert await texts(speaking, len(told)) == told
        assert time.monotonic() - begun < RECOVERY


@pytest.mark.parametrize("how", ["restart", "kill"])
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_redis_restarts_with_its_data(serve, persistent, at, kind: str, how: str) -> None:
    """Open sockets stay open and miss nothing, not even what came before the link was back.

    A client with positions is told of a possible loss, since Redis cannot prove that it is whole.
    """
    at(persistent.url)
    site = serve(kind, settings=SERVER_SETTINGS, REDIS_URL=persistent.url)

    async def fault() -> list[str]:
        await asyncio.to_thread(getattr(persistent, "stop" if how == "restart" else how))
        await asyncio.sleep(1)
        await asyncio.to_thread(persistent.start)
        await publish("at once", "and again")
        return ["at once", "and again"]

    await check(site, fault, ["lost", "at once", "and again"])


async def test_redis_restarts_twice(serve, persistent, at) -> None:
    at(persistent.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=persistent.url)

    async def fault() -> list[str]:
        await asyncio.to_thread(persistent.restart)
        await publish("one")
        await asyncio.to_thread(persistent.restart)
        await publish("two")
        return ["one", "two"]

    await check(site, fault, ["lost", "one", "lost", "two"])


@pytest.mark.parametrize("layer", ["redis", "pubsub"])
async def test_the_link_is_cut_for_two_seconds(serve, persistent, proxy, at, layer: str) -> None:
    at(persistent.url)
    link = f"redis://127.0.0.1:{proxy.port}/0"
    site = serve(layer=layer, settings=SERVER_SETTINGS, REDIS_URL=link)

    async def fault() -> list[str]:
        await proxy.cut()
        await publish("one", "two")
        await asyncio.sleep(2)
        await publish("three")
        await proxy.start()
        return ["one", "two", "three"]

    if layer == "redis":
        await check(site, fault)
        return
    # This process has our own layer; a third-party one is published to by the server itself.
    visitor = Visitor(site)
    async with visitor.socket(PATH) as raw:
        await visitor.publish("before", facility="fault", broadcast=True)
        assert await raw.receive() == "before"
        expected = await fault()
        assert await raw.receive_many(3) == expected


async def test_what_is_not_kept_overtakes_nothing_after_the_link_was_cut(
    serve, persistent, proxy, at
) -> None:
    """What is kept arrives once, in order and without a loss; nobody is told what was not kept."""
    at(persistent.url)
    link = f"redis://127.0.0.1:{proxy.port}/0"
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=link)
    numbers = iter(range(1000))

    async def publish_both(times: int) -> None:
        for number in [next(numbers) for _ in range(times)]:
            await publish(f"{number}")
            await publish(f"after {number}", keep=False)

    async with Visitor(site).socket(PATH, subprotocols=[SUBPROTOCOL]) as socket:
        await hello(socket)
        for _ in range(3):
            await publish_both(10)
            await proxy.cut()
            await publish_both(10)
            await proxy.start()
            await publish_both(10)
        await publish("end")
        told = []
        while told[-1:] != ["end"]:
            told += await texts(socket, 1)
    kept = [text for text in told if text.isdecimal()]
    assert kept == [str(number) for number in range(90)]
    assert {text for text in told if text not in kept} > {"end"}
    for place, text in enumerate(told):
        if text.startswith("after "):
            assert text.removeprefix("after ") in told[:place]
    assert "lost" not in told


async def test_the_link_goes_silent_without_being_closed(serve, persistent, proxy, at) -> None:
    """A half-open connection is noticed by itself, though nothing is ever heard of it."""
    at(persistent.url)
    link = f"redis://127.0.0.1:{proxy.port}/0"
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=link)

    async def fault() -> list[str]:
        proxy.stall()
        await publish("one", "two")
        return ["one", "two"]

    async with Visitor(site).socket(PATH) as raw:
        await publish("before")
        assert await raw.receive() == "before"
        expected = await fault()
        assert await raw.receive_many(2) == expected


async def test_what_a_client_sends_after_a_message_in_doubt_is_not_published(
    serve, persistent, proxy, at
) -> None:
    """Its socket is closed, so that the client knows, and nothing is published out of order."""
    at(persistent.url)
    link = f"redis://127.0.0.1:{proxy.port}/0?socket_timeout=0.5"
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=link)
    async with Visitor(site).socket(f"{PATH}&publish-broadcast&echo") as socket:
        await socket.send("before")
        assert await socket.receive() == "before"
        proxy.stall()
        for text in ("in doubt", "after it"):
            await socket.send(text)
        assert await socket.close_code() == 1013
    publisher = RedisPublisher(facility="fault", broadcast=True)
    (history,) = (await publisher.ahistory()).values()
    assert [message.payload for message in history.messages] == [b"before"]


async def test_redis_hangs_for_a_while(serve, persistent, at) -> None:
    at(persistent.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=persistent.url)

    async def fault() -> list[str]:
        persistent.pause()
        await asyncio.sleep(4)
        persistent.resume()
        return []

    await check(site, fault)


async def test_redis_restarts_empty(serve, forgetful, at) -> None:
    """Whoever can be told is told, and the sockets stay open."""
    at(forgetful.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=forgetful.url)
    async with (
        Visitor(site).socket(PATH) as raw,
        Visitor(site).socket(PATH, subprotocols=[SUBPROTOCOL]) as speaking,
    ):
        await hello(speaking)
        await publish("before")
        assert await texts(speaking, 1) == ["before"]
        await asyncio.to_thread(forgetful.restart)
        await publish("after")
        assert await texts(speaking, 2) == ["lost", "after"]
        assert await raw.receive_many(2) == ["before", "after"]


async def test_the_history_is_flushed(serve, persistent, at) -> None:
    at(persistent.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=persistent.url)
    async with Visitor(site).socket(PATH, subprotocols=[SUBPROTOCOL]) as speaking:
        await hello(speaking)
        await publish("before")
        position = await speaking.receive_json()
        client = redis.Redis.from_url(persistent.url)
        client.flushall()
        client.close()
        await publish("after")
        frames = [await speaking.receive_json() for _ in range(2)]
        assert [frame["type"] for frame in frames] == ["lost", "message"]
        assert [frame["offset"] for frame in frames] == [0, 1]
    async with Visitor(site).socket(PATH, subprotocols=[SUBPROTOCOL]) as speaking:
        old = {key: position[key] for key in ("epoch", "offset")}
        welcome = await hello(speaking, {"broadcast": old})
        assert welcome["recovered"] is False
        assert welcome["replay"] == 1
        assert await texts(speaking, 1) == ["after"]


async def test_what_is_not_stored_is_made_good_as_well(serve, persistent, proxy, at) -> None:
    """What newcomers get is another question than what is kept for those who were there."""
    at(persistent.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
    async with Visitor(site).socket(PATH, subprotocols=[SUBPROTOCOL]) as speaking:
        await hello(speaking)
        await proxy.cut()
        await publish("stored")
        await publish("not stored", expire=0)
        await publish("stored too")
        await proxy.start()
        assert await texts(speaking, 3) == ["stored", "not stored", "stored too"]


async def test_scripts_are_flushed(serve, persistent, at) -> None:
    at(persistent.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=persistent.url)

    async def fault() -> list[str]:
        client = redis.Redis.from_url(persistent.url)
        client.script_flush()
        client.close()
        return []

    await check(site, fault)


async def test_a_socket_cannot_be_opened_while_redis_is_away(serve, persistent, at) -> None:
    """It is told to try again later, and can once Redis is back."""
    at(persistent.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=persistent.url)
    await asyncio.to_thread(persistent.stop)
    async with Visitor(site).socket(PATH) as raw:
        assert await raw.close_code() == 1013
    await asyncio.to_thread(persistent.start)
    async with Visitor(site).socket(PATH) as raw:
        await publish("after")
        assert await raw.receive() == "after"


async def test_many_sockets_that_come_back_cost_a_handful_of_round_trips(
    serve, persistent, at
) -> None:
    at(persistent.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=persistent.url)
    client = redis.Redis.from_url(persistent.url)
    visitor = Visitor(site)
    async with visitor.socket(PATH, subprotocols=[SUBPROTOCOL]) as first:
        position = await hello(first)
    await publish(*(str(index) for index in range(50)))
    old = {key: position[key] for key in ("epoch", "offset")}

    async def come_back() -> None:
        async with visitor.socket(PATH, subprotocols=[SUBPROTOCOL]) as socket:
            welcome = await hello(socket, {"broadcast": old})
            assert welcome["recovered"] is True
            assert await texts(socket, 50) == [str(index) for index in range(50)]

    client.config_resetstat()
    await asyncio.gather(*(come_back() for _ in range(100)))
    stats = client.info("commandstats")
    client.close()
    calls = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))
    assert calls <= 100


# Publishing


def expect_failure(error: type[Exception], seconds: float) -> None:
    """Publishing raises that error, in that time."""
    begun = time.monotonic()
    with pytest.raises(error):
        RedisPublisher(facility="fault", broadcast=True).publish_message("x")
    assert time.monotonic() - begun < seconds


def test_publishing_to_no_redis_fails_at_once(at, free_port: int) -> None:
    at(f"redis://127.0.0.1:{free_port}/0")
    expect_failure(redis.exceptions.ConnectionError, 1)


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_the_log_of_a_redis_that_is_away_names_the_cause(serve, persistent, kind) -> None:
    """Be it a view that publishes or a client, and nothing that went wrong on the way."""
    site = serve(kind, settings=SERVER_SETTINGS, REDIS_URL=persistent.url)
    visitor = Visitor(site)
    body = {"to": {"facility": "fault", "broadcast": True}, "messages": ["x"]}
    async with visitor.socket("/ws/fault?publish-broadcast") as socket:
        assert (await visitor.arequest("/test/publish", body)).status == 200
        await asyncio.to_thread(persistent.stop)
        assert (await visitor.arequest("/test/publish", body)).status == 500
        await socket.send("x")
        assert await socket.close_code() == 1013
    assert site.says("ConnectionError: Error ")
    assert site.says("Closing the socket '/ws/fault': ConnectionError: Error ")
    assert "IndexError" not in site.log


def test_publishing_with_a_wrong_password_fails_at_once(at) -> None:
    with RedisServer(port=0, password="right") as server:
        at(f"redis://:wrong@127.0.0.1:{server.port}/0")
        expect_failure(redis.exceptions.AuthenticationError, 1)


def test_publishing_to_a_hanging_redis_fails_in_bounded_time(at, persistent) -> None:
    at(persistent.url)
    RedisPublisher(facility="fault", broadcast=True).publish_message("x")
    persistent.pause()
    try:
        expect_failure(redis.exceptions.TimeoutError, 8)
    finally:
        persistent.resume()


async def test_publishing_again_after_a_timeout_delivers_once(serve, persistent, at) -> None:
    """With an idempotency key, whether the first attempt got through or not."""
    at(persistent.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=persistent.url)
    client = redis.Redis.from_url(persistent.url)
    async with Visitor(site).socket(PATH) as raw:
        client.client_pause(6000, all=False)  # writes wait, and are then carried out
        with pytest.raises(redis.exceptions.TimeoutError):
            await publish("once", idempotency_key="key")
        client.client_unpause()
        await asyncio.to_thread(look_again, get_client())
        await publish("once", idempotency_key="key")
        await publish("end")
        assert await raw.receive_many(2) == ["once", "end"]
    client.close()


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("replicaof", "127.0.0.1 1", redis.exceptions.ReadOnlyError),
        ("maxmemory", "1", redis.exceptions.OutOfMemoryError),
    ],
)
async def test_a_redis_that_cannot_be_written_to(
    serve, persistent, at, option: str, value: str, error: type[Exception]
) -> None:
    """Publishing fails loudly; who connects gets what there is, also after Redis has restarted."""
    at(persistent.url)
    site = serve(settings=SERVER_SETTINGS, REDIS_URL=persistent.url)
    await publish("stored")
    await asyncio.to_thread(persistent.restart)
    client = redis.Redis.from_url(persistent.url)
    if option == "replicaof":
        client.replicaof(*value.split())
    else:
        client.config_set(option, value)
    expect_failure(error, 2)
    async with Visitor(site).socket(PATH) as raw:
        assert await raw.receive() == "stored"
    if option == "replicaof":
        client.replicaof("NO", "ONE")
    else:
        client.config_set(option, "0")
    client.close()
    async with Visitor(site).socket(PATH) as raw:
        await publish("new")
        assert await raw.receive_many(2) == ["stored", "new"]


def test_a_forked_process_does_not_share_its_parents_connections(at, redis_url: str) -> None:
    at(redis_url)
    publisher = RedisPublisher(facility="fault", broadcast=True)
    publisher.publish_message("parent")
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                for _ in range(50):
                    publisher.publish_message("child")
                os._exit(0)
            except BaseException:  # noqa: BLE001 # nothing may get into pytest a second time
                os._exit(1)
        children.append(pid)
    for _ in range(50):
        publisher.publish_message("parent")
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    client = redis.Redis.from_url(redis_url)
    assert int(client.hget("{broadcast:fault}:meta", "offset")) == 201
    client.close()


async def test_what_a_stock_layer_drops_is_made_good(serve, at, redis_url: str) -> None:
    """The in-memory layer keeps 100 messages per channel and forgets the rest without a word."""
    at(redis_url)
    site = serve(
        layer="memory",
        settings={
            "WS4REDIS_HISTORY": 1000,
            "WS4REDIS_REPLAY": "all",
            "WS4REDIS_OUTBOX_MESSAGES": 5000,
        },
    )
    visitor = Visitor(site)
    async with visitor.socket(PATH) as raw:
        messages = [str(index) for index in range(400)]
        await visitor.publish(*messages, facility="fault", broadcast=True)
        assert await raw.receive_many(400) == messages


# One channel has too much


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_flooded_channel_does_not_cut_the_link_of_all(serve, forgetful, at, kind) -> None:
    """However long its messages take to deliver; the other channels miss nothing."""
    at(forgetful.url)
    client = redis.Redis.from_url(forgetful.url)
    client.config_set("client-output-buffer-limit", "pubsub 4mb 4mb 1")
    site = serve(
        kind,
        application="tests.site.sluggish:application",
        settings={"WS4REDIS_HISTORY": 1, "WS4REDIS_OUTBOX_BYTES": 10**9},
        REDIS_URL=forgetful.url,
    )
    visitor = Visitor(site)

    def flood() -> None:
        flooding = RedisPublisher(facility="flood", broadcast=True)
        innocent = RedisPublisher(facility="fault", broadcast=True)
        for number in range(600):
            flooding.publish_message(b"x" * 64 * 1024)
            if number % 20 == 0:
                innocent.publish_message(str(number), expire=0)  # nothing to recover it from
            time.sleep(0.005)

    async with contextlib.AsyncExitStack() as stack:
        raw = await stack.enter_async_context(visitor.socket(PATH))
        for _ in range(30):
            await stack.enter_async_context(visitor.socket("/ws/flood?subscribe-broadcast"))
        await asyncio.to_thread(flood)
        assert await raw.receive_many(30) == [str(number) for number in range(0, 600, 20)]
    client.close()
    assert "lost the link" not in site.log
    assert "More arrives than can be handed on" in site.log
