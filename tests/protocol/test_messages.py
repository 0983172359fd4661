"""Messages, events and frames: pure values."""

from __future__ import annotations

import base64
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.protocol.messages import (
    Event,
    Position,
    ProtocolError,
    is_heartbeat,
    parse_frame,
    parse_payload,
    parse_positions,
)
from channels_ws4redis.redis_store import RedisMessage

text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        ("Hello ☃", "Hello ☃".encode()),
        (b"\xff\x00", b"\xff\x00"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ("", b""),
        (b"", b""),
        ([b"message", b"broadcast:foo", b"payload"], b"payload"),
    ],
)
def test_redis_message(value, payload):
    """A message is its payload, as bytes."""
    message = RedisMessage(value)
    assert message == payload
    assert isinstance(message, bytes)
    assert RedisMessage(message) == message


@pytest.mark.parametrize("value", [b"Hello", "--heartbeat"])
def test_redis_message_survives_pickling(value):
    """A message can be handed to another process, as Celery does."""
    message = RedisMessage(value)
    assert pickle.loads(pickle.dumps(message)) == message


@pytest.mark.parametrize(
    "value",
    [1, 1.5, True, {}, {"a": 1}, [], ["message", 1, 2], [b"message", b"foo"], object()],
)
def test_no_redis_message(value):
    """What is neither text nor bytes is refused, with the remedy."""
    with pytest.raises(ValueError, match=r"pass str or bytes, for instance json\.dumps"):
        RedisMessage(value)


def test_nothing_gives_nothing():
    """None, and a reply of redis-py that is no message, give None instead, as in legacy."""
    assert RedisMessage(None) is None
    assert RedisMessage([b"subscribe", b"broadcast:foo", 1]) is None


@pytest.mark.parametrize("heartbeat", ["--heartbeat--", b"--heartbeat--", "☃"])
def test_heartbeat_is_no_message(settings, heartbeat):
    """The configured heartbeat gives None, as text and as bytes; without a setting it is text."""
    as_bytes = heartbeat if isinstance(heartbeat, bytes) else heartbeat.encode()
    assert RedisMessage(as_bytes) == as_bytes
    assert not is_heartbeat(as_bytes)
    settings.WS4REDIS_HEARTBEAT = heartbeat
    assert RedisMessage(as_bytes) is None
    assert RedisMessage(as_bytes.decode()) is None
    assert RedisMessage(bytearray(as_bytes)) is None
    assert RedisMessage([b"message", b"broadcast:foo", as_bytes]) is None
    assert RedisMessage(as_bytes + b" ") == as_bytes + b" "


@given(st.binary() | text)
def test_any_payload_is_kept(payload):
    """Every text and every byte string is kept as it is."""
    assert RedisMessage(payload) == (payload if isinstance(payload, bytes) else payload.encode())


@given(st.binary())
def test_raw_frame(payload):
    """UTF-8 goes out as text, everything else as binary, unchanged."""
    frame = Event("broadcast:foo", payload).raw_frame
    assert frame.pop("type") == "websocket.send"
    if "text" in frame:
        assert frame["text"].encode() == payload
    else:
        assert frame == {"bytes": payload}
        with pytest.raises(UnicodeDecodeError):
            payload.decode()


@given(st.binary(), text, text, st.integers(0, 2**53))
def test_protocol_frame(payload, label, epoch, offset):
    """In the package's own protocol a frame is JSON text with the payload and its position."""
    event = Event("broadcast:foo", payload, epoch, offset)
    body = json.loads(event.protocol_frame(label)["text"])
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
    assert event.raw_frame is event.raw_frame
    assert event.protocol_frame("broadcast") is event.protocol_frame("broadcast")
    assert event.protocol_frame("broadcast") != event.protocol_frame("other")


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
