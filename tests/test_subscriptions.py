"""Several facilities on one socket, on real servers and with a real client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.publisher import RedisPublisher
from tests.clients import Socket, Visitor
from tests.conftest import SITES
from tests.pages import subscribe, unsubscribe

pytestmark = pytest.mark.server

#: One of each kind of server, on the package's own layer.
SERVERS = ["daphne-redis", "uvicorn-redis"]


async def receive(socket: Socket) -> dict[str, Any]:
    """Return the next frame that is no ping."""
    while (frame := await socket.receive_json())["type"] == "ping":
        pass
    return frame


async def publish(visitor: Visitor, facility: str, message: str, **audience: Any) -> None:
    """Publish in the server's own process, as the memory layer needs it."""
    to = {"facility": facility, **(audience or {"broadcast": True})}
    await visitor.arequest("/test/publish", {"to": to, "messages": [message]})


@pytest.mark.parametrize("site", SITES, indirect=True)
async def test_a_page_with_several_facilities(site, john: Visitor) -> None:
    """One socket hears all of them, each for whom it is, on every server and layer."""
    stranger = Visitor(site)
    batch = [
        {"type": "hello", "positions": {}},
        subscribe(1, "bar/1"),
        subscribe(2, "bar/2", "subscribe-user", "subscribe-broadcast"),
        subscribe(3, "bar/3", "publish-broadcast"),
    ]
    async with (
        john.socket("/ws/foo?subscribe-user", subprotocols=[SUBPROTOCOL]) as one,
        stranger.socket("/ws/foo?subscribe-user", subprotocols=[SUBPROTOCOL]) as other,
    ):
        heard = {}
        for socket in (one, other):
            await socket.send_json(batch)
            assert (await receive(socket))["type"] == "welcome"
            answers = [await receive(socket) for _ in range(3)]
            heard[socket] = {frame["id"]: set(frame["channels"]) for frame in answers}
        everybody = {1: {"broadcast"}, 2: {"broadcast"}, 3: set[str]()}
        assert heard[other] == everybody
        assert heard[one] == everybody | {2: {"broadcast", "user"}}
        await publish(john, "bar/2", "for john", users=["john"])
        await publish(john, "bar/1", "for all")
        for socket, expected in (
            (one, [(2, "user", "for john"), (1, "broadcast", "for all")]),
            (other, [(1, "broadcast", "for all")]),
        ):
            frames = [await receive(socket) for _ in expected]
            assert [(each["id"], each["channel"], each["data"]) for each in frames] == expected
        await other.send_json(subscribe(4, "bar/3"))
        assert (await receive(other))["id"] == 4
        await one.send_json([{"type": "publish", "id": 3, "data": "to bar/3"}, unsubscribe(1)])
        frame = await receive(other)
        assert (frame["id"], frame["data"]) == (4, "to bar/3")
        await publish(john, "bar/1", "who hears it?")
        assert (await receive(other))["data"] == "who hears it?"
        await publish(john, "foo", "the URL's own", users=["john"])
        frame = await receive(one)
        assert ("id" not in frame, frame["data"]) == (True, "the URL's own")


@pytest.mark.parametrize("site", SERVERS, indirect=True)
async def test_a_logout_ends_all_of_a_socket(site, john: Visitor) -> None:
    """Those that hear something of the session, of which the last one closes the socket."""
    async with john.socket("/ws/foo?subscribe-user", subprotocols=[SUBPROTOCOL]) as socket:
        await socket.send_json({"type": "hello"})
        await receive(socket)
        for number in (1, 2):
            await socket.send_json(subscribe(number, "bar", "subscribe-user"))
            assert (await receive(socket))["type"] == "subscribed"
        await john.arequest("/test/logout", {})
        frames = [await receive(socket) for _ in range(2)]
        assert {frame["type"] for frame in frames} == {"ended"}
        assert await socket.close_code() == 4501


@pytest.mark.parametrize("site", SERVERS, indirect=True)
async def test_a_reconnect_recovers_each(site, visitor: Visitor) -> None:
    """From the positions of that subscription, in one batch."""
    bar = RedisPublisher(facility="bar", broadcast=True)
    qux = RedisPublisher(facility="qux", broadcast=True)
    await bar.apublish_message("bar 1")
    known: dict[int, Any] = {}
    path = "/ws/foo?subscribe-broadcast"
    async with visitor.socket(path, subprotocols=[SUBPROTOCOL]) as socket:
        await socket.send_json([{"type": "hello"}, subscribe(1, "bar"), subscribe(2, "qux")])
        await receive(socket)
        for _ in range(3):
            frame = await receive(socket)
            if frame["type"] == "subscribed":
                at = frame["channels"]["broadcast"]
                position = {name: at[name] for name in ("epoch", "offset")}
                known[frame["id"]] = {"positions": {"broadcast": position}}
    await bar.apublish_message("bar 2")
    await qux.apublish_message("qux 1")
    async with visitor.socket(path, subprotocols=[SUBPROTOCOL]) as socket:
        again = [subscribe(3, "bar", **known[1]), subscribe(4, "qux", **known[2])]
        await socket.send_json([{"type": "hello"}, *again])
        await receive(socket)
        frames = [await receive(socket) for _ in range(4)]
        for number, data in ((3, "bar 2"), (4, "qux 1")):
            told, message = [frame for frame in frames if frame["id"] == number]
            assert told["channels"]["broadcast"]["recovered"] is True
            assert message["data"] == data


@pytest.mark.parametrize("site", SERVERS, indirect=True)
async def test_pages_with_the_same_ids(site, visitor: Visitor) -> None:
    """Share frames; one with other ids gets its own."""
    path = "/ws/foo?subscribe-broadcast"
    async with (
        visitor.socket(path, subprotocols=[SUBPROTOCOL]) as one,
        visitor.socket(path, subprotocols=[SUBPROTOCOL]) as two,
        visitor.socket(path, subprotocols=[SUBPROTOCOL]) as three,
    ):
        sockets = {one: 1, two: 1, three: 9}
        for socket, number in sockets.items():
            await socket.send_json([{"type": "hello"}, subscribe(number, "bar")])
            await receive(socket)
            assert (await receive(socket))["id"] == number
        data = ["small", "ä" * 5000, "x" * 300_000]
        publisher = RedisPublisher(facility="bar", broadcast=True)
        for each in data:
            await publisher.apublish_message(each)
        for socket, number in sockets.items():
            frames = [await receive(socket) for _ in data]
            assert [(frame["id"], frame["data"]) for frame in frames] == [
                (number, each) for each in data
            ]


@pytest.mark.parametrize("site", SERVERS, indirect=True)
async def test_a_client_that_comes_and_goes_in_haste(site, visitor: Visitor) -> None:
    """Leaves nothing behind: in the end it is heard once, by the subscription that it has kept."""
    path = "/ws/foo?subscribe-broadcast"
    async with visitor.socket(path, subprotocols=[SUBPROTOCOL]) as socket:
        await socket.send_json({"type": "hello"})
        await receive(socket)
        number = 0
        for _ in range(20):
            numbers = range(number + 1, number + 9)
            number = numbers[-1]
            await socket.send_json([subscribe(each, f"haste/{each % 3}") for each in numbers])
            await socket.send_json([unsubscribe(each) for each in numbers])
        frame: dict[str, Any] = {}
        async with asyncio.timeout(30):
            while frame.get("type") != "subscribed":
                number += 1
                await socket.send_json(subscribe(number, "haste/0"))
                while (frame := await receive(socket)).get("id") != number:
                    pass
                assert frame.get("code", 1013) == 1013  # too many are just ending
            counted = RedisPublisher(facility="haste/0", broadcast=True)
            while await counted.acount_listeners() != 1:  # noqa: ASYNC110 # nothing tells of it
                await asyncio.sleep(0.05)
