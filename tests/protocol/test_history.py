"""What somebody has missed, told from a position and a reading."""

from __future__ import annotations

import pytest

from channels_ws4redis.protocol.history import Kept, Lost, Reading, is_blank
from channels_ws4redis.protocol.messages import Event, Position
from tests.protocol.outcomes import told

CHANNEL = "broadcast:foo"


def event(offset: int, epoch: str = "n.b", payload: bytes | None = None) -> Event:
    """Return a message that says its offset."""
    return Event(CHANNEL, b"%d" % offset if payload is None else payload, epoch, offset)


def reading(top: int, *offsets: int, past: dict[str, int] | None = None) -> Reading:
    """Return a reading whose history has these offsets, in reign b of the numbering n."""
    events = [event(offset) for offset in offsets]
    return Reading(CHANNEL, Position("n.b", top), past or {}, events, events)


@pytest.mark.parametrize(
    ("epoch", "offset", "expected"),
    [
        ("n.b", 5, []),
        ("n.b", 4, [5]),
        ("n.b", 2, [3, 4, 5]),
        ("n.b", 1, ["lost 2", 3, 4, 5]),
        ("n.b", 6, ["lost 5"]),  # nobody can have been there
        ("x.b", 5, ["lost 2", 3, 4, 5]),
        ("", 0, ["lost 2", 3, 4, 5]),
        ("..", 1, ["lost 2", 3, 4, 5]),
    ],
)
def test_within_an_epoch(epoch: str, offset: int, expected: list[int | str]) -> None:
    """Everything after a position, or an admission; a position that was made up is not honoured."""
    outcome = reading(5, 3, 4, 5).since(Position(epoch, offset))
    assert told(outcome) == expected
    assert all(i.position.epoch == "n.b" for i in outcome if isinstance(i, Lost))


def test_each_hole_is_told_where_it_is() -> None:
    outcome = reading(9, 4, 7).since(Position("n.b", 2))
    assert told(outcome) == ["lost 3", 4, "lost 6", 7, "lost 9"]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(10, ["lost 11", 12, 13]), (9, [10, "lost 11", 12, 13]), (14, ["lost 11", 12, 13])],
)
def test_a_change_of_reign_burns_a_number(offset: int, expected: list[int | str]) -> None:
    """Redis restarts at 10; 11 is never given, so that whoever stood at 10 is told of a loss."""
    restarted = reading(13, 9, 10, 12, 13, past={"n.a": 10})
    assert told(restarted.since(Position("n.a", offset))) == expected


def test_a_reign_of_which_nothing_is_left() -> None:
    """Redis came back older than a reign: its numbers are told as lost, those before are kept."""
    fork = reading(14, 9, 10, 12, 13, 14, past={"n.a": 10})
    assert told(fork.since(Position("n.z", 13))) == ["lost 11", 12, 13, 14]
    assert told(fork.since(Position("n.z", 11))) == ["lost 11", 12, 13, 14]


def test_a_reign_that_is_no_longer_known() -> None:
    """The list of epochs is bounded; a position in a forgotten one is told of a loss."""
    old = reading(13, 12, 13, past={"n.a": 10})
    assert told(old.since(Position("n.0", 8))) == ["lost 11", 12, 13]
    assert told(reading(13, 12, 13).since(Position("n.0", 11))) == ["lost 11", 12, 13]


def test_the_first_message_follows_on_a_blank_epoch() -> None:
    """Somebody was there before anything was published, and nothing was wiped since."""
    begun = reading(2, 1, 2, past={"-b.0.1": 0})
    assert told(begun.since(Position("-b.0.1", 0))) == [1, 2]
    assert told(begun.since(Position("-b.1.1", 0))) == ["lost 0", 1, 2]
    assert told(begun.since(Position("-c.0.1", 0))) == ["lost 0", 1, 2]
    assert is_blank(Position("-b.0.1", 0))
    assert not is_blank(begun.position)


@pytest.mark.parametrize(
    ("time", "certain"), [("12", True), ("4", True), ("3", False), ("13", False), ("x", False)]
)
def test_a_blank_epoch_is_good_for_a_time(time: str, certain: bool) -> None:
    """Longer ago, another numbering may have come and gone; and times can be made up."""
    begun = reading(2, 1, 2, past={"-b.0.12": 0})
    assert told(begun.since(Position(f"-b.0.{time}", 0)))[:1] == ([1] if certain else ["lost 0"])
    blank = Reading(CHANNEL, Position("-b.0.12", 0), {}, [])
    assert bool(blank.since(Position(f"-b.0.{time}", 0))) is not certain


def test_a_wiped_history_shows_before_the_next_message() -> None:
    blank = Reading(CHANNEL, Position("-b.1.1", 0), {}, [])
    assert told(blank.since(Position("n.b", 5))) == ["lost 0"]
    assert told(blank.since(blank.position)) == []


def test_a_replay_begins_after_the_last_empty_message() -> None:
    """An empty message clears what came before it."""
    events = [event(1), event(2, payload=b""), event(3)]
    stored = Reading(CHANNEL, Position("n.b", 3), {}, events, events)
    assert [e.offset for e in stored.replay()] == [3]


@pytest.mark.parametrize(
    ("value", "number", "expected"),
    [
        (b"3", 3, [(2, b"2"), (3, b"3")]),
        (b"3", 0, [(2, b"2"), (3, b"3"), (0, b"3")]),  # nobody knows which one it is
        (b"foreign", 3, [(2, b"2"), (3, b"3"), (0, b"foreign")]),
        (b"1", 1, [(2, b"2"), (3, b"3"), (1, b"1")]),
        (None, 3, []),  # somebody has deleted it
        (None, 1, [(2, b"2"), (3, b"3")]),
    ],
)
def test_a_stored_value_is_known_by_its_number(
    value: bytes | None, number: int, expected: list[tuple[int, bytes]]
) -> None:
    """If the history has that message, and it is another one, a foreign program has stored it."""
    kept = [Kept(event(offset), until) for offset, until in ((2, 1), (3, 1), (4, 0))]
    found = Reading.of(CHANNEL, Position("n.b", 4), {}, kept, value, number, 1)
    assert [(event.offset, event.payload) for event in found.stored] == expected
    assert [(e.offset, e.payload) for e in found.replay("last")] == (expected[-1:] if value else [])
    assert told(found.since(Position("n.b", 1))) == [2, 3, 4]


def test_messages_that_arrived_complete_a_history() -> None:
    """With a history of one, messages that were heard after a hole are there all the same."""
    full = reading(7, 7).with_events([event(5), event(6), event(7)])
    assert told(full.since(Position("n.b", 3))) == ["lost 4", 5, 6, 7]
