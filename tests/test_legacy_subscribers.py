"""Subscribers and hooks of legacy projects, unchanged, in real servers."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import pytest
import redis

from tests.clients import END, Visitor

SUBSCRIBERS = "tests.legacy_site.subscribers"
KINDS = ["daphne", "uvicorn"]


@pytest.fixture
def legacy(serve):
    """Start the ported legacy project with settings of the test's own."""

    def start(kind: str = "daphne", layer: str = "redis", **settings):
        for name in ("SUBSCRIBER", "ALLOWED_CHANNELS", "PROCESS_REQUEST"):
            if hook := settings.pop(name, None):
                settings[f"WS4REDIS_{name}"] = f"{SUBSCRIBERS}.{hook}"
        return serve(
            kind,
            layer,
            application="tests.legacy_site.asgi:application",
            settings=settings,
            DJANGO_SETTINGS_MODULE="tests.legacy_site.ported",
        )

    return start


def notes(redis_client: redis.Redis, hook: str) -> list[dict]:
    """Return what a hook has noted."""
    found = [json.loads(note) for note in redis_client.lrange("notes", 0, -1)]
    return [note for note in found if note["hook"] == hook]


async def eventually(condition, seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
async def test_hooks_run_in_a_thread(legacy, redis_client, kind):
    """Every overridden hook runs in a worker thread and may use the ORM and the connection."""
    john = Visitor(legacy(kind, SUBSCRIBER="Presence")).login("john")
    async with john.socket("/ws/room?subscribe-user&publish-user&echo") as socket:
        await socket.send("Hi")
        assert await socket.receive() == "Hi"
        assert redis_client.hget("online", "room") == b"1"
    await eventually(lambda: notes(redis_client, "release"))
    expected = {
        "init": {"users": 2},
        "set_pubsub_channels": {
            "channels": ["publish-user", "subscribe-user"],
            "users": ["john", "mary"],
        },
        "publish_message": {"message": "Hi", "type": "RedisMessage"},
        "release": {"subscribed": True},
    }
    for hook, details in expected.items():
        assert notes(redis_client, hook) == [{"hook": hook, "thread": True, **details}]
    assert redis_client.hget("online", "room") == b"0"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_subscriber_on_the_store(legacy, redis_client, kind):
    """One that extends the store with the methods of the original hears, replays and publishes."""
    redis_client.set("demo:broadcast:room", "stored")
    john = Visitor(legacy(kind, SUBSCRIBER="OnStore")).login("john")
    path = "/ws/room?subscribe-user&subscribe-broadcast&publish-broadcast&echo"
    async with john.socket(path) as socket:
        assert await socket.receive() == "stored"
        await socket.send("Hi")
        assert await socket.receive() == "Hi"
        redis_client.publish("demo:user:john:room", "for john")
        assert await socket.receive() == "for john"
    await eventually(lambda: notes(redis_client, "release"))


async def test_a_subscriber_that_extends_nothing(legacy, redis_client):
    """It hears what it has subscribed, and its client publishes nothing."""
    visitor = Visitor(legacy(SUBSCRIBER="Listener"))
    async with visitor.socket("/ws/room?publish-broadcast") as socket:
        await socket.send("to nobody")
        redis_client.publish("demo:broadcast:listener", "heard")
        assert await socket.receive() == "heard"


async def test_receive_hook(legacy, redis_client):
    """A receive hook may drop a message, and answer the sender, who has not asked for echo."""
    visitor = Visitor(legacy(SUBSCRIBER="Presence"))
    async with visitor.socket("/ws/room?subscribe-broadcast&publish-broadcast") as socket:
        await socket.send("")  # legacy does not call the hook for it
        await socket.send("drop")
        await socket.send("mine")
        await socket.send("ask")
        assert await socket.receive() == "answer"
    received = [note["message"] for note in notes(redis_client, "publish_message")]
    assert received == ["drop", "mine", "ask"]
    assert redis_client.get("demo:broadcast:room") == b"answer"


async def test_refusal_by_subscriber(legacy, redis_client):
    """PermissionDenied in set_pubsub_channels refuses the handshake with 403, and releases."""
    server = legacy(SUBSCRIBER="Presence")
    assert await Visitor(server).login("mary").refused("/ws/room?subscribe-user") == 403
    await eventually(lambda: len(notes(redis_client, "release")) == 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["close", "lost", "stop"])
async def test_release_once(legacy, redis_client, kind, end):
    """Release runs exactly once however a socket ends, and may publish and ask the database."""
    server = legacy(kind, SUBSCRIBER="Presence", WS4REDIS_CLOSE_WINDOW=0.5)
    visitor = Visitor(server)
    listener = redis_client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("demo:broadcast:gone")
    async with visitor.socket("/ws/room?subscribe-broadcast") as socket:
        if end == "close":
            await socket.connection.close()
        elif end == "lost":
            socket.connection.transport.abort()
        else:
            assert await asyncio.to_thread(server.stop, signal.SIGTERM) in (0, -signal.SIGTERM)
            code = await socket.close_code()
            # uvicorn closes first, with a code of its own.
            assert code == (1001 if kind == "daphne" else 1012)
    await eventually(lambda: notes(redis_client, "release"))
    await asyncio.sleep(0.3)
    assert len(notes(redis_client, "release")) == 1
    assert redis_client.hget("online", "room") == b"0"
    assert redis_client.get("demo:broadcast:gone") == b"room 2"
    listener.close()


async def test_release_of_many_at_stop(legacy, redis_client):
    """When the server stops, every one of its sockets is released."""
    server = legacy(SUBSCRIBER="Presence", WS4REDIS_CLOSE_WINDOW=0.5)
    visitor = Visitor(server)
    sockets = [visitor.socket("/ws/room?subscribe-broadcast") for _ in range(20)]
    for socket in sockets:
        await socket.__aenter__()
    assert redis_client.hget("online", "room") == b"20"
    await asyncio.to_thread(server.stop)
    await eventually(lambda: len(notes(redis_client, "release")) == 20)
    for socket in sockets:
        await socket.__aexit__(None, None, None)
    assert redis_client.hget("online", "room") == b"0"


async def test_failing_release(legacy, redis_client):
    """A release hook that fails is logged and harms nobody."""
    server = legacy(SUBSCRIBER="BadRelease")
    visitor = Visitor(server)
    async with visitor.socket("/ws/room?subscribe-broadcast") as other:
        async with visitor.socket("/ws/room?subscribe-broadcast"):
            pass
        assert server.says("cannot let go")
        await visitor.publish(END, facility="room", broadcast=True)
        assert await other.receive() == END


@pytest.mark.parametrize("flags", ["subscribe-server&publish-server&echo", "subscribe-broadcast"])
async def test_stock_body(legacy, redis_client, flags):
    """A subscriber that repeats the original's body, on redis-py's PubSub, works with new flags."""
    visitor = Visitor(legacy(SUBSCRIBER="StockBody"))
    async with visitor.socket(f"/ws/room?{flags}") as socket:
        if "server" in flags:
            await socket.send("to the server")
            assert await socket.receive() == "to the server"
            assert redis_client.get("demo:server:room") == b"to the server"
        await visitor.publish(END, facility="room", broadcast=True)
        if "broadcast" in flags:
            assert await socket.receive() == END


async def test_own_pubsub(legacy, redis_client):
    """What is subscribed on redis-py's own PubSub counts, and its connection is given back."""
    visitor = Visitor(legacy(SUBSCRIBER="OwnPubSub"))
    async with visitor.socket("/ws/room") as socket:
        for facility in ("own", "bytes"):
            await visitor.publish(facility, facility=facility, broadcast=True)
            assert await socket.receive() == facility
        await asyncio.sleep(0.1)
        assert redis_client.pubsub_numsub("demo:broadcast:own") == [(b"demo:broadcast:own", 1)]


async def test_mixin_audience(legacy):
    """A mixin's further audience reaches the subscribers that know it."""
    visitor = Visitor(legacy(SUBSCRIBER="LabSubscriber"))
    async with visitor.socket("/ws/room?subscribe-server") as socket:
        answer = await visitor.arequest("/lab/", {})
        assert answer.body == b"['demo:server:room']"
        assert await socket.receive() == "lab"


async def test_own_replay(legacy, redis_client):
    """send_persisted_messages may send several messages of its own, bytes and text."""
    redis_client.rpush("history", "first", "sécond", b"\xff\xfe")
    visitor = Visitor(legacy(SUBSCRIBER="History"))
    await visitor.publish("stored", facility="room", broadcast=True)
    async with visitor.socket("/ws/room?subscribe-broadcast") as socket:
        received = await socket.receive_many(4)
        assert received == ["first", "sécond", b"\xff\xfe", "that was all"]
        await visitor.publish(END, facility="room", broadcast=True)
        assert await socket.receive() == END


@pytest.mark.parametrize(("subscriber", "expected"), [("MisspeltHistory", ["1"]), ("NoReplay", [])])
async def test_misspelt_replay(legacy, redis_client, subscriber, expected):
    """The old misspelling send_persited_messages is honoured."""
    redis_client.rpush("history", "1")
    visitor = Visitor(legacy(SUBSCRIBER=subscriber))
    await visitor.publish("stored", facility="room", broadcast=True)
    async with visitor.socket("/ws/room?subscribe-broadcast") as socket:
        await visitor.publish(END, facility="room", broadcast=True)
        assert await socket.receive_many(len(expected) + 1) == [*expected, END]


async def test_replay_hook_loses_and_doubles_nothing(legacy, redis_client):
    """What is published while the hook runs arrives once, be it by the hook or live."""
    visitor = Visitor(legacy(SUBSCRIBER="SlowReplay"))
    await visitor.publish("old", facility="room", broadcast=True)
    async with visitor.socket("/ws/room?subscribe-broadcast") as socket:
        await asyncio.to_thread(redis_client.blpop, "replaying", 10)
        await visitor.publish("old", "1", "2", "3", facility="room", broadcast=True)
        await asyncio.sleep(0.2)
        redis_client.rpush("go", "on")
        assert sorted(await socket.receive_many(4)) == sorted(["old", "1", "2", "3"])
        # Not before: the hook sends what is stored when it comes to that.
        await visitor.publish(END, facility="room", broadcast=True)
        assert await socket.receive() == END


async def test_replay_hook_and_own_protocol(legacy, redis_client):
    """A client of the package's own protocol gets what the hook sends; later, its recovery."""
    redis_client.rpush("history", "first")
    visitor = Visitor(legacy(SUBSCRIBER="MisspeltHistory"))
    query = "/ws/room?subscribe-broadcast"
    async with visitor.socket(query, subprotocols=["ws4redis.v1"]) as socket:
        await socket.send_json({"type": "hello", "positions": {}})
        welcome = await socket.receive_json()
        assert welcome["type"] == "welcome"
        message = await socket.receive_json()
        assert (message["type"], message["data"]) == ("message", "first")
    await visitor.publish("missed", facility="room", broadcast=True)
    position = {key: welcome["channels"]["broadcast"][key] for key in ("epoch", "offset")}
    async with visitor.socket(query, subprotocols=["ws4redis.v1"]) as socket:
        await socket.send_json({"type": "hello", "positions": {"broadcast": position}})
        assert (await socket.receive_json())["channels"]["broadcast"]["recovered"] is True
        assert (await socket.receive_json())["data"] == "missed"


@pytest.mark.parametrize("layer", ["redis", "memory"])
async def test_rooms(legacy, layer):
    """subscribe, unsubscribe, channels, subscribed and reset have effect while a socket is open."""
    visitor = Visitor(legacy(layer=layer, SUBSCRIBER="Rooms"))
    async with visitor.socket("/ws/lists?subscribe-broadcast&publish-broadcast") as socket:
        await socket.send("enter green")
        assert await socket.receive() == "welcome to green"
        await socket.send("list")
        assert await socket.receive() == "lists,green"
        await socket.send("leave green")
        await socket.send("list")
        assert await socket.receive() == "lists"
        await socket.send("reset")
        await socket.send("enter blue")
        assert await socket.receive() == "welcome to blue"


async def test_rooms_and_own_protocol(legacy):
    """A channel that a hook subscribes later has a label of its own for the package's client."""
    visitor = Visitor(legacy(SUBSCRIBER="Rooms"))
    query = "/ws/lists?subscribe-broadcast&publish-broadcast"
    async with visitor.socket(query, subprotocols=["ws4redis.v1"]) as socket:
        await socket.send_json({"type": "hello", "positions": {}})
        await socket.receive_json()
        await socket.send_json({"type": "publish", "data": "enter green"})
        first = await socket.receive_json()
        assert first["data"] == "welcome to green"
        assert first["channel"].startswith("other:")
        await visitor.publish("list", facility="lists", broadcast=True)
        assert (await socket.receive_json())["channel"] == "broadcast"


# Hooks in settings


async def test_allowed_channels_from_database(legacy):
    """The hook may ask the database, return a set, and add what was not asked for."""
    john = Visitor(legacy(ALLOWED_CHANNELS="allow_database")).login("john")
    async with john.socket("/ws/room?publish-broadcast") as socket:
        await socket.send("not granted")
        await john.publish("to john", facility="room", users=["john"])
        assert await socket.receive() == "to john"
        await john.publish(END, facility="room", broadcast=True)
        assert await socket.receive() == END


@pytest.mark.parametrize("hook", ["allow_async", "allow_generator"])
async def test_kinds_of_allowed_channels(legacy, hook):
    """The hook may be asynchronous and return a tuple, or be a generator that runs queries."""
    visitor = Visitor(legacy(ALLOWED_CHANNELS=hook))
    async with visitor.socket("/ws/room?subscribe-broadcast") as socket:
        await visitor.publish(END, facility="room", broadcast=True)
        assert await socket.receive() == END


@pytest.mark.parametrize(
    ("hook", "logged"),
    [
        ("allow_none", "TypeError"),
        ("allow_failing", "no such thing"),
        ("missing", "ImportError"),
        ("Rooms.missing", "ModuleNotFoundError"),
    ],
)
async def test_failing_hook_grants_nothing(legacy, redis_client, hook, logged):
    """A hook that fails or is not there grants nothing, and the log has its traceback."""
    server = legacy(ALLOWED_CHANNELS=hook)
    visitor = Visitor(server)
    async with visitor.socket("/ws/room?subscribe-broadcast&publish-broadcast&echo") as socket:
        await socket.send("not granted")
        await visitor.publish("not for you", facility="room", broadcast=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await socket.connection.recv()
    assert redis_client.get("demo:broadcast:room") == b"not for you"
    assert server.says("Traceback")
    assert server.says(logged)


async def test_permission_denied(legacy):
    """PermissionDenied in the hook refuses the handshake with 403."""
    assert await Visitor(legacy(ALLOWED_CHANNELS="allow_nobody")).refused("/ws/room") == 403


async def test_request_attributes(legacy, redis_client):
    """The hook's request has whatever hooks of legacy look at, behind a TLS proxy as well."""
    server = legacy(
        ALLOWED_CHANNELS="allow_looking",
        SECURE_PROXY_SSL_HEADER=["HTTP_X_FORWARDED_PROTO", "https"],
    )
    john = Visitor(server).login("john")
    await john.arequest("/test/session", {"room": "blue"})
    for secure in (False, True):
        headers = {"X-Forwarded-Proto": "https"} if secure else {}
        async with john.socket("/ws/a/b%20c?subscribe-user&ts=1&SUBSCRIBE-BROADCAST", **headers):
            pass
        seen = json.loads(redis_client.get("demo:broadcast:seen"))
        agent = seen.pop("agent")
        assert "websockets" in agent
        assert seen == {
            "GET": ["SUBSCRIBE-BROADCAST", "subscribe-user", "ts"],
            "COOKIES": ["csrftoken", "sessionid"],
            "META": "/ws/a/b c",
            "environ": "/ws/a/b c",
            "path": "/ws/a/b c",
            "path_info": "/ws/a/b c",
            "method": "GET",
            "session": "blue",
            "user": "john",
            "superuser": False,
            "host": "127.0.0.1",
            "uri": "https:" if secure else "http:",
            "secure": secure,
            "channels": ["subscribe-user", "subscribe-broadcast"],
        }


@pytest.mark.parametrize("hook", ["process_token", "process_async"])
async def test_process_request(legacy, hook):
    """WS4REDIS_PROCESS_REQUEST sets the user by its own means, lazily or asynchronously."""
    visitor = Visitor(legacy(PROCESS_REQUEST=hook))
    async with visitor.socket("/ws/room?subscribe-user&token=mary") as socket:
        await visitor.publish("for john", facility="room", users=["john"])
        await visitor.publish("for mary", facility="room", users=["mary"])
        assert await socket.receive() == "for mary"


async def test_failing_process_request(legacy):
    """If it fails nobody is logged in; PermissionDenied refuses the handshake."""
    server = legacy(PROCESS_REQUEST="process_token")
    john = Visitor(server).login("john")
    async with john.socket("/ws/room?subscribe-user&subscribe-broadcast&token=broken") as socket:
        await john.publish("for john", facility="room", users=["john", "broken"])
        await john.publish(END, facility="room", broadcast=True)
        assert await socket.receive() == END
    assert server.says("DoesNotExist")
    assert await john.refused("/ws/room?token=denied") == 403


async def test_slow_hook_does_not_block(legacy, redis_client):
    """While a hook takes its time, other sockets get their messages."""
    visitor = Visitor(legacy(ALLOWED_CHANNELS="wait_to_be_told"))
    async with visitor.socket("/ws/room?subscribe-broadcast&publish-broadcast&echo") as socket:
        slow = asyncio.create_task(visitor.socket("/ws/room?slow").__aenter__())
        assert await asyncio.to_thread(redis_client.blpop, "waiting", 10)
        for number in range(20):
            await socket.send(str(number))
            assert await socket.receive() == str(number)
        assert not slow.done()
        redis_client.rpush("go", "on")
        await (await slow).connection.close()


async def test_hooks_run_side_by_side(legacy, redis_client):
    """Hooks of different sockets do not wait for each other: here they all wait at once."""
    visitor = Visitor(legacy(ALLOWED_CHANNELS="wait_to_be_told"))
    slow = [asyncio.create_task(visitor.socket("/ws/room?slow").__aenter__()) for _ in range(8)]
    for _ in slow:
        assert await asyncio.to_thread(redis_client.blpop, "waiting", 10)
    redis_client.rpush("go", *["on"] * len(slow))
    for socket in await asyncio.gather(*slow):
        await socket.connection.close()


# Heartbeat


async def test_heartbeat(legacy, redis_client):
    """One at connect, one in answer to the client's, then at most four seconds apart."""
    visitor = Visitor(legacy(WS4REDIS_HEARTBEAT="--heartbeat--"))
    async with visitor.socket("/ws/room?subscribe-broadcast&publish-broadcast&echo") as socket:
        assert await socket.receive() == "--heartbeat--"
        await socket.send("--heartbeat--")
        begin = time.monotonic()
        assert await socket.receive() == "--heartbeat--"
        assert time.monotonic() - begin < 1
        # From Redis it is swallowed, and it is never published or persisted.
        redis_client.publish("demo:broadcast:room", "--heartbeat--")
        await visitor.publish("--heartbeat--", "after", facility="room", broadcast=True)
        assert await socket.receive() == "after"
        assert redis_client.get("demo:broadcast:room") == b"after"
        begin = time.monotonic()
        assert await socket.receive_many(2) == ["--heartbeat--"] * 2
        assert time.monotonic() - begin < 2 * 4.0


@pytest.mark.parametrize("kind", KINDS)
async def test_subprotocol(legacy, kind):
    """One of the offered subprotocols is chosen; none offered, none sent."""
    visitor = Visitor(legacy(kind))
    async with visitor.socket("/ws/room", subprotocols=["soap", "wamp"]) as socket:
        assert socket.connection.subprotocol == "soap"
    async with visitor.socket("/ws/room") as socket:
        assert socket.connection.subprotocol is None
        assert "Sec-WebSocket-Protocol" not in socket.connection.response.headers
