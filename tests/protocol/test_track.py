"""The recovery logic against a simple model: a list of messages, and what a client saw of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.protocol.track import MAX_HELD, Track
from channels_ws4redis.store.commands import Past, Snapshot

CHANNEL = "broadcast:foo"


class History:
    """What the scripts do in Redis, in a few lines: the model that everything is held against."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0  # of payloads ever published, each of which is unique
        self.epochs = 0
        self.flush()

    def flush(self) -> None:
        """Lose everything."""
        self.epoch, self.offset = "", 0
        self.past: list[Past] = []
        self.events: list[Event] = []
        self.restarted = self.exact_restart = True

    def restart(self, lost: int, exact: bool) -> None:
        """Come back without the last messages; ``exact`` only if there are none."""
        # Data from before the epoch would not know of it.
        self.offset = max(self.past[0].offset if self.past else 0, self.offset - lost)
        self.events = [event for event in self.events if event.offset <= self.offset]
        self.exact_restart = exact and not lost and (self.exact_restart or not self.restarted)
        self.restarted = True

    def _renew(self) -> None:
        if self.restarted:
            self.epochs += 1
            if self.epoch:
                self.past = [Past(self.epoch, self.offset, self.exact_restart), *self.past]
            self.epoch, self.restarted = f"e{self.epochs}", False

    def publish(self, stored: bool = True) -> Event:
        """Publish a new message."""
        self._renew()
        self.offset += 1
        self.count += 1
        event = Event(CHANNEL, b"%d" % self.count, self.epoch, self.offset)
        if stored:
            self.events = [*self.events, event][-self.size :]
        return event

    def read(self) -> Snapshot:
        """Return what a process reads."""
        self._renew()
        events = [Event(CHANNEL, e.payload, self.epoch, e.offset) for e in self.events]
        value = events[-1].payload if events else None
        position = Position(self.epoch, self.offset)
        return Snapshot(CHANNEL, position, self.past, value, events)


class Client:
    """A client of the package's own protocol, as the manual tells to write one."""

    def __init__(self) -> None:
        self.position: Position | None = None
        self.log: list[int | str] = []

    def take(self, frame: dict) -> None:
        """Take a frame."""
        body = json.loads(frame["text"])
        position = Position(body["epoch"], body["offset"])
        if body["type"] == "message":
            if self.position and self.position.epoch == position.epoch:
                assert position.offset > self.position.offset, "sent twice or out of order"
            self.log.append(int(body["data"]))
        else:
            assert body["type"] == "lost"
            self.log.append("lost")
        self.position = position

    def check(self, published: int) -> None:
        """Whatever is missing between two messages has been reported in between."""
        before, reported, seen = 0, True, set()
        for entry in [*self.log, published + 1]:
            if entry == "lost":
                reported = True
                continue
            assert entry not in seen, f"{entry} twice in {self.log}"
            seen.add(entry)
            assert reported or entry == before + 1, f"{before} to {entry} in {self.log}"
            before, reported = entry, False


def recipient(client: Client) -> Recipient:
    """Return the server's end of a client."""

    async def send(frame: dict) -> None:
        client.take(frame)

    outbox = Outbox(send, 10_000, 10**9, lambda: pytest.fail("overflow"))
    return Recipient(outbox, echo=True, labels={CHANNEL: "broadcast"})


class Process:
    """One process with sockets: a track, a link that loses events, and sockets that join."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.track = Track()
        self.recipients: list[Recipient] = []
        self.queue: list[Event] = []
        self.linked = True
        self.joining: list[tuple[Recipient, Client, Snapshot]] = []

    def join(self) -> Client:
        """Let a socket join and read, but not go live yet."""
        client = Client()
        member = recipient(client)
        self.recipients.append(member)
        self._read(member, client)
        return client

    def _read(self, member: Recipient, client: Client) -> None:
        snapshot = self.history.read()
        self.track.start(snapshot.position)
        if self.track.position and self.track.position.epoch != snapshot.position.epoch:
            self.track.suspect()
        self.joining.append((member, client, snapshot))

    def go_live(self) -> None:
        """Replay to a socket that has read before, unless it has to read again."""
        if not self.joining:
            return
        member, client, snapshot = self.joining.pop(0)
        while not member.follows([snapshot]):
            member.hold()
            snapshot = self.history.read()
        member.replay([snapshot], {})
        # Nobody has promised that what is stored has no gaps, nor that it reaches up to the top.
        stored = snapshot.replay()
        told = [x for entry in client.log[: len(stored)] for x in ("lost", entry)]
        if not stored or stored[-1].offset != snapshot.position.offset:
            told.append("lost")
        client.log = [*told, *client.log[len(stored) :]]

    def receive(self) -> None:
        """Take the oldest event from the link."""
        if self.queue:
            for event in self.track.receive(self.queue.pop(0)):
                for member in self.recipients:
                    member.deliver(event)

    def catch_up(self) -> None:
        """Read the history if something is missing."""
        if self.track.behind:
            snapshot = self.history.read()
            for event in self.track.ended(snapshot):
                for member in self.recipients:
                    member.deliver(event)
            recovery = self.track.recover(snapshot)
            for member in self.recipients:
                member.catch_up(snapshot, recovery)

    def relink(self) -> None:
        """Have the link back, and suspect what there is to suspect."""
        if not self.linked:
            self.linked = True
            self.track.suspect()

    def publish(self, event: Event) -> None:
        """Hear of an event, or not."""
        if self.linked:
            self.queue.append(event)

    def finish(self) -> None:
        """Come to rest: everything has arrived and been made good."""
        self.relink()
        while self.queue or self.track.behind or self.joining:
            self.receive()
            self.catch_up()
            self.go_live()


STEPS = st.lists(
    st.sampled_from(
        ["publish"] * 4
        + ["receive"] * 4
        + ["catch_up", "catch_up", "unlink", "relink", "drop", "join", "go_live", "pass"]
        + ["flush", "restart", "restart_older", "restart_unsure", "publish_unstored"]
    ),
    max_size=60,
)


@settings(max_examples=600, deadline=None)
@given(steps=STEPS, size=st.sampled_from([1, 3, 100]))
def test_every_client_gets_everything_or_is_told(steps: list[str], size: int) -> None:  # noqa: C901 # one case per step
    """Whatever fails between any two steps: no gap without a report, nothing twice, in order."""
    history = History(size)
    process = Process(history)
    clients = [(process.join(), 0)]
    process.go_live()
    for step in steps:
        match step:
            case "publish" | "publish_unstored":
                process.publish(history.publish(stored=step == "publish"))
            case "receive":
                process.receive()
            case "catch_up":
                process.catch_up()
            case "unlink":
                process.linked = False
            case "relink":
                process.relink()
            case "drop" if process.queue:
                # The layer has dropped a message in between. Only what follows can tell.
                process.queue.pop()
                process.track.suspect()
            case "join" if len(clients) < 6:
                clients.append((process.join(), history.count))
            case "go_live":
                process.go_live()
            case "flush":
                # Nobody tells a process of it, so the link may stay.
                history.flush()
            case "restart" | "restart_older" | "restart_unsure":
                process.linked = False
                history.restart(2 if step == "restart_older" else 0, step == "restart")
    # A last message, as what was lost at the very end of a flushed history shows up with the next.
    process.relink()
    process.publish(history.publish())
    process.finish()
    for client, _ in clients:
        client.check(history.count)


@settings(max_examples=600, deadline=None)
@given(
    steps=st.lists(
        st.sampled_from(
            ["publish"] * 6
            + ["publish_unstored", "flush", "restart", "restart_older", "restart_unsure"]
            + ["leave", "come", "come"]
        ),
        max_size=60,
    ),
    size=st.sampled_from([1, 3, 100]),
)
def test_a_client_that_comes_back_gets_everything_or_is_told(steps: list[str], size: int) -> None:
    """The answer to a position is everything, or an admission, across any change of the epoch."""
    history = History(size)
    client = Client()
    online: Recipient | None = None

    def come() -> Recipient:
        member = recipient(client)
        snapshot = history.read()
        positions = {} if client.position is None else {"broadcast": client.position}
        missed = member.missed(snapshot, positions)
        top = snapshot.position
        if missed is None or not missed.complete:
            # Whatever is missing up to the top has been reported, wherever the gaps are.
            client.position = Position(top.epoch, 0)
            before, client.log = client.log, []
            member.replay([snapshot], positions)
            client.log = [*before, *(x for entry in client.log for x in ("lost", entry)), "lost"]
        else:
            member.replay([snapshot], positions)
        client.position = top
        return member

    for step in steps:
        match step:
            case "publish" | "publish_unstored":
                event = history.publish(stored=step == "publish")
                if online:
                    online.deliver(event)
            case "flush":
                history.flush()
                online = None
            case "restart" | "restart_older" | "restart_unsure":
                # "older" loses what somebody may have seen.
                history.restart(2 if step == "restart_older" else 0, step == "restart")
                online = None
            case "leave":
                online = None
            case "come" if online is None:
                online = come()
    come()
    client.check(history.count)


def event(offset: int, epoch: str = "a") -> Event:
    """Return an event at a position."""
    return Event(CHANNEL, b"%d" % offset, epoch, offset)


def snapshot(top: int, *past: Past, first: int = 1, epoch: str = "a") -> Snapshot:
    """Return a history with the entries from ``first`` to ``top``."""
    events = [event(offset, epoch) for offset in range(first, top + 1)]
    value = events[-1].payload if events else None
    return Snapshot(CHANNEL, Position(epoch, top), past, value, events)


def offsets(events: list[Event]) -> list[int]:
    """Return the offsets of events."""
    return [event.offset for event in events]


def test_an_event_that_follows_is_delivered_at_once() -> None:
    track = Track()
    track.start(Position("a", 3))
    assert offsets(track.receive(event(4))) == [4]
    assert not track.behind


def test_an_event_that_is_known_is_dropped() -> None:
    track = Track()
    track.start(Position("a", 3))
    assert track.receive(event(3)) == []
    assert not track.behind


def test_an_event_after_a_gap_waits_for_the_history() -> None:
    track = Track()
    track.start(Position("a", 3))
    assert track.receive(event(6)) == []
    assert track.behind
    recovery = track.recover(snapshot(6))
    assert recovery.complete
    assert offsets(recovery.events) == [4, 5, 6]
    assert not track.behind


def test_what_arrived_after_the_gap_counts_where_the_history_is_shorter() -> None:
    """With a history of one entry, the events that were held back are delivered all the same."""
    track = Track()
    track.start(Position("a", 3))
    for offset in (5, 6, 7):
        track.receive(event(offset))
    recovery = track.recover(snapshot(7, first=7))
    assert not recovery.complete
    assert recovery.seen == 3
    assert offsets(recovery.events) == [5, 6, 7]


def test_held_events_can_complete_the_history() -> None:
    track = Track()
    track.start(Position("a", 3))
    track.suspect()
    for offset in (4, 5, 6):
        track.receive(event(offset))
    recovery = track.recover(snapshot(6, first=6))
    assert recovery.complete
    assert offsets(recovery.events) == [4, 5, 6]


def test_a_suspicion_before_the_first_reading_outlives_it() -> None:
    """The link may be lost while the answer to the first reading is under way."""
    track = Track()
    track.suspect()
    track.start(Position("a", 10))
    assert track.behind
    assert offsets(track.recover(snapshot(11)).events) == [11]


def test_a_layer_that_changes_the_order_costs_no_suspicion() -> None:
    """Events that arrive late settle a gap, but not the suspicion that the link was lost."""
    track = Track()
    track.start(Position("a", 0))
    track.receive(event(2))
    track.receive(event(1))
    assert offsets(track.late()) == [1, 2]
    assert not track.behind
    track.suspect()
    assert track.late() == []
    assert track.behind


def test_a_restart_without_loss_is_recovered() -> None:
    track = Track()
    track.start(Position("a", 3))
    track.suspect()
    after = snapshot(6, Past("a", 4, True), epoch="b")
    recovery = track.recover(after)
    assert recovery.complete
    assert offsets(recovery.events) == [4, 5, 6]


@pytest.mark.parametrize(
    ("position", "exact"),
    [(Position("a", 6), True), (Position("a", 3), False), (Position("x", 3), True)],
    ids=["was further than Redis", "Redis may have lost messages", "unknown epoch"],
)
def test_a_restart_with_a_possible_loss_is_admitted(position: Position, exact: bool) -> None:
    after = snapshot(6, Past("a", 4, exact), epoch="b")
    assert not after.since(position).complete


def test_what_was_held_is_bounded() -> None:
    track = Track()
    track.start(Position("a", 0))
    for offset in range(2, MAX_HELD + 10):
        track.receive(event(offset))
    assert len(track._held) == MAX_HELD
    assert max(track._held) == MAX_HELD + 9


def test_a_foreign_event_passes_whatever_is_missing() -> None:
    track = Track()
    track.start(Position("a", 0))
    track.suspect()
    foreign = Event(CHANNEL, b"foreign")
    assert track.receive(foreign) == [foreign]


async def test_a_gap_is_reported_where_it_is() -> None:
    """Before each message after a gap, and at the end, up to where the gap reaches."""
    frames: list[dict] = []

    async def send(frame: dict) -> None:
        frames.append(json.loads(frame["text"]))

    member = Recipient(Outbox(send, 100, 10**6, lambda: None), True, {CHANNEL: "broadcast"})
    member.replay([snapshot(2)], {})
    track = Track()
    track.start(Position("a", 2))
    track.suspect()
    history = snapshot(9)._replace(events=[event(4), event(7)])
    member.catch_up(history, track.recover(history))
    told = [(frame["type"], frame["offset"]) for frame in frames[2:]]
    assert told == [("lost", 3), ("message", 4), ("lost", 6), ("message", 7), ("lost", 9)]


@pytest.mark.parametrize("speaks", [True, False], ids=["v1", "raw"])
async def test_what_a_foreign_program_has_put_in_place_of_a_missed_message(speaks: bool) -> None:
    """It arrives, as it is what is current, and the loss of ours is told."""
    frames: list[str] = []

    async def send(frame: dict) -> None:
        frames.append(frame["text"])

    labels = {CHANNEL: "broadcast"} if speaks else None
    member = Recipient(Outbox(send, 100, 10**6, lambda: None), True, labels)
    member.replay([snapshot(2)._replace(events=[], value=None)], {})
    track = Track()
    track.start(Position("a", 2))
    track.suspect()
    history = snapshot(3)._replace(events=[], value=b"foreign", replaced=3)
    recovery = track.recover(history)
    assert not recovery.complete
    member.catch_up(history, recovery)
    if speaks:
        message, lost = map(json.loads, frames)
        assert (message["data"], "offset" in message) == ("foreign", False)
        assert (lost["type"], lost["offset"]) == ("lost", 3)
    else:
        assert frames == ["foreign"]
    assert not track.behind


def test_a_socket_reads_again_if_what_it_held_does_not_follow() -> None:
    member = recipient(Client())
    member.deliver(event(12))
    assert not member.follows([snapshot(10)])
    assert member.follows([snapshot(11)])
    assert member.follows([snapshot(12)])
    assert not member.follows([snapshot(12, epoch="b")])
    assert member.follows([snapshot(12, Past("a", 12, True), epoch="b")])
    member.hold()
    assert member.follows([snapshot(10)])


async def test_a_socket_that_held_too_much_reads_again() -> None:
    """What waits for the client's first frame is bounded like the outbox."""

    async def send(frame: dict) -> None:
        raise AssertionError

    member = Recipient(Outbox(send, 3, 10**6, lambda: None), True, {CHANNEL: "broadcast"})
    for offset in range(1, 5):
        member.deliver(event(offset))
    assert not member.follows([snapshot(4)])
    member.hold()
    member.deliver(event(5))
    assert member.follows([snapshot(4)])
