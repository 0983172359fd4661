"""What one socket is sent, and in which order."""

from __future__ import annotations

import json
import tracemalloc
import weakref

import pytest

from channels_ws4redis.fanout.held import Entry
from channels_ws4redis.fanout.sockets import Socket
from channels_ws4redis.protocol.history import Lost, Reading
from channels_ws4redis.protocol.messages import UNKEPT, Event, Position
from tests.outboxes import open_outbox

FOO, BAR = "broadcast:foo", "user:john:foo"
LABELS = {FOO: "broadcast", BAR: "user"}


class Client:
    """A socket, and what the server was given to send to it."""

    def __init__(self, *, echo=False, labels=None, room=1000):
        self.frames = []
        self.overflows = 0
        outbox = open_outbox(self._send, room, 1_000_000, self._overflow)
        self.socket = Socket(outbox, echo, labels, "all")

    async def _send(self, frame):
        self.frames.append(frame)

    def _overflow(self):
        self.overflows += 1

    def start(self, *entries, positions=None, hold=False):
        """Go live."""
        self.socket.start(entries, positions or {}, hold)
        return self

    @property
    def received(self):
        """The payloads of raw frames, or the bodies of the package's own protocol."""
        values = [frame["text"] if "text" in frame else frame["bytes"] for frame in self.frames]
        return values if self.socket.labels is None else [json.loads(value) for value in values]

    @property
    def told(self):
        """What a client of the protocol was sent after the welcome: data, or type and offset."""
        return [
            body["data"] if body["type"] == "message" else (body["type"], body["offset"])
            for body in self.received
            if body["type"] != "welcome"
        ]


class Watched(Event):
    """A message of which one can tell whether anybody still has it."""


def event(offset, payload=None, *, channel=FOO, epoch="n.a", sender=""):
    """Return a message that says its offset; offset 0 means that a foreign program published it."""
    return Event(channel, (payload or str(offset)).encode(), epoch, offset, sender)


def entry(top, *stored, channel=FOO, after=(), foreign=None):
    """Return what a newcomer is given: the messages with these offsets, of a history at ``top``."""
    events = [event(offset, channel=channel) for offset in stored]
    shown = events if foreign is None else [Event(channel, foreign.encode())]
    value = shown[-1] if shown else None
    return Entry(Reading(channel, Position("n.a", top), {}, events, shown, value), after)


def test_a_raw_client_gets_what_is_stored_and_what_has_come_since():
    client = Client().start(entry(3, 2, 3, after=[event(4)]))
    client.socket.deliver(event(5))
    assert client.socket.replayed
    assert client.received == ["2", "3", "4", "5"]


def test_what_is_stored_of_all_channels_comes_before_what_has_come_since():
    client = Client().start(
        entry(3, 3, after=[event(4)]), entry(1, 1, channel=BAR, after=[event(2, channel=BAR)])
    )
    assert client.received == ["3", "1", "4", "2"]


def test_foreign_messages():
    """What a foreign program publishes has no offset and is always sent."""
    client = Client().start(entry(3, 3, after=[event(0, "before")]))
    client.socket.deliver(event(0, "after"))
    assert client.received == ["3", "before", "after"]


def test_what_a_legacy_server_publishes_and_stores_arrives_once():
    after = [event(0, "raw"), event(0, "raw, not stored")]
    client = Client().start(entry(3, foreign="raw", after=after))
    client.socket.deliver(event(0, "raw"))
    assert client.received == ["raw", "raw, not stored", "raw"]


def test_the_same_words_on_another_channel_are_another_message():
    after = [event(0, "raw", channel=BAR)]
    client = Client().start(entry(3, foreign="raw"), entry(0, channel=BAR, after=after))
    assert client.received == ["raw", "raw"]


@pytest.mark.parametrize("echo", [False, True])
def test_own_messages(echo):
    """A socket's own messages come back with echo only; the same words of others always do."""
    client = Client(echo=echo)
    own = event(1, "same", sender=client.socket.id)
    client.start(entry(0, after=[own]))
    client.socket.deliver(event(2, "same", sender=client.socket.id))
    client.socket.deliver(event(3, "same", sender="another"))
    client.socket.deliver(event(4, "same"))
    assert client.received == ["same"] * (4 if echo else 2)


def test_own_messages_move_the_position():
    """A client of the protocol is told where its own message is that it does not get back."""
    client = Client(labels=LABELS).start()
    client.socket.deliver(event(7, sender=client.socket.id))
    assert client.received[1:] == [
        {"type": "position", "channel": "broadcast", "epoch": "n.a", "offset": 7}
    ]


def test_sockets_are_distinct():
    """No two sockets are the same sender."""
    assert len({Client().socket.id for _ in range(100)}) == 100


def test_empty_messages():
    """An empty message is not sent to raw clients; in the protocol it is a message like others."""
    empty = Event(FOO, b"", "n.a", 1)
    raw, client = Client(), Client(labels=LABELS)
    for each in (raw, client):
        each.start(entry(0))
        each.socket.deliver(empty)
    assert raw.received == []
    assert client.told == [""]


def test_frames():
    """A raw client gets text where it is UTF-8, and bytes otherwise."""
    client = Client().start()
    client.socket.deliver(Event(FOO, "☃".encode(), "n.a", 1))
    client.socket.deliver(Event(FOO, b"\xff", "n.a", 2))
    assert client.received == ["☃", b"\xff"]


def test_labels():
    """A client of the protocol hears of the channels it has a label for, under that label."""
    client = Client(labels=LABELS).start()
    client.socket.deliver(event(1, channel=BAR))
    client.socket.deliver(event(1, channel="group:secret:foo"))
    client.socket.tell(Lost("group:secret:foo", Position("n.a", 1)))
    assert [body.get("channel") for body in client.received] == [None, "user"]


@pytest.mark.parametrize(
    ("position", "received", "recovered"),
    [
        (None, ["3", "4", "5"], None),
        (Position("n.a", 5), [], True),
        (Position("n.a", 4), ["5"], True),
        (Position("n.a", 2), ["3", "4", "5"], True),
        (Position("n.a", 1), ["3", "4", "5"], False),
        (Position("n.a", 6), [], False),
        (Position("x.a", 5), ["3", "4", "5"], False),
        (Position("", 0), ["3", "4", "5"], False),
    ],
)
def test_positions(position, received, recovered):
    """A client that comes back gets what it missed, or what is stored if that is not all there."""
    positions = {} if position is None else {"broadcast": position}
    client = Client(labels=LABELS).start(entry(5, 3, 4, 5), positions=positions)
    assert client.received[0] == {
        "type": "welcome",
        "heartbeat": 20.0,
        "subscriptions": 0,
        "channels": {
            "broadcast": {
                "epoch": "n.a",
                "offset": 5,
                "recovered": recovered,
                "replay": len(received),
            }
        },
    }
    assert client.told == received


def test_own_messages_that_are_not_kept_are_silent():
    """Unless the client wants them back; they have no position in any case."""
    clients = [Client(labels=LABELS, echo=echo).start(entry(3, 3)) for echo in (False, True)]
    for client in clients:
        client.frames.clear()
        client.socket.deliver(event(0, epoch=UNKEPT, payload="typing", sender=client.socket.id))
    typing = {"type": "message", "channel": "broadcast", "data": "typing"}
    assert [client.received for client in clients] == [[], [typing]]


def test_raw_clients_have_no_positions():
    """A raw client gets what is stored, whatever it may say."""
    client = Client().start(entry(5, 5), positions={"broadcast": Position("n.a", 5)})
    assert client.received == ["5"]


def test_losses_are_told_to_who_understands():
    raw, client = Client().start(entry(1, 1)), Client(labels=LABELS).start(entry(1, 1))
    for each in (raw, client):
        each.socket.tell(Lost(FOO, Position("n.a", 8)))
        each.socket.deliver(event(9), stored=True)
    assert raw.received == ["1", "9"]
    assert client.received[2] == {
        "type": "lost",
        "channel": "broadcast",
        "epoch": "n.a",
        "offset": 8,
    }
    assert client.told == ["1", ("lost", 8), "9"]


def test_further_channels_are_followed_without_what_is_stored():
    client = Client().start(entry(1, 1))
    client.socket.go_on([entry(3, 3, channel=BAR, after=[event(4, channel=BAR)])])
    assert client.received == ["1", "4"]


async def test_what_the_history_has_may_be_more_than_the_outbox_takes():
    """Or a client whose history is larger could never come back."""
    client = Client(room=2)
    client.socket.outbox._peer.writable = False
    client.start(entry(9, *range(1, 10)))
    assert client.overflows == 0


@pytest.mark.parametrize("labels", [None, LABELS])
async def test_what_is_stored_costs_a_client_that_does_not_read_no_more_than_itself(labels):
    """JSON would make six bytes of each control character."""
    client = Client(labels=labels)
    client.socket.outbox._peer.writable = False
    stored = [Event(FOO, b"\1" * 10_000, "n.a", offset) for offset in range(1, 101)]
    reading = Reading(FOO, Position("n.a", 50), {}, stored[:50], stored[:50])
    tracemalloc.start()
    try:
        client.start(Entry(reading, []))
        client.socket.outbox.close()
        client = Client(labels=labels).start(entry(0))
        client.socket.outbox._peer.writable = False
        client.socket.recover(stored[50:])
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 100_000
    assert len(client.socket.outbox) == 50
    assert client.overflows == 0
    client.socket.outbox.close()


@pytest.mark.parametrize("labels", [None, LABELS])
async def test_a_client_that_has_not_read_one_recovery_has_no_room_for_all_others(labels):
    """However often the link is lost, and however much comes as stored thereby."""
    client = Client(labels=labels, room=10).start(entry(0))
    client.socket.outbox._peer.writable = False
    client.socket.recover([event(offset) for offset in range(1, 101)])
    assert client.overflows == 0
    client.socket.recover([event(offset) for offset in range(101, 111)])
    assert client.overflows == 0
    client.socket.recover([event(111)])
    assert client.overflows == 1
    assert len(client.socket.outbox) == 0


@pytest.mark.parametrize(
    ("stored", "held", "sent", "left"),
    [
        # Stored before the hook ran, and sent by it: what came later was published once more.
        (entry(1, 1), [event(2, "1")], ["1"], ["1"]),
        # Published after joining and stored before the hook ran: the hook has sent it.
        (entry(1, 1), [event(1, "1")], ["1"], []),
        # Published and stored while the hook ran.
        (entry(1, 1), [event(2, "b"), event(3, "c")], ["c"], ["b"]),
        # Published twice, sent once by the hook.
        (entry(1, 1), [event(2, "b"), event(3, "b")], ["b"], ["b"]),
        # The hook has sent something of its own.
        (entry(1, 1), [event(2, "b")], ["history"], ["b"]),
        (entry(0), [event(1, "b")], [], ["b"]),
    ],
)
def test_what_a_hook_has_sent(stored, held, sent, left):
    """Of the messages that arrived while a hook ran, those that it has sent are dropped, once."""
    client = Client().start(stored._replace(after=held[:1]), hold=True)
    for one in held[1:]:
        client.socket.deliver(one)
    assert client.received == []
    assert not client.socket.replayed
    client.socket.let_go([payload.encode() for payload in sent])
    assert client.received == left
    assert client.socket.replayed


def test_what_is_held_for_a_hook_is_bounded():
    """A hook that takes too long costs its own socket, and no memory."""
    client = Client(room=3).start(entry(0), hold=True)
    for offset in range(1, 5):
        client.socket.deliver(event(offset))
    assert client.overflows == 1
    assert client.socket._held.events == []


def test_what_has_come_before_a_hook_runs_is_bounded_too():
    after = [event(offset) for offset in range(1, 5)]
    client = Client(room=3).start(entry(0, after=after), hold=True)
    assert client.overflows == 1


def test_a_hook_that_runs_keeps_no_history():
    """Only what is stored last, to know it again."""
    first = Watched(FOO, b"1", "n.a", 1)
    watch = weakref.ref(first)
    # What is stored came later, and from elsewhere.
    reading = Reading(FOO, Position("n.a", 1), {}, [first], [Event(FOO, b"foreign")])
    client = Client().start(Entry(reading, []), hold=True)
    del first, reading
    assert watch() is None
    client.socket.let_go([])


@pytest.mark.parametrize("by_hook", [False, True], ids=["in a pause", "while a hook replays"])
def test_word_of_a_loss_does_not_overtake_what_is_held_back(by_hook):
    client = Client(labels=LABELS).start(entry(0), hold=by_hook)
    if not by_hook:
        client.socket.pause()
    client.socket.deliver(event(1))
    client.socket.recover([event(2), Lost(FOO, Position("n.a", 4)), event(5)])
    client.socket.recover([Lost(BAR, Position("n.a", 1))])
    client.socket.drop([BAR])
    assert client.told == []
    if by_hook:
        client.socket.let_go([b"1"])
    else:
        client.socket.resume()
    assert client.told == [*([] if by_hook else ["1"]), "2", ("lost", 4), "5"]
