"""During a migration: this package and the original, both running, on one Redis.

The original serves the very same project, in an environment of its own with Django 3.2 and redis-py
3.5.3. ``pytest -s tests/test_coexistence.py`` prints a transcript.
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from tests.clients import END, Socket, Visitor
from tests.legacy_site.servers import LegacyServer, require_legacy_package

QUERY = "/ws/foobar?subscribe-broadcast&publish-broadcast"


@pytest.fixture(scope="session")
def old_server(redis_url, database, tmp_path_factory) -> Iterator[LegacyServer]:
    """The original."""
    require_legacy_package()
    log = tmp_path_factory.mktemp("legacy") / "uwsgi.log"
    environment = {"REDIS_URL": redis_url, "WS4REDIS_TEST_DATABASE": str(database)}
    with LegacyServer(log, environment) as server:
        yield server


@pytest.fixture
def old(old_server) -> Visitor:
    """A visitor of the original."""
    return Visitor(old_server)


def new_site(serve, kind="daphne", **settings):
    """Start this package's server of the same project."""
    return serve(
        kind,
        application="tests.legacy_site.asgi:application",
        settings={"WS4REDIS_LEGACY_SERVERS": True, **settings},
        DJANGO_SETTINGS_MODULE="tests.legacy_site.ported",
    )


@pytest.fixture(params=["daphne", "uvicorn"])
def new(request, serve) -> Visitor:
    """A visitor of this package's server."""
    return Visitor(new_site(serve, request.param))


def say(line: str) -> None:
    """Add a line to the transcript."""
    print(f"    {line}")


def post(visitor: Visitor, path: str, **fields: str) -> None:
    """Post a form."""
    data = urllib.parse.urlencode(fields).encode()
    with visitor._opener.open(visitor.site.url(path), data, timeout=10) as response:
        assert response.status == 200


async def nothing_more(*sockets: Socket) -> None:
    """Make sure that nobody gets anything further."""
    for socket in sockets:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                say(f"unexpected: {await socket.connection.recv()!r}")


@pytest.fixture
async def sockets(old, new) -> AsyncIterator[tuple[Socket, Socket, Socket]]:
    """One socket of the original and two of this package, all on one facility."""
    async with (
        old.socket(QUERY) as olds,
        new.socket(QUERY) as news,
        new.socket(QUERY) as others,
    ):
        yield olds, news, others


async def test_messages_of_the_original(old, new, sockets):
    """A message that the original publishes from a view reaches the sockets of both, once."""
    await old.arequest("/chat/")
    for socket in sockets:
        assert await socket.receive() == "Hello everybody"
    say("GET /chat/ on the original: 'Hello everybody' on all three sockets")
    await nothing_more(*sockets)


async def test_messages_of_this_package(old, new, sockets):
    """A message that this package publishes from a view reaches the sockets of both, once."""
    for number in range(10):
        await new.publish(f"new {number}", facility="foobar", broadcast=True)
        for socket in sockets:
            assert await socket.receive() == f"new {number}"
    say("10 messages published here: each once on all three sockets, in order")
    await nothing_more(*sockets)


async def test_messages_of_browsers(sockets):
    """What a browser sends to either server reaches the sockets of both, once, without a loop."""
    olds, news, others = sockets
    await news.send("from a new socket")
    assert await others.receive() == "from a new socket"
    assert await olds.receive() == "from a new socket"
    say("a frame sent to the new server: on the other new socket and on the old one")
    await olds.send("from an old socket")
    assert await news.receive() == "from an old socket"
    assert await others.receive() == "from an old socket"
    say("a frame sent to the original: on both new sockets")
    await nothing_more(*sockets)


@pytest.mark.parametrize("persist", [True, False])
async def test_foreign_programs(new, sockets, redis_client, persist):
    """A bare PUBLISH, with or without SETEX, as Go and Node programs do it, reaches all sockets."""
    for number in range(5):
        redis_client.publish("demo:broadcast:foobar", f"raw {number}")
        if persist:
            redis_client.execute_command("SETEX", "demo:broadcast:foobar", 60, f"raw {number}")
        for socket in sockets:
            assert await socket.receive() == f"raw {number}"
    say(f"5 x PUBLISH{' and SETEX' if persist else ''}: each once on all three sockets")
    await nothing_more(*sockets)
    async with new.socket(QUERY) as late:
        if persist:
            assert await late.receive() == "raw 4"
        await nothing_more(late)


async def test_mixture(new, sockets, redis_client):
    """Publishers of all kinds at once: the new sockets miss nothing and get nothing twice."""
    _, news, others = sockets

    async def here() -> None:
        for number in range(100):
            await new.publish(f"here {number}", facility="foobar", broadcast=True)

    async def foreign() -> None:
        for number in range(300):
            redis_client.publish("demo:broadcast:foobar", f"raw {number}")
            await asyncio.sleep(0.002)

    await asyncio.gather(here(), foreign())
    expected = {f"here {number}" for number in range(100)} | {f"raw {n}" for n in range(300)}
    for socket in (news, others):
        received = await socket.receive_many(400)
        assert set(received) == expected
        for kind in ("here", "raw"):
            of_kind = [message for message in received if message.startswith(kind)]
            assert of_kind == [f"{kind} {number}" for number in range(len(of_kind))]
    say("100 messages from here and 300 raw ones at once: each once, each kind in its order")
    await nothing_more(news, others)


async def test_comings_and_goings(new, redis_client):
    """Sockets that come and go while both kinds publish get each message at most once."""
    stop = asyncio.Event()

    async def publish() -> None:
        number = 0
        while not stop.is_set():
            await new.publish(f"here {number}", facility="foobar", broadcast=True, expire=0)
            redis_client.publish("demo:broadcast:foobar", f"raw {number}")
            number += 1

    publishing = asyncio.create_task(publish())
    for _ in range(30):
        async with new.socket(QUERY) as socket:
            received = await socket.receive_many(6)
        assert len(set(received)) == 6
        numbers = {kind: [int(text.split()[1]) for text in received if kind in text]
                   for kind in ("here", "raw")}  # fmt: skip
        for of_kind in numbers.values():
            assert of_kind == list(range(of_kind[0], of_kind[0] + len(of_kind)))
    stop.set()
    await publishing
    say("30 sockets opened and closed meanwhile: nothing twice, nothing left out")


async def test_persisted_values(old, new, redis_client):
    """What either stores is replayed and fetched by both."""
    await old.arequest("/chat/")
    async with new.socket(QUERY) as socket:
        assert await socket.receive() == "Hello everybody"
        await nothing_more(socket)
    assert (await new.arequest("/fetch/")).body == b"Hello everybody"
    say("stored by the original: replayed and fetched here")
    await new.publish("stored here", facility="foobar", broadcast=True)
    async with old.socket(QUERY) as socket:
        assert await socket.receive() == "stored here"
    assert (await old.arequest("/fetch/")).body == b"stored here"
    assert 3590 < redis_client.ttl("demo:broadcast:foobar") <= 3600
    say("stored here: replayed and fetched by the original")


async def test_same_pages(old, new):
    """Every page of the project is, but for the port, the same from both servers."""
    for path in ("/chat/", "/userchat/", "/groupchat/", "/bare/"):
        pages = []
        for visitor in (old, new):
            answer = await visitor.arequest(path)
            assert answer.status == 200
            pages.append(answer.body.decode().replace(str(visitor.site.port), "PORT"))
        assert pages[0] == pages[1]
    say("/chat/, /userchat/, /groupchat/ and /bare/: the same pages from both")


async def test_users_and_groups(old, new):
    """A login on the original counts here, and messages to users and auth groups cross over."""
    page = (await old.arequest("/login/")).body.decode()
    token = page.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
    cookies = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPCookieProcessor(old.cookies),
        type("Stay", (urllib.request.HTTPRedirectHandler,), {"redirect_request": lambda *_: None}),
    )
    form = {"username": "john", "password": "secret", "csrfmiddlewaretoken": token}
    with pytest.raises(urllib.error.HTTPError, match="302"):
        opener.open(old.site.url("/login/"), urllib.parse.urlencode(form).encode(), timeout=10)
    assert not cookies
    new.cookies = old.cookies
    query = "/ws/foobar?subscribe-user&subscribe-group"
    async with old.socket(query) as olds, new.socket(query) as news:
        for visitor in (old, new):
            for path, to in {
                "/userchat/": {"user": "john"},
                "/groupchat/": {"group": "chatters"},
            }.items():
                message = f"{path} {visitor.site.port}"
                await asyncio.to_thread(post, visitor, path, message=message, **to)
                assert await olds.receive() == message
                assert await news.receive() == message
        await nothing_more(olds, news)
    say("john, logged in by the original, on both servers: user and group messages of both, once")


async def test_switching_over(serve, redis_client):
    """Servers of this package with and without the setting understand each other meanwhile."""
    before = Visitor(new_site(serve, WS4REDIS_LEGACY_SERVERS=False))
    during = Visitor(new_site(serve))
    async with before.socket(QUERY) as first, during.socket(QUERY) as second:
        for number in range(3):
            for visitor in (before, during):
                await visitor.publish(f"{number}", facility="foobar", broadcast=True)
                assert await first.receive() == f"{number}"
                assert await second.receive() == f"{number}"
            redis_client.publish("demo:broadcast:foobar", "raw")
            assert await first.receive() == "raw"
            assert await second.receive() == "raw"
        await nothing_more(first, second)


async def test_redis_restarts(serve, redis_client: redis.Redis):
    """After the link to Redis was cut, raw messages arrive again and nothing is doubled."""
    visitor = Visitor(new_site(serve))
    async with visitor.socket(QUERY) as socket:
        await visitor.publish("before", facility="foobar", broadcast=True)
        assert await socket.receive() == "before"
        redis_client.client_kill_filter(_type="pubsub")
        await visitor.publish("meanwhile", facility="foobar", broadcast=True)
        assert await socket.receive() == "meanwhile"
        await asyncio.sleep(0.5)
        redis_client.publish("demo:broadcast:foobar", "raw")
        assert await socket.receive() == "raw"
        await visitor.publish(END, facility="foobar", broadcast=True)
        assert await socket.receive() == END
        await nothing_more(socket)
