"""Looking at sockets again, few at the same time, and in the order of their urgency."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from channels_ws4redis.fanout.groups import RETRY_INTERVAL
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.orders import Action, Order
from channels_ws4redis.store.loops import this_loop

#: Sockets of a loop that are looked at again at the same time. Each costs the loop less than a
#: millisecond, and most of them wait for a thread.
AT_ONCE = 16

#: For a socket of which nobody can tell what it may hear.
COME_BACK: Final = Order(Action.DISCONNECT, code=codes.TRY_AGAIN_LATER)


class Guarded(Protocol):
    """A socket that orders may concern."""

    def obey(self, order: Order) -> None:
        """Do what an order says: a ``DISCONNECT`` or an ``UNSUBSCRIBE``."""

    def hold(self, held: bool) -> None:
        """Hold back what is published while it is doubtful what it may hear, or let it go."""

    async def look_again(self) -> None:
        """Find out what the socket may still hear, and give up the rest."""


class Doubts:
    """The sockets of an event loop of which it is doubtful what they may hear."""

    def __init__(self) -> None:
        #: Those that wait to be looked at, before all others and after them, who came first first.
        #: One that is doubtful again keeps its place, or a user who is saved again and again could
        #: keep the sockets of others from ever being decided.
        self._urgent: dict[Guarded, None] = {}
        self._waiting: dict[Guarded, None] = {}
        #: Those that are being looked at. One that is doubtful again meanwhile waits for its end.
        self._under_way: set[Guarded] = set()

    def add(self, sockets: Sequence[Guarded], urgent: bool) -> None:
        """Have sockets looked at again.

        :param urgent: before all others, and with nothing delivered meanwhile. It would be too long
            for all sockets of a process.
        """
        for socket in sockets:
            if urgent:
                socket.hold(True)  # which may end it
                self._waiting.pop(socket, None)
                self._urgent[socket] = None
            elif socket not in self._urgent:
                self._waiting[socket] = None
        self._begin()

    def forget(self, socket: Guarded) -> None:
        """Have a socket not looked at, as it has gone."""
        self._urgent.pop(socket, None)
        self._waiting.pop(socket, None)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._waiting) + len(self._under_way)

    def _waits(self, socket: Guarded) -> bool:
        return socket in self._urgent or socket in self._waiting

    def _begin(self) -> None:
        for _ in range(AT_ONCE - len(self._under_way)):
            socket = self._next()
            if socket is None:
                return
            task = this_loop().spawn(self._look_again(socket), "ws4redis-look-again")
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """Go on without a task that has ended too soon: a hook may cancel what runs it."""
        if self._urgent or self._waiting:
            # Later, as an event loop that ends cancels all tasks, and must not get new ones.
            asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._begin)

    def _next(self) -> Guarded | None:
        """Return the socket that is to be looked at next, None for none at present."""
        for waiting in (self._urgent, self._waiting):
            for socket in waiting:
                if socket not in self._under_way:
                    del waiting[socket]
                    self._under_way.add(socket)
                    return socket
        return None

    async def _look_again(self, first: Guarded) -> None:
        socket: Guarded | None = first
        while socket is not None:
            try:
                await socket.look_again()
            except BaseException:
                socket.obey(COME_BACK)
                raise
            finally:
                self._under_way.discard(socket)
            if not self._waits(socket):
                socket.hold(False)
            await asyncio.sleep(0)
            socket = self._next()
