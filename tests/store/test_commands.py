"""The scripts in Redis: offsets, epochs, what is kept and for how long, and at what price."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.store import runner as links
from channels_ws4redis.store.commands import (
    Publication,
    Snapshot,
    parse_published,
    parse_snapshot,
    publish_command,
    read_command,
)
from testproject.embedded import RedisServer

NAME = "broadcast:foo"


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
    (reply,) = links.run(client, [publish_command(publication, None, mirror=False)])
    if isinstance(reply, Exception):
        raise reply
    return parse_published(publication, reply)


def publish(client: redis.Redis, payload: bytes, expire: int = 60, key: str = "") -> Position:
    """Publish a message and return its position."""
    (event,) = publish_to(client, [NAME], payload, expire, key=key)
    return Position(event.epoch, event.offset)


def read(client: redis.Redis, witness: Position | None = None) -> Snapshot:
    """Read all that is stored."""
    (reply,) = links.run(client, [read_command(NAME, witness)])
    if isinstance(reply, Exception):
        raise reply
    return parse_snapshot(NAME, reply)


def payloads(snapshot: Snapshot) -> list[bytes]:
    """Return the payloads of the history."""
    return [event.payload for event in snapshot.events]


@pytest.fixture
def history(settings) -> None:
    """Keep ten messages."""
    settings.WS4REDIS_HISTORY = 10


@pytest.fixture
def persistent() -> Iterator[RedisServer]:
    """A Redis that comes back with its data."""
    with RedisServer(port=0, appendonly=True, options={"appendfsync": "always"}) as server:
        yield server


def test_offsets_are_contiguous_and_the_epoch_stays(redis_client, history) -> None:
    positions = [publish(redis_client, b"%d" % index) for index in range(3)]
    assert [position.offset for position in positions] == [1, 2, 3]
    assert len({position.epoch for position in positions}) == 1
    snapshot = read(redis_client)
    assert snapshot.position == positions[-1]
    assert payloads(snapshot) == [b"0", b"1", b"2"]


def test_the_history_is_bounded_by_number(redis_client, history) -> None:
    for index in range(25):
        publish(redis_client, b"%d" % index)
    assert payloads(read(redis_client)) == [b"%d" % index for index in range(15, 25)]
    assert redis_client.xlen("{broadcast:foo}:history") == 10


def test_the_default_history_is_the_last_message(redis_client) -> None:
    publish(redis_client, b"one")
    publish(redis_client, b"two")
    assert payloads(read(redis_client)) == [b"two"]
    assert redis_client.get(NAME) == b"two"


def test_the_default_history_needs_no_stream(redis_client) -> None:
    (event,) = publish_to(redis_client, [NAME], b"one", sender="me")
    assert redis_client.exists("{broadcast:foo}:history") == 0
    (read_again,) = read(redis_client).events
    for name in ("payload", "epoch", "offset", "sender"):
        assert getattr(read_again, name) == getattr(event, name)


def test_a_message_that_a_foreign_program_has_replaced_is_not_taken_for_ours(redis_client) -> None:
    """Who has missed it is told so, and gets what is current instead."""
    position = publish(redis_client, b"one")
    publish(redis_client, b"two")
    redis_client.set(NAME, b"foreign", ex=60)
    snapshot = read(redis_client)
    assert snapshot.events == []
    assert [(event.payload, event.offset) for event in snapshot.replay()] == [(b"foreign", 0)]
    missed = snapshot.since(position)
    assert not missed.complete
    assert [(event.payload, event.offset) for event in missed.events] == [(b"foreign", 0)]
    assert snapshot.since(snapshot.position).complete
    assert snapshot.since(snapshot.position).events == []


def test_what_a_foreign_program_had_stored_before_is_not_sent_again(redis_client) -> None:
    """A message that was not stored left it in place; it is no news."""
    position = publish(redis_client, b"one")
    redis_client.set(NAME, b"foreign", ex=60)
    publish(redis_client, b"unstored", expire=0)
    missed = read(redis_client).since(position)
    assert not missed.complete
    assert missed.events == []


def test_a_longer_history_begins_with_the_next_message(redis_client, settings) -> None:
    position = publish(redis_client, b"one")
    publish(redis_client, b"two")
    settings.WS4REDIS_HISTORY = 10
    assert payloads(read(redis_client)) == [b"two"]
    publish(redis_client, b"three")
    missed = read(redis_client).since(position)
    assert not missed.complete
    assert [event.payload for event in missed.events] == [b"three"]
    publish(redis_client, b"four")
    assert payloads(read(redis_client)) == [b"three", b"four"]


def test_what_others_keep_is_read_whatever_is_kept_here(redis_client, settings) -> None:
    """Processes may have settings of their own, during a restart for instance."""
    settings.WS4REDIS_HISTORY = 10
    for payload in (b"one", b"two"):
        publish(redis_client, payload)
    settings.WS4REDIS_HISTORY = 1
    assert payloads(read(redis_client)) == [b"one", b"two"]


def test_a_shorter_history_leaves_nothing_of_the_longer_one(redis_client, settings) -> None:
    settings.WS4REDIS_HISTORY = 10
    position = publish(redis_client, b"one")
    publish(redis_client, b"two")
    settings.WS4REDIS_HISTORY = 1
    publish(redis_client, b"three")
    assert payloads(read(redis_client)) == [b"three"]
    assert not read(redis_client).since(position).complete
    settings.WS4REDIS_HISTORY = 10
    publish(redis_client, b"four")
    assert not read(redis_client).since(position).complete


def test_everything_expires_by_itself_the_metadata_last(redis_client, history) -> None:
    publish(redis_client, b"x", expire=60)
    assert 0 < redis_client.ttl(NAME) <= 60
    assert 0 < redis_client.ttl("{broadcast:foo}:history") <= 60
    assert redis_client.ttl("{broadcast:foo}:meta") > 3600
    publish(redis_client, b"y", expire=10**6)
    assert redis_client.ttl("{broadcast:foo}:meta") > 10**6


def test_nothing_missed_can_be_told_after_the_entries_have_expired(redis_client, history) -> None:
    position = publish(redis_client, b"x")
    redis_client.delete(NAME, "{broadcast:foo}:history")
    missed = read(redis_client).since(position)
    assert missed.complete
    assert missed.events == []


def test_an_entry_expires_within_a_history_that_lives_on(history) -> None:
    """Redis expires whole keys, so each entry says when it expires itself."""
    entries = [
        [b"1-0", [b"p", b"gone", b"s", b"", b"x", b"999"]],
        [b"2-0", [b"p", b"still there", b"s", b"", b"x", b"1000"]],
        [b"3-0", [b"p", b"without a time", b"s", b""]],
    ]
    snapshot = parse_snapshot(NAME, [b"e", 3, b"", None, [], entries, b"1000"])
    assert payloads(snapshot) == [b"still there", b"without a time"]
    assert not snapshot.since(Position("e", 0)).complete
    assert snapshot.since(Position("e", 1)).complete


def test_what_was_not_stored_is_a_gap(redis_client, history) -> None:
    """A message with ``expire=0`` that a client missed is reported, not skipped."""
    position = publish(redis_client, b"one")
    publish(redis_client, b"unstored", expire=0)
    assert not read(redis_client).since(position).complete
    publish(redis_client, b"three")
    assert not read(redis_client).since(position).complete
    assert redis_client.get(NAME) == b"three"


def test_everything_missed_is_returned_in_order(redis_client, history) -> None:
    position = publish(redis_client, b"one")
    for payload in (b"two", b"three"):
        publish(redis_client, payload)
    missed = read(redis_client).since(position)
    assert missed.complete
    assert [event.payload for event in missed.events] == [b"two", b"three"]


def test_more_missed_than_kept_is_admitted(redis_client, history) -> None:
    position = publish(redis_client, b"first")
    for index in range(11):
        publish(redis_client, b"%d" % index)
    missed = read(redis_client).since(position)
    assert not missed.complete
    assert len(missed.events) == 10


@pytest.mark.parametrize("position", [Position("", 1), Position("none", 1), Position("..", 1)])
def test_a_position_that_was_made_up_is_not_honoured(redis_client, history, position) -> None:
    publish(redis_client, b"one")
    assert not read(redis_client).since(position).complete


def test_an_offset_from_the_future_is_not_honoured(redis_client, history) -> None:
    epoch, offset = publish(redis_client, b"one")
    assert not read(redis_client).since(Position(epoch, offset + 1)).complete


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
    snapshot = read(redis_client)
    assert payloads(snapshot) == [b"two"]
    assert not snapshot.since(position).complete


def test_a_flush_shows_even_before_the_next_message(redis_client, history) -> None:
    position = publish(redis_client, b"one")
    redis_client.flushall()
    snapshot = read(redis_client)
    assert not snapshot.since(position).complete
    assert read(redis_client).position == snapshot.position
    assert publish(redis_client, b"two") == Position(snapshot.position.epoch, 1)


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_restart_with_the_data_changes_the_epoch_and_loses_nothing(
    persistent: RedisServer, history, how: str
) -> None:
    client = redis.Redis.from_url(persistent.url)
    position = publish(client, b"one")
    publish(client, b"two")
    if how == "kill":
        persistent.kill()
    persistent.restart()
    after = publish(client, b"three")
    assert after.epoch != position.epoch
    assert after.offset == 3
    missed = read(client).since(position)
    assert missed.complete
    assert [event.payload for event in missed.events] == [b"two", b"three"]
    client.close()


def test_several_restarts_lose_nothing_either(persistent: RedisServer, history) -> None:
    client = redis.Redis.from_url(persistent.url)
    position = publish(client, b"0")
    for index in range(1, 4):
        persistent.restart()
        publish(client, b"%d" % index)
    missed = read(client).since(position)
    assert missed.complete
    assert [event.payload for event in missed.events] == [b"1", b"2", b"3"]
    client.close()


def test_the_names_of_past_epochs_are_bounded(persistent: RedisServer, history) -> None:
    client = redis.Redis.from_url(persistent.url)
    for _ in range(3):
        publish(client, b"x")
        persistent.restart()
    past = "0123456789ab:1:1 " * 40
    publish(client, b"x")
    client.hset("{broadcast:foo}:meta", "past", past)
    persistent.restart()
    publish(client, b"x")
    kept = client.hget("{broadcast:foo}:meta", "past")
    assert len(kept) <= 400
    assert len(read(client).past) == kept.count(b" ")
    client.close()


def test_a_restart_without_the_data_is_admitted(history) -> None:
    with RedisServer(port=0) as server:
        client = redis.Redis.from_url(server.url)
        position = publish(client, b"one")
        server.restart()
        assert not read(client).since(position).complete
        client.close()


def test_older_data_than_somebody_has_seen_is_admitted(persistent: RedisServer, history) -> None:
    """A process that was further than Redis came back with is a witness for all clients."""
    client = redis.Redis.from_url(persistent.url)
    first = publish(client, b"one")
    publish(client, b"two")
    # As if Redis had come back without the second and third message.
    client.hset("{broadcast:foo}:meta", "offset", 1)
    client.xdel("{broadcast:foo}:history", "2-0")
    client.delete(NAME)
    persistent.restart()
    assert read(client).since(first).complete
    assert not read(client, Position(first.epoch, 3)).since(first).complete
    assert not read(client).since(first).complete, "it has been written down"
    assert not read(client).since(Position(first.epoch, 3)).complete
    client.close()


def test_only_an_append_only_file_proves_that_nothing_was_lost(tmp_path, history) -> None:
    with RedisServer(port=0, directory=tmp_path) as server:
        client = redis.Redis.from_url(server.url)
        position = publish(client, b"one")
        client.save()
        server.restart()
        publish(client, b"two")
        missed = read(client).since(position)
        assert not missed.complete
        assert missed.torn == [1]
        assert [event.payload for event in missed.events] == [b"two"]
        client.close()


def test_a_key_of_another_type_keeps_nobody_from_reading(redis_client, history) -> None:
    redis_client.rpush(NAME, "not a string")
    redis_client.rpush("{broadcast:foo}:meta", "not a hash")
    snapshot = read(redis_client)
    assert snapshot.value is None
    assert snapshot.events == []


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
    with pytest.raises(redis.exceptions.ResponseError, match="wrong kind"):
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


def test_a_script_is_never_loaded_by_script_load(redis_client) -> None:
    """Redis before 7 would write it to the append-only file, and know it after a restart."""
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
