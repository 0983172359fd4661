"""What a publisher tells of its channels: positions, histories, and what was deleted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis
from channels.layers import get_channel_layer
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction

from channels_ws4redis.conf import MAX_EXPIRE, MAX_HISTORY
from channels_ws4redis.facilities import facility
from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.publish.histories import MAX_AT_ONCE
from channels_ws4redis.publisher import History, Message, Position, RedisPublisher
from testproject.embedded import RedisServer
from tests.communicators import PATIENCE, opening
from tests.listeners import LAYERS, close_layer, configuration

pytestmark = pytest.mark.server

#: Calls a method of a publisher, or its asyncio twin.
Call = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
def kept(settings) -> None:
    """Have more kept than a test publishes."""
    settings.WS4REDIS_HISTORY = 100


@pytest.fixture(params=["sync", "async", "async with a client"])
def call(request, redis_url: str) -> Iterator[Call]:
    """All ways to ask a publisher."""

    async def ask(publisher: RedisPublisher, name: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "sync":
            return await asyncio.to_thread(getattr(publisher, name), *args, **kwargs)
        if request.param == "async with a client":
            publisher._connection = client
        return await getattr(publisher, f"a{name}")(*args, **kwargs)

    with redis.Redis.from_url(redis_url) as client:
        yield ask


@pytest.fixture(params=LAYERS)
async def layer(request, settings, redis_url: str) -> AsyncIterator[str]:
    """Every channel layer in turn is the project's."""
    settings.CHANNEL_LAYERS = configuration(request.param, redis_url)
    yield request.param
    await close_layer(get_channel_layer())


def broadcast(**kwargs: Any) -> RedisPublisher:
    """Return a publisher to everyone."""
    return RedisPublisher(facility="foo", broadcast=True, **kwargs)


def payloads(found: dict[str, History], channel: str = "broadcast:foo") -> list[str]:
    """Return the messages of a channel as text."""
    return [message.payload.decode() for message in found[channel].messages]


def stands(client: redis.Redis, channel: str = "broadcast:foo") -> Position:
    """Return where Redis says that a channel stands."""
    epoch, offset = client.hmget(f"{{{channel}}}:meta", "epoch", "offset")
    return Position(epoch.decode(), int(offset))


# Positions


async def test_a_publish_returns_where_each_channel_stands(call, layer, redis_client):
    """By the names of the channels, on every channel layer."""
    publisher = RedisPublisher(facility="foo", broadcast=True, users=["john"])
    found = await call(publisher, "publish_message", "one")
    assert found == {
        name: stands(redis_client, name) for name in ("broadcast:foo", "user:john:foo")
    }
    assert {position.offset for position in found.values()} == {1}
    await call(broadcast(), "publish_message", "two")
    found = await call(publisher, "publish_message", "three", expire=0)
    assert {name: position.offset for name, position in found.items()} == {
        "broadcast:foo": 3,
        "user:john:foo": 2,
    }


async def test_a_publish_to_many_channels_returns_them_all(call):
    """However many runs of the script that takes."""
    users = [f"user-{number}" for number in range(120)]
    found = await call(RedisPublisher(facility="foo", users=users), "publish_message", "Hello")
    assert found.keys() == {f"user:{user}:foo" for user in users}


async def test_what_has_no_number_has_no_position(call, layer, settings):
    """A message that is not kept, one for nobody, and the heartbeat."""
    settings.WS4REDIS_HEARTBEAT = "--heartbeat--"
    assert await call(broadcast(), "publish_message", "cursor", keep=False) == {}
    nobody = RedisPublisher(facility="foo", users=[])
    assert await call(nobody, "publish_message", "Hello") == {}
    assert await call(broadcast(), "publish_message", "--heartbeat--") == {}


async def test_a_repetition_returns_the_position_of_the_first_time(call, layer):
    """Whatever was published in between."""
    first = await call(broadcast(), "publish_message", "one", idempotency_key="a")
    await call(broadcast(), "publish_message", "two")
    assert await call(broadcast(), "publish_message", "one", idempotency_key="a") == first
    assert payloads(await call(broadcast(), "history")) == ["one", "two"]


async def test_a_repetition_in_another_numbering(call, redis_client):
    """What Redis knows of the key outlives what it knows of the channel, and is of that time."""
    first = await call(broadcast(), "publish_message", "one", idempotency_key="a")
    redis_client.delete("{broadcast:foo}:meta")
    assert await call(broadcast(), "publish_message", "one", idempotency_key="a") == first
    await call(broadcast(), "publish_message", "two")
    assert await call(broadcast(), "publish_message", "one", idempotency_key="a") == first


def test_the_legacy_method_returns_them_too():
    """Code of legacy looks at no value."""
    found = broadcast().pipeline_publish_message("one")
    assert found["broadcast:foo"].offset == 1


@pytest.mark.django_db(transaction=True)
def test_what_waits_for_a_commit_has_none():
    """What need not wait has been published, and has."""
    with transaction.atomic():
        found = broadcast().publish_message("late", on_commit=True)
    assert found == {}
    assert broadcast().publish_message("at once", on_commit=True)["broadcast:foo"].offset == 2


async def test_what_is_logged_has_none(call, settings, free_port):
    """That is how code learns of it which wants to."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    settings.WS4REDIS_ON_ERROR = "log"
    publisher = broadcast()
    assert await publisher.apublish_message("lost") == {}
    assert publisher.publish_message("lost") == {}
    assert publisher.publish_message("lost", on_commit=True) == {}


# Versions


async def test_an_older_state_is_not_published(call, layer, redis_client):
    """Nor the same one again; the position tells where to find the newer one."""
    publisher = broadcast()
    newer = await call(publisher, "publish_message", "v7", version=7)
    for version in (7, 6, 0):
        found = await call(publisher, "publish_message", f"v{version} again", version=version)
        assert found == newer
    assert redis_client.get("broadcast:foo") == b"v7"
    await call(publisher, "publish_message", "v8", version=8)
    assert payloads(await call(publisher, "history")) == ["v7", "v8"]


async def test_versions_are_those_of_a_channel(call):
    """A publish to several does what each of them needs."""
    both = RedisPublisher(facility="foo", users=["john", "mary"])
    await call(RedisPublisher(facility="foo", users=["john"]), "publish_message", "5", version=5)
    found = await call(both, "publish_message", "4", version=4)
    assert found.keys() == {"user:john:foo", "user:mary:foo"}
    history = await call(both, "history")
    assert payloads(history, "user:john:foo") == ["5"]
    assert payloads(history, "user:mary:foo") == ["4"]


async def test_messages_without_a_version_do_not_count(call):
    """They are published in any case, and the last version stays what it was."""
    publisher = broadcast()
    await call(publisher, "publish_message", "v7", version=7)
    await call(publisher, "publish_message", "hint")
    await call(publisher, "publish_message", "v6", version=6)
    await call(publisher, "publish_message", "v8", version=8, expire=0)
    await call(publisher, "publish_message", "v8 again", version=8)
    assert payloads(await call(publisher, "history")) == ["v7", "hint", "v8"]


async def test_versions_may_be_as_large_as_nanoseconds(call):
    """The largest ones are told apart too, as databases have them."""
    publisher, largest = broadcast(), 2**63 - 1
    for version in (largest - 1, largest, largest - 1):
        await call(publisher, "publish_message", str(version), version=version)
    assert payloads(await call(publisher, "history")) == [str(largest - 1), str(largest)]


@pytest.mark.parametrize("version", [-1, 1.0, "7", True, 2**63], ids=repr)
async def test_what_is_no_version(call, version):
    """The error names it."""
    with pytest.raises(
        ValueError, match=r"version=.* is no whole number from 0 to 9223372036854775807"
    ):
        await call(broadcast(), "publish_message", "x", version=version)


async def test_a_version_needs_something_to_be_kept(call):
    """Else nobody would know it the next time."""
    with pytest.raises(ValueError, match="keep=False, and version=0 needs keep=True"):
        await call(broadcast(), "publish_message", "x", version=0, keep=False)


async def test_of_many_at_once_the_newest_remains(redis_client):
    """Redis decides, in the step in which it publishes."""
    versions = [number * 7919 % 200 for number in range(200)]
    publisher = broadcast()
    await asyncio.gather(
        *(
            asyncio.to_thread(publisher.publish_message, str(each), version=each)
            for each in versions
        )
    )
    assert redis_client.get("broadcast:foo") == b"199"
    numbers = list(map(int, payloads(await publisher.ahistory())))
    assert numbers == sorted(set(numbers))


# What is kept


async def test_a_history_has_the_messages_that_are_kept(call, layer):
    """The oldest first, with their positions, and where the channel stands."""
    positions = [
        (await call(broadcast(), "publish_message", text))["broadcast:foo"] for text in "abc"
    ]
    (history,) = (await call(broadcast(), "history")).values()
    assert history.messages == tuple(map(Message, (b"a", b"b", b"c"), positions))
    assert history.position == positions[-1]
    assert not history.lost


async def test_a_history_of_nothing(call):
    """It has a position, after which the first message comes."""
    before = await call(broadcast(), "history")
    assert before["broadcast:foo"].messages == ()
    await call(broadcast(), "publish_message", "first")
    position = before["broadcast:foo"].position
    after = await call(broadcast(), "history", since=position)
    assert payloads(after) == ["first"]
    assert not after["broadcast:foo"].lost
    assert await call(RedisPublisher(facility="foo", users=[]), "history") == {}


async def test_what_came_after_a_position(call):
    """Also if the position has been JSON meanwhile, and of each of several channels."""
    publisher = RedisPublisher(facility="foo", broadcast=True, users=["john"])
    since = await call(publisher, "publish_message", "one")
    await call(publisher, "publish_message", "two")
    names = "broadcast:foo", "user:john:foo"
    as_lists = json.loads(json.dumps(since))
    as_dicts = {name: position._asdict() for name, position in since.items()}
    for given in (since, as_lists, as_dicts):
        found = await call(publisher, "history", since=given)
        assert [payloads(found, name) for name in names] == [["two"], ["two"]]
    found = await call(publisher, "history", since={names[0]: since[names[0]]})
    assert [payloads(found, name) for name in names] == [["two"], ["one", "two"]]
    for position in (since[names[0]], as_lists[names[0]], as_dicts[names[0]]):
        assert payloads(await call(broadcast(), "history", since=position)) == ["two"]


async def test_somebody_who_has_all(call):
    """Gets nothing, and has lost nothing."""
    since = await call(broadcast(), "publish_message", "one")
    history = (await call(broadcast(), "history", since=since))["broadcast:foo"]
    assert (history.messages, history.lost) == ((), False)
    assert history.position == since["broadcast:foo"]


async def test_what_is_missing_is_told(call):
    """What the history has no room for, and what was numbered in another life of Redis."""
    publisher = broadcast(history=2)
    since = await call(publisher, "publish_message", "one")
    for text in ("two", "three", "four"):
        await call(publisher, "publish_message", text)
    found = await call(publisher, "history", since=since)
    assert payloads(found) == ["three", "four"]
    assert found["broadcast:foo"].lost
    found = await call(publisher, "history", since=Position("another.life", 3))
    assert found["broadcast:foo"].lost


async def test_a_limit(call):
    """Without a position it has the last messages, after a position the next ones."""
    first = await call(broadcast(), "publish_message", "0")
    for number in range(1, 6):
        await call(broadcast(), "publish_message", str(number))
    assert payloads(await call(broadcast(), "history", limit=2)) == ["4", "5"]
    assert len(payloads(await call(broadcast(), "history", None, 100))) == 6
    since, got = first, []
    for _ in range(4):
        found = await call(broadcast(), "history", since=since, limit=2)
        got.append(payloads(found))
        since = {name: history.position for name, history in found.items()}
    assert got == [["1", "2"], ["3", "4"], ["5"], []]


async def test_what_is_missing_behind_a_limit_is_told_there(call):
    """Page by page nothing is told early, late or twice."""
    publisher = broadcast(history=3)
    for number in range(1, 6):
        await call(publisher, "publish_message", str(number))
    since = Position((await call(publisher, "history"))["broadcast:foo"].position.epoch, 1)
    told = []
    for _ in range(3):
        history = (await call(publisher, "history", since=since, limit=2))["broadcast:foo"]
        told.append(([each.payload for each in history.messages], history.lost))
        since = history.position
    assert told == [([b"3", b"4"], True), ([b"5"], False), ([], False)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"limit": 0}, "limit=0 is no whole number from 1 up"),
        ({"limit": "5"}, "limit='5' is no whole number"),
        ({"since": Position("a", 1)}, r"is one position, and the publisher has 2 channels"),
        (
            {"since": {"broadcast": Position("a", 1)}},
            "position of 'broadcast', which is no",
        ),
        ({"since": {"broadcast:foo": 3}}, "since=3 is no position"),
        ({"since": {"broadcast:foo": ("a", -1)}}, "is no position"),
        ({"since": {"broadcast:foo": ("a", True)}}, "is no position"),
        ({"since": {"broadcast:foo": {"epoch": "a"}}}, "is no position"),
        ({"since": {"broadcast:foo": "ab"}}, "is no position"),
    ],
    ids=[
        "no message",
        "text",
        "one for two",
        "label",
        "number",
        "negative",
        "bool",
        "part",
        "letters",
    ],
)
async def test_what_can_only_be_a_mistake(call, arguments, complaint):
    """The error says what to pass."""
    publisher = RedisPublisher(facility="foo", broadcast=True, users=["john"])
    with pytest.raises(ValueError, match=complaint):
        await call(publisher, "history", **arguments)


async def test_what_a_program_has_stored_is_not_of_the_history(call, redis_client):
    """It has no number; `fetch_message` returns it."""
    since = await call(broadcast(), "publish_message", "one")
    await call(broadcast(), "publish_message", "two")
    redis_client.set("broadcast:foo", "foreign")
    assert payloads(await call(broadcast(), "history")) == ["one", "two"]
    assert payloads(await call(broadcast(), "history", since=since)) == ["two"]


async def test_a_channel_that_cannot_be_read(call, redis_client):
    """Is an error, and not an empty history."""
    await call(broadcast(), "publish_message", "one")
    redis_client.xadd("{broadcast:foo}:history", {"of": "another program"})
    with pytest.raises(redis.exceptions.RedisError, match="broadcast:foo"):
        await call(broadcast(), "history")


async def test_without_redis(settings, free_port):
    """Nothing is told that is not known, whatever becomes of a publish."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}"
    settings.WS4REDIS_ON_ERROR = "log"
    for name in ("history", "purge"):
        with pytest.raises(redis.exceptions.ConnectionError):
            await asyncio.to_thread(getattr(broadcast(), name))
        with pytest.raises(redis.exceptions.ConnectionError):
            await getattr(broadcast(), f"a{name}")()


@pytest.mark.parametrize("name", ["history", "purge"])
async def test_an_event_loop_is_not_held_up(name):
    """The synchronous way says which one to take there."""
    with pytest.raises(SynchronousOnlyOperation, match=rf"await a{name}\(\)"):
        getattr(broadcast(), name)()


@pytest.mark.parametrize("name", ["ahistory", "acount_listeners"])
async def test_a_redis_that_hangs_is_waited_for_once(settings, name):
    """Ten that ask take as long as one, as with those that publish."""
    with RedisServer(port=0) as server:
        settings.WS4REDIS_CONNECTION = {"url": server.url, "socket_timeout": 0.5}
        server.pause()
        try:
            began = time.monotonic()
            for _ in range(10):
                with pytest.raises(redis.exceptions.TimeoutError):
                    await getattr(broadcast(), name)()
            assert time.monotonic() - began < 4
        finally:
            server.resume()


def test_what_is_returned_does_not_change():
    """It may be kept and shared."""
    history = History((Message(b"a", Position("a", 1)),), Position("a", 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        history.lost = True  # type: ignore[misc] # that is what is tried
    with pytest.raises(dataclasses.FrozenInstanceError):
        history.messages[0].payload = b""  # type: ignore[misc] # that is what is tried


async def test_many_channels(call):
    """They are read in parts, so that nobody waits for all of them."""
    users = [f"user-{number}" for number in range(MAX_AT_ONCE + 10)]
    publisher = RedisPublisher(facility="foo", users=users)
    await call(publisher, "publish_message", "Hello")
    found = await call(publisher, "history")
    assert {text for name in found for text in payloads(found, name)} == {"Hello"}
    assert found.keys() == {f"user:{user}:foo" for user in users}


# How much is kept


def test_a_publisher_says_how_much_is_kept(redis_client, settings):
    """Its word counts more than the settings."""
    settings.WS4REDIS_HISTORY = 1
    publisher = broadcast(history=3, history_expire=1000)
    for number in range(5):
        publisher.publish_message(str(number))
    assert payloads(publisher.history()) == ["2", "3", "4"]
    assert 1000 <= redis_client.ttl("{broadcast:foo}:history") < 1050


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"history": 0}, "history=0 is no whole number from 1 to"),
        ({"history": "10"}, "history='10' is no whole number from 1 to"),
        ({"history": True}, "history=True is no whole number"),
        ({"history": 10**9}, "history=1000000000 is no whole number"),
        ({"history_expire": 0}, "history_expire=0 is no whole number of seconds from 1 to"),
        ({"history_expire": 10**10}, "history_expire=10000000000 is no whole number of seconds"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_how_much_is_kept_is_a_number(arguments, complaint):
    """The error comes where the publisher is made."""
    with pytest.raises(ValueError, match=complaint):
        broadcast(**arguments)


def test_nobody_cuts_the_longest_history_either(redis_client):
    """That may be asked for, in messages and in seconds."""
    longest = broadcast(history=MAX_HISTORY, history_expire=MAX_EXPIRE)
    longest.publish_message("0")
    broadcast(history=1, history_expire=1).publish_message("1")
    assert payloads(longest.history()) == ["0", "1"]
    assert redis_client.ttl("{broadcast:foo}:history") >= MAX_EXPIRE - 1


def test_a_publisher_counts_more_than_a_policy(no_policies):
    """As an argument of a publish does."""
    facility("foo", history=1)(lambda request: True)
    for number in range(5):
        broadcast(history=3).publish_message(str(number))
    assert payloads(broadcast().history()) == ["2", "3", "4"]


def test_a_policy_that_keeps_nothing_and_a_publisher_that_does(no_policies, redis_client):
    """One of both is a mistake; a single message may be kept, or not, all the same."""
    facility("foo", keep=False)(lambda request: True)
    publisher = broadcast(history=3)
    with pytest.raises(ValueError, match=r"^The policy .* keep=False, and history=3 needs keep=T"):
        publisher.publish_message("x")
    publisher.publish_message("cursor", keep=False)
    assert redis_client.keys("*") == []
    publisher.publish_message("kept", keep=True)
    assert payloads(publisher.history()) == ["kept"]


# Deleting


async def test_a_purge_deletes_all_that_is_kept(call, layer, redis_client):
    """The numbering goes on, and whoever was away is told that something is missing."""
    publisher = RedisPublisher(facility="foo", broadcast=True, users=["john"])
    since = await call(publisher, "publish_message", "secret")
    found = await call(publisher, "purge")
    assert found == {name: stands(redis_client, name) for name in since}
    assert all(found[name].offset > since[name].offset for name in since)
    assert redis_client.get("broadcast:foo") is None
    history = await call(publisher, "history", since=since)
    assert [each.messages for each in history.values()] == [(), ()]
    assert all(each.lost for each in history.values())
    await call(publisher, "publish_message", "public")
    history = await call(publisher, "history", since=found)
    assert payloads(history) == ["public"]
    assert not history["broadcast:foo"].lost


async def test_a_purge_is_told_to_open_sockets(call):
    """Those of the package's protocol learn of it in the order of the messages; raw ones do not."""
    async with opening("/ws/foo?subscribe-broadcast") as opened:
        raw, client = await opened(), await opened(subprotocols=[SUBPROTOCOL])
        await client.send_json_to({"type": "hello"})
        assert (await client.receive_json_from(PATIENCE))["type"] == "welcome"
        await call(broadcast(), "publish_message", "secret")
        position = (await call(broadcast(), "purge"))["broadcast:foo"]
        await call(broadcast(), "publish_message", "public")
        got = [await client.receive_json_from(PATIENCE) for _ in range(3)]
        assert [each["type"] for each in got] == ["message", "purged", "message"]
        assert got[1] == {"type": "purged", "channel": "broadcast", **position._asdict()}
        assert [await raw.receive_from(PATIENCE) for _ in range(2)] == ["secret", "public"]


async def test_a_purge_of_nothing(call):
    """It is no error to delete what is not there, or of nobody."""
    assert await call(RedisPublisher(facility="foo", users=[]), "purge") == {}
    await call(broadcast(), "purge")
    assert payloads(await call(broadcast(), "history")) == []


async def test_a_purge_keeps_the_version(call):
    """What is late must not bring back what was deleted."""
    await call(broadcast(), "publish_message", "v7", version=7)
    await call(broadcast(), "purge")
    await call(broadcast(), "publish_message", "v6", version=6)
    await call(broadcast(), "publish_message", "v7", version=7)
    await call(broadcast(), "publish_message", "v8", version=8)
    assert payloads(await call(broadcast(), "history")) == ["v8"]
