"""Orders: what processes tell each other on the control channel."""

from __future__ import annotations

import json

import pytest

from channels_ws4redis.protocol.names import (
    AUDIENCES,
    GROUP,
    auth_group_of,
    channel_labels,
    channel_name,
    control_channel,
)
from channels_ws4redis.protocol.orders import (
    MARK_BYTES,
    Action,
    Order,
    OrderError,
    Trait,
    mark,
    parse_order,
    split,
)

JOHN, MARY = mark(Trait.USER, "john"), mark(Trait.USER, "mary")
FOO = mark(Trait.FACILITY, "foo")


@pytest.mark.parametrize("action", Action)
def test_an_order_arrives_as_it_was_sent(action: Action) -> None:
    order = Order(action, (frozenset({JOHN, MARY}), frozenset({FOO})), 4501, 'grüß "Gott"')
    assert parse_order(order.encode()) == order


def test_an_order_without_selectors_concerns_everybody() -> None:
    assert Order(Action.REFRESH).concerns(b"")
    assert Order(Action.REFRESH).concerns(JOHN + FOO)


def test_a_socket_is_chosen_by_all_selectors() -> None:
    """And by one mark of each."""
    order = Order(Action.REFRESH, (frozenset({JOHN, MARY}), frozenset({FOO})))
    assert order.concerns(MARY + FOO)
    assert not order.concerns(MARY)
    assert not order.concerns(FOO)


def test_a_selector_without_marks_concerns_nobody() -> None:
    assert not Order(Action.DISCONNECT, (frozenset(),)).concerns(JOHN + FOO)


def test_a_mark_counts_where_it_begins() -> None:
    """Not where the end of one mark and the beginning of the next look like it."""
    order = Order(Action.DISCONNECT, (frozenset({(JOHN + FOO)[4:12]}),))
    assert not order.concerns(JOHN + FOO)


def test_what_is_called_the_same_has_other_marks() -> None:
    """A user, a session, an auth group and a facility of one name are four things."""
    assert len({mark(trait, "john") for trait in Trait}) == len(Trait)
    assert {len(mark(trait, "john")) for trait in Trait} == {MARK_BYTES}


def test_a_name_that_cannot_be_encoded_has_a_mark() -> None:
    """A session may hold half of a surrogate pair as the name of an auth group."""
    assert mark(Trait.GROUP, "\ud800") != mark(Trait.GROUP, "\ud801")


def test_the_marks_of_a_socket_come_apart() -> None:
    assert split(JOHN + FOO) == [JOHN, FOO]
    assert split(b"") == []


def test_no_name_is_in_an_order() -> None:
    """The key of a session would let whoever reads it be that visitor."""
    key = "0123456789abcdefghijklmnopqrstuv"
    order = Order(Action.DISCONNECT, (frozenset({mark(Trait.SESSION, key)}),))
    assert key.encode() not in order.encode()


def body(**changes: object) -> bytes:
    whole = json.loads(Order(Action.REFRESH, (frozenset({JOHN}),)).encode())
    return json.dumps(whole | changes).encode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"Hello",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        body(v=2),
        body(v="1"),
        body(v=None),
        body(do="dance"),
        body(do=["refresh"]),
        body(of=7),
        body(of=[7]),
        body(of=["xy"]),
        body(of=[["xy"]]),
        body(of=[[["ab"]]]),
        body(code="x"),
        body(code=None),
        body(code=[]),
    ],
)
def test_what_is_no_order_is_told(payload: bytes) -> None:
    with pytest.raises(OrderError):
        parse_order(payload)


@pytest.mark.parametrize("prefix", ["", "demo:"])
def test_nobody_has_the_name_of_the_control_channel(prefix: str) -> None:
    """Names of other channels begin with an audience, whatever a client chooses."""
    control = control_channel(prefix)
    for audience in AUDIENCES:
        for identity in (None, "", "control", "ws4redis", "ws4redis:control"):
            for facility in ("", "control", "ws4redis:control", ":control", "\n"):
                assert channel_name(prefix, audience, identity, facility) != control
    assert channel_labels(prefix, [control])[control].startswith("other:")


@pytest.mark.parametrize("prefix", ["", "demo:"])
@pytest.mark.parametrize("group", ["staff", "staff:x", "50%", "a b", "group"])
def test_the_auth_group_of_a_channel(prefix: str, group: str) -> None:
    assert auth_group_of(prefix, channel_name(prefix, GROUP, group, "a:b")) == group


@pytest.mark.parametrize("audience", sorted({*AUDIENCES} - {GROUP}))
def test_other_channels_have_no_auth_group(audience: str) -> None:
    assert auth_group_of("", channel_name("", audience, "group:staff", "group:staff")) is None
    assert auth_group_of("", "made-up") is None
