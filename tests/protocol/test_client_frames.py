"""What a client of the package's own protocol sends: understood, or an error of the protocol."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.protocol.client_frames import (
    MAX_BATCH,
    MAX_FLAGS,
    MAX_ID,
    MAX_POSITIONS,
    MAX_SMALL_FRAME,
    ProtocolError,
    Wanted,
    parse_frames,
    parse_id,
    parse_payload,
    parse_positions,
    parse_subscribe,
)
from channels_ws4redis.protocol.messages import Position

text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=10,
)


@given(text | json_values.map(json.dumps))
def test_any_client_frame(frame):
    """A client's frame is an object with a type, or a ProtocolError, whatever it says."""
    try:
        frames = parse_frames(frame)
    except ProtocolError:
        return
    assert all(isinstance(body["type"], str) for body in frames)


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "x",
        "1",
        "null",
        "[[]]",
        '"type"',
        "{}",
        '{"type":null}',
        '{"type":["a"]}',
        "[" * 99999,
        '[{"type":"ping"},{}]',
        '[{"type":"ping"},[{"type":"ping"}]]',
        "[null]",
    ],
)
def test_bad_client_frame(frame):
    """What is not an object with a type is an error of the protocol."""
    with pytest.raises(ProtocolError):
        parse_frames(frame)


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
    for body in (
        {"type": "publish", "data": large},
        {"type": "publish", "base64": large},
        {"type": "publish", "id": 3, "data": large},
    ):
        assert parse_frames(json.dumps(body)) == [body]
    for body in (
        {"type": "unknown", "data": large},
        {"type": "hello", "positions": {large: {"epoch": "e", "offset": 1}}},
        {"type": "publish", "data": "x", "more": large},
        {"type": "publish", "data": "x", "id": large},
        {"type": "subscribe", "id": 1, "facility": large, "flags": []},
        [{"type": "publish", "data": large}],
    ):
        with pytest.raises(ProtocolError, match="not a payload alone"):
            parse_frames(json.dumps(body))


@pytest.mark.parametrize(
    "hidden", ['"data":{},"data":"x"', '"data":{},"base64":"eHg="', '"base64":{},"base64":"eHg="']
)
def test_nothing_large_hides_behind_a_payload(hidden: str) -> None:
    """A name that comes twice, or the other name of a payload, would pass again and again."""
    many = "[" + "[]," * MAX_SMALL_FRAME + "[]]"
    with pytest.raises(ProtocolError, match=r"a name comes twice|not a payload alone"):
        parse_frames('{"type":"publish",' + hidden.replace("{}", many) + "}")


def test_a_batch_is_as_many_frames() -> None:
    """In their order, up to a bound; an empty one says nothing."""
    frames = [{"type": "ping", "n": number} for number in range(MAX_BATCH)]
    assert parse_frames(json.dumps(frames)) == frames
    assert parse_frames(json.dumps(frames[0])) == frames[:1]
    assert parse_frames("[]") == []
    with pytest.raises(ProtocolError, match=f"{MAX_BATCH + 1} frames in one"):
        parse_frames(json.dumps([*frames, {"type": "ping"}]))


@pytest.mark.parametrize("number", [1, MAX_ID])
def test_an_id(number: int) -> None:
    """Is a whole number; what has none is of the subscription of the URL."""
    assert parse_id({"type": "publish", "id": number}) == number
    assert parse_id({"type": "publish"}) == 0


@pytest.mark.parametrize("number", [0, -1, MAX_ID + 1, True, None, "1", 1.0, [1]], ids=repr)
def test_no_id(number: object) -> None:
    """Anything else is an error of the protocol."""
    with pytest.raises(ProtocolError, match="no whole number from 1"):
        parse_id({"type": "publish", "id": number})


SUBSCRIBE = {"type": "subscribe", "id": 3, "facility": "orders/7 ☃", "flags": ["echo"]}


def test_a_subscription_that_is_asked_for() -> None:
    """Has an id, a facility, flags, and positions if there are any."""
    assert parse_subscribe(SUBSCRIBE) == Wanted(3, "orders/7 ☃", ["echo"], {})
    at = {"broadcast": {"epoch": "e", "offset": 1}}
    found = parse_subscribe(SUBSCRIBE | {"positions": at, "more": 1, "flags": []})
    assert found == Wanted(3, "orders/7 ☃", [], {"broadcast": Position("e", 1)})
    many = ["x"] * (MAX_FLAGS // 2)
    assert parse_subscribe(SUBSCRIBE | {"flags": many}).flags == many


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": None}, {"facility": None}, {"facility": 7}, {"facility": "\ud800"},
        {"flags": None}, {"flags": "echo"}, {"flags": [1]}, {"flags": ["\ud800"]},
        {"flags": {"echo": 1}}, {"flags": ["x" * MAX_FLAGS]}, {"flags": [""] * (MAX_FLAGS + 1)},
        {"positions": []}, {"positions": {"broadcast": 1}},
        {"positions": {str(n): {"epoch": "", "offset": 0} for n in range(MAX_POSITIONS + 1)}},
    ],
    ids=lambda wrong: f"{next(iter(wrong))}={str(wrong)[:40]!r}",
)  # fmt: skip
def test_a_subscription_that_cannot_be_understood(wrong: dict) -> None:
    """It is an error of the protocol."""
    with pytest.raises(ProtocolError):
        parse_subscribe(SUBSCRIBE | wrong)
    for missing in ("id", "facility", "flags"):
        with pytest.raises(ProtocolError):
            parse_subscribe({name: value for name, value in SUBSCRIBE.items() if name != missing})
