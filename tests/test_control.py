"""Cutting off sockets and looking at them again, under real servers and inside of this process."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser, Group, User
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError, call_command
from websockets import ConnectionClosedError

from channels_ws4redis import control
from channels_ws4redis.fanout.control import get_control
from channels_ws4redis.fanout.hearing import channel
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.protocol.names import MEMBER_OF
from channels_ws4redis.publish import ordering
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.redis_store import SELF
from channels_ws4redis.routing import router
from channels_ws4redis.subscriber import RedisSubscriber
from testproject.embedded import RedisServer
from tests.clients import Socket, Visitor
from tests.communicators import ended, leave, opening, publish
from tests.torture.proxy import Proxy

#: Django looks at the connections of a worker thread before it runs anything there, and they may be
#: left over from a test that has used the database.
pytestmark = pytest.mark.django_db

PATIENCE = 30
SUBSCRIBE_ALL = "subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session"
PATH = f"/ws/foo?{SUBSCRIBE_ALL}"


# Under real servers


@pytest.fixture(params=["daphne", "uvicorn"])
def kind(request) -> str:
    """A kind of server."""
    name: str = request.param
    return name


def at(site, visitor: Visitor) -> Visitor:
    """Return a visitor with the same cookies at another server."""
    other = Visitor(site)
    other.cookies = visitor.cookies
    return other


async def publish_stored(message: str, **kwargs: Any) -> None:
    """Do the same, and have it kept."""
    await RedisPublisher(facility="foo", **(kwargs or {"broadcast": True})).apublish_message(
        message
    )


CHOICES = {
    "users": lambda john: {"users": ["john"]},
    "sessions": lambda john: {"sessions": [john.session_key]},
    "user and session": lambda john: {"users": "john", "sessions": john.session_key},
    "user and facility": lambda john: {"users": ["john", "paul"], "facility": "foo"},
}


@pytest.mark.parametrize("choice", CHOICES)
async def test_a_user_is_cut_off_in_all_processes(serve, choice: str) -> None:
    """With code and reason, on either server; all others stay."""
    sites = [serve("daphne"), serve("uvicorn")]
    john, mary = Visitor(sites[0]).login("john"), Visitor(sites[0]).login("mary")
    async with AsyncExitStack() as stack:

        async def opened(visitor: Visitor, path: str = PATH) -> list[Socket]:
            return [
                await stack.enter_async_context(at(site, visitor).socket(path)) for site in sites
            ]

        johns, others = await opened(john), await opened(mary)
        others += await opened(Visitor(sites[0]), "/ws/foo?subscribe-broadcast")
        await control.adisconnect(**CHOICES[choice](john), reason="You have logged out.")
        for socket in johns:
            assert await socket.close_code() == codes.REVOKED
            assert socket.connection.close_reason == "You have logged out."
        await publish("after")
        for socket in others:
            assert await socket.receive() == "after"


@pytest.mark.parametrize(
    "chosen",
    [{"groups": ["chatters"]}, {"facility": "foo"}, {"groups": "chatters", "facility": "foo"}],
    ids=["group", "facility", "both"],
)
async def test_many_are_cut_off(serve, chosen) -> None:
    """By auth group or by facility; a socket that none of it is true of stays."""
    sites = [serve("daphne"), serve("uvicorn")]
    john = Visitor(sites[0]).login("john")
    async with AsyncExitStack() as stack:
        for site in sites:
            gone = await stack.enter_async_context(at(site, john).socket(PATH))
            stays = await stack.enter_async_context(
                Visitor(site).socket("/ws/bar?subscribe-broadcast")
            )
            await control.adisconnect(**chosen, code=4600)
            assert await gone.close_code() == 4600
            await publish("after", "bar")
            assert await stays.receive() == "after"


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A link to a Redis of the test's own that can be cut."""
    with RedisServer(port=0) as server:
        proxy = Proxy(server.port)
        proxy.url = f"redis://127.0.0.1:{server.port}"  # type: ignore[attr-defined] # for us
        await proxy.start()
        yield proxy
        await proxy.close()


@pytest.fixture
def behind(serve, proxy, settings, kind):
    """A server whose link to Redis can be cut; this process has a link of its own."""
    settings.WS4REDIS_CONNECTION = proxy.url
    return serve(kind, REDIS_URL=f"redis://127.0.0.1:{proxy.port}", WS4REDIS_TEST_LAYER="redis")


async def test_a_process_that_was_cut_off_catches_up(behind, proxy) -> None:
    """What was published after the order is not delivered, however late the order is heard."""
    john, mary = Visitor(behind).login("john"), Visitor(behind).login("mary")
    async with john.socket(PATH) as johns, mary.socket(PATH) as marys:
        await publish("before")
        assert [await johns.receive(), await marys.receive()] == ["before", "before"]
        await proxy.cut()
        await control.adisconnect(users="john")
        await RedisPublisher(facility="foo", broadcast=True).apublish_message("after")
        await proxy.start()
        assert await marys.receive() == "after"
        begun = time.monotonic()
        assert await johns.close_code() == codes.REVOKED
        assert time.monotonic() - begun < 1


async def test_a_process_that_was_frozen_catches_up(serve, kind) -> None:
    """It finds the order before what was published later, and delivers nothing of that."""
    site = serve(kind)
    john, mary = Visitor(site).login("john"), Visitor(site).login("mary")
    async with john.socket(PATH) as johns, mary.socket(PATH) as marys:
        site.process.send_signal(signal.SIGSTOP)
        try:
            await control.adisconnect(users="john")
            await publish("after")
            await publish("for john", users=["john"])
        finally:
            site.process.send_signal(signal.SIGCONT)
        assert await marys.receive() == "after"
        with pytest.raises(ConnectionClosedError):  # before any message
            await johns.receive()
        assert johns.connection.close_code == codes.REVOKED


async def test_more_orders_were_missed_than_are_kept(behind, proxy, database, monkeypatch) -> None:
    """All sockets are looked at again: who may still hear stays, whose session is gone goes."""
    monkeypatch.setattr(ordering, "HISTORY", 2)
    john, mary = Visitor(behind).login("john"), Visitor(behind).login("mary")
    async with (
        john.socket(PATH) as johns,
        mary.socket(PATH) as marys,
        Visitor(behind).socket("/ws/foo?subscribe-broadcast") as anyones,
    ):
        await proxy.cut()
        forget_session(database, john.session_key)
        for _ in range(5):
            await control.adisconnect(users="paul")
        await proxy.start()
        assert await johns.close_code() == codes.REVOKED
        await publish("after")
        assert [await marys.receive(), await anyones.receive()] == ["after", "after"]


def forget_session(database, key: str) -> None:
    """Delete a session past Django."""
    connection = sqlite3.connect(database)
    with connection:
        assert connection.execute(
            "DELETE FROM django_session WHERE session_key = ?", [key]
        ).rowcount
    connection.close()


async def test_a_refreshed_socket_keeps_what_it_may_hear(serve, kind) -> None:
    """It stays open, and leaves the auth group that its session does not name any more."""
    site = serve(kind)
    john = Visitor(site).login("john")
    async with john.socket(PATH) as socket:
        await publish("to the group", groups=["chatters"])
        assert await socket.receive() == "to the group"
        await john.arequest("/test/session", {MEMBER_OF: ["other"]})
        await control.arefresh(users="john")
        await asyncio.sleep(0.5)
        for group in ("chatters", "other"):
            await publish(f"to {group}", groups=[group])
        await publish("to john", users=["john"])
        assert await socket.receive() == "to john"


async def test_a_socket_whose_session_is_gone_is_closed(serve, kind, database) -> None:
    """By a refresh; others of the same user stay."""
    site = serve(kind)
    john, also_john = Visitor(site).login("john"), Visitor(site).login("john")
    async with john.socket(PATH) as gone, also_john.socket(PATH) as stays:
        forget_session(database, john.session_key)
        await control.arefresh(users="john")
        assert await gone.close_code() == codes.REVOKED
        await publish("after", users=["john"])
        assert await stays.receive() == "after"


async def test_unsubscribed(serve, kind) -> None:
    """The channel of the auth group is gone, also for publishing; all others stay."""
    site = serve(kind)
    john, mary = Visitor(site).login("john"), Visitor(site).login("mary")
    path = f"{PATH}&publish-group"
    async with john.socket(path) as johns, mary.socket(path) as marys:
        await control.aunsubscribe(groups=["chatters"], users="john")
        await publish("to the group", groups=["chatters"])
        assert await marys.receive() == "to the group"
        await johns.send("of john, to the group")
        await publish("to all")
        assert [await johns.receive(), await marys.receive()] == ["to all", "to all"]


async def test_a_socket_with_nothing_left_is_closed(serve, kind) -> None:
    john = Visitor(serve(kind)).login("john")
    async with john.socket("/ws/foo?subscribe-group") as socket:
        await control.aunsubscribe(groups=["chatters"], code=4700, reason="Closed")
        assert await socket.close_code() == 4700
        assert socket.connection.close_reason == "Closed"


async def test_a_middleware_that_has_found_the_user(serve, kind, database) -> None:
    """The session that Channels' own middleware has loaded is loaded anew."""
    site = serve(kind, application="tests.site.pieces:application")
    john = Visitor(site).login("john")
    async with john.socket(PATH) as socket:
        await control.arefresh(users="john")
        await asyncio.sleep(0.3)
        await publish("still", users=["john"])
        assert await socket.receive() == "still"
        forget_session(database, john.session_key)
        await control.arefresh(users="john")
        assert await socket.close_code() == codes.REVOKED


# Inside of this process


class Session(dict):
    """As much of a session as is looked at."""

    session_key = "0123456789"


class Site:
    """A project in this process, which knows one visitor, and tells what that one may do."""

    def __init__(self) -> None:
        self.user: Any = User(pk=7, username="john")
        self.session = Session({MEMBER_OF: ["staff"]})
        self.refused: set[str] = set()
        self.asked = asyncio.Queue[None]()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    def identify(self, request) -> None:
        """Say who it is."""
        request.user, request.session = self.user, self.session

    async def grant(self, request, flags) -> list[str]:
        """Say what the visitor may do, once the test lets us."""
        self.asked.put_nowait(None)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [flag for flag in [*flags, "subscribe-user"] if flag not in self.refused]

    async def is_asked(self) -> None:
        """Wait until somebody asks."""
        async with asyncio.timeout(PATIENCE):
            await self.asked.get()


@pytest.fixture
def project(settings, redis_url) -> Site:
    """A project that the package asks by its hooks."""
    site = Site()
    settings.WS4REDIS_CLOSE_WINDOW = 0
    settings.WS4REDIS_PROCESS_REQUEST = site.identify
    settings.WS4REDIS_ALLOWED_CHANNELS = site.grant
    return site


@pytest.fixture
async def connect(project):
    """Open sockets, and close them in the end."""
    async with opening("/ws/foo?subscribe-broadcast&subscribe-group") as opened:

        async def connected(*args, **kwargs) -> WebsocketCommunicator:
            client = await opened(*args, **kwargs)
            while not project.asked.empty():
                project.asked.get_nowait()
            return client

        yield connected


async def order_kept() -> None:
    """Wait until an order is kept for the one socket whose handshake is under way."""
    (newcomer,) = get_control()._newcomers
    async with asyncio.timeout(PATIENCE):
        while not newcomer._orders:  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)


def closing(code: int, reason: str = "") -> dict[str, Any]:
    """Return the event that closes a socket."""
    event = {"type": "websocket.close", "code": code}
    return event | {"reason": reason} if reason else event


async def test_an_order_during_the_handshake(project, settings) -> None:
    """Who has been looked up before an order arrives is cut off all the same."""
    project.may_answer.clear()
    client = WebsocketCommunicator(router, "/ws/foo?subscribe-user")
    await client.send_input({"type": "websocket.connect"})
    await project.is_asked()
    await control.adisconnect(users="john", reason="Bye")
    await order_kept()
    project.may_answer.set()
    assert (await client.receive_output(PATIENCE))["type"] == "websocket.accept"
    assert await client.receive_output(PATIENCE) == closing(codes.REVOKED, "Bye")
    await leave(client)
    assert not get_control()._marks


async def test_an_order_while_a_handshake_waits_for_its_turn(project, settings) -> None:
    """A middleware has found the user before that, and is not asked once more."""
    settings.WS4REDIS_PROCESS_REQUEST = settings.WS4REDIS_ALLOWED_CHANNELS = None
    settings.WS4REDIS_HANDSHAKE_RATE = 5
    clients = [WebsocketCommunicator(router, "/ws/foo?subscribe-user") for _ in range(5)]
    for client in clients:
        client.scope["user"] = User(pk=7, username="john")
    first, *_, late = clients
    for client in clients:
        await client.send_input({"type": "websocket.connect"})
    assert (await first.receive_output(PATIENCE))["type"] == "websocket.accept"
    assert late.output_queue.empty()
    await control.adisconnect(users="john")
    for client in clients:
        while (output := await client.receive_output(PATIENCE))["type"] == "websocket.accept":
            pass
        assert output == closing(codes.REVOKED)
        await leave(client)


async def test_a_refresh_during_the_handshake(project, settings) -> None:
    """It looks at the socket once more, which is let in meanwhile."""
    hearing, going_on = threading.Event(), threading.Event()

    def identify(request) -> None:
        project.identify(request)
        if hearing.is_set():
            going_on.wait(PATIENCE)
        hearing.set()

    settings.WS4REDIS_PROCESS_REQUEST = identify
    project.may_answer.clear()
    client = WebsocketCommunicator(router, "/ws/foo?subscribe-user")
    await client.send_input({"type": "websocket.connect"})
    await project.is_asked()
    await control.arefresh(users="john")
    await order_kept()
    project.may_answer.set()
    assert (await client.receive_output(PATIENCE))["type"] == "websocket.accept"
    going_on.set()
    async with asyncio.timeout(PATIENCE):
        while len(get_control().doubts):  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)
    await publish("for john", users=["john"])
    assert await client.receive_from(PATIENCE) == "for john"
    await leave(client)


@pytest.mark.parametrize("subprotocol", [None, SUBPROTOCOL])
async def test_nothing_is_sent_to_a_newcomer_in_doubt(project, connect, subprotocol) -> None:
    """Neither what is stored nor what is live, though it is let in meanwhile."""
    await publish_stored("stored, to staff", groups=["staff"])
    await publish_stored("stored, to all")
    project.may_answer.clear()
    path = "/ws/foo?subscribe-broadcast&subscribe-group"
    client = WebsocketCommunicator(router, path, subprotocols=subprotocol and [subprotocol])
    await client.send_input({"type": "websocket.connect"})
    await project.is_asked()
    await control.arefresh(users="john")
    await order_kept()
    first, project.may_answer = project.may_answer, asyncio.Event()
    first.set()
    assert (await client.receive_output(PATIENCE))["type"] == "websocket.accept"
    await project.is_asked()
    project.refused = {"subscribe-group"}
    if subprotocol:
        await client.send_json_to({"type": "hello"})
        await client.receive_from(PATIENCE)
    await publish("to staff", groups=["staff"])
    await publish("to all")
    assert await client.receive_nothing(0.2)
    project.may_answer.set()
    assert "stored, to all" in await client.receive_from(PATIENCE)
    assert "to all" in await client.receive_from(PATIENCE)
    assert await client.receive_nothing(0.2)
    await leave(client)


async def test_a_user_object_is_found_by_its_key(connect) -> None:
    """Whatever the user is called by now; another kind of user with that key is somebody else."""
    client = await connect()
    await control.adisconnect(users=Group(pk=7, name="staff2"))
    await control.adisconnect(users=[User(pk=8, username="john")])
    await publish("still there")
    assert await client.receive_from(PATIENCE) == "still there"
    await control.adisconnect(users=[User(pk=7, username="renamed")])
    assert await client.receive_output(PATIENCE) == closing(codes.REVOKED)


async def test_nothing_is_added(project, connect) -> None:
    """What was not granted at the handshake does not come by a refresh, neither way."""
    project.refused = {"subscribe-user", "subscribe-broadcast", "publish-group"}
    client = await connect("/ws/foo?subscribe-broadcast&subscribe-group&publish-group&echo")
    project.refused = set()
    await control.arefresh(users="john")
    await project.is_asked()
    await publish("to all")
    await publish("to john", users=["john"])
    await publish("to staff", groups=["staff"])
    assert await client.receive_from(PATIENCE) == "to staff"
    await client.send_to(text_data="mine, to staff")
    assert await client.receive_nothing(0.2)


@pytest.mark.parametrize("subprotocol", [None, SUBPROTOCOL])
async def test_nothing_is_delivered_until_it_is_decided(project, connect, subprotocol) -> None:
    """Then what may be heard follows, and nothing else."""
    client = await connect(subprotocols=subprotocol and [subprotocol])
    if subprotocol:
        await client.send_json_to({"type": "hello"})
        await client.receive_from(PATIENCE)
    project.may_answer.clear()
    project.refused = {"subscribe-group"}
    await control.arefresh(users="john")
    await project.is_asked()
    await publish("to staff", groups=["staff"])
    await publish("to all")
    await publish("to all again")
    assert await client.receive_nothing(0.2)
    project.may_answer.set()
    assert "to all" in await client.receive_from(PATIENCE)
    assert "to all again" in await client.receive_from(PATIENCE)
    await publish("to staff", groups=["staff"])
    assert await client.receive_nothing(0.2)


async def test_the_client_does_not_publish_what_it_may_not(project, connect) -> None:
    """A channel that is revoked is revoked for both ways."""
    client = await connect("/ws/foo?subscribe-broadcast&publish-broadcast&echo")
    await client.send_to(text_data="mine")
    assert await client.receive_from(PATIENCE) == "mine"
    project.refused = {"publish-broadcast"}
    await control.arefresh(facility="foo")
    await project.is_asked()
    await asyncio.sleep(0.1)
    await client.send_to(text_data="mine, too")
    await publish("to all")
    assert await client.receive_from(PATIENCE) == "to all"


async def test_what_a_client_sends_waits_until_it_is_decided(project, connect) -> None:
    """It is published if that is still allowed, and never if nobody decides any more."""
    path = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"
    client, leaving = await connect(path), await connect(path)
    for refused, heard in (set(), ["mine"]), ({"publish-broadcast"}, []):
        project.may_answer.clear()
        await control.arefresh(facility="foo")
        await project.is_asked()
        await project.is_asked()
        await client.send_to(text_data="mine")
        if refused:
            await leaving.send_to(text_data="of one who leaves")
            await leaving.send_input({"type": "websocket.disconnect", "code": 1006})
        assert await client.receive_nothing(0.2)
        project.refused = refused
        project.may_answer.set()
        await all_decided()
        await publish("after")
        for message in [*heard, "after"]:
            assert await client.receive_from(PATIENCE) == message


async def all_decided() -> None:
    """Wait until no socket is being looked at."""
    async with asyncio.timeout(PATIENCE):
        while len(get_control().doubts):  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)


async def test_unsubscribed_while_being_looked_at(project, connect) -> None:
    """The look must not give back what the order takes: the client has to come back."""
    client = await connect("/ws/foo?subscribe-broadcast&subscribe-group&publish-group")
    project.may_answer.clear()
    await control.arefresh(users="john")
    await project.is_asked()
    await control.aunsubscribe(groups=["staff"])
    assert await client.receive_output(PATIENCE) == closing(codes.TRY_AGAIN_LATER)
    project.may_answer.set()


async def test_in_doubt_while_a_hook_replays(project, settings, connect) -> None:
    """What the hook sends cannot be held back: the client has to come back."""
    begun, go_on = threading.Event(), threading.Event()

    class Replaying(RedisSubscriber):
        def send_persisted_messages(self, websocket) -> None:
            begun.set()
            go_on.wait(PATIENCE)

    settings.WS4REDIS_SUBSCRIBER = Replaying
    client = await connect()
    await asyncio.to_thread(begun.wait, PATIENCE)
    project.may_answer.clear()
    await control.arefresh(users="john")
    await asyncio.sleep(0.1)
    await publish("after")
    go_on.set()
    assert await client.receive_output(PATIENCE) == closing(codes.TRY_AGAIN_LATER)
    project.may_answer.set()


async def test_a_request_tells_its_age(project, connect, settings) -> None:
    """A token that was good at the handshake may have become too old since."""
    ages = []

    def identify(request) -> None:
        ages.append(request.age)
        project.identify(request)

    settings.WS4REDIS_PROCESS_REQUEST = identify
    await connect()
    begun = time.monotonic()
    await asyncio.sleep(0.2)
    await control.arefresh(users="john")
    await project.is_asked()
    assert 0 <= ages[0] < 0.2 <= ages[1] < ages[0] + PATIENCE
    assert ages[1] - ages[0] == pytest.approx(time.monotonic() - begun, abs=1)


async def refuse(site: Site) -> None:
    site.error = PermissionDenied("no more")


async def take_all(site: Site) -> None:
    site.refused = {"subscribe-broadcast", "subscribe-group", "subscribe-user"}


async def log_out(site: Site) -> None:
    site.user, site.session = AnonymousUser(), Session()


async def log_in_anew(site: Site) -> None:
    site.session = Session(site.session)
    site.session.session_key = "another one"  # type: ignore[misc] # of this one


async def become_another(site: Site) -> None:
    site.user = User(pk=8, username="john")


@pytest.mark.parametrize(
    "change", [refuse, take_all, log_out, log_in_anew, become_another], ids=lambda f: f.__name__
)
async def test_a_refreshed_socket_is_closed(project, connect, change) -> None:
    """If nothing is left, or the socket belongs to somebody else by now."""
    client = await connect()
    await change(project)
    await control.arefresh(facility="foo")
    assert await client.receive_output(PATIENCE) == closing(codes.REVOKED)
    await publish("after")
    assert await client.receive_nothing(0.1)


async def test_a_hook_that_fails_says_nothing(project, connect) -> None:
    """The socket has to come back: nobody knows what it may hear."""
    client = await connect()
    project.error = RuntimeError("the database is away")
    await control.arefresh(users="john")
    assert await client.receive_output(PATIENCE) == closing(codes.TRY_AGAIN_LATER)


async def test_a_refusal_of_nobody_says_nothing(project, connect, settings) -> None:
    """Where nobody is logged in as the hook that knows who it is has failed."""
    client = await connect()

    def fail(request) -> None:
        raise RuntimeError("the database is away")

    settings.WS4REDIS_PROCESS_REQUEST = fail
    project.error = PermissionDenied("strangers hear nothing")
    await control.arefresh(users="john")
    assert await client.receive_output(PATIENCE) == closing(codes.TRY_AGAIN_LATER)


async def test_a_hook_that_hangs_says_nothing(project, connect, monkeypatch) -> None:
    monkeypatch.setattr("channels_ws4redis.serving.revoking.PATIENCE", 0.2)
    client = await connect()
    project.may_answer.clear()
    await control.arefresh(users="john")
    assert await client.receive_output(PATIENCE) == closing(codes.TRY_AGAIN_LATER)


async def test_what_waits_for_a_slow_client_is_not_sent(project, connect) -> None:
    """Neither if it is cut off, nor if one of its channels is."""
    gates: list[asyncio.Event] = []

    async def slow(scope, receive, send):
        gate = asyncio.Event()
        gates.append(gate)

        async def send_later(event):
            if event["type"] == "websocket.send":
                await gate.wait()
            await send(event)

        await router(scope, receive, send_later)

    for order, code in (
        (control.adisconnect, codes.REVOKED),
        (control.aunsubscribe, codes.TRY_AGAIN_LATER),
    ):
        client = await connect(application=slow)
        for number in range(5):
            await publish(str(number), groups=["staff"])
        await asyncio.sleep(0.1)
        await order(groups=["staff"])
        assert await client.receive_output(PATIENCE) == closing(code)
        gates[-1].set()


async def test_a_subscriber_that_publishes_nothing_is_asked_once_more(settings, connect) -> None:
    """An overridden method is called again by a refresh, and released once."""
    calls = []

    class Counting(RedisSubscriber):
        def set_pubsub_channels(self, request, channels) -> None:
            calls.append("set")
            super().set_pubsub_channels(request, channels)

        def release(self) -> None:
            calls.append("release")
            super().release()

    settings.WS4REDIS_SUBSCRIBER = Counting
    client = await connect()
    await control.arefresh(users="john")
    async with asyncio.timeout(PATIENCE):
        while len(calls) < 2:  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)
    await publish("after")
    assert await client.receive_from(PATIENCE) == "after"
    await leave(client)
    assert calls == ["set", "set", "release"]


async def test_a_user_who_has_no_name_to_tell(project, caplog) -> None:
    """A fault in the project's own kind of user leaves nothing behind."""

    class Broken:
        is_authenticated = True

        def get_username(self) -> str:
            raise RuntimeError("no name")

    project.user = Broken()
    client = WebsocketCommunicator(router, "/ws/foo?subscribe-broadcast")
    await client.send_input({"type": "websocket.connect"})
    with pytest.raises(RuntimeError, match="no name"):
        await ended(client)
    assert not get_control()._newcomers
    assert not len(get_control())


# The calls


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (control.disconnect, {}),
        (control.refresh, {}),
        (control.disconnect, {"users": None, "code": 1000}),
        (control.unsubscribe, {"groups": None, "users": "john"}),
    ],
)
def test_a_call_that_chooses_nothing(call, arguments) -> None:
    """It would mean everybody."""
    with pytest.raises(TypeError, match="="):
        call(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"users": 7},
        {"users": [7]},
        {"users": b"john"},
        {"users": {"john": True}},
        {"users": [SELF]},
        {"sessions": SELF},
        {"groups": [None, 3.5]},
        {"facility": None, "groups": [object()]},
        {"facility": ["foo"]},
        {"users": "john", "code": 1006},
        {"users": "john", "code": 999},
        {"users": "john", "code": 5000},
        {"users": "john", "code": True},
        {"users": "john", "code": "1000"},
        {"users": "john", "reason": "x" * 124},
        {"users": "john", "reason": "ü" * 62},
        {"users": "john", "reason": None},
    ],
)
def test_an_argument_that_can_only_be_a_mistake(arguments) -> None:
    with pytest.raises(ValueError, match=r"john|groups|users|sessions|facility|code|reason"):
        control.disconnect(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"users": []}, {"users": AnonymousUser()}, {"sessions": SessionStore()}, {"groups": ""}],
    ids=["no users", "anonymous", "unsaved", "empty"],
)
@pytest.mark.django_db(transaction=True)
def test_who_is_nobody_is_not_everybody(arguments, redis_client) -> None:
    """Nothing is sent for an anonymous user, an unsaved session, or an empty list."""
    control.disconnect(**arguments)
    control.refresh(**arguments)
    assert redis_client.keys() == []


def test_many_users_are_several_orders(redis_client) -> None:
    control.disconnect(users=[f"user{number}" for number in range(1200)], facility="foo")
    assert redis_client.xlen(f"{{{channel()}}}:history") == 3


def test_commands(redis_client, capsys) -> None:
    """They do what the functions do, and say so."""
    call_command("ws4redis", "disconnect", "--user", "john", "--user=mary", "--code", "4600")
    assert capsys.readouterr().out.startswith("Ordered: disconnect sockets. Each process does so")
    call_command("ws4redis", "refresh", "--group", "staff", "--facility", "foo")
    assert capsys.readouterr().out.startswith("Ordered: refresh sockets. Each process does so")
    call_command("ws4redis", "refresh", "--user", "john", "--verbosity", "0")
    call_command("ws4redis", "refresh", "--user", "john", verbosity=0)
    assert capsys.readouterr().out == ""
    assert redis_client.xlen(f"{{{channel()}}}:history") == 4
    with pytest.raises(CommandError, match="nothing was ordered"):
        call_command("ws4redis", "disconnect", "--user", "")
    with pytest.raises(CommandError, match="--session"):
        call_command("ws4redis", "disconnect")
    with pytest.raises(CommandError, match="close code"):
        call_command("ws4redis", "disconnect", "--user", "john", "--code", "1006")


def test_a_command_without_redis(settings, free_port) -> None:
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    for name in ("disconnect", "refresh"):
        with pytest.raises(CommandError, match="ConnectionError"):
            call_command("ws4redis", name, "--user", "john")
