"""Running the project's own code."""

from __future__ import annotations

import asyncio
import functools
import threading
from contextlib import asynccontextmanager

import pytest
from channels.testing import WebsocketCommunicator
from django.core.exceptions import PermissionDenied

from channels_ws4redis import settings as private_settings
from channels_ws4redis.handshake import hooks
from channels_ws4redis.handshake.hooks import Calls, overrides
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import router
from channels_ws4redis.subscriber import RedisSubscriber

#: Django looks at the connections of a worker thread before it runs anything there, and they may be
#: left over from a test that has used the database.
pytestmark = pytest.mark.django_db


def plain(request, channels):
    """A function."""
    return [threading.current_thread() is threading.main_thread(), *channels]


async def asynchronous(request, channels):
    """A coroutine function."""
    return [threading.current_thread() is threading.main_thread(), *channels]


def generator(request, channels):
    """A generator, consumed where it may block."""
    yield threading.current_thread() is threading.main_thread()
    yield from channels


class Instance:
    """A callable object."""

    def __call__(self, request, channels):
        """Do what `plain` does."""
        return plain(request, channels)

    def method(self, request, channels):
        """Do what `plain` does."""
        return plain(request, channels)


class AsyncInstance:
    """An asynchronous callable object."""

    async def __call__(self, request, channels):
        """Do what `asynchronous` does."""
        return await asynchronous(request, channels)


IN_THREAD = [
    plain,
    generator,
    Instance(),
    Instance().method,
    functools.partial(plain),
    "tests.handshake.test_hooks.plain",
]
ON_LOOP = [
    asynchronous,
    AsyncInstance(),
    functools.partial(asynchronous),
    lambda request, channels: asynchronous(request, channels),  # noqa: PLW0108 # it is the case
    "tests.handshake.test_hooks.asynchronous",
]


@pytest.mark.parametrize("hook", IN_THREAD)
async def test_synchronous_hooks(hook):
    """A synchronous hook of any kind runs in a worker thread, generators included."""
    assert await Calls({}).hook(hook, None, ["a"]) == [False, "a"]


@pytest.mark.parametrize("hook", ON_LOOP)
async def test_asynchronous_hooks(hook):
    """An asynchronous hook of any kind runs on the event loop."""
    assert await Calls({}).hook(hook, None, ["a"]) == [True, "a"]


@pytest.mark.parametrize(
    ("hook", "error"),
    [("nodots", ImportError), ("tests.handshake.test_hooks.none", ImportError), (7, TypeError)],
)
async def test_no_hook(hook, error):
    """What cannot be found or called raises."""
    with pytest.raises(error):
        await Calls({}).hook(hook, None, [])


def test_overrides():
    """An override is found wherever in the class hierarchy it is."""

    class Mixin:
        def release(self) -> None: ...

    class Mixed(Mixin, RedisSubscriber): ...

    class Child(Mixed): ...

    stock = RedisSubscriber(None)
    assert not overrides(stock, RedisSubscriber, "release", "publish_message")
    assert overrides(Mixed(None), RedisSubscriber, "publish_message", "release")
    assert overrides(Child(None), RedisSubscriber, "release")
    assert not overrides(Child(None), RedisSubscriber, "publish_message")


# The whole, with hooks that are no dotted paths


@pytest.fixture
def assign(monkeypatch):
    """Assign to the settings module while the application runs, as legacy code does."""
    return lambda name, value: monkeypatch.setattr(private_settings, f"WS4REDIS_{name}", value)


@asynccontextmanager
async def open_socket(path: str = "/ws/foo?subscribe-broadcast"):
    """Open a socket of an application in this process."""
    communicator = WebsocketCommunicator(router, path)
    connected, code = await communicator.connect()
    yield communicator if connected else code
    if connected:
        await communicator.disconnect()


async def hears(communicator) -> bool:
    """Tell whether a socket hears the broadcasts of its facility."""
    await RedisPublisher(facility="foo", broadcast=True).apublish_message("Hi", expire=0)
    return not await communicator.receive_nothing(0.2)


@pytest.mark.parametrize(
    ("result", "granted"),
    [
        (["subscribe-broadcast"], True),
        (("subscribe-broadcast",), True),
        ({"subscribe-broadcast", "publish-server"}, True),
        ({"subscribe-broadcast": 1}, False),
        (iter(["subscribe-broadcast"]), True),
        ([], False),
        (None, False),
        ("subscribe-broadcast", False),
        (True, False),
        (b"subscribe-broadcast", False),
    ],
)
async def test_what_allowed_channels_may_return(assign, result, granted):
    """Any collection of flags is taken; what is none grants nothing."""
    assign("ALLOWED_CHANNELS", lambda request, channels: result)
    async with open_socket() as socket:
        assert await hears(socket) is granted


async def test_assigned_hooks(assign):
    """Functions assigned while the application runs take effect on the next socket."""

    async def process(request):
        request.user = request.GET["name"]

    def allow(request, channels):
        if request.user != "john":
            raise PermissionDenied
        return channels

    async with open_socket() as socket:
        assert await hears(socket)
    assign("PROCESS_REQUEST", process)
    assign("ALLOWED_CHANNELS", allow)
    async with open_socket("/ws/foo?subscribe-broadcast&name=mary") as code:
        assert code == 1000  # how Channels' communicator reports a refused handshake
    async with open_socket("/ws/foo?subscribe-broadcast&name=john") as socket:
        assert await hears(socket)


async def test_subscriber_class(settings):
    """WS4REDIS_SUBSCRIBER may be a class; one that is no subscriber refuses every socket."""

    class Deaf(RedisSubscriber):
        def set_pubsub_channels(self, request, channels) -> None:
            super().set_pubsub_channels(request, [])

    settings.WS4REDIS_SUBSCRIBER = Deaf
    async with open_socket() as socket:
        assert not await hears(socket)
    settings.WS4REDIS_SUBSCRIBER = Instance
    with pytest.raises(TypeError, match="no subclass"):
        async with open_socket():
            pass


async def test_a_prefix_is_asked_for_in_a_thread(settings):
    """Also for a client of the package's own protocol, whose labels are without it."""
    threads = set()

    class Prefixed(RedisSubscriber):
        @staticmethod
        def get_prefix() -> str:
            threads.add(threading.current_thread())
            return "own:"

    settings.WS4REDIS_SUBSCRIBER = Prefixed
    client = WebsocketCommunicator(
        router, "/ws/foo?subscribe-broadcast&publish-broadcast", subprotocols=[SUBPROTOCOL]
    )
    assert (await client.connect(10))[0]
    await client.send_json_to({"type": "hello"})
    assert (await client.receive_json_from(10))["channels"].keys() == {"broadcast"}
    await client.disconnect()
    assert threads
    assert threading.main_thread() not in threads


async def test_unsubscribing_on_the_loop(settings):
    """A change made on the event loop itself has effect soon, without waiting."""
    subscribers: list[RedisSubscriber] = []

    class Known(RedisSubscriber):
        def __init__(self, connection) -> None:
            super().__init__(connection)
            subscribers.append(self)

    settings.WS4REDIS_SUBSCRIBER = Known
    async with open_socket() as socket:
        assert await hears(socket)
        await socket.receive_from()
        subscribers[0]._subscription.unsubscribe("broadcast:foo")
        await asyncio.sleep(0.1)
        assert not await hears(socket)
        subscribers[0]._subscription.subscribe("broadcast:foo")
        await asyncio.sleep(0.2)
        assert await hears(socket)


async def test_a_free_thread_is_had_by_whoever_has_no_patience_left(monkeypatch):
    """A handshake may have spent all of it on the calls before."""
    monkeypatch.setattr(hooks, "LAST_PATIENCE", 10.0)
    calls = Calls({})
    calls._patience = 0.0
    assert [await calls.run(int) for _ in range(20)] == [0] * 20
