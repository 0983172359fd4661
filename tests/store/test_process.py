"""What there is once per process: its client, connections of its own, a loop for layers."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import traceback
import weakref
from unittest import mock

import pytest
import redis
from django.test import override_settings

from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.redis_store import RedisStore
from channels_ws4redis.store.clients import MAX_IDLE, make_client
from channels_ws4redis.store.process import (
    background_loop,
    forget_connections,
    get_client,
    is_own_client,
    this_process,
)
from channels_ws4redis.store.runner import run
from channels_ws4redis.store.scripts import Command, Script
from testproject.embedded import RedisServer

ECHO = Script("return ARGV[1]")


@pytest.fixture
def server():
    """A server of the test's own."""
    with RedisServer(port=0) as server:
        yield server


def echo(client, text="x"):
    """Run a script on the Redis of a client."""
    return run(client, [Command(ECHO, [], [text])])


def publisher(connection=None):
    """Return a publisher to everyone, on a connection of the caller's if there is one."""
    found = RedisPublisher(facility="foo", broadcast=True)
    if connection is not None:
        found._connection = connection
    return found


def assert_connected(client, count):
    """Redis has so many connections, at the latest when it has noticed which are closed."""
    deadline = time.monotonic() + 5
    while client.info("clients")["connected_clients"] != count:
        assert time.monotonic() < deadline, client.client_list()


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
    assert is_own_client(clients[0])
    assert not is_own_client(None)


def test_client_follows_the_settings(server, redis_url):
    """Changing WS4REDIS_CONNECTION makes the next call connect anew."""
    first = get_client()
    with override_settings(WS4REDIS_CONNECTION=server.url):
        assert get_client().info("server")["tcp_port"] == server.port
    assert get_client() is not first
    assert get_client().ping()


def test_an_object_is_made_once():
    """Whatever is asked for by the same key is the same object."""
    made = this_process().get("a key of this test", object)
    assert this_process().get("a key of this test", object) is made
    assert this_process().find("a key of this test") is made
    assert this_process().find("another key") is None


CAPPED = [
    lambda url: redis.ConnectionPool.from_url(url, max_connections=1),
    lambda url: redis.BlockingConnectionPool.from_url(url, max_connections=1, timeout=0.2),
]


@pytest.mark.parametrize("make_pool", CAPPED)
def test_a_capped_pool_is_left_to_its_owner(redis_url, make_pool):
    """A caller's pool of one connection serves the caller while its client publishes."""
    client = redis.Redis(connection_pool=make_pool(redis_url))
    mine = publisher(client)
    for number in range(3):
        mine.publish_message(str(number))
        assert mine.fetch_message(None, "foo", "broadcast") == b"%d" % number
    assert RedisStore(client)._connection.get("broadcast:foo") == b"2"
    with client.pubsub() as pubsub:  # holds the only connection there may be
        pubsub.subscribe("x")
        mine.publish_message("meanwhile")
    client.close()


@pytest.mark.parametrize("as_url", [True, False])
def test_a_cap_in_the_settings_does_not_starve_publishing(redis_url, as_url):
    """WS4REDIS_CONNECTION may carry max_connections."""
    connection = {"url": redis_url, "max_connections": 1}
    if as_url:
        connection = f"{redis_url}{'&' if '?' in redis_url else '?'}max_connections=1"
    with override_settings(WS4REDIS_CONNECTION=connection):
        for number in range(3):
            publisher().publish_message(str(number))
            assert publisher().fetch_message(None, "foo", "broadcast") == b"%d" % number


async def test_a_cap_in_the_settings_does_not_starve_asyncio(redis_url):
    """The same for coroutines, however many publish at once."""
    with override_settings(WS4REDIS_CONNECTION={"url": redis_url, "max_connections": 1}):
        await asyncio.gather(*(publisher().apublish_message(str(n)) for n in range(20)))
        assert await publisher().afetch_message(None, "foo", "broadcast") is not None


def test_a_client_that_decodes_is_read_as_bytes(redis_url):
    """A caller's client may decode what it reads; the package needs bytes."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert echo(client, b"\xff") == [b"\xff"]


@pytest.mark.parametrize("fake", [mock.Mock(), object(), redis.asyncio.Redis()])
def test_what_is_no_client_is_named(fake):
    """Who passes something else as connection is told what to pass."""
    with pytest.raises(TypeError, match=r"pass a redis\.Redis, or nothing"):
        publisher(fake).publish_message("x")


def test_clients_on_one_pool_share_connections(redis_url, redis_client):
    """Legacy code makes a client per request, on a pool of the module's."""
    pool = redis.ConnectionPool.from_url(redis_url)
    echo(redis.Redis(connection_pool=pool))
    before = redis_client.info("stats")["total_connections_received"]
    for _ in range(20):
        echo(redis.Redis(connection_pool=pool))
    assert redis_client.info("stats")["total_connections_received"] == before


def test_what_many_threads_needed_is_not_kept_for_ever(server):
    """After many threads have published at once only a few connections stay open."""
    with redis.Redis.from_url(server.url) as client:
        pool = this_process().pool_of(client)
        taken = [pool.take() for _ in range(3 * MAX_IDLE)]
        assert_connected(client, 3 * MAX_IDLE + 1)
        for connection in taken:
            pool.give_back(connection)
        assert_connected(client, MAX_IDLE + 1)


def test_forgotten_connections_are_closed(server):
    """What was idle is closed at once, what was in use when it is given back."""
    with redis.Redis.from_url(server.url) as observer:
        with override_settings(WS4REDIS_CONNECTION=server.url):
            echo(get_client())
            pool = this_process().pool_of(get_client())
            in_use, idle = pool.take(), pool.take()
            pool.give_back(idle)
            assert_connected(observer, 3)
            forget_connections()
            assert_connected(observer, 2)
            pool.give_back(in_use)
        assert_connected(observer, 1)


def test_connections_go_with_the_client(server):
    """A client that its owner drops takes the package's connections with it."""
    with redis.Redis.from_url(server.url) as observer:
        client = redis.Redis.from_url(server.url)
        echo(client)
        assert_connected(observer, 2)
        dropped = weakref.ref(client.connection_pool)
        del client
        gc.collect()
        assert dropped() is None
        assert_connected(observer, 1)


@pytest.mark.parametrize("run_it", [echo, lambda client: client.get("x")])
def test_an_error_names_nothing_but_its_cause(free_port, run_it):
    """The first thing that an operator reads of a Redis that is down is that it is down."""
    client = make_client({"host": "127.0.0.1", "port": free_port})
    with pytest.raises(redis.exceptions.ConnectionError) as raised:
        run_it(client)
    assert "IndexError" not in "".join(traceback.format_exception(raised.value))


def test_background_loop():
    """It runs, is the same each time, and belongs to nobody's thread."""
    loop = background_loop()
    assert background_loop() is loop
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "done"), loop).result(5) == "done"


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_begins_anew(redis_client):
    """A child has a client, connections and a loop of its own, whatever its parent was doing."""
    echo(get_client())
    parents, loop, client = this_process().pool_of(get_client()), background_loop(), get_client()

    def is_anew() -> bool:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), background_loop()).result(5)
        return (
            echo(get_client(), "child") == [b"child"]
            and echo(client, "old") == [b"old"]
            and background_loop() is not loop
            and this_process().pool_of(client) is not parents
        )

    with this_process()._lock:
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if is_anew() else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert echo(get_client(), "parent") == [b"parent"]
