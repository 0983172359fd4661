"""Running the project's own code."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar

import pytest
from channels.testing import WebsocketCommunicator
from django.core.exceptions import PermissionDenied

from channels_ws4redis import settings as private_settings
from channels_ws4redis.facilities import facility
from channels_ws4redis.handshake import deadlines
from channels_ws4redis.handshake.derived import Derived
from channels_ws4redis.handshake.hooks import Calls, overrides
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.routing import router
from channels_ws4redis.subscriber import RedisSubscriber
from tests.communicators import PATIENCE, leave, publish

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
    await publish("Hi")
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


async def test_a_free_thread_is_had_by_whoever_has_no_time_left(monkeypatch):
    """A handshake may have spent all of it on what came before."""
    monkeypatch.setattr(deadlines, "LAST", 10.0)
    monkeypatch.setattr(deadlines, "HANDSHAKE", 0.0)
    calls = Calls({})
    assert [await calls.run(int) for _ in range(20)] == [0] * 20


# Hooks that are cancelled


class Stubborn:
    """An asynchronous hook that swallows each cancellation until the test is over."""

    def __init__(self) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def __call__(self, request, channels=()):
        """Hang."""
        self.begun.set()
        while not self.may_end.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(self.may_end.wait(), PATIENCE)
        return channels


@pytest.fixture
async def stubborn() -> AsyncIterator[Stubborn]:
    """A hook that swallows each cancellation."""
    hook = Stubborn()
    yield hook
    hook.may_end.set()


async def answer_to(client: WebsocketCommunicator) -> dict:
    """Return the first event of a socket that asks to be let in."""
    await client.send_input({"type": "websocket.connect"})
    return await client.receive_output(PATIENCE)


async def test_a_hook_that_swallows_its_cancellation_is_left_alone(stubborn, settings, monkeypatch):
    """Its socket is told to come back, as with any hook that hangs."""
    monkeypatch.setattr(deadlines, "CALL", 0.05)
    settings.WS4REDIS_ALLOWED_CHANNELS = stubborn
    client = WebsocketCommunicator(router, "/ws/foo?subscribe-broadcast")
    assert (await answer_to(client))["type"] == "websocket.accept"
    assert (await client.receive_output(PATIENCE))["code"] == 1013
    await leave(client)


async def test_a_policy_that_swallows_its_cancellation_refuses(stubborn, no_policies, monkeypatch):
    """It has failed then."""
    monkeypatch.setattr(deadlines, "POLICY", 0.05)
    facility("foo")(stubborn)
    client = WebsocketCommunicator(router, "/ws/foo?subscribe-broadcast")
    assert (await answer_to(client))["type"] == "websocket.close"
    await leave(client)


async def test_a_client_need_not_wait_for_a_hook_that_swallows_its_cancellation(stubborn, settings):
    """Its socket ends when it goes."""
    settings.WS4REDIS_PROCESS_REQUEST = stubborn
    client = WebsocketCommunicator(router, "/ws/foo?subscribe-broadcast")
    await client.send_input({"type": "websocket.connect"})
    await asyncio.wait_for(stubborn.begun.wait(), PATIENCE)
    await leave(client)


async def test_a_hook_that_is_cancelled_ends_before_the_release(settings):
    """What it does at its end is done by then."""
    begun, ends = asyncio.Event(), []

    async def hook(request, channels) -> None:
        try:
            begun.set()
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0.01)
            ends.append("hook")

    class Noting(RedisSubscriber):
        def release(self) -> None:
            ends.append("release")

    settings.WS4REDIS_ALLOWED_CHANNELS = hook
    settings.WS4REDIS_SUBSCRIBER = Noting
    client = WebsocketCommunicator(router, "/ws/foo?subscribe-broadcast")
    await client.send_input({"type": "websocket.connect"})
    await asyncio.wait_for(begun.wait(), PATIENCE)
    await leave(client)
    assert ends == ["hook", "release"]


tenant: ContextVar[str] = ContextVar("tenant")


async def test_the_next_hook_finds_what_a_hook_has_set():
    """In a context variable, be it synchronous or not."""

    def set_tenant(request) -> None:
        tenant.set("one")

    async def set_tenant_later(request) -> None:
        tenant.set("another")

    async def get_tenant(request) -> str:
        return tenant.get()

    calls = Calls({})
    for hook, value in ((set_tenant, "one"), (set_tenant_later, "another")):
        await calls.hook(hook, None)
        assert await calls.hook(get_tenant, None) == value


async def test_several_who_wait_for_a_call_begin_one_after_the_other() -> None:
    """As a look at a socket and a message of its client may."""
    calls, may_go_on = Calls({}), threading.Event()
    calls.be_patient()
    running: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        may_go_on.wait(0.05)
        running.pop()

    async def by_turns() -> None:
        for _ in range(3):
            await calls.run(work)

    await asyncio.gather(by_turns(), by_turns(), calls.run(work))
    assert most == 1


async def test_who_gives_up_waiting_for_a_call_does_not_end_it(settings) -> None:
    """As a look at a socket does, while a message of its client waits for a thread."""
    settings.WS4REDIS_THREADS = 2  # one of them for hooks
    calls, others, may_go_on = Calls({}), Calls({}), threading.Event()
    calls.be_patient()
    others.be_patient()
    busy = asyncio.create_task(others.run(may_go_on.wait, PATIENCE))
    await asyncio.sleep(0.01)
    waits = asyncio.create_task(calls.run(lambda: "published"))
    await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await calls.ended()
    may_go_on.set()
    assert await waits == "published"
    await busy


async def test_a_further_subscription_may_wait_as_long_as_a_handshake() -> None:
    """However old the socket is by then, whose age its request has all the same."""
    handshake = Calls({})
    handshake._begun -= 3600
    further = handshake.for_another(Derived({}, "foo", b""))
    assert further.age > 3599
    assert further.time_left > deadlines.HANDSHAKE - 1
