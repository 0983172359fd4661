"""What a socket is given when it goes live, and what is held back for it until then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from channels_ws4redis.protocol.history import Lost, Outcome, Reading
from channels_ws4redis.protocol.messages import Event


class Entry(NamedTuple):
    """What a newcomer is given of one channel in the step in which it goes live."""

    reading: Reading
    #: What has been delivered to the live sockets since the reading was made.
    after: Sequence[Event]


class Known(NamedTuple):
    """What a reading has found of a channel, without its history."""

    offset: int
    #: The payload that is stored; None if there is none.
    value: bytes | None


def known_of(entries: Iterable[Entry]) -> dict[str, Known]:
    """Return what readings have found, by channel."""
    known = {}
    for reading, _ in entries:
        value = None if reading.value is None else reading.value.payload
        known[reading.channel] = Known(reading.position.offset, value)
    return known


class Held:
    """Messages for a socket whose hook sends what is stored, and what was known before it ran."""

    __slots__ = ("bytes", "events", "known")

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.known = known_of(entries)
        self.events: Outcome = []
        self.bytes = 0


def without(
    events: Sequence[Event | Lost], payloads: Iterable[bytes], known: Mapping[str, Known]
) -> Outcome:
    """Return events without those that have been sent as stored payloads, one for each payload.

    A payload that was stored before says nothing about a message that came later: it was published
    once more.
    """
    left = list(events)
    for payload in payloads:
        for index, event in enumerate(left):
            before = known.get(event.channel)
            if before is None or isinstance(event, Lost) or event.payload != payload:
                continue
            if before.value != payload or event.offset <= before.offset:
                del left[index]
                break
    return left
