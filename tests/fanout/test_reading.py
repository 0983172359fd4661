"""Readings: batches, faults of one channel, and newcomers that have to ask again."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest
import redis
from channels.layers import get_channel_layer

from channels_ws4redis.fanout import handing
from channels_ws4redis.fanout import reading as reading_module
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.protocol import track as track_module
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store import fairness
from tests.listeners import BAR, FOO, Listener, all_left, publish


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client: client.xadd("{broadcast:bar}:history", {"foreign": "entry"}),
        lambda client: client.hset("{broadcast:bar}:meta", "past", "no:offset"),
    ],
    ids=["history", "past"],
)
async def test_what_somebody_else_has_written_spoils_its_own_channel_only(
    fanout, redis_client, spoil
):
    """Who connects to another channel in the same moment is served, and an error names the keys."""
    await publish("Hello")
    await publish("x", "bar", expire=0)
    spoil(redis_client)
    good, bad = Listener(fanout), Listener(fanout)
    outcomes = await asyncio.gather(good.join(FOO), bad.join(BAR), return_exceptions=True)
    assert outcomes[0] is good
    assert isinstance(outcomes[1], redis.exceptions.DataError)
    assert "delete '{broadcast:bar}:history'" in str(outcomes[1])
    assert await good.receive() == "Hello"


async def test_one_socket_reads_no_more_at_once_than_many(fanout, settings, monkeypatch):
    """However many channels it has; it goes live on all of them in one step."""
    settings.WS4REDIS_HISTORY_BYTES = reading_module.READ_BYTES // 10
    sizes = []
    aread = fanout._backend.aread

    async def count(channels):
        sizes.append(len(channels))
        return await aread(channels)

    monkeypatch.setattr(fanout._backend, "aread", count)
    names = [f"broadcast:{number}" for number in range(25)]
    for name in ("0", "12", "24"):
        await publish(name, name)
    listener = await Listener(fanout).join(*names)
    assert sizes == [10, 10, 5]
    assert {await listener.receive() for _ in range(3)} == {"0", "12", "24"}


async def test_a_redis_that_goes_while_one_socket_reads_is_not_asked_on(
    fanout, settings, monkeypatch
):
    """Each part would take a timeout of its own."""
    settings.WS4REDIS_HISTORY_BYTES = reading_module.READ_BYTES // 10
    asked = []

    async def fail(channels):
        asked.append(channels)
        return [redis.exceptions.ConnectionError("away")] * len(channels)

    monkeypatch.setattr(fanout._backend, "aread", fail)
    with pytest.raises(redis.exceptions.ConnectionError, match="away"):
        await Listener(fanout).join(*(f"broadcast:{number}" for number in range(25)))
    assert len(asked) == 1


async def test_a_socket_that_cannot_start_keeps_no_other_from_starting(fanout):
    await publish("Hello")
    good, bad = Listener(fanout), Listener(fanout)

    def fail(entries):
        raise LookupError

    await fanout.join(bad.socket, [FOO])
    outcomes = await asyncio.gather(
        fanout.enter(bad.socket, [FOO], fail), good.join(FOO), return_exceptions=True
    )
    assert isinstance(outcomes[0], LookupError)
    assert await good.receive() == "Hello"


async def test_a_socket_that_ends_while_it_starts_keeps_no_other_from_starting(fanout):
    """What it is sent may exceed its outbox, which cancels the task that waits for the reading."""
    await publish("Hello")
    good, bad = Listener(fanout), Listener(fanout)
    await fanout.join(bad.socket, [FOO])

    def end(entries):
        entering.cancel()

    entering = asyncio.ensure_future(fanout.enter(bad.socket, [FOO], end))
    outcomes = await asyncio.gather(entering, good.join(FOO), return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert await good.receive() == "Hello"


async def test_a_reading_that_is_broken_off_leaves_nothing_under_way(fanout):
    """Whoever asks afterwards is served, and nothing is held for a reading that never comes."""
    one = await Listener(fanout).join(FOO)
    two = Listener(fanout)
    await fanout.join(two.socket, [FOO])
    start = partial(two.socket.start, positions={})
    entering = asyncio.ensure_future(fanout.enter(two.socket, [FOO], start))
    await asyncio.sleep(0)
    fanout._readings._task.cancel()
    with pytest.raises(redis.exceptions.ConnectionError, match="broken off"):
        await entering
    await publish("one")
    assert await one.receive() == "one"
    assert fanout._groups[FOO].track._recent == []
    await fanout.enter(two.socket, [FOO], start)
    assert await two.receive() == "one"


async def test_a_newcomer_asks_again_if_more_has_come_than_is_held(fanout, monkeypatch):
    """It gets all that is stored then, and the live sockets miss nothing."""
    monkeypatch.setattr(track_module, "MAX_HELD", 3)
    live, newcomer = await Listener(fanout).join(FOO), Listener(fanout)
    await publish("before")
    assert await live.receive() == "before"
    await fanout.join(newcomer.socket, [FOO])
    readings = []
    aread = fanout._backend.aread

    async def read_late(channels):
        outcome = await aread(channels)
        readings.append(channels)
        if len(readings) == 1:
            for number in range(5):
                await publish(str(number))
                assert await live.receive() == str(number)
        return outcome

    monkeypatch.setattr(fanout._readings._backend, "aread", read_late)
    start = partial(newcomer.socket.start, positions={})
    await fanout.enter(newcomer.socket, [FOO], start)
    assert len(readings) == 2
    assert await newcomer.receive() == "4"
    await publish("5")
    assert [await live.receive(), await newcomer.receive()] == ["5", "5"]


@pytest.mark.parametrize("blank", [True, False])
async def test_a_newcomer_costs_nobody_what_is_still_on_the_link(fanout, monkeypatch, blank):
    """However far the link is behind: readings overtake a burst, and the history is short."""
    monkeypatch.setattr(reading_module, "LOOKS", 8)
    publisher = RedisPublisher(facility="foo", broadcast=True)
    live = [await Listener(fanout).join(FOO) for _ in range(50)]
    if not blank:
        publisher.publish_message("before")
        assert {await listener.receive() for listener in live} == {"before"}
    numbers = [str(number) for number in range(2000)]
    for number in numbers:
        publisher.publish_message(number)  # the loop has no chance to deliver yet
    newcomers = await asyncio.gather(*(Listener(fanout).join(FOO) for _ in range(3)))
    await publish("end")
    for listener in live:
        assert [await listener.receive() for _ in range(2001)] == [*numbers, "end"]
    for newcomer in newcomers:
        got = [await newcomer.receive()]
        while got[-1] != "end":
            got.append(await newcomer.receive())
        assert got == [*numbers, "end"][-len(got) :]


async def test_a_large_group_that_lags_keeps_nobody_else_waiting(fanout, monkeypatch):
    """Who comes to it waits for what is on its way, and who comes to another channel does not."""
    monkeypatch.setattr(handing, "AT_ONCE", 3)
    live = [await Listener(fanout).join(FOO) for _ in range(10)]
    publisher = RedisPublisher(facility="foo", broadcast=True)
    async with handing.turn_of_many():  # so nothing goes on
        for number in range(20):
            publisher.publish_message(str(number))
        while fanout._groups[FOO].line is None:  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0)
        entering = asyncio.ensure_future(Listener(fanout).join(FOO))
        await asyncio.sleep(0)
        async with asyncio.timeout(reading_module.GRACE / 2):
            await Listener(fanout).join(BAR)
        await asyncio.sleep(0.1)
        assert not entering.done()
    newcomer = await entering
    await publish("20")
    numbers = [str(number) for number in range(21)]
    for listener in live:
        assert [await listener.receive() for _ in numbers] == numbers
    assert newcomer.queue.qsize() <= 2
    assert await newcomer.receive() in numbers[19:]


async def test_newcomers_do_not_let_more_and_more_be_on_its_way(fanout, monkeypatch, settings):
    """Each has made good what the group has not been handed, which takes memory for each socket."""
    settings.WS4REDIS_HISTORY = 100
    monkeypatch.setattr(handing, "AT_ONCE", 3)
    monkeypatch.setattr(handing, "MAX_DUE", 5)
    live = [await Listener(fanout).join(FOO) for _ in range(10)]
    entering = []
    async with handing.turn_of_many():  # so nothing goes on
        for number in range(20):
            await publish(str(number))
            entering.append(asyncio.ensure_future(Listener(fanout).join(FOO)))
            await asyncio.wait(entering[-1:], timeout=0.05)
        assert len(fanout._groups[FOO].line._due) == 5
        assert [each.done() for each in entering] == [True] * 5 + [False] * 15
    newcomers = await asyncio.gather(*entering)
    await publish("20")
    numbers = [str(number) for number in range(21)]
    for listener in [*live, *newcomers]:
        assert [await listener.receive() for _ in numbers] == numbers


@pytest.mark.parametrize("share", [1, 3, 100])
async def test_no_more_is_read_at_once_than_fits(fanout, monkeypatch, settings, share):
    """Were all histories full, be it for newcomers that come together or after a lost link."""
    settings.WS4REDIS_HISTORY_BYTES = reading_module.READ_BYTES // share
    aread, sizes = fanout._backend.aread, []

    async def note(channels):
        sizes.append(len(channels))
        return await aread(channels)

    monkeypatch.setattr(fanout._backend, "aread", note)
    names = [f"broadcast:{number}" for number in range(10)]
    listeners = await asyncio.gather(*(Listener(fanout).join(name) for name in names))
    assert max(sizes) <= share
    sizes.clear()
    await fanout.refresh(names)
    assert (sum(sizes), max(sizes)) == (10, min(share, 10))
    for number, listener in enumerate(listeners):
        await publish("Hello", str(number))
        assert await listener.receive() == "Hello"


async def test_nothing_counts_as_lost_before_the_link_has_had_its_turn(fanout, monkeypatch):
    """However long an event loop is held up while the messages are there to be read."""
    monkeypatch.setattr(fairness, "MAX_SLICE", 0)
    monkeypatch.setattr(fairness, "TURNS_OF_OTHERS", 20)
    live = await Listener(fanout).join(FOO)
    publisher = RedisPublisher(facility="foo", broadcast=True)
    publisher.publish_message("before")
    assert await live.receive() == "before"

    async def hold_up():
        while True:
            time.sleep(0.02)  # noqa: ASYNC251 # it is meant to block
            await asyncio.sleep(0)

    holding_up = asyncio.ensure_future(hold_up())
    for number in range(10):
        publisher.publish_message(str(number))
    await Listener(fanout).join(FOO)
    holding_up.cancel()
    assert [await live.receive() for _ in range(10)] == [str(number) for number in range(10)]


async def test_a_burst_on_a_channel_that_begins_while_a_reading_is_under_way(fanout, monkeypatch):
    """Its messages are held until the reading is taken in, and none of them counts as lost."""
    monkeypatch.setattr(reading_module, "LOOKS", 8)
    live, newcomer, published = await Listener(fanout).join(FOO), Listener(fanout), asyncio.Event()
    aread = fanout._backend.aread

    async def read_late(channels):
        await published.wait()
        return await aread(channels)

    monkeypatch.setattr(fanout._backend, "aread", read_late)
    entering = asyncio.ensure_future(newcomer.join(FOO))
    while not fanout._groups[FOO].track._readings:  # noqa: ASYNC110 # nothing tells of it
        await asyncio.sleep(0)
    numbers = [str(number) for number in range(2000)]
    publisher = RedisPublisher(facility="foo", broadcast=True)
    for number in numbers:
        publisher.publish_message(number)
    published.set()
    await entering
    assert [await live.receive() for _ in range(2000)] == numbers
    assert await newcomer.receive() in numbers


async def test_a_socket_that_leaves_while_it_joins_is_not_taken_in_again(fanout):
    """Nor does it end the fan-out of those who have come meanwhile."""
    passing = Listener(fanout)
    joining = asyncio.ensure_future(fanout.join(passing.socket, [FOO, BAR]))
    await asyncio.sleep(0)
    passing.leave()
    await joining
    assert passing.socket not in fanout._sockets
    later = get_fanout(get_channel_layer())
    staying = await Listener(later).join(FOO)
    passing.leave()
    await all_left()
    assert get_fanout(get_channel_layer()) is later
    await publish("Hello")
    assert await staying.receive() == "Hello"
    staying.leave()
    await all_left()


@pytest.mark.parametrize("unsettle", ["wipe", "foreign value", "nothing"])
async def test_a_stream_on_a_channel_that_begins_reaches_everybody(
    fanout, monkeypatch, redis_client, unsettle
):
    """What may have come and gone before it is not on its way, and is not waited for."""
    live, newcomer = await Listener(fanout).join(FOO), Listener(fanout)
    if unsettle == "wipe":
        redis_client.flushdb()
    elif unsettle == "foreign value":
        redis_client.set(FOO, "foreign")
    publisher = RedisPublisher(facility="foo", broadcast=True)
    aread, begun = fanout._backend.aread, []

    async def read_late(channels):
        """Read when the first message has arrived already."""
        if not begun:
            begun.append(True)
            await publisher.apublish_message("0")
            while not fanout._groups[FOO].track._held:  # noqa: ASYNC110 # no event tells
                await asyncio.sleep(0)
        return await aread(channels)

    monkeypatch.setattr(fanout._backend, "aread", read_late)
    entering = asyncio.ensure_future(newcomer.join(FOO))
    for number in range(1, 100):
        await publisher.apublish_message(str(number))
        await asyncio.sleep(0.03)  # a stream
        if entering.done() and not live.queue.empty():
            break
    assert entering.done()
    assert not live.queue.empty()
    await entering
