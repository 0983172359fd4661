"""The log has one line when a link to Redis goes, and one when it is back, with its address."""

from __future__ import annotations

import asyncio
import logging
import re
import time

import pytest
import redis
from channels.layers import get_channel_layer
from django.test import override_settings

from channels_ws4redis.fanout import stock
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.fanout.stock_layers import place_of
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store.clients import make_async_client, make_client
from channels_ws4redis.store.outages import Outage, server_address
from channels_ws4redis.store.pubsub import RELINKED_TYPE, Listener
from channels_ws4redis.store.topics import Kind
from testproject.embedded import RedisServer
from tests.listeners import PATIENCE, close_fanout, configuration
from tests.listeners import Listener as Socket

pytestmark = pytest.mark.server

PASSWORD = "s3cret"


@pytest.fixture
def server():
    """A server of the test's own, with a password."""
    with (
        RedisServer(port=0, password=PASSWORD) as server,
        override_settings(WS4REDIS_CONNECTION=server.url),
    ):
        yield server


@pytest.fixture
def lines(caplog):
    """Return what the log says of links, without figures, since the last time."""
    caplog.set_level(logging.INFO, "channels_ws4redis")

    def take() -> list[str]:
        found = [each for each in caplog.messages if " lost the " in each or " is back " in each]
        assert PASSWORD not in caplog.text
        caplog.clear()
        return [re.sub(r"after \d+\.\d s", "after … s", each) for each in found]

    return take


async def until_back(queue: asyncio.Queue) -> None:
    """Wait until a fan-out is told that the link had been lost and is back."""
    async with asyncio.timeout(PATIENCE):
        while (await queue.get())["type"] != RELINKED_TYPE:
            pass


async def test_the_link(server, lines):
    """However often the process tries meanwhile; the cause comes first, and that of the loss."""
    listener = Listener(None, lambda channel: 100)
    queue: asyncio.Queue = asyncio.Queue()
    listener.receivers["fanout"] = queue.put_nowait
    await listener.subscribe("fanout", {"foo": Kind.PAYLOAD}, "foo")
    assert lines() == []
    link = f"link to Redis at 127.0.0.1:{server.port}"
    for _ in range(2):
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(1)  # some attempts
        await asyncio.to_thread(server.start)
        await until_back(queue)
        went, back = lines()
        assert re.fullmatch(rf"ConnectionError: .*[Cc]onnection .*: lost the {link}", went)
        assert "connecting to" not in went
        assert back == f"The {link} is back after … s"
    await listener.close()


async def test_a_link_that_was_never_there(settings, free_port, lines):
    """The one line has the cause; those who want to hear are told apart from it."""
    settings.WS4REDIS_CONNECTION = f"redis://:{PASSWORD}@127.0.0.1:{free_port}"
    listener = Listener(None, lambda channel: 100)
    listener.receivers["fanout"] = lambda message: None
    for _ in range(5):
        with pytest.raises(redis.exceptions.ConnectionError):
            await listener.subscribe("fanout", {"foo": Kind.PAYLOAD}, "foo")
    await asyncio.sleep(0.3)
    (line,) = lines()
    assert "Connection refused" in line or "Connect call failed" in line
    assert line.endswith(f": lost the link to Redis at 127.0.0.1:{free_port}")
    await listener.close()


async def test_publishing(server, lines):
    """From threads and on the event loop, each of which has connections of its own."""
    publisher = RedisPublisher(facility="foo", broadcast=True)
    publisher.publish_message("1")
    await publisher.apublish_message("2")
    await asyncio.to_thread(server.stop)
    for _ in range(3):
        with pytest.raises(redis.exceptions.ConnectionError):
            await asyncio.to_thread(publisher.publish_message, "x")
        with pytest.raises(redis.exceptions.ConnectionError):
            await publisher.apublish_message("x")
    there = f"connection for commands to Redis at 127.0.0.1:{server.port}"
    went = lines()
    assert len(went) == 2
    assert all(line.endswith(f": lost the {there}") for line in went)
    await asyncio.to_thread(server.start)
    for _ in range(2):
        await asyncio.to_thread(publisher.publish_message, "3")
        await publisher.apublish_message("4")
    assert lines() == [f"The {there} is back after … s"] * 2


@pytest.mark.parametrize("name", ["core", "pubsub"])
async def test_a_stock_layer(settings, monkeypatch, lines, name):
    """What its Redis is called stands in its configuration."""
    monkeypatch.setattr(stock, "PROBE_INTERVAL", 0.1)
    monkeypatch.setattr(stock, "PROBE_TIMEOUT", 0.3)
    logging.getLogger("channels_redis").setLevel(logging.CRITICAL)
    with RedisServer(port=0, password=PASSWORD) as server:
        settings.CHANNEL_LAYERS = configuration(name, server.url)
        layer = get_channel_layer()
        await Socket(get_fanout(layer)).join("broadcast:foo")
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(1.5)
        await asyncio.to_thread(server.start)
        found: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while len(found) < 2:
                await asyncio.sleep(0.1)
                found += [line for line in lines() if "channel layer" in line]
        await close_fanout(layer)
    where = rf"channel layer channels_redis\.{name}\.\w+ at 127\.0\.0\.1:{server.port}"
    assert len(found) == 2
    assert re.fullmatch(f"[A-Z]\\w+Error: .*: lost the {where}", found[0])
    assert re.fullmatch(f"The {where} is back after … s", found[1])


def test_sentinels(free_port, settings, lines):
    """The cause names the sentinels; the primary has no address while nobody knows it."""
    sentinels = [("127.0.0.1", free_port)]
    settings.WS4REDIS_CONNECTION = {"sentinels": sentinels, "password": PASSWORD}
    with pytest.raises(redis.exceptions.ConnectionError):
        RedisPublisher(facility="foo", broadcast=True).publish_message("x")
    (line,) = lines()
    assert line.startswith("MasterNotFoundError: No sentinel knows the primary of 'mymaster'")
    assert f"127.0.0.1:{free_port}" in line
    assert line.endswith(": lost the connection for commands to Redis at mymaster")


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        ("redis://:s3cret@example.com/1", "example.com:6379"),
        ({"host": "example.com", "port": "7000", "password": PASSWORD}, "example.com:7000"),
        ({"host": None}, "localhost:6379"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        ({"sentinels": [("h", 1)], "service_name": "main"}, "main"),
    ],
)
def test_addresses(connection, address) -> None:
    """Every form of the settings has one, without what is secret."""
    with override_settings(WS4REDIS_CONNECTION=connection):
        for client in (make_client(), make_async_client()):
            assert server_address(client.connection_pool) == address


def test_a_primary_that_a_sentinel_has_named() -> None:
    """It stands beside the name of the service."""
    with override_settings(WS4REDIS_CONNECTION={"sentinels": [("h", 1)]}):
        pool = make_async_client().connection_pool
    pool.master_address = "10.0.0.1", 6380
    assert server_address(pool) == "10.0.0.1:6380 (mymaster)"


def test_a_layer_that_does_not_tell_where_it_is() -> None:
    """Its class says enough."""
    assert place_of(object()) == "channel layer builtins.object"


def test_a_cause_that_is_not_expected_has_its_traceback(caplog) -> None:
    """Once, like any other."""
    outage = Outage(lambda: "link to Redis at h:1")
    error = LookupError("odd")
    for _ in range(2):
        outage.begin(error, error)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info[1] is error
    outage._since = time.monotonic() - 2
    outage.end()
    outage.end()
    assert caplog.messages[1:] == ["The link to Redis at h:1 is back after 2.0 s"]


def test_the_time_in_which_nobody_wanted_it_does_not_count(caplog) -> None:
    """It was away up to the last attempt, and may have been back long before the next one."""
    outage = Outage(lambda: "link to Redis at h:1")
    outage.begin("away")
    outage.begin("still away")
    outage._last = time.monotonic() - 3600
    outage._since = outage._last - 2
    outage.end()
    assert caplog.messages[1:] == ["The link to Redis at h:1 is back after at least 2.0 s"]
