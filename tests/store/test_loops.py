"""What lives as long as an event loop: shared objects, and tasks that nobody awaits."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from channels_ws4redis.store.loops import this_loop


class Closable:
    """Notes in a list when it is closed."""

    def __init__(self, name, closed):
        self.name, self.closed = name, closed

    async def close(self):
        await asyncio.sleep(0)
        self.closed.append(self.name)


async def test_there_is_one_per_loop() -> None:
    """All coroutines of a loop share it, and another loop has another."""
    mine = this_loop()
    assert this_loop() is mine
    assert await asyncio.to_thread(asyncio.run, _get()) is not mine


async def _get():
    return this_loop()


def test_there_is_none_without_a_running_loop() -> None:
    with pytest.raises(RuntimeError):
        this_loop()


async def test_an_object_is_made_once() -> None:
    made = []

    def make():
        made.append(object())
        return made[-1]

    assert this_loop().get("key", make) is this_loop().get("key", make)
    this_loop().get("other", make)
    assert len(made) == 2


def test_objects_are_closed_with_the_loop_the_last_one_first() -> None:
    closed = []

    async def main():
        this_loop().get("a", lambda: Closable("a", closed))
        this_loop().get("b", lambda: Closable("b", closed))
        this_loop().get("c", object)
        assert not closed

    asyncio.run(main())
    assert closed == ["b", "a"]


def test_what_is_forgotten_is_not_closed() -> None:
    closed = []

    async def main():
        one = this_loop().get("a", lambda: Closable("a", closed))
        this_loop().forget("a", one)
        this_loop().forget("unknown", one)
        another = this_loop().get("a", lambda: Closable("another", closed))
        this_loop().forget("a", one)  # a second time, when there is another one already
        assert this_loop().get("a", object) is another

    asyncio.run(main())
    assert closed == ["another"]


def test_one_that_cannot_be_closed_keeps_no_other_open(caplog) -> None:
    closed = []

    class Stubborn:
        async def close(self):
            raise ValueError("no")

    async def main():
        this_loop().get("a", lambda: Closable("a", closed))
        this_loop().get("b", Stubborn)

    asyncio.run(main())
    assert closed == ["a"]
    assert "Stubborn" in caplog.text


def test_a_loop_that_has_ended_is_not_kept() -> None:
    """Neither the loop nor what belonged to it stays in memory."""

    async def main():
        this_loop().get("its own loop", lambda: [asyncio.get_running_loop()])
        return weakref.ref(asyncio.get_running_loop())

    ended = asyncio.run(main())
    gc.collect()
    assert ended() is None


async def test_a_task_that_nobody_keeps_is_not_collected() -> None:
    """A task lives on although neither its caller nor what it waits for refers to it."""
    done = asyncio.Event()

    async def work():
        gate = asyncio.get_running_loop().create_future()
        gates.add(gate)
        await gate
        done.set()

    gates = weakref.WeakSet()
    this_loop().spawn(work())
    await asyncio.sleep(0)
    gc.collect()
    gates.pop().set_result(None)
    async with asyncio.timeout(5):
        await done.wait()


async def test_a_task_that_fails_is_logged(caplog) -> None:
    """The log names the task and has the traceback; a cancelled task is no failure."""

    async def fail():
        raise ValueError("what went wrong")

    failing = this_loop().spawn(fail(), name="some work")
    cancelled = this_loop().spawn(asyncio.sleep(60), name="other work")
    cancelled.cancel()
    await asyncio.wait([failing, cancelled])
    await asyncio.sleep(0)
    assert "some work" in caplog.text
    assert "what went wrong" in caplog.text
    assert "other work" not in caplog.text


async def test_tasks_end_when_it_is_closed() -> None:
    """Closing ends the tasks before the objects that they use, and all can be used again."""
    closed = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            closed.append("task")

    this_loop().get("a", lambda: Closable("object", closed))
    task = this_loop().spawn(work())
    await asyncio.sleep(0)
    await this_loop().close()
    assert task.cancelled()
    assert closed == ["task", "object"]
    assert await this_loop().spawn(asyncio.sleep(0, "again")) == "again"
    this_loop().get("a", lambda: Closable("new object", closed))
    await this_loop().close()
    assert closed[-1] == "new object"
