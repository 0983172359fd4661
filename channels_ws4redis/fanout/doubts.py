"""Looking at sockets again, few at the same time, and in the order of their urgency."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from typing import Final, Protocol

from channels_ws4redis.fanout.groups import RETRY_INTERVAL
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.orders import Action, Order
from channels_ws4redis.store.loops import this_loop

#: Sockets of a loop that are looked at again at the same time, and how many of them may be those
#: that no order names. Each keeps a thread busy, and the event loop waits some milliseconds for
#: busy threads whenever it reads or writes: with 16 of them, every message would be late.
AT_ONCE, UNHURRIED = 16, 4

#: For a socket of which nobody can tell what it may hear.
COME_BACK: Final = Order(Action.DISCONNECT, code=codes.TRY_AGAIN_LATER)


class Doubt(enum.IntEnum):
    """Why a socket is looked at again; of two reasons the greater one counts."""

    #: It was looked at long ago. Nobody says that anything has changed.
    DUE = 0
    #: An order may have been missed.
    MISSED = 1
    #: An order names it. It comes before all others, and nothing is delivered meanwhile, which
    #: would be too long for all sockets of a process.
    ORDERED = 2


class Guarded(Protocol):
    """A socket that orders may concern."""

    def obey(self, order: Order) -> None:
        """Do what an order says: a ``DISCONNECT`` or an ``UNSUBSCRIBE``."""

    def hold(self, held: bool) -> None:
        """Hold back what is published while it is doubtful what it may hear, or let it go."""

    async def look_again(self, doubt: Doubt) -> None:
        """Find out what the socket may still hear, and give up the rest."""


class Doubts:
    """The sockets of an event loop of which it is doubtful what they may hear."""

    def __init__(self) -> None:
        #: Those that wait to be looked at, before all others and after them, who came first first.
        #: One that is doubtful again keeps its place, or a user who is saved again and again could
        #: keep the sockets of others from ever being decided.
        self._urgent: dict[Guarded, Doubt] = {}
        self._waiting: dict[Guarded, Doubt] = {}
        #: Those that are being looked at. One that is doubtful again meanwhile waits for its end.
        self._under_way: dict[Guarded, Doubt] = {}

    def add(self, sockets: Sequence[Guarded], doubt: Doubt) -> None:
        """Have sockets looked at again."""
        for socket in sockets:
            if doubt is Doubt.ORDERED:
                socket.hold(True)  # which may end it
                self._waiting.pop(socket, None)
                self._urgent[socket] = doubt
            elif socket not in self._urgent:
                self._waiting[socket] = max(doubt, self._waiting.get(socket, doubt))
        self._begin()

    def forget(self, socket: Guarded) -> None:
        """Have a socket not looked at, as it has gone."""
        self._urgent.pop(socket, None)
        self._waiting.pop(socket, None)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._waiting) + len(self._under_way)

    def _begin(self) -> None:
        while (due := self._next()) is not None:
            task = this_loop().spawn(self._look_again(due), "ws4redis-look-again")
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """Go on without a task that has ended too soon: a hook may cancel what runs it."""
        if self._urgent or self._waiting:
            # Later, as an event loop that ends cancels all tasks, and must not get new ones.
            asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._begin)

    def _next(self) -> tuple[Guarded, Doubt] | None:
        """Return the socket that is to be looked at next, and why; None for none at present."""
        if len(self._under_way) >= AT_ONCE:
            return None
        unhurried = sum(doubt is not Doubt.ORDERED for doubt in self._under_way.values())
        for waiting in (self._urgent, self._waiting if unhurried < UNHURRIED else {}):
            for socket in waiting:
                if socket not in self._under_way:
                    doubt = self._under_way[socket] = waiting.pop(socket)
                    return socket, doubt
        return None

    async def _look_again(self, first: tuple[Guarded, Doubt]) -> None:
        due: tuple[Guarded, Doubt] | None = first
        while due is not None:
            socket, doubt = due
            try:
                await socket.look_again(doubt)
            except BaseException:
                socket.obey(COME_BACK)
                raise
            finally:
                self._under_way.pop(socket, None)
            if socket not in self._urgent:  # of another doubt, nothing is held back
                socket.hold(False)
            await asyncio.sleep(0)
            due = self._next()
