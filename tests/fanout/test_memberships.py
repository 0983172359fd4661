"""Joining and leaving groups: many of them at once, and some that Redis refuses."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import redis
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import router
from testproject.embedded import RedisServer
from tests.listeners import (
    BAR,
    FOO,
    PATIENCE,
    Listener,
    all_left,
    close_fanout,
    configuration,
    publish,
)
from tests.torture.proxy import Proxy

pytestmark = pytest.mark.server

#: As of somebody in so many auth groups.
MANY = [f"group:{number}:foo" for number in range(3000)]

#: Seconds that everything takes on its way to Redis, and on its way back.
DELAY = 0.002


@pytest.fixture
async def proxy(settings):
    """A Redis that is some way off, for this process."""
    with RedisServer(port=0) as server:
        proxy = Proxy(server.port, DELAY)
        await proxy.start()
        settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{proxy.port}/0"
        yield proxy
        await proxy.close()


@pytest.fixture
async def far_fanout(proxy, settings):
    """A fan-out that hears that Redis."""
    settings.CHANNEL_LAYERS = configuration("redis", settings.WS4REDIS_CONNECTION)
    layer = get_channel_layer()
    yield get_fanout(layer)
    await close_fanout(layer)


async def test_thousands_of_groups_cost_a_handful_of_round_trips(far_fanout, proxy):
    """Joining them takes one for each 500, reading one for each 64 MiB of full histories."""
    first = await Listener(far_fanout).join(FOO)
    before = proxy.round_trips
    many = await Listener(far_fanout).join(*MANY)
    assert proxy.round_trips - before <= len(MANY) / 500 + len(MANY) / 64 + 10
    assert all(far_fanout._groups[name].joined for name in MANY)
    await RedisPublisher(facility="foo", groups=["2999"]).apublish_message("Hello")
    assert await many.receive() == "Hello"
    before = proxy.round_trips
    many.leave()
    await all_left()
    assert proxy.round_trips - before <= len(MANY) / 500 + 2
    assert set(far_fanout._groups) == {FOO}
    await publish("end")
    assert await first.receive() == "end"


async def test_sockets_that_come_and_go_together_cost_a_handful_of_tasks(fanout, monkeypatch):
    """Each has a channel of its own; they are joined together, and left together."""
    await Listener(fanout).join(FOO)
    sizes = []

    def counted(work):
        async def call(channels):
            sizes.append(len(channels))
            return await work(channels)

        return call

    for name in ("join", "leave"):
        monkeypatch.setattr(fanout._feed, name, counted(getattr(fanout._feed, name)))
    sockets = [Listener(fanout) for _ in range(700)]
    joins = (socket.join(f"broadcast:{number}") for number, socket in enumerate(sockets))
    await asyncio.gather(*joins)
    assert sizes == [500, 200]
    for socket in sockets:
        socket.leave()
    await all_left()
    assert sizes == [500, 200, 500, 200]


@pytest.mark.django_db
async def test_a_user_in_thousands_of_groups_connects_in_a_handful_of_round_trips(
    far_fanout, proxy
):
    """From the handshake to the replay, as many as the groups alone take, and a few more."""
    await Listener(far_fanout).join(FOO)
    identity = SimpleNamespace(is_authenticated=True, get_username=lambda: "john")
    rooms = [name.split(":")[1] for name in MANY]
    client = WebsocketCommunicator(router, "/ws/foo?subscribe-group")
    client.scope.update(user=identity, session={"ws4redis:memberof": rooms})
    await RedisPublisher(facility="foo", groups=["0", "2999"]).apublish_message("stored")
    before = proxy.round_trips
    assert (await client.connect(PATIENCE))[0]
    assert [(await client.receive_output(PATIENCE))["text"] for _ in range(2)] == ["stored"] * 2
    assert proxy.round_trips - before <= len(MANY) / 500 + len(MANY) / 64 + 20
    await client.disconnect()


async def test_messages_of_others_do_not_wait_for_thousands_of_groups(far_fanout):
    """They arrive between the parts in which somebody joins the groups, and reads them."""
    first = await Listener(far_fanout).join(FOO)
    await publish("before")
    assert await first.receive() == "before"
    many = Listener(far_fanout)
    joining = asyncio.create_task(many.join(*MANY))
    groups, count = far_fanout._groups, 0
    joined = {0}
    while not joining.done():
        await publish(str(count))
        assert await first.receive() == str(count)
        joined.add(sum(groups[name].joined for name in MANY if name in groups))
        count += 1
    await joining
    assert len(joined - {0, len(MANY)}) >= 2  # messages have come after some parts, before others
    assert count >= 10


async def test_whoever_leaves_while_joining_leaves_all(far_fanout, proxy, redis_client):
    """What is not asked for yet is not asked for any more."""
    first = await Listener(far_fanout).join(FOO)
    many = Listener(far_fanout)
    joining = asyncio.create_task(far_fanout.join(many.socket, MANY))
    while not any(group.joined for name, group in far_fanout._groups.items() if name != FOO):  # noqa: ASYNC110 # nothing tells of it
        await asyncio.sleep(0)
    many.leave()
    await joining
    await all_left()
    assert set(far_fanout._groups) == {FOO}
    await publish("end")
    assert await first.receive() == "end"


@pytest.mark.parametrize("turns", range(6))
async def test_whoever_comes_while_the_last_one_leaves_hears(fanout, turns):
    """Whichever turn of the event loop that is."""
    await Listener(fanout).join("broadcast:bar")  # or the fan-out would close
    last = await Listener(fanout).join(FOO)
    last.leave()
    for _ in range(turns):
        await asyncio.sleep(0)
    newcomer = await Listener(fanout).join(FOO)
    await publish("Hello")
    assert await newcomer.receive() == "Hello"


async def test_those_who_wait_for_one_joining_are_told_at_once(fanout, settings, monkeypatch):
    """They fail together, nobody after the time of those before, and the next one joins."""
    await Listener(fanout).join(FOO)
    join = fanout._feed.join
    called = []

    async def fail_late(channels):
        called.append(channels)
        await asyncio.sleep(0.2)
        raise redis.exceptions.ConnectionError("away")

    monkeypatch.setattr(fanout._feed, "join", fail_late)
    listeners = [Listener(fanout) for _ in range(20)]
    outcomes = await asyncio.gather(
        *(each.fanout.join(each.socket, ["broadcast:bar"]) for each in listeners),
        return_exceptions=True,
    )
    assert {str(outcome) for outcome in outcomes} == {"away"}
    assert called == [["broadcast:bar"]]
    monkeypatch.setattr(fanout._feed, "join", join)
    await fanout.join(listeners[0].socket, ["broadcast:bar"])
    assert fanout._groups["broadcast:bar"].joined


async def test_one_that_is_cancelled_while_joining_keeps_no_other_from_joining(fanout):
    """A client that goes meanwhile is none of the others' business."""
    listeners = [Listener(fanout) for _ in range(3)]
    joining = [asyncio.create_task(each.join(FOO)) for each in listeners]
    await asyncio.sleep(0)
    joining[0].cancel()
    await asyncio.wait(joining)
    assert joining[0].cancelled()
    listeners[0].leave()
    await publish("Hello")
    for listener in listeners[1:]:
        assert await listener.receive() == "Hello"


# What Redis refuses


@pytest.fixture
async def restricted(settings):
    """A user of Redis that may hear `ws:foo…` only, and the client of an administrator."""
    with RedisServer(port=0) as server, redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL SETUSER app on >p ~* resetchannels +@all &{*foo}* &*foo")
        settings.WS4REDIS_CONNECTION = server.url.replace("://", "://app:p@")
        settings.CHANNEL_LAYERS = configuration("redis", settings.WS4REDIS_CONNECTION)
        yield admin
        await close_fanout(get_channel_layer())


async def test_a_refused_channel_fails_whoever_wants_it_and_nobody_else(restricted):
    """Many at once: each gets an answer of its own, on one connection."""
    fanout = get_fanout(get_channel_layer())
    good = await Listener(fanout).join(FOO)
    before = restricted.info("stats")["total_connections_received"]
    wanted = [["user:ann:foo"], [BAR], ["user:bob:foo", "user:bob:bar"], ["user:cid:foo"]]
    listeners = [Listener(fanout) for _ in wanted]
    outcomes = await asyncio.gather(
        *(each.join(*names) for each, names in zip(listeners, wanted, strict=True)),
        return_exceptions=True,
    )
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["Listener", "NoPermissionError", "NoPermissionError", "Listener"]
    assert "Redis's user 'app' may not subscribe to '{broadcast:bar}:events'" in str(outcomes[1])
    assert "+subscribe, and & with a pattern" in str(outcomes[1])
    for listener in listeners[1:3]:
        listener.leave()
    await publish("Hello")
    assert await good.receive() == "Hello"
    # One for the readings at most, none for the link.
    assert restricted.info("stats")["total_connections_received"] - before <= 2
    async with asyncio.timeout(PATIENCE):
        while set(fanout._groups) != {FOO, "user:ann:foo", "user:cid:foo"}:  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0)


async def test_many_groups_with_a_refused_one_among_them(restricted):
    """Only the refused one is named."""
    fanout = get_fanout(get_channel_layer())
    names = [f"group:{number}:foo" for number in range(1200)]
    failures = {}
    for wanted in (names, [*names[:600], "group:x:bar", *names[600:]]):
        try:
            await Listener(fanout).join(*wanted)
        except redis.exceptions.NoPermissionError as error:
            failures[len(wanted)] = str(error)
    assert list(failures) == [1201]
    assert "group:x:bar" in failures[1201]


async def test_what_is_refused_from_now_on_ends_its_own_sockets(restricted):
    """Redis cuts the link off whose user has lost a channel; the other channels go on."""
    restricted.execute_command("ACL SETUSER app &{*bar}* &*bar")
    fanout = get_fanout(get_channel_layer())
    good, bad = await Listener(fanout).join(FOO), await Listener(fanout).join(BAR)
    endings = good.endings, bad.endings
    restricted.execute_command("ACL SETUSER app resetchannels &{*foo}* &*foo")
    await asyncio.to_thread(restricted.publish, FOO, "ignored, as the link may be gone")
    async with asyncio.timeout(PATIENCE):
        while not endings[1]:  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0.01)
    assert endings[0] == []
    ((code, why),) = endings[1]
    assert code == 1013
    assert "may not subscribe to '{broadcast:bar}:events'" in why
    bad.leave()
    await publish("Hello", expire=60)
    while await good.receive() != "Hello":
        pass
    # And once it is allowed again, whoever comes is let in.
    restricted.execute_command("ACL SETUSER app &{*bar}* &*bar")
    back = await Listener(fanout).join(BAR)
    await publish("again", "bar")
    assert await back.receive() == "again"


async def test_keys_that_are_refused_end_the_sockets_of_their_channel(restricted):
    """Nobody could make good what these miss; the sockets of other channels live on."""
    restricted.execute_command("ACL SETUSER app allchannels")
    fanout = get_fanout(get_channel_layer())
    good, bad = await Listener(fanout).join(FOO), await Listener(fanout).join(BAR)
    endings = good.endings, bad.endings
    restricted.execute_command("ACL SETUSER app resetkeys ~*foo* ~{*foo}*")
    restricted.execute_command("CLIENT KILL TYPE pubsub")
    async with asyncio.timeout(PATIENCE):
        while not endings[1]:  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0.01)
    ((code, why),) = endings[1]
    assert code == 1013
    assert "Redis's user 'app' may not read what is stored of 'broadcast:bar'" in why
    assert endings[0] == []
    bad.leave()
    newcomer = Listener(fanout)
    with pytest.raises(redis.exceptions.NoPermissionError, match="may not read what is stored"):
        await newcomer.join(BAR)
    newcomer.leave()
    await publish("Hello")
    assert await good.receive() == "Hello"


async def test_a_publish_goes_to_the_channels_that_are_not_refused(restricted):
    """Whether the keys or the pub/sub channel are refused; nothing of the message is kept there."""
    fanout = get_fanout(get_channel_layer())
    good = await Listener(fanout).join("user:ann:foo", "user:bob:foo")
    publisher = RedisPublisher(facility="foo", users=["ann", "eve", "bob"])
    for rule in (
        "resetchannels &{*ann:foo}* &*ann:foo &{*bob:foo}* &*bob:foo",
        "allchannels resetkeys ~*ann:foo* ~{*ann:foo}* ~*bob:foo* ~{*bob:foo}*",
    ):
        restricted.execute_command(f"ACL SETUSER app {rule}")
        with pytest.raises(redis.exceptions.NoPermissionError) as caught:
            await publisher.apublish_message(rule)
        assert "Redis's user 'app' may not publish to" in str(caught.value)
        assert "user:eve:foo" in str(caught.value)
        assert [await good.receive() for _ in range(2)] == [rule, rule]
        with pytest.raises(redis.exceptions.NoPermissionError, match="user:eve:foo"):
            await asyncio.to_thread(publisher.publish_message, "from a thread")
        assert [await good.receive() for _ in range(2)] == ["from a thread"] * 2
    assert restricted.keys("*eve*") == []


@pytest.mark.parametrize("name", ["core", "pubsub"])
async def test_a_stock_layer_that_is_refused_a_group_keeps_the_others(settings, name):
    """The error names the channel, or says that nothing comes back."""
    with RedisServer(port=0) as server, redis.Redis.from_url(server.url) as admin:
        settings.WS4REDIS_CONNECTION = server.url
        url = server.url.replace("://", "://app:p@")
        rule = "~asgi:*foo* ~asgi:specific* ~asgiws4redis* ~asgi:ws4redis*"
        admin.execute_command(
            f"ACL SETUSER app on >p resetkeys {rule} resetchannels &*foo &*ws4redis* +@all"
        )
        settings.CHANNEL_LAYERS = configuration(name, url)
        layer = get_channel_layer()
        fanout = get_fanout(layer)
        good = await Listener(fanout).join(FOO)
        bad = Listener(fanout)
        with pytest.raises(redis.exceptions.RedisError):
            await bad.join(BAR)
        bad.leave()
        await publish("Hello")
        assert await good.receive() == "Hello"
        await close_fanout(layer)
