"""The events of a socket are handled one after the other, also while the socket ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from channels_ws4redis.servers import ClientGoneError, Incoming, Turns, turns

PATIENCE = 10


class Server:
    """Hands over what it is told, and has one event after the other handled."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.may_end = asyncio.Semaphore(0)
        self.handled: list[int] = []
        self.turns: Turns
        self.task: asyncio.Task[Any]

    async def handle(self, event: dict[str, Any]) -> None:
        """Take as long as the test says."""
        self.begun.put_nowait(event["number"])
        await self.may_end.acquire()
        self.handled.append(event["number"])

    def sends(self, *numbers: int) -> None:
        """Hand over what a client has sent."""
        for number in numbers:
            self.queue.put_nowait({"type": "websocket.receive", "number": number})

    async def serves(self) -> None:
        """Run, as the task of a socket does."""
        self.turns = Turns(Incoming(self.queue.get), self.handle)
        await self.turns.run()

    async def starts(self) -> None:
        """Begin to run, and wait for the first event."""
        self.task = asyncio.create_task(self.serves())
        await asyncio.sleep(0)


@pytest.fixture
async def server() -> Server:
    """A server with one socket."""
    return Server()


async def ended(task: asyncio.Task[Any]) -> None:
    """Wait for the end of a task, which is no cancellation."""
    await asyncio.wait_for(asyncio.shield(task), PATIENCE)
    assert task.cancelling() == 0


async def test_a_socket_that_waits_ends_at_once(server):
    """Nothing is handled any more, and nothing that comes at the same moment is lost."""
    await server.starts()
    server.sends(1)
    server.turns.stop()
    await ended(server.task)
    assert not server.turns.cut_off
    assert (server.handled, server.queue.qsize()) == ([], 1)


async def test_what_is_being_handled_when_the_socket_ends_is_finished(server):
    """What comes after it is left for `drain`."""
    server.sends(1, 2)
    await server.starts()
    assert await server.begun.get() == 1
    server.turns.stop()
    server.turns.stop()
    server.may_end.release()
    await ended(server.task)
    assert not server.turns.cut_off
    assert (server.handled, server.queue.qsize()) == ([1], 1)


@pytest.mark.parametrize("how", ["stop", "leave"])
async def test_what_takes_too_long_is_cut_off(server, monkeypatch, how):
    """Also if it takes no notice; then it has been handled to its end."""
    monkeypatch.setattr(turns, "LEAVE_PATIENCE", 0.05)
    server.sends(1, 2)
    await server.starts()
    getattr(server.turns, how)()
    await ended(server.task)
    assert server.turns.cut_off
    assert server.handled == []

    async def stubborn(event: dict[str, Any]) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE)

    other = Server()
    other.sends(1, 2)
    other.handle = stubborn
    await other.starts()
    getattr(other.turns, how)()
    await ended(other.task)
    assert not other.turns.cut_off
    assert other.queue.qsize() == 1


async def test_a_socket_that_has_to_end_at_once(server):
    """What is being handled is cut off, without waiting."""
    server.sends(1, 2)
    await server.starts()
    assert await server.begun.get() == 1
    server.turns.stop(finish=False)
    await ended(server.task)
    assert server.turns.cut_off
    assert (server.handled, server.queue.qsize()) == ([], 1)


async def test_what_a_client_has_sent_before_it_left_is_handled(server):
    """As long as there is time."""
    server.sends(1, 2, 3)
    await server.starts()
    server.turns.leave()
    for _ in range(3):
        server.may_end.release()
    for number in range(1, 4):
        assert await server.begun.get() == number
    server.turns.stop()
    await ended(server.task)
    assert server.handled == [1, 2, 3]
    assert server.turns.left


async def test_somebody_else_who_cancels_the_task(server):
    """It goes on, also at the moment at which we end it."""
    await server.starts()
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    await server.starts()
    server.turns.stop()
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert server.task.cancelling() == 1


async def test_what_the_server_has_is_drained(server):
    """Until it has no more, or there is no more time."""
    await server.starts()
    server.turns.stop()
    await ended(server.task)
    server.sends(1, 2, 3)
    for _ in range(3):
        server.may_end.release()
    server.turns.task = asyncio.current_task()
    assert await server.turns.drain()
    assert server.handled == [1, 2, 3]


async def test_what_cannot_be_drained_in_time(server, monkeypatch):
    """The event at hand is cut off, and an error of the handler's own is not taken for that."""
    monkeypatch.setattr(turns, "LEAVE_PATIENCE", 0.05)
    await server.starts()
    server.turns.stop()
    await ended(server.task)
    server.sends(1, 2)
    assert not await server.turns.drain()
    assert server.turns.cut_off
    assert (server.handled, server.queue.qsize()) == ([], 1)

    async def fail(event: dict[str, Any]) -> None:
        raise TimeoutError("of the handler")

    server.turns._handle = fail
    with pytest.raises(TimeoutError, match="of the handler"):
        await server.turns.drain()


@pytest.mark.parametrize("how", ["stop", "leave"])
async def test_what_is_of_no_use_to_a_client_that_goes_ends_at_once(server, how):
    """Such as a replay, also while something that the client has sent hides that it has gone."""
    outcomes = []

    async def replay(event: dict[str, Any]) -> None:
        server.begun.put_nowait(event["number"])
        try:
            with server.turns.incoming.watched(at_once=event["number"] == 1):
                await server.may_end.acquire()
        except ClientGoneError:
            outcomes.append("gone")
        else:
            outcomes.append("done")

    server.handle = replay
    server.sends(1, 2)
    await server.starts()
    await server.begun.get()
    await asyncio.sleep(0.01)  # the next event has been looked at
    getattr(server.turns, how)()
    if how == "leave":
        await server.begun.get()
        server.may_end.release()
        server.sends(3)
        await server.begun.get()
        server.may_end.release()
        server.turns.stop()
    await ended(server.task)
    assert outcomes == (["gone"] if how == "stop" else ["gone", "done", "done"])
