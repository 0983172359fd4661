"""Further subscriptions of an open socket, seen from inside: each as a socket of its own."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from django.core.exceptions import PermissionDenied
from django.urls import path, re_path

from channels_ws4redis import control
from channels_ws4redis.consumers import WS4RedisConsumer
from channels_ws4redis.facilities import facility
from channels_ws4redis.fanout import pulse
from channels_ws4redis.fanout import sockets as sockets_module
from channels_ws4redis.fanout.control import get_control
from channels_ws4redis.handshake import limits as limits_module
from channels_ws4redis.protocol.client_frames import MAX_BATCH
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import application, router, websocket_urlpatterns
from channels_ws4redis.subscriber import RedisSubscriber
from tests.communicators import PATIENCE, publish
from tests.listeners import all_left, sockets_here
from tests.pages import PATH, Page, connected, gathered, opened, subscribe, unsubscribe, until

pytestmark = [pytest.mark.django_db, pytest.mark.server]


async def stored(message: str, facility: str) -> None:
    """Publish a message that is kept."""
    await RedisPublisher(facility=facility, broadcast=True).apublish_message(message)


def message(frame: dict[str, Any]) -> tuple[Any, Any]:
    """Return the id and the payload of a message."""
    assert frame["type"] == "message", frame
    return frame.get("id"), frame["data"]


# What they are


async def test_messages_have_the_id_of_their_subscription():
    """Those of the URL's own have none."""
    await stored("kept", "bar")
    async with opened() as page:
        assert page.welcome["subscriptions"] == 99
        answer = await page.subscribe(3, "bar")
        assert answer["type"] == "subscribed"
        told = answer["channels"]["broadcast"]
        assert (told["offset"], told["recovered"], told["replay"]) == (1, None, 1)
        frame = await page.receive()
        assert message(frame) == (3, "kept")
        assert (frame["channel"], frame["offset"]) == ("broadcast", 1)
        await publish("for the URL")
        assert message(await page.receive()) == (None, "for the URL")
        await publish("for the other", "bar")
        assert message(await page.receive()) == (3, "for the other")
        await page.nothing()


async def test_all_subscriptions_of_a_reconnect_come_in_one_batch():
    """Each recovers from its own positions, and none is told anything before the welcome."""
    for name in ("foo", "bar", "qux"):
        await stored("old", name)
    async with opened() as page:
        await page.receive()
        known = {}
        for number, name in enumerate(("bar", "qux"), 1):
            answer = await page.subscribe(number, name)
            known[name] = {
                label: {"epoch": told["epoch"], "offset": told["offset"]}
                for label, told in answer["channels"].items()
            }
            await page.receive()
    for name in known:
        await stored(f"missed on {name}", name)
    page = await connected()
    await page.send(
        {"type": "hello"},
        *(subscribe(number, name, positions=known[name]) for number, name in enumerate(known, 7)),
        {"type": "ping"},
    )
    assert (await page.receive())["type"] == "welcome"
    frames = [await page.receive() for _ in range(6)]
    for number, name in enumerate(known, 7):
        first, second = [frame for frame in frames if frame.get("id") == number]
        assert first["channels"]["broadcast"]["recovered"] is True
        assert message(second) == (number, f"missed on {name}")
    assert {frame["type"] for frame in frames if "id" not in frame} == {"message", "pong"}
    await page.leave()


async def test_the_same_facility_twice():
    """Ids and not names tell subscriptions apart."""
    async with opened() as page:
        for number in (1, 2):
            assert (await page.subscribe(number, "foo"))["type"] == "subscribed"
        await publish("hello")
        frames = [await page.receive() for _ in range(3)]
        assert sorted(message(frame) for frame in frames if "id" in frame) == [
            (1, "hello"), (2, "hello")
        ]  # fmt: skip
        assert [message(frame) for frame in frames if "id" not in frame] == [(None, "hello")]


async def test_any_facility_can_be_subscribed_to():
    """As by a URL that is percent-encoded."""
    names = ["", "a/b", "ä ☃", "100%25", "?x=1&y", "#a", "a\nb", "/x"]
    async with opened() as page:
        for number, name in enumerate(names, 1):
            assert (await page.subscribe(number, name))["type"] == "subscribed", name
            await publish(f"on {name}", name)
            assert message(await page.receive()) == (number, f"on {name}")


async def test_unsubscribing():
    """Nothing with this id arrives any more; what waits of it is forgotten; the rest goes on."""
    async with opened() as page:
        await page.subscribe(1, "bar")
        await page.subscribe(2, "qux")
        await page.send(unsubscribe(1))
        await page.nothing()
        await publish("gone", "bar")
        await publish("here", "qux")
        assert message(await page.receive()) == (2, "here")
        await page.send(unsubscribe(1), unsubscribe(99))
        await page.nothing()
        assert (await page.subscribe(3, "bar"))["type"] == "subscribed"
        await publish("back", "bar")
        assert message(await page.receive()) == (3, "back")
    await all_left()
    assert not sockets_here()


async def test_a_socket_without_any_subscription_stays_open(monkeypatch):
    """It gets pings, counts as a socket, and may subscribe again."""
    monkeypatch.setattr(sockets_module, "PING_INTERVAL", 0.05)
    async with opened() as page:
        await page.send(unsubscribe())
        assert await page.receive() == {"type": "ping"}
        await publish("nobody hears this")
        assert await page.receive() == {"type": "ping"}
        assert limits_module.limits().sockets == 1
        await page.send(unsubscribe(), {"type": "publish", "data": "nobody publishes this"})
        monkeypatch.setattr(sockets_module, "PING_INTERVAL", 60)
        await page.send(subscribe(1, "foo"))
        while (frame := await page.receive())["type"] == "ping":
            pass
        assert frame["type"] == "subscribed"
        await publish("hello")
        while (frame := await page.receive())["type"] == "ping":
            pass
        assert message(frame) == (1, "hello")
    await all_left()
    assert not sockets_here()
    assert not len(get_control())
    assert limits_module.limits().sockets == 0


async def test_one_ping_for_all_of_a_socket(monkeypatch):
    """Not one for each subscription."""
    monkeypatch.setattr(sockets_module, "PING_INTERVAL", 0.2)
    assert pulse.sockets is sockets_module
    async with opened() as page:
        for number in range(1, 6):
            await page.subscribe(number, "bar")
        assert await page.receive() == {"type": "ping"}
        await page.nothing()


async def test_publishing_through_a_subscription(redis_client):
    """Its own flags count, and its own `echo`."""
    async with opened(PATH + "&publish-broadcast") as page:
        await page.subscribe(1, "bar", "subscribe-broadcast", "publish-broadcast", "echo")
        await page.subscribe(2, "qux", "subscribe-broadcast", "publish-broadcast")
        await page.subscribe(3, "mute")
        await page.send({"type": "publish", "id": 1, "data": "one"})
        assert message(await page.receive()) == (1, "one")
        await page.send({"type": "publish", "id": 2, "data": "two"})
        frame = await page.receive()
        assert (frame["type"], frame["id"], frame["offset"]) == ("position", 2, 1)
        await page.send({"type": "publish", "id": 3, "data": "three"})
        await page.send({"type": "publish", "id": 4, "data": "of none"})
        await page.send({"type": "publish", "data": "own"})
        assert (await page.receive())["type"] == "position"
        await page.nothing()
    assert redis_client.get("broadcast:mute") is None


# Refusals


async def test_a_policy_refuses_one_subscription(no_policies, caplog):
    """With 1008 and one line in the log; the socket stays."""

    @facility("secret")
    def secret(request):
        raise PermissionDenied("not for you")

    async with opened() as page:
        answer = await page.subscribe(1, "secret")
        assert answer == {"type": "refused", "id": 1, "code": 1008, "reason": ""}
        assert any(
            "Refused the socket '/ws/secret'" in line and "not for you" in line
            for line in caplog.messages
        )
        assert (await page.subscribe(2, "bar"))["type"] == "subscribed"


async def test_who_is_refused_cannot_tell_why(no_policies):
    """A policy that fails gives the same answer as one that refuses."""

    @facility("broken")
    def broken(request):
        raise LookupError

    async with opened() as page:
        answer = await page.subscribe(1, "broken")
        assert answer == {"type": "refused", "id": 1, "code": 1008, "reason": ""}
        await page.nothing()


async def test_a_fault_of_the_project_ends_one_subscription_alone(settings, caplog):
    """With a traceback, and 1011."""

    class Faulty(RedisSubscriber):
        def set_pubsub_channels(self, request, channels):
            if request.facility == "bar":
                raise LookupError("oh no")
            super().set_pubsub_channels(request, channels)

    settings.WS4REDIS_SUBSCRIBER = Faulty
    async with opened() as page:
        assert (await page.subscribe(1, "bar"))["code"] == 1011
        assert any(record.exc_info for record in caplog.records)
        assert (await page.subscribe(2, "qux"))["type"] == "subscribed"


async def test_redis_that_cannot_be_reached_refuses_with_1013(settings, free_port):
    """The client is to come again."""
    async with opened() as page:
        await page.send(unsubscribe())
        await page.nothing()
        settings.WS4REDIS_MAX_FACILITY = 3
        assert (await page.subscribe(1, "long"))["code"] == 1008


@pytest.mark.parametrize("most", [1, 3])
async def test_as_many_as_the_setting_says(settings, most: int):
    """Its URL's own and those that are being decided among them; one more is refused with 1008."""
    settings.WS4REDIS_MAX_SUBSCRIPTIONS = most
    async with opened() as page:
        assert page.welcome["subscriptions"] == most - 1
        await page.send(*(subscribe(number, f"f{number}") for number in range(1, most + 2)))
        answers = await gathered(page, most + 1)
        codes = [answers[number].get("code") for number in range(1, most + 2)]
        assert codes == [None] * (most - 1) + [1008] * 2
        assert "further subscriptions" in answers[most]["reason"]
        if most > 1:
            await page.send(unsubscribe(1))
            assert (await page.subscribe(9, "f9"))["type"] == "subscribed"


async def test_that_of_the_url_leaves_its_place(settings):
    """A page that has to begin anew there asks for it by a frame, also with all places taken."""
    settings.WS4REDIS_MAX_SUBSCRIPTIONS = 2
    async with opened() as page:
        await page.subscribe(1, "bar")
        await page.send(unsubscribe(), subscribe(2, "foo"))
        assert (await page.receive())["type"] == "subscribed"
        assert (await page.subscribe(3, "qux"))["type"] == "refused"
        await page.send(unsubscribe(1))
        assert (await page.subscribe(4, "qux"))["type"] == "subscribed"


async def test_limits_count_each_as_a_socket(settings):
    """Of its client; and one that is over counts no more."""
    settings.WS4REDIS_MAX_SOCKETS = 2
    async with opened() as page:
        assert (await page.subscribe(1, "bar"))["type"] == "subscribed"
        refused = await page.subscribe(2, "qux")
        assert (refused["code"], refused["reason"]) == (1013, "retry-after=10")
        await page.send(unsubscribe(1))
        assert (await page.subscribe(3, "qux"))["type"] == "subscribed"
        assert limits_module.limits().sockets == 2
    assert limits_module.limits().sockets == 0


async def test_limits_count_each_as_a_handshake(settings):
    """A client that subscribes too fast has to wait, or is refused."""
    settings.WS4REDIS_HANDSHAKE_RATE = 1
    async with opened() as page:
        await page.send(*(subscribe(number, "bar") for number in range(1, 31)))
        answers = await gathered(page, 1)
        assert [each["code"] for each in answers.values()] == [1013]


@pytest.mark.parametrize(
    "frames",
    [
        [subscribe(1, "bar"), subscribe(1, "bar")],
        [subscribe(0, "bar")],
        [{"type": "subscribe", "id": 1}],
        [{"type": "ping"}] * (MAX_BATCH + 1),
    ],
    ids=["id in use", "no id", "no facility", "batch"],
)
async def test_what_breaks_the_protocol_closes_the_socket(frames):
    """With 4500."""
    async with opened() as page:
        await page.send(*frames)
        while "text" in (event := await page.output()):
            pass
        assert event["code"] == 4500


async def test_only_after_the_hello():
    """In the same batch is after it."""
    page = await connected()
    await page.send(subscribe(1, "bar"))
    assert (await page.closed())[0] == 4500
    await page.leave()


async def test_a_raw_socket_publishes_such_frames():
    """As it is no client of the protocol."""
    async with opened() as page:
        client = page.client.__class__(application, PATH + "&publish-broadcast")
        assert (await client.connect(PATIENCE))[0]
        await client.send_to(text_data='{"type":"subscribe","id":1,"facility":"bar","flags":[]}')
        assert message(await page.receive())[1].startswith('{"type":"subscribe"')
        await Page(client).leave()


# Routes and middleware of the project's own


class StaffOnly:
    """Lets nobody in."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope, receive, send):
        raise AssertionError


ROUTES = {
    "router": router,
    "own patterns": URLRouter(
        [path("ws/admin/<path:facility>", StaffOnly(router)), *websocket_urlpatterns]
    ),
    "application below a router": URLRouter(
        [path("ws/admin/<path:facility>", StaffOnly(router)), re_path("", application)]
    ),
    "router in middleware": AuthMiddlewareStack(router),
    "own consumer": URLRouter([path("ws/<path:facility>", WS4RedisConsumer.as_asgi())]),
}


@pytest.mark.parametrize("name", ROUTES)
async def test_routes_of_the_project_cannot_be_got_round(name: str):
    """Where the project may treat some facilities in another way, there is one for each socket."""
    async with opened(app=ROUTES[name]) as page:
        assert page.welcome["subscriptions"] == 0
        answer = await page.subscribe(1, "admin/orders")
        assert answer == {
            "type": "refused",
            "id": 1,
            "code": 1008,
            "reason": "this socket takes no further subscriptions",
        }
        await page.nothing()


async def test_a_route_that_means_something_else_takes_none():
    """Also if the project says that it may."""
    consumer = WS4RedisConsumer.as_asgi(subscriptions=True)
    for app, url in (
        (URLRouter([path("ws/live/<path:facility>", consumer)]), "/ws/live/foo"),
        (URLRouter([path("news/", consumer, {"facility": "news"})]), "/news/"),
    ):
        async with opened(url, app=app) as page:
            assert (await page.subscribe(1, "admin"))["code"] == 1008


async def test_middleware_around_the_application(no_policies, django_user_model, ann):
    """What it has found out is read anew for each subscription."""
    seen = []

    @facility("bar/<int:number>")
    def bar(request, number):
        seen.append((request.user.username, request.user.is_staff, request.GET.dict()))
        return request.user.is_authenticated

    async def middleware(scope, receive, send):
        await application({**scope, "user": ann}, receive, send)

    async with opened(PATH + "&token=abc", app=middleware) as page:
        assert (await page.subscribe(1, "bar/1"))["type"] == "subscribed"
        await django_user_model.objects.filter(pk=ann.pk).aupdate(is_staff=True)
        await page.subscribe(2, "bar/2", "subscribe-user", "echo")
        await django_user_model.objects.filter(pk=ann.pk).aupdate(is_active=False)
        assert (await page.subscribe(3, "bar/3"))["code"] == 1008
    assert seen == [
        ("ann", False, {"subscribe-broadcast": "", "token": "abc"}),
        ("ann", True, {"subscribe-user": "", "echo": "", "token": "abc"}),
        ("", False, {"subscribe-broadcast": "", "token": "abc"}),
    ]


# Side by side


@pytest.fixture
def gate(no_policies):
    """A policy that waits in a thread until it is let go, by facility ``slow/<n>``."""

    class Gate:
        def __init__(self) -> None:
            self.open, self.asked, self.answer = threading.Event(), 0, True

        def __call__(self, request, number):
            self.asked += 1
            assert self.open.wait(PATIENCE)
            return self.answer

    found = Gate()
    facility("slow/<int:number>", publish=["publish-broadcast"])(found)
    yield found
    found.open.set()


async def test_a_slow_policy_holds_up_nobody_else(gate):
    """The others are subscribed, and their messages arrive."""
    async with opened() as page:
        await page.send(subscribe(1, "slow/1"), subscribe(2, "bar"))
        assert (await page.receive())["id"] == 2
        await publish("hello", "bar")
        assert message(await page.receive()) == (2, "hello")
        gate.open.set()
        answer = await page.receive()
        assert (answer["type"], answer["id"]) == ("subscribed", 1)


async def test_unsubscribing_while_it_is_decided(gate, settings):
    """The decision has no effect; its id is free, but it counts until its thread is."""
    settings.WS4REDIS_MAX_SUBSCRIPTIONS = 2
    async with opened() as page:
        await page.send(subscribe(1, "slow/1"))
        await until(lambda: gate.asked)
        await page.send(unsubscribe(1))
        refused = await page.subscribe(2, "bar")
        assert (refused["code"], refused["reason"]) == (1013, "retry-after=10")
        gate.open.set()
        await until(lambda: limits_module.limits().sockets == 1 and not beginning())
        assert (await page.subscribe(1, "bar"))["type"] == "subscribed"
        await page.nothing()
    await all_left()
    assert not sockets_here()


def beginning() -> list[asyncio.Task[Any]]:
    """Return the tasks that open subscriptions."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "ws4redis-subscribe"]


async def test_publishing_while_it_is_decided_is_ignored(gate):
    """The client has to wait for the answer."""
    async with opened() as page:
        flags = ("subscribe-broadcast", "publish-broadcast", "echo")
        await page.send(subscribe(1, "slow/1", *flags), {"type": "publish", "id": 1, "data": "x"})
        await until(lambda: gate.asked)
        gate.open.set()
        assert (await page.receive())["type"] == "subscribed"
        await page.nothing()
        await page.send({"type": "publish", "id": 1, "data": "y"})
        assert message(await page.receive()) == (1, "y")


async def test_a_client_that_goes_while_it_is_decided(gate, settings):
    """Its subscribers are released."""
    released = []

    class Counting(RedisSubscriber):
        def release(self):
            released.append(self)

    settings.WS4REDIS_SUBSCRIBER = Counting
    page = await connected()
    await page.send({"type": "hello"}, subscribe(1, "slow/1"), subscribe(2, "bar"))
    await page.receive()
    assert (await page.receive())["id"] == 2
    await until(lambda: gate.asked)
    leaving = asyncio.ensure_future(page.leave())
    await until(lambda: not sockets_here())
    gate.open.set()
    await leaving
    await until(lambda: len(released) == 3)
    assert not len(get_control())


async def test_what_was_sent_before_the_client_went_is_published():
    """Through any subscription, and in its order."""
    async with opened("/ws/other?subscribe-broadcast") as listener:
        await listener.subscribe(1, "bar")
        async with opened() as page:
            await page.subscribe(1, "bar", "publish-broadcast")
            for number in range(20):
                await page.send({"type": "publish", "id": 1, "data": str(number)})
        got = [message(await listener.receive()) for _ in range(20)]
        assert got == [(1, str(number)) for number in range(20)]


# Rights that change


async def test_an_order_ends_one_subscription(redis_client):
    """The others of the socket stay, and what it still sends is published nowhere."""
    async with opened() as page:
        await page.subscribe(1, "bar", "subscribe-broadcast", "publish-broadcast")
        await page.subscribe(2, "qux")
        await control.adisconnect(facility="bar", reason="stay away")
        assert await page.receive() == {
            "type": "ended", "id": 1, "code": 4501, "reason": "stay away"
        }  # fmt: skip
        await page.send({"type": "publish", "id": 1, "data": "too late"})
        await control.adisconnect(facility="foo", code=4321)
        assert await page.receive() == {"type": "ended", "code": 4321, "reason": ""}
        await publish("hello", "qux")
        assert message(await page.receive()) == (2, "hello")
        await control.adisconnect(facility="qux", code=1013, reason="retry-after=7")
        assert await page.closed() == (1013, "retry-after=7")
    assert redis_client.get("broadcast:bar") is None


@pytest.fixture
async def ann(django_user_model):
    """A user that threads of hooks find in the database."""
    found = await django_user_model.objects.acreate(username="ann")
    yield found
    await django_user_model.objects.filter(username="ann").adelete()


async def test_a_user_who_is_cut_off_loses_the_socket(ann):
    """All its subscriptions end, and the last one with the socket."""

    async def middleware(scope, receive, send):
        await application({**scope, "user": ann}, receive, send)

    async with opened("/ws/foo?subscribe-user", app=middleware) as page:
        await page.subscribe(1, "bar", "subscribe-user")
        await page.subscribe(2, "qux", "subscribe-user")
        await control.adisconnect(users=[ann])
        while (event := await page.output())["type"] == "websocket.send":
            assert '"ended"' in event["text"]
        assert event["code"] == 4501


async def test_an_order_that_comes_while_it_is_decided(gate):
    """It is refused with the code of the order."""
    async with opened() as page:
        await page.send(subscribe(1, "slow/1"))
        await until(lambda: gate.asked)
        await control.adisconnect(facility="slow/1", reason="gone")
        await publish("after the order")
        assert message(await page.receive()) == (None, "after the order")
        gate.open.set()
        answer = await page.receive()
        assert answer == {"type": "refused", "id": 1, "code": 4501, "reason": "gone"}
        await page.nothing()
        assert limits_module.limits().sockets == 1


async def test_refreshing_looks_at_each(no_policies):
    """What a policy grants no more ends, and nothing else."""
    allowed = {"a", "b"}

    @facility("one/<str:name>")
    def one(request, name):
        return name in allowed

    async with opened() as page:
        await page.subscribe(1, "one/a")
        await page.subscribe(2, "one/b")
        allowed.discard("a")
        await control.arefresh(facility="one/a")
        frame = await page.receive()
        assert (frame["type"], frame["id"], frame["code"]) == ("ended", 1, 4501)
        await control.arefresh(facility="one/b")
        await publish("still here", "one/b")
        assert message(await page.receive()) == (2, "still here")


async def test_the_sweep_looks_at_each(no_policies, settings):
    """Nobody has to tell that rights have changed."""
    settings.WS4REDIS_REAUTHORIZE = 0.2
    allowed = {"a", "b"}

    @facility("one/<str:name>")
    def one(request, name):
        return name in allowed

    async with opened() as page:
        await page.subscribe(1, "one/a")
        await page.subscribe(2, "one/b")
        allowed.discard("b")
        frame = await page.receive()
        assert (frame["type"], frame["id"], frame["code"]) == ("ended", 2, 4501)
        allowed.discard("a")
        frame = await page.receive()
        assert (frame["type"], frame["id"], frame["code"]) == ("ended", 1, 4501)


async def test_a_late_look_at_one_that_is_over_ends_nothing(gate):
    """The client has unsubscribed meanwhile, and its socket has none: it stays all the same."""
    gate.open.set()
    async with opened() as page:
        await page.subscribe(1, "slow/1")
        await page.send(unsubscribe())
        await page.nothing()
        gate.open.clear()
        gate.answer, gate.asked = False, 0
        await control.arefresh(facility="slow/1")
        await until(lambda: gate.asked)
        await page.send(unsubscribe(1))
        await page.nothing()
        gate.open.set()
        await until(lambda: not len(get_control().doubts))
        await page.nothing()
        assert (await page.subscribe(1, "bar"))["type"] == "subscribed"


async def test_publishing_waits_while_rights_are_in_doubt(gate, redis_client):
    """And is given up if the subscription is revoked."""
    gate.open.set()
    async with opened() as page:
        await page.subscribe(1, "slow/1", "subscribe-broadcast", "publish-broadcast")
        gate.open.clear()
        gate.answer, gate.asked = False, 0
        await control.arefresh(facility="slow/1")
        await until(lambda: gate.asked)
        await page.send({"type": "publish", "id": 1, "data": "never"}, {"type": "ping"})
        await publish("held back", "slow/1")
        gate.open.set()
        frame = await page.receive()
        assert (frame["type"], frame["id"], frame["code"]) == ("ended", 1, 4501)
        assert await page.receive() == {"type": "pong"}
    assert redis_client.get("broadcast:slow/1") is None


async def test_a_subscription_that_ends_before_anything_else_is_heard():
    """The fan-out goes on, and what comes later hears as it should."""
    page = await connected()
    await page.send({"type": "hello"}, subscribe(1, "bar"), unsubscribe(), unsubscribe(1))
    assert (await page.receive())["type"] == "welcome"
    await page.send(subscribe(2, "qux"))
    while (frame := await page.receive())["id"] != 2:
        pass
    assert frame["type"] == "subscribed"
    await publish("hello", "qux")
    assert message(await page.receive()) == (2, "hello")
    await page.leave()


class Reader:
    """An application whose client reads only while it is told to."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()

    async def __call__(self, scope, receive, send):
        async def slow(event):
            await self.reads.wait()
            await send(event)

        await application(scope, receive, slow)


async def test_what_waits_of_a_revoked_subscription_is_not_sent():
    """And what waits of the others is."""
    reader = Reader()
    async with opened(app=reader) as page:
        await page.subscribe(1, "bar")
        reader.reads.clear()
        for number in range(3):
            await publish(f"foo {number}")
            await publish(f"bar {number}", "bar")
        [outbox] = {socket.outbox for socket in sockets_here()}
        await until(lambda: len(outbox) == 5)
        await control.adisconnect(facility="bar")
        await until(lambda: len(sockets_here()) == 1)
        reader.reads.set()
        assert [message(await page.receive()) for _ in range(3)] == [
            (None, f"foo {number}") for number in range(3)
        ]
        assert (await page.receive())["type"] == "ended"


async def test_what_waits_of_an_unsubscribed_one_is_forgotten():
    """Nor does it make room for more: whoever subscribes again and again gets no more by it."""
    reader = Reader()
    async with opened(app=reader) as page:
        await page.subscribe(1, "bar")
        reader.reads.clear()
        for number in range(4):
            await publish(f"bar {number}", "bar")
        [outbox] = {socket.outbox for socket in sockets_here()}
        await until(lambda: len(outbox) == 3)
        await page.send(unsubscribe(1))
        await until(lambda: not len(outbox))
        assert outbox._waiting.live() == (0, 0)
        reader.reads.set()
        assert message(await page.receive()) == (1, "bar 0")  # it was on its way
        await page.nothing()


async def test_a_client_that_reads_nothing_is_looked_up_for_nothing_more(no_policies):
    """Or all that is stored of a hundred facilities would wait for it."""
    asked = []

    @facility("one/<str:name>")
    def one(request, name):
        asked.append(name)
        return True

    reader = Reader()
    async with opened(app=reader) as page:
        reader.reads.clear()
        for number in range(3):
            await publish(f"foo {number}")
        [outbox] = {socket.outbox for socket in sockets_here()}
        await until(lambda: len(outbox) == 2)
        await page.send(subscribe(1, "one/a"))
        await until(beginning)
        await publish("foo 3")
        await until(lambda: len(outbox) == 3)
        assert asked == []
        reader.reads.set()
        for _ in range(4):
            await page.receive()
        assert (await page.receive())["type"] == "subscribed"
        assert asked == ["a"]


# Hooks of legacy


async def test_a_hook_that_sends_what_is_stored(settings):
    """Its messages have the id as well."""

    class Sending(RedisSubscriber):
        def send_persisted_messages(self, websocket):
            for name in self._subscription.channels:
                websocket.send(f"stored of {name}")

    settings.WS4REDIS_SUBSCRIBER = Sending
    async with opened() as page:
        assert message(await page.receive()) == (None, "stored of broadcast:foo")
        answer = await page.subscribe(1, "bar")
        assert answer["channels"]["broadcast"]["replay"] == 0
        assert message(await page.receive()) == (1, "stored of broadcast:bar")
        await publish("live", "bar")
        assert message(await page.receive()) == (1, "live")


async def test_a_hook_that_fails_ends_one_subscription(settings):
    """With 1011, after it was subscribed."""

    class Failing(RedisSubscriber):
        def send_persisted_messages(self, websocket):
            if "broadcast:bar" in self._subscription.channels:
                raise LookupError

    settings.WS4REDIS_SUBSCRIBER = Failing
    async with opened() as page:
        assert (await page.subscribe(1, "bar"))["type"] == "subscribed"
        frame = await page.receive()
        assert (frame["type"], frame["id"], frame["code"]) == ("ended", 1, 1011)
        assert (await page.subscribe(2, "qux"))["type"] == "subscribed"


async def test_a_subscriber_that_changes_its_channels(settings):
    """Each subscription has one of its own, which is released with it."""
    made: list[RedisSubscriber] = []
    released: list[RedisSubscriber] = []

    class Changing(RedisSubscriber):
        def __init__(self, connection=None):
            super().__init__(connection)
            made.append(self)

        def release(self):
            released.append(self)
            super().release()

    settings.WS4REDIS_SUBSCRIBER = Changing
    async with opened() as page:
        await page.subscribe(1, "bar")
        await asyncio.to_thread(made[1]._subscription.subscribe, "broadcast:more")
        await publish("more", "more")
        frame = await page.receive()
        assert message(frame) == (1, "more")
        await page.send(unsubscribe(1))
        await until(lambda: released == [made[1]])
    assert len(made) == 2
    assert sorted(released, key=made.index) == made


# Faults of one subscription


async def test_what_a_subscription_may_not_send_ends_it_alone(no_policies, settings):
    """A message that is too large, and too many of them."""
    facility("small", publish=["publish-broadcast"], max_message_bytes=3)(lambda request: True)
    async with opened(PATH + "&publish-broadcast&echo") as page:
        await page.subscribe(1, "small", "publish-broadcast")
        await page.send({"type": "publish", "id": 1, "data": "four"})
        frame = await page.receive()
        assert (frame["type"], frame["id"], frame["code"]) == ("ended", 1, 1009)
        await page.send({"type": "publish", "data": "four"})
        assert message(await page.receive()) == (None, "four")
        await page.subscribe(2, "bar", "publish-broadcast")
        settings.WS4REDIS_FILL_RATE = 1
        await page.send({"type": "publish", "id": 2, "data": "x" * 4000})
        await page.send({"type": "publish", "id": 2, "data": "y" * 4000})
        await page.send(*({"type": "publish", "id": 2, "data": str(n)} for n in range(20)))
        frame = await page.receive()
        assert (frame["type"], frame["id"], frame["code"]) == ("ended", 2, 1013)


async def test_a_channel_that_redis_refuses_ends_one_subscription():
    """The socket stays for the others."""
    async with opened() as page:
        await page.subscribe(1, "bar")
        which = next(socket for socket in sockets_here() if socket.number == 1)
        which.end(ConnectionError("NOPERM"))
        frame = await page.receive()
        assert (frame["type"], frame["id"], frame["code"]) == ("ended", 1, 1013)
        await publish("hello")
        assert message(await page.receive()) == (None, "hello")


# What they cost


async def test_a_subscription_that_is_open_takes_little_memory():
    """A socket of its own takes fifteen times as much."""
    most = 1900  # bytes; 1600 as a rule
    async with opened() as page, opened() as other:
        await gathered_after(other, range(1, 81))  # whatever grows by this grows now
        tracemalloc.start()
        try:
            await gathered_after(page, range(1, 81))
            gc.collect()
            size = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert size < 80 * most, size / 80


async def gathered_after(page: Page, numbers: range) -> None:
    """Subscribe to ten facilities again and again, and forget the answers."""
    await page.send(*(subscribe(number, f"bar{number % 10}") for number in numbers))
    await gathered(page, len(numbers))
