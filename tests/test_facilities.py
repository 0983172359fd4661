"""Policies end to end: on real servers, for publishers, and as an operator sees them."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import override_settings
from websockets.exceptions import InvalidStatus

from channels_ws4redis.facilities import facility
from channels_ws4redis.handshake import policies
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.redis_store import RedisStore
from tests.clients import END, Visitor
from tests.servers import ROOT

POLICED = {"INSTALLED_APPS": [*settings.INSTALLED_APPS, "tests.site.policed"]}

LISTEN = "subscribe-broadcast"

STOCK_LAYERS = ["pubsub", "core", "memory"]

#: John's own facility, by his primary key in the tests' database.
JOHNS = "member/1"


@pytest.fixture(params=["daphne", "uvicorn"])
def policed(request, serve):
    """A server with the policies of an app."""
    return serve(request.param, settings=POLICED)


async def test_policies_on_a_server(policed):
    """Not there, not allowed, failing: all of them are 403, and the log tells them apart."""
    visitor, john = Visitor(policed), Visitor(policed).login("john")
    async with visitor.socket(f"/ws/public?{LISTEN}"), visitor.socket(f"/ws/other?{LISTEN}"):
        pass
    assert await is_let_in(john, f"/ws/{JOHNS}")
    assert await is_let_in(john, "/ws/amember/john")
    for path in (JOHNS, JOHNS.replace("/", "/0"), "member/99", "amember/john", "amember/x",
                 "closed", "broken", "hanging", "board/x"):  # fmt: skip
        flag = "publish-user" if path == "board/x" else LISTEN
        assert await visitor.refused(f"/ws/{path}?{flag}") == 403, path
    for text in (
        "No User matches the given query",
        "closed for ever",
        "The policy tests.site.policed.facilities.broken failed for the socket '/ws/broken'",
        "LookupError: no such thing",
        "facilities.hanging took longer than 3.5 s for the socket '/ws/hanging'",
        "the policy tests.site.policed.facilities.member refuses it",
        "is spelt otherwise than the policy tests.site.policed.facilities.member spells",
    ):
        assert policed.says(text), text


async def is_let_in(visitor: Visitor, path: str) -> bool:
    """Tell whether a socket opens."""
    try:
        async with visitor.socket(f"{path}?{LISTEN}"):
            return True
    except InvalidStatus:
        return False


async def test_publishing_by_clients(policed):
    """Those who may, with messages of a size that is allowed; nobody else reaches anybody."""
    visitor, john = Visitor(policed), Visitor(policed).login("john")
    both = f"{LISTEN}&publish-broadcast&echo"
    async with (
        visitor.socket(f"/ws/board/x?{LISTEN}") as listener,
        visitor.socket(f"/ws/board/x?{both}") as stranger,
        john.socket(f"/ws/board/x?{both}") as talker,
        john.socket(f"/ws/public?{both}") as elsewhere,
    ):
        await stranger.send("of a stranger")
        await elsewhere.send("where nobody may")
        await visitor.publish(END, facility="public", broadcast=True)
        assert await elsewhere.receive() == END
        await talker.send("x" * 20)
        assert await listener.receive() == "x" * 20
        assert await stranger.receive() == "x" * 20
        await talker.send("x" * 21)
        assert await talker.close_code() == 1009
        await visitor.publish(END, facility="board/x", broadcast=True)
        assert await listener.receive() == END


async def test_what_clients_publish_and_a_policy_does_not_keep(policed, redis_client):
    """It arrives, and leaves no trace; its sender is told no position."""
    visitor = Visitor(policed)
    talk = f"/ws/pointers?{LISTEN}&publish-broadcast"
    async with (
        visitor.socket(talk, subprotocols=[SUBPROTOCOL]) as one,
        visitor.socket(talk) as other,
    ):
        await one.send_json({"type": "hello"})
        await one.receive_json()
        await one.send_json({"type": "publish", "data": "1:1"})
        assert await other.receive() == "1:1"
        await other.send("2:2")
        message = {"type": "message", "channel": "broadcast", "data": "2:2"}
        assert await one.receive_json() == message
    assert redis_client.keys("*pointers*") == []


@pytest.mark.parametrize(
    ("kind", "layer"),
    [("daphne", "redis"), ("uvicorn", "redis"), *(("daphne", x) for x in STOCK_LAYERS)],
)
async def test_history_and_replay(serve, kind, layer):
    """As many messages as the policy says, whatever the setting, on every layer."""
    site = serve(kind, layer, settings=POLICED)
    visitor, john = Visitor(site), Visitor(site).login("john")
    for number in range(5):
        await visitor.publish(str(number), facility=JOHNS, broadcast=True)
        await visitor.publish(str(number), facility="quiet", broadcast=True)
    async with john.socket(f"/ws/{JOHNS}?{LISTEN}") as socket:
        assert await socket.receive_many(3) == ["2", "3", "4"]
    async with visitor.socket(f"/ws/quiet?{LISTEN}") as socket:
        await visitor.publish(END, facility="quiet", broadcast=True)
        assert await socket.receive() == END


async def test_who_comes_back_recovers_where_nothing_is_replayed(policed):
    """``replay="none"`` is for newcomers."""
    visitor = Visitor(policed)
    hello = {"type": "hello", "positions": {}}
    async with visitor.socket(f"/ws/quiet?{LISTEN}", subprotocols=["ws4redis.v1"]) as socket:
        await visitor.publish("before", facility="quiet", broadcast=True)
        await socket.send_json(hello)
        welcome = await socket.receive_json()
        known = welcome["channels"]["broadcast"]
        assert known["replay"] == 0
    await visitor.publish("missed", facility="quiet", broadcast=True)
    async with visitor.socket(f"/ws/quiet?{LISTEN}", subprotocols=["ws4redis.v1"]) as socket:
        position = {"epoch": known["epoch"], "offset": known["offset"]}
        await socket.send_json(hello | {"positions": {"broadcast": position}})
        assert (await socket.receive_json())["channels"]["broadcast"]["recovered"]
        assert (await socket.receive_json())["data"] == "missed"


async def test_strict(serve):
    """What no policy names is refused."""
    visitor = Visitor(serve(settings=POLICED | {"WS4REDIS_FACILITIES": "strict"}))
    async with visitor.socket(f"/ws/public?{LISTEN}") as socket:
        await visitor.publish("Hello", facility="public", broadcast=True)
        assert await socket.receive() == "Hello"
    assert await visitor.refused(f"/ws/other?{LISTEN}") == 403
    assert visitor.site.says("no policy names its facility, and WS4REDIS_FACILITIES is 'strict'")
    await visitor.publish("Hello", facility="other", broadcast=True)


async def test_redis_is_not_asked_before_a_policy_has_granted(policed, redis_client):
    """Whoever is refused by a process that has sockets costs no subscription and no reading."""
    visitor = Visitor(policed)
    # It has the process hear the control channel, and loads what a first socket loads.
    async with visitor.socket(f"/ws/public?{LISTEN}"):
        before = redis_client.info("commandstats")
        for _ in range(3):
            assert await visitor.refused(f"/ws/closed?{LISTEN}") == 403
        after = redis_client.info("commandstats")
    for name in {*before, *after} - {"cmdstat_info", "cmdstat_ping"}:
        assert before.get(name, {}).get("calls") == after.get(name, {}).get("calls"), name


# Publishers


@pytest.fixture(params=["sync", "async"])
def publish(request, redis_url):
    """Both ways to publish, as a coroutine function."""

    async def call(publisher, *args, **kwargs):
        if request.param == "sync":
            publisher.publish_message(*args, **kwargs)
        else:
            await publisher.apublish_message(*args, **kwargs)

    return call


def kept(client, name: str) -> tuple[int, int]:
    """Return how many messages are kept of a channel, and for how many seconds."""
    return client.xlen(f"{{{name}}}:history"), client.ttl(name)


async def test_publishers_keep_what_the_policy_says(publish, redis_client, no_policies):
    """Also one that was made before the policy; what a call says counts more."""
    early = RedisPublisher(facility="orders/1", broadcast=True)
    facility("orders/<int:pk>", history=3, history_expire=50, expire=100)(lambda request, pk: True)
    for number in range(5):
        await publish(early, str(number))
        await publish(RedisPublisher(facility="orders/2", users=["john"]), str(number), expire=20)
        await publish(RedisPublisher(facility="news", broadcast=True), str(number))
    assert kept(redis_client, "broadcast:orders/1") == (3, 100)
    assert kept(redis_client, "user:john:orders/2") == (3, 20)
    assert 50 <= redis_client.ttl("{broadcast:orders/1}:history") <= 51
    assert kept(redis_client, "broadcast:news") == (5, 3600)


async def test_a_publisher_of_legacy_sets_its_own_time(publish, redis_client, no_policies):
    """The attribute counts more than the policy, as it counts more than the setting."""
    facility("orders/<int:pk>", expire=100)(lambda request, pk: True)
    publisher = RedisPublisher(facility="orders/1", broadcast=True)
    publisher._expire = 50
    await publish(publisher, "x")
    assert kept(redis_client, "broadcast:orders/1") == (1, 50)


async def test_publishing_where_no_socket_can_be(publish, redis_client, no_policies):
    """A warning tells of a facility that is spelt otherwise than its policy spells it."""
    facility("orders/<int:pk>")(lambda request, pk: True)
    await publish(RedisPublisher(facility="orders/7", broadcast=True), "x")
    publisher = RedisPublisher(facility="orders/007", broadcast=True)
    with pytest.warns(RuntimeWarning, match="no socket can open on the facility 'orders/007'"):
        await publish(publisher, "x")


async def test_publishing_where_strict_lets_no_socket_be(
    publish, redis_client, no_policies, settings
):
    """A warning tells of a facility that no policy names, once all policies are known."""
    settings.WS4REDIS_FACILITIES = "strict"
    publisher = RedisPublisher(facility="order/7", broadcast=True)
    policies.discover.cache_clear()
    facility("orders/<int:pk>")(lambda request, pk: True)
    await publish(publisher, "x")
    policies.discover()
    await publish(RedisPublisher(facility="orders/7", broadcast=True), "x")
    with pytest.warns(RuntimeWarning, match="'order/7', as no policy names it") as caught:
        await publish(publisher, "x")
    assert caught[0].filename == __file__
    settings.WS4REDIS_FACILITIES = "open"
    await publish(publisher, "x")


async def test_nothing_is_kept_where_the_policy_says_so(publish, redis_client, no_policies):
    facility("ticker", expire=0)(lambda request: True)
    await publish(RedisPublisher(facility="ticker", broadcast=True), "x")
    assert redis_client.get("broadcast:ticker") is None


def test_a_store_without_a_facility_has_no_policy(no_policies):
    facility("<path:rest>", expire=100)(lambda request, rest: True)
    assert RedisStore()._expire == 3600
    assert RedisPublisher()._expire == 3600
    assert RedisPublisher(facility="x")._expire == 100


# The command


def listed(**kwargs) -> str:
    """Return what the command prints."""
    output = io.StringIO()
    call_command("ws4redis", "facilities", stdout=output, **kwargs)
    return output.getvalue()


class Callable:
    """A policy that is no function."""

    def __call__(self, request):
        """Refuse."""


def test_the_command_lists_policies(no_policies, settings):
    """In the order in which they are asked, with what holds for the rest."""
    assert listed() == "Every facility: open; clients publish.\n"
    settings.WS4REDIS_ALLOW_PUBLISH = False
    assert listed() == "Every facility: open; clients do not publish.\n"
    publish = ["publish-broadcast", "publish-user"]

    @facility("orders/<int:pk>", history=100, replay="none")
    def order(request, pk):
        return True

    facility("chat", publish=publish, expire=60, max_message_bytes=99)(Callable())
    settings.WS4REDIS_ALLOWED_CHANNELS = "shop.sockets.allowed"
    text = listed()
    assert [line.split() for line in text.splitlines()[:-1]] == [
        ["route", "function", "options", "clients", "publish", "with"],
        ["orders/<int:pk>", f"{__name__}.{order.__qualname__}", "history=100", "replay=none", "-"],
        ["chat", f"{__name__}.Callable", "expire=60", "max_message_bytes=99",
         "publish-broadcast,", "publish-user"],
    ]  # fmt: skip
    assert text.endswith(
        "Every other facility: as shop.sockets.allowed decides; clients do not publish.\n"
    )
    settings.WS4REDIS_FACILITIES = "strict"
    assert listed().endswith("Every other facility: refused, as WS4REDIS_FACILITIES is 'strict'.\n")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["facilities", "more"]])
def test_the_command_tells_what_it_takes(arguments):
    with pytest.raises(CommandError, match=r"subcommand|unrecognized arguments"):
        call_command("ws4redis", *arguments)


def test_policies_of_an_app_that_a_test_adds(no_policies):
    """It has its ``facilities`` imported like any other."""
    with override_settings(INSTALLED_APPS=POLICED["INSTALLED_APPS"]):
        assert "member/<int:pk>" in [policy.route for policy in policies.policies]


async def test_policies_hold_where_the_package_is_no_app(serve):
    """It need not be one for sockets, and then the first of them looks for policies."""
    apps = [app for app in POLICED["INSTALLED_APPS"] if app != "channels_ws4redis"]
    visitor = Visitor(serve(settings={"INSTALLED_APPS": apps}))
    assert await visitor.refused(f"/ws/closed?{LISTEN}") == 403
    assert await is_let_in(visitor, "/ws/public")


def test_an_app_whose_policies_cannot_be_imported_stops_the_project(tmp_path):
    """As with ``admin``: a policy that nobody has read would let everybody in."""
    app = tmp_path / "shop"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "facilities.py").write_text("import nowhere\n")
    apps = ["channels_ws4redis", "shop", "django.contrib.auth", "django.contrib.contenttypes"]
    code = (
        "import django\nfrom django.conf import settings\n"
        f"settings.configure(INSTALLED_APPS={apps})\ndjango.setup()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'nowhere'" in done.stderr
