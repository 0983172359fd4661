"""The fan-out: one channel of the layer for all sockets of an event loop."""

from __future__ import annotations

import asyncio
import json
import logging

import msgpack
import pytest
import redis
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.test import override_settings

from channels_ws4redis.fanout import handing, reading
from channels_ws4redis.fanout import stock as stock_module
from channels_ws4redis.fanout.choice import backend_of
from channels_ws4redis.fanout.groups import FanOut, get_fanout
from channels_ws4redis.fanout.stock import StockBackend
from channels_ws4redis.protocol.messages import EVENT_TYPE, Event, Position
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store import fairness, inbox
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


async def until(condition):
    """Wait until something holds that no event tells of."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 # Redis tells nobody
            await asyncio.sleep(0)


@pytest.fixture(params=[500, 3], ids=["small", "large"])
def size(request, monkeypatch):
    """Groups are small, or so large that they are served part by part."""
    monkeypatch.setattr(handing, "AT_ONCE", request.param)


def be_slow(monkeypatch):
    """Have a message take 3 ms for each socket, with turns of all others in between."""
    monkeypatch.setattr(handing, "AT_ONCE", 1)
    monkeypatch.setattr(handing, "MOST_OF_OTHERS", 0.003)
    monkeypatch.setattr(fairness, "IDLE_TURN", 0)


async def test_all_sockets(layer_name, fanout, size):
    """Every socket on a channel hears what is published there, in order; others do not."""
    listeners = [await Listener(fanout).join(FOO) for _ in range(20)]
    other = await Listener(fanout).join(BAR)
    for number in range(10):
        await publish(str(number))
    for listener in listeners:
        assert [await listener.receive() for _ in range(10)] == [str(n) for n in range(10)]
    await publish("end", "bar")
    assert await other.receive() == "end"


async def test_join_at_once(layer_name, fanout):
    """Sockets that connect at the same time share the joining and miss nothing."""
    listeners = [Listener(fanout) for _ in range(50)]
    await asyncio.gather(*(listener.join(FOO, BAR) for listener in listeners))
    await publish("foo")
    await publish("bar", "bar")
    for listener in listeners:
        assert {await listener.receive(), await listener.receive()} == {"foo", "bar"}


async def test_publishing_while_connecting(layer_name, fanout, size):
    """What is published while a socket connects arrives exactly once, and in order."""
    await publish("-1")

    async def publish_all():
        for number in range(100):
            await publish(str(number))

    publishing = asyncio.create_task(publish_all())
    listeners = []
    while not publishing.done():
        listeners.append(await Listener(fanout).join(FOO))
        await asyncio.sleep(0)
    for listener in listeners:
        got = [int(await listener.receive())]
        while got[-1] != 99:
            got.append(int(await listener.receive()))
        assert got == list(range(got[0], 100))


async def test_leaving(layer_name, fanout):
    """Who has left hears no more; the last one to leave a channel ends the membership."""
    one, two = await Listener(fanout).join(FOO, BAR), await Listener(fanout).join(FOO)
    one.leave(FOO)
    await publish("foo")
    assert await two.receive() == "foo"
    await publish("bar", "bar")
    assert await one.receive() == "bar"
    two.leave()
    await until(lambda: set(fanout._groups) == {BAR})
    one.leave(FOO)  # once more, and of no effect
    two.leave()
    await publish("again", "bar")
    assert await one.receive() == "again"


async def test_changing_what_is_wanted(fanout):
    """Of what a socket has, the rest is left; of what it wants, the rest has still to be joined."""
    listener = await Listener(fanout).join(FOO, BAR)
    wanted = ["broadcast:two", BAR, "broadcast:one"]
    assert fanout.leave_others(listener.socket, wanted) == ["broadcast:two", "broadcast:one"]
    assert fanout.channels_of(listener.socket) == (BAR,)
    assert fanout.leave_others(Listener(fanout).socket, [FOO]) == [FOO]


async def test_closing(layer_name, fanout):
    """After the last socket the fan-out is gone with all it had; the next one gets a new one."""
    listener = await Listener(fanout).join(FOO)
    assert get_fanout(get_channel_layer()) is fanout
    listener.leave()
    await all_left()
    assert not fanout._groups
    later = get_fanout(get_channel_layer())
    assert later is not fanout
    listener = await Listener(later).join(FOO)
    await publish("Hello")
    assert await listener.receive() == "Hello"
    listener.leave()
    await all_left()


async def test_other_channels_do_not_wait_for_a_large_group(layer_name, fanout, monkeypatch):
    """However many messages wait there, in the inbox, one of another channel comes in between."""
    be_slow(monkeypatch)
    crowd = [await Listener(fanout).join(FOO) for _ in range(20)]
    other = await Listener(fanout).join(BAR)
    publisher = RedisPublisher(facility="foo", broadcast=True)
    for number in range(20):
        publisher.publish_message(str(number))
    await publish("bar", "bar")
    assert await other.receive() == "bar"
    assert crowd[-1].queue.qsize() < 10
    assert len(fanout._groups[FOO].line._due) == 1
    for listener in crowd:
        assert [await listener.receive() for _ in range(20)] == [str(n) for n in range(20)]


@pytest.mark.parametrize("layer_name", ["core", "memory"], indirect=True)
async def test_more_than_a_stock_layer_can_hand_on(layer_name, fanout, monkeypatch, caplog):
    """What finds no room is taken from the history, in its order."""
    be_slow(monkeypatch)
    monkeypatch.setattr(inbox, "MAX_BYTES", 10 * inbox.ITEM_BYTES)
    with override_settings(WS4REDIS_HISTORY=100):
        crowd = [await Listener(fanout).join(FOO) for _ in range(20)]
        publisher = RedisPublisher(facility="foo", broadcast=True)
        for number in range(50):
            publisher.publish_message(str(number))
        for listener in crowd:
            assert [await listener.receive() for _ in range(50)] == [str(n) for n in range(50)]
    assert "More arrives than can be handed on" in caplog.text


@pytest.mark.parametrize("layer_name", ["memory"], indirect=True)
async def test_whoever_cancels_what_hands_on(layer_name, fanout, monkeypatch):
    """What waits for its turn on a stock layer has it all the same."""
    monkeypatch.setattr(handing, "AT_ONCE", 1)
    crowd = [await Listener(fanout).join(FOO) for _ in range(20)]
    publisher = RedisPublisher(facility="foo", broadcast=True)
    for number in range(5):
        publisher.publish_message("x" * fairness.MAX_SLICE_BYTES + str(number))

    def cancel():
        tasks = [task for task in asyncio.all_tasks() if task.get_name() == "ws4redis-inbox"]
        return [task.cancel() for task in tasks]

    await until(cancel)
    for listener in crowd:
        assert [(await listener.receive())[-1] for _ in range(5)] == list("01234")


async def test_what_waits_for_a_large_group_is_not_late(fanout, monkeypatch, caplog):
    """A newcomer's reading is ahead of it for a long time, and nothing counts as lost."""
    monkeypatch.setattr(handing, "AT_ONCE", 1)
    monkeypatch.setattr(fairness, "IDLE_TURN", 0)  # after each of them, others have their 20 ms
    monkeypatch.setattr(reading, "LOOKS", 2)
    crowd = [await Listener(fanout).join(FOO) for _ in range(5)]
    await publish("first")
    assert [await listener.receive() for listener in crowd] == ["first"] * 5
    publisher = RedisPublisher(facility="foo", broadcast=True)
    for number in range(5):
        publisher.publish_message(str(number))
    newcomer = await Listener(fanout).join(FOO)
    await publish("end")
    for listener in crowd:
        assert [await listener.receive() for _ in range(6)] == ["0", "1", "2", "3", "4", "end"]
    assert [await newcomer.receive() for _ in range(2)] == ["4", "end"]
    assert "could not be recovered" not in caplog.text


async def test_a_lost_link_and_a_large_group(fanout, redis_client, monkeypatch):
    """What was missed comes after what is still on its way."""
    monkeypatch.setattr(handing, "AT_ONCE", 1)
    with override_settings(WS4REDIS_HISTORY=100):
        crowd = [await Listener(fanout).join(FOO) for _ in range(20)]
        publisher = RedisPublisher(facility="foo", broadcast=True)
        for number in range(3):
            publisher.publish_message(str(number))
        await until(crowd[0].queue.qsize)
        redis_client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        for number in range(3, 20):
            publisher.publish_message(str(number))
        for listener in crowd:
            assert [await listener.receive() for _ in range(20)] == [str(n) for n in range(20)]


async def test_coming_and_going(layer_name, fanout):
    """Sockets that come and go while others stay cost those nothing."""
    staying = await Listener(fanout).join(FOO)
    for number in range(20):
        passing = Listener(fanout)
        await fanout.join(passing.socket, [FOO, BAR])
        passing.leave()
        await publish(str(number))
    assert [await staying.receive() for _ in range(20)] == [str(number) for number in range(20)]


class SlowlyLeavingLayer(InMemoryChannelLayer):
    """A layer on which leaving a group takes effect only after a while."""

    def __init__(self, **config) -> None:
        super().__init__(**config)
        self.leaving = asyncio.Event()
        self.may_leave = asyncio.Event()

    async def group_discard(self, group, channel):
        self.leaving.set()
        await self.may_leave.wait()
        await super().group_discard(group, channel)


async def test_coming_back_while_the_layer_is_still_leaving(settings):
    """The group is joined again after it has been left, and not before."""
    backend = f"{__name__}.{SlowlyLeavingLayer.__qualname__}"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    layer = get_channel_layer()
    fanout = get_fanout(layer)
    staying, passing = await Listener(fanout).join(BAR), await Listener(fanout).join(FOO)
    passing.leave()
    await layer.leaving.wait()
    joining = asyncio.create_task(Listener(fanout).join(FOO))
    await asyncio.wait([joining], timeout=0.2)
    assert not joining.done()
    layer.may_leave.set()
    later = await joining
    await publish("Hello")
    assert await later.receive() == "Hello"
    later.leave()
    staying.leave()
    await all_left()


async def test_nothing_is_left_in_redis(fanout, redis_client):
    """Two subscriptions per channel, however many sockets; none after the last one."""
    listeners = [await Listener(fanout).join(FOO) for _ in range(30)]
    assert redis_client.pubsub_numsub(FOO) == [(FOO.encode(), 1)]
    heard = {FOO.encode(), f"{{{FOO}}}:events".encode()}
    # Servers of other tests may hear the control channel.
    assert set(redis_client.pubsub_channels("*foo*")) == heard
    for listener in listeners:
        listener.leave()
    await all_left()
    await until(lambda: redis_client.pubsub_channels("*foo*") == [])


async def test_reading_is_shared(fanout, redis_client):
    """Many sockets that connect at once cost a few round trips for what is stored."""
    await publish("stored")
    await Listener(fanout).join(FOO)
    before = redis_client.info("stats")["total_reads_processed"]
    listeners = [Listener(fanout) for _ in range(200)]
    await asyncio.gather(*(listener.join(FOO) for listener in listeners))
    assert [await listener.receive() for listener in listeners] == ["stored"] * 200
    assert redis_client.info("stats")["total_reads_processed"] - before < 40


async def test_reading_nothing(fanout):
    """A socket that listens on no channel goes live all the same."""
    listener = await Listener(fanout).join()
    assert listener.socket.replayed
    await fanout.refresh([])


async def test_foreign_programs(fanout, redis_client, settings):
    """What a foreign program publishes arrives; its heartbeats do not."""
    settings.WS4REDIS_HEARTBEAT = "--heartbeat--"
    listener = await Listener(fanout).join(FOO)
    for payload in ("raw", "--heartbeat--", "end"):
        redis_client.publish(FOO, payload)
    assert [await listener.receive() for _ in range(2)] == ["raw", "end"]


def forgeries(stands: Position) -> list[bytes]:
    """Return what might be read as something else than a payload."""
    event = {"type": EVENT_TYPE, "channel": BAR, "payload": b"forged", "epoch": "", "offset": 0}
    packed = msgpack.packb(event | {"sender": ""})
    heads = [f"{stands.epoch} {stands.offset + more} x" for more in (1, 2, 10**15)]
    return [
        packed,
        b"\0asgi " + packed,
        *(f"{head} {flag}\nforged".encode() for head in heads for flag in (0, 1)),
        *(f"\0ws4redis {head}\nforged".encode() for head in heads),
    ]


@pytest.mark.parametrize("legacy_servers", [False, True])
async def test_bytes_on_the_bare_channel_are_payloads(
    fanout, redis_client, settings, legacy_servers
):
    """Whatever they look like: they reach no other channel, and take no message's place."""
    settings.WS4REDIS_LEGACY_SERVERS = legacy_servers
    listener = await Listener(fanout).join(FOO)
    other = await Listener(fanout).join(BAR)
    await publish("first")
    assert await listener.receive() == "first"
    forged = forgeries(fanout._groups[FOO].track.position)
    for payload in forged:
        redis_client.publish(FOO, payload)
        got = await listener.receive()
        assert (got if isinstance(got, bytes) else got.encode()) == payload
    assert not fanout._groups[FOO].track.behind
    for message in ("second", "third"):
        await publish(message)
    assert [await listener.receive() for _ in range(2)] == ["second", "third"]
    await publish("for the other one", "bar")
    assert await other.receive() == "for the other one"


async def test_servers_with_and_without_legacy_servers_understand_each_other(fanout, settings):
    """The copy for legacy servers is no message of its own, also where nobody expects any."""
    listener = await Listener(fanout).join(FOO)
    for legacy_servers in (True, False, True, True, False):
        settings.WS4REDIS_LEGACY_SERVERS = legacy_servers
        await publish(str(legacy_servers))
    expected = ["True", "False", "True", "True", "False"]
    assert [await listener.receive() for _ in expected] == expected


async def test_a_number_that_redis_does_not_know_of_holds_nothing_back(fanout, redis_client):
    """One reading drops what claims to come later, and what is true goes on."""
    listener = await Listener(fanout).join(FOO)
    await publish("first")
    assert await listener.receive() == "first"
    track = fanout._groups[FOO].track
    epoch, offset = track.position
    fanout.receive(Event(FOO, b"of the future", epoch, 10**15, "x"))
    assert track.behind
    await until(lambda: not fanout._catching_up)
    reads = redis_client.info("commandstats")["cmdstat_evalsha"]["calls"]
    await publish("second")
    assert await listener.receive() == "second"
    assert track.position == (epoch, offset + 1)
    assert redis_client.info("commandstats")["cmdstat_evalsha"]["calls"] == reads + 1


@pytest.mark.parametrize("layer_name", ["own redis"], indirect=True)
async def test_messages_of_others(layer_name, fanout, caplog):
    """What else comes through a layer that sends is ignored, and nothing stops the fan-out."""
    layer = get_channel_layer()
    listener = await Listener(fanout).join(FOO)
    for message in (
        {"type": "chat.message"},
        {},
        {"type": EVENT_TYPE},
        {"type": "ws4redis.probe", "token": "x"},
        {
            "type": EVENT_TYPE,
            "channel": "unknown",
            "payload": b"",
            "epoch": "",
            "offset": 0,
            "sender": "",
        },
    ):
        await layer.group_send(FOO, message)
    await publish("Hello")
    assert await listener.receive() == "Hello"
    assert "could not be delivered" in caplog.text


async def test_gap(fanout, redis_client):
    """A message that did not come through the layer is taken from the history, in its place."""
    listener = await Listener(fanout).join(FOO)
    await publish("1")
    assert await listener.receive() == "1"
    with override_settings(WS4REDIS_HISTORY=10, CHANNEL_LAYERS=configuration("memory", "")):
        await publish("2")  # is stored, and sent to nobody here
    with override_settings(WS4REDIS_HISTORY=10):
        await publish("3")
        assert [await listener.receive() for _ in range(2)] == ["2", "3"]


async def test_unrecoverable_gap(fanout, caplog):
    """If the history does not have it either, that is logged, and clients that can are told."""
    raw = await Listener(fanout).join(FOO)
    client = await Listener(fanout, {FOO: "broadcast"}).join(FOO)
    await publish("1")
    with override_settings(CHANNEL_LAYERS=configuration("memory", "")):
        await publish("2")
    await publish("3")
    assert [await raw.receive() for _ in range(2)] == ["1", "3"]
    bodies = [json.loads(await client.receive()) for _ in range(3)]
    assert [body["type"] for body in bodies] == ["message", "lost", "message"]
    assert "could not be recovered" in caplog.text


async def test_a_purge_reaches_whoever_can_be_told(layer_name, fanout):
    """It has a number like a message; clients that get raw frames are sent nothing."""
    raw = await Listener(fanout).join(FOO)
    client = await Listener(fanout, {FOO: "broadcast"}).join(FOO)
    await publish("1")
    position = (await fanout._backend.apurge([FOO]))[FOO]
    await publish("2")
    assert [await raw.receive() for _ in range(2)] == ["1", "2"]
    before, purged, after = [json.loads(await client.receive()) for _ in range(3)]
    assert purged == {"type": "purged", "channel": "broadcast", **position._asdict()}
    assert [before["offset"], purged["offset"], after["offset"]] == [1, 2, 3]
    newcomer = await Listener(fanout).join(FOO)
    assert await newcomer.receive() == "2"


async def test_a_purge_that_was_missed_is_a_loss(fanout, redis_client):
    client = await Listener(fanout, {FOO: "broadcast"}).join(FOO)
    await publish("1")
    with override_settings(CHANNEL_LAYERS=configuration("memory", "")):
        await backend_of(get_channel_layer()).apurge([FOO])
    await publish("2")
    bodies = [json.loads(await client.receive()) for _ in range(3)]
    assert [(body["type"], body["offset"]) for body in bodies] == [
        ("message", 1),
        ("lost", 2),
        ("message", 3),
    ]


async def test_lost_link(fanout, redis_client):
    """What was published while the link was down arrives once it is back."""
    with override_settings(WS4REDIS_HISTORY=100):
        listener = await Listener(fanout).join(FOO)
        await publish("0")
        assert await listener.receive() == "0"
        redis_client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        publisher = RedisPublisher(facility="foo", broadcast=True)
        for number in range(1, 20):
            publisher.publish_message(str(number))  # the loop has no chance to come back yet
        got = [await listener.receive() for _ in range(19)]
        assert got == [str(number) for number in range(1, 20)]


@pytest.mark.parametrize("name", ["pubsub", "core"])
async def test_layer_that_loses_its_link(settings, monkeypatch, name):
    """On a layer that does not tell of a lost link the fan-out finds out by itself."""
    monkeypatch.setattr(stock_module, "PROBE_INTERVAL", 0.1)
    monkeypatch.setattr(stock_module, "PROBE_TIMEOUT", 0.3)
    settings.WS4REDIS_HISTORY = 100
    with RedisServer(port=0) as server:
        settings.CHANNEL_LAYERS = configuration(name, server.url)
        layer = get_channel_layer()
        logging.getLogger("channels_redis").setLevel(logging.CRITICAL)
        listener = await Listener(get_fanout(layer)).join(FOO)
        await publish("before")
        assert await listener.receive() == "before"
        await asyncio.to_thread(server.stop)
        with pytest.raises((redis.exceptions.RedisError, OSError)):
            await publish("meanwhile")  # is stored, and cannot be sent
        await asyncio.to_thread(server.start)
        assert await listener.receive() == "meanwhile"
        await publish("after")
        assert await listener.receive() == "after"
        await close_fanout(layer)


class CancellingLayer(InMemoryChannelLayer):
    """A layer that cancels whoever receives from it, once."""

    cancelled = False

    async def receive(self, channel):
        message = await super().receive(channel)
        if not self.cancelled:
            self.cancelled = True
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        return message


async def test_layer_that_cancels_its_receiver(settings, caplog):
    """The process does not go mute, and what was lost with the task is made good."""
    backend = f"{__name__}.{CancellingLayer.__qualname__}"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    settings.WS4REDIS_HISTORY = 10
    listener = await Listener(get_fanout(get_channel_layer())).join(FOO)
    await publish("one")
    assert await listener.receive() == "one"
    await publish("two")
    assert await listener.receive() == "two"
    assert "has ended, beginning anew" in caplog.text
    listener.leave()
    await all_left()


async def test_redis_is_down(settings, free_port):
    """While Redis is away joining raises ConnectionError; leaving is in order all the same."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    for name in ("redis", "pubsub", "core"):
        settings.CHANNEL_LAYERS = configuration(name, settings.WS4REDIS_CONNECTION)
        layer = get_channel_layer()
        listener = Listener(get_fanout(layer))
        with pytest.raises(redis.exceptions.ConnectionError):
            await listener.fanout.join(listener.socket, [FOO])
        await close_fanout(layer)


async def test_joining_again(monkeypatch, settings):
    """Groups are joined again before the layer forgets them."""
    monkeypatch.setattr(stock_module, "REJOIN_INTERVAL", 0.02)
    settings.CHANNEL_LAYERS = configuration("memory", "")
    layer = get_channel_layer()
    assert isinstance(layer, InMemoryChannelLayer)
    fanout = get_fanout(layer)
    listener = await Listener(fanout).join(FOO)
    layer.groups.clear()
    await until(lambda: StockBackend(layer).group_name(FOO) in layer.groups)
    await publish("Hello")
    assert await listener.receive() == "Hello"
    listener.leave()
    await all_left()


async def test_fanouts_of_two_layers(settings, redis_url):
    """Each layer has a fan-out of its own."""
    settings.CHANNEL_LAYERS = {
        "default": configuration("redis", redis_url)["default"],
        "other": configuration("memory", "")["default"],
    }
    one, other = get_fanout(get_channel_layer()), get_fanout(get_channel_layer("other"))
    assert isinstance(one, FanOut)
    assert one is not other
    assert one is get_fanout(get_channel_layer())


async def test_own_messages(fanout):
    """A socket does not hear what it has published itself; the others on its channel do."""
    sender, listener = await Listener(fanout).join(FOO), await Listener(fanout).join(FOO)
    publisher = RedisPublisher(facility="foo", broadcast=True)
    publisher._sender = sender.socket.id
    await publisher.apublish_message("mine")
    await publish("end")
    assert [await listener.receive() for _ in range(2)] == ["mine", "end"]
    assert await sender.receive() == "end"


async def test_what_was_not_handed_on_comes_from_the_history(fanout, monkeypatch, settings):
    """The channel is read as soon as it is known that messages were given up, and no other is."""
    settings.WS4REDIS_HISTORY = 10
    foo, bar = await Listener(fanout).join(FOO), await Listener(fanout).join(BAR)
    receive = fanout.receive
    monkeypatch.setattr(fanout, "receive", lambda event: event.channel == BAR and receive(event))
    for number in range(3):
        await publish(str(number))
    await publish("bar", facility="bar")
    assert await bar.receive() == "bar"
    assert foo.queue.empty()
    monkeypatch.undo()
    fanout.suspect(FOO)
    fanout.suspect("broadcast:nobody")
    assert not fanout._groups[BAR].track.behind
    assert [await foo.receive() for _ in range(3)] == ["0", "1", "2"]
