"""Where a process stands in a channel's history, and what it has to make good. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.store.commands import Snapshot

#: Events held back per channel while its history is read; beyond it the oldest are left to it.
MAX_HELD = 10_000


class Recovery(NamedTuple):
    """The outcome of reading a channel's history after something was missed."""

    #: True if everything missed is in ``events``.
    complete: bool
    #: The offset up to which nothing was missing, in the epoch of the snapshot; -1 if unknown.
    seen: int
    #: What to deliver now, in order.
    events: list[Event]
    #: Offsets after which Redis may have lost messages without leaving a gap.
    torn: Sequence[int] = ()


class Track:
    """The position up to which a channel's events have been delivered, without a gap.

    Events that do not follow on it are held back until :meth:`recover` has been given the history.
    """

    def __init__(self) -> None:
        self.position: Position | None = None
        self._held: dict[int, Event] = {}
        self._suspected = False

    @property
    def behind(self) -> bool:
        """True while something is missing, or may be, and the history has to be read."""
        return self.position is not None and (self._suspected or bool(self._held))

    def lags(self, position: Position) -> bool:
        """Tell whether the history had got further than we have."""
        return self.position is not None and (
            self.position.epoch == position.epoch and self.position.offset < position.offset
        )

    def start(self, position: Position) -> None:
        """Learn where the history stood when a socket read it; later readings are in events."""
        if self.position is None:
            self.position = position

    def suspect(self) -> None:
        """Hold back everything until the history has been read: the link was lost.

        Before the first reading there is nothing to hold back; the suspicion stays until then, as
        the answer to that reading may already be on its way.
        """
        self._suspected = True

    def receive(self, event: Event) -> list[Event]:
        """Take an event from the channel layer and return what may be delivered now."""
        if not event.offset:
            return [event]  # from a foreign program, outside of the history
        if self.position is None:
            # Whatever came before it is in what the sockets are about to read.
            self._suspected = False
            self._advance(event)
            return [event]
        if not self.behind and event.epoch == self.position.epoch:
            if event.offset == self.position.offset + 1:
                self._advance(event)
                return [event]
            if event.offset <= self.position.offset:
                return []  # known already
        if len(self._held) >= MAX_HELD:
            self._held.pop(min(self._held))
        self._held[event.offset] = event
        return []

    def late(self) -> list[Event]:
        """Return held events that now follow on; a layer may merely have changed the order."""
        return self._take_following()

    def ended(self, snapshot: Snapshot) -> list[Event]:
        """Return held events that follow on in an epoch that has ended; the history lacks them."""
        if self.position is None or self.position.epoch == snapshot.position.epoch:
            return []
        return self._take_following()

    def recover(self, snapshot: Snapshot) -> Recovery:
        """Take the channel's history and return what was missed, then what was held back."""
        complete, seen, events, torn = snapshot.since(self.position or snapshot.position)
        self.position = snapshot.position
        self._suspected = False
        # Held events of another epoch come from before a restart, and the history has the rest.
        held = {
            offset: event
            for offset, event in self._held.items()
            if event.epoch == self.position.epoch
        }
        if not complete:
            # A history shorter than the gap; what arrived after the gap is there all the same.
            known = {event.offset for event in events if event.offset}
            late = [e for e in held.values() if seen < e.offset <= self.position.offset]
            events = sorted(
                [*events, *(event for event in late if event.offset not in known)],
                key=lambda event: event.offset or self.position.offset + 1,  # type: ignore[union-attr] # set above
            )
            found = sum(1 for event in events if event.offset)
            complete = not torn and 0 <= seen == self.position.offset - found
        self._held = {o: event for o, event in held.items() if o > self.position.offset}
        return Recovery(complete, seen, events + self._take_following(), torn)

    def _take_following(self) -> list[Event]:
        events = []
        while self.position is not None:
            event = self._held.get(self.position.offset + 1)
            if event is None or event.epoch != self.position.epoch:
                break
            del self._held[event.offset]
            self._advance(event)
            events.append(event)
        return events

    def _advance(self, event: Event) -> None:
        self.position = Position(event.epoch, event.offset)
