"""A look at a socket leaves to it what nobody has taken away, and gives nothing back that was."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from channels_ws4redis import control
from channels_ws4redis.fanout.control import get_control
from channels_ws4redis.protocol import codes
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.serving import revoking
from channels_ws4redis.subscriber import RedisSubscriber
from tests.communicators import opening, publish

#: Django looks at the connections of a worker thread before it runs anything there, and they may be
#: left over from a test that has used the database.
pytestmark = pytest.mark.django_db

PATIENCE = 30


@pytest.fixture
async def connect(settings, redis_url, no_policies) -> AsyncIterator[Any]:
    """Open sockets, and close them in the end."""
    settings.WS4REDIS_CLOSE_WINDOW = 0
    settings.WS4REDIS_REAUTHORIZE = 0.2
    async with opening("/ws/foo?subscribe-broadcast") as opened:
        yield opened


class Rooms(RedisSubscriber):
    """Subscribes to the rooms that its client names; counts how often it is asked for channels."""

    asked: threading.Semaphore

    def set_pubsub_channels(self, request, channels) -> None:
        """Count."""
        super().set_pubsub_channels(request, channels)
        self.asked.release()

    def publish_message(self, message, expire=None) -> None:
        """Enter a room."""
        self._subscription.subscribe(f"broadcast:{message.decode()}")
        RedisPublisher(facility=message.decode(), broadcast=True).publish_message("entered")


@pytest.mark.parametrize("query", ["subscribe-broadcast", "publish-broadcast", ""])
async def test_what_a_subscriber_has_subscribed_to_stays(connect, settings, query) -> None:
    """As nobody says that anything has changed; also where it is all that the socket hears."""
    settings.WS4REDIS_SUBSCRIBER = Rooms
    Rooms.asked = threading.Semaphore(0)
    client = await connect(f"/ws/foo?{query}")
    await client.send_to(text_data="kitchen")
    assert await client.receive_from(PATIENCE) == "entered"
    for _ in range(5):
        await asyncio.to_thread(Rooms.asked.acquire, timeout=PATIENCE)
    await publish("still there", "kitchen")
    assert await client.receive_from(PATIENCE) == "still there"


async def test_what_a_subscriber_subscribes_to_during_a_look_stays(connect, settings) -> None:
    """The project's own code may take its time; the client is served meanwhile."""
    settings.WS4REDIS_SUBSCRIBER = Rooms
    Rooms.asked = threading.Semaphore(0)
    is_asked, may_answer = asyncio.Event(), asyncio.Event()
    may_answer.set()

    async def allow(request, channels) -> list[str]:
        is_asked.set()
        await may_answer.wait()
        return channels

    settings.WS4REDIS_ALLOWED_CHANNELS = allow
    client = await connect()
    may_answer.clear()
    is_asked.clear()
    await is_asked.wait()
    await client.send_to(text_data="kitchen")
    assert await client.receive_from(PATIENCE) == "entered"
    may_answer.set()
    for _ in range(4):
        await asyncio.to_thread(Rooms.asked.acquire, timeout=PATIENCE)
    await publish("still there", "kitchen")
    assert await client.receive_from(PATIENCE) == "still there"


class Failing(Rooms):
    """Fails in the middle of setting its channels, as the test says."""

    fails = False

    def set_pubsub_channels(self, request, channels) -> None:
        """Fail."""
        super().set_pubsub_channels(request, channels)
        if self.fails:
            self._subscription.unsubscribe("broadcast:foo")
            self._subscription.subscribe("broadcast:bar")
            raise LookupError("the database is away")


async def test_a_subscriber_that_fails_leaves_all_as_it_was(connect, settings, monkeypatch) -> None:
    """Nothing goes and nothing comes by a look that says nothing."""
    settings.WS4REDIS_SUBSCRIBER = Failing
    Failing.asked = threading.Semaphore(0)
    client = await connect()
    await client.send_to(text_data="kitchen")
    assert await client.receive_from(PATIENCE) == "entered"
    monkeypatch.setattr(Failing, "fails", True)
    for _ in range(5):
        await asyncio.to_thread(Failing.asked.acquire, timeout=PATIENCE)
    for facility in ("bar", "foo", "kitchen"):
        await publish(f"to {facility}", facility)
    assert await client.receive_from(PATIENCE) == "to foo"
    assert await client.receive_from(PATIENCE) == "to kitchen"


async def test_who_is_granted_nothing_any_more_keeps_nothing(connect, settings) -> None:
    """A subscriber subscribes for those alone who may be there."""
    settings.WS4REDIS_SUBSCRIBER = Rooms
    Rooms.asked = threading.Semaphore(0)
    allowed = ["subscribe-broadcast"]
    settings.WS4REDIS_ALLOWED_CHANNELS = lambda request, channels: allowed
    client = await connect()
    await client.send_to(text_data="kitchen")
    assert await client.receive_from(PATIENCE) == "entered"
    allowed.clear()
    assert (await client.receive_output(PATIENCE))["code"] == codes.REVOKED


async def test_a_hook_that_fails_once_gives_nothing_for_good(connect, settings) -> None:
    """The socket keeps what it has, and loses it as soon as the hook says so."""
    answers: list[Any] = []
    asked = asyncio.Queue[None]()

    async def allow(request, channels) -> list[str]:
        asked.put_nowait(None)
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    answers.append(["subscribe-broadcast"])
    settings.WS4REDIS_ALLOWED_CHANNELS = allow
    client = await connect()
    answers[0] = LookupError("the database is away")
    for _ in range(3):
        await asked.get()
    await publish("still there")
    assert await client.receive_from(PATIENCE) == "still there"
    answers[0] = []
    assert (await client.receive_output(PATIENCE))["code"] == codes.REVOKED


class Early(RedisSubscriber):
    """Adds channels to what there is, and returns early, as the test says."""

    allowed: Any

    def set_pubsub_channels(self, request, channels) -> None:
        """Add what is allowed, without asking the stock method."""
        for facility in self.allowed:
            self._subscription.subscribe(f"broadcast:{facility}")


async def test_a_subscriber_that_adds_takes_as_well(connect, settings, monkeypatch) -> None:
    """What it does not name any more is gone, and what it names stays."""
    settings.WS4REDIS_SUBSCRIBER = Early
    monkeypatch.setattr(Early, "allowed", ["foo", "bar"], raising=False)
    client = await connect()
    Early.allowed = ["foo", "new"]
    await control.arefresh(facility="foo")
    await decided()
    for facility in ("new", "bar", "foo"):
        await publish(f"to {facility}", facility)
    assert await client.receive_from(PATIENCE) == "to foo"
    Early.allowed = []
    assert (await client.receive_output(PATIENCE))["code"] == codes.REVOKED


class Constant(RedisSubscriber):
    """Publishes to the very same set each time."""

    channels_of_all = frozenset({"broadcast:foo"})

    def set_pubsub_channels(self, request, channels) -> None:
        """Set it."""
        super().set_pubsub_channels(request, channels)
        self._publishers = self.channels_of_all  # type: ignore[assignment] # as a project may


async def test_the_same_set_is_set_anew(connect, settings) -> None:
    """The client publishes as before."""
    settings.WS4REDIS_SUBSCRIBER = Constant
    settings.WS4REDIS_REAUTHORIZE = 0
    client = await connect("/ws/foo?subscribe-broadcast&echo")
    await control.arefresh(facility="foo")
    await decided()
    await client.send_to(text_data="mine")
    assert await client.receive_from(PATIENCE) == "mine"


async def decided() -> None:
    """Wait until an order has come and no socket is being looked at."""
    async with asyncio.timeout(PATIENCE):
        await asyncio.sleep(0.2)
        while len(get_control().doubts):  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)


class Slow(RedisSubscriber):
    """Takes its time to set its channels, as the test says."""

    may_go_on: threading.Event

    def set_pubsub_channels(self, request, channels) -> None:
        """Wait."""
        self.may_go_on.wait(PATIENCE)
        super().set_pubsub_channels(request, channels)


async def test_who_is_late_gives_nothing_back(connect, settings, monkeypatch) -> None:
    """Channels that are set after the look has given up may be those that an order took away."""
    monkeypatch.setattr(revoking, "PATIENCE", 0.1)
    settings.WS4REDIS_SUBSCRIBER = Slow
    Slow.may_go_on = threading.Event()
    Slow.may_go_on.set()
    client = await connect()
    Slow.may_go_on.clear()
    try:
        assert (await client.receive_output(PATIENCE))["code"] == codes.TRY_AGAIN_LATER
    finally:
        Slow.may_go_on.set()
