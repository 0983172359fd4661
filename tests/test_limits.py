"""Clients that want more than their part, under real servers: they are bounded, others are not."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack

import pytest
import websockets
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.utils.functional import SimpleLazyObject

from channels_ws4redis.handshake import deadlines
from channels_ws4redis.handshake.limits import limits
from channels_ws4redis.handshake.refusals import counted
from channels_ws4redis.routing import router
from channels_ws4redis.subscriber import RedisSubscriber
from tests.clients import END, Visitor
from tests.communicators import leave
from tests.silent import forget_peak, peak
from tests.test_facilities import POLICED
from tests.test_starvation import ALL_SERVERS, SERVERS, SOON, crowd, seconds_to_get_in

#: Here every client comes from the same address; this has it count.
EACH_COUNTS = {"WS4REDIS_TRUSTED_PROXIES": []}
MIB = 1024 * 1024
LISTENING, PUBLISHING = "?subscribe-broadcast", "?subscribe-broadcast&publish-broadcast&echo"
LATER = (1013, "retry-after=10")


async def told(visitor: Visitor, path: str, **headers: str) -> tuple[int | None, str | None]:
    """Return with which code and reason a socket is closed at once."""
    async with visitor.socket(path, **headers) as socket:
        code = await socket.close_code()
        return code, socket.connection.close_reason


@pytest.mark.parametrize("kind", SERVERS)
async def test_sockets_of_an_address(serve, kind):
    """One too many is told to come back; whoever has logged in is not meant, nor another one."""
    settings = {"WS4REDIS_TRUSTED_PROXIES": ["127.0.0.0/8"], "WS4REDIS_MAX_SOCKETS_PER_ADDRESS": 3}
    server = serve(kind, settings=settings)
    stranger, john = Visitor(server), Visitor(server).login("john")
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(stranger.socket(f"/ws/room{LISTENING}"))
        assert await told(stranger, f"/ws/room{LISTENING}") == LATER
        other = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}
        async with stranger.socket(f"/ws/room{LISTENING}", **other) as socket:
            await john.publish(END, broadcast=True, facility="room")
            assert await socket.receive() == END
        for _ in range(5):
            await stack.enter_async_context(john.socket("/ws/room?subscribe-user"))
    async with stranger.socket(f"/ws/room{LISTENING}") as socket:
        assert await socket.receive() == END
    assert server.says(
        "Cannot open the socket '/ws/room': the address 127.0.0.1 has 3 sockets in this process; "
        "WS4REDIS_MAX_SOCKETS_PER_ADDRESS allows no more"
    )


@pytest.mark.parametrize("kind", SERVERS)
async def test_sockets_of_a_user(serve, kind):
    """Wherever they come from; another user has others."""
    server = serve(kind, settings={"WS4REDIS_MAX_SOCKETS_PER_USER": 2})
    john, mary = Visitor(server).login("john"), Visitor(server).login("mary")
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(john.socket("/ws/room?subscribe-user"))
        assert await told(john, "/ws/room?subscribe-user") == LATER
        assert await seconds_to_get_in(mary) < SOON
    assert await seconds_to_get_in(john) < SOON
    assert server.says("one user has 2 sockets in this process; WS4REDIS_MAX_SOCKETS_PER_USER")


@pytest.mark.parametrize("kind", SERVERS)
async def test_sockets_of_a_process(serve, kind):
    """The last one gets no place, whoever it is."""
    server = serve(kind, settings={"WS4REDIS_MAX_SOCKETS": 1})
    async with Visitor(server).socket(f"/ws/room{LISTENING}"):
        assert await told(Visitor(server), f"/ws/room{LISTENING}") == LATER
        # A browser that has offered subprotocols, and gets none, tells its page of no code at all.
        offered = {"subprotocols": ["ws4redis.v1"]}
        async with Visitor(server).socket(f"/ws/room{LISTENING}", **offered) as socket:
            assert (await socket.close_code(), socket.connection.subprotocol) == (
                1013,
                "ws4redis.v1",
            )
    assert await seconds_to_get_in(Visitor(server)) < SOON


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_flood_of_handshakes(serve, kind):
    """A stranger's wait, or are refused; who comes from elsewhere gets in. The log stays short."""
    settings = {"WS4REDIS_TRUSTED_PROXIES": ["127.0.0.0/8"], "WS4REDIS_HANDSHAKE_RATE": 40}
    server = serve(kind, settings=settings)
    with crowd(server, 300, f"/ws/room{LISTENING}", "X-Forwarded-For: 203.0.113.66\r\n"):
        begun = time.monotonic()
        headers = {"X-Forwarded-For": "203.0.113.7"}
        async with Visitor(server).socket(f"/ws/room{LISTENING}", **headers):
            assert time.monotonic() - begun < SOON
        assert server.says("one client opens more sockets than a fourth of WS4REDIS_HANDSHAKE_RATE")
        async with Visitor(server).socket(f"/ws/room{LISTENING}", **headers):
            pass
    assert server.log.count("Cannot open the socket") <= 20


@pytest.mark.parametrize("kind", SERVERS)
async def test_waits_of_a_handshake_add_up_to_less_than_daphne_gives_it(serve, kind):
    """A socket that has waited for its turn, and then for a policy, is told when to come back."""
    server = serve(kind, settings=POLICED | {"WS4REDIS_HANDSHAKE_RATE": 1})
    with crowd(server, 4, f"/ws/room{LISTENING}"):
        assert await told(Visitor(server), f"/ws/hanging{LISTENING}") == LATER
    assert server.says("to the policy tests.site.policed.facilities.hanging")


@pytest.mark.parametrize("kind", ALL_SERVERS)
async def test_a_client_that_sends_too_fast_loses_nothing(serve, kind):
    """It waits until it may go on, and so does what it has sent; others notice nothing."""
    server = serve(kind, settings=EACH_COUNTS | {"WS4REDIS_PUBLISH_RATE": 20})
    async with (
        Visitor(server).socket(f"/ws/flood{PUBLISHING}") as flood,
        Visitor(server).socket(f"/ws/room{PUBLISHING}") as other,
    ):
        begun = time.monotonic()
        sending = asyncio.ensure_future(send_all(flood, 240))
        for number in range(20):
            await other.send(f"mine {number}")
            assert await other.receive() == f"mine {number}"
        assert await flood.receive_many(240) == [str(number) for number in range(240)]
        assert time.monotonic() - begun > (240 - 200) / 20 - 0.1
        await sending
    assert "Closing" not in server.log


async def send_all(socket, count: int) -> None:
    """Send so many messages as fast as the server takes them."""
    for number in range(count):
        await socket.send(str(number))


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_heartbeat_and_a_ping_cost_nothing(serve, kind):
    """A client may have as many answers as it reads."""
    settings = {"WS4REDIS_PUBLISH_RATE": 1, "WS4REDIS_HEARTBEAT": "--heartbeat--"}
    server = serve(kind, settings=EACH_COUNTS | settings)
    async with Visitor(server).socket(f"/ws/room{PUBLISHING}") as raw:
        for _ in range(100):
            await raw.send("--heartbeat--")
        begun = time.monotonic()
        assert await raw.receive_many(101) == ["--heartbeat--"] * 101
        assert time.monotonic() - begun < SOON


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_stranger_cannot_fill_redis(serve, redis_client, kind):
    """By messages on ever new facilities; who publishes on those that are there goes on."""
    server = serve(kind, settings=EACH_COUNTS)
    stranger = Visitor(server)
    async with stranger.socket(f"/ws/room{PUBLISHING}") as room:
        await room.send("x" * (MIB - 100))
        await room.receive()
        before = redis_client.info("memory")["used_memory"]
        forget_peak(server.process.pid)
        start, refused = peak(server.process.pid), 0
        for number in range(30):
            async with stranger.socket(f"/ws/{number}{PUBLISHING}") as socket:
                await socket.send("x" * (MIB - 100))
                try:
                    await socket.receive()
                except websockets.ConnectionClosed:
                    refused += 1
                    assert socket.connection.close_code == 1013
                    assert socket.connection.close_reason == "retry-after=10"
        assert refused >= 20
        assert redis_client.info("memory")["used_memory"] - before < 20 * MIB
        assert peak(server.process.pid) - start < 40 * MIB
        for _ in range(10):
            await room.send("x" * (MIB - 100))
            await room.receive()
    john = Visitor(server).login("john")
    async with john.socket("/ws/another?publish-user&subscribe-user&echo") as socket:
        await socket.send(END)
        assert await socket.receive() == END
    assert server.says("Closing the socket '/ws/10': its client publishes more than WS4REDIS_FILL")
    assert server.log.count("Closing the socket") <= 20


@pytest.mark.parametrize("hook", ["hang", "ahang"])
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_hook_that_hangs(serve, kind, hook):
    """The log names it; others are served."""
    server = serve(
        kind,
        application="tests.site.short_hooks:application",
        settings={"WS4REDIS_ALLOWED_CHANNELS": f"tests.site.busy_hooks.{hook}"},
    )
    assert await told(Visitor(server), f"/ws/hanging{LISTENING}") == LATER
    assert await seconds_to_get_in(Visitor(server).login("john")) < SOON
    assert server.says(
        f"Cannot open the socket '/ws/hanging': tests.site.busy_hooks.{hook} has not ended in "
    )


@pytest.mark.parametrize("kind", SERVERS)
async def test_refusals_are_told_and_do_not_fill_the_log(serve, kind):
    """A line names what is wrong; the thousandth says nothing new."""
    server = serve(kind, settings={"ALLOWED_HOSTS": ["127.0.0.1"]})
    visitor = Visitor(server)
    foreign, nowhere = {"Origin": "https://evil.example"}, f"/elsewhere%0Aforged{LISTENING}"
    for _ in range(50):
        assert await visitor.refused(f"/ws/room{LISTENING}", **foreign) == 403
        assert await visitor.refused(nowhere) == 403
    assert server.says(
        "Refused the socket '/ws/room': a page of the foreign origin 'https://evil.example' opens "
        f"it on the host '127.0.0.1:{server.port}'; name the origin in WS4REDIS_ALLOWED_ORIGINS"
    )
    assert server.says(
        "Refused the socket '/elsewhere\\nforged': '/elsewhere\\nforged' does not begin with "
        "WEBSOCKET_URL"
    )
    assert server.log.count("Refused the socket '/ws/room'") == 20
    assert server.log.count("Refused the socket '/elsewhere") == 20


# In this process. Django looks at the connections of a worker thread before it runs anything there,
# and they may be left over from a test that has used the database.


PATH, PATIENCE = "/ws/room?subscribe-broadcast", 10


async def closed(client: WebsocketCommunicator) -> dict:
    """Return with what a socket is closed that was let in only to be told."""
    assert (await client.connect(PATIENCE))[0]
    return await client.receive_output(PATIENCE)


@pytest.mark.server
@pytest.mark.django_db
async def test_every_place_is_given_back(settings):
    """Also by a socket that is refused; its subscriber is released as well."""
    released = []

    class Counting(RedisSubscriber):
        def release(self) -> None:
            released.append(self)
            super().release()

    settings.WS4REDIS_SUBSCRIBER = Counting
    settings.WS4REDIS_MAX_SOCKETS = 1
    counted().clear()
    first, second = (WebsocketCommunicator(router, PATH) for _ in range(2))
    assert (await first.connect(PATIENCE))[0]
    assert await closed(second) == {
        "type": "websocket.close",
        "code": 1013,
        "reason": "retry-after=10",
    }
    await leave(second)
    assert limits().sockets == len(released) == counted()["sockets"] == 1
    await leave(first)
    assert limits().sockets == 0
    assert len(released) == 2


@pytest.mark.server
@pytest.mark.django_db
async def test_a_user_whom_a_hook_has_loaded_counts(settings):
    """A lazy one, as some hooks set it, is known only when another hook has looked at it."""

    def process_request(request):
        request.user = SimpleLazyObject(lambda: User(pk=1, username="john"))

    def allowed_channels(request, channels):
        return channels if request.user.pk else []

    settings.WS4REDIS_PROCESS_REQUEST = process_request
    settings.WS4REDIS_ALLOWED_CHANNELS = allowed_channels
    settings.WS4REDIS_MAX_SOCKETS_PER_USER = 1
    first, second = (WebsocketCommunicator(router, PATH) for _ in range(2))
    assert (await first.connect(PATIENCE))[0]
    assert (await closed(second))["code"] == 1013
    await leave(second)
    await leave(first)


@pytest.mark.server
@pytest.mark.django_db
async def test_a_subscriber_that_is_made_too_late_is_released(settings, monkeypatch):
    """Its ``__init__`` hangs, and ends when nobody waits for it any more."""
    may_end, released = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow(RedisSubscriber):
        def __init__(self, connection) -> None:
            super().__init__(connection)
            may_end.wait(PATIENCE)

        def release(self) -> None:
            loop.call_soon_threadsafe(released.set)

    monkeypatch.setattr(deadlines, "CALL", 0.05)
    settings.WS4REDIS_SUBSCRIBER = Slow
    client = WebsocketCommunicator(router, PATH)
    assert (await closed(client))["code"] == 1013
    await leave(client)
    assert not released.is_set()
    may_end.set()
    async with asyncio.timeout(PATIENCE):
        await released.wait()
