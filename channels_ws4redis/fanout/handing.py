"""Groups, and how a message is handed to all sockets of one.

A message for ten thousand sockets takes their process 50 ms and more. On the same event loop others
shake hands, ask for pages, or wait for a message of another channel. So in a large group messages
are on their way for a while, with turns of all others in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from typing import NamedTuple

from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.protocol.history import Outcome
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.protocol.track import Track
from channels_ws4redis.store.fairness import let_others_finish
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)

#: Sockets that are handed something in one go. It takes two to three milliseconds where frames are
#: written straight to the transports of the server.
AT_ONCE = 500

#: Seconds for which all others have their turns after that, if they have so much to do.
MOST_OF_OTHERS = 0.02

#: Things on their way to the sockets of one group with which its line is full. Each takes as much
#: memory as there are sockets.
MAX_DUE = 10


def hand(what: Event | Outcome, sockets: Iterable[Recipient]) -> None:
    """Hand a message, or what was missed, to sockets, all of them in one go."""
    if isinstance(what, Event):
        for socket in sockets:
            socket.deliver(what)
    else:
        for socket in sockets:
            socket.recover(what)


def _served_at_once(what: Event | Outcome) -> int:
    """Return how many sockets are handed something in one go: of what was missed each gets more."""
    return AT_ONCE if isinstance(what, Event) else max(1, AT_ONCE // len(what))


@asynccontextmanager
async def turn_of_many() -> AsyncIterator[None]:
    """Be the only one on this event loop that hands something to many sockets.

    Who does so serves `AT_ONCE` of them, and then all others have their turns. So these have their
    turns after each part, however many groups are large.
    """
    async with this_loop().get("turn of many", asyncio.Lock):
        yield
        await let_others_finish(MOST_OF_OTHERS)


class _Due(NamedTuple):
    """Something on its way."""

    what: Event | Outcome
    #: The sockets that have still to get it.
    rest: dict[Recipient, None]


class Line:
    """What is on its way to the sockets of one group: one thing after the other, part by part.

    :param on_end: called when nothing is on its way any more.
    """

    __slots__ = ("_due", "_on_end", "done")

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._due: deque[_Due] = deque()
        #: Done when nothing is on its way any more.
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        this_loop().spawn(self._serve_all(), "ws4redis-line").add_done_callback(self._end)

    def add(self, what: Event | Outcome, sockets: Iterable[Recipient]) -> None:
        """Have something handed to these sockets, after all that is on its way already."""
        self._due.append(_Due(what, dict.fromkeys(sockets)))

    @property
    def full(self) -> bool:
        """True if nothing more should be added for now that can wait."""
        return len(self._due) >= MAX_DUE

    def leave(self, socket: Recipient) -> None:
        """Hand nothing more to a socket of what is on its way, also if it comes back meanwhile.

        What is stored is read for it then.
        """
        for each in self._due:
            each.rest.pop(socket, None)

    def due_to(self, socket: Recipient) -> list[Event]:
        """Return the messages that a socket has still to get."""
        events: list[Event] = []
        for what, rest in self._due:
            if socket in rest:
                items = [what] if isinstance(what, Event) else what
                events += [item for item in items if isinstance(item, Event)]
        return events

    def clear(self) -> None:
        """Forget all that is on its way."""
        self._due.clear()

    async def _serve_all(self) -> None:
        while self._due:
            async with turn_of_many():
                self._serve()
        self._end()

    def _serve(self) -> None:
        """Hand what comes first to the next sockets, unless all have left meanwhile."""
        if not self._due:
            return
        what, rest = self._due[0]
        part = list(islice(rest, _served_at_once(what)))
        for socket in part:
            del rest[socket]
        if not rest:
            self._due.popleft()
        try:
            hand(what, part)
        except Exception:
            logger.exception("A message could not be delivered")
        if not rest and isinstance(what, Event):
            what.forget_wire()

    def _end(self, *_: object) -> None:
        """End; if the task was cancelled, without leaving out anybody, and with no more turns."""
        while self._due:
            self._serve()
        if not self.done.done():
            self._on_end()
            self.done.set_result(None)


class Group:
    """A channel-layer group and the local sockets in it."""

    __slots__ = ("channel", "joined", "line", "live", "moving", "sockets", "track")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        #: All sockets that want to hear the channel.
        self.sockets: set[Recipient] = set()
        #: Those to which messages are delivered, in the order in which they came.
        self.live: dict[Recipient, None] = {}
        self.track = Track()
        #: What is on its way to the live sockets; None if nothing is.
        self.line: Line | None = None
        self.joined = False
        #: Joins or leaves the group at the moment; returns what could not be joined.
        self.moving: asyncio.Task[Mapping[str, Exception]] | None = None

    def refuse(self, error: Exception) -> None:
        """End all sockets, as Redis refuses the channel from now on."""
        self.live.clear()
        self.track = Track()
        if self.line is not None:
            self.line.clear()
        for socket in list(self.sockets):
            socket.end(error)

    def leave(self, socket: Recipient) -> None:
        """Forget a socket, which gets nothing more from now on."""
        self.sockets.discard(socket)
        self.live.pop(socket, None)
        if self.line is not None:
            self.line.leave(socket)

    def hand_out(self, what: Event | Outcome) -> None:
        """Hand a message, or what was missed, to every live socket, after all that came before.

        That is done at once, unless there are many, or much was missed.
        """
        if self.line is None and len(self.live) <= _served_at_once(what):
            hand(what, list(self.live))
            if isinstance(what, Event):
                what.forget_wire()
            return
        if self.line is None:
            self.line = Line(self._on_end_of_line)
        self.line.add(what, self.live)

    def _on_end_of_line(self) -> None:
        self.line = None
