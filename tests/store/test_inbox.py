"""What was read waits to be handed on: in order, in turns, and within a bound."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial

import pytest

from channels_ws4redis.store import inbox as inbox_module
from channels_ws4redis.store.fairness import MAX_SLICE_BYTES, TURNS_OF_OTHERS, let_others
from channels_ws4redis.store.inbox import ITEM_BYTES, MAX_BYTES, MAX_READING, Inbox

PATIENCE = 10

#: A message after which a turn is over.
LARGE = MAX_SLICE_BYTES + 1

Item = tuple[str, int]


class Room:
    """An inbox, and what has become of what was put in."""

    def __init__(self) -> None:
        self.handed_on: list[Item] = []
        self.given_up: list[list[Item]] = []
        self.ends: list[str] = []
        #: Called in the middle of handing on an item, once.
        self.then: dict[Item, Callable[[], None]] = {}
        #: What is still on its way after it was handed on.
        self.on_its_way: dict[Item, asyncio.Future[None]] = {}
        self.inbox: Inbox[Item] = Inbox(self._hand_on, self._give_up, self.ends.append)

    def _hand_on(self, item: Item) -> asyncio.Future[None] | None:
        self.handed_on.append(item)
        self.then.pop(item, lambda: None)()
        return self.on_its_way.get(item)

    def hold(self, lane: str, number: int) -> asyncio.Future[None]:
        """Have an item take until this future is done."""
        future = self.on_its_way[lane, number] = asyncio.get_running_loop().create_future()
        return future

    def _give_up(self, items) -> None:
        self.given_up.append(list(items))

    def put(self, lane: str, number: int, size: int = 1) -> None:
        self.inbox.put(lane, (lane, number), size)

    async def empty(self) -> None:
        """Wait until items are handed on at once again."""
        async with asyncio.timeout(PATIENCE):
            while task() is not None:  # noqa: ASYNC110 # nothing tells of it
                await asyncio.sleep(0)
            await let_others(2)  # whoever watches a task is told after its end

    def numbers(self, lane: str) -> list[int]:
        """Return what has been handed on of a lane."""
        return [number for name, number in self.handed_on if name == lane]


@pytest.fixture
def room() -> Room:
    """An empty inbox."""
    return Room()


@pytest.fixture
def busy(monkeypatch) -> None:
    """Let each item take longer to hand on than a turn may last."""
    monkeypatch.setattr("channels_ws4redis.store.fairness.MAX_SLICE", 0)


def task() -> asyncio.Task | None:
    """Return the task that hands on, if there is one."""
    tasks = [
        task
        for task in asyncio.all_tasks()
        if task.get_name() == "ws4redis-inbox" and not task.cancelling()
    ]
    assert len(tasks) <= 1
    return tasks[0] if tasks else None


async def test_in_the_normal_case_nothing_waits(room) -> None:
    """An item is handed on by whoever puts it in, and there is no task."""
    room.put("foo", 1)
    room.put("bar", 2)
    assert room.handed_on == [("foo", 1), ("bar", 2)]
    assert task() is None


async def test_after_a_turn_items_wait_in_order_until_none_is_left(room) -> None:
    """Then they are handed on at once again."""
    room.put("foo", 0, LARGE)
    for number in range(1, 10):
        room.put("foo", number)
    assert room.numbers("foo") == [0]
    await room.empty()
    assert room.numbers("foo") == list(range(10))
    room.put("foo", 10)
    assert room.numbers("foo") == list(range(11))


async def test_one_lane_does_not_hold_up_another(room) -> None:
    """However much waits before it, a small message of another channel is handed on at once."""
    for number in range(50):
        room.put("flood", number, LARGE)
    room.put("innocent", 1)
    assert room.handed_on == [("flood", 0), ("innocent", 1)]
    await room.empty()
    assert room.numbers("flood") == list(range(50))


async def test_what_takes_long_ends_the_turn_of_all(room, busy) -> None:
    """However small the messages; then each lane has its turn."""
    for number in range(50):
        room.put("flood", number, LARGE)
    room.put("innocent", 1)
    assert room.handed_on == [("flood", 0)]
    await room.empty()
    assert room.handed_on[:4] == [("flood", 0), ("flood", 1), ("innocent", 1), ("flood", 2)]
    assert room.numbers("flood") == list(range(50))


async def test_each_of_many_lanes_has_its_turn(room, busy) -> None:
    """Also when others empty, and fill again, in the meantime."""
    room.put("first", 0)
    for name in "abc":
        room.put(name, 0)
    for number in range(1, 4):
        soon = asyncio.get_running_loop().call_soon
        room.then["a", number - 1] = partial(soon, room.put, "a", number)
    await room.empty()
    assert [name for name, _ in room.handed_on] == ["first", "a", "b", "c", "a", "a", "a"]


async def test_each_lane_keeps_its_order_whatever_happens(room) -> None:
    """In many random lives, with turns in between."""
    dice = random.Random(1)
    counts = dict.fromkeys("abcde", 0)
    for _ in range(1000):
        name = dice.choice("abcde")
        room.put(name, counts[name], dice.choice([1, 100, LARGE]))
        counts[name] += 1
        if dice.random() < 0.3:
            await let_others(dice.randrange(12))
    await room.empty()
    assert {name: room.numbers(name) for name in counts} == {
        name: list(range(count)) for name, count in counts.items()
    }
    assert len(room.inbox) == 0


async def test_the_lane_that_holds_most_is_given_up(room, busy) -> None:
    """And nothing is missing on the others."""
    room.put("first", 0, LARGE)
    size = MAX_BYTES // 10
    for number in range(10):
        room.put("innocent", number)
        room.put("flood", number, size)
    room.put("innocent", 10)
    assert [[number for _, number in items] for items in room.given_up] == [list(range(10))]
    room.put("flood", 10)
    await room.empty()
    assert room.numbers("innocent") == list(range(11))
    assert room.numbers("flood") == [10]


async def test_what_waits_is_bounded_in_number_too(room, busy) -> None:
    """Small messages take more room than their bytes."""
    room.put("first", 0, LARGE)
    most = MAX_BYTES // ITEM_BYTES + 1
    for number in range(most):
        room.put("flood", number, 0)
    assert len(room.given_up) == 1
    assert len(room.inbox) <= most
    room.inbox.clear()


async def test_no_number_of_lanes_exceeds_the_bound(room, busy) -> None:
    """If many together are too much, those with most go until half of the room is free."""
    room.put("first", 0, LARGE)
    for number in range(101):
        room.put(f"lane {number}", number, MAX_BYTES // 100)
    assert 40 < len(room.inbox) <= 52
    assert len(room.given_up) + len(room.inbox) == 101
    room.inbox.clear()


async def test_a_single_message_beyond_the_bound_is_given_up(room, busy) -> None:
    """Whatever Django publishes; the process goes on."""
    room.put("first", 0, LARGE)
    room.put("flood", 0, 2 * MAX_BYTES)
    room.put("innocent", 0)
    assert room.given_up == [[("flood", 0)]]
    await room.empty()
    assert room.numbers("innocent") == [0]


async def test_reading_that_is_busy_comes_first_for_a_while(room, busy) -> None:
    """Nothing is handed on meanwhile, but not for ever."""
    room.put("foo", 0, LARGE)
    clock = asyncio.get_running_loop().time
    begun, number = clock(), 0
    while len(room.handed_on) == 1:
        number += 1
        room.put("bar", number, MAX_SLICE_BYTES)
        await asyncio.sleep(0)
        assert clock() - begun < PATIENCE
    assert clock() - begun >= MAX_READING
    room.inbox.clear()


async def test_handing_on_does_not_wait_for_reading_that_is_idle(room, monkeypatch) -> None:
    """A few turns of the event loop are enough to find out."""
    monkeypatch.setattr(inbox_module, "MAX_READING", PATIENCE)
    room.put("foo", 0, LARGE)
    room.put("foo", 1)
    await let_others(2 * TURNS_OF_OTHERS)
    assert room.numbers("foo") == [0, 1]
    await room.empty()


@pytest.mark.parametrize("how", ["cancelled", "raised"])
async def test_a_task_that_ends_too_soon_is_told_of_and_loses_nothing(room, how) -> None:
    """What a message runs may cancel it; the rest is handed on when somebody says so."""

    def end() -> None:
        if how == "raised":
            raise asyncio.CancelledError
        asyncio.current_task().cancel()

    room.then["foo", 1] = end
    room.put("foo", 0, LARGE)
    for number in range(1, 5):
        room.put("foo", number, LARGE)
    await room.empty()
    assert room.ends == ["the task that hands on was cancelled"]
    assert room.numbers("foo") == [0, 1]
    room.inbox.go_on()
    await room.empty()
    assert room.numbers("foo") == list(range(5))


async def test_what_is_put_in_after_such_an_end_waits_behind_the_rest(room) -> None:
    """Or the order would be lost."""
    room.put("foo", 0, LARGE)
    room.put("foo", 1)
    task().cancel()
    await room.empty()
    room.put("foo", 2)
    await room.empty()
    assert room.numbers("foo") == [0, 1, 2]


@pytest.mark.parametrize("where", ["outside", "inside"])
async def test_what_was_forgotten_is_not_handed_on(room, where) -> None:
    """Neither if it is forgotten in the middle of handing on; what comes later is."""
    room.put("foo", 0, LARGE)
    for number in range(1, 5):
        room.put("foo", number, LARGE)
    if where == "outside":
        room.inbox.clear()
    else:
        room.then["foo", 1] = room.inbox.clear
        while len(room.handed_on) < 2:  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0)
    room.put("foo", 5)
    await room.empty()
    assert room.ends == []
    assert room.numbers("foo") == ([0, 5] if where == "outside" else [0, 1, 5])


async def test_a_lane_waits_for_what_is_on_its_way_and_no_other_does(room) -> None:
    """Be it the first item that is handed on, or one that has waited itself."""
    first, second = room.hold("foo", 0), room.hold("foo", 2)
    for number in range(5):
        room.put("foo", number)
    room.put("bar", 0)
    assert room.handed_on == [("foo", 0), ("bar", 0)]
    assert task() is None
    for future, numbers in ((first, [0, 1, 2]), (second, [0, 1, 2, 3, 4])):
        future.set_result(None)
        await asyncio.sleep(0)
        await room.empty()
        assert room.numbers("foo") == numbers
    room.put("foo", 5)
    assert room.numbers("foo") == [0, 1, 2, 3, 4, 5]


async def test_what_waits_for_something_on_its_way_is_bounded(room) -> None:
    """The lane is given up, and still waits."""
    future = room.hold("flood", 0)
    for number in range(20):
        room.put("flood", number, MAX_BYTES // 10)
        room.put("innocent", number)
    room.put("flood", 20)
    assert sum(map(len, room.given_up)) >= 9
    assert room.numbers("flood") == [0]
    assert room.numbers("innocent") == list(range(20))
    future.set_result(None)
    await asyncio.sleep(0)
    await room.empty()
    assert room.numbers("flood")[-1] == 20
    assert len(room.inbox) == 0


async def test_what_was_forgotten_while_something_was_on_its_way_does_not_come_back(room) -> None:
    future = room.hold("foo", 0)
    room.put("foo", 0)
    room.put("foo", 1)
    room.inbox.clear()
    room.put("foo", 2)
    future.set_result(None)
    await room.empty()
    assert room.numbers("foo") == [0, 2]
