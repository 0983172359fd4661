"""What a client has sent before it left, or before its socket was closed, is published."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest
import redis
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

from channels_ws4redis.consumers import WS4RedisConsumer
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.routing import router
from channels_ws4redis.servers import turns
from channels_ws4redis.subscriber import RedisSubscriber
from tests.communicators import GONE, PATIENCE, ended, leave, publish
from tests.listeners import sockets_here
from tests.servers import COMMANDS
from tests.silent import short_frame

#: Django looks at the connections of a worker thread before it runs anything there, and they may be
#: left over from a test that has used the database.
pytestmark = [pytest.mark.django_db, pytest.mark.server]

PATH = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"

#: Settings of servers whose clients are sent a lot when they come.
LONG_REPLAY = {"WS4REDIS_HISTORY": 1000, "WS4REDIS_REPLAY": "all"}
GIVEN_UP = (
    "Giving up the socket '/ws/foo': not all that its client had sent before the end could be "
    "published in time"
)


@pytest.fixture(autouse=True)
def long_history(settings):
    """Keep all that is published, and do not spread the closing of sockets."""
    settings.WS4REDIS_HISTORY = 1000
    settings.WS4REDIS_CLOSE_WINDOW = 0


@pytest.fixture
def stored(redis_client: redis.Redis):
    """Return what has been published and stored, in its order."""

    def read(facility: str = "foo") -> list[str]:
        entries = redis_client.xrange(f"{{broadcast:{facility}}}:history")
        return [fields[b"p"].decode() for _, fields in entries if fields[b"x"] != b"0"]

    return read


class Slow(RedisSubscriber):
    """Publishes in a thread, when the test says so, and notes its release."""

    begun: threading.Event
    may_end: threading.Event
    released: list[int]

    def publish_message(self, message, *args, **kwargs):
        """Wait."""
        self.begun.set()
        assert self.may_end.wait(PATIENCE)
        super().publish_message(message, *args, **kwargs)

    def release(self) -> None:
        """Note what was published by then."""
        self.released.append(self._connection.xlen("{broadcast:foo}:history"))
        super().release()


@pytest.fixture
def slow(settings) -> type[Slow]:
    """Have sockets served by a slow subscriber."""
    settings.WS4REDIS_SUBSCRIBER = type(
        "Fresh",
        (Slow,),
        {"begun": threading.Event(), "may_end": threading.Event(), "released": []},
    )
    return settings.WS4REDIS_SUBSCRIBER


async def begun(slow: type[Slow]) -> None:
    """Wait until a message is being published."""
    assert await asyncio.to_thread(slow.begun.wait, PATIENCE)


def client_of(application=router, subprotocol: str | None = None, path: str = PATH):
    """Return a client in this process, which has not connected yet."""
    return WebsocketCommunicator(application, path, subprotocols=subprotocol and [subprotocol])


def frame(text: str, subprotocol: str | None) -> dict[str, str]:
    """Return what the server says of a message that a client publishes."""
    if subprotocol:
        text = json.dumps({"type": "publish", "data": text})
    return {"type": "websocket.receive", "text": text}


# A client that leaves


@pytest.mark.parametrize("subprotocol", [None, SUBPROTOCOL])
async def test_a_client_that_is_sent_something_after_it_has_left(stored, subprotocol):
    """That cannot be sent, and what it has sent itself is published."""
    left = False

    async def uvicorn(scope, receive, send):
        async def send_to_nobody(event):
            if left:
                raise ConnectionAbortedError
            await send(event)

        await router(scope, receive, send_to_nobody)

    client = client_of(uvicorn, subprotocol)
    await client.connect(PATIENCE)
    left = True
    if subprotocol:
        await client.send_json_to({"type": "hello"})
    for number in range(5):
        await client.send_input(frame(str(number), subprotocol))
    await leave(client)
    assert stored() == [str(number) for number in range(5)]


@pytest.mark.parametrize("subprotocol", [None, SUBPROTOCOL])
async def test_a_client_that_has_sent_something_before_it_was_let_in(
    stored, subprotocol, settings, caplog
):
    """Uvicorn lets it; the client has left when the handshake comes to its end."""
    settings.WS4REDIS_SUBSCRIBER = Released
    Released.count = 0

    async def uvicorn(scope, receive, send):
        async def send_to_nobody(event):
            raise ConnectionAbortedError

        await router(scope, receive, send_to_nobody)

    client = client_of(uvicorn, subprotocol)
    await client.send_input({"type": "websocket.connect"})
    if subprotocol:
        await client.send_json_to({"type": "hello"})
    for number in range(5):
        await client.send_input(frame(str(number), subprotocol))
    await leave(client)
    assert stored() == [str(number) for number in range(5)]
    assert Released.count == 1
    assert caplog.messages == []
    assert not sockets_here()


class Released(RedisSubscriber):
    """Counts its releases."""

    count = 0

    def release(self) -> None:
        """Count."""
        Released.count += 1
        super().release()


async def test_a_subscriber_is_released_after_the_last_message(stored, slow):
    """Once, however slowly the messages are published."""
    client = client_of()
    await client.connect(PATIENCE)
    for number in range(3):
        await client.send_to(text_data=str(number))
    await client.send_input(GONE)
    await begun(slow)
    slow.may_end.set()
    await ended(client)
    assert stored() == ["0", "1", "2"]
    assert slow.released == [3]


async def test_a_client_that_leaves_while_a_hook_replays(stored, settings):
    """The hook is followed by what the client has sent."""
    begun, may_end = threading.Event(), threading.Event()

    class Replaying(RedisSubscriber):
        def send_persisted_messages(self, websocket) -> None:
            begun.set()
            may_end.wait(PATIENCE)
            websocket.send("stored")

    settings.WS4REDIS_SUBSCRIBER = Replaying
    client = client_of()
    await client.connect(PATIENCE)
    await asyncio.to_thread(begun.wait, PATIENCE)
    await client.send_to(text_data="mine")
    await client.send_input(GONE)
    await asyncio.sleep(0.05)
    may_end.set()
    await ended(client)
    assert stored() == ["mine"]


class Replaying(RedisSubscriber):
    """Replays by itself, and notes it."""

    replayed = 0

    def send_persisted_messages(self, websocket) -> None:
        """Note it."""
        Replaying.replayed += 1


@pytest.mark.parametrize("subprotocol", [None, SUBPROTOCOL], ids=["raw", "protocol"])
async def test_nothing_is_replayed_to_a_client_that_has_left(stored, settings, subprotocol):
    """Its server says so before what it has sent, a hello or the end of the handshake too."""
    settings.WS4REDIS_SUBSCRIBER = Replaying
    Replaying.replayed = 0
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def wait(request, channels):
        asked.set()
        await may_answer.wait()
        return channels

    settings.WS4REDIS_ALLOWED_CHANNELS = wait
    client = client_of(Found.as_asgi(), subprotocol)
    await client.send_input({"type": "websocket.connect"})
    await asyncio.wait_for(asked.wait(), PATIENCE)
    if subprotocol is None:
        client.scope["consumer"]._leave()
        may_answer.set()
        assert (await client.receive_output(PATIENCE))["type"] == "websocket.accept"
    else:
        may_answer.set()
        assert (await client.receive_output(PATIENCE))["type"] == "websocket.accept"
        client.scope["consumer"]._leave()
        await client.send_json_to({"type": "hello"})
    await client.send_input(frame("mine", subprotocol))
    await leave(client)
    assert stored() == ["mine"]
    assert Replaying.replayed == 0


# A socket that is closed


async def closed_while_publishing(slow, close) -> WebsocketCommunicator:
    """Close a socket while the first of three messages is being published."""
    client = client_of()
    await client.connect(PATIENCE)
    for number in range(3):
        await client.send_to(text_data=str(number))
    await begun(slow)
    await close(client)
    slow.may_end.set()
    await ended(client)
    return client


async def test_a_client_that_reads_too_slowly_has_sent_what_it_has_sent(stored, slow, settings):
    """That it does not read is no fault of its messages."""
    settings.WS4REDIS_OUTBOX_MESSAGES = 1
    may_send = asyncio.Event()
    may_send.set()

    async def choked(scope, receive, send):
        async def wait(event):
            if event["type"] == "websocket.send":
                await may_send.wait()
            await send(event)

        await router(scope, receive, wait)

    client = client_of(choked)
    await client.connect(PATIENCE)
    may_send.clear()
    for number in range(3):
        await client.send_to(text_data=str(number))
    await begun(slow)
    for number in range(5):
        await publish(f"other {number}")
    async with asyncio.timeout(PATIENCE):
        while not _overflown():  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0.01)
    slow.may_end.set()
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 4002}
    await ended(client)
    assert stored() == ["0", "1", "2"]
    assert slow.released == [5 + 3]


def _overflown() -> bool:
    return all(socket.outbox.closed for socket in sockets_here())


async def test_a_channel_that_cannot_be_joined_costs_no_message(stored, settings):
    """The socket is closed with 1013, after which its client comes back."""

    class Roving(RedisSubscriber):
        def publish_message(self, message, *args, **kwargs) -> None:
            super().publish_message(message, *args, **kwargs)
            if message == b"0":
                self._subscription.subscribe("broadcast:bar")

    settings.WS4REDIS_SUBSCRIBER = Roving
    client = client_of()
    await client.connect(PATIENCE)

    async def fail(channel):
        raise redis.exceptions.ConnectionError("Redis is away")

    get_fanout(get_channel_layer())._feed.join = fail
    for number in range(3):
        await client.send_to(text_data=str(number))
    codes = []
    while not codes:
        event = await client.receive_output(PATIENCE)
        codes += [event["code"]] if event["type"] == "websocket.close" else []
    await ended(client)
    assert codes == [1013]
    assert stored() == ["0", "1", "2"]


async def test_a_server_that_is_not_known_cancels_while_something_is_published(
    stored, slow, caplog
):
    """What it has cut off has no successor: what is published is the beginning of what was sent."""

    async def cancel(client) -> None:
        client.future.cancel()
        async with asyncio.timeout(PATIENCE):
            event = {}
            while event != {"type": "websocket.close", "code": 1001}:
                event = await client.receive_output(PATIENCE)

    await closed_while_publishing(slow, cancel)
    assert stored() == ["0"]  # its thread could not be stopped
    assert slow.released == [1]
    assert caplog.messages == [GIVEN_UP]


@pytest.mark.parametrize(
    ("bad", "code"), [("no JSON", 4500), ("x" * 2000, 1009)], ids=["protocol", "size"]
)
async def test_nothing_is_published_after_what_has_closed_a_socket(stored, settings, bad, code):
    """What the client has sent before is."""
    settings.WS4REDIS_MAX_MESSAGE = 1000
    client = client_of(subprotocol=SUBPROTOCOL)
    await client.connect(PATIENCE)
    await client.send_input(frame("before", SUBPROTOCOL))
    await client.send_to(text_data=bad)
    await client.send_input(frame("after", SUBPROTOCOL))
    await client.send_to(bytes_data=b"after")
    await client.send_input(GONE)
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": code}
    await ended(client)
    assert stored() == ["before"]


class Strict(WS4RedisConsumer):
    """Sends clients away that say a word too many."""

    async def receive(self, text_data=None, bytes_data=None):
        """Judge."""
        if text_data == "bad":
            await self.close(1008)
        else:
            await super().receive(text_data, bytes_data)


async def test_nothing_is_published_after_the_project_has_closed_a_socket(stored):
    """The project may have done so for what the client has sent."""
    client = client_of(Strict.as_asgi())
    await client.connect(PATIENCE)
    for text in ("before", "bad", "after"):
        await client.send_to(text_data=text)
    await leave(client)
    assert stored() == ["before"]


class Found(WS4RedisConsumer):
    """Can be found by the test."""

    async def connect(self):
        """Say where it is."""
        self.scope["consumer"] = self
        await super().connect()


async def test_nobody_waits_for_a_socket_that_may_not_go_on(stored, slow, caplog):
    """With a code that blames it, nothing more is heard or published, whatever is going on."""
    client = client_of(Found.as_asgi())
    await client.connect(PATIENCE)
    for number in range(3):
        await client.send_to(text_data=str(number))
    await begun(slow)
    client.scope["consumer"]._end(4401, "")
    at_once = turns.LEAVE_PATIENCE / 2
    assert await client.receive_output(at_once) == {"type": "websocket.close", "code": 4401}
    assert not sockets_here()
    slow.may_end.set()
    await ended(client)
    assert stored() == ["0"]  # its thread could not be stopped
    assert caplog.messages == []


@pytest.mark.parametrize(("code", "published"), [(4401, []), (1013, ["a", "b"])])
async def test_what_comes_at_the_moment_of_the_end(stored, code, published):
    """It is published if the client is not to blame."""
    client = client_of(Found.as_asgi())
    await client.connect(PATIENCE)
    for text in ("a", "b"):
        client.input_queue.put_nowait(frame(text, None))
    client.scope["consumer"]._end(code, "")
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": code}
    await ended(client)
    assert stored() == published


async def test_nothing_is_published_after_a_message_that_could_not_be(
    stored, settings, free_port, redis_url
):
    """Redis is away for the first one, and back for the second."""
    client = client_of()
    await client.connect(PATIENCE)
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    await client.send_to(text_data="first")
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1013}
    settings.WS4REDIS_CONNECTION = redis_url
    await client.send_to(text_data="second")
    await leave(client)
    assert stored() == []


async def test_there_is_an_end_to_it(stored, slow, monkeypatch, caplog):
    """A closed socket leaves its groups, also if what its client has sent takes too long."""
    monkeypatch.setattr(turns, "LEAVE_PATIENCE", 0.2)
    client = client_of()
    await client.connect(PATIENCE)
    consumer_ends = asyncio.get_running_loop().time()
    for number in range(3):
        await client.send_to(text_data=str(number))
    await begun(slow)
    (only,) = sockets_here()
    only.outbox.overflow()
    assert await client.receive_output(PATIENCE) == {"type": "websocket.close", "code": 4002}
    assert asyncio.get_running_loop().time() - consumer_ends < PATIENCE / 2
    assert not sockets_here()
    assert slow.released == []
    slow.may_end.set()
    await ended(client)
    assert slow.released == [1]
    assert caplog.messages[-1] == GIVEN_UP


# Real servers

#: How many clients send how many messages each before they go.
CLIENTS, MESSAGES = 12, 5

PATHS = {
    "quiet": "publish-broadcast",
    "echo": "subscribe-broadcast&publish-broadcast&echo",
    "protocol": "subscribe-broadcast&publish-broadcast",
}


async def expected(stored, facility: str, count: int) -> list[str]:
    """Wait until so many messages have been published, and return all."""
    deadline = time.monotonic() + PATIENCE
    while len(stored(facility)) < count and time.monotonic() < deadline:  # noqa: ASYNC110 # polled
        await asyncio.sleep(0.01)
    return stored(facility)


@pytest.fixture(scope="module", params=COMMANDS)
def kind(request) -> str:
    """Each server, and each of uvicorn's implementations."""
    return request.param


@pytest.mark.parametrize("how", ["close", "fin", "rst"])
async def test_clients_that_send_and_leave(serve, silent_client, stored, kind, how):
    """All of it is published in its order, however they leave, raw and protocol, echo or not."""
    server = serve(kind, settings=LONG_REPLAY)
    for name, flags in PATHS.items():
        subprotocol = SUBPROTOCOL if name == "protocol" else None
        for number in range(CLIENTS):
            client = silent_client(server.port, f"/ws/{name}?{flags}", subprotocol)
            if subprotocol:
                client.say('{"type": "hello"}')
                client.wait()
            if how != "close" and name != "quiet":
                # A server that writes to a connection that has been reset may drop what it has not
                # read yet. So nothing may be on its way: neither stored messages nor others' own.
                welcome = 1 if subprotocol else 0
                await asyncio.to_thread(client.take, welcome + number * MESSAGES)
            texts = [f"{number}-{index}" for index in range(MESSAGES)]
            sent = [frame(text, subprotocol)["text"] for text in texts]
            await asyncio.to_thread(client.go, how, *sent)
        found = await expected(stored, name, CLIENTS * MESSAGES)
        for number in range(CLIENTS):
            own = [text for text in found if text.startswith(f"{number}-")]
            assert own == [f"{number}-{index}" for index in range(MESSAGES)]


#: What a client may close with, and what RFC 6455 keeps off the wire.
CODES, FORBIDDEN_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011), (1005, 1006, 1015)


async def test_a_client_may_close_with_any_code(serve, silent_client, stored, kind):
    """Nothing fails in the server, and what the client has sent before is published.

    With a forbidden code uvicorn drops what it has read together with that.
    """
    server = serve(kind, settings=LONG_REPLAY)
    for code in (*FORBIDDEN_CODES, *CODES):
        client = silent_client(server.port, f"/ws/foo?{PATHS['echo']}")
        await asyncio.to_thread(client.go, "close", str(code), code=code)
    async with asyncio.timeout(PATIENCE):
        while str(CODES[-1]) not in stored():  # noqa: ASYNC110 # polled
            await asyncio.sleep(0.01)
    assert [text for text in stored() if int(text) in CODES] == [str(code) for code in CODES]
    assert "Traceback" not in server.log


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_replay_ends_when_its_client_leaves(
    serve, silent_client, stored, redis_client, kind
):
    """It would go on for ever; what the client has sent is published, though it hides its word."""
    server = serve(kind, settings={"WS4REDIS_SUBSCRIBER": "tests.site.slow.ReplayingSubscriber"})
    client = silent_client(server.port, "/ws/foo?publish-broadcast")
    await asyncio.to_thread(redis_client.blpop, "replaying", PATIENCE)
    await asyncio.to_thread(client.go, "close", "mine")
    assert await expected(stored, "foo", 1) == ["mine"]


async def test_clients_that_leave_while_redis_is_slow(
    serve, silent_client, stored, redis_client, kind
):
    """Nobody is there any more when the first message is published, and the heartbeat fails."""
    settings = {
        "WS4REDIS_HISTORY": 1000,
        "WS4REDIS_REPLAY": "all",
        "WS4REDIS_HEARTBEAT": "--beat--",
    }
    server = serve(kind, settings=settings)
    clients = [silent_client(server.port, f"/ws/foo?{PATHS['echo']}") for _ in range(3)]
    for client in clients:
        client.wait()
    redis_client.client_pause(700)
    for number, client in enumerate(clients):
        client.go("close", f"{number}-0", "--beat--", f"{number}-1")
    found = await expected(stored, "foo", 6)
    for number in range(3):
        own = [text for text in found if text.startswith(f"{number}-")]
        assert own == [f"{number}-0", f"{number}-1"]


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_server_stops_while_a_hook_replays(
    serve, silent_client, stored, redis_client, kind
):
    """The hook ends, so that the process can; what the client has sent meanwhile is published."""
    server = serve(kind, settings={"WS4REDIS_SUBSCRIBER": "tests.site.slow.ReplayingSubscriber"})
    client = silent_client(server.port, "/ws/foo?publish-broadcast")
    await asyncio.to_thread(redis_client.blpop, "replaying", PATIENCE)
    client.say("mine")
    reading = asyncio.create_task(asyncio.to_thread(client.read_to_the_end))
    begun = time.monotonic()
    await asyncio.to_thread(server.stop, signal.SIGTERM)
    assert time.monotonic() - begun < 8
    count, code = await reading
    assert count
    assert code == (1001 if kind == "daphne" else 1012)
    assert stored() == ["mine"]


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_client_that_has_left_does_not_keep_its_socket_for_long(
    serve, silent_client, stored, redis_client, kind
):
    """What would take longer is given up, with a line in the log."""
    subscriber = "tests.site.slow.LeisurelySubscriber"
    server = serve(
        kind,
        application="tests.site.hurried:application",
        settings={
            "WS4REDIS_SUBSCRIBER": subscriber,
            "WS4REDIS_HISTORY": 1000,
            "WS4REDIS_REPLAY": "all",
        },
    )
    client = silent_client(server.port, "/ws/foo?publish-broadcast")
    begun = time.monotonic()
    await asyncio.to_thread(client.go, "close", *map(str, range(30)))
    _, count = await asyncio.to_thread(redis_client.blpop, "released", PATIENCE)
    assert 0.9 < time.monotonic() - begun < 4
    found = stored()
    assert 1 <= len(found) == int(count) < 10
    assert found == [str(number) for number in range(len(found))]
    assert server.says("Giving up the socket '/ws/foo'")


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_server_that_stops_publishes_what_it_has(
    serve, silent_client, stored, redis_client, kind
):
    """Also what comes in while it closes one socket after the other."""
    subscriber = "tests.site.slow.LeisurelySubscriber"
    server = serve(
        kind,
        settings={
            "WS4REDIS_SUBSCRIBER": subscriber,
            "WS4REDIS_HISTORY": 1000,
            "WS4REDIS_REPLAY": "all",
            "WS4REDIS_CLOSE_WINDOW": 1.0,
        },
    )
    client = silent_client(server.port, "/ws/foo?publish-broadcast")
    client.say(*map(str, range(5)))
    await expected(stored, "foo", 1)
    await asyncio.to_thread(server.stop, signal.SIGTERM)
    assert stored() == ["0", "1", "2", "3", "4"]
    assert redis_client.lrange("released", 0, -1) == [b"5"]
    assert "Giving up" not in server.log


def eager(port: int, path: str, *texts: str) -> None:
    """Send short texts and a close frame before being let in, and read to the end."""
    frames = [short_frame(1, text.encode()) for text in texts] + [short_frame(8, b"\x03\xe8")]
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        time.sleep(0.2)  # servers drop what comes together with the handshake
        connection.sendall(b"".join(frames))
        with suppress(ConnectionResetError):
            while connection.recv(65536):
                pass


@pytest.mark.parametrize("kind", ["daphne", "uvicorn", "uvicorn-websockets"])
async def test_a_client_that_does_not_wait_to_be_let_in(serve, stored, kind):
    """It has broken RFC 6455; what the server hands over is published. On wsproto that is none."""
    hook = "tests.site.busy_hooks.half_a_second"
    server = serve(
        kind,
        settings={
            "WS4REDIS_ALLOWED_CHANNELS": hook,
            "WS4REDIS_HISTORY": 1000,
            "WS4REDIS_REPLAY": "all",
        },
    )
    await asyncio.to_thread(eager, server.port, f"/ws/foo?{PATHS['echo']}", "0", "1")
    assert await expected(stored, "foo", 2) == ["0", "1"]
    assert "Traceback" not in server.log
