"""A hook that sends what is stored, and how long it waits for its client."""

from __future__ import annotations

import asyncio

import pytest

from channels_ws4redis.exceptions import WebSocketError
from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.serving import replaying
from channels_ws4redis.serving.replaying import HookSocket, replay_by_hook
from tests.outboxes import open_outbox

PATIENCE = 10


class Client:
    """Reads nothing until it is told to."""

    def __init__(self, max_messages: int = 3) -> None:
        self.read: list[str] = []
        self.closed: list[str] = []
        self._reading = asyncio.Semaphore(0)
        outbox = open_outbox(self._take, max_messages, 2**20, self._close)
        self.websocket = HookSocket(Socket(outbox, echo=False, labels=None))

    def _close(self) -> None:
        self.closed.append("too slow")

    async def _take(self, frame) -> None:
        await self._reading.acquire()
        self.read.append(frame["text"])

    def reads(self, frames: int) -> None:
        """Read some more."""
        for _ in range(frames):
            self._reading.release()

    def sending(self, messages: int) -> asyncio.Future[None]:
        """Send so many messages in a thread of its own."""

        def send() -> None:
            for number in range(messages):
                self.websocket.send(str(number))

        return asyncio.ensure_future(asyncio.to_thread(send))

    async def waits(self) -> None:
        """Return as soon as its hook waits."""
        async with asyncio.timeout(PATIENCE):
            while self.websocket._waits_since is None:  # noqa: ASYNC110 # nothing tells of it
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch, settings):
    """Wait for half a second at most, and in one place."""
    monkeypatch.setattr(replaying, "SEND_PATIENCE", 0.5)
    settings.WS4REDIS_THREADS = 4


async def test_nobody_waits_as_long_as_there_is_room():
    """One frame is with the server, three are in the outbox."""
    client = Client()
    await asyncio.wait_for(client.sending(4), PATIENCE)
    assert client.websocket._waits_since is None
    assert (client.read, client.closed) == ([], [])


async def test_a_client_that_reads_is_waited_for():
    """For as long as the whole takes, if something is read now and then."""
    client = Client()
    sending = client.sending(20)
    for frames in range(1, 21):
        await client.waits()
        client.reads(1)
        async with asyncio.timeout(PATIENCE):
            while len(client.read) < frames:  # noqa: ASYNC110 # nothing tells of it
                await asyncio.sleep(0.01)
    await sending
    assert client.read == [str(number) for number in range(20)]
    assert client.closed == []


async def test_a_client_that_does_not_read_is_given_up():
    """The hook's ``send`` raises, and the socket is closed."""
    client = Client()
    with pytest.raises(WebSocketError, match="reads too slowly"):
        await asyncio.wait_for(client.sending(5), PATIENCE)
    assert client.closed == ["too slow"]
    assert client.websocket.closed
    with pytest.raises(WebSocketError, match="has gone"):
        await client.sending(1)


async def test_a_client_that_goes():
    """The hook's ``send`` raises at once."""
    client = Client()
    sending = client.sending(5)
    await client.waits()
    client.websocket._socket.outbox.close()
    with pytest.raises(WebSocketError, match="has gone"):
        await asyncio.wait_for(sending, PATIENCE)


async def test_a_client_that_has_gone_needs_no_event_loop():
    """It may have stopped before the hook sends again; the process could not end otherwise."""
    client = Client()
    client.websocket._socket.outbox.close()
    # In the thread of the event loop, which would wait for itself.
    with pytest.raises(WebSocketError, match="has gone"):
        client.websocket.send("x")


async def test_what_a_hook_was_told_is_no_error():
    """A hook need not catch that its client has gone; what it raises by itself is an error."""
    client = Client()

    async def fail(websocket) -> None:
        raise WebSocketError("by itself")

    async def goes(websocket) -> None:
        websocket._socket.outbox.close()
        await asyncio.to_thread(websocket.send, "x")

    with pytest.raises(WebSocketError, match="by itself"):
        await replay_by_hook(fail, client.websocket._socket)
    await replay_by_hook(goes, client.websocket._socket)


async def test_there_are_few_places_to_wait(monkeypatch):
    """Whoever finds none is given up; one who has waited for long makes room."""
    monkeypatch.setattr(replaying, "SEND_PATIENCE", 60)
    first, second, third = Client(), Client(), Client()
    waiting = first.sending(5)
    await first.waits()
    with pytest.raises(WebSocketError, match="reads too slowly"):
        await asyncio.wait_for(second.sending(5), PATIENCE)
    assert (first.closed, second.closed) == ([], ["too slow"])
    monkeypatch.setattr(replaying, "FAIR_SHARE", 0)
    newest = third.sending(5)
    with pytest.raises(WebSocketError):
        await asyncio.wait_for(waiting, PATIENCE)
    assert (first.closed, third.closed) == (["too slow"], [])
    third.reads(5)
    await asyncio.wait_for(newest, PATIENCE)
