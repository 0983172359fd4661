"""Where a client stands, by the frames that it got: the rule of ``ws4redis.js`` once more. No I/O.

The names of what is here are those of the browser's client, and ``tests/js/vectors.json`` drives
both. Nothing is imported from the package, as the torture test judges it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Position(NamedTuple):
    """A message's place in a channel's history."""

    epoch: str
    offset: int


@dataclass(slots=True)
class Replay:
    """The stored or missed messages that are arriving."""

    #: The offset that the client has reached when they have arrived.
    top: int
    #: What the welcome said: all that was missed, not all, or None for what is stored.
    recovered: bool | None
    #: How many have yet to arrive; infinite if something else tells their end.
    left: float
    #: True if the server said how many there are.
    counted: bool
    #: How many have arrived and were new.
    messages: int = 0


class Track:
    """Where the client stands in the history of one channel.

    ``known`` is the position that the server is told on reconnecting. ``epoch`` and ``seen`` tell
    what has been delivered, so that nothing is delivered twice. ``replay`` is there while stored or
    missed messages arrive. Its end brings the client to ``top``, even where the newest messages
    were not stored.
    """

    def __init__(self, known: Position | None = None) -> None:
        self.known = known
        self.epoch = known.epoch if known else None
        self.seen = known.offset if known else -1
        self.replay: Replay | None = None

    def reached(self, epoch: str | None, offset: int) -> bool:
        """Tell whether the server would be told this position, or a later one."""
        return self.known is not None and self.known.epoch == epoch and self.known.offset >= offset

    def begin(self, channel: Mapping[str, Any]) -> Replay | None:
        """Hear what follows; there is no count if the server did not say how many messages.

        :param channel: what a welcome says of the channel.
        :returns: the replay, if it has ended already.
        """
        epoch, top, recovered = channel["epoch"], channel["offset"], channel["recovered"]
        count = channel.get("replay")
        # Offsets go back if the store was restored to an older state; they will be used again.
        if epoch != self.epoch or (not recovered and top < self.seen):
            self.epoch, self.seen = epoch, -1
        # What was recovered has no gaps: its last message tells the end better than their number.
        left = math.inf if count is None or (recovered and count > 0) else count
        self.replay = Replay(top, recovered, left, counted=count is not None)
        if self.known is None and count:
            # If the link breaks before the replay has arrived, this makes the server send it again.
            self.known = Position(epoch, max(0, top - count))
        return self.finish() if left == 0 or (recovered and self.reached(epoch, top)) else None

    def take(self, epoch: str, offset: int) -> bool:
        """Tell whether a message is new; it then is the newest one.

        The first message of a channel has another epoch than the empty history before it, and
        follows on that without a loss.
        """
        if epoch != self.epoch:
            self.replay = None
        elif offset <= self.seen:
            return False
        self.epoch, self.seen = epoch, offset
        if not self.reached(epoch, offset):
            self.known = Position(epoch, offset)
        return True

    def count(self, arrived: int, fresh: int) -> Replay | None:
        """Count what arrived, and what of it was new; return the replay at its end."""
        replay = self.replay
        if replay is None:
            return None
        replay.left -= arrived
        replay.messages += fresh
        return self.finish() if replay.left <= 0 or self.seen >= replay.top else None

    def lose(self, epoch: str, offset: int) -> None:
        """What is missing up to here is gone for good; the next message has the next offset."""
        self.replay = None
        self.epoch, self.seen = epoch, offset
        self.known = Position(epoch, offset)

    def settle(self) -> Replay | None:
        """A heartbeat ends a replay of unknown length, as the server sends everything in order."""
        return self.finish() if self.replay is not None and not self.replay.counted else None

    def finish(self) -> Replay | None:
        """End the replay and return it."""
        replay, self.replay = self.replay, None
        assert replay is not None
        assert self.epoch is not None
        self.known = Position(self.epoch, max(self.seen, replay.top))
        return replay


class Outcome(NamedTuple):
    """What a frame tells: a ``message``, ``repeated`` one, something ``lost`` or ``recovered``."""

    kind: str
    channel: str
    #: The payload of a message.
    data: str = ""
    #: How many messages a recovery consisted of.
    messages: int = 0


class Tracks:
    """Where the client stands in every channel of its socket.

    :param positions: the positions to go on from, by label, as in a ``hello``.
    """

    def __init__(self, positions: Mapping[str, Mapping[str, Any]]) -> None:
        self._tracks = {label: Track(Position(**known)) for label, known in positions.items()}

    @property
    def positions(self) -> dict[str, dict[str, Any]]:
        """The newest positions, as they belong into a ``hello``."""
        tracks = self._tracks.items()
        return {label: track.known._asdict() for label, track in tracks if track.known}

    def received(self, frame: Mapping[str, Any]) -> list[Outcome]:
        """Take a frame of the server and return what it means, in order."""
        match frame["type"]:
            case "welcome":
                return self._welcome(frame["channels"])
            case "message":
                return self._message(frame)
            case "position" | "purged":
                return self._skip(frame)
            case "lost":
                return self._lost(frame)
            case "ping" | "pong":
                return self._settle()
        return []  # not for this version of the client

    def _track(self, label: str) -> Track:
        return self._tracks.setdefault(label, Track())

    def _welcome(self, channels: Mapping[str, Mapping[str, Any]]) -> list[Outcome]:
        outcomes = []
        for label, channel in channels.items():
            # Without an epoch the server keeps no positions for the channel.
            ended = self._track(label).begin(channel) if channel["epoch"] else None
            if channel["recovered"] is False:
                outcomes.append(Outcome("lost", label))
            outcomes += self._ended(label, ended)
        return outcomes

    def _message(self, frame: Mapping[str, Any]) -> list[Outcome]:
        label, data = frame["channel"], frame["data"]
        # A message of a foreign program has no position, so it cannot repeat nor advance anything.
        if not frame.get("epoch"):
            return [Outcome("message", label, data)]
        track = self._track(label)
        fresh = track.take(frame["epoch"], frame["offset"])
        ended = track.count(1, int(fresh))
        kind = "message" if fresh else "repeated"
        return [Outcome(kind, label, data), *self._ended(label, ended)]

    def _skip(self, frame: Mapping[str, Any]) -> list[Outcome]:
        """The channel has moved on by messages that are not for this client, such as its own."""
        track = self._track(frame["channel"])
        track.take(frame["epoch"], frame["offset"])
        return self._ended(frame["channel"], track.count(0, 0))

    def _lost(self, frame: Mapping[str, Any]) -> list[Outcome]:
        if frame.get("epoch"):
            self._track(frame["channel"]).lose(frame["epoch"], frame["offset"])
        return [Outcome("lost", frame["channel"])]

    def _settle(self) -> list[Outcome]:
        tracks = self._tracks.items()
        return [told for label, track in tracks for told in self._ended(label, track.settle())]

    def _ended(self, label: str, replay: Replay | None) -> list[Outcome]:
        if replay is None or not replay.recovered:
            return []
        return [Outcome("recovered", label, messages=replay.messages)]
