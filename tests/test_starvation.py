"""Strangers in numbers, under real servers: the others log in and are served all the same."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from channels_ws4redis.servers.incoming import WATCH_AFTER
from tests.clients import Visitor
from tests.servers import AsgiServer

SERVERS = ["daphne", "uvicorn"]
ALL_SERVERS = [*SERVERS, "uvicorn-wsproto", "uvicorn-websockets"]

BOGUS = "Cookie: sessionid=abcdefghijklmnopqrstuvwxyz012345\r\n"
PATH = "/ws/room?subscribe-broadcast&subscribe-user"

PATIENCE = 20

#: Seconds. Nobody waits for more than one where no other tests run at the same time; strangers who
#: are served in the order of their coming take ten or more.
SOON = 4


@contextmanager
def crowd(
    server: AsgiServer, count: int, path: str, headers: str = ""
) -> Iterator[list[socket.socket]]:
    """Have strangers ask for so many sockets; none of them ever reads an answer."""
    handshake = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    ).encode()
    strangers = []
    try:
        for _ in range(count):
            stranger = socket.socket()
            strangers.append(stranger)
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stranger.connect(("127.0.0.1", server.port))
            stranger.sendall(handshake)
        yield strangers
    finally:
        for stranger in strangers:
            stranger.close()


async def seconds_to_get_in(visitor: Visitor, path: str = PATH) -> float:
    """Return how long a visitor waits for a socket."""
    begun = time.monotonic()
    async with visitor.socket(path):
        return time.monotonic() - begun


async def popped(redis_client, name: str) -> str:
    """Return what a hook has noted."""
    async with asyncio.timeout(PATIENCE):
        while (found := await asyncio.to_thread(redis_client.blpop, name, 1)) is None:
            pass
    return found[1].decode()


@pytest.mark.parametrize("kind", SERVERS)
async def test_bogus_cookies(serve, kind):
    """300 look-ups of 50 ms each are 15 seconds of work, of which somebody real waits for one."""
    server = serve(kind, settings={"SESSION_ENGINE": "tests.site.slow_sessions"})
    john = Visitor(server).login("john")
    with crowd(server, 300, PATH, BOGUS):
        assert await seconds_to_get_in(john) < SOON


@pytest.mark.parametrize("kind", SERVERS)
async def test_slow_hooks(serve, kind):
    """Half a second for each of 320 strangers; john waits for one of them and for his own."""
    server = serve(
        kind, settings={"WS4REDIS_ALLOWED_CHANNELS": "tests.site.busy_hooks.half_a_second"}
    )
    john = Visitor(server).login("john")
    with crowd(server, 320, "/ws/room?subscribe-broadcast"):
        assert await seconds_to_get_in(john) < SOON


@pytest.mark.parametrize("kind", ALL_SERVERS)
async def test_too_many_are_told_to_come_back_later(serve, redis_client, kind):
    """Whoever waits for three seconds is closed with 1013, and told when to come back."""
    server = serve(
        kind,
        settings={"WS4REDIS_SUBSCRIBER": "tests.site.busy_hooks.Noting", "WS4REDIS_THREADS": 2},
    )
    with crowd(server, 1, "/ws/room?subscribe-broadcast"):
        await popped(redis_client, "begun")
        async with Visitor(server).socket("/ws/room?subscribe-broadcast") as late:
            assert await late.close_code() == 1013
            assert late.connection.close_reason == "retry-after=10"
        assert redis_client.llen("begun") == 0
        redis_client.rpush("go", "on")
        ended = [await popped(redis_client, "ended") for _ in range(2)]
        assert set(ended) == {"set_pubsub_channels", "release"}
    line = "Cannot open the socket '/ws/room': no thread became free for it in 3."
    async with asyncio.timeout(10):
        while line not in server.log:  # noqa: ASYNC110 # a server's log tells nobody of a line
            await asyncio.sleep(0.05)
    assert "WS4REDIS_THREADS" in server.log


@pytest.mark.parametrize("kind", ALL_SERVERS)
async def test_who_goes_during_the_handshake(serve, redis_client, kind):
    """Hooks that wait never begin; one that runs is over before its subscriber is released."""
    server = serve(
        kind,
        settings={"WS4REDIS_SUBSCRIBER": "tests.site.busy_hooks.Noting", "WS4REDIS_THREADS": 2},
    )
    visitor = Visitor(server)
    with crowd(server, 10, "/ws/room?subscribe-broadcast"):
        await popped(redis_client, "begun")
        await asyncio.sleep(
            20 * WATCH_AFTER
        )  # all of them are watched by then, and nothing tells so
    for _ in range(2):  # by the second answer the server has seen that they are gone
        await visitor.arequest("/")
    redis_client.rpush("go", "on")
    ended = [await popped(redis_client, "ended") for _ in range(11)]
    assert ended.count("release") == 10
    assert ended.count("set_pubsub_channels") == 1
    assert redis_client.llen("begun") == 0
    async with asyncio.timeout(PATIENCE):
        while redis_client.pubsub_channels("*room*"):  # noqa: ASYNC110 # Redis tells nobody
            await asyncio.sleep(0.05)
    assert "Traceback" not in server.log
    assert "without" not in server.log


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_backlog_for_a_client_that_reads(serve, redis_client, kind):
    """It may be larger than an outbox, and the client slower than its hook."""
    server = serve(kind, settings={"WS4REDIS_SUBSCRIBER": "tests.site.busy_hooks.Backlog"})
    async with Visitor(server).socket("/ws/room?subscribe-broadcast", max_queue=1) as reader:
        for number in range(200):
            await asyncio.sleep(0.005)
            message = await reader.receive()
            assert message[:3] == f"{number:03}"
    assert await popped(redis_client, "outcomes") == "all"


@pytest.mark.parametrize("kind", SERVERS)
async def test_clients_that_do_not_read_a_backlog(serve, redis_client, kind):
    """They hold no threads that somebody else's hook needs, and are closed."""
    server = serve(kind, settings={"WS4REDIS_SUBSCRIBER": "tests.site.busy_hooks.Backlog"})
    john = Visitor(server).login("john")
    with crowd(server, 64, "/ws/room?subscribe-broadcast"):
        await popped(redis_client, "outcomes")
        begun = time.monotonic()
        async with john.socket(PATH) as reader:
            await reader.receive()
        assert time.monotonic() - begun < SOON
        outcomes = [await popped(redis_client, "outcomes") for _ in range(63)]
    assert set(outcomes) <= {"all", "WebSocketError: The client reads too slowly.",
                             "WebSocketError: The client has gone."}  # fmt: skip
    assert "its client reads too slowly" in server.log


@pytest.mark.parametrize("kind", ALL_SERVERS)
async def test_a_client_that_goes_during_its_backlog(serve, redis_client, kind):
    """The hook's next ``send`` raises, and nothing of that is an error of the server."""
    server = serve(kind, settings={"WS4REDIS_SUBSCRIBER": "tests.site.busy_hooks.Backlog"})
    with crowd(server, 1, "/ws/room?subscribe-broadcast") as (client,):
        # More than the answer to the handshake: the hook has begun.
        await asyncio.to_thread(client.recv, 1000, socket.MSG_WAITALL)
    assert await popped(redis_client, "outcomes") == "WebSocketError: The client has gone."
    assert "Traceback" not in server.log
