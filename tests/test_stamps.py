"""Stamps: what a page takes before it reads its data, in views of all kinds."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import time

import pytest
import redis
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpResponse, HttpResponseNotModified, HttpResponseRedirect, JsonResponse
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.stamps import HEADER, UNKNOWN, Stamp, astamp, stamp, stamped
from testproject.embedded import RedisServer
from tests.communicators import PATIENCE, opening

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("redis_client")]

FLAGS = "subscribe-broadcast"


def publish(number: int, facility: str = "orders/7", **audience) -> None:
    """Publish so many messages, to everybody unless somebody is named."""
    for _ in range(number):
        publisher = RedisPublisher(facility=facility, **(audience or {"broadcast": True}))
        publisher.publish_message("x")


def visit(username: str = "", groups: tuple[str, ...] = ()):
    """Return the request of a visitor."""
    request = RequestFactory().get("/")
    request.user = User(username=username) if username else AnonymousUser()
    request.session = {"ws4redis:memberof": list(groups)}
    return request


@pytest.fixture(params=["sync", "async"])
def take(request):
    """Both ways to take a stamp."""
    if request.param == "async":
        return lambda *args: asyncio.run(astamp(*args))
    return stamp


def offsets(at: Stamp) -> dict[str, int]:
    """Return the offsets of a stamp, by label."""
    return {label: position["offset"] for label, position in at.items()}


def test_where_the_channels_stand(take):
    """It has the position of each channel that the visitor would hear, and is JSON already."""
    publish(3)
    publish(2, users=["john"])
    publish(1, groups=["staff"])
    flags = "subscribe-broadcast,subscribe-user subscribe-group publish-user echo"
    at = take(visit("john", ("staff", "chess")), "orders/7", flags)
    assert offsets(at) == {"broadcast": 3, "user": 2, "group:staff": 1, "group:chess": 0}
    assert json.loads(json.dumps(at)) == at
    assert at.facility == "orders/7"
    assert at.flags == ["subscribe-broadcast", "subscribe-group", "subscribe-user"]
    at.require("orders/7", flags.replace(",", " ").split())


def test_flags_in_a_list(take):
    """They are the same as in a text."""
    publish(1)
    assert offsets(take(None, "orders/7", [FLAGS, "echo"])) == {"broadcast": 1}


def test_a_stamp_that_is_kept():
    """A copy, and what a cache has had, is for the same socket."""
    publish(1)
    at = stamp(None, "orders/7", FLAGS)
    for other in (copy.deepcopy(at), pickle.loads(pickle.dumps(at))):  # our own
        assert other == at
        other.require("orders/7", [FLAGS])


@pytest.mark.parametrize(
    ("facility", "flags", "problem"),
    [
        pytest.param("x", "broadcast", "'broadcast' is no flag.*mean 'subscribe-b", id="flag"),
        pytest.param("x", ["subscribe-users"], "'subscribe-users' is no flag", id="list"),
        pytest.param(None, FLAGS, "facility=None is no facility", id="facility"),
    ],
)
def test_what_can_only_be_a_mistake(take, facility, flags, problem):
    """It is refused, with the name of what was meant."""
    with pytest.raises(ValueError, match=problem):
        take(None, facility, flags)


async def test_an_event_loop_is_not_held_up():
    """The synchronous way says which one to take there."""
    with pytest.raises(SynchronousOnlyOperation, match=r"await astamp\(\)"):
        stamp(None, "orders/7", FLAGS)


def test_redis_is_away(settings, free_port, take, caplog):
    """The stamp has positions that nobody can go on from, and the log a line of the connection."""
    settings.WS4REDIS_CONNECTION = {"host": "127.0.0.1", "port": free_port}
    assert take(visit("john"), "orders/7", f"{FLAGS},subscribe-user") == {
        "broadcast": UNKNOWN,
        "user": UNKNOWN,
    }
    assert [line for line in caplog.messages if "lost the connection" not in line] == []


@pytest.mark.parametrize("published", [0, 2])
async def test_a_page_without_a_position_is_told(settings, free_port, redis_url, published):
    """Its socket says ``lost`` at once, whether the channel has a history or none."""
    settings.WS4REDIS_CONNECTION = {"host": "127.0.0.1", "port": free_port}
    at = await astamp(None, "orders/7", FLAGS)
    settings.WS4REDIS_CONNECTION = redis_url
    await sync_to_async(publish)(published)
    async with opening("/ws/orders/7?subscribe-broadcast") as opened:
        socket = await opened(subprotocols=["ws4redis.v1"])
        await socket.send_json_to({"type": "hello", "positions": at})
        welcome = await socket.receive_json_from(PATIENCE)
        assert welcome["channels"]["broadcast"]["recovered"] is False


@pytest.fixture
def server(settings):
    """A Redis that can be paused, where a page waits for a second."""
    with RedisServer(port=0) as server:
        settings.WS4REDIS_CONNECTION = {"url": server.url, "socket_timeout": 1.0}
        yield server


def test_a_redis_that_hangs_costs_a_page_once(server, take):
    """The other stamps of the page, and what it publishes, do not wait for it again."""
    take(None, "orders/7", FLAGS)
    server.pause()
    try:
        began = time.monotonic()
        assert take(None, "orders/7", FLAGS) == {"broadcast": UNKNOWN}
        assert time.monotonic() - began < 5
    finally:
        server.resume()


def test_a_page_of_many_stamps(server):
    """Twenty stamps and twenty publishes take as long as one."""
    server.pause()
    try:
        began = time.monotonic()
        for _ in range(20):
            assert stamp(None, "orders/7", FLAGS) == {"broadcast": UNKNOWN}
            with pytest.raises(redis.exceptions.TimeoutError):
                publish(1)
        assert time.monotonic() - began < 4
    finally:
        server.resume()


async def test_an_asynchronous_page_of_many_stamps(server):
    """Twenty stamps and twenty publishes take as long as one, and the event loop goes on."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    server.pause()
    counting = asyncio.create_task(count())
    try:
        began = time.monotonic()
        for _ in range(20):
            assert await astamp(None, "orders/7", FLAGS) == {"broadcast": UNKNOWN}
            publisher = RedisPublisher(facility="orders/7", broadcast=True)
            with pytest.raises(redis.exceptions.TimeoutError):
                await publisher.apublish_message("x")
        assert time.monotonic() - began < 4
        assert turns > 20
    finally:
        counting.cancel()
        server.resume()


# Views


@stamped("orders/{pk}", FLAGS)
def order(request, pk):
    """Publish while the state is being read; it may end otherwise too."""
    publish(1)
    match request.GET.get("end"):
        case "refused":
            return HttpResponse(status=403)
        case "elsewhere":
            return HttpResponseRedirect("/login")
        case "same":
            return HttpResponseNotModified()
    return JsonResponse({"pk": pk})


@stamped("orders/{pk}", FLAGS)
async def aorder(request, pk):
    """Do the same asynchronously."""
    await sync_to_async(publish)(1)
    return JsonResponse({"pk": pk})


@method_decorator(stamped("orders/{pk}", FLAGS), name="dispatch")
class Order(View):
    """Does it in a class."""

    def get(self, request, pk):
        publish(1)
        return JsonResponse({"pk": pk})


@method_decorator(stamped("orders/{pk}", FLAGS), name="dispatch")
class AOrder(View):
    """Does it in a class of asynchronous views."""

    async def get(self, request, pk):
        await sync_to_async(publish)(1)
        return JsonResponse({"pk": pk})


@stamped("orders/{key}", FLAGS)
def wrong(request, pk):
    """Never runs."""
    raise AssertionError


urlpatterns = [
    path("order/<int:pk>", order),
    path("aorder/<int:pk>", aorder),
    path("class/<int:pk>", Order.as_view()),
    path("aclass/<int:pk>", AOrder.as_view()),
    path("wrapped/<int:pk>", stamped("orders/{pk}", FLAGS)(AOrder.as_view())),
    path("wrong/<int:pk>", wrong),
]

KINDS = ["order", "aorder", "class", "aclass", "wrapped"]


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stamped_view(kind):
    """The header has where the channel stood before the view began."""
    publish(2)
    answer = Client().get(f"/{kind}/7")
    assert answer.json() == {"pk": 7}
    assert offsets(json.loads(answer[HEADER])) == {"broadcast": 2}


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stamped_view_under_asgi(kind):
    """It is the same there."""
    await sync_to_async(publish)(2)
    answer = await AsyncClient().get(f"/{kind}/7")
    assert answer.json() == {"pk": 7}
    assert offsets(json.loads(answer[HEADER])) == {"broadcast": 2}


def test_a_view_remains_what_it_is():
    """Django runs it on the event loop, or in a thread, as it would without the decorator."""
    assert iscoroutinefunction(aorder)
    assert not iscoroutinefunction(order)
    assert (order.__name__, aorder.__name__) == ("order", "aorder")


@pytest.mark.urls(__name__)
@pytest.mark.parametrize(
    ("end", "is_told"), [("refused", False), ("elsewhere", False), ("same", True)]
)
def test_only_who_gets_the_data_gets_the_stamp(end, is_told):
    """Whoever is refused is not told how much happens there."""
    assert (HEADER in Client().get(f"/order/7?end={end}")) is is_told


@pytest.mark.urls(__name__)
def test_a_facility_of_an_argument_that_the_view_has_not():
    """The error names both."""
    with pytest.raises(ValueError, match=r"'orders/\{key\}'.*KeyError\('key'\).*has pk"):
        Client().get("/wrong/7")


def test_braces_that_do_not_match():
    """It is found when the module is imported."""
    with pytest.raises(ValueError, match="expected '}'"):
        stamped("orders/{pk", FLAGS)


def test_a_view_that_returns_nothing():
    """Django says so, which has its name."""

    @stamped("orders/7", FLAGS)
    def nothing(request):
        pass

    assert nothing(visit("john")) is None


async def test_no_gap_between_stamp_and_socket():
    """What is published after the stamp, and before the page is rendered, comes over its socket."""
    publisher = RedisPublisher(facility="orders/7", broadcast=True)
    await publisher.apublish_message("before")
    at = await astamp(None, "orders/7", FLAGS)
    await publisher.apublish_message("between")
    async with opening("/ws/orders/7?subscribe-broadcast") as opened:
        socket = await opened(subprotocols=["ws4redis.v1"])
        await socket.send_json_to({"type": "hello", "positions": at})
        welcome = await socket.receive_json_from(PATIENCE)
        assert welcome["channels"]["broadcast"]["recovered"] is True
        assert (await socket.receive_json_from(PATIENCE))["data"] == "between"
