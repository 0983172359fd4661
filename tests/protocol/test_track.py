"""Where a group stands: what its live sockets get, and what newcomers get."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from channels_ws4redis.protocol import track as track_module
from channels_ws4redis.protocol.history import Reading
from channels_ws4redis.protocol.messages import UNKEPT, Event, Position
from channels_ws4redis.protocol.track import Track
from tests.protocol.lives import STEPS, TAME, Client, play, random_life
from tests.protocol.outcomes import told

CHANNEL = "broadcast:foo"


@settings(max_examples=600, deadline=None)
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=20, max_size=60),
    size=st.sampled_from([1, 3, 100]),
    ordered=st.just(True),
)
@example(["publish", "flush", "publish", "join", "go_live"], 1, True)
@example(["publish_unstored", "flush", "publish", "join", "go_live"], 3, True)
@example(["publish", "publish_unstored", "publish", "restart_older", "join", "go_live"], 100, True)
@example(["flush", *["publish"] * 3, "join", "catch_up", "restart_older", "go_live"], 3, True)
@example(["publish", "join", "flush", "go_live"], 3, True)
@example(["unlink", "publish", "join", "flush", "go_live"], 3, True)
@example(
    [*["publish"] * 13, *["flush", "publish"] * 2, "join", "answer", "restart_older"], 1, False
)
@example(["join", "answer", "unlink", "publish", "relink", "go_live"], 3, True)
def test_every_client_gets_everything_or_is_told(
    steps: list[str], size: int, ordered: bool
) -> None:
    """Whatever fails between any two steps: no gap without a report, nothing twice, in order."""
    play(steps, size, ordered)


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.sampled_from([s for s in STEPS if s != "flush"]), min_size=20, max_size=60),
    size=st.sampled_from([1, 3, 100]),
)
def test_a_link_that_changes_the_order(steps: list[str], size: int) -> None:
    """The same, but for wipes: of two in a row the loss may be told one message late there."""
    play(steps, size, ordered=False)


@pytest.mark.parametrize("part", range(4))
def test_thousands_of_long_lives(part: int) -> None:
    """The same for lives that are long enough to get anywhere."""
    for seed in range(part, 20_000, 4):
        life = random_life(seed)
        try:
            play(*life)
        except AssertionError as error:
            error.add_note(f"in the life of seed {seed}: play{life}")
            raise


def test_lives_in_which_little_can_be_held(monkeypatch) -> None:
    monkeypatch.setattr(track_module, "MAX_HELD", 3)
    for seed in range(5000):
        play(*random_life(seed))


def test_no_loss_is_told_where_none_was_possible() -> None:
    """Lost links and dropped messages are made good without a word, as long as Redis has it all."""
    for seed in range(1000):
        steps, _, _ = random_life(seed)
        tame = [step for step in steps if step in TAME and step != "wait"]
        assert play(tame, 100) == 0, f"seed {seed}"


def test_no_newcomer_costs_the_live_sockets_a_message() -> None:
    """Nor does one with a history of one, although its reading may overtake messages."""
    for seed in range(1000):
        steps, _, _ = random_life(seed)
        whole = {"publish", "publish_unstored", "receive", "join", "answer", "go_live", "catch_up"}
        assert play([step for step in steps if step in whole], 1) == 0, f"seed {seed}"


@pytest.mark.parametrize(
    "log",
    [
        [1, 1],
        [2, 1],
        [1, 3],
        [1, "lost", 3, 3],
        ["from 1", 3],
        [1, "lost", 2],
        ["after 1", 1, 2, 3],
    ],
)
def test_the_judge(log: list[int | str]) -> None:
    """What is wrong is found."""
    client = Client()
    client.log = log
    with pytest.raises(AssertionError):
        client.judge(3)
    client.log = ["from 2", "after 2", "lost", 4, "after 1", "lost", 6]
    client.judge(6)


def event(offset: int, epoch: str = "n.a") -> Event:
    """Return a message at a position."""
    return Event(CHANNEL, b"%d" % offset, epoch, offset)


def reading(top: int, *offsets: int, epoch: str = "n.a", past: dict[str, int] | None = None):
    """Return a reading whose history has these offsets."""
    events = [event(offset, epoch) for offset in offsets]
    return Reading(CHANNEL, Position(epoch, top), past or {}, events, events)


def live_at(offset: int, epoch: str = "n.a") -> Track:
    """Return the track of a group whose sockets stand there."""
    track = Track()
    assert track.take(reading(offset, epoch=epoch), track.ask()) == ([], [])
    return track


def recover(track: Track, what: Reading) -> list[int | str]:
    """Ask for a reading and return what the live sockets get of it."""
    return told(track.take(what, track.ask()).live)


def test_a_message_that_follows_is_delivered_at_once() -> None:
    track = live_at(3)
    assert told(track.receive(event(4))) == [4]
    assert not track.behind


def test_a_message_that_is_known_is_dropped() -> None:
    track = live_at(3)
    assert track.receive(event(3)) == []
    assert not track.behind


def test_a_message_after_a_hole_waits_for_the_history() -> None:
    track = live_at(3)
    assert track.receive(event(6)) == []
    assert track.behind
    assert recover(track, reading(6, 1, 2, 3, 4, 5, 6)) == [4, 5, 6]
    assert not track.behind


def test_what_arrived_after_the_hole_counts_where_the_history_is_shorter() -> None:
    """With a history of one, the messages that were held are delivered all the same."""
    track = live_at(3)
    for offset in (5, 6, 7):
        track.receive(event(offset))
    assert recover(track, reading(7, 7)) == ["lost 4", 5, 6, 7]


def test_held_messages_can_complete_the_history() -> None:
    track = live_at(3)
    track.suspect()
    for offset in (4, 5, 6):
        assert track.receive(event(offset)) == []
    assert recover(track, reading(6, 6)) == [4, 5, 6]


def test_a_suspicion_outlives_a_reading_that_was_asked_for_before() -> None:
    """The link may be lost while the answer to a reading is under way."""
    track = Track()
    asked = track.ask()
    track.suspect()
    track.take(reading(10), asked)
    assert track.behind
    assert recover(track, reading(11, 11)) == [11]
    assert not track.behind


def test_a_layer_that_changes_the_order_costs_no_reading() -> None:
    """Messages that arrive late fill a hole, but settle no suspicion that the link was lost."""
    track = live_at(0)
    assert track.receive(event(2)) == []
    assert told(track.receive(event(1))) == [1, 2]
    assert not track.behind
    track.suspect()
    assert track.receive(event(3)) == []
    assert track.behind


def test_a_restart_is_admitted_and_what_there_is_is_delivered() -> None:
    """Redis restarts at 4, and 5 is burnt."""
    track = live_at(3)
    track.suspect()
    after = reading(7, 3, 4, 6, 7, epoch="n.b", past={"n.a": 4})
    assert recover(track, after) == [4, "lost 5", 6, 7]


def test_the_rest_of_an_epoch_that_has_ended_comes_first() -> None:
    """The history lacks what the group has heard in time."""
    track = live_at(3)
    track.suspect()
    track.receive(event(4))
    assert recover(track, reading(1, 1, epoch="m.a")) == [4, "lost 0", 1]


def test_the_first_message_ever_needs_no_reading() -> None:
    """It follows on a blank epoch; after a wipe it might be late, and of a numbering before."""
    blank = Reading(CHANNEL, Position("-a.0.1", 0), {}, [])
    track = Track()
    track.take(blank, track.ask())
    assert told(track.receive(event(1))) == [1]
    assert told(track.receive(event(2))) == [2]
    assert recover(track, blank._replace(position=Position("-a.1.1", 0))) == ["lost 0"]
    assert track.receive(event(1, "m.a")) == []
    assert track.behind


def test_a_first_message_that_is_gone_again_is_told_as_lost() -> None:
    """Position data may be evicted as soon as they are written."""
    blank = Reading(CHANNEL, Position("-a.0.1", 0), {}, [])
    track = Track()
    track.take(blank, track.ask())
    asked = track.ask()
    assert track.receive(event(1)) == []
    track.take(blank, asked)
    assert track.behind
    assert recover(track, blank) == ["lost 0"]
    assert not track.behind


def test_a_wiped_database_shows_to_a_blank_group_after_a_lost_link() -> None:
    """So does a time in which a numbering may have expired; on a whole link nothing was missed."""
    track = Track()
    track.take(Reading(CHANNEL, Position("-a.0.1", 0), {}, []), track.ask())
    assert recover(track, Reading(CHANNEL, Position("-a.0.2", 0), {}, [])) == []
    assert recover(track, Reading(CHANNEL, Position("-a.1.2", 0), {}, [])) == []
    track.suspect()
    assert recover(track, Reading(CHANNEL, Position("-a.1.2", 0), {}, [])) == ["lost 0"]
    track.suspect()
    assert recover(track, Reading(CHANNEL, Position("-a.1.3", 0), {}, [])) == []
    track.suspect()
    assert recover(track, Reading(CHANNEL, Position("-a.1.13", 0), {}, [])) == ["lost 0"]


def test_a_newcomer_gets_what_was_delivered_while_its_reading_was_under_way() -> None:
    """A reading that is older than the live sockets takes nobody back."""
    track = live_at(3)
    asked = track.ask()
    assert told(track.receive(event(4))) == [4]
    assert told(track.receive(event(5))) == [5]
    live, newcomer = track.take(reading(4, 4), asked)
    assert (live, told(newcomer)) == ([], [5])
    assert told(track.receive(event(6))) == [6]


def test_what_a_reading_has_overtaken_is_waited_for() -> None:
    """Not if the group is further than the reading, nor once a hole proves a loss."""
    track = live_at(3)
    assert track.lag(reading(5, 5), ordered=True) is not None
    assert track.lag(reading(5, 4, 5), ordered=True) is None
    assert track.lag(reading(2, 2), ordered=True) is None
    track.receive(event(5))
    assert track.lag(reading(6, 6), ordered=True) is None
    assert track.lag(reading(6, 6), ordered=False) is not None
    track.suspect()
    assert track.lag(reading(6, 6), ordered=False) is None


def test_a_channel_that_begins_moves_while_its_first_messages_are_held() -> None:
    """Its position stands still until the reading that is under way has been taken in."""
    track = Track()
    track.take(Reading(CHANNEL, Position("-a.0.1", 0), {}, []), track.ask())
    asked = track.ask()
    overtaking = reading(3, 3, past={"-a.0.1": 0})
    before = track.lag(overtaking, ordered=True)
    assert track.receive(event(1)) == []
    assert track.position == Position("-a.0.1", 0)
    assert track.lag(overtaking, ordered=True) not in {None, before}
    assert track.lag(overtaking, ordered=False) == track.position
    track.receive(event(2))
    assert track.lag(overtaking, ordered=True) is None
    live, newcomer = track.take(overtaking, asked)
    assert (told(live), newcomer) == ([1, 2, 3], [])


def test_a_channel_that_begins_with_a_hole_waits_for_nothing() -> None:
    track = Track()
    track.take(Reading(CHANNEL, Position("-a.0.1", 0), {}, []), track.ask())
    track.receive(event(2))
    assert track.lag(reading(3, 3, past={"-a.0.1": 0}), ordered=True) is None
    assert recover(track, reading(3, 3, past={"-a.0.1": 0})) == ["lost 1", 2, 3]


def test_the_first_newcomer_gets_what_came_before_its_reading_was_answered() -> None:
    track = Track()
    asked = track.ask()
    assert track.receive(event(5)) == []
    assert track.receive(event(6)) == []
    live, newcomer = track.take(reading(5, 5), asked)
    assert (told(live), told(newcomer)) == ([6], [6])


def test_a_reading_of_a_newcomer_makes_the_whole_group_whole() -> None:
    track = live_at(3)
    track.receive(event(5))
    live, newcomer = track.take(reading(5, 4, 5), track.ask())
    assert (told(live), newcomer) == ([4, 5], [])
    assert not track.behind


def test_what_a_foreign_program_publishes_passes_whatever_is_missing() -> None:
    """It has no offset; a newcomer gets what arrived after its reading was asked for."""
    track = live_at(0)
    track.suspect()
    earlier = track.ask()
    first = Event(CHANNEL, b"first")
    assert track.receive(first) == [first]
    later = track.ask()
    second = Event(CHANNEL, b"second")
    assert track.receive(second) == [second]
    newcomers = [track.take(reading(0), asked).newcomer for asked in (earlier, later)]
    payloads = [[event.payload for event in newcomer or ()] for newcomer in newcomers]
    assert payloads == [[b"first", b"second"], [b"second"]]


def test_what_is_not_kept_overtakes_nothing() -> None:
    """It changes no position, and is dropped while something is held or may be missing."""
    track, unkept = live_at(3), Event(CHANNEL, b"typing", UNKEPT)
    assert track.receive(unkept) == [unkept]
    assert track.position == Position("n.a", 3)
    track.receive(event(5))
    assert track.receive(unkept) == []
    assert recover(track, reading(5, 4, 5)) == [4, 5]
    assert track.receive(unkept) == [unkept]
    track.suspect()
    assert track.receive(unkept) == []
    assert recover(track, reading(5, 4, 5)) == []
    assert not track.behind


def test_a_newcomer_gets_what_is_not_kept_in_its_place() -> None:
    track, unkept = live_at(3), Event(CHANNEL, b"typing", UNKEPT)
    asked = track.ask()
    for message in (event(4), unkept, event(5)):
        track.receive(message)
    newcomer = track.take(reading(4, 4), asked).newcomer
    assert [each.payload for each in newcomer or ()] == [b"typing", b"5"]


def test_what_is_held_is_bounded(monkeypatch) -> None:
    """Beyond the bound it is forgotten, and the history is read once more."""
    monkeypatch.setattr(track_module, "MAX_HELD", 100)
    track = live_at(0)
    for offset in range(2, 103):
        track.receive(event(offset))
    assert track.behind
    assert recover(track, reading(102, 102)) == ["lost 101", 102]
    assert not track.behind


def test_a_message_that_comes_twice_is_held_once() -> None:
    track = live_at(0)
    for _ in range(3):
        track.receive(event(2))
    assert told(track.receive(event(1))) == [1, 2]
    assert track._bytes == 0


def test_what_is_held_is_bounded_by_size(monkeypatch) -> None:
    monkeypatch.setattr(track_module, "MAX_HELD_BYTES", 1000)
    track = live_at(0)
    for offset in range(2, 6):
        track.receive(Event(CHANNEL, b"x" * 300, "n.a", offset))
    assert recover(track, reading(5, 5)) == ["lost 4", 5]


def test_a_newcomer_asks_again_if_more_came_than_is_held(monkeypatch) -> None:
    monkeypatch.setattr(track_module, "MAX_HELD", 100)
    track = live_at(0)
    asked = track.ask()
    for offset in range(1, 103):
        track.receive(event(offset))
    assert track.take(reading(0), asked).newcomer is None
    assert told(track.receive(event(103))) == [103]
    assert track.take(reading(102, 102), track.ask()).newcomer == []


def test_what_is_kept_for_a_newcomer_is_no_larger_than_what_is_counted() -> None:
    """The frames that the live sockets got may be ten times as large."""
    track = live_at(0)
    asked = track.ask()
    (due,) = track.receive(event(1))
    assert due.frame(None)
    (kept,) = track.take(reading(0), asked).newcomer or ()
    assert (kept.offset, kept.payload, vars(kept)) == (1, b"1", {})


def test_nothing_is_kept_while_no_reading_is_under_way() -> None:
    """A reading that failed counts as one that is not."""
    track = live_at(0)
    track.ask()
    track.receive(event(1))
    assert track._recent
    track.give_up()
    assert not track._recent
    assert track._bytes == 0
    track.receive(event(2))
    assert not track._recent


def test_a_reading_drops_what_redis_does_not_know_of() -> None:
    """Unless it arrived after the reading had been asked for."""
    track = live_at(3)
    assert track.receive(event(10**15)) == []
    asked = track.ask()
    assert track.receive(event(6)) == []
    assert track.take(reading(3, 3), asked).live == []
    assert track.behind
    assert recover(track, reading(6, 4, 5, 6)) == [4, 5, 6]
    assert not track.behind
