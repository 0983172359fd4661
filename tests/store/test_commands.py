"""The scripts in Redis: offsets, epochs, what is kept and for how long, and at what price."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import redis
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from channels_ws4redis.conf import settings as settings_of_package
from channels_ws4redis.protocol.history import Lost, Outcome, Reading, Replay, is_blank
from channels_ws4redis.protocol.messages import Event, Position, Purge
from channels_ws4redis.store import runner
from channels_ws4redis.store.commands import (
    Publication,
    Published,
    parse_envelope,
    parse_published,
    publish_command,
)
from channels_ws4redis.store.readings import parse_reading, read_command
from testproject.embedded import RedisServer
from tests.protocol import lives

NAME = "broadcast:foo"
META = "{broadcast:foo}:meta"
HISTORY = "{broadcast:foo}:history"


def publish_to(
    client: redis.Redis,
    channels: list[str],
    payload: bytes,
    expire: int = 60,
    sender: str = "",
    key: str = "",
) -> list[Event]:
    """Publish a message to some channels and return its events."""
    publication = Publication(channels, payload, expire, sender, key)
    (reply,) = runner.run(client, [publish_command(publication, None, mirror=False)])
    if isinstance(reply, Exception):
        raise reply
    return parse_published(channels, reply).events(publication)


def publish(client: redis.Redis, payload: bytes, expire: int = 60, key: str = "") -> Position:
    """Publish a message and return its position."""
    (event,) = publish_to(client, [NAME], payload, expire, key=key)
    return Position(event.epoch, event.offset)


def read(client: redis.Redis) -> Reading:
    """Read all that is stored."""
    (reply,) = runner.run(client, [read_command(NAME)])
    if isinstance(reply, Exception):
        raise reply
    return parse_reading(NAME, reply)


def payloads(reading: Reading) -> list[bytes]:
    """Return the payloads of the history."""
    return [event.payload for event in reading.events]


def told(outcome: Outcome) -> list[bytes | int]:
    """Return payloads, and for each loss the offset up to which it reaches."""
    return [item.position.offset if isinstance(item, Lost) else item.payload for item in outcome]


@pytest.fixture
def history(settings) -> None:
    """Keep ten messages."""
    settings.WS4REDIS_HISTORY = 10


@pytest.mark.parametrize("key", [NAME, META, "{broadcast:foo}:history"])
@pytest.mark.parametrize("kind", ["list", "set", "other"])
def test_what_others_keep_under_a_name_stays(redis_client, key, kind) -> None:
    """Whoever opens a socket chooses a part of the name; the error says which key that is."""
    if kind == "list":
        redis_client.rpush(key, "theirs")
    elif kind == "set":
        redis_client.sadd(key, "theirs")
    else:
        redis_client.zadd(key, {"theirs": 1})
    before = redis_client.dump(key)
    with pytest.raises(redis.exceptions.ResponseError, match=f"{key} is a .*WS4REDIS_PREFIX"):
        publish(redis_client, b"ours")
    assert redis_client.dump(key) == before
    assert redis_client.keys() == [key.encode()]


def test_what_others_put_under_a_name_later_stays(redis_client) -> None:
    """Also where the channel has messages already; those that are not stored go on."""
    publish(redis_client, b"ours")
    redis_client.delete(NAME)
    redis_client.rpush(NAME, "theirs")
    with pytest.raises(redis.exceptions.ResponseError, match="broadcast:foo is a list"):
        publish(redis_client, b"ours")
    assert redis_client.lrange(NAME, 0, -1) == [b"theirs"]
    assert publish(redis_client, b"ours", expire=0).offset == 2


def test_offsets_are_contiguous_and_the_epoch_stays(redis_client, history) -> None:
    positions = [publish(redis_client, b"%d" % index) for index in range(3)]
    assert [position.offset for position in positions] == [1, 2, 3]
    assert len({position.epoch for position in positions}) == 1
    reading = read(redis_client)
    assert reading.position == positions[-1]
    assert payloads(reading) == [b"0", b"1", b"2"]


def test_the_history_is_bounded_by_number(redis_client, history) -> None:
    for index in range(25):
        publish(redis_client, b"%d" % index)
    assert payloads(read(redis_client)) == [b"%d" % index for index in range(15, 25)]
    assert redis_client.xlen("{broadcast:foo}:history") == 10


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    messages=st.sampled_from([1, 3, 100]),
    limit=st.integers(1, 40),
)
def test_the_history_is_bounded_by_bytes(redis_url, sizes, messages, limit) -> None:
    """The oldest go first, and the last stays whatever its size; a 0 is not stored in C."""
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    expected: list[bytes] = []
    with override_settings(WS4REDIS_HISTORY=messages, WS4REDIS_HISTORY_BYTES=limit):
        for index, size in enumerate(sizes):
            payload = b"%c" % (65 + index) * size
            publish(client, payload, expire=60 if size else 0)
            expected = [*expected, payload][-messages:]
            while len(expected) > 1 and sum(map(len, expected)) > limit:
                expected.pop(0)
            assert payloads(read(client)) == expected
    client.close()


def test_what_the_history_has_no_room_for_is_admitted(redis_client, history, settings) -> None:
    """As what exceeds its number is: there is one rule for holes."""
    settings.WS4REDIS_HISTORY_BYTES = 100
    position = publish(redis_client, b"one")
    for payload in (b"two", b"3" * 60, b"4" * 60):
        publish(redis_client, payload)
    assert told(read(redis_client).since(position)) == [3, b"4" * 60]
    publish(redis_client, b"five")
    assert told(read(redis_client).since(position)) == [3, b"4" * 60, b"five"]
    publish(redis_client, b"6" * 200)
    assert told(read(redis_client).since(position)) == [5, b"6" * 200]
    publish(redis_client, b"seven")
    assert payloads(read(redis_client)) == [b"seven"]


def test_a_lower_limit_holds_from_the_next_message_that_exceeds_it(
    redis_client, history, settings
) -> None:
    for index in range(10):
        publish(redis_client, b"%d" % index * 10)
    settings.WS4REDIS_HISTORY_BYTES = 30
    assert len(payloads(read(redis_client))) == 10
    publish(redis_client, b"x" * 10)
    assert payloads(read(redis_client)) == [b"8" * 10, b"9" * 10, b"x" * 10]


def test_a_bound_in_bytes_costs_a_small_message_nothing(redis_client, history, settings) -> None:
    """The history is looked at once in as many bytes as it may have."""
    settings.WS4REDIS_HISTORY_BYTES = 1000
    publish(redis_client, b"first")
    redis_client.config_resetstat()
    for _ in range(1000):
        publish(redis_client, b"x" * 10)
    stats = redis_client.info("commandstats")
    assert stats["cmdstat_xadd"]["calls"] == 1000
    assert stats["cmdstat_xrange"]["calls"] <= 12
    assert len(payloads(read(redis_client))) == 10


def test_what_is_looked_at_does_not_grow_with_the_history(redis_client, settings) -> None:
    """Each large message costs the few that it takes the room of, not all that are kept."""
    settings.WS4REDIS_HISTORY, settings.WS4REDIS_HISTORY_BYTES = 10_000, 100_000
    for _ in range(300):
        publish(redis_client, b"x" * 500)
    redis_client.config_resetstat()
    for _ in range(100):
        publish(redis_client, b"x" * 500)
    stats = redis_client.info("commandstats")
    assert len(payloads(read(redis_client))) == 200
    assert stats["cmdstat_xrange"]["calls"] == 200  # of one, and of two


def test_sizes_that_others_have_written_stop_no_channel(redis_client, history, settings) -> None:
    settings.WS4REDIS_HISTORY_BYTES = 100
    publish(redis_client, b"1" * 60)
    for value in ("none", "-1", "", "1e999"):
        redis_client.hset(META, mapping={"written": value, "dropped": value})
        publish(redis_client, b"2" * 60)
    redis_client.delete("{broadcast:foo}:history")
    redis_client.xadd("{broadcast:foo}:history", {"theirs": "x"}, id="7-0")
    redis_client.hset(META, mapping={"offset": 7, "written": 1000, "dropped": 0})
    assert publish(redis_client, b"3" * 60).offset == 8
    assert payloads(read(redis_client)) == [b"3" * 60]


def test_a_history_of_one(redis_client, settings) -> None:
    settings.WS4REDIS_HISTORY = 1
    publish(redis_client, b"one")
    publish(redis_client, b"two")
    assert payloads(read(redis_client)) == [b"two"]
    assert redis_client.get(NAME) == b"two"


def test_the_sender_and_the_position_are_kept(redis_client) -> None:
    (event,) = publish_to(redis_client, [NAME], b"one", sender="me")
    (read_again,) = read(redis_client).events
    for name in ("payload", "epoch", "offset", "sender"):
        assert getattr(read_again, name) == getattr(event, name)


def test_a_value_that_a_foreign_program_has_stored_is_for_newcomers(redis_client) -> None:
    """It comes after ours. Whoever comes back gets what has a number, and nothing else."""
    position = publish(redis_client, b"one")
    publish(redis_client, b"two")
    redis_client.set(NAME, b"foreign", ex=60)
    reading = read(redis_client)
    assert [(event.payload, event.offset) for event in reading.replay("last")] == [(b"foreign", 0)]
    assert [event.payload for event in reading.replay("all")] == [b"one", b"two", b"foreign"]
    assert told(reading.since(position)) == [b"two"]


@pytest.mark.parametrize("gone", ["expired", "pushed out"])
def test_a_value_may_outlive_its_history(redis_client, settings, gone: str) -> None:
    """It keeps its number, and is for newcomers alone."""
    settings.WS4REDIS_HISTORY = 2
    publish(redis_client, b"one")
    publish(redis_client, b"two")
    for _ in range(3):
        position = publish(redis_client, b"not stored", expire=0)
    if gone == "expired":
        redis_client.delete(HISTORY)
    reading = read(redis_client)
    assert [(event.payload, event.offset) for event in reading.replay("last")] == [(b"two", 2)]
    assert reading.replay("last") == reading.replay("all") == reading.replay(1)
    assert reading.replay("none") == []
    assert reading.value is not None
    assert reading.value.epoch == position.epoch
    assert told(reading.since(Position(position.epoch, 1)))[:1] == [5 if gone == "expired" else 3]
    assert reading.since(position) == []


def test_what_newcomers_get(redis_client) -> None:
    """Of the history only what is stored; an empty message clears what came before it."""
    for payload, expire in [(b"1", 60), (b"", 60), (b"3", 60), (b"4", 60), (b"5", 0), (b"6", 60)]:
        publish(redis_client, payload, expire)
    reading = read(redis_client)
    found = {
        wanted: [event.payload for event in reading.replay(wanted)]
        for wanted in ("last", "none", "all", 2, 100)
    }
    assert found == {
        "last": [b"6"],
        "none": [],
        "all": [b"3", b"4", b"6"],
        2: [b"4", b"6"],
        100: [b"3", b"4", b"6"],
    }
    publish(redis_client, b"")
    assert [read(redis_client).replay(wanted) for wanted in ("last", "all", 2)] == [[]] * 3


def ask(
    client: redis.Redis, history: int | None, seconds: int | None, payload: bytes = b"x"
) -> None:
    """Publish a message with limits of the history that are not those of the settings."""
    publication = Publication([NAME], payload, 60, history=history, history_expire=seconds)
    (reply,) = runner.run(client, [publish_command(publication, None, mirror=False)])
    assert isinstance(reply, bytes), repr(reply)


@pytest.mark.parametrize("payload", [16, 128, 1024, 5000, 100_000])
@pytest.mark.parametrize("messages", [1, 10, 100, 400])
def test_a_channel_takes_no_more_memory_than_the_manual_says(
    redis_client, settings, payload: int, messages: int
) -> None:
    """Sizing has the formula, in which the messages are those that the limit in bytes allows."""
    settings.WS4REDIS_HISTORY = messages
    for _ in range(min(3 * messages, 1000)):
        publish(redis_client, b"x" * payload, expire=3600)
    kept = len(payloads(read(redis_client)))
    assert kept == min(messages, settings_of_package.WS4REDIS_HISTORY_BYTES // payload)
    taken = sum(redis_client.memory_usage(key, samples=0) for key in (NAME, HISTORY, META))
    assert taken <= kept * (payload + 160) + payload + 9 * 1024


def test_a_history_of_its_own_length(redis_client) -> None:
    """What a publication says counts more than the settings."""
    for number in range(5):
        ask(redis_client, 3, 1000, b"%d" % number)
    assert payloads(read(redis_client)) == [b"2", b"3", b"4"]
    assert 1000 <= redis_client.ttl(HISTORY) <= 1020


def test_nobody_cuts_what_another_publisher_keeps(redis_client, settings) -> None:
    """Be it by asking for less, by settings, or by reading."""
    settings.WS4REDIS_HISTORY, settings.WS4REDIS_HISTORY_EXPIRE = 5, 60
    for _ in range(30):
        ask(redis_client, 30, 100)
    for _ in range(10):
        ask(redis_client, None, None)
        ask(redis_client, 2, 1000)
    settings.WS4REDIS_HISTORY = 1
    assert len(payloads(read(redis_client))) == 30
    assert redis_client.ttl(HISTORY) > 990


def test_what_is_asked_for_holds_while_it_is_due(redis_client) -> None:
    """Then the history is cut to what is asked for most besides, and so on."""
    for size, seconds in ((30, 1), (20, 600), (10, 300)):
        for _ in range(30):
            ask(redis_client, size, seconds)
    assert len(payloads(read(redis_client))) == 30
    asked = redis_client.hget(META, "keeps").decode().split()
    assert [each.partition(":")[0] for each in asked] == ["10", "20", "30"]
    _until(lambda: ask(redis_client, 10, 300) or len(payloads(read(redis_client))) < 30)
    assert len(payloads(read(redis_client))) == 20


@pytest.mark.parametrize(
    "asked",
    [lambda number: (10, 9000 - number), lambda number: (10 + number, 9000 - number)],
    ids=["shorter and shorter", "for more and more, shorter and shorter"],
)
def test_notes_do_not_grow_with_what_was_asked_for(redis_client, asked) -> None:
    """Such as the seconds that are left; yet as much is kept as anybody has asked for."""
    for number in range(100):
        ask(redis_client, *asked(number))
    most = asked(99)[0]
    assert len(redis_client.hget(META, "keeps").split()) <= 9
    for _ in range(2 * most):
        ask(redis_client, 1, 1)
    assert len(payloads(read(redis_client))) == most
    assert redis_client.ttl(HISTORY) >= 9000


@pytest.mark.parametrize(
    "keeps", ["1:2:3 x", f"{10**20}:9999999999", f"100:{10**20}", "", "7", "100:1"]
)
def test_what_others_have_written_of_it_stops_no_channel(redis_client, keeps) -> None:
    publish(redis_client, b"one")
    redis_client.hset(META, mapping={"keeps": keeps, "asked": ""})
    publish(redis_client, b"two")
    assert payloads(read(redis_client)) == [b"one", b"two"]
    assert 0 < redis_client.ttl(HISTORY) <= 306


def test_a_life_is_renewed_only_when_it_is_due(redis_client) -> None:
    """Each message would cost what asking for it and setting it costs."""
    publish(redis_client, b"first")
    redis_client.config_resetstat()
    for _ in range(100):
        publish(redis_client, b"x")
    stats = redis_client.info("commandstats")
    assert not {"cmdstat_ttl", "cmdstat_expire", "cmdstat_xlen"} & stats.keys()
    assert stats["cmdstat_hset"]["calls"] == 100


@pytest.mark.parametrize("how", ["deleted", "evicted with its value"])
def test_a_history_that_is_gone_too_early_lives_no_longer_for_that(redis_client, how) -> None:
    """A stream that is made anew has to expire, too, whatever is noted of the one before."""
    publish(redis_client, b"one")
    redis_client.delete(HISTORY, *([NAME] if how != "deleted" else []))
    position = publish(redis_client, b"two")
    assert 0 < redis_client.ttl(HISTORY) <= 306
    assert told(read(redis_client).since(Position(position.epoch, 0))) == [1, b"two"]


# Versions


def publish_version(client: redis.Redis, version: int, payload: bytes = b"x") -> Published:
    """Publish a message with a version."""
    publication = Publication([NAME], payload, 60, version=version)
    (reply,) = runner.run(client, [publish_command(publication, None, mirror=False)])
    assert isinstance(reply, bytes), repr(reply)
    return parse_published([NAME], reply)


def test_an_older_version_is_not_published(redis_client) -> None:
    """Nor is the same one again; what comes back is where the channel stands."""
    for version in (0, 7, 2**53, 2**53 + 1, 10**30):
        newer = publish_version(redis_client, version, b"%d" % version)
        assert not newer.idle
        for late in (version, version - 1):
            older = publish_version(redis_client, max(0, late))
            assert older.positions == newer.positions
            assert older.idle == {NAME}
            assert older.events(Publication([NAME], b"x", 60)) == []
    assert redis_client.get(NAME) == b"%d" % 10**30
    assert len(payloads(read(redis_client))) == 5


def test_messages_without_a_version_pass(redis_client) -> None:
    publish_version(redis_client, 7)
    publish(redis_client, b"one")
    assert publish_version(redis_client, 6).positions[NAME].offset == 2
    redis_client.delete(META)
    assert publish_version(redis_client, 6).positions[NAME].offset == 1


# Purges


def purge(client: redis.Redis, *names: str) -> Published:
    """Purge channels."""
    publication = Publication.purge(names or [NAME])
    (reply,) = runner.run(client, [publish_command(publication, "", mirror=True)])
    if isinstance(reply, Exception):
        raise reply
    return parse_published(publication.channels, reply)


def test_a_purge_leaves_nothing_but_the_numbering(redis_client) -> None:
    """It uses up a number, so that whoever was away finds a hole."""
    before = publish_version(redis_client, 7).positions[NAME]
    publish(redis_client, b"two")
    assert purge(redis_client).positions == {NAME: Position(before.epoch, 3)}
    assert set(redis_client.keys()) == {META.encode()}
    reading = read(redis_client)
    assert reading.position == Position(before.epoch, 3)
    assert list(reading.replay()) == list(reading.replay("last")) == []
    assert told(reading.since(before)) == [3]
    assert publish_version(redis_client, 7).idle
    assert publish(redis_client, b"four").offset == 4
    assert told(read(redis_client).since(before)) == [3, b"four"]
    assert told(read(redis_client).since(reading.position)) == [b"four"]
    assert redis_client.ttl(HISTORY) > 290


def test_a_purge_is_published(redis_client) -> None:
    """In the envelope of a message; nothing is sent to legacy servers."""
    with redis_client.pubsub() as heard:
        heard.subscribe(NAME, "{broadcast:foo}:events")
        found = []
        while len(found) < 3:
            found += [heard.get_message(timeout=5)]
            if len(found) == 2:
                position = purge(redis_client).positions[NAME]
        assert heard.get_message(timeout=0.05) is None
    event, mirrored = parse_envelope(NAME, found[-1]["data"])
    assert isinstance(event, Purge)
    assert (event.epoch, event.offset, event.payload, mirrored) == (*position, b"", False)


def test_a_purge_of_a_channel_that_nothing_was_published_to(redis_client) -> None:
    """Whoever was there before is told, as what is purged may be a foreign program's."""
    before = read(redis_client).position
    redis_client.set(NAME, "foreign")
    assert purge(redis_client).positions[NAME].offset == 1
    assert told(read(redis_client).since(before)) == [1]
    assert redis_client.get(NAME) is None


@pytest.mark.parametrize("key", [NAME, META, HISTORY])
def test_a_purge_spares_what_is_not_ours(redis_client, key) -> None:
    redis_client.rpush(key, "theirs")
    with pytest.raises(redis.exceptions.ResponseError, match=f"{key} is a list"):
        purge(redis_client)
    assert redis_client.keys() == [key.encode()]


def test_the_room_in_bytes_is_free_after_a_purge(redis_client, settings) -> None:
    settings.WS4REDIS_HISTORY_BYTES = 100
    for _ in range(5):
        publish(redis_client, b"x" * 40)
    purge(redis_client)
    for _ in range(2):
        publish(redis_client, b"x" * 40)
    assert len(payloads(read(redis_client))) == 2


def test_a_value_without_position_data_is_for_newcomers_only(redis_client, history) -> None:
    """``{C}:meta`` may be evicted alone; whoever has heard the message must not get it again."""
    position = publish(redis_client, b"one")
    redis_client.delete("{broadcast:foo}:meta")
    reading = read(redis_client)
    assert [event.payload for event in reading.replay()] == [b"one"]
    assert told(reading.since(position)) == [0]


def test_a_value_that_somebody_deleted_is_not_replayed(redis_client, history) -> None:
    """Also if a message that is not stored came after it. Whoever comes back recovers."""
    position = publish(redis_client, b"one")
    publish(redis_client, b"two")
    publish(redis_client, b"unstored", expire=0)
    redis_client.delete(NAME)
    reading = read(redis_client)
    assert list(reading.replay()) == []
    assert told(reading.since(position)) == [b"two", b"unstored"]


def test_a_longer_history_begins_with_the_next_message(redis_client, settings) -> None:
    settings.WS4REDIS_HISTORY = 1
    position = publish(redis_client, b"one")
    publish(redis_client, b"two")
    settings.WS4REDIS_HISTORY = 10
    assert payloads(read(redis_client)) == [b"two"]
    publish(redis_client, b"three")
    assert told(read(redis_client).since(position)) == [b"two", b"three"]
    publish(redis_client, b"four")
    assert payloads(read(redis_client)) == [b"two", b"three", b"four"]


def test_what_others_keep_is_read_whatever_is_kept_here(redis_client, settings) -> None:
    """Processes may have settings of their own, during a restart for instance."""
    settings.WS4REDIS_HISTORY = 10
    for payload in (b"one", b"two"):
        publish(redis_client, payload)
    settings.WS4REDIS_HISTORY = 1
    assert payloads(read(redis_client)) == [b"one", b"two"]


def test_everything_expires_by_itself_the_metadata_last(redis_client) -> None:
    """The value when its message does, and the history some time after the last message."""
    publish(redis_client, b"x", expire=60)
    assert 0 < redis_client.ttl(NAME) <= 60
    assert 299 <= redis_client.ttl(HISTORY) <= 306
    assert redis_client.ttl(META) > 3600
    publish(redis_client, b"y", expire=10**6)
    assert redis_client.ttl(HISTORY) <= 306
    assert redis_client.ttl(META) > 10**6
    ask(redis_client, None, 10**6)
    assert redis_client.ttl(META) > redis_client.ttl(HISTORY) >= 10**6


def test_nothing_missed_can_be_told_after_the_entries_have_expired(redis_client, history) -> None:
    position = publish(redis_client, b"x")
    redis_client.delete(NAME, "{broadcast:foo}:history")
    assert read(redis_client).since(position) == []


def test_position_data_outlives_what_it_describes(redis_client, settings) -> None:
    """A message that is stored for a short time does not shorten the life of an earlier one."""
    settings.WS4REDIS_META_EXPIRE = 60
    publish(redis_client, b"for an hour", expire=3600)
    publish(redis_client, b"for a second", expire=1)
    assert redis_client.ttl("{broadcast:foo}:meta") > 3600
    read(redis_client)
    assert redis_client.ttl("{broadcast:foo}:meta") > 3600


def test_reading_writes_nothing(redis_client, history) -> None:
    """Whoever opens sockets to facilities of his own invention leaves no trace."""
    assert is_blank(read(redis_client).position)
    assert redis_client.keys() == []


def test_reading_writes_nothing_after_a_restart_either(persistent: RedisServer, history) -> None:
    client = redis.Redis.from_url(persistent.url)
    publish(client, b"one")
    before = client.hgetall("{broadcast:foo}:meta")
    persistent.restart()
    first, second = read(client), read(client)
    assert first.position == second.position
    assert client.hgetall("{broadcast:foo}:meta") == before
    after = publish(client, b"two")
    assert after == Position(first.position.epoch, first.position.offset + 1)
    client.close()


def test_the_first_message_follows_on_what_was_read_before(redis_client, history) -> None:
    """Somebody who was there before anything was published has missed nothing."""
    position = read(redis_client).position
    publish(redis_client, b"one")
    assert told(read(redis_client).since(position)) == [b"one"]


def test_a_wiped_database_shows_to_who_was_there_before(redis_client, history) -> None:
    """Messages may have come and gone in between, although the history is whole."""
    position = read(redis_client).position
    publish(redis_client, b"gone")
    redis_client.flushdb()
    publish(redis_client, b"one")
    assert told(read(redis_client).since(position)) == [0, b"one"]


def test_an_entry_expires_for_newcomers_alone() -> None:
    """Redis expires whole keys, so each entry says until when it is stored."""
    entries = [
        [b"1-0", [b"p", b"gone", b"s", b"", b"x", b"999", b"b", b"0"]],
        [b"2-0", [b"p", b"still there", b"s", b"", b"x", b"1000", b"b", b"4"]],
        [b"3-0", [b"p", b"never stored", b"s", b"", b"x", b"0", b"b", b"15"]],
    ]
    reading = parse_reading(NAME, [b"e.r", 3, b"", entries, b"still there", b"2", b"1000"])
    assert payloads(reading) == [b"gone", b"still there", b"never stored"]
    assert [event.payload for event in reading.replay()] == [b"still there"]
    assert told(reading.since(Position("e.r", 0))) == [b"gone", b"still there", b"never stored"]


def test_what_is_not_stored_is_recovered_all_the_same(redis_client) -> None:
    """``expire=0`` keeps a message from newcomers, and from nobody who comes back."""
    position = publish(redis_client, b"one")
    publish(redis_client, b"unstored", expire=0)
    reading = read(redis_client)
    assert told(reading.since(position)) == [b"unstored"]
    assert [event.payload for event in reading.replay()] == [b"one"]
    assert redis_client.get(NAME) == b"one"


def test_a_position_alone_is_read_without_what_is_kept(redis_client) -> None:
    """A page that is rendered asks for nothing else, however long the history is."""
    position = publish(redis_client, b"one")
    redis_client.config_resetstat()
    (reply,) = runner.run(redis_client, [read_command(NAME, position_only=True)])
    reading = parse_reading(NAME, reply)
    assert (reading.position, reading.events, reading.stored) == (position, [], [])
    assert not {"cmdstat_xrange", "cmdstat_get"} & redis_client.info("commandstats").keys()


def test_everything_missed_is_returned_in_order(redis_client, history) -> None:
    position = publish(redis_client, b"one")
    for payload in (b"two", b"three"):
        publish(redis_client, payload)
    assert told(read(redis_client).since(position)) == [b"two", b"three"]


def test_more_missed_than_kept_is_admitted(redis_client, history) -> None:
    position = publish(redis_client, b"first")
    for index in range(11):
        publish(redis_client, b"%d" % index)
    outcome = told(read(redis_client).since(position))
    assert outcome == [2, *(b"%d" % index for index in range(1, 11))]


@pytest.mark.parametrize("position", [Position("", 1), Position("none", 1), Position("..", 1)])
def test_a_position_that_was_made_up_is_not_honoured(redis_client, history, position) -> None:
    publish(redis_client, b"one")
    assert told(read(redis_client).since(position)) == [0, b"one"]


def test_an_offset_from_the_future_is_not_honoured(redis_client, history) -> None:
    epoch, offset = publish(redis_client, b"one")
    assert told(read(redis_client).since(Position(epoch, offset + 1))) == [1]


@pytest.mark.parametrize("loss", ["flush", "metadata evicted"])
def test_a_lost_history_has_another_epoch(redis_client, history, loss: str) -> None:
    position = publish(redis_client, b"one")
    if loss == "flush":
        redis_client.flushall()
    else:
        redis_client.delete("{broadcast:foo}:meta")
    after = publish(redis_client, b"two")
    assert after.epoch != position.epoch
    assert after.offset == 1
    reading = read(redis_client)
    assert payloads(reading) == [b"two"]
    assert told(reading.since(position)) == [0, b"two"]


def test_a_flush_shows_even_before_the_next_message(redis_client, history) -> None:
    position = publish(redis_client, b"one")
    redis_client.flushall()
    reading = read(redis_client)
    assert told(reading.since(position)) == [0]
    assert read(redis_client).position == reading.position
    after = publish(redis_client, b"two")
    assert after.offset == 1
    assert told(read(redis_client).since(reading.position)) == [b"two"]


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_restart_with_the_data_is_admitted_as_a_possible_loss(
    persistent: RedisServer, history, how: str
) -> None:
    """Nothing is gone, but no append-only file can prove it: Redis stood at 2, and 3 is burnt."""
    client = redis.Redis.from_url(persistent.url)
    position = publish(client, b"one")
    publish(client, b"two")
    if how == "kill":
        persistent.kill()
    persistent.restart()
    after = publish(client, b"four")
    assert after.epoch != position.epoch
    assert after.offset == 4
    assert told(read(client).since(position)) == [b"two", 3, b"four"]
    client.close()


def test_several_restarts_lose_nothing_that_is_stored(persistent: RedisServer, history) -> None:
    client = redis.Redis.from_url(persistent.url)
    position = publish(client, b"0")
    for index in range(1, 4):
        persistent.restart()
        publish(client, b"%d" % index)
    assert told(read(client).since(position)) == [2, b"1", 4, b"2", 6, b"3"]
    client.close()


def test_the_names_of_past_epochs_are_bounded(persistent: RedisServer, history) -> None:
    client = redis.Redis.from_url(persistent.url)
    for _ in range(3):
        publish(client, b"x")
        persistent.restart()
    past = "01234567.01234567:1 " * 40
    publish(client, b"x")
    client.hset("{broadcast:foo}:meta", "past", past)
    persistent.restart()
    publish(client, b"x")
    kept = client.hget("{broadcast:foo}:meta", "past")
    assert len(kept) <= 400
    assert kept.endswith(b"01234567.01234567:1 ")
    assert len(read(client).past) == 2
    client.close()


def test_a_restart_without_the_data_is_admitted(history) -> None:
    with RedisServer(port=0) as server:
        client = redis.Redis.from_url(server.url)
        position = publish(client, b"one")
        server.restart()
        assert told(read(client).since(position)) == [0]
        client.close()


def test_older_data_than_somebody_has_seen_is_admitted(persistent: RedisServer, history) -> None:
    """Also to those who had not seen it, and also before anything is published again."""
    client = redis.Redis.from_url(persistent.url)
    first = publish(client, b"one")
    publish(client, b"two")
    # As if Redis had come back without the second and third message.
    client.hset("{broadcast:foo}:meta", "offset", 1)
    client.xdel("{broadcast:foo}:history", "2-0")
    client.delete(NAME)
    persistent.restart()
    assert told(read(client).since(first)) == [2]
    assert told(read(client).since(Position(first.epoch, 3))) == [2]
    publish(client, b"new")
    assert told(read(client).since(Position(first.epoch, 3))) == [2, b"new"]
    client.close()


STEPS = [
    *["publish"] * 3,
    *["publish_unstored", "publish_large", "purge", "restart", "flush"],
    *["expire_history", "delete_value", "replace_value"],
]


def _shown(reading: Reading, wanted: Replay | None) -> Sequence[Event]:
    """Return what a newcomer gets, or the history."""
    return reading.events if wanted is None else reading.replay(wanted)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=25),
    size=st.sampled_from([1, 3, 100]),
)
def test_the_scripts_do_what_the_model_of_them_does(redis_url, steps, size) -> None:
    """The delivery rule is proved against that model, so it has to be true."""
    client, model = redis.Redis.from_url(redis_url), lives.Redis(size)
    client.flushall()
    with override_settings(WS4REDIS_HISTORY=size, WS4REDIS_HISTORY_BYTES=lives.LARGE):
        for step in steps:
            if step == "flush":
                client.flushall()
                model.flush()
            elif step == "restart":
                if epoch := client.hget(META, "epoch"):
                    another = b"%b.%08d" % (epoch.partition(b".")[0], model.reigns)
                    client.hset(META, "epoch", another)
                model.restart(0)
            elif step in ("publish", "publish_unstored", "publish_large", "purge"):
                event = model.purge() if step == "purge" else model.publish(step)
                expire = 0 if step == "publish_unstored" else 60
                if step == "purge":
                    position = purge(client).positions[NAME]
                else:
                    position = publish(client, event.payload, expire)
                assert position.offset == event.offset
            elif step == "replace_value":
                client.set(NAME, lives.FOREIGN)
                model.replace_value()
            elif step == "expire_history":
                client.delete(HISTORY)
                model.expire_history()
            else:
                client.delete(NAME)
                model.delete_value()
            found, expected = read(client), model.read()
            assert found.position.offset == expected.position.offset
            assert is_blank(found.position) == is_blank(expected.position)
            assert list(found.past.values()) == list(expected.past.values())
            for wanted in (None, *lives.REPLAYS):
                both = [
                    [(event.offset, event.payload) for event in _shown(each, wanted)]
                    for each in (found, expected)
                ]
                assert both[0] == both[1]
    client.close()


@pytest.mark.parametrize("rights", ["+@all", "+@all -info"])
def test_a_promoted_replica_is_another_reign(history, rights) -> None:
    """The replica knows the scripts of its master, and what it lacks must be admitted."""
    with RedisServer(port=0) as master, RedisServer(port=0) as replica:
        one, two = redis.Redis.from_url(master.url), redis.Redis.from_url(replica.url)
        first, second = (as_user(each, rights) for each in (master, replica))
        position = publish(first, b"one")
        said = say(first, name="broadcast:other")
        two.replicaof(*_address(one))
        _until(lambda: two.info("replication")["master_link_status"] == "up")
        one.wait(1, 5000)
        two.replicaof("NO", "ONE")
        for _ in range(3):
            seen = publish(first, b"lost on the way")
        after = publish(second, b"new")
        assert after.epoch != seen.epoch
        say(second, said, name="broadcast:other")
        assert second.hget("{broadcast:other}:meta", "offset") == b"3"
        assert told(read(second).since(seen)) == [2, b"new"]
        assert told(read(second).since(position)) == [2, b"new"]
        # And back again, with no script run in between on the first one.
        one.replicaof(*_address(two))
        _until(lambda: one.info("replication")["master_link_status"] == "up")
        two.wait(1, 5000)
        one.replicaof("NO", "ONE")
        again = publish(first, b"back")
        assert again.epoch not in {seen.epoch, after.epoch}
        assert told(read(first).since(after)) == [4, b"back"]
        loss, *_, last = told(read(first).since(seen))
        assert isinstance(loss, int)  # up to where something may be missing
        assert last == b"back"
        for client in (one, two, first, second):
            client.close()


def say(client: redis.Redis, said: bytes = b"", name: str = NAME) -> bytes:
    """Publish a message as processes do, and return what the server says of its reign."""
    publication = Publication([name], b"x", 60)
    (reply,) = runner.run(client, [publish_command(publication, "", mirror=False, said=said)])
    assert isinstance(reply, bytes), repr(reply)
    return parse_published([name], reply).said


def times_asked(client: redis.Redis, said: bytes) -> int:
    """Publish, and return how often the server was asked about itself."""
    client.config_resetstat()
    say(client, said)
    return client.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"]


def test_a_server_is_asked_for_its_reign_now_and_then(redis_client) -> None:
    """What it has just said counts for a moment, from the same process, and while it holds."""
    assert 0 in {times_asked(redis_client, say(redis_client)) for _ in range(20)}
    assert any(said == say(redis_client, said) for said in [say(redis_client)] * 20)
    reign, moment, rights, process = say(redis_client).split(b" ", 3)
    later = int(moment)
    for other in (
        b"",
        b"%b %d %b %b" % (reign, later - 1000, rights, process),
        b"%b %d %b %b" % (reign, later + 10_000, rights, process),
        b"%b %d %b %b0" % (reign, later, rights, process),
        b"01234567 %d %b %b" % (later, rights, process),
        b"made up",
    ):
        assert times_asked(redis_client, other) == 1, other


def test_what_a_server_has_said_hides_no_other_reign(redis_client, history) -> None:
    """Not of a channel that was published to elsewhere: it had 1, and 2 is burnt."""
    said = say(redis_client)
    epoch = redis_client.hget(META, "epoch")
    redis_client.hset(META, "epoch", epoch.partition(b".")[0] + b".01234567")
    say(redis_client, said)
    assert redis_client.hmget(META, "epoch", "offset") == [epoch, b"3"]
    say(redis_client, said, "broadcast:new")
    new = redis_client.hget("{broadcast:new}:meta", "epoch")
    assert new.partition(b".")[2] == epoch.partition(b".")[2]


def test_a_right_that_is_missing_shows_before_anything_is_stored(redis_client, redis_url) -> None:
    """Also right after the server was asked, on behalf of a channel that is allowed."""
    redis_client.execute_command("ACL SETUSER few on >p +@all ~* resetchannels &{broadcast:foo}*")
    with redis.Redis.from_url(redis_url.replace("://", "://few:p@")) as client:
        said = say(client)
        with pytest.raises(AssertionError, match="NoPermissionError"):
            say(client, said, "broadcast:bar")
    redis_client.execute_command("ACL DELUSER few")
    assert redis_client.keys("*bar*") == []


def as_user(server: RedisServer, rights: str) -> redis.Redis:
    """Return a client whose user has some rights to commands."""
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command(f"ACL SETUSER app on >p ~* &* {rights}")
    return redis.Redis.from_url(server.url.replace("://", "://app:p@"))


def _address(client: redis.Redis) -> tuple[str, int]:
    arguments = client.connection_pool.connection_kwargs
    return arguments["host"], arguments["port"]


def _until(condition) -> None:
    """Wait for what Redis tells nobody."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_key_of_another_type_keeps_nobody_from_reading(redis_client, history) -> None:
    redis_client.rpush(NAME, "not a string")
    redis_client.rpush("{broadcast:foo}:meta", "not a hash")
    reading = read(redis_client)
    assert list(reading.stored) == []
    assert list(reading.events) == []


@pytest.mark.parametrize(
    "meta",
    [
        {"epoch": "0123456789ab", "offset": 7},
        {"epoch": "01234567.01234567", "offset": "1e30"},
        {"epoch": "01234567.01234567", "offset": -5},
        {"epoch": "01234567.01234567", "offset": 1.5},
        {"epoch": "01234567.01234567"},
    ],
)
def test_position_data_of_another_kind_begin_anew(redis_client, history, meta) -> None:
    """Nothing can be made of them, and they must not stop the channel for good."""
    redis_client.hset(META, mapping=meta)
    assert is_blank(read(redis_client).position)
    assert publish(redis_client, b"one").offset == 1
    assert told(read(redis_client).since(Position(meta["epoch"], 7))) == [0, b"one"]


def test_a_publish_that_fails_leaves_nothing_behind(redis_client, history) -> None:
    position = publish(redis_client, b"one")
    redis_client.set("{broadcast:foo}:history", "no stream")
    with pytest.raises(redis.exceptions.ResponseError, match="wrong kind"):
        publish(redis_client, b"two")
    assert redis_client.get(NAME) == b"one"
    assert read(redis_client).position == position


def test_a_redis_that_is_full_takes_no_new_channels_either(redis_client) -> None:
    """Whoever opens a socket may name as many as there are numbers."""
    publish(redis_client, b"the script is known")
    redis_client.config_set("maxmemory", 1)
    try:
        for number in range(3):
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                publish_to(redis_client, [f"broadcast:{number}"], b"x")
    finally:
        redis_client.config_set("maxmemory", 0)
    assert redis_client.keys("*broadcast:[0-9]*") == []


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB", "SWAPDB 0 1"])
def test_what_came_and_went_shows_to_who_was_there_before(redis_client, command: str) -> None:
    position = read(redis_client).position
    publish(redis_client, b"gone")
    redis_client.execute_command(command)
    assert told(read(redis_client).since(position)) == [0]
    redis_client.flushall()


def test_position_data_that_were_evicted_show_by_what_they_described(redis_client) -> None:
    position = read(redis_client).position
    publish(redis_client, b"still there")
    redis_client.delete(META)
    reading = read(redis_client)
    assert told(reading.since(position)) == [0]
    assert [event.payload for event in reading.replay()] == [b"still there"]


def test_a_message_expires_without_hiding_those_that_live_longer(redis_client, history) -> None:
    """The value expires in the very moment in which its entry does."""
    publish(redis_client, b"long", expire=600)
    publish(redis_client, b"short", expire=1)
    seen = []
    while not seen or len(seen[-1]) == 2 or len(seen) < 1000:
        seen.append([event.payload for event in read(redis_client).replay()])
    assert [b"long", b"short"] in seen
    assert [] not in seen


def test_many_channels_get_a_message_in_one_command(redis_client) -> None:
    names = [f"user:{number}:foo" for number in range(25)]
    publish_to(redis_client, names, b"warm up")
    redis_client.config_resetstat()
    events = publish_to(redis_client, names, b"x")
    assert [event.channel for event in events] == names
    assert {event.offset for event in events} == {2}
    assert redis_client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1


def test_a_channel_that_cannot_be_written_keeps_no_other_from_its_message(
    redis_client,
) -> None:
    names = ["broadcast:a", "broadcast:b", "broadcast:c"]
    redis_client.rpush("{broadcast:b}:meta", "no hash")
    with pytest.raises(redis.exceptions.ResponseError, match="meta is a list"):
        publish_to(redis_client, names, b"x")
    assert redis_client.mget(names) == [b"x", None, b"x"]


def test_an_idempotency_key_publishes_once(redis_client, history) -> None:
    first = publish(redis_client, b"one", key="k")
    again = publish(redis_client, b"one", key="k")
    assert again == first
    assert payloads(read(redis_client)) == [b"one"]
    assert publish(redis_client, b"two", key="l").offset == 2


def test_scripts_that_were_flushed_are_sent_again(redis_client, history) -> None:
    first = publish(redis_client, b"one")
    redis_client.script_flush()
    assert publish(redis_client, b"two") == Position(first.epoch, 2)


def test_a_script_is_sent_with_its_first_run(redis_client) -> None:
    """One round trip more than usual, and no SCRIPT LOAD."""
    redis_client.script_flush()
    redis_client.config_resetstat()
    publish(redis_client, b"one")
    commands = redis_client.info("commandstats")
    assert not any("script" in name for name in commands)


def test_reading_is_one_command_for_any_history(redis_client, settings) -> None:
    settings.WS4REDIS_HISTORY = 100
    for index in range(100):
        publish(redis_client, b"%d" % index)
    redis_client.config_resetstat()
    assert len(read(redis_client).events) == 100
    assert redis_client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
