"""Messages, events and frames: pure values."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.protocol.messages import (
    MAX_SMALL_FRAME,
    Event,
    Position,
    ProtocolError,
    is_heartbeat,
    parse_frame,
    parse_payload,
    parse_positions,
)

text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=10,
)


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


@given(text | json_values.map(json.dumps))
def test_any_client_frame(frame):
    """A client's frame is an object with a type, or a ProtocolError, whatever it says."""
    try:
        body = parse_frame(frame)
    except ProtocolError:
        return
    assert isinstance(body["type"], str)


@pytest.mark.parametrize(
    "frame",
    ["", "x", "1", "null", "[]", '"type"', "{}", '{"type":null}', '{"type":["a"]}', "[" * 99999],
)
def test_bad_client_frame(frame):
    """What is not an object with a type is an error of the protocol."""
    with pytest.raises(ProtocolError):
        parse_frame(frame)


@given(st.dictionaries(st.sampled_from(["data", "base64", "x"]), json_values))
def test_any_client_payload(body):
    """A publish frame gives bytes, or a ProtocolError, whatever is in it."""
    try:
        payload = parse_payload(body)
    except ProtocolError:
        return
    assert type(payload) is bytes


@given(st.binary())
def test_client_payload(payload):
    """Bytes arrive as they were sent, in base64 or as text."""
    assert parse_payload({"base64": base64.b64encode(payload).decode()}) == payload
    assert parse_payload({"data": "☃", "base64": "AA=="}) == "☃".encode()


@pytest.mark.parametrize(
    "body",
    [{}, {"data": 1}, {"data": None}, {"data": "\ud800"}, {"base64": "?"}, {"base64": "A"},
     {"base64": "é"}, {"base64": ["AA=="]}],
)  # fmt: skip
def test_bad_client_payload(body):
    """A payload that is missing or cannot be bytes is an error of the protocol."""
    with pytest.raises(ProtocolError):
        parse_payload(body)


@given(json_values)
def test_any_client_positions(value):
    """Positions are labels with an epoch and an offset, or a ProtocolError, whatever is sent."""
    try:
        positions = parse_positions(value)
    except ProtocolError:
        return
    assert all(type(position) is Position for position in positions.values())


def test_client_positions():
    """Labels keep their positions; further keys are ignored."""
    value = {
        "broadcast": {"epoch": "e", "offset": 0, "more": 1},
        "group:a": {"epoch": "", "offset": 7},
    }
    assert parse_positions(value) == {"broadcast": Position("e", 0), "group:a": Position("", 7)}
    assert parse_positions({}) == {}


@pytest.mark.parametrize(
    "position",
    [None, [], "e:1", {}, {"epoch": "e"}, {"offset": 1}, {"epoch": 1, "offset": 1},
     {"epoch": "e", "offset": "1"}, {"epoch": "e", "offset": True}, {"epoch": "e", "offset": 1.0},
     {"epoch": "e", "offset": -1}],
)  # fmt: skip
def test_bad_client_position(position):
    """A position without an epoch and a whole offset is an error that names the channel."""
    with pytest.raises(ProtocolError, match="'broadcast'"):
        parse_positions({"broadcast": position})


def test_only_a_payload_may_be_large() -> None:
    """JSON of many small parts takes the event loop's time; a client sends it once."""
    large = "x" * MAX_SMALL_FRAME
    assert parse_frame(json.dumps({"type": "publish", "data": large}))["data"] == large
    assert parse_frame(json.dumps({"type": "publish", "base64": large}))["base64"] == large
    for body in (
        {"type": "unknown", "data": large},
        {"type": "hello", "positions": {large: {"epoch": "e", "offset": 1}}},
        {"type": "publish", "data": "x", "more": large},
    ):
        with pytest.raises(ProtocolError, match="not a payload alone"):
            parse_frame(json.dumps(body))


@pytest.mark.parametrize(
    "hidden", ['"data":{},"data":"x"', '"data":{},"base64":"eHg="', '"base64":{},"base64":"eHg="']
)
def test_nothing_large_hides_behind_a_payload(hidden: str) -> None:
    """A name that comes twice, or the other name of a payload, would pass again and again."""
    many = "[" + "[]," * MAX_SMALL_FRAME + "[]]"
    with pytest.raises(ProtocolError, match=r"a name comes twice|not a payload alone"):
        parse_frame('{"type":"publish",' + hidden.replace("{}", many) + "}")
