"""What is published while a socket connects, by the hook that has subscribed it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from channels.layers import channel_layers, get_channel_layer
from channels.testing import WebsocketCommunicator
from django.core.exceptions import PermissionDenied

from channels_ws4redis.fanout import handing
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import router
from channels_ws4redis.store import fairness
from channels_ws4redis.subscriber import RedisSubscriber
from tests.clients import Visitor
from tests.communicators import GONE, PATIENCE, ended, leave
from tests.conftest import Serve
from tests.listeners import FOO, Listener, all_left, sockets_here

#: See test_open_socket.
pytestmark = [pytest.mark.server, pytest.mark.django_db]

END = "-- end --"
PATH = "/ws/foo?subscribe-broadcast"


def publish(message: str, expire: int = 0, **audience) -> None:
    """Publish to everybody on the facility, or to an audience."""
    publisher = RedisPublisher(facility="foo", **(audience or {"broadcast": True}))
    publisher.publish_message(message, expire)


@pytest.fixture
def hook(settings, redis_client):
    """Have every socket served by a subscriber that does this once it has subscribed."""

    def use(work, base=RedisSubscriber):
        class Publishing(base):
            def set_pubsub_channels(self, request, channels) -> None:
                super().set_pubsub_channels(request, channels)
                work(self)

        settings.WS4REDIS_SUBSCRIBER = Publishing

    return use


def client(path: str = PATH, subprotocol: str | None = None) -> WebsocketCommunicator:
    """Return a client in this process, which has not connected yet."""
    return WebsocketCommunicator(router, path, subprotocols=subprotocol and [subprotocol])


async def heard(path: str = PATH) -> list[str]:
    """Open a socket and return all that it gets before a message that is published afterwards."""
    socket = client(path)
    assert (await socket.connect(PATIENCE))[0]
    await asyncio.to_thread(publish, END)
    messages = []
    while (text := await socket.receive_from(PATIENCE)) != END:
        messages.append(text)
    await socket.disconnect()
    return messages


def nobody_listens() -> bool:
    """Tell whether no socket is left on the fan-out."""
    return not sockets_here()


def several(subscriber) -> None:
    """Publish what is stored and what is not, by turns."""
    for message, expire in (("a", 60), ("b", 0), ("c", 60), ("d", 0)):
        publish(message, expire)


@pytest.mark.parametrize("replay", ["last", "all"])
async def test_it_reaches_its_own_socket(hook, settings, replay) -> None:
    """All of it, in order and once, after what was stored before."""
    settings.WS4REDIS_REPLAY = replay
    await asyncio.to_thread(publish, "before", 60)
    hook(several)
    assert await heard() == [*(["before"] if replay == "all" else []), "a", "b", "c", "d"]
    assert nobody_listens()


async def test_it_reaches_its_own_socket_among_others(hook) -> None:
    """Whoever is there already gets it as well, in the same order."""
    first = client()
    assert (await first.connect(PATIENCE))[0]
    hook(several)
    assert await heard() == ["a", "b", "c", "d"]
    assert [await first.receive_from(PATIENCE) for _ in "abcd"] == ["a", "b", "c", "d"]
    await first.disconnect()


async def test_it_reaches_its_own_socket_in_a_large_group(hook, monkeypatch) -> None:
    """Also what is still on its way to many when the socket goes live."""
    monkeypatch.setattr(handing, "AT_ONCE", 1)
    monkeypatch.setattr(fairness, "IDLE_TURN", 0)  # after each of them, others have their 20 ms
    fanout = get_fanout(get_channel_layer())
    crowd = [await Listener(fanout).join(FOO) for _ in range(5)]
    hook(several)
    assert await heard() == ["a", "b", "c", "d"]
    for listener in crowd:
        assert [await listener.receive() for _ in "abcd"] == ["a", "b", "c", "d"]
        listener.leave()


async def test_by_its_own_method(hook) -> None:
    """Without ``echo``, as in legacy: the client itself has sent nothing."""
    hook(lambda subscriber: subscriber.publish_message("hello", 0))
    path = f"{PATH}&publish-broadcast"
    assert await heard(path) == ["hello"]


async def test_by_somebody_whom_the_hook_has_asked(hook) -> None:
    """Such as a task in another process that is done before the socket is open."""

    def ask(subscriber) -> None:
        asked = threading.Thread(target=publish, args=("done",))
        asked.start()
        asked.join()

    hook(ask)
    assert await heard() == ["done"]


async def test_on_a_bare_channel(hook, redis_client) -> None:
    """A program that knows nothing of the package is heard, too."""
    hook(lambda subscriber: redis_client.publish("broadcast:foo", "bare"))
    assert await heard() == ["bare"]


async def test_a_body_that_is_copied_from_legacy(hook) -> None:
    """It begins with a PubSub of redis-py, and subscribes to one channel after the other."""

    class Copied(RedisSubscriber):
        def set_pubsub_channels(self, request, channels) -> None:
            self._subscription = self._connection.pubsub()
            for name in ("broadcast:foo", "user:john:foo"):
                self._subscription.subscribe(name)
                publish(f"to {name}", users=["john"], broadcast=True)

    hook(lambda subscriber: None, Copied)
    expected = ["to broadcast:foo", "to user:john:foo", "to user:john:foo"]
    assert sorted(await heard()) == expected


async def test_a_hook_that_replays(hook) -> None:
    """What it sends does not come a second time; the rest comes after it."""

    class Replaying(RedisSubscriber):
        def send_persisted_messages(self, websocket) -> None:
            super().send_persisted_messages(websocket)

    hook(several, Replaying)
    assert await heard() == ["c", "a", "b", "d"]


async def test_what_a_hook_gives_up_is_not_heard(hook) -> None:
    """Neither what is stored there, nor what was published meanwhile."""
    await asyncio.to_thread(publish, "stored", 60, users=["john"])

    def change_its_mind(subscriber) -> None:
        subscriber._subscription.subscribe("user:john:foo")
        publish("secret", users=["john"])
        subscriber._subscription.unsubscribe("user:john:foo")
        publish("secret", users=["john"])
        publish("hello")

    hook(change_its_mind)
    assert await heard() == ["hello"]
    assert nobody_listens()


async def test_a_hook_that_begins_anew(hook) -> None:
    """The last object counts, as it does without anything published."""

    def begin_anew(subscriber) -> None:
        subscriber._subscription = subscriber._connection.pubsub()
        publish("to nobody")
        subscriber._subscription.subscribe("broadcast:foo")
        publish("hello")

    hook(begin_anew)
    assert await heard() == ["hello"]


async def test_a_socket_that_is_refused_leaves_nothing(hook) -> None:
    """Also if the hook refuses it after it has subscribed and published."""

    def refuse(subscriber) -> None:
        publish("somebody has tried")
        raise PermissionDenied

    hook(refuse)
    socket = client()
    assert not (await socket.connect(PATIENCE))[0]
    await leave(socket)
    assert nobody_listens()


async def test_a_client_that_goes_meanwhile_leaves_nothing(hook) -> None:
    """Also if the hook goes on to subscribe afterwards."""
    reached, may_go_on, subscribed = threading.Event(), threading.Event(), threading.Event()

    def wait(subscriber) -> None:
        reached.set()
        may_go_on.wait(PATIENCE)
        subscriber._subscription.subscribe("user:john:foo")
        subscribed.set()

    hook(wait)
    socket = client()
    await socket.send_input({"type": "websocket.connect"})
    assert await asyncio.to_thread(reached.wait, PATIENCE)
    await socket.send_input(GONE)
    may_go_on.set()
    await ended(socket)
    assert await asyncio.to_thread(subscribed.wait, PATIENCE)
    assert nobody_listens()


async def test_more_than_a_socket_may_wait_for(hook, settings) -> None:
    """Then the socket gets what is stored, as if it had come later; nothing piles up."""
    settings.WS4REDIS_OUTBOX_MESSAGES = 10

    def flood(subscriber) -> None:
        for number in range(50):
            publish(str(number), 60)

    hook(flood)
    assert await heard() == ["49"]


async def test_a_client_of_the_packages_own_protocol(hook) -> None:
    """It gets what is stored once it has said where it stands."""
    hook(lambda subscriber: publish("stored", 60))
    socket = client(subprotocol=SUBPROTOCOL)
    assert (await socket.connect(PATIENCE))[0]
    await socket.send_json_to({"type": "hello"})
    assert (await socket.receive_json_from(PATIENCE))["type"] == "welcome"
    assert (await socket.receive_json_from(PATIENCE))["data"] == "stored"
    await socket.disconnect()


async def test_a_stock_subscriber_subscribes_once(redis_client) -> None:
    """Listening early is for those alone who may publish early."""
    first = client("/ws/bar?subscribe-broadcast")  # with it the process hears what it has to
    assert (await first.connect(PATIENCE))[0]
    before = redis_client.info("commandstats")["cmdstat_subscribe"]["calls"]
    assert await heard() == []
    # One for envelopes, one for bare payloads.
    assert redis_client.info("commandstats")["cmdstat_subscribe"]["calls"] == before + 2
    await first.disconnect()


async def test_a_handshake_during_which_the_last_socket_leaves(redis_client, settings) -> None:
    """The newcomer hears nevertheless: what served the others has been closed meanwhile."""
    first = client()
    assert (await first.connect(PATIENCE))[0]
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def wait(request, channels):
        reached.set()
        await may_go_on.wait()
        return channels

    settings.WS4REDIS_ALLOWED_CHANNELS = wait
    second = client()
    connecting = asyncio.ensure_future(second.connect(PATIENCE))
    await asyncio.wait_for(reached.wait(), PATIENCE)
    await first.disconnect()
    await all_left()
    may_go_on.set()
    assert (await connecting)[0]
    await asyncio.to_thread(publish, "hello")
    assert await second.receive_from(PATIENCE) == "hello"
    await second.disconnect()


async def test_without_redis(hook, settings, free_port, caplog) -> None:
    """The client is told to come back, and the log says why, as without a hook."""
    hook(lambda subscriber: None)
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    channel_layers.backends.clear()
    socket = client()
    assert (await socket.connect(PATIENCE))[0]
    assert await socket.receive_output(PATIENCE) == {"type": "websocket.close", "code": 1013}
    await leave(socket)
    (line,) = [line for line in caplog.messages if "/ws/foo" in line]
    assert line.startswith("Cannot open the socket '/ws/foo': ConnectionError: Error 111")
    assert nobody_listens()
    channel_layers.backends.clear()


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_hook_of_legacy_in_a_server(serve: Serve, kind: str) -> None:
    """It greets its own socket, and says how many there are."""
    server = serve(
        kind,
        application="tests.legacy_site.asgi:application",
        settings={"WS4REDIS_SUBSCRIBER": "tests.legacy_site.subscribers.Greeting"},
        DJANGO_SETTINGS_MODULE="tests.legacy_site.ported",
    )
    visitor = Visitor(server)
    path = "/ws/room?subscribe-broadcast"
    async with visitor.socket(path) as first:
        assert await first.receive() == "1 here"
        async with visitor.socket(path) as second:
            assert await second.receive() == "2 here"
            assert await first.receive() == "2 here"
        assert await first.receive() == "1 left"


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_server_stops_while_a_hook_subscribes(serve: Serve, kind) -> None:
    """Redis does not answer; the hook's thread does not keep the process from its end."""
    server = serve(kind, settings={"WS4REDIS_SUBSCRIBER": "tests.site.slow.PausingSubscriber"})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert await asyncio.to_thread(server.says, "Subscribing")
    await asyncio.to_thread(server.stop)  # it waits half a minute at most
    assert b" 101 " not in await reader.read()
    writer.close()
