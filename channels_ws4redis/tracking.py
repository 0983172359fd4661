"""Where a process stands in a channel's history, and what it has to make good. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from channels_ws4redis.messages import Event, Position
from channels_ws4redis.persistence import Snapshot

#: Events held back per channel while its history is read; beyond it the oldest are left to it.
MAX_HELD = 10_000


class Recovery(NamedTuple):
    """The outcome of reading a channel's history after something was missed."""

    #: True if everything missed is in ``events``.
    complete: bool
    #: What to deliver now, in order.
    events: list[Event]


class Track:
    """The position up to which a channel's events have been delivered, without a gap.

    Events that do not follow on it are held back until :meth:`recover` has been given the history.
    """

    def __init__(self) -> None:
        self.position: Position | None = None
        self._moved = False
        self._held: dict[int, Event] = {}
        #: True from the moment something is missing until the history has been read.
        self.behind = False

    def start(self, position: Position) -> None:
        """Learn where the history stood when a socket read it.

        Of several sockets that connect at once the one that read first counts: what came after its
        reading is still on the way to it.
        """
        if self.position is None or (
            not self._moved
            and position.epoch == self.position.epoch
            and position.offset < self.position.offset
        ):
            self.position = position

    def suspect(self) -> None:
        """Hold back everything until the history has been read: the link was lost."""
        if self.position is not None:
            self.behind = True

    def receive(self, event: Event) -> list[Event]:
        """Take an event from the channel layer and return what may be delivered now."""
        if not event.offset:
            return [event]  # from a foreign program, outside of the history
        if self.position is None:
            self._advance(event)
            return [event]
        if not self.behind and event.epoch == self.position.epoch:
            if event.offset == self.position.offset + 1:
                self._advance(event)
                return [event]
            if event.offset <= self.position.offset:
                return []  # known already
        self.behind = True
        if len(self._held) >= MAX_HELD:
            self._held.pop(min(self._held))
        self._held[event.offset] = event
        return []

    def late(self) -> list[Event]:
        """Return held events that now follow on; a layer may merely have changed the order."""
        events = self._take_following()
        if not self._held:
            self.behind = False
        return events

    def recover(self, snapshot: Snapshot) -> Recovery:
        """Take the channel's history and return what was missed, then what was held back."""
        if self.position is None:
            self.position = snapshot.position
        missed = snapshot.since(self.position)
        self.position = snapshot.position
        self._moved = True
        # Held events of another epoch come from before a restart, and the history has the rest.
        self._held = {
            offset: event
            for offset, event in self._held.items()
            if event.epoch == self.position.epoch and offset > self.position.offset
        }
        events = missed.events + self._take_following()
        self.behind = bool(self._held)
        return Recovery(missed.complete, events)

    def _take_following(self) -> list[Event]:
        events = []
        while self.position is not None and (self.position.offset + 1) in self._held:
            event = self._held[self.position.offset + 1]
            if event.epoch != self.position.epoch:
                break
            del self._held[event.offset]
            self._advance(event)
            events.append(event)
        return events

    def _advance(self, event: Event) -> None:
        self.position = Position(event.epoch, event.offset)
        self._moved = True
