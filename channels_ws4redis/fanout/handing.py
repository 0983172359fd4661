"""How a message is handed to all sockets of a group.

A message for ten thousand sockets takes their process 50 ms and more. On the same event loop others
shake hands, ask for pages, or wait for a message of another channel. So in a large group messages
are on their way for a while, with turns of all others in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import NamedTuple

from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.protocol.history import Lost, Outcome
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.protocol.texts import shown
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
    """Hand a message, or what was missed, to sockets, all of them in one go.

    A socket that fails ends, or it would miss the message without knowing. The others get it.
    """
    failures: list[tuple[Recipient, Exception]] = []
    if isinstance(what, Event):
        for socket in sockets:
            try:
                socket.deliver(what)
            except Exception as error:  # noqa: BLE001 # a defect, of whichever kind
                failures.append((socket, error))
    else:
        for socket in sockets:
            try:
                socket.recover(what)
            except Exception as error:  # noqa: BLE001 # the same
                failures.append((socket, error))
    if failures:
        _end_all(failures, what if isinstance(what, Event) else what[0])


def _end_all(failures: Sequence[tuple[Recipient, Exception]], what: Event | Lost) -> None:
    """End sockets that have failed; their clients come back, and recover.

    There is one line in the log for all that have failed with one message.
    """
    logger.error(
        "Messages on %s could not be handed to %s sockets, which have to come back",
        shown(what.channel),
        len(failures),
        exc_info=failures[0][1],
    )
    for socket, error in failures:
        try:
            socket.end(error)
        except Exception:  # they are few
            logger.exception("A socket that has failed cannot be ended")


def served_at_once(what: Event | Outcome) -> int:
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
        part = list(islice(rest, served_at_once(what)))
        for socket in part:
            del rest[socket]
        if not rest:
            self._due.popleft()
        hand(what, part)
        if not rest and isinstance(what, Event):
            what.forget_wire()

    def _end(self, *_: object) -> None:
        """End; if the task was cancelled, without leaving out anybody, and with no more turns."""
        while self._due:
            self._serve()
        if not self.done.done():
            self._on_end()
            self.done.set_result(None)
