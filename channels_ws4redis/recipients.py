"""One socket as the fan-out sees it: what it is sent, and in which form."""

from __future__ import annotations

import uuid

from channels_ws4redis.messages import Event, Position, json_frame
from channels_ws4redis.outbox import Outbox
from channels_ws4redis.persistence import Missed, Snapshot


class Recipient:
    """Turns events into frames in the socket's outbox, each exactly once and in order.

    Until :meth:`replay` has been given the stored messages, live events are held back; those that
    the stored ones already contained are dropped by offset.

    :param outbox: takes the frames.
    :param echo: whether the socket gets its own messages back.
    :param labels: what the client calls each channel, for the package's own protocol; None for a
        client that gets raw frames.
    """

    __slots__ = ("_held", "_seen", "echo", "id", "labels", "outbox")

    def __init__(self, outbox: Outbox, echo: bool, labels: dict[str, str] | None) -> None:
        #: Identity as a sender.
        self.id = uuid.uuid4().hex
        self.outbox = outbox
        self.echo = echo
        self.labels = labels
        self._held: list[Event] | None = []
        #: By channel, what the replay contained, until live events have passed it.
        self._seen: dict[str, Snapshot] = {}

    @property
    def live(self) -> bool:
        """True once the replay has been sent."""
        return self._held is None

    def deliver(self, event: Event) -> None:
        """Send an event, unless it is held back, known, or the socket's own."""
        if self._held is not None:
            self._held.append(event)
            return
        if self._seen and self._knows(event):
            return
        self._send(event)

    def _send(self, event: Event) -> None:
        if event.sender == self.id and not self.echo:
            if self.labels is not None:
                self._send_position("position", event.channel, Position(event.epoch, event.offset))
        elif self.labels is not None:
            label = self.labels.get(event.channel)
            if label is not None:
                self.outbox.put(event.protocol_frame(label))
        elif event.payload:
            self.outbox.put(event.raw_frame)

    def _knows(self, event: Event) -> bool:
        snapshot = self._seen.get(event.channel)
        if snapshot is None or not event.offset:
            return False
        if event.epoch == snapshot.position.epoch:
            if event.offset <= snapshot.position.offset:
                return True
        elif event.epoch == snapshot.prev:
            return True
        del self._seen[event.channel]
        return False

    def missed(self, snapshot: Snapshot, positions: dict[str, Position]) -> Missed | None:
        """Return what a client has missed since its own position, or None if it gave none."""
        label = (self.labels or {}).get(snapshot.channel, "")
        position = positions.get(label)
        return None if position is None else snapshot.since(position)

    def replay(self, snapshots: list[Snapshot], positions: dict[str, Position]) -> None:
        """Send what is stored, then what was held back meanwhile, and go live.

        :param positions: by label, where the client stood when it was last connected.
        """
        answers = [(snapshot, self.missed(snapshot, positions)) for snapshot in snapshots]
        for snapshot, missed in answers:
            for event in snapshot.replay() if missed is None else missed.events:
                self._send_stored(event)
            self._seen[snapshot.channel] = snapshot
        held, self._held = self._held or [], None
        for event in held:
            self.deliver(event)

    def catch_up(
        self, channel: str, complete: bool, position: Position, events: list[Event]
    ) -> None:
        """Send what this process had missed on a channel while the socket was open."""
        if not complete and self.labels is not None and self._held is None:
            self._send_position("lost", channel, position)
        for event in events:
            self.deliver(event)

    def _send_stored(self, event: Event) -> None:
        if self.labels is not None:
            self.outbox.put(event.protocol_frame(self.labels[event.channel]))
        elif event.payload:
            self.outbox.put(event.raw_frame)

    def _send_position(self, kind: str, channel: str, position: Position) -> None:
        label = (self.labels or {}).get(channel)
        if label is not None and position.offset:
            self.outbox.put(
                json_frame(
                    {
                        "type": kind,
                        "channel": label,
                        "epoch": position.epoch,
                        "offset": position.offset,
                    }
                )
            )
