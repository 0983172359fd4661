"""Connections to Redis: how they are made from the settings, shared, renewed and closed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from channels_ws4redis import connections
from channels_ws4redis.connections import (
    Command,
    Script,
    close_with_loop,
    connection_kwargs,
    disconnect,
    get_client,
    get_link,
    make_async_client,
    make_client,
)
from testproject.embedded import RedisServer, find_free_port, find_server_binary

ECHO = Script("return {ARGV[1], KEYS[1]}")
COUNT = Script("return redis.call('INCR', KEYS[1])")
FAIL = Script("return redis.call('INCR')")


@pytest.fixture
def server():
    """A server of the test's own, to stop and to pause."""
    with RedisServer(port=0) as server:
        yield server


def commands_processed(client):
    """Return how often the server has been asked for anything, by command."""
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


@pytest.mark.parametrize(
    ("setting", "kwargs"),
    [
        ("redis://h:1/2", {"url": "redis://h:1/2"}),
        ({"host": "h"}, {"host": "h"}),
        ({"host": "h", "port": "6379", "db": "3"}, {"host": "h", "port": 6379, "db": 3}),
        ({"host": "h", "password": "", "username": None}, {"host": "h"}),
        ({"host": "h", "decode_responses": True}, {"host": "h"}),
        ({"unix_socket_path": "/a"}, {"unix_socket_path": "/a"}),
        (None, {"host": "localhost", "port": 6379, "db": 0}),
    ],
)
def test_connection_kwargs(settings, setting, kwargs):
    """WS4REDIS_CONNECTION is a URL, or a dict as legacy projects have it, ports as text too."""
    settings.WS4REDIS_CONNECTION = setting
    assert connection_kwargs() == kwargs


@pytest.mark.parametrize("key", ["port", "db"])
@pytest.mark.parametrize("value", ["redis", [6379], "63.79"])
def test_wrong_port(settings, key, value):
    """A port that is no number is named, together with the value."""
    settings.WS4REDIS_CONNECTION = {"host": "h", key: value}
    with pytest.raises(ImproperlyConfigured, match=key):
        get_client()


def test_nothing_connects_before_use(free_port):
    """A client can be made while Redis is down."""
    make_client({"host": "127.0.0.1", "port": free_port}).close()
    make_client({"url": f"redis://127.0.0.1:{free_port}"}).close()


async def assert_works(**more):
    """Connect both kinds of client by the present settings."""
    client = make_client(**more)
    assert client.ping()
    assert client.set("a", b"\xff")
    assert client.get("a") == b"\xff"
    client.connection_pool.disconnect()
    async_client = make_async_client(**more)
    assert await async_client.get("a") == b"\xff"
    await disconnect(async_client)


async def test_url_and_dict(settings, redis_url):
    """A URL and a dict lead to the same server."""
    await assert_works()
    parts = redis.connection.parse_url(redis_url)
    settings.WS4REDIS_CONNECTION = parts | {"port": str(parts.get("port", 6379)), "password": ""}
    await assert_works()


async def test_unix_socket(settings):
    """A UNIX socket works as URL and in a dict, which may name a host as well."""
    with RedisServer() as server:
        settings.WS4REDIS_CONNECTION = server.url
        await assert_works(max_connections=2)
        path = server.url.removeprefix("unix://").partition("?")[0]
        settings.WS4REDIS_CONNECTION = {"unix_socket_path": path, "host": "elsewhere", "port": 1}
        await assert_works(max_connections=2)


async def test_password(settings):
    """A password works in a URL and in a dict, whatever characters are in it."""
    with RedisServer(port=0, password="p@ss:w/rd?%") as server:
        settings.WS4REDIS_CONNECTION = server.url
        await assert_works()
        settings.WS4REDIS_CONNECTION = {
            "host": "127.0.0.1",
            "port": server.port,
            "password": server.password,
        }
        await assert_works()
        settings.WS4REDIS_CONNECTION = {"host": "127.0.0.1", "port": server.port}
        with pytest.raises(redis.exceptions.AuthenticationError):
            make_client().ping()


async def test_sentinel(settings, server, tmp_path):
    """With sentinels named, they are asked for the master."""
    port = find_free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor themaster 127.0.0.1 {server.port} 1\n"
    )
    process = subprocess.Popen(  # noqa: ASYNC220 # nothing else is to run meanwhile
        [find_server_binary(), str(conf), "--sentinel"], stdout=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout:
            if "Sentinel ID" in line:
                break
        settings.WS4REDIS_CONNECTION = {
            "sentinels": [("127.0.0.1", port)],
            "service_name": "themaster",
            "db": "0",
        }
        await assert_works(max_connections=2)
        assert make_client().info("server")["tcp_port"] == server.port
    finally:
        process.kill()
        process.communicate()


def test_one_client_per_process():
    """Synchronous code shares one client, in all threads."""
    clients = []
    threads = [threading.Thread(target=lambda: clients.append(get_client())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(client) for client in clients}) == 1
    assert get_client() is clients[0]


def test_client_follows_the_settings(server, redis_url):
    """Changing WS4REDIS_CONNECTION makes the next call connect anew."""
    first = get_client()
    with override_settings(WS4REDIS_CONNECTION=server.url):
        assert get_client().info("server")["tcp_port"] == server.port
    assert get_client() is not first
    assert get_client().ping()


async def test_link_follows_the_settings(server, redis_client):
    """So does the event loop's link."""
    link = await get_link()
    assert await get_link() is link
    await link.run([Command(COUNT, ["count"], [])])
    with override_settings(WS4REDIS_CONNECTION=server.url):
        other = await get_link()
        assert other is not link
        assert await other.run([Command(COUNT, ["count"], [])]) == [1]
    assert await (await get_link()).run([Command(COUNT, ["count"], [])]) == [2]
    assert redis_client.get("count") == b"2"


def run(commands):
    """Run commands on the synchronous client."""
    return connections.run(get_client(), commands)


async def arun(commands):
    """Run commands on the loop's link."""
    return await (await get_link()).run(commands)


@pytest.fixture(params=["sync", "async"])
def either(request):
    """Both ways to run commands, as a coroutine function."""

    async def call(commands):
        return run(commands) if request.param == "sync" else await arun(commands)

    return call


async def test_replies(either):
    """Replies come in the order of the commands, errors among them without spoiling the others."""
    replies = await either(
        [
            Command(ECHO, ["key"], [b"\xff"]),
            Command(FAIL, ["key"], []),
            Command(COUNT, ["count"], []),
            Command(COUNT, ["count"], []),
        ]
    )
    assert replies[0] == [b"\xff", b"key"]
    assert isinstance(replies[1], redis.exceptions.ResponseError)
    assert replies[2:] == [1, 2]
    assert await either([]) == []


async def test_script_flush(either, redis_client):
    """A Redis that has forgotten the scripts is told again, and nothing runs twice."""
    await either([Command(COUNT, ["count"], [])])
    redis_client.script_flush()
    assert await either([Command(COUNT, ["count"], []), Command(COUNT, ["count"], [])]) == [2, 3]


async def test_some_scripts_are_unknown(either, redis_client):
    """Only what has not run is run again once its script has been loaded."""
    await either([Command(COUNT, ["count"], [])])
    fresh = Script(f"return {time.time_ns()}")
    replies = await either([Command(COUNT, ["count"], []), Command(fresh, [], [])])
    assert replies[0] == 2
    assert redis_client.get("count") == b"2"


async def test_script_knows_the_run_id(either, redis_client):
    """In a script RUN is the identity of the server's run."""
    assert await either([Command(Script("return RUN"), [], [])]) == [
        redis_client.info("server")["run_id"].encode()
    ]


async def test_restart(either, server):
    """After a restart of Redis everything works on, and scripts see the new run."""
    with override_settings(WS4REDIS_CONNECTION=server.url):
        script = Script("return RUN")
        before = await either([Command(script, [], [])])
        await asyncio.to_thread(server.restart)  # the loop notices that its connection is closed
        after = await either([Command(script, [], [])])
        assert before != after


async def test_killed_connections(either, redis_client):
    """A connection that Redis has closed is replaced without an error."""
    await either([Command(COUNT, ["count"], [])])
    kill = "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
    await asyncio.to_thread(redis_client.execute_command, *kill)
    assert await either([Command(COUNT, ["count"], [])]) == [2]


async def test_redis_is_down(either, free_port):
    """With Redis down a command fails at once, as redis-py's ConnectionError."""
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": free_port}):
        began = time.monotonic()
        with pytest.raises(redis.exceptions.ConnectionError):
            await either([Command(COUNT, ["count"], [])])
        assert time.monotonic() - began < 2


async def test_redis_hangs(either, server):
    """A Redis that does not answer is given up after the timeout, and works again afterwards."""
    connection = {"url": server.url, "socket_timeout": 0.2}
    with override_settings(WS4REDIS_CONNECTION=connection):
        await either([Command(COUNT, ["count"], [])])
        server.pause()
        try:
            with pytest.raises(redis.exceptions.TimeoutError):
                await either([Command(COUNT, ["count"], [])])
        finally:
            server.resume()
        replies = await either([Command(COUNT, ["count"], [])])
        assert replies[0] in (2, 3)  # whether the one that timed out was run is for Redis to know


async def test_coroutines_share_a_pipeline(redis_client):
    """What many coroutines ask for at once goes through one connection in a few pipelines."""
    await arun([Command(COUNT, ["count"], [])])
    before = redis_client.info("stats")
    replies = await asyncio.gather(*(arun([Command(COUNT, ["count"], [])]) for _ in range(500)))
    after = redis_client.info("stats")
    assert sorted(reply for (reply,) in replies) == list(range(2, 502))
    assert after["total_connections_received"] == before["total_connections_received"]
    assert after["total_reads_processed"] - before["total_reads_processed"] < 50


async def test_cancelled_caller():
    """Whoever is cancelled while waiting leaves the others alone."""
    await arun([Command(COUNT, ["count"], [])])
    tasks = [asyncio.create_task(arun([Command(COUNT, ["count"], [])])) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[1].cancel()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(replies[1], asyncio.CancelledError)
    assert [replies[0], replies[2]] == [[2], [4]]
    assert await arun([Command(COUNT, ["count"], [])]) == [5]


async def test_commands_that_cannot_be_sent():
    """A command that cannot even be encoded fails by itself; the link works on."""
    outcomes = await arun([Command(ECHO, ["\ud800"], ["x"])])
    assert isinstance(outcomes[0], UnicodeEncodeError)
    assert await arun([Command(COUNT, ["count"], [])]) == [1]


async def test_close_and_reopen(redis_client):
    """A closed link opens again when it is used."""
    link = await get_link()
    assert await link.run([Command(COUNT, ["count"], [])]) == [1]
    await link.close()
    assert await link.run([Command(COUNT, ["count"], [])]) == [2]


@pytest.mark.parametrize("turns", range(5))
async def test_close_while_busy(turns):
    """Closing a link fails those who wait for it, leaves nobody waiting, and it opens again."""
    link = await get_link()
    waiting = [asyncio.create_task(link.run([Command(COUNT, ["a"], [])])) for _ in range(3)]
    for _ in range(turns):
        await asyncio.sleep(0)
    closing = asyncio.create_task(link.close())
    await asyncio.sleep(0)
    later = asyncio.create_task(link.run([Command(COUNT, ["b"], [])]))
    async with asyncio.timeout(5):
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, list | redis.exceptions.ConnectionError)
        await closing
        assert isinstance(
            (await asyncio.gather(later, return_exceptions=True))[0], list | Exception
        )
        assert isinstance((await link.run([Command(COUNT, ["c"], [])]))[0], int)


def test_connection_ends_with_its_loop(redis_client):
    """A loop that ends closes its link: no connection is left, and nothing warns."""

    def ours():
        return [client for client in redis_client.client_list() if client["name"] == ""]

    before = len(ours())
    for _ in range(3):
        assert len(asyncio.run(arun([Command(ECHO, ["a"], ["b"])]))) == 1
    assert len(ours()) <= before


def test_close_with_loop():
    """A loop awaits what it was asked to await when it ends."""
    closed = []

    async def close():
        await asyncio.sleep(0)
        closed.append(True)

    async def main():
        keep.append(await close_with_loop(close))
        assert not closed

    keep = []
    asyncio.run(main())
    assert closed == [True]


def test_import_connects_nowhere():
    """Importing the package needs neither Redis nor configured settings."""
    code = (
        "import socket; socket.socket.connect = None\n"
        "import channels_ws4redis.publisher, channels_ws4redis.routing, channels_ws4redis.layers"
    )
    subprocess.run([sys.executable, "-W", "error::ResourceWarning", "-c", code], check=True)
