"""Looking at sockets again, few at the same time, and in the order of their urgency."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Final, Protocol

from channels_ws4redis.fanout.groups import RETRY_INTERVAL
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.orders import Action, Order
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.rounds import Rounds

#: Sockets of a loop that are looked at again at the same time, and how many of them may be those
#: that no order names. Each keeps a thread busy, and the event loop waits some milliseconds for
#: busy threads whenever it reads or writes: with 16 of them, every message would be late.
AT_ONCE, UNHURRIED = 16, 4

#: How many fewer of them may be of one client: one who uses a slow policy leaves others a look.
LEFT_TO_OTHERS: Final = 1

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

    @property
    def whom(self) -> Hashable:
        """Its client, who takes turns with others."""

    def obey(self, order: Order) -> None:
        """Do what an order says: a ``DISCONNECT`` or an ``UNSUBSCRIBE``."""

    def hold(self, held: bool) -> None:
        """Hold back what is published while it is doubtful what it may hear, or let it go."""

    async def look_again(self, doubt: Doubt) -> None:
        """Find out what the socket may still hear, and give up the rest."""


class Waiting:
    """Sockets that wait to be looked at. Their clients take turns, each with the oldest first."""

    def __init__(self) -> None:
        self._rounds: Rounds[Guarded] = Rounds()
        #: Of each socket, why it waits, and whose it was when it began to: a client may be found to
        #: be another one meanwhile.
        self._doubts: dict[Guarded, tuple[Doubt, Hashable]] = {}

    def __len__(self) -> int:
        return len(self._doubts)

    def __contains__(self, socket: Guarded) -> bool:
        return socket in self._doubts

    def add(self, socket: Guarded, doubt: Doubt) -> None:
        """Have a socket wait. One that is waiting keeps its place, and the greater doubt."""
        before, whom = self._doubts.get(socket, (doubt, socket.whom))
        self._doubts[socket] = max(doubt, before), whom
        self._rounds.add(whom, socket)

    @property
    def clients(self) -> int:
        """For how many clients sockets wait."""
        return len(self._rounds)

    def discard(self, socket: Guarded) -> None:
        """Have a socket wait no more, if it does."""
        if socket in self._doubts:
            _, whom = self._doubts.pop(socket)
            self._rounds.discard(whom, socket)

    def take(self, busy: Collection[Guarded], of_one: int) -> tuple[Guarded, Doubt] | None:
        """Return the socket that is next in turn, and why it waits; it waits no more.

        :param busy: those that are being looked at, which have to wait.
        :param of_one: how many of these may be of one client.
        """
        taken = Counter(socket.whom for socket in busy)
        allowed = (own for whom, own in self._rounds if taken[whom] < of_one)
        socket = next((each for own in allowed for each in own if each not in busy), None)
        if socket is None:
            return None
        doubt, whom = self._doubts.pop(socket)
        self._rounds.take(whom, socket)
        return socket, doubt


class Doubts:
    """The sockets of an event loop of which it is doubtful what they may hear."""

    def __init__(self) -> None:
        #: Those that wait to be looked at, before all others and after them. One that is doubtful
        #: again keeps its place, and clients take turns. Or a user who is saved again and again, or
        #: has many sockets of a slow policy, could keep those of others from ever being decided.
        self._urgent = Waiting()
        self._waiting = Waiting()
        #: Those that are being looked at. One that is doubtful again meanwhile waits for its end.
        self._under_way: dict[Guarded, Doubt] = {}

    def add(self, sockets: Sequence[Guarded], doubt: Doubt) -> None:
        """Have sockets looked at again."""
        for socket in sockets:
            if doubt is Doubt.ORDERED:
                socket.hold(True)  # which may end it
                self._waiting.discard(socket)
                self._urgent.add(socket, doubt)
            elif socket not in self._urgent:
                self._waiting.add(socket, doubt)
        self._begin()

    def forget(self, socket: Guarded) -> None:
        """Have a socket not looked at, as it has gone."""
        self._urgent.discard(socket)
        self._waiting.discard(socket)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._waiting) + len(self._under_way)

    @property
    def clients(self) -> int:
        """For how many clients sockets wait that no order names."""
        return self._waiting.clients

    def _begin(self) -> None:
        while (due := self._next()) is not None:
            task = this_loop().spawn(self._look_again(due), "ws4redis-look-again")
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """Go on without a task that has ended too soon: a hook may cancel what runs it."""
        if len(self._urgent) or len(self._waiting):
            # Later, as an event loop that ends cancels all tasks, and must not get new ones.
            asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._begin)

    def _next(self) -> tuple[Guarded, Doubt] | None:
        """Return the socket that is to be looked at next, and why; None for none at present."""
        if len(self._under_way) >= AT_ONCE:
            return None
        unhurried = [each for each, why in self._under_way.items() if why is not Doubt.ORDERED]
        found = self._urgent.take(self._under_way, max(1, AT_ONCE - LEFT_TO_OTHERS))
        if found is None and len(unhurried) < UNHURRIED:
            found = self._waiting.take(self._under_way, max(1, UNHURRIED - LEFT_TO_OTHERS))
        if found is not None:
            socket, doubt = found
            self._under_way[socket] = doubt
        return found

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
