"""Hearing the control channel in this process, on every channel layer."""

from __future__ import annotations

import asyncio
import tracemalloc
from functools import partial

import pytest
import redis
from channels.layers import get_channel_layer

from channels_ws4redis import control as face
from channels_ws4redis.fanout import doubts
from channels_ws4redis.fanout.choice import backend_named
from channels_ws4redis.fanout.control import KEPT, get_control
from channels_ws4redis.fanout.doubts import AT_ONCE, UNHURRIED, Doubt
from channels_ws4redis.fanout.groups import get_fanout
from channels_ws4redis.fanout.hearing import channel
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.orders import (
    EXPIRE,
    HISTORY,
    LOOK_AT_ALL,
    Action,
    Order,
    Trait,
    mark,
)
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store.commands import Publication, publish_command
from channels_ws4redis.store.runner import get_runner
from tests.listeners import PATIENCE, Listener, all_left

JOHN, MARY = mark(Trait.USER, "john"), mark(Trait.USER, "mary")


class Guarded:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Order | str] = asyncio.Queue()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.looks = 0
        self.whom: object = self

    def obey(self, order: Order) -> None:
        """Note an order."""
        self.told.put_nowait(order)

    def hold(self, held: bool) -> None:
        """Note the beginning or the end of a pause."""
        self.told.put_nowait("pause" if held else "go on")

    async def look_again(self, doubt) -> None:
        """Look until the test lets it end."""
        self.looks += 1
        self.told.put_nowait("look")
        await self.may_end.wait()
        self.looks -= 1
        assert not self.looks, "two looks at the same time"

    async def next(self) -> Order | str:
        """Return what it was told next."""
        async with asyncio.timeout(PATIENCE):
            return await self.told.get()


async def let_in(marks: bytes = JOHN) -> Guarded:
    """Let a socket in that nobody has told anything."""
    control, socket = get_control(), Guarded()
    newcomer = control.expect()
    await control.hear()
    control.guard(newcomer, socket, marks)
    return socket


@pytest.fixture
async def control(fanout):
    """The one of the test's loop, which is left in the end."""
    control = get_control()
    yield control
    for socket in [*control._marks, *control._newcomers]:
        control.forget(socket)
    control._hearing.stop()


async def test_an_order_reaches_whom_it_concerns(layer_name, control):
    """From any kind of code, and nobody else."""
    john, mary = await let_in(JOHN), await let_in(MARY)
    await face.adisconnect(users="john", reason="Bye")
    order = await john.next()
    assert (order.action, order.code, order.reason) == (Action.DISCONNECT, codes.REVOKED, "Bye")
    await asyncio.to_thread(face.disconnect, users=["mary"], code=1000)
    assert (await mary.next()).code == 1000
    assert john.told.empty()


async def test_nothing_is_heard_without_sockets(layer_name, control, monkeypatch):
    """Some time after the last one has gone; the next one hears anew."""
    monkeypatch.setattr("channels_ws4redis.fanout.hearing.LINGER", 0)
    first = await let_in()
    fanout = get_fanout(get_channel_layer())
    assert fanout.channels() == [channel()]
    control.forget(first)
    await asyncio.sleep(0.001)  # the timer has come
    assert not fanout._sockets
    await all_left()
    await face.adisconnect(users="john")  # which is of no concern to those who come later
    second = await let_in()
    await face.adisconnect(users="john", reason="second")
    assert (await second.next()).reason == "second"
    assert second.told.empty()


async def test_who_comes_soon_finds_the_channel_heard(fanout, control, monkeypatch):
    """As many strangers as are refused one by one cost Redis one subscription."""
    joins = []
    monkeypatch.setattr(
        fanout, "join", lambda *args, join=fanout.join: joins.append(join) or join(*args)
    )
    for _ in range(10):
        newcomer = control.expect()
        await control.hear()
        control.forget(newcomer)
    assert len(joins) == 1
    assert fanout.channels() == [channel()]


async def test_a_socket_that_comes_ends_the_waiting_for_the_end(fanout, control, monkeypatch):
    """Its orders reach it, however long ago the last socket before it has gone."""
    monkeypatch.setattr("channels_ws4redis.fanout.hearing.LINGER", 0.001)
    control.forget(await let_in(MARY))
    socket = await let_in()
    await asyncio.sleep(0.01)
    await face.adisconnect(users="john")
    assert (await socket.next()).action is Action.DISCONNECT


def test_no_timer_is_left_at_the_end_of_a_loop(settings, redis_url):
    """The loop has forgotten the control channel by then, and its fan-out."""
    timers = []

    async def live() -> None:
        control = get_control()
        control.forget(await let_in())
        timers.append(control._hearing._lingering)

    asyncio.run(live())
    assert [timer.cancelled() for timer in timers] == [True]


async def test_a_socket_that_goes_during_its_handshake_leaves_nothing(fanout, control):
    """Also if it was the only one that waited for the control channel."""
    newcomer = control.expect()
    hearing = asyncio.create_task(control.hear())
    await asyncio.sleep(0)
    hearing.cancel()
    control.forget(newcomer)
    control._hearing.stop()
    assert not fanout._sockets


async def test_many_connect_at_once(control):
    """They share the joining."""
    sockets = await asyncio.gather(*(let_in() for _ in range(100)))
    await face.adisconnect(users="john")
    for socket in sockets:
        assert (await socket.next()).action is Action.DISCONNECT


async def test_redis_is_down(settings, control, free_port):
    """Who cannot be cut off is not let in."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    newcomer = control.expect()
    with pytest.raises(redis.exceptions.ConnectionError, match="Error 111"):
        await control.hear()
    control.forget(newcomer)


async def test_the_link_has_just_been_lost(control, monkeypatch, redis_client):
    """Nobody is let in before orders are heard again, and nobody at all if that takes too long."""
    await let_in()
    listener = get_channel_layer()._listener
    begin, listener._link._begin = listener._link._begin, lambda: None
    monkeypatch.setattr("channels_ws4redis.store.pubsub.JOIN_TIMEOUT", 0.2)
    redis_client.client_kill_filter(_type="pubsub")
    async with asyncio.timeout(PATIENCE):
        while listener._link._connection is not None:  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)
        with pytest.raises(redis.exceptions.ConnectionError, match="did not confirm"):
            await control.hear()
        monkeypatch.undo()
        listener._link._begin = begin
        begin()
        await control.hear()


async def test_a_newcomers_reading_makes_orders_good_first(fanout, control):
    """Who is cut off gets nothing by it that was published after the order."""
    await RedisPublisher(facility="foo", broadcast=True).apublish_message("before")
    listener, socket = await Listener(fanout).join("broadcast:foo"), await let_in()
    assert await listener.receive() == "before"
    socket.obey = lambda order: fanout.leave(listener.socket)
    await store(Order(Action.DISCONNECT, (frozenset({JOHN}),), 4501))
    after = Publication(["broadcast:foo"], b"after", 60, history=10)
    await get_runner().run([publish_command(after, None, False)])
    for group in fanout._groups.values():
        group.track.suspect()
    newcomer = await Listener(fanout).join("broadcast:foo")
    assert "after" in {await newcomer.receive(), await newcomer.receive()}
    assert listener.queue.empty()


async def test_an_order_during_the_handshake(control):
    """It is judged once it is known who the socket is: what was looked up may be older."""
    other, newcomers = await let_in(MARY), [control.expect(), control.expect()]
    await face.adisconnect(users="john")
    await face.adisconnect(users="mary")
    await other.next()
    john, mary = Guarded(), Guarded()
    control.guard(newcomers[0], john, JOHN)
    control.guard(newcomers[1], mary, JOHN + MARY)
    assert john.told.qsize() == 1
    assert mary.told.qsize() == 2


async def test_a_long_handshake_keeps_few_orders(control):
    """A socket that has missed some of them has to come back."""
    other, newcomer = await let_in(MARY), control.expect()
    for _ in range(KEPT + 1):
        await face.adisconnect(users="paul")
    await face.adisconnect(users="mary")
    await other.next()
    late = Guarded()
    control.guard(newcomer, late, JOHN)
    assert (await late.next()).code == codes.TRY_AGAIN_LATER


@pytest.mark.parametrize(
    "payload", [b"Hello", b'{"v": 1, "do": "disconnect", "of": [], "code": 1e999, "reason": ""}'],
    ids=["text", "infinity"],
)  # fmt: skip
async def test_what_is_no_order_has_all_looked_at(control, caplog, payload):
    """The log says why."""
    socket = await let_in()
    await backend_named("default").apublish(Publication([channel()], payload, 60))
    assert await socket.next() == "look"
    assert await socket.next() == "go on"
    (line,) = [each for each in caplog.messages if "control channel" in each]
    assert "no order" in line


async def test_a_foreign_program_gives_no_orders(control, redis_client):
    """What arrives on the bare name of the channel is nothing to the processes."""
    socket = await let_in()
    redis_client.publish(channel(), Order(Action.DISCONNECT).encode())
    await face.adisconnect(users="john", reason="ours")
    assert (await socket.next()).reason == "ours"


async def store(order: Order, history: int = HISTORY) -> None:
    """Give an order that no link carries."""
    publication = Publication([channel()], order.encode(), EXPIRE, history=history)
    await get_runner().run([publish_command(publication, None, False)])


async def test_a_client_gives_no_orders(control):
    """Not even where a project has it publish on a channel that it names itself."""
    socket = await let_in()
    order = Order(Action.DISCONNECT, code=codes.REVOKED, reason="of a client")
    publication = Publication([channel()], order.encode(), EXPIRE, sender="a client")
    await backend_named("default").apublish(publication)
    await face.adisconnect(users="john", reason="ours")
    assert (await socket.next()).reason == "ours"


async def test_redis_refuses_the_control_channel(control, fanout, caplog):
    """All sockets have to come back, also those that are connecting: nobody could cut them off."""
    open_one, newcomer, late = await let_in(), control.expect(), Guarded()
    control._hearing.end(redis.exceptions.NoPermissionError("this user has no permissions"))
    control.guard(newcomer, late, MARY)
    for socket in (open_one, late):
        assert (await socket.next()).code == codes.TRY_AGAIN_LATER
    assert not fanout._sockets
    assert "The control channel cannot be heard" in caplog.text


async def test_a_socket_with_a_fault_keeps_no_other_from_being_told(control, caplog):
    """It has to come back itself."""

    class Faulty(Guarded):
        def obey(self, order: Order) -> None:
            super().obey(order)
            if order.code == codes.REVOKED:
                raise RuntimeError("a fault of ours")

    faulty = Faulty()
    control.guard(control.expect(), faulty, JOHN)
    socket = await let_in()
    await face.adisconnect(users="john")
    assert (await socket.next()).code == codes.REVOKED
    assert [(await faulty.next()).code, (await faulty.next()).code] == [
        codes.REVOKED, codes.TRY_AGAIN_LATER,
    ]  # fmt: skip
    assert "a fault of ours" in caplog.text


async def test_orders_that_were_missed(layer_name, fanout, control):
    """They are made good from the history, in order, after the link was lost."""
    socket = await let_in()
    for number in range(10):
        await store(Order(Action.DISCONNECT, (frozenset({JOHN}),), 4501, str(number)))
    fanout.suspect_all()
    assert [(await socket.next()).reason for _ in range(10)] == [str(n) for n in range(10)]


async def test_more_orders_were_missed_than_are_kept(fanout, control, caplog):
    """Then all sockets are looked at again, without a pause for all of them."""
    sockets = [await let_in(JOHN), await let_in(MARY)]
    for _ in range(10):
        await store(Order(Action.DISCONNECT, (frozenset({mark(Trait.USER, "paul")}),)), history=2)
    fanout.suspect_all()
    for socket in sockets:
        assert [await socket.next(), await socket.next()] == ["look", "go on"]


async def test_orders_are_kept_whatever_the_project_keeps(settings, control, redis_client):
    """WS4REDIS_HISTORY and WS4REDIS_EXPIRE are for messages of the project."""
    settings.WS4REDIS_HISTORY, settings.WS4REDIS_EXPIRE = 1, 0
    for _ in range(3):
        await face.adisconnect(users="john")
    assert redis_client.xlen(f"{{{channel()}}}:history") == 3
    assert HISTORY >= 1000
    assert redis_client.ttl(f"{{{channel()}}}:history") > 3500


async def test_who_leaves_a_channel_while_it_is_read_is_not_sent_it(fanout, control):
    """A channel that is revoked while its history is on its way."""
    for facility in ("foo", "bar"):
        publisher = RedisPublisher(facility=facility, broadcast=True)
        await publisher.apublish_message(f"stored on {facility}")
    listener, other = Listener(fanout), await Listener(fanout).join("broadcast:foo")
    names = ["broadcast:foo", "broadcast:bar"]
    await fanout.join(listener.socket, names)
    start = partial(listener.socket.start, positions={})
    entering = asyncio.create_task(fanout.enter(listener.socket, names, start))
    await asyncio.sleep(0)
    fanout.leave(listener.socket, ["broadcast:foo"])
    await entering
    assert await listener.receive() == "stored on bar"
    await RedisPublisher(facility="foo", broadcast=True).apublish_message("live on foo")
    await RedisPublisher(facility="bar", broadcast=True).apublish_message("live on bar")
    assert await listener.receive() == "live on bar"
    assert [await other.receive(), await other.receive()] == ["stored on foo", "live on foo"]


async def test_looking_again(control):
    """What is published is held back until it is decided."""
    john, mary = await let_in(JOHN), await let_in(MARY)
    await face.arefresh(users="john")
    assert [await john.next() for _ in range(3)] == ["pause", "look", "go on"]
    assert mary.told.empty()


async def test_doubtful_again_while_being_looked_at(control):
    """The second look follows the first, and the pause ends after it."""
    socket = await let_in()
    socket.may_end.clear()
    await face.arefresh(users="john")
    assert [await socket.next() for _ in range(2)] == ["pause", "look"]
    await face.arefresh(users="john")
    assert await socket.next() == "pause"
    socket.may_end.set()
    assert [await socket.next() for _ in range(2)] == ["look", "go on"]
    assert socket.told.empty()


async def test_few_are_looked_at_at_the_same_time(control):
    """Those that an order names do not wait for those that are looked at as some order was lost."""
    sockets = [await let_in(mark(Trait.USER, str(n))) for n in range(2 * AT_ONCE)]
    for socket in sockets:
        socket.may_end.clear()
    control._take(LOOK_AT_ALL)
    await asyncio.sleep(0)
    assert sum(socket.looks for socket in sockets) == UNHURRIED
    last = len(sockets) - 1
    await face.arefresh(users=str(last))
    assert [await sockets[last].next() for _ in range(2)] == ["pause", "look"]
    await face.arefresh(users=[str(n) for n in range(UNHURRIED, last)])
    assert [await sockets[UNHURRIED].next() for _ in range(2)] == ["pause", "look"]
    await asyncio.sleep(0)
    assert sum(socket.looks for socket in sockets) == AT_ONCE
    for socket in sockets:
        socket.may_end.set()
    assert await sockets[last].next() == "go on"


async def test_clients_take_turns(control):
    """Who has many sockets of which each takes long leaves others a look, and each its turn."""
    slow = [await let_in() for _ in range(20)]
    for socket in slow:
        socket.may_end.clear()
        socket.whom = "one of them"
    others = [await let_in() for _ in range(20)]
    control._take(LOOK_AT_ALL)
    for socket in others:
        assert [await socket.next(), await socket.next()] == ["look", "go on"]
    assert 0 < sum(socket.looks for socket in slow) < UNHURRIED
    for socket in slow:
        socket.may_end.set()
        assert [await socket.next(), await socket.next()] == ["look", "go on"]


async def test_never_more_are_looked_at_than_may_be(control, monkeypatch):
    """Also if more become doubtful in the moment between two looks of the same task."""
    monkeypatch.setattr(doubts, "AT_ONCE", 2)
    most, looking = 0, 0

    class Looked(Guarded):
        async def look_again(self, doubt) -> None:
            nonlocal most, looking
            looking += 1
            most = max(most, looking)
            for _ in range(3):
                await asyncio.sleep(0)
            looking -= 1

    sockets = [Looked() for _ in range(50)]
    for socket in sockets:
        control.doubts.add([socket], Doubt.ORDERED)
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        while len(control.doubts):  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)
    assert most == 2


async def test_who_is_doubtful_again_and_again_keeps_nobody_waiting(control, monkeypatch):
    """Each has its turn after those that came before it."""
    monkeypatch.setattr(doubts, "AT_ONCE", 1)
    john, mary = await let_in(JOHN), await let_in(MARY)
    john.may_end.clear()
    await face.arefresh(users="john")
    assert [await john.next(), await john.next()] == ["pause", "look"]
    await face.arefresh(users="mary")
    assert await mary.next() == "pause"
    for _ in range(3):
        await face.arefresh(users="john")
        assert await john.next() == "pause"
    john.may_end.set()
    assert await mary.next() == "look"
    assert await john.next() == "look"


async def test_a_look_for_an_order_is_the_end_of_its_pause(control):
    """Also if the socket is doubtful for another reason by then, which may wait for long."""
    john, others = await let_in(), [Guarded() for _ in range(UNHURRIED)]
    for socket in (john, *others):
        socket.may_end.clear()
    control.doubts.add(others, Doubt.DUE)
    await face.arefresh(users="john")
    assert [await john.next(), await john.next()] == ["pause", "look"]
    control.doubts.add([john], Doubt.DUE)
    john.may_end.set()
    assert await john.next() == "go on"
    for socket in others:
        socket.may_end.set()
    assert [await john.next(), await john.next()] == ["look", "go on"]


async def test_a_look_that_fails_ends_the_socket(control, caplog, monkeypatch):
    """Nobody can tell what it may hear; the others have their turns all the same."""

    class Failing(Guarded):
        async def look_again(self, doubt) -> None:
            raise RuntimeError("a fault of ours")

    failing = Failing()
    control.guard(control.expect(), failing, JOHN)
    others = [await let_in() for _ in range(3)]
    monkeypatch.setattr(doubts, "AT_ONCE", 1)
    await face.arefresh(users="john")
    assert await failing.next() == "pause"
    assert (await failing.next()).code == codes.TRY_AGAIN_LATER
    for socket in others:
        assert [await socket.next() for _ in range(3)] == ["pause", "look", "go on"]
    assert "a fault of ours" in caplog.text


async def test_a_socket_costs_little_memory(control):
    """No more than 0.2 KiB, beside the socket itself."""
    sockets = [Guarded.__new__(Guarded) for _ in range(10_000)]
    await let_in()
    names = [f"visitor{number}" for number in range(len(sockets))]
    tracemalloc.start()
    try:
        for socket, name in zip(sockets, names, strict=True):
            marks = b"".join(mark(trait, name) for trait in Trait)
            control.guard(control.expect(), socket, marks)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(sockets) < 0.2 * 1024
