"""One subscription of a socket as the fan-out sees it: what it is sent, and in which form."""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Protocol

from channels_ws4redis.fanout.held import Entry, Held, known_of, without
from channels_ws4redis.fanout.outbox import CLOSED, Outbox
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.history import Lost, Outcome, Reading, Replay
from channels_ws4redis.protocol.messages import Event, Position, json_frame

#: Seconds between pings to clients of the package's own protocol; the ``welcome`` names it.
PING_INTERVAL = 20.0


class Recipient(Protocol):
    """What listens on a channel: a `Socket`, or the package itself."""

    def deliver(self, event: Event) -> None:
        """Take a message."""

    def recover(self, items: Outcome) -> None:
        """Take what was missed, and word of losses."""

    def end(self, error: Exception) -> None:
        """Hear no more, as Redis refuses one of the channels."""


class Owner(Protocol):
    """What a `Socket` is of."""

    def end(self, code: int, why: Exception) -> None:
        """Hear no more, with a close code; `why` is for the log."""


class Socket:
    """Turns messages into frames in the socket's outbox.

    A socket with several subscriptions has one of these for each.

    :param outbox: takes the frames; all subscriptions of the socket share it.
    :param echo: whether the socket gets its own messages back.
    :param labels: what the client calls each channel, for the package's own protocol; None for a
        client that gets raw frames.
    :param replay: what the socket is sent of what is stored when it has no position.
    :param owner: told if the socket must hear no more; None if nobody has to be.
    :param number: the id that the client has given the subscription; 0 for that of the URL.
    """

    __slots__ = (
        "_by_hook",
        "_held",
        "_id",
        "_owner",
        "_replay",
        "echo",
        "labels",
        "number",
        "outbox",
        "replayed",
    )

    def __init__(
        self,
        outbox: Outbox,
        echo: bool,
        labels: dict[str, str] | None,
        replay: Replay = "last",
        owner: Owner | None = None,
        number: int = 0,
    ) -> None:
        #: Identity as a sender; None for one that has sent nothing yet, as most never do.
        self._id: str | None = None
        self.outbox = outbox
        self.number = number
        self.echo = echo
        self.labels = labels
        self._replay = replay
        #: True once the socket has been sent what is stored, be it by a hook.
        self.replayed = False
        #: True once an overridden ``send_persisted_messages`` is to send what is stored.
        self._by_hook = False
        #: While that runs, or in a pause; None otherwise.
        self._held: Held | None = None
        # Not a method of it, which would be one more object for each socket.
        self._owner = owner

    @property
    def id(self) -> str:
        """Identity as a sender."""
        if self._id is None:
            self._id = uuid.uuid4().hex
        return self._id

    def close(self) -> None:
        """Send nothing any more, nor what still waits for the client."""
        self.outbox.drop(self)
        self.outbox, self._held = CLOSED, None

    def end(self, error: Exception) -> None:
        """Have the socket closed, as Redis refuses one of its channels."""
        if self._owner is not None:
            self._owner.end(codes.TRY_AGAIN_LATER, error)

    @property
    def started(self) -> bool:
        """True once `start` has been called, also if a hook has still to send what is stored."""
        return self.replayed or self._by_hook

    def start(
        self,
        entries: Sequence[Entry],
        positions: Mapping[str, Position],
        hold: bool = False,
        further: int = 0,
    ) -> None:
        """Send what is stored, or what the client has missed, and what has come since.

        A client of the package's own protocol is told first where each channel stands.

        :param positions: by label, where the client stood when it was last connected.
        :param hold: send nothing but the welcome until `let_go` is called.
        :param further: how many further subscriptions the client is told that it may have.
        """
        outcomes = [self._outcome(reading, positions) for reading, _ in entries]
        if self.labels is not None:
            welcome = {"type": "welcome", "heartbeat": PING_INTERVAL, "subscriptions": further}
            greeting = {"type": "subscribed"} if self.number else welcome
            self._put(greeting | {"channels": self._channels(entries, outcomes, positions)})
        if hold:
            self._by_hook = True
            self._held = Held(entries)
            self.go_on(entries)
            return
        self.replayed = True
        stored = [event for events in outcomes for event in events if isinstance(event, Event)]
        foreign: dict[str, list[bytes]] = {}
        for event in stored:
            self.deliver(event, stored=True)
            if not event.offset:
                foreign.setdefault(event.channel, []).append(event.payload)
        known = known_of(entries)
        for reading, after in entries:
            # A legacy server publishes what it stores in two steps, so both may have reached us.
            for item in without(after, foreign.get(reading.channel, ()), known):
                self._pass_on(item)

    def go_on(self, entries: Sequence[Entry]) -> None:
        """Go on with further channels, without what is stored of them."""
        for _, after in entries:
            for event in after:
                self.deliver(event)

    def _outcome(self, reading: Reading, positions: Mapping[str, Position]) -> Outcome:
        position = positions.get((self.labels or {}).get(reading.channel, ""))
        if position is None:
            return list(reading.replay(self._replay))
        return reading.since(position)

    def _channels(
        self,
        entries: Sequence[Entry],
        outcomes: Sequence[Outcome],
        positions: Mapping[str, Position],
    ) -> dict[str, Any]:
        """Return what the client is told of each channel before anything else."""
        channels = {}
        for (reading, _), outcome in zip(entries, outcomes, strict=True):
            label = (self.labels or {}).get(reading.channel)
            losses = sum(isinstance(item, Lost) for item in outcome)
            if label is not None:
                channels[label] = {
                    **reading.position._asdict(),
                    "recovered": not losses if label in positions else None,
                    "replay": len(outcome) - losses,
                }
        return channels

    def _put(self, body: dict[str, Any]) -> None:
        frame = json_frame({"id": self.number} | body if self.number else body)
        self.outbox.put(frame, self)

    def pause(self) -> None:
        """Hold back all messages until `resume`; not to be called while a hook replays."""
        if self._held is None:
            self._held = Held()

    def resume(self) -> None:
        """Send what was held back in a pause."""
        held, self._held = self._held, None
        for item in held.events if held is not None else ():
            self._pass_on(item)

    def drop(self, channels: Container[str]) -> None:
        """Forget what is held back of channels that the socket may not hear any more."""
        if self._held is not None:
            self._held.events = [i for i in self._held.events if i.channel not in channels]

    def let_go(self, sent: Iterable[bytes]) -> None:
        """Send what was held back, but for what a hook has sent meanwhile.

        :param sent: the payloads that the hook has sent.
        """
        held, self._held = self._held, None
        self.replayed = True
        if held is not None:
            for item in without(held.events, sent, held.known):
                self._pass_on(item)

    def deliver(self, event: Event, stored: bool = False) -> None:
        """Send a message, unless it is the socket's own.

        :param stored: it comes from the history, which has a bound of its own.
        """
        if self._held is not None:
            self._hold(event, self._held)
            return
        if event.sender == self._id and not self.echo:
            if event.offset:
                position = Position(event.epoch, event.offset)
                self._send_position("position", event.channel, position)
            return
        label = None
        if self.labels is not None:
            label = self.labels.get(event.channel)
            if label is None:
                return
        elif not event.payload:
            return
        if stored and self.outbox.busy:
            # It is encoded only once the client takes it.
            self.outbox.put_stored(event.later(label, self.number), len(event.payload), self)
        else:
            self.outbox.put(event.frame(label, self.number), self)

    def _hold(self, item: Event | Lost, held: Held) -> None:
        held.events.append(item)
        held.bytes += 0 if isinstance(item, Lost) else len(item.payload)
        if not self.outbox.has_room_for(len(held.events), held.bytes):
            self._held = Held()
            self.outbox.overflow()

    def recover(self, items: Outcome) -> None:
        """Send what the group had missed, and word of losses, to a live socket.

        It is stored, and does not count against the bounds of the outbox. But a client that has not
        even taken what came before gets no more than these allow, however often the group recovers.
        """
        idle = not self.outbox.holds(self)
        for item in items:
            self._pass_on(item, stored=idle)

    def _pass_on(self, item: Event | Lost, stored: bool = False) -> None:
        if isinstance(item, Lost):
            self.tell(item)
        else:
            self.deliver(item, stored)

    def tell(self, lost: Lost) -> None:
        """Tell a client of the package's own protocol that messages are missing."""
        if self._held is not None:
            self._hold(lost, self._held)  # what is held back came before
        else:
            self._send_position("lost", lost.channel, lost.position)

    def _send_position(self, kind: str, channel: str, position: Position) -> None:
        label = (self.labels or {}).get(channel)
        if label is not None:
            self._put({"type": kind, "channel": label, **position._asdict()})
