"""What somebody has missed: the rule, and what a process reads of a channel to apply it. No I/O.

The messages of a channel are numbered 1, 2, 3 …; a number is an *offset*, and an *epoch* names the
numbering. An epoch is written ``<numbering>.<reign>``. The numbering begins anew when Redis has
lost it. The reign is the server under which numbers are given: it changes when Redis restarts, and
when a replica takes over.

A server that comes back may have lost what it had been told last, and would hand out the same
numbers a second time. So **a change of reign burns one number**: if Redis stood at 10, 11 is never
given, and the next message is 12. Whoever stood at 10 sees a hole and is told that messages may be
lost. What was published and lost in between falls into that hole.

A channel to which nothing has been published stands at offset 0 of a *blank* epoch,
``-<reign>.<wipes>.<time>``. The first message of a numbering has offset 1. It follows on a blank
epoch without a hole if no other numbering can have come and gone in between: under the same reign,
with no database wiped, and within the time for which position data live at least, which is ten
units of the last part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeGuard, get_args

from channels_ws4redis.protocol.messages import Event, Position


class Lost(NamedTuple):
    """Stands where messages are missing, or may be, up to and including a position."""

    channel: str
    position: Position


#: What a reader is sent: messages in order, and a `Lost` wherever some are missing before the next.
Outcome = list[Event | Lost]


def is_blank(position: Position) -> bool:
    """Tell whether nothing had been published yet."""
    return position.epoch.startswith("-")


Word = Literal["last", "none", "all"]

#: What a newcomer is sent: ``last``, the stored value; ``none``; ``all`` that is stored of the
#: history; or that many messages of it.
Replay = Word | int

REPLAY_REMEDY = f"{', '.join(map(repr, get_args(Word)))}, or a number of messages of at least 1"


def is_replay(value: Any) -> TypeGuard[Replay]:
    """Tell whether a value says what a newcomer is sent."""
    return value in get_args(Word) if isinstance(value, str) else type(value) is int and value >= 1


class Kept(NamedTuple):
    """A message in the history of a channel."""

    event: Event
    #: The time in milliseconds until which it is stored for newcomers; 0 if it is not.
    until: int


class Reading(NamedTuple):
    """All that Redis had of a channel at one moment.

    The history is for those who come back. What is stored is for newcomers: some of the history,
    and the value, which may be older than all that the history still has.
    """

    channel: str
    position: Position
    #: The last offset of each epoch before this one, the latest first.
    past: Mapping[str, int]
    #: The history, oldest first.
    events: Sequence[Event]
    #: What is stored, oldest first; the value comes last.
    stored: Sequence[Event] = ()
    #: The stored value; None if there is none, or none any more.
    value: Event | None = None

    @classmethod
    def of(
        cls,
        channel: str,
        position: Position,
        past: Mapping[str, int],
        kept: Sequence[Kept],
        value: bytes | None,
        number: int,
        now: int,
    ) -> Reading:
        """Make a reading of what is in Redis.

        The value is the message that was stored last, whether or not the history still has it. If
        the history has that message, and it is another one, a foreign program has stored the value,
        which has no number then.

        :param number: the offset of the message that was stored last; 0 if that is not known.
        :param now: the time in milliseconds.
        """
        events = [event for event, _ in kept]
        stored = [event for event, until in kept if until >= now]
        if value is None:
            if any(event.offset == number for event in stored):
                stored = []  # somebody has deleted the value to that end, before it has expired
            return cls(channel, position, past, events, stored)
        last = next((event for event in events if event.offset == number), None)
        if last is None or last.payload != value:
            known = number if last is None else 0
            last = Event(channel, value, position.epoch if known else "", known)
        stored = [event for event in stored if event.offset != last.offset]
        return cls(channel, position, past, events, [*stored, last], last)

    def replay(self, wanted: Replay = "all") -> Sequence[Event]:
        """Return the messages for somebody without a position.

        An empty message clears what came before it, as applications of legacy use it.
        """
        if wanted == "none":
            return []
        if wanted == "last":
            return [self.value] if self.value is not None and self.value.payload else []
        shown = self.stored
        for index in range(len(shown) - 1, -1, -1):
            if not shown[index].payload:
                shown = shown[index + 1 :]
                break
        return shown if wanted == "all" else shown[-wanted:]

    def since(self, position: Position) -> Outcome:
        """Return what was published after a position: everything, with a `Lost` for each hole."""
        at, sure = self._reached(position)
        outcome: Outcome = []
        for event in self.events:
            if event.offset <= at:
                continue
            if not sure or event.offset != at + 1:
                outcome.append(self._lost(event.offset - 1))
            outcome.append(event)
            at, sure = event.offset, True
        if not sure or at < self.position.offset:
            outcome.append(self._lost(self.position.offset))
        return outcome

    def _reached(self, position: Position) -> tuple[int, bool]:
        """Return the offset up to which a position has everything, and whether that is certain.

        A position may lie beyond the end of its epoch: Redis has lost what its owner had seen. Its
        owner then has what the epoch had in the end, and nothing of what came later.

        An epoch of this numbering that ``past`` does not know was a reign whose every write is
        lost, or that never wrote. It had begun after the last epoch that ended below the position.
        An epoch of another numbering says nothing about this one.
        """
        epoch, offset = position
        if epoch == self.position.epoch:
            return min(offset, self.position.offset), offset <= self.position.offset
        if epoch in self.past:
            return min(offset, self.past[epoch]), True
        if any(is_blank_still(epoch, known) for known in (self.position.epoch, *self.past)):
            return 0, True
        if numbering_of(epoch) == numbering_of(self.position.epoch):
            return max((end for end in self.past.values() if end < offset), default=offset), False
        return 0, False

    def _lost(self, offset: int) -> Lost:
        return Lost(self.channel, Position(self.position.epoch, offset))

    def with_events(self, others: Iterable[Event]) -> Reading:
        """Return the reading with messages that the history no longer has, or never had."""
        known = {event.offset for event in self.events}
        added = [event for event in others if event.offset not in known]
        if not added:
            return self
        events = sorted([*self.events, *added], key=lambda event: event.offset)
        return self._replace(events=events)


def is_blank_still(before: str, now: str) -> bool:
    """Tell whether of two epochs both are blank, and nothing can have come and gone in between."""
    state, _, time = before.rpartition(".")
    state_now, _, time_now = now.rpartition(".")
    if not state.startswith("-") or state != state_now:
        return False
    # One unit less, as both times are rounded. Who presents a position may have made it up.
    return time.isdecimal() and len(time) < 20 and 0 <= int(time_now) - int(time) < 9


def numbering_of(epoch: str) -> str:
    """Return the numbering of an epoch, without the reign."""
    return epoch.partition(".")[0]
