"""What nobody tells is found all the same, within WS4REDIS_REAUTHORIZE seconds."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from contextvars import Context
from typing import Any

import pytest
from django.contrib.auth.models import User

from channels_ws4redis.facilities import facility
from channels_ws4redis.fanout import doubts
from channels_ws4redis.fanout.control import get_control
from channels_ws4redis.fanout.doubts import Doubt
from channels_ws4redis.handshake import together
from channels_ws4redis.handshake.facts import Claim
from channels_ws4redis.handshake.identity import marks_of
from channels_ws4redis.handshake.readers import AT_ONCE
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.orders import LOOK_AT_ALL
from channels_ws4redis.serving import revoking, sweeping
from channels_ws4redis.serving.revoking import Revocable
from channels_ws4redis.serving.sweeping import BREATH, Sweep, get_sweep
from channels_ws4redis.store.loops import this_loop
from tests.clients import Visitor
from tests.communicators import leave, opening, publish

#: Django looks at the connections of a worker thread before it runs anything there, and they may be
#: left over from a test that has used the database.
pytestmark = pytest.mark.django_db

PATIENCE = 30
PATH = "/ws/foo?subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session"

Write = Callable[[str], None]


# Under real servers


@pytest.fixture
def write(database, tmp_path) -> Write:
    """Write to the database past Django, which tells nobody."""
    path = tmp_path / "db.sqlite3"
    shutil.copy(database, path)

    def written(sql: str) -> None:
        with closing(sqlite3.connect(path, timeout=20)) as connection, connection:
            connection.execute(sql)

    return written


@pytest.fixture(params=["daphne", "uvicorn"])
def start(request, serve, write, tmp_path):
    """Start a server that looks at its sockets often."""

    def started(**settings):
        environment = {"WS4REDIS_TEST_DATABASE": str(tmp_path / "db.sqlite3")}
        return serve(request.param, settings={"WS4REDIS_REAUTHORIZE": 1} | settings, **environment)

    return started


ENDS = {
    "inactive": "UPDATE auth_user SET is_active = 0 WHERE username = 'john'",
    "password": "UPDATE auth_user SET password = '!' WHERE username = 'john'",
    "deleted": "UPDATE auth_user SET id = 4711 WHERE username = 'john'",
    "session gone": "DELETE FROM django_session WHERE session_key = '{key}'",
    "session too old": "UPDATE django_session SET expire_date = '2001-01-01' "
    "WHERE session_key = '{key}'",
}


@pytest.mark.parametrize("how", ENDS)
async def test_what_no_signal_tells(start, write, how) -> None:
    """The user's socket ends for good; those of others go on, also with a session alone."""
    site = start()
    john, mary, visitor = Visitor(site).login("john"), Visitor(site).login("mary"), Visitor(site)
    await visitor.arequest("/test/session", {"some": "thing"})
    async with (
        john.socket(PATH) as gone,
        mary.socket(PATH) as stays,
        visitor.socket(PATH) as stays_too,
    ):
        await publish("before")
        assert await gone.receive() == "before"
        write(ENDS[how].format(key=john.session_key))
        assert await gone.close_code() == codes.REVOKED
        await publish("after")
        for socket in (stays, stays_too):
            assert await socket.receive_many(2) == ["before", "after"]


async def test_an_auth_group(start, write) -> None:
    """The socket hears it no more, and the rest as before."""
    john = Visitor(start()).login("john")
    async with john.socket(PATH) as socket:
        await publish("before", groups=["chatters"])
        assert await socket.receive() == "before"
        write("DELETE FROM auth_user_groups")
        while True:  # until it is found
            await publish("to the group", groups=["chatters"])
            await publish("to all")
            if await socket.receive() == "to all":
                break
            assert await socket.receive() == "to all"
        await publish("for john", users=["john"])
        assert await socket.receive() == "for john"


async def test_the_session_of_a_visitor(start, write) -> None:
    """Who was not logged in comes back, without the channels of that session."""
    visitor = Visitor(start())
    await visitor.arequest("/test/session", {"some": "thing"})
    async with visitor.socket(PATH) as socket:
        write("DELETE FROM django_session")
        assert await socket.close_code() == codes.TRY_AGAIN_LATER


async def test_nothing_is_looked_at_if_nobody_wants_it(start, write) -> None:
    """As long as it takes to find a change otherwise, twice."""
    john = Visitor(start(WS4REDIS_REAUTHORIZE=0)).login("john")
    async with john.socket(PATH) as socket:
        write("DELETE FROM django_session")
        assert (await asyncio.wait([asyncio.create_task(socket.close_code())], timeout=2))[1]


# Inside of this process


class Policy:
    """A policy that answers what the test says, and tells when it is asked."""

    def __init__(self) -> None:
        self.answer: Any = True
        self.asked = asyncio.Queue[None]()

    async def __call__(self, request) -> Any:
        """Answer."""
        self.asked.put_nowait(None)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def is_asked(self, times: int = 1) -> None:
        """Wait until it is asked."""
        async with asyncio.timeout(PATIENCE):
            for _ in range(times):
                await self.asked.get()


@pytest.fixture
def policy(no_policies, redis_url, settings) -> Policy:
    """The policy of one facility, which is asked often."""
    settings.WS4REDIS_REAUTHORIZE = 0.1
    made = Policy()
    facility("foo", publish=["publish-broadcast"])(made)
    return made


@pytest.fixture
async def connect(settings, redis_url) -> AsyncIterator[Any]:
    """Open sockets, and close them in the end."""
    settings.WS4REDIS_CLOSE_WINDOW = 0
    async with opening("/ws/foo?subscribe-broadcast") as opened:
        yield opened


async def test_a_policy_is_asked_again(connect, policy, caplog) -> None:
    """Nobody else knows what it looks at. The log says why its socket ends."""
    caplog.set_level(logging.INFO)
    client = await connect()
    await policy.is_asked(3)
    policy.answer = False
    closing = {"type": "websocket.close", "code": codes.REVOKED}
    assert await client.receive_output(PATIENCE) == closing
    name = f"{__name__}.Policy"
    assert (
        caplog.messages.count(f"Revoking the socket '/ws/foo': the policy {name} refuses it") == 1
    )


async def test_a_policy_that_fails_says_nothing(connect, policy) -> None:
    """The socket goes on with what it has, both ways, and is looked at again."""
    client = await connect("/ws/foo?subscribe-broadcast&publish-broadcast&echo")
    await policy.is_asked()
    policy.answer = LookupError("the database is away")
    await policy.is_asked(5)
    await client.send_to(text_data="mine")
    assert await client.receive_from(PATIENCE) == "mine"
    policy.answer = False
    assert (await client.receive_output(PATIENCE))["code"] == codes.REVOKED


async def test_the_database_is_away(connect, policy, monkeypatch, caplog) -> None:
    """Nobody is asked who may take that for an answer; the log says so."""
    client = await connect()
    await policy.is_asked()
    told = asyncio.Event()

    def fail(claims):
        loop.call_soon_threadsafe(told.set)
        raise ConnectionError("the database is away")

    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "still_true", fail)
        await told.wait()
        policy.answer = False
        told.clear()
        await told.wait()
        await publish("still there")
        assert await client.receive_from(PATIENCE) == "still there"
    assert (await client.receive_output(PATIENCE))["code"] == codes.REVOKED
    assert "Sockets cannot be looked at again: ConnectionError: the database is away" in caplog.text


async def test_what_the_package_has_judged_is_not_admitted_anew(connect, settings) -> None:
    """As long as nothing has changed; only the facts are read."""
    settings.WS4REDIS_REAUTHORIZE = 0.1
    await connect()
    read = asyncio.Event()
    control, sweep = get_control(), get_sweep()
    add = control.doubts.add
    found: list[Any] = []

    def note(sockets, doubt) -> None:
        found.extend(sockets)
        read.set()
        add(sockets, doubt)

    control.doubts.add = note  # type: ignore[method-assign] # notes what is doubtful
    await read.wait()
    assert sweep._running
    assert found == []


@pytest.mark.parametrize("query", ["subscribe-broadcast", "subscribe-user"])
async def test_what_a_stranger_sends_for_a_session_is_not_looked_for(connect, query) -> None:
    """A database that cannot take such a text would fail for all who are looked at with it."""
    await connect(f"/ws/foo?{query}", headers=[(b"cookie", rb'sessionid="\000 no key"')])
    (socket,) = get_control()._marks
    assert socket.claim().session == ""  # type: ignore[attr-defined] # it is Revocable
    assert await get_sweep()._doubtful([socket]) == []  # type: ignore[list-item] # see above


async def test_a_database_that_hangs_is_not_waited_for(connect, settings, monkeypatch) -> None:
    """Nobody knows what the socket may hear, so that it has to come back."""
    settings.WS4REDIS_REAUTHORIZE = 0
    monkeypatch.setattr(sweeping, "PATIENCE", 0.1)
    monkeypatch.setattr(revoking, "PATIENCE", 0.1)
    goes_on = threading.Event()

    def hang(*args) -> None:
        goes_on.wait(PATIENCE)

    client = await connect(
        "/ws/foo?subscribe-user", headers=[(b"cookie", b"sessionid=" + b"k" * 32)]
    )
    monkeypatch.setattr(sweeping, "still_true", hang)
    monkeypatch.setattr(together, "recognise", hang)
    try:
        get_control()._take(LOOK_AT_ALL)
        assert (await client.receive_output(PATIENCE / 2))["code"] == codes.TRY_AGAIN_LATER
    finally:
        goes_on.set()


async def test_an_order_counts_more_than_the_time(connect, policy) -> None:
    """A policy that fails says nothing either way; but somebody has said that something changed."""
    client = await connect()
    policy.answer = LookupError("the database is away")
    await policy.is_asked(2)
    get_control()._take(LOOK_AT_ALL)
    assert (await client.receive_output(PATIENCE))["code"] == codes.TRY_AGAIN_LATER


async def test_orders_that_may_have_been_missed_while_the_database_is_away(
    connect, policy, settings, monkeypatch
) -> None:
    """Nobody knows what the socket may hear, so that it has to come back."""
    settings.WS4REDIS_REAUTHORIZE = 0

    def fail(*args):
        raise ConnectionError("the database is away")

    client = await connect()
    monkeypatch.setattr(sweeping, "still_true", fail)
    policy.answer = ConnectionError("the database is away")
    get_control()._take(LOOK_AT_ALL)
    assert (await client.receive_output(PATIENCE))["code"] == codes.TRY_AGAIN_LATER


async def test_no_timer_is_left(connect, policy) -> None:
    """Neither when the last socket has gone nor at the end of a loop."""
    client = await connect()
    sweep = get_sweep()
    await leave(client)
    async with asyncio.timeout(PATIENCE):
        while sweep._running:  # noqa: ASYNC110 # nobody is told
            await asyncio.sleep(0.01)
    await connect()
    assert sweep._running
    await this_loop().close()
    assert sweep._timer is not None
    assert sweep._timer.cancelled()


JOHN, RENAMED, NOBODY = User(pk=7, username="john"), User(pk=7, username="paul"), None
COOKIE = [(b"cookie", b"sessionid=x")]


@pytest.mark.parametrize(
    ("engine", "users", "cookie", "code"),
    [
        ("db", (JOHN, NOBODY), [], codes.REVOKED),
        ("db", (NOBODY, NOBODY), [], codes.TRY_AGAIN_LATER),
        ("db", (JOHN, RENAMED), COOKIE, codes.TRY_AGAIN_LATER),
        ("db", (JOHN, User(pk=8, username="john")), COOKIE, codes.REVOKED),
        ("signed_cookies", (JOHN, NOBODY), [], codes.TRY_AGAIN_LATER),
        ("signed_cookies", (JOHN, NOBODY), COOKIE, codes.REVOKED),
    ],
    ids=["user's session", "visitor's session", "renamed", "another", "too old cookie", "user"],
)
def test_who_comes_back(settings, engine, users, cookie, code) -> None:
    """Whoever has lost no more than a session without a user, or a name, or has a newer cookie."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    scope = {"type": "websocket", "path": "/ws/foo"}
    before = marks_of(WebSocketRequest({**scope, "headers": COOKIE, "user": users[0]}), "", [])
    now = marks_of(WebSocketRequest({**scope, "headers": cookie, "user": users[1]}), "", [])
    assert revoking._code_for_another(before, now) == code


# Rounds


class Seen(Revocable):
    """Counts how often it is looked at."""

    __slots__ = ("looks",)

    def __init__(self) -> None:
        self.looks = 0

    @property
    def whom(self) -> Any:
        """Be a client of its own."""
        return self

    def claim(self) -> Claim:
        """Be looked at."""
        self.looks += 1
        return Claim("", b"", frozenset(), by_project=False, context=Context())

    def end(
        self, code: int, why: Exception | str = "", reason: str = "", at_once: bool = False
    ) -> None:
        """Do nothing."""

    def _on_change(self) -> None:
        pass


@pytest.fixture
async def control():
    """The one of the test's loop."""
    return get_control()


async def test_each_socket_is_looked_at_in_each_round(control) -> None:
    """One that comes in the middle of a round is before the next one ends, whoever goes."""
    sweep, sockets = Sweep(), [Seen() for _ in range(3 * AT_ONCE - 50)]
    for socket in sockets:
        control.guard(control.expect(), socket, bytes(8))
    for _ in range(3):
        await sweep._look()
    assert {socket.looks for socket in sockets} <= {1, 2}
    assert sum(socket.looks for socket in sockets) == 3 * AT_ONCE
    late = Seen()
    control.guard(control.expect(), late, bytes(8))
    for socket in sockets[:100]:
        control.forget(socket)
    for _ in range(3):
        await sweep._look()
    assert late.looks


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (100, 1), (101, 2), (10_000, 100)])
async def test_a_round_takes_half_of_the_time(control, settings, count, steps) -> None:
    """Or a little less, at random; its looks are spread evenly."""
    settings.WS4REDIS_REAUTHORIZE = 300
    for _ in range(count):
        control.guard(control.expect(), Seen(), bytes(8))
    pauses = set()
    for _ in range(10):
        sweep = Sweep()
        sweep.begin()
        pauses.add(sweep._pause * steps)
        await sweep.close()
    assert 120 <= min(pauses) < max(pauses) <= 150


async def test_a_sweep_waits_for_admissions_that_take_long(control, monkeypatch) -> None:
    """Sockets in doubt do not pile up, but for those of few clients."""
    socket = Seen()
    control.guard(control.expect(), socket, bytes(8))
    monkeypatch.setattr(doubts, "AT_ONCE", 0)  # nobody is admitted anew
    waiting = [Seen() for _ in range(AT_ONCE)]
    control.doubts.add(waiting, Doubt.DUE)
    await Sweep()._look()
    assert socket.looks == 0
    for each in waiting:
        control.doubts.forget(each)
    monkeypatch.setattr(Seen, "whom", "one of them")
    control.doubts.add(waiting, Doubt.DUE)
    await Sweep()._look()
    assert socket.looks == 1
    for each in waiting:
        control.doubts.forget(each)


async def test_the_greater_doubt_counts(control) -> None:
    """Whichever comes first."""
    socket = Seen()
    control.doubts._under_way[socket] = Doubt.DUE
    for doubt in (Doubt.DUE, Doubt.MISSED, Doubt.DUE):
        control.doubts.add([socket], doubt)
    assert control.doubts._waiting.take([], 1) == (socket, Doubt.MISSED)
    del control.doubts._under_way[socket]


async def until_it_rests(sweep: Sweep) -> None:
    async with asyncio.timeout(PATIENCE):
        while sweep._running:  # noqa: ASYNC110 # nobody is told
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("period", [0, 300])
async def test_all_are_looked_at_once_when_orders_may_have_been_missed(
    control, settings, period
) -> None:
    """At once, also if nobody wants a sweep; then it goes on as before."""
    settings.WS4REDIS_REAUTHORIZE = period
    sweep, sockets = Sweep(), [Seen() for _ in range(3 * AT_ONCE)]
    for socket in sockets:
        control.guard(control.expect(), socket, bytes(8))
    sweep.begin()
    control._take(LOOK_AT_ALL)
    if period:
        async with asyncio.timeout(PATIENCE):
            while sweep._pause <= BREATH:  # noqa: ASYNC110 # nobody is told
                await asyncio.sleep(0.01)
        await sweep.close()
    else:
        await until_it_rests(sweep)
    assert min(socket.looks for socket in sockets) == 1
    assert max(socket.looks for socket in sockets) == 1


async def test_what_was_read_before_the_order_does_not_count(
    control, settings, monkeypatch
) -> None:
    """Those that are being looked at then are looked at again."""
    settings.WS4REDIS_REAUTHORIZE = 0
    sweep, sockets = Sweep(), [Seen() for _ in range(2 * AT_ONCE)]
    for socket in sockets:
        control.guard(control.expect(), socket, bytes(8))
    sweep.begin()
    control._take(LOOK_AT_ALL)
    for _ in range(2):  # until the first ones are being looked at
        await asyncio.sleep(0)
    assert sum(socket.looks for socket in sockets) == AT_ONCE
    control._take(LOOK_AT_ALL)
    await until_it_rests(sweep)
    assert [socket.looks for socket in sockets] == [2] * AT_ONCE + [1] * AT_ONCE


async def test_who_comes_meanwhile_takes_nobodys_turn(control, settings, monkeypatch) -> None:
    """Those that are being looked at when orders may have been missed come after all others."""
    settings.WS4REDIS_REAUTHORIZE = 0
    sweep, sockets = Sweep(), [Seen() for _ in range(AT_ONCE)]
    for socket in sockets:
        control.guard(control.expect(), socket, bytes(8))
    sweep.begin()
    control._take(LOOK_AT_ALL)
    for _ in range(2):  # until they are being looked at
        await asyncio.sleep(0)
    control._take(LOOK_AT_ALL)
    for _ in range(AT_ONCE):
        control.guard(control.expect(), Seen(), bytes(8))
    await until_it_rests(sweep)
    assert [socket.looks for socket in sockets] == [2] * AT_ONCE


@pytest.mark.parametrize("value", [0, None])
async def test_off(settings, control, value) -> None:
    """Nothing is planned."""
    settings.WS4REDIS_REAUTHORIZE = value
    control.guard(control.expect(), Seen(), bytes(8))
    sweep = Sweep()
    sweep.begin()
    assert sweep._timer is None
