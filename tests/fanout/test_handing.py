"""Handing a message to all sockets of a group: in order, and in turns where they are many."""

from __future__ import annotations

import asyncio
import random

import pytest

from channels_ws4redis.fanout import handing
from channels_ws4redis.fanout.group import Group
from channels_ws4redis.protocol.history import Lost
from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.store.fairness import TURNS_OF_OTHERS, let_others
from tests.listeners import PATIENCE

FOO = "broadcast:foo"


class Hearer:
    """A socket that keeps what it is handed."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.ended = False

    def deliver(self, event: Event) -> None:
        self.heard.append(event.payload.decode())

    def recover(self, items) -> None:
        self.heard += ["lost" if isinstance(i, Lost) else i.payload.decode() for i in items]

    def end(self, error: Exception) -> None:
        self.ended = True


class Faulty(Hearer):
    """A socket with a defect."""

    def deliver(self, event: Event) -> None:
        raise RuntimeError("a defect")

    def recover(self, items) -> None:
        raise RuntimeError("another defect")


class Hopeless(Faulty):
    """A socket that cannot even be ended."""

    def end(self, error: Exception) -> None:
        raise RuntimeError("a third defect")


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch) -> None:
    """Let three sockets be many."""
    monkeypatch.setattr(handing, "AT_ONCE", 3)


def enter(group: Group, socket: Hearer) -> Hearer:
    """Let a socket go live."""
    group.sockets.add(socket)
    group.live[socket] = None
    return socket


def group_of(count: int) -> tuple[Group, list[Hearer]]:
    """Return a group, and the sockets that are live in it."""
    group = Group(FOO)
    return group, [enter(group, Hearer()) for _ in range(count)]


def message(number: int) -> Event:
    """Return the message of this number."""
    return Event(FOO, str(number).encode(), "epoch", number)


async def at_rest(group: Group) -> None:
    """Wait until nothing is on its way any more."""
    async with asyncio.timeout(PATIENCE):
        while group.line is not None:
            await asyncio.wait([group.line.done])


def count_of(sockets: list[Hearer]) -> int:
    """Return how many messages the sockets have heard altogether."""
    return sum(len(socket.heard) for socket in sockets)


async def test_few_are_served_on_the_spot() -> None:
    """Without any task."""
    group, sockets = group_of(3)
    group.hand_out(message(1))
    group.hand_out([Lost(FOO, Position("epoch", 3))])
    assert [socket.heard for socket in sockets] == [["1", "lost"]] * 3
    assert group.line is None


async def test_others_have_their_turns_between_the_parts_of_many() -> None:
    """However many groups are large, only one part of one of them is served between two turns."""
    (one, some), (two, more) = group_of(11), group_of(11)
    for number in range(2):
        one.hand_out(message(number))
        two.hand_out(message(number))
    steps = []
    while one.line is not None or two.line is not None:
        before = count_of([*some, *more])
        await asyncio.sleep(0)
        steps.append(count_of([*some, *more]) - before)
    assert max(steps) == 3
    assert steps.count(0) >= (TURNS_OF_OTHERS - 1) * 16
    assert [socket.heard for socket in [*some, *more]] == [["0", "1"]] * 22


async def test_much_that_was_missed_is_as_much_as_many_sockets() -> None:
    """Of three sockets that have missed two messages each, one has its turn at a time."""
    group, sockets = group_of(3)
    group.hand_out([message(1), message(2)])
    group.hand_out([message(number) for number in range(3, 10)])
    steps = []
    while group.line is not None:
        before = count_of(sockets)
        await asyncio.sleep(0)
        steps.append(count_of(sockets) - before)
    assert [step for step in steps if step] == [2, 2, 2, 7, 7, 7]
    assert [socket.heard for socket in sockets] == [[str(number) for number in range(1, 10)]] * 3


async def test_large_groups_take_their_turns_one_after_the_other() -> None:
    """None of them waits until all sockets of another one have been served."""
    (one, some), (two, more) = group_of(30), group_of(30)
    one.hand_out(message(1))
    two.hand_out(message(1))
    while count_of(more) < 15:  # noqa: ASYNC110 # nothing tells of it
        await asyncio.sleep(0)
    assert count_of(some) <= 18
    await at_rest(one)
    await at_rest(two)


async def test_nothing_overtakes_what_is_on_its_way() -> None:
    """Neither what was missed, nor a message for which the group has become small enough."""
    group, sockets = group_of(5)
    group.hand_out(message(1))
    group.hand_out([message(2), message(3)])
    await asyncio.sleep(0)
    for socket in sockets[:2]:
        group.leave(socket)
    group.hand_out(message(4))
    assert sockets[4].heard == []
    await at_rest(group)
    assert [socket.heard for socket in sockets[2:]] == [["1", "2", "3", "4"]] * 3


async def test_whoever_leaves_hears_nothing_more() -> None:
    """Also if it comes back meanwhile: what is stored has been read for it then."""
    group, sockets = group_of(7)
    group.hand_out(message(1))
    group.leave(sockets[5])
    group.leave(sockets[6])
    enter(group, sockets[6])
    group.hand_out(message(2))
    await at_rest(group)
    assert sockets[5].heard == []
    assert sockets[6].heard == ["2"]


async def test_a_group_that_redis_refuses_hears_nothing_more() -> None:
    group, sockets = group_of(7)
    group.hand_out(message(1))
    group.refuse(PermissionError())
    await let_others(20)
    assert group.line is None
    assert count_of(sockets) == 0
    assert all(socket.ended for socket in sockets)


async def test_any_life_of_a_group_keeps_the_order_of_each_socket() -> None:
    """A socket hears all that is handed out from its entering on, and none after it has left."""
    dice = random.Random(1)
    group, sockets = group_of(0)
    entered: dict[Hearer, int] = {}
    number = 0
    for _ in range(2000):
        what = dice.random()
        if what < 0.3 or not group.live:
            socket = enter(group, Hearer())
            sockets.append(socket)
            entered[socket] = number
        elif what < 0.45:
            group.leave(dice.choice(list(group.live)))
        elif what < 0.7:
            group.hand_out(message(number))
            number += 1
        else:
            await let_others(dice.randrange(5))
    await at_rest(group)
    for socket in sockets:
        begun = entered[socket]
        assert socket.heard == [str(n) for n in range(begun, begun + len(socket.heard))]
    assert {len(s.heard) + entered[s] for s in group.live} == {number}
    assert len(group.live) > 10


@pytest.mark.parametrize("steps", [0, 1, 2], ids=["before", "in the middle", "in a turn"])
async def test_whoever_ends_the_task_leaves_nobody_out(steps) -> None:
    """And the group goes on afterwards."""
    group, sockets = group_of(10)
    group.hand_out(message(1))
    await let_others(steps)
    (task,) = (t for t in asyncio.all_tasks() if t.get_name() == "ws4redis-line")
    task.cancel()
    group.hand_out(message(2))
    await at_rest(group)
    group.hand_out(message(3))
    await at_rest(group)
    assert [socket.heard for socket in sockets] == [["1", "2", "3"]] * 10


@pytest.mark.parametrize("kind", [Faulty, Hopeless])
@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
@pytest.mark.parametrize("missed", [False, True], ids=["message", "missed"])
async def test_a_socket_that_fails_ends_and_no_other_does(kind, many, missed, caplog) -> None:
    """It alone misses the message, and there is one line that says so."""
    group, sockets = group_of(1)
    faulty = enter(group, kind())
    sockets += [enter(group, Hearer()) for _ in range(6 if many else 1)]
    group.hand_out([message(1)] if missed else message(1))
    await at_rest(group)
    assert [socket.heard for socket in sockets] == [["1"]] * len(sockets)
    assert [socket.ended for socket in sockets] == [False] * len(sockets)
    assert faulty.ended is (kind is Faulty)
    lines = [record for record in caplog.records if "could not be handed" in record.message]
    assert [record.message.partition(",")[0] for record in lines] == [
        f"Messages on '{FOO}' could not be handed to 1 sockets"
    ]
    assert "defect" in caplog.text


async def test_what_a_socket_has_still_to_get() -> None:
    """Its messages are told in their order, without those that others have still to get."""
    group, sockets = group_of(7)
    group.hand_out(message(1))
    group.hand_out([message(2), Lost(FOO, Position("epoch", 3)), message(4)])
    await let_others(1)
    assert sockets[0].heard == ["1"]
    assert [event.offset for event in group.line.due_to(sockets[0])] == [2, 4]
    assert [event.offset for event in group.line.due_to(sockets[6])] == [1, 2, 4]
    assert group.line.due_to(Hearer()) == []
    await at_rest(group)


async def test_bytes_for_the_wire_are_kept_until_the_last_socket_has_them() -> None:
    """They are made once, and not kept for those that wait in outboxes."""
    group, _ = group_of(7)
    event = message(1)
    wires = []

    class Wired(Hearer):
        def deliver(self, event: Event) -> None:
            wires.append(event.frame(None).wire)

    for _ in range(4):
        enter(group, Wired())
    group.hand_out(event)
    await at_rest(group)
    assert len({id(wire) for wire in wires}) == 1
    assert "wire" not in vars(event.frame(None))
