"""One socket as the fan-out sees it: what it is sent, and in which form."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.protocol.messages import Event, Position, json_frame
from channels_ws4redis.protocol.track import Recovery
from channels_ws4redis.store.commands import Missed, Snapshot


class Recipient:
    """Turns events into frames in the socket's outbox, each exactly once and in order.

    Until :meth:`replay` has been given the stored messages, live events are held back; those that
    the stored ones already contained are dropped by offset.

    :param outbox: takes the frames.
    :param echo: whether the socket gets its own messages back.
    :param labels: what the client calls each channel, for the package's own protocol; None for a
        client that gets raw frames.
    """

    __slots__ = ("_held", "_held_bytes", "_jumped", "_seen", "echo", "id", "labels", "outbox")

    def __init__(self, outbox: Outbox, echo: bool, labels: dict[str, str] | None) -> None:
        #: Identity as a sender.
        self.id = uuid.uuid4().hex
        self.outbox = outbox
        self.echo = echo
        self.labels = labels
        self._held: list[Event] | None = []
        self._held_bytes = 0
        self._jumped = False
        #: By channel, what the replay contained, until live events have passed it.
        self._seen: dict[str, Snapshot] = {}

    @property
    def live(self) -> bool:
        """True once the replay has been sent."""
        return self._held is None

    def deliver(self, event: Event) -> None:
        """Send an event, unless it is held back, known, or the socket's own."""
        if self._held is not None:
            self._hold(event)
            return
        if self._seen and self._knows(event):
            return
        self._send(event)

    def _hold(self, event: Event) -> None:
        assert self._held is not None
        self._held.append(event)
        self._held_bytes += len(event.payload)
        if not self.outbox.has_room_for(len(self._held), self._held_bytes):
            self.hold()
            self._jumped = True

    def hold(self) -> None:
        """Forget what was held back: the history will be read once more, and has it."""
        self._held, self._held_bytes, self._jumped = [], 0, False

    def follows(self, snapshots: Iterable[Snapshot]) -> bool:
        """Tell whether what was held back follows on the stored messages, without a gap.

        If not, the link to Redis was lost in between, and the history has to be read once more.
        """
        reached = {snapshot.channel: snapshot for snapshot in snapshots}
        offsets = {name: snapshot.position.offset for name, snapshot in reached.items()}
        for event in self._held or ():
            snapshot = reached.get(event.channel)
            if snapshot is None or not event.offset or snapshot.succeeds(event.epoch):
                continue
            if event.epoch != snapshot.position.epoch:
                return False
            if event.offset > offsets[event.channel] + 1:
                return False
            offsets[event.channel] = max(event.offset, offsets[event.channel])
        return not self._jumped

    def _send(self, event: Event, stored: bool = False) -> None:
        if event.sender == self.id and not self.echo:
            if self.labels is not None:
                self._send_position("position", event.channel, Position(event.epoch, event.offset))
        elif self.labels is not None:
            label = self.labels.get(event.channel)
            if label is not None:
                self.outbox.put(event.protocol_frame(label), stored)
        elif event.payload:
            self.outbox.put(event.raw_frame, stored)

    def _knows(self, event: Event) -> bool:
        snapshot = self._seen.get(event.channel)
        if snapshot is None or not event.offset:
            return False
        if event.epoch == snapshot.position.epoch:
            if event.offset <= snapshot.position.offset:
                return True
        elif snapshot.succeeds(event.epoch):
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
        for snapshot in snapshots:
            missed = self.missed(snapshot, positions)
            for event in snapshot.replay() if missed is None else missed.events:
                self._send_stored(event)
                if not event.offset:  # stored by a legacy server, which publishes it as well
                    self.forget_held([event.payload], [snapshot])
            self._seen[snapshot.channel] = snapshot
        held, self._held = self._held or [], None
        for event in held:
            self.deliver(event)

    def forget_held(self, payloads: Iterable[bytes], snapshots: Iterable[Snapshot]) -> None:
        """Drop held events that the client has been sent as stored payloads, one for each.

        :param snapshots: what was stored before. A payload that was stored already says nothing
            about an event that came later: it was published once more.
        """
        before = {snapshot.channel: snapshot for snapshot in snapshots}
        held = self._held or []
        for payload in payloads:
            for index, event in enumerate(held):
                known = before.get(event.channel)
                if (
                    known is not None
                    and event.payload == payload
                    and (known.value != payload or event.offset <= known.position.offset)
                ):
                    del held[index]
                    break

    def catch_up(self, snapshot: Snapshot, recovery: Recovery) -> None:
        """Send what this process had missed on a channel while the socket was open.

        A client of the package's own protocol is told before each gap up to where it reaches.
        """
        channel, (epoch, top) = snapshot.channel, snapshot.position
        _, reached, events, torn = recovery
        if self._held is not None:
            self._jumped = self._jumped or not recovery.complete
            for event in events:
                self._hold(event)
            return
        regressed = reached > top
        seen = self._seen.get(channel)
        if seen is not None:
            # It connected while the group was behind: where it stood itself counts.
            _, reached, _, torn = snapshot.since(seen.position)
            events = [event for event in events if event.offset > reached or not event.offset]
            regressed = False
            if reached <= top:
                self._seen[channel] = snapshot
        for event in events:
            if event.offset:
                if (
                    reached < 0
                    or event.offset > reached + 1
                    or any(reached <= offset < event.offset for offset in torn)
                ):
                    self._send_position("lost", channel, Position(epoch, event.offset - 1))
                reached = event.offset
            self._send(event, stored=True)
        if reached < top or regressed or any(offset >= reached for offset in torn):
            self._send_position("lost", channel, snapshot.position)

    def _send_stored(self, event: Event) -> None:
        if self.labels is not None:
            self.outbox.put(event.protocol_frame(self.labels[event.channel]), stored=True)
        elif event.payload:
            self.outbox.put(event.raw_frame, stored=True)

    def _send_position(self, kind: str, channel: str, position: Position) -> None:
        label = (self.labels or {}).get(channel)
        if label is not None and position.epoch:
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
