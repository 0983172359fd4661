"""Publishing from every kind of process, and fetching what is stored."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
import types
import warnings

import pytest
import redis
from django.contrib.auth.models import AnonymousUser, User
from django.test import override_settings

from channels_ws4redis import publisher as publisher_module
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.redis_store import SELF
from channels_ws4redis.store.commands import parse_envelope
from channels_ws4redis.store.process import forget_connections, get_client, this_process
from tests.servers import ROOT


def broadcast(facility="foo"):
    """Return a publisher to everyone."""
    return RedisPublisher(facility=facility, broadcast=True)


@pytest.fixture(params=["sync", "async"])
def publish(request):
    """Both ways to publish, as a coroutine function."""

    async def call(publisher, *args, **kwargs):
        if request.param == "sync":
            publisher.publish_message(*args, **kwargs)
        else:
            await publisher.apublish_message(*args, **kwargs)

    return call


@pytest.fixture(params=["sync", "async"])
def fetch(request):
    """Both ways to fetch, as a coroutine function."""

    async def call(*args, **kwargs):
        publisher = RedisPublisher()
        if request.param == "sync":
            return publisher.fetch_message(*args, **kwargs)
        return await publisher.afetch_message(*args, **kwargs)

    return call


def calls(client):
    """Return how often each command has been run on the server."""
    return {
        name.removeprefix("cmdstat_"): stat["calls"]
        for name, stat in client.info("commandstats").items()
    }


def received(client):
    """Return how many connections and reads the server has seen."""
    stats = client.info("stats")
    return stats["total_connections_received"], stats["total_reads_processed"]


async def test_one_round_trip(quiet_redis, publish):
    """A publish is one EVALSHA for all its channels, on a connection that is kept."""
    publisher = RedisPublisher(facility="foo", broadcast=True, users=["john", "mary"])
    await publish(publisher, "first")  # connects and loads the script
    quiet_redis.config_resetstat()
    connections, reads = received(quiet_redis)
    own = received(quiet_redis)[1] - reads  # what it costs to ask
    _, reads = received(quiet_redis)
    for number in range(10):
        await publish(publisher, str(number))
    after_connections, after_reads = received(quiet_redis)
    assert after_connections == connections
    assert after_reads - reads - own == 10
    assert calls(quiet_redis)["evalsha"] == 10
    assert not {"eval", "script|load", "info|server"} & set(calls(quiet_redis))


async def test_first_publish_after_script_flush(redis_client, publish):
    """A Redis that has lost its scripts gets them again, without loss or repetition."""
    publisher = broadcast()
    await publish(publisher, "one")
    redis_client.script_flush()
    await publish(publisher, "two")
    assert redis_client.get("broadcast:foo") == b"two"
    assert redis_client.hget("{broadcast:foo}:meta", "offset") == b"2"


async def test_killed_connection(redis_client, publish):
    """A connection that Redis has closed meanwhile costs neither an error nor the message."""
    await publish(broadcast(), "one")
    kill = "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
    await asyncio.to_thread(redis_client.execute_command, *kill)
    await publish(broadcast(), "two")
    assert redis_client.get("broadcast:foo") == b"two"


async def test_what_is_published(redis_client, publish):
    """The message goes out once, in an envelope, on a pub/sub channel of the package's own."""
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.psubscribe("*")
        pubsub.get_message(timeout=5)
        await publish(broadcast(), b"\xff\n\x00")
        message = pubsub.get_message(timeout=5)
        assert pubsub.get_message() is None
    assert message["channel"] == b"{broadcast:foo}:events"
    event, mirrored = parse_envelope("broadcast:foo", message["data"])
    assert (event.payload, event.offset, event.sender, mirrored) == (b"\xff\n\x00", 1, "", False)


async def test_what_is_published_for_legacy_servers(redis_client, publish, settings):
    """The envelope goes first, and says that the bare payload follows on the channel's own name."""
    settings.WS4REDIS_LEGACY_SERVERS = True
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.psubscribe("*")
        pubsub.get_message(timeout=5)
        await publish(broadcast(), b"Hello")
        first, second = pubsub.get_message(timeout=5), pubsub.get_message(timeout=5)
    assert parse_envelope("broadcast:foo", first["data"])[1]
    assert (second["channel"], second["data"]) == (b"broadcast:foo", b"Hello")


async def test_expire(redis_client, publish):
    """The expire time may be given by position or by name."""
    await publish(broadcast(), "one", 10)
    assert 9 <= redis_client.ttl("broadcast:foo") <= 10
    await publish(broadcast(), "two", expire=0)
    assert redis_client.get("broadcast:foo") == b"one"


@pytest.mark.parametrize("down", ["refused", "unknown host", "socket"])
async def test_redis_is_down(free_port, publish, down, tmp_path):
    """With Redis down publishers can be made; publishing raises ConnectionError soon."""
    connection = {
        "refused": {"host": "127.0.0.1", "port": free_port},
        "unknown host": {"host": "no-such-host.invalid"},
        "socket": f"unix://{tmp_path}/redis.sock",
    }[down]
    with override_settings(WS4REDIS_CONNECTION=connection):

        class View:
            publisher = broadcast()

        began = time.monotonic()
        with pytest.raises(redis.exceptions.ConnectionError):
            await publish(View.publisher, "Hello")
        assert time.monotonic() - began < 4
    await publish(View.publisher, "Hello")


def test_class_body(redis_client):
    """Making a publisher connects nowhere, so it may be done while modules are imported."""
    before, _ = received(redis_client)

    class View:
        publisher = broadcast()

    assert received(redis_client)[0] == before
    View.publisher.publish_message("Hello")
    View.publisher.publish_message("again")
    assert redis_client.get("broadcast:foo") == b"again"


def test_threads(redis_client):
    """Threads share the pool: all messages are numbered once, none gets another one's reply."""
    errors = []

    def work(number):
        try:
            publisher = broadcast(f"thread-{number}")
            for count in range(50):
                publisher.publish_message(f"{number}:{count}")
                stored = publisher.fetch_message(None, f"thread-{number}", "broadcast")
                assert stored == f"{number}:{count}".encode()
                broadcast("shared").publish_message("x")
        except BaseException as error:  # noqa: BLE001 # shown below
            errors.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert redis_client.hget("{broadcast:shared}:meta", "offset") == b"400"


def publish_many(name, count=100):
    """Publish and fetch in turns, and tell whether each reply was the right one."""
    publisher = broadcast(name)
    for number in range(count):
        publisher.publish_message(f"{name}:{number}")
        if publisher.fetch_message(None, name, "broadcast") != f"{name}:{number}".encode():
            return False
    return True


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_children(redis_client):
    """Children that were forked off a process with open connections publish beside their parent."""
    assert publish_many("before", 1)
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        results = [pool.apply_async(publish_many, [f"child-{number}"]) for number in range(4)]
        assert publish_many("parent")
        assert all(result.get(30) for result in results)
        pool.close()
        pool.join()
    assert publish_many("after", 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_fork_while_a_thread_connects(redis_client):
    """A child is not held up by what another thread of its parent was doing at the fork."""
    get_client()
    with this_process()._lock:
        pid = os.fork()
        if pid == 0:
            try:
                forget_connections()
                os._exit(0 if publish_many("child", 1) else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def run_script(code, redis_url, **environment):
    """Run a script in which nothing but DJANGO_SETTINGS_MODULE is set; any warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(code)],
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.site.settings",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'testproject'}",
            "REDIS_URL": redis_url,
        }
        | environment,
        cwd=ROOT,
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("layer", ["redis", "pubsub", "core", "memory"])
def test_plain_script(redis_url, redis_client, layer):
    """A script publishes after django.setup(), on every channel layer, and ends by itself."""
    result = run_script(
        """
        import django
        django.setup()
        from channels_ws4redis.publisher import RedisPublisher
        publisher = RedisPublisher(facility="foo", broadcast=True)
        publisher.publish_message("one")
        publisher.publish_message("two")
        """,
        redis_url,
        WS4REDIS_TEST_LAYER=layer,
    )
    assert result.returncode == 0, result.stderr
    assert redis_client.get("broadcast:foo") == b"two"


def test_script_without_setup(redis_url, redis_client):
    """The settings alone are enough to publish to names."""
    result = run_script(
        """
        from channels_ws4redis.publisher import RedisPublisher
        RedisPublisher(facility="foo", users=["john"]).publish_message("Hello")
        """,
        redis_url,
    )
    assert result.returncode == 0, result.stderr
    assert redis_client.get("user:john:foo") == b"Hello"


def test_asyncio_run(redis_url, redis_client):
    """asyncio.run() around an asynchronous publish leaves no connection open and does not warn."""
    result = run_script(
        """
        import asyncio
        from channels_ws4redis.publisher import RedisPublisher
        publisher = RedisPublisher(facility="foo", broadcast=True)
        asyncio.run(publisher.apublish_message("one"))
        asyncio.run(publisher.apublish_message("two"))
        async def main():
            await asyncio.gather(*(publisher.apublish_message(str(n)) for n in range(100)))
            assert await publisher.afetch_message(None, "foo") is not None
        asyncio.run(main())
        """,
        redis_url,
    )
    # What asyncio says of a machine that is slow is no warning of the package's.
    told = [line for line in result.stderr.splitlines() if not line.startswith("Executing <")]
    assert (result.returncode, told) == (0, [])
    assert redis_client.hget("{broadcast:foo}:meta", "offset") == b"102"


async def test_idempotency_keys_of_channels_are_apart(redis_client, publish):
    """A facility may be chosen by anybody, and must not stand for a key on another one."""
    await publish(broadcast("a"), "one", idempotency_key="b}:once:c")
    await publish(broadcast("a}:once:b"), "two", idempotency_key="c")
    assert redis_client.get("broadcast:a}:once:b") == b"two"
    await publish(broadcast("a"), "again", idempotency_key="b}:once:c")
    assert redis_client.get("broadcast:a") == b"one"


async def test_order_of_one_coroutine(redis_client):
    """What one coroutine publishes keeps its order."""
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("{broadcast:foo}:events")
        pubsub.get_message(timeout=5)
        for number in range(20):
            await broadcast().apublish_message(str(number))
        got = [pubsub.get_message(timeout=5)["data"].partition(b"\n")[2] for _ in range(20)]
    assert got == [str(number).encode() for number in range(20)]


def test_pipeline_publish_message(redis_client):
    """The method that legacy has for pipelines publishes as well, whatever its last argument."""
    broadcast().pipeline_publish_message("one")
    assert redis_client.get("broadcast:foo") == b"one"
    broadcast().pipeline_publish_message("two", 10, transaction=False)
    assert redis_client.get("broadcast:foo") == b"two"
    assert 9 <= redis_client.ttl("broadcast:foo") <= 10


def test_publisher_from_a_dict(redis_client):
    """Audiences may be passed on as a dict, as legacy projects do."""
    for audience in ({"broadcast": True}, {"users": ["john"]}, {"sessions": ["key"]}):
        RedisPublisher(facility="foo", **audience).publish_message("Hello")
    assert {b"broadcast:foo", b"user:john:foo", b"session:key:foo"} <= set(redis_client.keys())


@pytest.mark.parametrize(
    "audience",
    [{"broadcast": True}, {"users": ["john"]}, {"groups": ["a"], "sessions": ["key"]}],
)
def test_an_audience_without_a_facility(audience):
    """Nobody listens there, so that it is an error that says what is missing."""
    with pytest.raises(ValueError, match=r"has no facility; .*facility='foobar'") as caught:
        RedisPublisher(**audience)
    assert next(iter(audience)) in str(caught.value)
    RedisPublisher(facility="{facility}", **audience)  # is one if it is meant


class Chat(RedisPublisher):
    """Has a facility of its own."""

    def _get_message_channels(self, facility="chat", **kwargs):
        return super()._get_message_channels(facility=facility, **kwargs)


def test_a_facility_of_the_class():
    """A subclass may know the facility."""
    assert Chat(broadcast=True)._publishers == {"broadcast:chat"}


async def test_a_publisher_without_an_audience(publish):
    """A message for nobody is told, at the line that publishes."""
    with pytest.warns(RuntimeWarning, match=r"published to nobody.*broadcast=True") as caught:
        await publish(RedisPublisher(facility="foo"), "lost")
    assert caught[0].filename == __file__


async def test_an_audience_that_is_empty(redis_client, publish):
    """It is no mistake to reach nobody, nor to name channels by hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for audience in ({"users": []}, {"users": [AnonymousUser()]}, {"broadcast": False}):
            await publish(RedisPublisher(facility="foo", **audience), "nobody")
        emptied = RedisPublisher(facility="foo", broadcast=True)
        emptied._publishers = set()
        await publish(emptied, "nobody")
        assert redis_client.keys() == []
        by_hand = RedisPublisher(facility="foo")
        by_hand._publishers.add("broadcast:bar")
        await publish(by_hand, "somebody")
        assert redis_client.get("broadcast:bar") == b"somebody"
        RedisPublisher(facility="foo").fetch_message(None, "foo")
        RedisPublisher().fetch_message(None, "foo")


def test_legacy_pool():
    """The pool that legacy had as a module attribute is there; other attributes are not."""
    assert publisher_module.redis_connection_pool is get_client().connection_pool
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = publisher_module.no_such_thing


class Session(dict):
    """A session that has been saved."""

    session_key = "key"


def johns_request():
    """Return a request of a logged-in user with two auth groups."""
    session = Session({"ws4redis:memberof": ["a", "b"]})
    return types.SimpleNamespace(user=User(username="john"), session=session)


NAMES = ["session:key:foo", "user:john:foo", "group:a:foo", "group:b:foo", "broadcast:foo"]


@pytest.mark.parametrize("prefix", [None, "ws"])
async def test_fetch_searches_in_order(settings, redis_client, fetch, prefix):
    """By default the session is searched first, then user, auth groups and broadcast."""
    settings.WS4REDIS_PREFIX = prefix
    for name in reversed(NAMES):
        redis_client.set(f"{prefix}:{name}" if prefix else name, name)
    for name in NAMES:
        assert await fetch(johns_request(), "foo") == name.encode()
        redis_client.delete(f"{prefix}:{name}" if prefix else name)
    assert await fetch(johns_request(), "foo") is None


@pytest.mark.parametrize(
    ("audience", "found"),
    [("session", NAMES[0]), ("user", NAMES[1]), ("group", NAMES[2]), ("broadcast", NAMES[4])],
)
async def test_fetch_one_audience(redis_client, fetch, audience, found):
    """Only the audience that is asked for is searched."""
    for name in NAMES:
        redis_client.set(name, name)
    assert await fetch(johns_request(), "foo", audience) == found.encode()
    assert await fetch(johns_request(), facility="foo", audience=audience) == found.encode()
    redis_client.delete(found)
    if audience != "group":
        assert await fetch(johns_request(), "foo", audience) is None


@pytest.mark.parametrize(
    "request_", [None, types.SimpleNamespace(user=AnonymousUser(), session=None)]
)
async def test_fetch_by_nobody(redis_client, fetch, request_):
    """Who is nobody finds broadcasts only."""
    for name in [*NAMES, "session:None:foo", "user:None:foo", "user::foo", "session::foo"]:
        redis_client.set(name, name)
    assert await fetch(request_, "foo") == b"broadcast:foo"
    for audience in ("session", "user", "group"):
        assert await fetch(request_, "foo", audience) is None


async def test_fetch_bytes(fetch, publish):
    """What was published is fetched byte for byte; an empty message is none."""
    await publish(broadcast(), b"\xff\x00")
    message = await fetch(None, "foo")
    assert message == b"\xff\x00"
    assert type(message) is bytes
    await publish(broadcast(), "")
    assert await fetch(None, "foo") is None


@pytest.mark.parametrize("audience", ["users", "ANY", "", None, "broadcast:foo"])
async def test_fetch_wrong_audience(fetch, audience):
    """An audience that does not exist raises a ValueError."""
    with pytest.raises(ValueError, match="session, user, group, broadcast or any"):
        await fetch(None, "foo", audience)


async def test_fetch_while_redis_is_down(fetch, free_port):
    """With Redis down fetching raises, it does not say that there is nothing."""
    with (
        override_settings(WS4REDIS_CONNECTION=f"redis://127.0.0.1:{free_port}"),
        pytest.raises(redis.exceptions.ConnectionError),
    ):
        await fetch(None, "foo")


async def test_fetch_key_of_another_type(redis_client, fetch):
    """A key that holds no message is an error of Redis."""
    redis_client.lpush("broadcast:foo", "x")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await fetch(None, "foo")


@pytest.mark.django_db(transaction=True)
async def test_self_in_async_code(redis_client, settings):
    """In asynchronous code a session may have to be loaded; afetch_message does so in a thread."""
    from django.contrib.sessions.backends.db import SessionStore  # noqa: PLC0415 # needs the app

    session = SessionStore()
    session["a"] = 1
    await asyncio.to_thread(session.save)
    redis_client.set(f"session:{session.session_key}:foo", "mine")
    found = types.SimpleNamespace(user=AnonymousUser(), session=SessionStore(session.session_key))
    assert await RedisPublisher().afetch_message(found, "foo") == b"mine"


def test_self_needs_a_request(redis_client):
    """SELF without a request publishes to nobody."""
    RedisPublisher(facility="foo", users=[SELF], groups=[SELF], sessions=[SELF]).publish_message(
        "x"
    )
    assert redis_client.keys() == []


def test_sync_and_async_twins():
    """Each pair of methods takes the same arguments, but for transactions in asynchronous code."""
    for name in ("publish_message", "fetch_message"):
        sync = inspect.signature(getattr(RedisPublisher, name)).parameters
        twin = inspect.signature(getattr(RedisPublisher, f"a{name}")).parameters
        assert set(sync) - set(twin) <= {"on_commit", "using"}
        assert [sync[key] for key in twin] == list(twin.values())
