"""Where the live sockets of a group stand in the history of its channel. No I/O.

All live sockets of a group stand where its `Track` stands. Whoever wants to become live asks for a
reading, and goes live in the very step in which that reading is taken in. Every reading, also one
that a newcomer has asked for, makes good what the group has missed.

This is the one place where messages are held: those that do not follow on the position, until a
reading fills the hole before them; and those that were delivered while a reading is under way, as
whoever asked for that reading has not seen them.
"""

from __future__ import annotations

from typing import NamedTuple

from channels_ws4redis.protocol.history import (
    Lost,
    Outcome,
    Reading,
    is_blank,
    is_blank_still,
    numbering_of,
)
from channels_ws4redis.protocol.messages import UNKEPT, Event, Position

#: Messages, and bytes of payload, that are held per channel. Beyond that they are forgotten, and
#: the history is read once more.
MAX_HELD = 10_000
MAX_HELD_BYTES = 8 * 1024 * 1024


#: How far a group has come on its way to where a reading stands: see `Track.lag`.
Lag = Position | int


class Asked(NamedTuple):
    """When a reading was asked for."""

    #: Suspicions until then.
    suspicions: int
    #: Messages that had arrived until then.
    arrived: int


class Taken(NamedTuple):
    """What taking a reading in amounts to."""

    #: For the sockets that are live already.
    live: Outcome
    #: For a newcomer, after what the reading has for it; None if the newcomer has to ask again.
    newcomer: list[Event] | None


class Track:
    """The position up to which a group has delivered, and what is held around it.

    The position is None until the first reading; nobody is live before.
    """

    __slots__ = (
        "_arrived",
        "_bytes",
        "_forgotten",
        "_held",
        "_readings",
        "_recent",
        "_stood_in",
        "_suspected",
        "_suspicions",
        "position",
    )  # fmt: skip

    def __init__(self) -> None:
        self.position: Position | None = None
        #: Messages that do not follow yet, with the count at which each arrived.
        self._held: dict[Position, tuple[int, Event]] = {}
        #: Messages delivered while readings are under way, with the count at which each arrived;
        #: without their frames, which may be ten times as large as what is counted.
        self._recent: list[tuple[int, Event]] = []
        #: Bytes of payload in both.
        self._bytes = 0
        self._readings = 0
        self._arrived = 0
        #: The count up to which recent messages have been forgotten.
        self._forgotten = 0
        self._suspected = False
        self._suspicions = 0
        #: The numberings in which the group has stood.
        self._stood_in: set[str] = set()

    @property
    def behind(self) -> bool:
        """True while something is missing, or may be, and the history has to be read."""
        return self.position is not None and (self._suspected or bool(self._held))

    def suspect(self) -> None:
        """Hold everything back until a reading that is asked for from now on: the link was lost."""
        self._suspected = True
        self._suspicions += 1

    def receive(self, event: Event) -> list[Event]:
        """Take a message from the link and return what may be delivered now."""
        self._arrived += 1
        if not event.offset:  # outside of the numbering
            if event.epoch == UNKEPT and (self._suspected or self._held):
                return []  # it would overtake what is held, and is worth nothing afterwards
            self._remember(event)
            return [event]
        position = self.position
        if position is not None and not self._suspected and not self._held:
            if event.epoch == position.epoch:
                if event.offset <= position.offset:
                    return []  # known already
                if event.offset == position.offset + 1:
                    return [self._advance(event)]
            elif self._begins(event, position) and not self._readings:
                return [self._advance(event)]
        self._hold(event)
        return [] if position is None or self._suspected else self._following()

    def _begins(self, event: Event, position: Position) -> bool:
        """Tell whether a message is the first one ever that the group gets.

        After a wipe it might be late, and belong to a numbering before one that was delivered.
        """
        is_first = event.offset == 1 and is_blank(position)
        return is_first and all(numbering.startswith("-") for numbering in self._stood_in)

    def _advance(self, event: Event) -> Event:
        self._move_to(Position(event.epoch, event.offset))
        self._remember(event)
        return event

    def _move_to(self, position: Position) -> None:
        if self.position is None or self.position.epoch != position.epoch:
            self._stood_in.add(numbering_of(position.epoch))
        self.position = position

    def _remember(self, event: Event) -> None:
        if self._readings:
            self._recent.append((self._arrived, event.bare()))
            self._count(event)

    def _hold(self, event: Event) -> None:
        position = Position(event.epoch, event.offset)
        if position not in self._held:  # layers may repeat a message
            self._held[position] = self._arrived, event
            self._count(event)

    def _count(self, event: Event) -> None:
        self._bytes += len(event.payload)
        if self._bytes > MAX_HELD_BYTES or len(self._held) + len(self._recent) > MAX_HELD:
            if self._held:
                self._held.clear()
                self.suspect()
            self._recent.clear()
            self._bytes = 0
            self._forgotten = self._arrived

    def _following(self) -> list[Event]:
        """Return the held messages that follow on the position now."""
        events = []
        while self.position is not None:
            held = self._held.pop(Position(self.position.epoch, self.position.offset + 1), None)
            if held is None:
                break
            self._bytes -= len(held[1].payload)
            events.append(self._advance(held[1]))
        return events

    def ask(self) -> Asked:
        """Note that a reading is asked for; it must be given to `take` or `give_up` in the end."""
        self._readings += 1
        return Asked(self._suspicions, self._arrived)

    def give_up(self) -> None:
        """Note that a reading has failed."""
        self._readings -= 1
        if not self._readings:
            self._bytes -= sum(len(event.payload) for _, event in self._recent)
            self._recent.clear()

    def lag(self, reading: Reading, ordered: bool) -> Lag | None:
        """Tell whether messages that a reading lacks are on their way, as far as anybody knows.

        A reading may overtake messages on the link. With a short history it lacks some of them,
        and taking it in now would skip them.

        :param ordered: the link keeps the order, so that what arrives after a hole proves a loss.
        :returns: None if there is nothing to wait for, else something that changes as long as
            messages arrive that bring the group on.
        """
        here, there = self.position, reading.position
        if here is None or self._suspected or is_blank(there):
            return None
        if is_blank(here):
            # The first messages are held while readings are under way, which is no hole.
            has_hole = Position(there.epoch, 1) not in self._held
        elif here.epoch == there.epoch and here.offset < there.offset:
            has_hole = True
        else:
            return None
        if ordered and self._held and has_hole:
            return None
        # What may be lost besides, as a database may have been wiped, is not on its way.
        since = Position(there.epoch, 0) if is_blank(here) else here
        if not any(isinstance(item, Lost) for item in self._full(reading).since(since)):
            return None
        return self._arrived if ordered and is_blank(here) else here

    def take(self, reading: Reading, asked: Asked) -> Taken:
        """Take in a reading: what the live sockets get, and what a newcomer gets after it."""
        live: Outcome = []
        if self.position is None:
            self._move_to(reading.position)
        else:
            if self.position.epoch != reading.position.epoch:
                live += self._following()  # the rest of an epoch that has ended
            live += self._recover(reading)
        if asked.suspicions == self._suspicions:
            self._suspected = False  # only a reading asked for after a suspicion settles it
        if self._drop_settled(reading, asked) and not any(isinstance(i, Lost) for i in live):
            live.append(Lost(reading.channel, reading.position))
        newcomer = self._after(reading, asked)
        following = [] if self._suspected else self._following()
        self.give_up()  # it is under way no more
        return Taken([*live, *following], None if newcomer is None else [*newcomer, *following])

    def _recover(self, reading: Reading) -> Outcome:
        """Return what the live sockets have missed, and stand where the reading stands."""
        assert self.position is not None
        before, now = self.position, reading.position
        if before.epoch == now.epoch and before.offset >= now.offset:
            return []  # live messages were faster than the reading
        if is_blank(before) and is_blank(now) and not self._suspected and not self._held:
            # Nothing has arrived over a link that seems whole. If it was not, and a database was
            # wiped meanwhile, that has to show later on: the position stays then.
            if is_blank_still(before.epoch, now.epoch):
                self._move_to(now)
            return []
        self._move_to(now)
        return self._full(reading).since(before)

    def _full(self, reading: Reading) -> Reading:
        """Return a reading with the held messages that it covers."""
        epoch, top = reading.position
        held = [e for _, e in self._held.values() if e.epoch == epoch and e.offset <= top]
        return reading.with_events(held)

    def _drop_settled(self, reading: Reading, asked: Asked) -> bool:
        """Drop held messages that the reading has settled; tell if some are lost by that.

        Of what had arrived before the reading was asked for, Redis does not know what lies beyond
        the end of the epoch, and the epoch of what belongs to another one has ended. What arrived
        later may belong to an epoch that has just begun. An epoch that has ended and that nobody
        knows any more takes its messages with it.
        """
        assert self.position is not None
        lost = False
        for key, (arrived, event) in list(self._held.items()):
            if event.epoch == self.position.epoch:
                beyond = event.offset > reading.position.offset and arrived <= asked.arrived
                settled = event.offset <= self.position.offset or beyond
            else:
                settled = arrived <= asked.arrived or event.epoch in reading.past
            if settled:
                del self._held[key]
                self._bytes -= len(event.payload)
                known = event.epoch == self.position.epoch or event.epoch in reading.past
                lost = lost or not (known or numbering_of(event.epoch) in self._stood_in)
        return lost

    def _after(self, reading: Reading, asked: Asked) -> list[Event] | None:
        """Return what was delivered to the live sockets and is not in the reading."""
        if asked.arrived < self._forgotten:
            return None
        epoch, top = reading.position
        return [
            event
            for arrived, event in self._recent
            if (event.epoch == epoch and event.offset > top)
            or (not event.offset and arrived > asked.arrived)
        ]
