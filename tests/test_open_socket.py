"""How a socket begins and ends, seen from inside: states, subclasses, and what is released."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import redis
from channels.exceptions import DenyConnection
from channels.layers import channel_layers, get_channel_layer
from channels.testing import WebsocketCommunicator
from django.core.exceptions import PermissionDenied

from channels_ws4redis.consumers import WS4RedisConsumer
from channels_ws4redis.fanout import outbox as outbox_module
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.protocol.client_frames import MAX_SMALL_FRAME
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.routing import router
from channels_ws4redis.serving import open_socket as open_socket_module
from channels_ws4redis.subscriber import RedisSubscriber
from tests.communicators import GONE, PATIENCE, ended, leave, publish
from tests.listeners import sockets_here

#: Django looks at the connections of a worker thread before it runs anything there, and they may be
#: left over from a test that has used the database.
pytestmark = pytest.mark.django_db

PATH = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"


@pytest.fixture(autouse=True)
def close_at_once(settings):
    """Do not spread the closing of sockets whose task is cancelled."""
    settings.WS4REDIS_CLOSE_WINDOW = 0


@pytest.fixture
def released(settings):
    """Have every socket served by a subscriber that counts its releases in this list."""
    found: list[RedisSubscriber] = []

    class Counting(RedisSubscriber):
        def release(self) -> None:
            found.append(self)
            super().release()

    settings.WS4REDIS_SUBSCRIBER = Counting
    return found


def open_socket(application=router, subprotocol=None) -> WebsocketCommunicator:
    """Return a client in this process, which has not connected yet."""
    return WebsocketCommunicator(application, PATH, subprotocols=subprotocol and [subprotocol])


# What a socket leaves behind


async def test_released_when_the_client_goes(released):
    """Once, and the groups are left."""
    client = open_socket()
    assert (await client.connect(PATIENCE))[0]
    assert released == []
    await leave(client)
    assert len(released) == 1
    assert not sockets_here()


@pytest.mark.parametrize("subprotocol", [None, SUBPROTOCOL])
async def test_released_when_the_server_stops(released, subprotocol):
    """Once, after the client has been told."""
    client = open_socket(subprotocol=subprotocol)
    await client.connect(PATIENCE)
    client.future.cancel()
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1001}
    await asyncio.wait([client.future], timeout=PATIENCE)
    assert client.future.done()
    assert not client.future.cancelled()
    assert len(released) == 1


async def test_released_when_refused(released, settings, caplog):
    """A subscriber that has been made is released although there never was an open socket."""

    def refuse(request, channels):
        raise PermissionDenied

    settings.WS4REDIS_ALLOWED_CHANNELS = refuse
    client = open_socket()
    assert not (await client.connect(PATIENCE))[0]
    await leave(client)
    assert len(released) == 1
    assert "Refused the socket '/ws/foo': PermissionDenied" in caplog.messages


async def test_released_when_redis_is_down(released, settings, free_port, caplog):
    """The log begins with the reason, and the client is told to come back."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    channel_layers.backends.clear()
    client = open_socket()
    assert (await client.connect(PATIENCE))[0]
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1013}
    await client.send_to(text_data="too late")
    await leave(client)
    assert len(released) == 1
    (line,) = [line for line in caplog.messages if "/ws/foo" in line]
    assert line.startswith(
        "Cannot open the socket '/ws/foo': ConnectionError: Error 111 connecting"
    )
    assert all(record.exc_info is None for record in caplog.records)
    channel_layers.backends.clear()


async def test_released_when_cancelled_in_a_hook(released, settings):
    """A client that goes while a hook is looking at it costs a release, too."""
    reached, never = asyncio.Event(), asyncio.Event()

    async def wait(request, channels):
        reached.set()
        await never.wait()

    settings.WS4REDIS_ALLOWED_CHANNELS = wait
    client = open_socket()
    await client.send_input({"type": "websocket.connect"})
    await asyncio.wait_for(reached.wait(), PATIENCE)
    client.future.cancel()
    await asyncio.wait([client.future], timeout=PATIENCE)
    assert client.future.cancelled()
    assert len(released) == 1


async def test_released_when_the_client_goes_during_the_handshake(released, settings, caplog):
    """A hook that has not ended is cancelled, and the log says nothing of it."""
    reached, never = asyncio.Event(), asyncio.Event()

    async def wait(request, channels):
        reached.set()
        await never.wait()

    settings.WS4REDIS_ALLOWED_CHANNELS = wait
    client = open_socket(Guarded.as_asgi())
    client.scope |= {"how": "go on", "ends": []}
    await client.send_input({"type": "websocket.connect"})
    await asyncio.wait_for(reached.wait(), PATIENCE)
    await leave(client)
    assert client.future.done()
    assert not client.future.cancelled()
    assert len(released) == 1
    assert client.scope["ends"] == []  # it has not been open
    assert caplog.messages == []


async def test_groups_are_left_when_the_client_goes_during_the_handshake(released):
    """Also by a client that goes while its groups are being joined, or what is stored is read."""
    for steps in range(30):
        client = open_socket()
        await client.send_input({"type": "websocket.connect"})
        for _ in range(steps):
            await asyncio.sleep(0)
        await leave(client)
        assert not sockets_here()
    assert len(released) == 30


async def test_a_subscriber_that_is_made_while_the_client_goes(settings):
    """Its ``__init__`` goes on in its thread, and is followed by a release."""
    begun, may_end, calls = threading.Event(), threading.Event(), []

    class Slow(RedisSubscriber):
        def __init__(self, connection) -> None:
            super().__init__(connection)
            begun.set()
            may_end.wait(PATIENCE)
            calls.append("__init__")

        def release(self) -> None:
            calls.append("release")

    settings.WS4REDIS_SUBSCRIBER = Slow
    client = open_socket()
    await client.send_input({"type": "websocket.connect"})
    await asyncio.to_thread(begun.wait, PATIENCE)
    await client.send_input(GONE)
    await asyncio.sleep(0.05)
    may_end.set()
    await ended(client)
    assert calls == ["__init__", "release"]


async def test_what_was_sent_is_published_though_the_client_has_gone(settings):
    """A page that sends something and is left then has sent it."""
    begun, may_end, published = threading.Event(), threading.Event(), []

    class Slow(RedisSubscriber):
        def publish_message(self, message, expire=None) -> None:
            begun.set()
            may_end.wait(PATIENCE)
            published.append(message.decode())

    settings.WS4REDIS_SUBSCRIBER = Slow
    client = open_socket()
    await client.connect(PATIENCE)
    await client.send_to(text_data="first")
    await client.send_to(text_data="last")
    await client.send_input({"type": "websocket.disconnect", "code": 1001})
    await asyncio.to_thread(begun.wait, PATIENCE)
    may_end.set()
    await ended(client)
    assert published == ["first", "last"]


async def test_a_frame_that_comes_during_the_replay(settings):
    """It is kept for its turn."""
    begun, may_end = threading.Event(), threading.Event()

    class Slow(RedisSubscriber):
        def send_persisted_messages(self, websocket) -> None:
            begun.set()
            may_end.wait(PATIENCE)
            websocket.send("stored")

    settings.WS4REDIS_SUBSCRIBER = Slow
    client = open_socket()
    await client.connect(PATIENCE)
    await asyncio.to_thread(begun.wait, PATIENCE)
    await client.send_to(text_data="mine")
    await asyncio.sleep(0.05)
    may_end.set()
    assert await client.receive_from(PATIENCE) == "stored"
    assert await client.receive_from(PATIENCE) == "mine"
    await leave(client)


async def test_large_frames_leave_turns_to_others():
    """Daphne hands on what has been read without a pause, and this client may not publish."""
    client = WebsocketCommunicator(router, "/ws/foo?subscribe-broadcast")
    await client.connect(PATIENCE)
    for _ in range(20):
        await client.send_to(text_data="x" * (MAX_SMALL_FRAME + 1))
    turns = 0
    while client.input_queue.qsize():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 15
    await leave(client)


# States


async def test_a_silent_client(monkeypatch, caplog):
    """A client that does not say hello in time hears nothing any more and may come back."""
    monkeypatch.setattr(open_socket_module, "HELLO_TIMEOUT", 0.2)
    client = open_socket(subprotocol=SUBPROTOCOL)
    await client.connect(PATIENCE)
    await client.send_json_to({"type": "ping"})
    assert await client.receive_json_from(PATIENCE) == {"type": "pong"}
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 4002}
    assert not sockets_here()
    await client.send_json_to({"type": "hello", "positions": {}})
    assert await client.receive_nothing(0.1)
    await leave(client)
    assert caplog.messages == ["Closing the socket '/ws/foo': its client has not said hello"]


async def test_a_client_that_has_said_hello(monkeypatch):
    """It may be silent from then on, as may a client that gets raw frames."""
    monkeypatch.setattr(open_socket_module, "HELLO_TIMEOUT", 0.2)
    protocol, raw = open_socket(subprotocol=SUBPROTOCOL), open_socket()
    await protocol.connect(PATIENCE)
    await raw.connect(PATIENCE)
    await protocol.send_json_to({"type": "hello", "positions": {}})
    assert (await protocol.receive_json_from(PATIENCE))["type"] == "welcome"
    await asyncio.sleep(0.3)
    await publish("still there")
    assert json.loads(await protocol.receive_from(PATIENCE))["data"] == "still there"
    assert await raw.receive_from(PATIENCE) == "still there"
    await leave(protocol)
    await leave(raw)


async def test_a_path_cannot_forge_a_line_of_the_log(caplog):
    """The path is the client's choice, line breaks included."""
    client = WebsocketCommunicator(router, "/ws/a%0aERROR b", subprotocols=[SUBPROTOCOL])
    await client.connect(PATIENCE)
    await client.send_to(text_data="no JSON")
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 4500}
    await leave(client)
    (line,) = caplog.messages
    assert line.startswith("Closing the socket '/ws/a\\nERROR b': ProtocolError: ")


class Roving(RedisSubscriber):
    """Listens on whatever channel a client names."""

    def publish_message(self, message, expire=None):
        """Listen."""
        self._subscription.subscribe(message.decode())


async def test_a_channel_that_is_added_before_the_hello(settings):
    """It is one of those of the welcome, and nothing of it arrives before."""
    settings.WS4REDIS_SUBSCRIBER = Roving
    client = open_socket(subprotocol=SUBPROTOCOL)
    await client.connect(PATIENCE)
    await client.send_json_to({"type": "publish", "data": "broadcast:bar"})
    await client.send_json_to({"type": "ping"})
    assert await client.receive_json_from(PATIENCE) == {"type": "pong"}
    await publish("early", "bar")
    await client.send_json_to({"type": "hello", "positions": {}})
    assert len((await client.receive_json_from(PATIENCE))["channels"]) == 2
    await publish("late", "bar")
    assert (await client.receive_json_from(PATIENCE))["data"] == "late"
    await client.send_json_to({"type": "publish", "data": "broadcast:more"})
    await client.send_json_to({"type": "ping"})
    assert await client.receive_json_from(PATIENCE) == {"type": "pong"}
    await publish("live", "more")
    assert (await client.receive_json_from(PATIENCE))["data"] == "live"
    await leave(client)


async def test_a_channel_that_cannot_be_joined_ends_the_socket(settings, caplog, redis_url):
    """It would be deaf on that channel otherwise; its client comes back."""
    settings.WS4REDIS_SUBSCRIBER = Roving
    client = open_socket()
    await client.connect(PATIENCE)
    fanout = get_fanout(get_channel_layer())

    async def fail(channel):
        raise redis.exceptions.ConnectionError("Redis is away")

    fanout._feed.join = fail
    await client.send_to(text_data="broadcast:bar")
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1013}
    await leave(client)
    assert "Closing the socket '/ws/foo': ConnectionError: Redis is away" in caplog.messages
    assert not sockets_here()


async def test_a_server_that_refuses_a_frame(monkeypatch, caplog):
    """If the client is still there its socket is closed, and does not stay open and mute."""
    monkeypatch.setattr(outbox_module, "FAILURE_PATIENCE", 0.1)
    frames = 0

    async def flaky(scope, receive, send):
        async def refuse_once(frame):
            nonlocal frames
            frames += 1
            if frames == 2:
                raise RuntimeError("not now")
            await send(frame)

        await router(scope, receive, refuse_once)

    client = open_socket(flaky)
    await client.connect(PATIENCE)
    await publish("refused")
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1011}
    await leave(client)
    assert "Closing the socket '/ws/foo': RuntimeError: not now" in caplog.messages


async def test_a_client_that_goes_while_it_is_let_in(caplog):
    """Uvicorn says so by an OSError, which is none of Redis."""

    async def gone(scope, receive, send):
        async def fail(frame):
            raise ConnectionAbortedError

        await router(scope, receive, fail)

    client = open_socket(gone)
    await client.send_input({"type": "websocket.connect"})
    await leave(client)
    assert caplog.messages == []


# Subclasses of a project


class Guarded(WS4RedisConsumer):
    """Looks at each socket before the package does, and at what its client sends."""

    async def connect(self) -> None:
        """Refuse, accept alone, or go on."""
        how = self.scope["how"]
        if how == "refuse":
            raise DenyConnection
        if how == "accept":
            await self.accept()
            return
        await super().connect()

    async def receive(self, text_data=None, bytes_data=None) -> None:
        """Shout."""
        if self.scope["how"] == "accept":
            await self.send(text_data=text_data.upper())
        else:
            await super().receive(text_data.upper(), bytes_data)

    async def disconnect(self, code) -> None:
        """Tell how it ended."""
        self.scope["ends"].append(code)


@pytest.mark.parametrize(("how", "answer"), [("refuse", None), ("accept", "HI"), ("go on", "HI")])
async def test_subclass(how, answer):
    """A project's consumer may override what consumers of Channels do override."""
    client = open_socket(Guarded.as_asgi())
    client.scope |= {"how": how, "ends": []}
    connected, _ = await client.connect(PATIENCE)
    assert connected is (answer is not None)
    if connected:
        await client.send_to(text_data="hi")
        assert await client.receive_from(PATIENCE) == answer
    await leave(client)
    assert client.scope["ends"] == [1006]
