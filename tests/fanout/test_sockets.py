"""What one socket is sent, and in which order."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.protocol.track import Recovery
from channels_ws4redis.store.commands import Past, Snapshot

FOO, BAR = "broadcast:foo", "user:john:foo"
LABELS = {FOO: "broadcast", BAR: "user"}


class Client:
    """A recipient, and what the server was given to send to it."""

    def __init__(self, *, echo=False, labels=None):
        self.frames = []
        outbox = Outbox(self._send, 1000, 1_000_000, self._overflow)
        self.recipient = Recipient(outbox, echo, labels)

    async def _send(self, frame):
        self.frames.append(frame)

    def _overflow(self):
        raise AssertionError("too much was sent")

    @property
    def received(self):
        """The payloads of raw frames, or the bodies of the package's own protocol."""
        values = [frame["text"] if "text" in frame else frame["bytes"] for frame in self.frames]
        return values if self.recipient.labels is None else [json.loads(value) for value in values]


def event(offset, payload=None, *, channel=FOO, epoch="e", sender=""):
    """Return an event whose payload tells its offset."""
    return Event(channel, (payload or str(offset)).encode(), epoch, offset, sender)


def snapshot(offset, *stored, channel=FOO, epoch="e", past=()):
    """Return what is stored: the events with these offsets, of a history that is at ``offset``."""
    events = [event(number, channel=channel, epoch=epoch) for number in stored]
    value = events[-1].payload if events else None
    return Snapshot(channel, Position(epoch, offset), past, value, events)


def test_live_events():
    """After the replay every event is sent as it comes."""
    client = Client()
    client.recipient.replay([snapshot(2, 1, 2)], {})
    assert client.recipient.live
    client.recipient.deliver(event(3))
    assert client.received == ["1", "2", "3"]


def test_events_before_the_replay_are_held_back():
    """What comes while the stored messages are being read follows them, without what they had."""
    client = Client()
    for offset in (1, 2, 3, 4):
        client.recipient.deliver(event(offset))
    assert not client.recipient.live
    assert client.received == []
    client.recipient.replay([snapshot(3, 3)], {})
    assert client.received == ["3", "4"]
    client.recipient.deliver(event(5))
    assert client.received == ["3", "4", "5"]


def test_late_events_of_the_replay_are_dropped():
    """What the replay had is dropped also if it arrives after the socket has gone live."""
    client = Client()
    client.recipient.replay([snapshot(3, 3), snapshot(1, 1, channel=BAR)], {})
    client.recipient.deliver(event(2))
    client.recipient.deliver(event(3))
    client.recipient.deliver(event(1, channel=BAR))
    client.recipient.deliver(event(4))
    client.recipient.deliver(event(2, channel=BAR))
    assert client.received == ["3", "1", "4", "2"]


def test_events_of_the_epoch_before():
    """What was published before a restart of Redis is known once the replay came after it."""
    client = Client()
    client.recipient.replay([snapshot(3, 3, epoch="new", past=[Past("old", 2, exact=True)])], {})
    client.recipient.deliver(event(9, epoch="old"))
    client.recipient.deliver(event(4, epoch="new"))
    client.recipient.deliver(event(1, epoch="newest"))
    assert client.received == ["3", "4", "1"]


def test_foreign_events():
    """What a foreign program publishes has no offset and is always sent."""
    client = Client()
    client.recipient.deliver(event(0, "before"))
    client.recipient.replay([snapshot(3, 3)], {})
    client.recipient.deliver(event(0, "after"))
    assert client.received == ["3", "before", "after"]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_exactly_once(held, top, last):
    """However reading and publishing interleave, each event arrives once and in order."""
    client = Client()
    top, last = min(top, last), max(top, last)
    for offset in range(1, min(held, last) + 1):
        client.recipient.deliver(event(offset))
    client.recipient.replay([snapshot(top, *range(1, top + 1))], {})
    for offset in range(min(held, last) + 1, last + 1):
        client.recipient.deliver(event(offset))
    assert client.received == [str(offset) for offset in range(1, last + 1)]


@pytest.mark.parametrize("echo", [False, True])
def test_own_messages(echo):
    """A socket's own messages come back with echo only; the same words of others always do."""
    client = Client(echo=echo)
    client.recipient.deliver(event(1, "same", sender=client.recipient.id))
    client.recipient.replay([], {})
    client.recipient.deliver(event(2, "same", sender=client.recipient.id))
    client.recipient.deliver(event(3, "same", sender="another"))
    client.recipient.deliver(event(4, "same"))
    assert client.received == ["same"] * (4 if echo else 2)


def test_own_messages_move_the_position():
    """A client of the protocol is told where its own message is that it does not get back."""
    client = Client(labels=LABELS)
    client.recipient.replay([], {})
    client.recipient.deliver(event(7, sender=client.recipient.id))
    assert client.received == [
        {"type": "position", "channel": "broadcast", "epoch": "e", "offset": 7}
    ]


def test_recipients_are_distinct():
    """No two sockets are the same sender."""
    assert len({Client().recipient.id for _ in range(100)}) == 100


def test_empty_messages():
    """An empty message is not sent to raw clients; in the protocol it is a message like others."""
    empty = Event(FOO, b"", "e", 1)
    raw, client = Client(), Client(labels=LABELS)
    for each in (raw, client):
        each.recipient.replay([snapshot(0)], {})
        each.recipient.deliver(empty)
    assert raw.received == []
    assert [body["data"] for body in client.received] == [""]


def test_frames():
    """A raw client gets text where it is UTF-8, and bytes otherwise."""
    client = Client()
    client.recipient.replay([], {})
    client.recipient.deliver(Event(FOO, "☃".encode(), "e", 1))
    client.recipient.deliver(Event(FOO, b"\xff", "e", 2))
    assert client.received == ["☃", b"\xff"]


def test_labels():
    """A client of the protocol hears of the channels it has a label for, under that label."""
    client = Client(labels=LABELS)
    client.recipient.replay([], {})
    client.recipient.deliver(event(1, channel=BAR))
    client.recipient.deliver(event(1, channel="group:secret:foo"))
    assert [body["channel"] for body in client.received] == ["user"]


@pytest.mark.parametrize(
    ("position", "received", "complete"),
    [
        (None, ["3", "4", "5"], None),
        (Position("e", 5), [], True),
        (Position("e", 4), ["5"], True),
        (Position("e", 2), ["3", "4", "5"], True),
        (Position("e", 1), ["3", "4", "5"], False),
        (Position("e", 6), [], False),
        (Position("x", 5), ["3", "4", "5"], False),
        (Position("", 0), ["3", "4", "5"], False),
    ],
)
def test_positions(settings, position, received, complete):
    """A client that comes back gets what it missed, or what is stored if that is not all there."""
    settings.WS4REDIS_HISTORY = 3
    client = Client(labels=LABELS)
    stored = snapshot(5, 3, 4, 5)
    positions = {} if position is None else {"broadcast": position}
    missed = client.recipient.missed(stored, positions)
    assert (None if missed is None else missed.complete) is complete
    client.recipient.replay([stored], positions)
    assert [body["data"] for body in client.received] == received


def test_raw_clients_have_no_positions():
    """A raw client gets what is stored, whatever it may say."""
    client = Client()
    assert client.recipient.missed(snapshot(5, 5), {"broadcast": Position("e", 5)}) is None


def test_catching_up():
    """What the process had missed is sent as if it had just been published."""
    client = Client()
    client.recipient.replay([snapshot(1, 1)], {})
    client.recipient.catch_up(snapshot(3, 2, 3), Recovery(True, 1, [event(2), event(3)]))
    client.recipient.catch_up(snapshot(9, 9), Recovery(False, 3, [event(9)]))
    assert client.received == ["1", "2", "3", "9"]


def test_catching_up_with_a_gap():
    """If something is gone for good, a client of the protocol is told so before what is left."""
    client = Client(labels=LABELS)
    client.recipient.replay([snapshot(1, 1)], {})
    client.recipient.deliver(event(2))
    client.recipient.catch_up(snapshot(9, 9), Recovery(False, 2, [event(9)]))
    assert client.received[2] == {"type": "lost", "channel": "broadcast", "epoch": "e", "offset": 8}
    assert client.received[3]["data"] == "9"


def test_catching_up_before_the_replay():
    """What is caught up with before the replay is held; after a gap the history is read again."""
    client = Client(labels=LABELS)
    client.recipient.catch_up(snapshot(9, 9), Recovery(False, 3, [event(9)]))
    assert client.received == []
    assert not client.recipient.follows([snapshot(8, 8)])
    client.recipient.hold()
    assert client.recipient.follows([snapshot(9, 9)])
    client.recipient.replay([snapshot(9, 9)], {})
    assert [body["data"] for body in client.received] == ["9"]


@pytest.mark.parametrize(
    ("held", "follows"),
    [
        ([], True),
        ([1, 2, 3], True),
        ([3, 4, 5], True),
        ([4, 6], False),
        ([5], False),
        ([0, 4, 0], True),
    ],
)
def test_what_was_held_follows(held, follows):
    """Held events follow on the stored ones if none is missing in between."""
    client = Client()
    for offset in held:
        client.recipient.deliver(event(offset))
    assert client.recipient.follows([snapshot(3, 3)]) is follows


def test_what_was_held_is_of_another_epoch():
    """Events of a later epoch do not follow on what was read; those of an earlier one are known."""
    client = Client()
    client.recipient.deliver(event(4, epoch="later"))
    assert not client.recipient.follows([snapshot(3, 3)])
    assert client.recipient.follows(
        [snapshot(3, 3, epoch="e", past=[Past("later", 4, exact=True)])]
    )


def test_too_much_is_held():
    """What is held back is bounded; beyond that the history is read once more."""
    client = Client()
    for offset in range(1, 1002):
        client.recipient.deliver(event(offset))
    assert not client.recipient.follows([snapshot(0)])
    client.recipient.hold()
    client.recipient.replay([snapshot(1001, 1001)], {})
    assert client.received == ["1001"]


def test_foreign_stored_values():
    """A value that a legacy server stored is also published by it; the client gets it once."""
    client = Client()
    client.recipient.deliver(event(0, "foreign"))
    foreign = snapshot(3, 3)._replace(value=b"foreign")
    client.recipient.replay([foreign], {})
    client.recipient.deliver(event(0, "foreign"))
    assert client.received == ["foreign", "foreign"]
