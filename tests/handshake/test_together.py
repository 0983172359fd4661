"""Sockets that connect together are found to be who each of them is by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Hashable
from contextvars import copy_context
from importlib import import_module
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User, UserManager
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.db import connection
from django.db.models import Q, QuerySet
from django.test.utils import CaptureQueriesContext

from channels_ws4redis.handshake import deadlines, together
from channels_ws4redis.handshake.hooks import Calls
from channels_ws4redis.handshake.readers import AT_ONCE
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.handshake.sessions import authenticate
from channels_ws4redis.handshake.together import Asker, LookUps, aauthenticate, recognise
from channels_ws4redis.publish.addressing import own_identities
from channels_ws4redis.store.loops import this_loop
from tests.handshake.test_requests import request
from tests.site.of_one_site import site

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]
BACKEND = "django.contrib.auth.backends.ModelBackend"
MADE_UP = "abcdefghijklmnopqrstuvwxyz012345"
PATIENCE = 10


@pytest.fixture(params=ENGINES)
def engine(request, settings, tmp_path):
    """Every session engine of Django."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    caches["default"].clear()
    return import_module(settings.SESSION_ENGINE)


def log_in(name: str, backend: str = BACKEND, **data: Any) -> Any:
    """Return a saved session in which a user has logged in."""
    user = User.objects.filter(username=name).first() or User.objects.create_user(name)
    login = {
        SESSION_KEY: str(user.pk),
        BACKEND_SESSION_KEY: backend,
        HASH_SESSION_KEY: user.get_session_auth_hash(),
    }
    return save(**{**login, "ws4redis:memberof": [f"friends of {name}"], **data})


def save(**data: Any) -> Any:
    """Return a saved session."""
    settings = import_module("django.conf").settings
    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session.update(data)
    session.save()
    return session


alog_in, asave = sync_to_async(log_in), sync_to_async(save)


def visit(cookie: str) -> WebSocketRequest:
    """Return the request of a browser with this session cookie."""
    return request(("cookie", f"sessionid={cookie}"))


async def find_out(cookie: str) -> WebSocketRequest:
    """Return the request of a socket, once it is known who it is."""
    found = visit(cookie)
    await aauthenticate(found, Calls(found.scope))
    return found


def identities(found: WebSocketRequest) -> list[list[str]]:
    """Return all that a request goes by."""
    return [own_identities(found, audience) for audience in ("user", "group", "session")]


aidentities = sync_to_async(identities)


@pytest.fixture
def by_themselves(monkeypatch) -> list[str]:
    """The cookies of all that are looked up by themselves."""
    cookies = []

    def noting(request: WebSocketRequest) -> None:
        cookies.append(request.COOKIES["sessionid"])
        authenticate(request)

    monkeypatch.setattr(together, "authenticate", noting)
    return cookies


# Who they are


async def test_everybody_is_who_they_are_by_themselves(engine, by_themselves):
    """Users, visitors and those with a cookie that nobody handed out; also two of one session."""
    sessions = [await alog_in(f"user{number}") for number in range(5)]
    cookies = [session.session_key for session in (*sessions, sessions[0], await asave(a=1))]
    cookies.append(MADE_UP)
    found = await asyncio.gather(*map(find_out, cookies))
    together_ = [await aidentities(each) for each in found]
    assert together_[0] == [["user0"], ["friends of user0"], [cookies[0]]]
    assert together_[-2:] == [[[], [], [cookies[-2]]], [[], [], []]]
    for cookie, identity in zip(cookies, together_, strict=True):
        alone = visit(cookie)
        await sync_to_async(authenticate)(alone)
        assert await aidentities(alone) == identity
    assert [bool(each.user) for each in found] == [True] * 6 + [False] * 2
    assert by_themselves == ([MADE_UP] if not together.can_read(MADE_UP) else [])


def test_a_batch_is_two_queries():
    """However many there are: one for the sessions and one for the users."""
    keys = [log_in(f"user{number}").session_key for number in range(30)]
    with CaptureQueriesContext(connection) as queries:
        visitors = recognise([(key, copy_context()) for key in [*keys, MADE_UP]])
    assert len(queries) == 2
    names = [visitor.user.get_username() for visitor in visitors if visitor is not None]
    assert names == [*(f"user{number}" for number in range(30)), ""]


async def test_no_cookie(monkeypatch):
    """Then there is nothing to look up, and no thread is needed."""
    monkeypatch.setattr(Calls, "_run", pytest.fail)
    found = request()
    await aauthenticate(found, Calls(found.scope))
    assert found.session is None
    assert not found.user.is_authenticated


async def test_each_socket_has_objects_of_its_own():
    """A hook may change what it gets, and changes nothing for another socket."""
    session = await alog_in("john", rooms={"a": [1]})
    one, other = await asyncio.gather(*[find_out(session.session_key) for _ in range(2)])
    one.user.username = "changed"
    one.session["rooms"]["a"].append(2)
    assert other.user.username == "john"
    assert other.session["rooms"] == {"a": [1]}
    assert (one.session.accessed, other.session.modified) == (True, False)


async def test_what_a_user_is_made_of_is_shared_with_nobody(monkeypatch):
    """Such as the value of a field of JSON, which a hook may change too."""
    from_db = User.from_db.__func__  # type: ignore[attr-defined] # it is a class method

    def with_preferences(cls, *args):
        user = from_db(cls, *args)
        user.preferences = {"colour": "red"}
        return user

    monkeypatch.setattr(User, "from_db", classmethod(with_preferences))
    session = await alog_in("john")
    one, other = await asyncio.gather(*[find_out(session.session_key) for _ in range(2)])
    one.user.preferences["colour"] = "blue"
    assert other.user.preferences == {"colour": "red"}


async def test_a_session_that_is_saved_by_a_hook(engine):
    """It is that of the engine, with its key."""
    session = await alog_in("john")
    found = await find_out(session.session_key)
    found.session["seen"] = 1
    await sync_to_async(found.session.save)()
    store = type(session)(found.session.session_key)
    assert await sync_to_async(lambda: (store["seen"], store[SESSION_KEY]))() == (
        1,
        session[SESSION_KEY],
    )


def forget_session(session: Any) -> None:
    session.delete()


def deactivate(session: Any) -> None:
    User.objects.update(is_active=False)


def delete_user(session: Any) -> None:
    User.objects.all().delete()


def change_password(session: Any) -> None:
    User.objects.update(password="another")


def name_no_backend(session: Any) -> None:
    session[BACKEND_SESSION_KEY] = "a.backend.of.the.past"
    session.save()


def have_no_hash(session: Any) -> None:
    del session[HASH_SESSION_KEY]
    session.save()


def have_an_empty_hash(session: Any) -> None:
    session[HASH_SESSION_KEY] = ""
    session.save()


@pytest.mark.parametrize(
    "end",
    [
        forget_session,
        deactivate,
        delete_user,
        change_password,
        name_no_backend,
        have_no_hash,
        have_an_empty_hash,
    ],
    ids=lambda function: function.__name__,
)
async def test_who_is_logged_in_no_more(end):
    """Is nobody; the others are not concerned."""
    session, visitor = await alog_in("john"), await asave(a=1)
    await sync_to_async(end)(session)
    found, other = await asyncio.gather(*map(find_out, [session.session_key, visitor.session_key]))
    assert not found.user.is_authenticated
    assert await aidentities(other) == [[], [], [visitor.session_key]]


async def test_a_user_whose_hash_is_empty(monkeypatch):
    """Django lets no session in that has none, whatever the user's own method returns."""
    monkeypatch.setattr(User, "get_session_auth_hash", lambda user: "")
    session = await alog_in("john")
    assert not (await find_out(session.session_key)).user.is_authenticated


async def test_a_key_that_is_being_rotated(settings):
    """A fallback of SECRET_KEY may verify the session, which is left to Django."""
    session = await alog_in("john")
    before = await sync_to_async(Session.objects.values().get)()
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "another"
    assert (await find_out(session.session_key)).user.username == "john"
    assert await sync_to_async(Session.objects.values().get)() == before


# Together with others


class Holding(ModelBackend):
    """Keeps a look-up from its end, in its thread, until it may go on."""

    begun, may_end = threading.Event(), threading.Event()

    def user_can_authenticate(self, user: Any) -> bool:
        """Wait, if it is a user who has to."""
        if user.get_username() == "slow":
            Holding.begun.set()
            Holding.may_end.wait(PATIENCE)
        return super().user_can_authenticate(user)


HOLDING = f"{__name__}.Holding"


@pytest.fixture
def holding(settings) -> Any:
    """Have the look-up of the user slow wait until it may go on."""
    settings.AUTHENTICATION_BACKENDS = [HOLDING]
    Holding.begun.clear()
    Holding.may_end.clear()
    yield Holding
    Holding.may_end.set()


async def test_a_session_that_ends_while_others_are_looked_up(holding, by_themselves):
    """A socket that asks after its end is nobody's: it does not join what has begun."""
    slow, session = await alog_in("slow", HOLDING), await alog_in("john", HOLDING)
    first = [asyncio.ensure_future(find_out(each.session_key)) for each in (slow, session)]
    await asyncio.to_thread(holding.begun.wait, PATIENCE)
    await sync_to_async(session.delete)()
    second = asyncio.ensure_future(find_out(session.session_key))
    await asyncio.sleep(0.05)
    holding.may_end.set()
    names = [(await each).user.get_username() for each in (*first, second)]
    assert names == ["slow", "john", ""]
    assert by_themselves == []


async def test_those_who_wait_are_the_next_batch(holding, monkeypatch):
    """All who come while one look-up is under way cost one thread and two queries."""
    batches = []

    def counting(asked):
        batches.append(len(asked))
        return recognise(asked)

    monkeypatch.setattr(together, "recognise", counting)
    slow = await alog_in("slow", HOLDING)
    sessions = [await alog_in(f"user{number}", HOLDING) for number in range(20)]
    first = asyncio.ensure_future(find_out(slow.session_key))
    await asyncio.to_thread(holding.begun.wait, PATIENCE)
    others = [asyncio.ensure_future(find_out(each.session_key)) for each in sessions]
    await asyncio.sleep(0.05)
    holding.may_end.set()
    await asyncio.gather(first, *others)
    assert batches == [1, 20]


async def test_a_look_up_that_hangs(holding, by_themselves):
    """Whoever waits for it, and whoever comes later, is looked up without it."""
    slow, session = await alog_in("slow", HOLDING), await alog_in("john", HOLDING)
    first = asyncio.ensure_future(find_out(slow.session_key))
    await asyncio.to_thread(holding.begun.wait, PATIENCE)
    second = await find_out(session.session_key)
    begun = time.monotonic()
    third = await find_out(session.session_key)
    assert time.monotonic() - begun < deadlines.TOGETHER
    assert [each.user.username for each in (second, third)] == ["john", "john"]
    assert by_themselves.count(session.session_key) == 2
    holding.may_end.set()
    assert (await first).user.username == "slow"
    del by_themselves[:]
    await asyncio.wait([this_loop().get(LookUps, LookUps)._task])
    assert (await find_out(session.session_key)).user.username == "john"
    assert by_themselves == []


async def test_a_handshake_with_little_time_left(holding, monkeypatch):
    """Its socket is looked up by itself while there is still time for that."""
    monkeypatch.setattr(deadlines, "TOGETHER", PATIENCE)
    slow, session = await alog_in("slow", HOLDING), await alog_in("john", HOLDING)
    first = asyncio.ensure_future(find_out(slow.session_key))
    await asyncio.to_thread(holding.begun.wait, PATIENCE)
    monkeypatch.setattr(deadlines, "HANDSHAKE", 0.2)
    begun = time.monotonic()
    assert (await find_out(session.session_key)).user.username == "john"
    assert time.monotonic() - begun < PATIENCE / 2
    holding.may_end.set()
    assert (await first).user.username == "slow"


class Querying(ModelBackend):
    """Takes its time for each user."""

    def user_can_authenticate(self, user: Any) -> bool:
        """Ask somebody."""
        time.sleep(2 * together.JUDGING / AT_ONCE)
        return super().user_can_authenticate(user)


async def test_a_backend_that_takes_its_time(settings, by_themselves):
    """Nobody waits until all others are judged: the last ones are looked up side by side."""
    settings.AUTHENTICATION_BACKENDS = [backend := f"{__name__}.Querying"]
    sessions = [await alog_in(f"user{number}", backend) for number in range(AT_ONCE * 3 // 4)]
    found = await asyncio.gather(*[find_out(session.session_key) for session in sessions])
    assert all(each.user.is_authenticated for each in found)
    assert 0 < len(by_themselves) < len(sessions)


class Picky(ModelBackend):
    """Fails for one user."""

    def user_can_authenticate(self, user: Any) -> bool:
        """Tell, if it is not that one."""
        if user.get_username() == "mary":
            raise LookupError("nobody knows")
        return super().user_can_authenticate(user)


async def test_one_that_fails_keeps_no_other_out(settings, by_themselves):
    """Its own handshake fails, as it does by itself."""
    settings.AUTHENTICATION_BACKENDS = [backend := f"{__name__}.Picky"]
    sessions = [await alog_in(name, backend) for name in ("john", "mary", "paul")]
    cookies = [session.session_key for session in sessions]
    john, mary, paul = await asyncio.gather(*map(find_out, cookies), return_exceptions=True)
    assert isinstance(mary, LookupError)
    assert [each.user.username for each in (john, paul)] == ["john", "paul"]
    assert by_themselves == [cookies[1]]


async def test_the_sessions_cannot_be_read_together(monkeypatch, by_themselves, caplog):
    """Each is looked up by itself, whatever the reason; the log has a line for those that fail."""
    cookies = [(await alog_in(name)).session_key for name in ("john", "paul")]

    def fail(**conditions):
        raise OverflowError("a value that the database cannot take")

    monkeypatch.setattr(Session.objects, "filter", fail)
    found = await asyncio.gather(*map(find_out, cookies))
    assert [each.user.username for each in found] == ["john", "paul"]
    assert sorted(by_themselves) == sorted(cookies)
    assert not [line for line in caplog.messages if "ws4redis-look-up" in line]


async def test_who_goes_meanwhile(holding):
    """Is not looked up, and nobody else is concerned."""
    slow, session = await alog_in("slow", HOLDING), await alog_in("john", HOLDING)
    first = asyncio.ensure_future(find_out(slow.session_key))
    await asyncio.to_thread(holding.begun.wait, PATIENCE)
    gone, stays = [asyncio.ensure_future(find_out(session.session_key)) for _ in range(2)]
    await asyncio.sleep(0.05)
    gone.cancel()
    holding.may_end.set()
    assert (await stays).user.username == "john"
    assert (await first).user.username == "slow"
    assert gone.cancelled() or isinstance(gone.exception(), asyncio.CancelledError)


async def test_a_crowd_leaves_places_to_others():
    """A stranger with hundreds of cookies has a part of the next batch; a user is in it too."""
    look_ups = LookUps()

    def come(key: str, whom: Hashable) -> None:
        future = asyncio.get_running_loop().create_future()
        look_ups._waiting.add(Asker(key, copy_context(), whom, future))

    for number in range(3 * AT_ONCE):
        come(f"stranger{number}", "9.9.9.9")
    come("john", (User, 1))
    batch = [asker.key for asker in await look_ups._next()]
    assert "john" in batch
    assert len(batch) == AT_ONCE * 3 // 4 + 1


async def test_who_may_log_in_is_asked_in_the_context_of_each(settings, by_themselves):
    """What a middleware has noted of the socket counts, and nothing is noted for others."""
    settings.AUTHENTICATION_BACKENDS = [backend := "tests.site.of_one_site.OfOneSite"]
    cookies = {name: (await alog_in(name, backend)).session_key for name in ("john", "mary")}

    async def on_site(here: str, name: str) -> WebSocketRequest:
        site.set(here)
        return await find_out(cookies[name])

    visits = [("john", "john"), ("john", "mary"), ("mary", "mary"), ("", "john")]
    for _ in range(2):
        found = await asyncio.gather(*[on_site(*visit) for visit in visits])
        assert [each.user.is_authenticated for each in found] == [True, False, True, True]
    assert by_themselves == [cookies["mary"]] * 2


# By themselves


class OwnBackend(ModelBackend):
    """A project's own, which may look at anything."""

    def get_user(self, user_id: Any) -> Any:
        """Return the user."""
        return super().get_user(user_id)


class OfThisSite(UserManager[User]):
    """Finds some users only."""

    def get_queryset(self) -> Any:
        """Return those."""
        return super().get_queryset().exclude(username="elsewhere")


class Owned(QuerySet[User]):
    """Has a say in which row is found."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Return it, if it is not that of one."""
        return super().get(~Q(username="elsewhere"), *args, **kwargs)


class Getting(UserManager[User]):
    """Has the same say."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Return a row, if it is not that of one."""
        return super().get(~Q(username="elsewhere"), *args, **kwargs)


class Router:
    """Chooses a database by anything."""


@pytest.mark.parametrize(
    "choose",
    [
        {"SESSION_ENGINE": "tests.site.slow_sessions"},
        {"AUTHENTICATION_BACKENDS": [f"{__name__}.OwnBackend"]},
        {"DATABASE_ROUTERS": [f"{__name__}.Router"]},
    ],
    ids=["engine", "backend", "router"],
)
async def test_what_may_depend_on_a_single_socket(settings, by_themselves, choose):
    """Is asked for each socket, in its own context."""
    for name, value in choose.items():
        setattr(settings, name, value)
    session = await alog_in("john", settings.AUTHENTICATION_BACKENDS[0])
    found = await asyncio.gather(*[find_out(session.session_key) for _ in range(2)])
    assert [each.user.username for each in found] == ["john", "john"]
    assert by_themselves == [session.session_key] * 2


@pytest.mark.parametrize(
    "make",
    [OfThisSite, Getting, UserManager.from_queryset(Owned)],
    ids=["get_queryset", "get", "queryset"],
)
async def test_a_manager_that_finds_some_users_only(monkeypatch, by_themselves, make):
    """It is asked for each socket; who cannot be found is nobody."""
    sessions = [await alog_in(name) for name in ("john", "elsewhere")]
    manager = make()
    manager.model, manager.name = User, "objects"
    monkeypatch.setattr(User._meta, "default_manager", manager, raising=False)
    cookies = [session.session_key for session in sessions]
    found = await asyncio.gather(*map(find_out, cookies))
    assert [each.user.is_authenticated for each in found] == [True, False]
    assert sorted(by_themselves) == sorted(cookies)
