"""Sockets end to end: real clients, real servers, a real Redis, on every channel layer."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.parse

import pytest

from tests.clients import END, Visitor
from tests.conftest import SITES

every_site = pytest.mark.parametrize("site", SITES, indirect=True)


@every_site
async def test_broadcast(visitor):
    """A broadcast reaches everyone on its facility and nobody else."""
    async with (
        visitor.socket("/ws/foo?subscribe-broadcast") as first,
        visitor.socket("/ws/foo?subscribe-broadcast") as second,
        visitor.socket("/ws/bar?subscribe-broadcast") as other,
    ):
        assert await visitor.publish("Hello", facility="foo", broadcast=True) == ["broadcast:foo"]
        assert await first.receive() == "Hello"
        assert await second.receive() == "Hello"
        await visitor.publish(END, facility="bar", broadcast=True)
        assert await other.receive() == END


@every_site
async def test_user(visitor, john, mary):
    """A message to a user reaches that user's sockets only."""
    async with (
        john.socket("/ws/foo?subscribe-user") as johns,
        mary.socket("/ws/foo?subscribe-user&subscribe-broadcast") as marys,
        visitor.socket("/ws/foo?subscribe-user&subscribe-broadcast") as strangers,
    ):
        assert await visitor.publish("for john", facility="foo", users=["john"]) == [
            "user:john:foo"
        ]
        assert await johns.receive() == "for john"
        await visitor.publish(END, facility="foo", broadcast=True)
        assert await marys.receive() == END
        assert await strangers.receive() == END


@every_site
async def test_group(visitor, john, mary):
    """A message to an auth group reaches every member; nobody else."""
    async with (
        john.socket("/ws/foo?subscribe-group") as johns,
        mary.socket("/ws/foo?subscribe-group") as marys,
        visitor.socket("/ws/foo?subscribe-group&subscribe-broadcast") as strangers,
    ):
        assert await visitor.publish("all", facility="foo", groups=["chatters"]) == [
            "group:chatters:foo"
        ]
        assert await johns.receive() == "all"
        assert await marys.receive() == "all"
        await visitor.publish(END, facility="foo", broadcast=True)
        assert await strangers.receive() == END


@every_site
async def test_session(visitor, john):
    """A message to a session reaches the sockets of that browser only."""
    other = Visitor(john.site).login("john")
    async with (
        john.socket("/ws/foo?subscribe-session") as first,
        other.socket("/ws/foo?subscribe-session&subscribe-broadcast") as second,
    ):
        await visitor.publish("hush", facility="foo", sessions=[john.session_key])
        assert await first.receive() == "hush"
        await visitor.publish(END, facility="foo", broadcast=True)
        assert await second.receive() == END


@every_site
async def test_all_audiences(john):
    """One socket may listen to every audience, and SELF names the user, its groups and session."""
    flags = "subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session"
    async with john.socket(f"/ws/foo?{flags}") as socket:
        names = await john.publish(
            "to all of me",
            facility="foo",
            broadcast=True,
            users=["SELF"],
            groups=["SELF"],
            sessions=["SELF"],
        )
        assert names == [
            "broadcast:foo",
            "group:chatters:foo",
            f"session:{john.session_key}:foo",
            "user:john:foo",
        ]
        assert await socket.receive_many(4) == ["to all of me"] * 4


@every_site
@pytest.mark.parametrize(
    "facility",
    ["foo", "foo/", "a/b//c", "Größe ☃", "100%", "x:chat", "a?b", "1", "a;b=c", "with\nbreak", ""],
)
async def test_facility(visitor, facility):
    """The facility is the whole decoded rest of the path, whatever is in it."""
    path = f"/ws/{urllib.parse.quote(facility)}?subscribe-broadcast"
    async with visitor.socket(path) as socket:
        await visitor.publish("here", facility=facility, broadcast=True)
        assert await socket.receive() == "here"


@pytest.mark.parametrize("url", ["/stream/", "/stream", "/a/b/ws/"])
async def test_websocket_url(serve, url):
    """WEBSOCKET_URL may be any prefix; without a trailing slash facilities begin with one."""
    visitor = Visitor(serve(settings={"WEBSOCKET_URL": url}))
    facility = "foo" if url.endswith("/") else "/foo"
    async with visitor.socket(f"{url.rstrip('/')}/foo?subscribe-broadcast") as socket:
        await visitor.publish("here", facility=facility, broadcast=True)
        assert await socket.receive() == "here"


@pytest.mark.parametrize(
    "query",
    [
        "subscribe-broadcast",
        "SUBSCRIBE-Broadcast",
        "subscribe-broadcast=1",
        "ts=1&subscribe-broadcast",
        "subscribe-broadcast&subscribe-broadcast",
        "%FF&&=&%&a=b=c&subscribe-broadcast",
        " subscribe-broadcast",
    ],
)
async def test_flags(visitor, query):
    """Flags are case-insensitive and may carry a value; anything else is ignored."""
    async with visitor.socket(f"/ws/foo?{urllib.parse.quote(query, safe='&=%')}") as socket:
        await visitor.publish("once", END, facility="foo", broadcast=True)
        assert await socket.receive_many(2) == ["once", END]


async def test_no_flags(visitor):
    """Without any flag a socket is accepted and stays idle; what it sends is dropped."""
    async with (
        visitor.socket("/ws/foo") as idle,
        visitor.socket("/ws/foo?subscribe-broadcast") as listener,
    ):
        await idle.send("into the void")
        await visitor.publish(END, facility="foo", broadcast=True)
        assert await listener.receive() == END
        assert await (await idle.connection.ping()) >= 0


@every_site
@pytest.mark.parametrize(
    ("flag", "audience"),
    [("broadcast", "broadcast"), ("user", "user"), ("group", "group"), ("session", "session")],
)
async def test_publish_from_browser(john, redis_client, flag, audience):
    """What a browser sends goes to its own user, groups or session, and is stored."""
    async with (
        john.socket(f"/ws/foo?publish-{flag}") as sender,
        john.socket(f"/ws/foo?subscribe-{flag}") as listener,
    ):
        await sender.send("from the browser")
        assert await listener.receive() == "from the browser"
    name = {
        "broadcast": "broadcast:foo",
        "user": "user:john:foo",
        "group": "group:chatters:foo",
        "session": f"session:{john.session_key}:foo",
    }[audience]
    assert redis_client.get(name) == b"from the browser"


@every_site
async def test_without_echo(visitor):
    """Without echo only the sender's own messages are held back, not the same words of others."""
    query = "subscribe-broadcast&publish-broadcast"
    async with (
        visitor.socket(f"/ws/foo?{query}") as first,
        visitor.socket(f"/ws/foo?{query}") as second,
    ):
        await first.send("same words")
        assert await second.receive() == "same words"
        await second.send("same words")
        assert await first.receive() == "same words"
        await first.send(END)
        assert await second.receive() == END


@every_site
async def test_with_echo(visitor):
    """With echo the sender gets its own messages, in order."""
    async with visitor.socket("/ws/foo?subscribe-broadcast&publish-broadcast&echo") as socket:
        for number in range(5):
            await socket.send(str(number))
        assert await socket.receive_many(5) == ["0", "1", "2", "3", "4"]


async def test_own_messages_after_reconnect(visitor):
    """What a socket published is replayed to its successor, which is another socket."""
    async with visitor.socket("/ws/foo?subscribe-broadcast&publish-broadcast") as socket:
        await socket.send("mine")
        async with visitor.socket("/ws/foo?subscribe-broadcast&publish-broadcast") as listener:
            assert await listener.receive() == "mine"


@every_site
async def test_replay(visitor, john):
    """On connect the stored message of each channel comes once, before anything live."""
    await visitor.publish("old", "stored", facility="foo", broadcast=True)
    await visitor.publish("for john", facility="foo", users=["john"])
    async with john.socket("/ws/foo?subscribe-broadcast&subscribe-user") as socket:
        await visitor.publish("live", facility="foo", broadcast=True)
        first, second, third = await socket.receive_many(3)
        assert {first, second} == {"stored", "for john"}
        assert third == "live"


async def test_history_is_replayed(serve):
    """With WS4REDIS_REPLAY a newcomer gets that many stored messages, in order."""
    visitor = Visitor(serve(settings={"WS4REDIS_REPLAY": 3}))
    await visitor.publish("1", "2", "3", "4", facility="foo", broadcast=True)
    async with visitor.socket("/ws/foo?subscribe-broadcast") as socket:
        await visitor.publish(END, facility="foo", broadcast=True)
        assert await socket.receive_many(4) == ["2", "3", "4", END]


@every_site
async def test_no_gap_at_connect(visitor):
    """While messages are being published, each socket that connects gets every later one once."""
    count = 300
    numbers = [str(number) for number in range(count)]
    publishing = asyncio.create_task(
        visitor.publish(*numbers, facility="foo", broadcast=True), name="publishing"
    )

    async def listen(delay_yields: int) -> list[int]:
        for _ in range(delay_yields):
            await asyncio.sleep(0)
        async with visitor.socket("/ws/foo?subscribe-broadcast") as socket:
            got = []
            while not got or got[-1] != count - 1:
                got.append(int(await socket.receive()))
            return got

    for got in await asyncio.gather(*(listen(n * 10) for n in range(20))):
        assert got == list(range(got[0], count))
    await publishing


@every_site
async def test_burst(visitor):
    """A thousand messages published back to back arrive complete and in order on every socket."""
    numbers = [str(number) for number in range(1000)]
    async with (
        visitor.socket("/ws/foo?subscribe-broadcast") as first,
        visitor.socket("/ws/foo?subscribe-broadcast") as second,
    ):
        publishing = asyncio.create_task(visitor.publish(*numbers, facility="foo", broadcast=True))
        assert await first.receive_many(1000) == numbers
        assert await second.receive_many(1000) == numbers
        await publishing


@every_site
async def test_async_view(visitor):
    """An asynchronous view publishes in order as well."""
    numbers = [str(number) for number in range(50)]
    async with visitor.socket("/ws/foo?subscribe-broadcast") as socket:
        await visitor.publish(*numbers, facility="foo", broadcast=True, view="apublish")
        assert await socket.receive_many(50) == numbers


@every_site
async def test_frames(visitor):
    """UTF-8 goes out as text, other bytes as binary; a client's binary frame is left unchanged."""
    async with (
        visitor.socket("/ws/foo?publish-broadcast") as sender,
        visitor.socket("/ws/foo?subscribe-broadcast") as listener,
    ):
        for sent, expected in (
            ("snow ☃ man", "snow ☃ man"),
            (b"\xff\x00\xfe", b"\xff\x00\xfe"),
            (b"plain", "plain"),
            ("\x00", "\x00"),
        ):
            await sender.send(sent)
            assert await listener.receive() == expected


@every_site
async def test_empty_message(visitor, redis_client):
    """An empty message is stored, blanks what was stored before, and is sent to nobody."""
    async with visitor.socket("/ws/foo?subscribe-broadcast&publish-broadcast") as socket:
        await visitor.publish("something", facility="foo", broadcast=True)
        await visitor.publish("", facility="foo", broadcast=True)
        assert redis_client.get("broadcast:foo") == b""
        async with visitor.socket("/ws/foo?subscribe-broadcast") as late:
            await visitor.publish(END, facility="foo", broadcast=True)
            assert await late.receive() == END
        assert await socket.receive_many(2) == ["something", END]
        await socket.send("")
        assert await (await socket.connection.ping()) >= 0


async def test_two_servers(serve, visitor):
    """A message published through one process reaches the sockets of both."""
    other = Visitor(serve())
    async with (
        visitor.socket("/ws/foo?subscribe-broadcast") as here,
        other.socket("/ws/foo?subscribe-broadcast") as there,
    ):
        for number, publisher in enumerate((visitor, other)):
            await publisher.publish(str(number), facility="foo", broadcast=True)
            assert await here.receive() == await there.receive() == str(number)


@every_site
async def test_group_names_in_redis(visitor, redis_client, site):
    """Where the layer takes them, group names are literally the channel names."""
    async with visitor.socket("/ws/foo?subscribe-broadcast"):
        names = {name.decode() for name in redis_client.pubsub_channels()}
        keys = {key.decode() for key in redis_client.keys("*")}
    expected = {
        "redis": "broadcast:foo",
        "pubsub": "asgi__group__broadcast:foo",
        "core": "asgi:group:broadcast_3afoo",
    }.get(site.environment["WS4REDIS_TEST_LAYER"])
    assert expected is None or expected in names | keys


async def test_login_and_logout(visitor):
    """Opening a socket leaves the login alone, and after a logout the session names nobody."""
    visitor.login("john")
    old = visitor.cookie
    async with visitor.socket("/ws/foo?subscribe-user&subscribe-session"):
        pass
    assert (await visitor.arequest("/test/who")).body == b"john"
    await visitor.arequest("/test/logout", {})
    stranger = Visitor(visitor.site)
    query = "subscribe-user&subscribe-group&subscribe-session&subscribe-broadcast"
    async with stranger.socket(f"/ws/foo?{query}", Cookie=old) as socket:
        await stranger.publish("secret", facility="foo", users=["john"], groups=["chatters"])
        await stranger.publish(END, facility="foo", broadcast=True)
        assert await socket.receive() == END


@pytest.mark.parametrize("engine", ["db", "cached_db", "signed_cookies", "file"])
async def test_forged_cookie(serve, tmp_path, engine):
    """A forged session cookie subscribes to nothing but broadcast, and publishes nowhere else."""
    server = serve(
        settings={
            "SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}",
            "SESSION_FILE_PATH": str(tmp_path),
        }
    )
    visitor = Visitor(server)
    query = "&".join(
        f"{verb}-{audience}"
        for verb in ("subscribe", "publish")
        for audience in ("user", "group", "session", "broadcast")
    )
    forged = "0123456789abcdefghijklmnopqrstuv"
    async with (
        visitor.socket(f"/ws/foo?{query}", Cookie=f"sessionid={forged}") as socket,
        visitor.socket("/ws/foo?subscribe-broadcast") as listener,
    ):
        for session in (forged, "None"):
            await visitor.publish("secret", facility="foo", sessions=[session])
        await visitor.publish("secret", facility="foo", users=["john"], groups=["chatters"])
        await visitor.publish(END, facility="foo", broadcast=True)
        assert await socket.receive() == END
        await socket.send("broadcast still works")
        assert await listener.receive_many(2) == [END, "broadcast still works"]


@pytest.mark.parametrize("engine", ["signed_cookies", "file", "cached_db"])
async def test_session_engines(serve, tmp_path, engine):
    """Users, groups and sessions work on every kind of session engine."""
    server = serve(
        settings={
            "SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}",
            "SESSION_FILE_PATH": str(tmp_path),
        }
    )
    john = Visitor(server).login("john")
    query = "subscribe-user&subscribe-group&subscribe-session"
    async with john.socket(f"/ws/foo?{query}") as socket:
        await john.publish("me", facility="foo", users=["SELF"], groups=["SELF"], sessions=["SELF"])
        assert await socket.receive_many(3) == ["me"] * 3


async def test_rooms_in_the_session(visitor):
    """The application may write its own room names into the session."""
    await visitor.arequest("/test/session", {"ws4redis:memberof": ["lobby"]})
    visitor.login("john")
    await visitor.arequest("/test/session", {"ws4redis:memberof": ["room: 7%", "b"]})
    async with visitor.socket("/ws/foo?subscribe-group") as socket:
        assert await visitor.publish("in the room", facility="foo", groups=["room: 7%"]) == [
            "group:room%3A 7%25:foo"
        ]
        assert await socket.receive() == "in the room"


async def test_key_rotation(serve):
    """Opening a socket while SECRET_KEY is being rotated does not log the user out."""
    with_old_key = Visitor(serve()).login("john")
    server = serve(
        settings={
            "SECRET_KEY": "the new key",
            "SECRET_KEY_FALLBACKS": ["only-for-the-demo-and-the-tests"],
        }
    )
    john = Visitor(server)
    john.cookies = with_old_key.cookies
    john._opener = with_old_key._opener
    async with john.socket("/ws/foo?subscribe-user") as socket:
        await john.publish("still john", facility="foo", users=["john"])
        assert await socket.receive() == "still john"
    assert (await john.arequest("/test/who")).body == b"john"


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_origin(serve, kind):
    """A page of another origin is refused unless a setting allows it; no Origin is fine."""
    server = serve(kind, settings={"WS4REDIS_ALLOWED_ORIGINS": ["https://app.example.com"]})
    visitor = Visitor(server)
    path = "/ws/foo?subscribe-broadcast"
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "file://", "garbage"):
        # autobahn answers 400 by itself to what is no origin at all
        assert await visitor.refused(path, Origin=origin) in (400, 403)
    for origin in (server.url("").rstrip("/"), "https://app.example.com", None):
        headers = {} if origin is None else {"Origin": origin}
        async with visitor.socket(path, **headers) as socket:
            await visitor.publish(END, facility="foo", broadcast=True)
            assert await socket.receive() == END
            await visitor.publish("", facility="foo", broadcast=True)


async def test_unknown_path(visitor):
    """A socket on an unknown path is refused with 403, without a traceback."""
    before = visitor.site.log
    assert await visitor.refused("/elsewhere/foo") == 403
    assert "Traceback" not in visitor.site.log.removeprefix(before)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_upgrade(visitor, method):
    """Plain HTTP on the socket's URL is answered by 400 and a sentence."""
    body = None if method == "GET" else {}
    answer = await visitor.arequest("/ws/foo?subscribe-broadcast", body)
    assert answer.status == 400
    assert (b"upgrade" in answer.body) is (method == "GET")


@pytest.mark.parametrize("site", ["daphne-redis", "uvicorn-redis"], indirect=True)
async def test_bad_frames(visitor):
    """Invalid UTF-8 in a text frame ends that socket and leaves others alone."""
    query = "subscribe-broadcast&publish-broadcast"
    async with (
        visitor.socket(f"/ws/foo?{query}") as bad,
        visitor.socket(f"/ws/foo?{query}") as good,
    ):
        await bad.connection.send(b"\xff\xfe", text=True)
        assert await bad.close_code() == (1007 if visitor.site.kind == "uvicorn" else 1006)
        await visitor.publish(END, facility="foo", broadcast=True)
        assert await good.receive() == END


async def test_largest_message(visitor):
    """A message of the server's maximum size passes; a larger one ends that socket only."""
    largest = os.urandom(1024 * 1024 // 2).hex()
    async with (
        visitor.socket("/ws/foo?publish-broadcast") as sender,
        visitor.socket("/ws/foo?subscribe-broadcast") as listener,
    ):
        await sender.send(largest)
        assert await listener.receive() == largest
        await sender.send(largest + "!")
        assert await sender.close_code() in (1006, 1009)
        await visitor.publish(END, facility="foo", broadcast=True)
        assert await listener.receive() == END


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_message_of_more_bytes_than_are_allowed(serve, kind):
    """It closes its socket with 1009, whatever its form, and nothing of it is published."""
    server = serve(kind, settings={"WS4REDIS_MAX_MESSAGE": 1000})
    visitor = Visitor(server)
    async with visitor.socket("/ws/foo?subscribe-broadcast") as listener:
        path = "/ws/foo?publish-broadcast"
        for frame in ("x" * 1001, "ä" * 501, b"x" * 1001):
            async with visitor.socket(path) as sender:
                await sender.send(frame)
                assert await sender.close_code() == 1009
        for frame in ("x" * 1000, "ä" * 500, b"x" * 1000):
            async with visitor.socket(path) as sender:
                await sender.send(frame)
                assert await listener.receive() == (frame if isinstance(frame, str) else "x" * 1000)
        async with visitor.socket(path, subprotocols=["ws4redis.v1"]) as sender:
            await sender.send('{"type":"hello","positions":' + "[" * 1000)
            assert await sender.close_code() == 1009
    assert server.says("more bytes than WS4REDIS_MAX_MESSAGE or its policy allows")


async def test_long_facility(visitor):
    """The longest facility works on every layer's terms, and a longer one is refused."""
    facility = "x" * 255
    async with visitor.socket(f"/ws/{facility}?subscribe-broadcast") as socket:
        await visitor.publish(END, facility=facility, broadcast=True)
        assert await socket.receive() == END
    assert await visitor.refused(f"/ws/{facility}x?subscribe-broadcast") == 403


async def test_subprotocol(visitor):
    """One of the offered subprotocols is echoed; none offered, none sent."""
    async with visitor.socket("/ws/foo", subprotocols=["chat", "superchat"]) as socket:
        assert socket.connection.subprotocol == "chat"
    async with visitor.socket("/ws/foo") as socket:
        assert socket.connection.subprotocol is None


async def test_redis_down(serve, free_port):
    """While Redis is away a socket is told to try again later; the server stays up."""
    visitor = Visitor(serve(REDIS_URL=f"redis://127.0.0.1:{free_port}/0"))
    async with visitor.socket("/ws/foo?subscribe-broadcast") as socket:
        assert await socket.close_code() == 1013
    assert (await visitor.arequest("/test/who")).status == 200
    assert visitor.site.says("the socket '/ws/foo'")
    (line,) = [line for line in visitor.site.lines if "the socket '/ws/foo'" in line]
    assert line.startswith("Cannot open the socket '/ws/foo': ConnectionError: ")
    assert f"connecting to 127.0.0.1:{free_port}" in line
    assert "Traceback" not in visitor.site.log


@every_site
async def test_protocol(visitor, john):
    """A client of the own protocol is welcomed with positions and gets what it missed."""
    path = "/ws/foo?subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session"
    await visitor.publish("one", facility="foo", broadcast=True)
    async with john.socket(path, subprotocols=["ws4redis.v1"]) as socket:
        await socket.send_json({"type": "hello", "positions": {}})
        welcome = await socket.receive_json()
        assert sorted(welcome["channels"]) == ["broadcast", "group:chatters", "session", "user"]
        assert john.session_key not in json.dumps(welcome)
        assert welcome["channels"]["broadcast"]["recovered"] is None
        one = await socket.receive_json()
        assert (one["type"], one["channel"], one["data"]) == ("message", "broadcast", "one")
        position = {"epoch": one["epoch"], "offset": one["offset"]}
    await visitor.publish("two", facility="foo", broadcast=True)
    async with john.socket(path, subprotocols=["ws4redis.v1"]) as socket:
        await socket.send_json({"type": "hello", "positions": {"broadcast": position}})
        welcome = await socket.receive_json()
        assert welcome["channels"]["broadcast"]["recovered"] is True
        assert (await socket.receive_json())["data"] == "two"
        await socket.send_json({"type": "ping"})
        assert await socket.receive_json() == {"type": "pong"}
    await visitor.publish(*map(str, range(101)), facility="foo", broadcast=True)
    async with john.socket(path, subprotocols=["ws4redis.v1"]) as socket:
        await socket.send_json({"type": "hello", "positions": {"broadcast": position}})
        welcome = await socket.receive_json()
        # Of 102 the last 100 are kept.
        assert welcome["channels"]["broadcast"]["recovered"] is False
        assert (await socket.receive_json())["data"] == "1"


@pytest.mark.parametrize(
    "frame",
    [
        "no JSON",
        "[[]]",
        "{}",
        '{"type": "subscribe", "id": 1, "facility": "foo", "flags": []}',
        '{"type": "unsubscribe"}',
        '{"type": "publish", "id": 0, "data": "x"}',
        '{"type": 1}',
        '{"type": "publish"}',
        '{"type": "publish", "base64": "?"}',
        '{"type": "publish", "data": "\\ud800"}',
        '{"type": "hello", "positions": []}',
        '{"type": "hello", "positions": {"a": {"epoch": 1}}}',
        '{"type": "hello", "positions": {"a": {"epoch": "x", "offset": -1}}}',
        "[" * 100_000,
    ],
)
async def test_protocol_errors(visitor, frame):
    """A frame that breaks the protocol ends the socket for good."""
    async with visitor.socket("/ws/foo", subprotocols=["ws4redis.v1"]) as socket:
        await socket.send(frame)
        assert await socket.close_code() == 4500


async def test_protocol_publish(visitor):
    """The protocol publishes text and binary, and moves the sender's position without echo."""
    path = "/ws/foo?subscribe-broadcast&publish-broadcast"
    async with (
        visitor.socket(path, subprotocols=["ws4redis.v1"]) as socket,
        visitor.socket("/ws/foo?subscribe-broadcast") as raw,
    ):
        await socket.send_json({"type": "hello", "positions": {}})
        await socket.receive_json()
        await socket.send_json({"type": "publish", "data": "text ☃"})
        await socket.send_json({"type": "publish", "base64": "/wA="})
        await socket.send_json({"type": "from the future"})
        await socket.send(b"\x00bytes")
        assert await raw.receive_many(3) == ["text ☃", b"\xff\x00", "\x00bytes"]
        positions = [await socket.receive_json() for _ in range(3)]
        assert [position["type"] for position in positions] == ["position"] * 3
        await visitor.publish("by a view", facility="foo", broadcast=True)
        message = await socket.receive_json()
        assert message["offset"] == positions[-1]["offset"] + 1
