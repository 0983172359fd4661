"""What is kept of channels, for whoever asks a publisher; a part of `publisher`. Private."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from channels_ws4redis.protocol.history import Lost, Reading
from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.publish.keeping import as_number

#: What somebody has, who asks for what came after it.
Since = Position | Mapping[str, Position]


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is kept of a channel."""

    payload: bytes
    #: Its place in the channel.
    position: Position


@dataclass(frozen=True, slots=True)
class History:
    """Messages that are kept of a channel, the oldest first."""

    messages: tuple[Message, ...]
    #: Up to where they reach: the ``since`` of whoever wants to go on from here.
    position: Position
    #: True if between ``since`` and here something is missing, or may be.
    lost: bool = False


#: Channels that are read in one round trip: of each there may be a megabyte, and others wait.
MAX_AT_ONCE = 50


class Inquiry:
    """What somebody asks of the histories of some channels, and what has been found.

    :param since: see `RedisPublisher.history`.
    :raises ValueError: if that can only be a mistake.
    """

    def __init__(self, channels: Sequence[str], since: Since | None, limit: int | None) -> None:
        self._channels = channels
        self._since = _by_channel(since, channels)
        self._limit = None if limit is None else as_number("limit", limit, 1)
        self.found: dict[str, History] = {}

    def parts(self) -> Iterator[Sequence[str]]:
        """Yield the channels that are to be read, as many as are read at once."""
        for first in range(0, len(self._channels), MAX_AT_ONCE):
            yield self._channels[first : first + MAX_AT_ONCE]

    def take(self, readings: Iterable[Reading | Exception]) -> None:
        """Take what has been read of some channels.

        :raises redis.exceptions.RedisError: if one of them could not be read.
        """
        for reading in readings:
            if isinstance(reading, Exception):
                raise reading
            since = self._since.get(reading.channel)
            history = self._last(reading) if since is None else self._next(reading, since)
            self.found[reading.channel] = history

    def _last(self, reading: Reading) -> History:
        events = reading.events if self._limit is None else reading.events[-self._limit :]
        return History(tuple(map(_message, events)), reading.position)

    def _next(self, reading: Reading, since: Position) -> History:
        messages: list[Message] = []
        lost = False
        for each in reading.since(since):
            if len(messages) == self._limit:
                return History(tuple(messages), messages[-1].position, lost)
            if isinstance(each, Lost):
                lost = True
            elif each.offset:  # what a foreign program has stored has no place among these
                messages.append(_message(each))
        return History(tuple(messages), reading.position, lost)


def _message(event: Event) -> Message:
    return Message(event.payload, Position(event.epoch, event.offset))


def _by_channel(since: Any, channels: Sequence[str]) -> Mapping[str, Position]:
    if since is None:
        return {}
    if not isinstance(since, Mapping) or since.keys() == set(Position._fields):
        if len(channels) != 1:
            raise ValueError(
                f"since={since!r} is one position, and the publisher has {len(channels)} channels; "
                "pass a dict of positions by channel, such as publish_message returns."
            )
        since = {channels[0]: since}
    for name in since:
        if name not in channels:
            known = ", ".join(map(shown, channels)) or "none"
            raise ValueError(
                f"since has a position of {name!r}, which is no channel of the publisher; there "
                f"is {known}."
            )
    return {name: _as_position(position) for name, position in since.items()}


def _as_position(value: Any) -> Position:
    """Return a position, which may have been JSON meanwhile."""
    is_dict = isinstance(value, Mapping)
    parts = [value.get(name) for name in Position._fields] if is_dict else value
    if isinstance(parts, tuple | list) and len(parts) == 2:
        epoch, offset = parts
        if isinstance(epoch, str) and type(offset) is int and offset >= 0:
            return Position(epoch, offset)
    raise ValueError(
        f"since={value!r} is no position; pass one that publish_message or history returned."
    )
