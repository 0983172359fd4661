"""What somebody else has stored or sent while a socket connects: a hook, or a legacy server."""

from __future__ import annotations

import pytest

from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.store.commands import Snapshot

FOO, BAR = "broadcast:foo", "user:john:foo"


class Client:
    """A raw client, and what it has received."""

    def __init__(self) -> None:
        self.received: list[str] = []

        async def send(frame) -> None:
            self.received.append(frame["text"])

        outbox = Outbox(send, 100, 10_000, lambda: None)
        self.recipient = Recipient(outbox, echo=False, labels=None)


def event(offset: int, payload: str, channel: str = FOO) -> Event:
    """Return a live event; offset 0 means that a foreign program published it."""
    return Event(channel, payload.encode(), "e" if offset else "", offset)


def stored(offset: int, value: str | None, channel: str = FOO, *, foreign: bool = False):
    """Return what is stored: a value, by a foreign program or as the last of the history."""
    payload = None if value is None else value.encode()
    events = [Event(channel, payload or b"", "e", offset)] if value and not foreign else []
    return Snapshot(channel, Position("e", offset), (), payload, events)


@pytest.mark.parametrize(
    ("snapshot", "held", "sent", "left"),
    [
        # Stored before the hook ran, and sent by it: what came later was published once more.
        (stored(1, "a"), [event(2, "a")], ["a"], ["a"]),
        # Published after joining and stored before the hook ran: the hook has sent it.
        (stored(1, "a"), [event(1, "a")], ["a"], []),
        # Published and stored while the hook ran.
        (stored(1, "a"), [event(2, "b"), event(3, "c")], ["c"], ["b"]),
        # Published twice, sent once by the hook.
        (stored(1, "a"), [event(2, "b"), event(3, "b")], ["b"], ["b"]),
        # The hook has sent something of its own.
        (stored(1, "a"), [event(2, "b")], ["history"], ["b"]),
        (stored(0, None), [event(1, "b")], [], ["b"]),
    ],
)
def test_what_a_hook_has_sent(snapshot, held, sent, left):
    """Of the events that arrived while a hook ran, those that it has sent are dropped, once."""
    client = Client()
    for one in held:
        client.recipient.deliver(one)
    client.recipient.forget_held([payload.encode() for payload in sent], [snapshot])
    client.recipient.replay([], {})
    assert client.received == left


def test_what_a_legacy_server_publishes_and_stores():
    """What a legacy server publishes and then stores while a socket connects arrives once."""
    client = Client()
    client.recipient.deliver(event(0, "raw"))
    client.recipient.deliver(event(0, "raw, not stored"))
    client.recipient.replay([stored(3, "raw", foreign=True)], {})
    client.recipient.deliver(event(0, "raw"))
    assert client.received == ["raw", "raw, not stored", "raw"]


def test_same_words_on_another_channel():
    """The same payload on another channel is another message."""
    client = Client()
    client.recipient.deliver(event(0, "raw", BAR))
    client.recipient.replay([stored(3, "raw", foreign=True), stored(0, None, BAR)], {})
    assert client.received == ["raw", "raw"]
