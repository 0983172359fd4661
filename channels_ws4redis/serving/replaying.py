"""Replaying by the project's own code: an overridden ``send_persisted_messages``. Private."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from channels_ws4redis.conf import settings
from channels_ws4redis.exceptions import WebSocketError
from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.store.loops import this_loop

#: Seconds that a hook's ``websocket.send`` waits for a client that takes nothing meanwhile.
SEND_PATIENCE = 5.0

#: Seconds after which a hook whose client reads, but slowly, has to make room for another hook.
FAIR_SHARE = 5.0


async def replay_by_hook(run: Callable[[Any], Awaitable[None]], socket: Socket) -> None:
    """Have an overridden method send what is stored, then send what was held back meanwhile.

    :param run: runs the method, with the ``websocket`` that it is given, in a thread.
    :param socket: holds back what is published.
    :raises Exception: whatever the hook raises.
    """
    websocket = HookSocket(socket)
    try:
        await run(websocket)
    except WebSocketError:
        if not websocket.closed:
            raise
        return  # that is what the hook was told, and no fault of anybody's
    # What was published while the hook ran may be among what the hook has read and sent.
    socket.let_go(websocket.sent)


class HookSocket:
    """What an overridden ``send_persisted_messages`` gets as ``websocket``, to use in its thread.

    :param socket: the socket; made on the event loop that the socket lives on.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        #: Every payload sent so far. That is as much as the hook has read itself, and a client that
        #: does not read gets no further than its outbox.
        self.sent: list[bytes] = []
        #: The sizes of those that may still wait in the outbox, and their sum.
        self._sizes: deque[int] = deque()
        self._bytes = 0
        #: On the clock of the event loop, when it first had to wait for its client.
        self._waits_since: float | None = None

    @property
    def closed(self) -> bool:
        """True once the client has gone."""
        return self._socket.outbox.closed

    def send(self, message: str | bytes | bytearray, binary: bool | None = None) -> None:
        """Send a message, and wait for a client that reads if too much waits for it already.

        :param binary: True for a binary frame, False for a text frame; by default a message goes
            out as text if it is UTF-8.
        :raises channels_ws4redis.exceptions.WebSocketError: if the client has gone or is too slow.
        """
        payload = message.encode() if isinstance(message, str) else bytes(message)
        if self.closed:
            # Its event loop may have stopped meanwhile, and would never answer: the process could
            # not end, as it waits for this thread.
            raise WebSocketError("The client has gone.")
        sending = asyncio.run_coroutine_threadsafe(self._send(payload, binary), self._loop)
        sending.result()

    async def _send(self, payload: bytes, binary: bool | None) -> None:
        if not self._has_room_for(len(payload)) and not await self._flush():
            self._give_up()
            raise WebSocketError("The client reads too slowly.")
        if self.closed:
            raise WebSocketError("The client has gone.")
        self.sent.append(payload)
        self._sizes.append(len(payload))
        self._bytes += len(payload)
        # They have their bound here, where the hook can wait.
        outbox = self._socket.outbox
        outbox.put_stored(partial(self._frame, payload, binary), len(payload), self._socket)

    def _give_up(self) -> None:
        """End the socket, as its client reads too slowly."""
        self._socket.outbox.overflow()

    def _has_room_for(self, size: int) -> bool:
        """Tell whether one more payload is within the bounds of an outbox."""
        outbox = self._socket.outbox
        while len(self._sizes) > len(outbox):
            self._bytes -= self._sizes.popleft()
        return outbox.has_room_for(len(self._sizes) + 1, self._bytes + size)

    async def _flush(self) -> bool:
        """Wait until the client has been handed everything; False if it takes nothing for long."""
        outbox, places = self._socket.outbox, this_loop().get(_Places, _Places)
        if self._waits_since is None:
            self._waits_since = self._loop.time()
        if not places.take(self):
            return False
        try:
            while True:
                before = len(outbox)
                try:
                    async with asyncio.timeout(SEND_PATIENCE):
                        await outbox.flush()
                    return True
                except TimeoutError:
                    if len(outbox) >= before:
                        return False
        finally:
            places.leave(self)

    def _frame(self, payload: bytes, binary: bool | None) -> Frame:
        event = Event("", payload)
        if self._socket.labels is not None:
            return event.frame("other", self._socket.number)
        if binary is None:
            return event.frame(None)
        return Frame(payload if binary else payload.decode())


class _Places:
    """The hooks of an event loop that wait for their clients, each of which holds a thread.

    They may be half of those that run, or clients that do not read would keep every other socket
    from running a hook.
    """

    def __init__(self) -> None:
        self._waiting: set[HookSocket] = set()

    def take(self, websocket: HookSocket) -> bool:
        """Let a hook wait; False if there is no place for it."""
        if len(self._waiting) >= max(1, settings.WS4REDIS_THREADS // 4):
            first = min(self._waiting, key=lambda other: other._waits_since or 0.0)
            if asyncio.get_running_loop().time() - (first._waits_since or 0.0) < FAIR_SHARE:
                return False
            first._give_up()
            self._waiting.discard(first)
        self._waiting.add(websocket)
        return True

    def leave(self, websocket: HookSocket) -> None:
        """Note that a hook waits no longer."""
        self._waiting.discard(websocket)
