"""Messages, events and frames: pure values."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.protocol.messages import (
    LEAST_NUMBERED,
    MAX_NUMBERED,
    NUMBERED_BYTES,
    Event,
    is_heartbeat,
)

text = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("payload", ["☃", "☃".encode(), bytearray("☃".encode())])
def test_heartbeat(payload):
    """A payload is the heartbeat as text and as bytes, and nothing is if there is no heartbeat."""
    assert is_heartbeat(payload, "☃")
    assert not is_heartbeat(payload, "☃ ")
    assert not is_heartbeat(payload, None)


@given(st.binary())
def test_raw_frame(payload):
    """UTF-8 goes out as text, everything else as binary, unchanged."""
    frame = Event("broadcast:foo", payload).frame(None)
    if isinstance(frame.data, str):
        assert frame.data.encode() == payload
    else:
        assert frame.data == payload
        with pytest.raises(UnicodeDecodeError):
            payload.decode()


@given(st.binary(), text, text, st.integers(0, 2**53))
def test_protocol_frame(payload, label, epoch, offset):
    """In the package's own protocol a frame is JSON text with the payload and its position."""
    event = Event("broadcast:foo", payload, epoch, offset)
    body = json.loads(event.frame(label).data)
    assert (body["type"], body["channel"]) == ("message", label)
    got = base64.b64decode(body["base64"]) if "base64" in body else body["data"].encode()
    assert got == payload
    if offset:
        assert (body["epoch"], body["offset"]) == (epoch, offset)
    else:
        assert not {"epoch", "offset"} & set(body)


def test_frames_are_built_once():
    """All sockets of a process share the frames of an event."""
    event = Event("broadcast:foo", b"Hello", "e", 1)
    for label in (None, "broadcast", "other"):
        assert event.frame(label) is event.frame(label)
    assert len({event.frame(None), event.frame("broadcast"), event.frame("other")}) == 3


@pytest.mark.parametrize("label", [None, "broadcast"])
@pytest.mark.parametrize("payload", [b"\x01" * 1000, b"\xff" * 1000, "☃".encode() * 1000])
def test_a_frame_that_is_made_later_is_the_same(payload, label):
    """Until then there is nothing but the payload, whatever frames the event has meanwhile."""
    event = Event("broadcast:foo", payload, "e", 1)
    make = event.later(label)
    frame = event.frame(label)
    assert make.func.__self__ is not event
    assert not vars(make.func.__self__)
    assert make() == frame


def test_event_is_readable():
    """An event shows its channel, its position and the beginning of its payload."""
    event = Event("broadcast:foo", b"x" * 100, "e", 7)
    assert repr(event) == f"<Event broadcast:foo e:7 {b'x' * 40!r}>"


@given(st.binary(), text, st.integers(1, 2**31 - 1))
def test_a_frame_with_an_id_is_the_same_otherwise(payload, label, number):
    """The id of a subscription is one more member of the same object."""
    event = Event("broadcast:foo", payload, "e", 1)
    plain = json.loads(event.frame(label).data)
    assert json.loads(event.frame(label, number).data) == plain | {"id": number}


def test_frames_with_ids_are_built_once():
    """All sockets whose clients have given the same id share a frame, until it is forgotten."""
    event = Event("broadcast:foo", b"Hello", "e", 1)
    frames = {number: event.frame("broadcast", number) for number in (1, 2, 3)}
    assert all(event.frame("broadcast", number) is frame for number, frame in frames.items())
    assert event.frame("other", 1) is not frames[1]
    assert event.later("broadcast", 2)() == frames[2]


@pytest.mark.parametrize(
    ("size", "kept"),
    [(10, MAX_NUMBERED), (NUMBERED_BYTES // 8, 7), (NUMBERED_BYTES, LEAST_NUMBERED)],
    ids=["small", "large", "huge"],
)
def test_a_message_remembers_few_ids(size, kept):
    """Clients choose ids; one that many have is remembered all the same."""
    event = Event("broadcast:foo", b"x" * size, "e", 1)
    common = event.frame("broadcast", 1)
    for number in range(2, 3 * MAX_NUMBERED):
        event.frame("broadcast", number)
        assert event.frame("broadcast", 1) is common
        assert len(event._numbered) <= kept
    assert len(event._numbered) == kept


def test_the_wire_of_frames_with_ids_is_forgotten_too():
    """What waits for a slow client would take twice its room otherwise."""
    event = Event("broadcast:foo", b"Hello", "e", 1)
    frame = event.frame("broadcast", 3)
    assert frame.wire.endswith(str(frame.data).encode())
    event.forget_wire()
    assert "wire" not in vars(frame)
