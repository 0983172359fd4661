"""Turns on the event loop: a task that always has work lets the others have theirs."""

from __future__ import annotations

import asyncio
import time

from channels_ws4redis.store.fairness import (
    IDLE_TURN,
    MAX_SLICE,
    MAX_SLICE_BYTES,
    TURNS_OF_OTHERS,
    TimeSlice,
    let_others_finish,
)


async def turns_of_others(time_slice: TimeSlice) -> int:
    """Return how many turns another task gets while a turn is ended, if that is due."""
    count = 0

    async def other() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await time_slice.end_if_due()
    task.cancel()
    return count


async def test_a_short_turn_goes_on() -> None:
    time_slice = TimeSlice()
    time_slice.spend(MAX_SLICE_BYTES, MAX_SLICE)
    assert await turns_of_others(time_slice) == 0


async def test_a_turn_ends_when_sockets_have_been_handed_enough() -> None:
    time_slice = TimeSlice()
    time_slice.spend(MAX_SLICE_BYTES + 1, 0)
    assert await turns_of_others(time_slice) == TURNS_OF_OTHERS
    assert await turns_of_others(time_slice) == 0


async def test_a_turn_ends_when_it_has_lasted_long_enough() -> None:
    time_slice = TimeSlice()
    time_slice.spend(1, MAX_SLICE)
    time_slice.spend(1, 0.001)
    assert await turns_of_others(time_slice) == TURNS_OF_OTHERS
    assert await turns_of_others(time_slice) == 0


async def test_what_passes_between_messages_is_no_part_of_a_turn() -> None:
    time_slice = TimeSlice()
    await asyncio.sleep(MAX_SLICE * 1.2)
    time_slice.spend(1, 0.001)
    assert await turns_of_others(time_slice) == 0


async def test_a_channel_that_has_had_its_bytes_leaves_time_to_others() -> None:
    time_slice = TimeSlice()
    time_slice.spend(MAX_SLICE_BYTES + 1, 0, "foo")
    assert time_slice.is_over_for("foo")
    assert not time_slice.is_over_for("bar")
    time_slice.spend(1, MAX_SLICE + 0.001, "foo")
    assert time_slice.is_over_for("bar")
    time_slice.renew()
    assert not time_slice.is_over_for("foo")


async def steps_done(steps: int, most: float) -> int:
    """Return how many of its steps another task has done when we go on."""
    done = 0

    async def work() -> None:
        nonlocal done
        for _ in range(steps):
            time.sleep(10 * IDLE_TURN)  # noqa: ASYNC251 # it is work
            done += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    await let_others_finish(most)
    task.cancel()
    return done


async def test_others_are_let_finish_what_they_do_in_many_steps() -> None:
    assert await steps_done(50, most=10) == 50


async def test_others_do_not_keep_us_from_going_on() -> None:
    """However much they have to do."""
    assert 1 <= await steps_done(10_000, most=50 * IDLE_TURN) < 10


async def test_where_nobody_has_anything_to_do_we_go_on_soon() -> None:
    count = 0

    async def idle() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(idle())
    await let_others_finish(10)
    task.cancel()
    assert TURNS_OF_OTHERS <= count < 100
