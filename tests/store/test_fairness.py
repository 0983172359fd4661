"""Turns on the event loop: a task that always has work lets the others have theirs."""

from __future__ import annotations

import asyncio

from channels_ws4redis.store.fairness import MAX_TURN, MAX_TURN_BYTES, TURNS_OF_OTHERS, Turn


async def turns_of_others(turn: Turn) -> int:
    """Return how many turns another task gets while a turn is ended, if that is due."""
    count = 0

    async def other() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await turn.end_if_due()
    task.cancel()
    return count


async def test_a_short_turn_goes_on() -> None:
    turn = Turn()
    turn.spend(MAX_TURN_BYTES, MAX_TURN)
    assert await turns_of_others(turn) == 0


async def test_a_turn_ends_when_sockets_have_been_handed_enough() -> None:
    turn = Turn()
    turn.spend(MAX_TURN_BYTES + 1, 0)
    assert await turns_of_others(turn) == TURNS_OF_OTHERS
    assert await turns_of_others(turn) == 0


async def test_a_turn_ends_when_it_has_lasted_long_enough() -> None:
    turn = Turn()
    turn.spend(1, MAX_TURN)
    turn.spend(1, 0.001)
    assert await turns_of_others(turn) == TURNS_OF_OTHERS
    assert await turns_of_others(turn) == 0


async def test_what_passes_between_messages_is_no_part_of_a_turn() -> None:
    turn = Turn()
    await asyncio.sleep(MAX_TURN * 1.2)
    turn.spend(1, 0.001)
    assert await turns_of_others(turn) == 0


async def test_a_channel_that_has_had_its_bytes_leaves_time_to_others() -> None:
    turn = Turn()
    turn.spend(MAX_TURN_BYTES + 1, 0, "foo")
    assert turn.is_over_for("foo")
    assert not turn.is_over_for("bar")
    turn.spend(1, MAX_TURN + 0.001, "foo")
    assert turn.is_over_for("bar")
    turn.renew()
    assert not turn.is_over_for("foo")
