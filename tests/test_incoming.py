"""The events of one socket, and the word that its client has gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from channels_ws4redis.servers import ClientGoneError, Incoming

GONE = {"type": "websocket.disconnect", "code": 1006}
PATIENCE = 10


def event(number: int) -> dict[str, Any]:
    """Return something that a client has sent."""
    return {"type": "websocket.receive", "text": str(number)}


@pytest.fixture
def queue() -> asyncio.Queue[dict[str, Any]]:
    """What the server says."""
    return asyncio.Queue()


@pytest.fixture
def incoming(queue) -> Incoming:
    """The events of a socket of that server."""
    return Incoming(queue.get)


async def test_events_keep_their_order(incoming, queue):
    """Be they awaited in advance or not."""
    for number in range(3):
        queue.put_nowait(event(number))
    assert await incoming.take() == event(0)
    with incoming.watched(at_once=True):
        await asyncio.sleep(0.01)
    with incoming.watched(at_once=True):
        await asyncio.sleep(0.01)
    assert await incoming.take() == event(1)
    assert await incoming.take() == event(2)


async def test_a_client_that_goes(incoming, queue):
    """What is done for it is cancelled, and nothing else; its word is the next event."""
    asyncio.get_running_loop().call_soon(queue.put_nowait, GONE)
    with pytest.raises(ClientGoneError), incoming.watched(at_once=True):
        await asyncio.sleep(PATIENCE)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await incoming.take() == GONE


async def test_a_client_that_had_gone_before(incoming, queue):
    """It is noticed at the first step that waits."""
    queue.put_nowait(GONE)
    with incoming.watched(at_once=True):
        pass
    with pytest.raises(ClientGoneError), incoming.watched(at_once=True):
        await asyncio.sleep(PATIENCE)


async def test_a_client_that_goes_when_all_is_done(incoming, queue):
    """The word that comes in the very step that ends the work cancels nothing after it."""
    done = asyncio.get_running_loop().create_future()

    def finish() -> None:
        done.set_result(None)
        queue.put_nowait(GONE)

    asyncio.get_running_loop().call_soon(finish)
    with incoming.watched(at_once=True):
        await done
    for _ in range(10):
        await asyncio.sleep(0)
    assert await incoming.take() == GONE


async def test_work_that_takes_no_notice(incoming, queue):
    """Code that swallows the cancellation, or makes another exception of it, ends all the same."""

    async def swallow() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE)

    async def fail() -> None:
        await swallow()
        raise LookupError

    queue.put_nowait(GONE)
    for work in (swallow, fail):
        with pytest.raises(ClientGoneError), incoming.watched(at_once=True):
            await work()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_a_server_that_stops_at_the_same_time(incoming, queue):
    """Its cancellation goes on."""
    task = asyncio.current_task()
    assert task is not None

    async def work() -> None:
        await asyncio.sleep(0.01)  # the client is watched by now
        incoming._next.add_done_callback(lambda _: task.cancel())
        queue.put_nowait(GONE)
        await asyncio.sleep(PATIENCE)

    with pytest.raises(asyncio.CancelledError), incoming.watched(at_once=True):
        await work()
    assert task.uncancel() == 0


async def test_a_server_that_fails():
    """Its exception comes when the event is asked for, and counts for no client that has gone."""

    async def fail() -> dict[str, Any]:
        raise RuntimeError("no event")

    incoming = Incoming(fail)
    with incoming.watched(at_once=True):
        await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="no event"):
        await incoming.take()


async def test_the_end(incoming, queue):
    """Nothing awaits an event of a socket that has ended."""
    with incoming.watched(at_once=True):
        await asyncio.sleep(0)
    incoming.close()
    await asyncio.sleep(0)
    queue.put_nowait(GONE)
    assert queue.get_nowait() == GONE
    Incoming(queue.get).close()
