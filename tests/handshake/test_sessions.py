"""Sessions that sockets look at, on every engine, and what an engine may do while it loads one."""

from __future__ import annotations

import datetime
import sys
from importlib import import_module
from types import ModuleType

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user,
)
from django.contrib.auth.models import User
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.test import override_settings
from django.utils.functional import SimpleLazyObject

from channels_ws4redis.handshake.sessions import (
    SessionSnapshot,
    authenticate,
    drop_forged_session,
    session_key,
)
from channels_ws4redis.publish.addressing import own_identities
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import router
from tests.handshake.test_requests import request

ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]


@pytest.fixture(params=ENGINES)
def engine(request, settings, tmp_path, db):
    """Every session engine of Django."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    return import_module(settings.SESSION_ENGINE)


def log_in(store, username="john"):
    """Return a saved session in which a user has logged in."""
    user = User.objects.create_user(username, password="secret")
    session = store()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session["ws4redis:memberof"] = ["chatters"]
    session.save()
    return session


def visit(cookie):
    """Return the authenticated request of a browser with this session cookie."""
    found = request(("cookie", f"sessionid={cookie}"))
    authenticate(found)
    return found


def identities(found):
    """Return all that a request goes by."""
    return [own_identities(found, audience) for audience in ("user", "group", "session")]


def test_authenticate(engine):
    """A session cookie gives the session and the user, on every session engine."""
    session = log_in(engine.SessionStore)
    found = visit(session.session_key)
    assert found.user.username == "john"
    assert found.user.is_authenticated
    assert identities(found) == [["john"], ["chatters"], [session.session_key]]


@pytest.mark.parametrize(
    "cookie",
    ["0123456789abcdefghijklmnopqrstuv", "None", "x", "a" * 5000, "a:b:c", "../etc/passwd", "é"],
)
def test_forged_cookie(engine, cookie):
    """A cookie that nobody handed out is nobody's."""
    found = visit(cookie)
    assert not found.user.is_authenticated
    assert identities(found) == [[], [], []]


@pytest.mark.django_db
def test_expired_session(settings):
    """A session that has expired is nobody's."""
    engine = import_module(settings.SESSION_ENGINE)
    session = log_in(engine.SessionStore)
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    Session.objects.update(expire_date=long_ago)
    assert identities(visit(session.session_key)) == [[], [], []]


def test_no_cookie(django_assert_num_queries, db):
    """Without a cookie nothing is looked up."""
    found = request()
    with django_assert_num_queries(0):
        authenticate(found)
    assert found.session is None
    assert identities(found) == [[], [], []]


def test_anonymous_session(engine):
    """A visitor with a saved session, not logged in, has that session and no more."""
    session = engine.SessionStore()
    session["a"] = 1
    session.save()
    found = visit(session.session_key)
    assert identities(found) == [[], [], [session.session_key]]


def test_other_cookie_name(engine, settings):
    """The session cookie may have any name."""
    settings.SESSION_COOKIE_NAME = "mine"
    session = log_in(engine.SessionStore)
    assert not visit(session.session_key).user.is_authenticated
    found = request(("cookie", f"mine={session.session_key}"))
    authenticate(found)
    assert found.user.username == "john"


@pytest.mark.django_db
def test_inactive_and_deleted_users(settings):
    """A session outlives its user: who is inactive or gone is nobody."""
    session = log_in(import_module(settings.SESSION_ENGINE).SessionStore)
    User.objects.update(is_active=False)
    assert not visit(session.session_key).user.is_authenticated
    User.objects.all().delete()
    assert not visit(session.session_key).user.is_authenticated


@pytest.mark.django_db
def test_stale_hash(settings):
    """After a change of password the session names nobody, and is left as it is."""
    session = log_in(import_module(settings.SESSION_ENGINE).SessionStore)
    john = User.objects.get()
    john.set_password("another")
    john.save()
    before = Session.objects.values().get()
    assert not visit(session.session_key).user.is_authenticated
    assert Session.objects.values().get() == before


@pytest.mark.django_db
def test_key_rotation(settings):
    """While SECRET_KEY is rotated a socket sees the user, and changes neither key nor session."""
    session = log_in(import_module(settings.SESSION_ENGINE).SessionStore)
    before = Session.objects.values().get()
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        found = visit(session.session_key)
        assert found.user.username == "john"
        assert found.session.session_key == session.session_key
    assert Session.objects.values().get() == before


def test_snapshot():
    """A snapshot can be changed, flushed and given a new key without any effect outside of it."""
    data = {"a": 1}
    snapshot = SessionSnapshot(data)
    assert (snapshot["a"], snapshot.get("b"), snapshot.session_key) == (1, None, None)
    snapshot["a"] = 2
    snapshot.cycle_key()
    assert (snapshot["a"], data) == (2, {"a": 1})
    snapshot.flush()
    assert (snapshot.get("a"), data) == (None, {"a": 1})


@pytest.mark.django_db
def test_django_flushes_without_the_snapshot(settings):
    """Delete the snapshot once this fails: get_user flushes a session with a stale hash."""
    session = log_in(import_module(settings.SESSION_ENGINE).SessionStore)
    session[HASH_SESSION_KEY] = "stale"
    session.save()
    found = request()
    found.session = session
    get_user(found)
    assert Session.objects.count() == 0


def test_session_key_of_odd_sessions():
    """Only a session that exists has a key; None and foreign objects are taken as they are."""

    class Foreign:
        session_key = "abc"

    assert session_key(None) is None
    assert session_key(object()) is None
    assert session_key(Foreign()) == "abc"


@pytest.mark.django_db
@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_that_is_made_up_is_no_session(settings, engine):
    """Also if a middleware has opened the session; one that exists stays, modified or not."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    store = import_module(settings.SESSION_ENGINE).SessionStore
    found = request(session=store("chosen-by-a-stranger-0123456789"))
    drop_forged_session(found)
    assert not found.session.session_key
    real = store()
    real["a"] = 1
    real.save()
    found = request(session=store(real.session_key))
    found.session["b"] = 2
    drop_forged_session(found)
    assert found.session.session_key == real.session_key
    assert found.session["a"] == 1


# Engines that write while they load


class LastSeen:
    """Has the session saved at the end of an HTTP request, and notes nothing else."""

    def load(self):
        data = super().load()
        self.modified = True
        return data


class Noting(LastSeen):
    """Keeps the time in the session, and so in one that it has not found."""

    def load(self):
        return {**super().load(), "last_seen": "now"}


class Saving(Noting):
    """Does not wait for the end of the request."""

    def load(self):
        self._session_cache = super().load()
        self.save()
        return self._session_cache


class Replacing(LastSeen):
    """Makes a new session in place of one that it has not found, as django-user-sessions does."""

    def load(self):
        data = super().load()
        if data and self.session_key:
            return data
        self.create()
        return {}


class Inserting(LastSeen):
    """Does so by saving."""

    def load(self):
        data = super().load()
        if not data or not self.session_key:
            self._session_key, self._session_cache = self._get_new_session_key(), {}
            self.save(must_create=True)
        return data


class Insisting:
    """Relies on what it has made, and fails without it."""

    def load(self):
        data = super().load()
        if not data or not self.session_key:
            self.create()
            return {True: {}}[self.modified]
        return data


class Rotating(LastSeen):
    """Gives a session a new key from time to time."""

    def load(self):
        self._session_cache = super().load()
        self.cycle_key()
        return self._session_cache


class Selecting(LastSeen):
    """Saves a part of itself, by an argument of its own."""

    def save(self, must_create=False, update_fields=None):
        super().save(must_create)

    def load(self):
        self._session_cache = super().load()
        self.save(update_fields=["last_seen"])
        return self._session_cache


class Sweeping(LastSeen):
    """Deletes another session that is of no use any more."""

    def load(self):
        data = super().load()
        self.delete("ofanearliervisit")
        return data


HABITS = [LastSeen, Noting, Saving, Replacing, Inserting, Insisting, Rotating, Selecting, Sweeping]


@pytest.fixture
def use(settings, tmp_path, monkeypatch, db):
    """Have sessions kept by one of Django's engines with a habit of its own."""
    caches["default"].clear()

    def use(name: str, habit: type) -> type[SessionBase]:
        engine = import_module(f"django.contrib.sessions.backends.{name}")
        kept = {"_storage_path": str(tmp_path)}  # the file engine has made up its mind before
        store = type("SessionStore", (habit, engine.SessionStore), kept)
        module = ModuleType("engine_of_a_test")
        module.SessionStore = store
        monkeypatch.setitem(sys.modules, module.__name__, module)
        settings.SESSION_ENGINE = module.__name__
        return store

    return use


@pytest.fixture
def kept(tmp_path):
    """Return all that any engine keeps."""

    def kept():
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        return list(Session.objects.values()), files, dict(caches["default"]._cache)

    return kept


class Plain:
    """Has no habit."""


each_engine = pytest.mark.parametrize("name", ENGINES)
each_habit = pytest.mark.parametrize("habit", HABITS)


@each_engine
@each_habit
def test_a_session_that_is_touched_while_it_is_loaded(use, kept, name, habit):
    """Its user is found, and the socket leaves it as it is."""
    session = log_in(use(name, Plain))
    use(name, habit)
    before = kept()
    found = visit(session.session_key)
    assert identities(found) == [["john"], ["chatters"], [session.session_key]]
    assert kept() == before


@each_engine
@each_habit
def test_a_cookie_that_is_made_up_writes_nothing(use, kept, name, habit):
    """No row, no file and no key in the cache; and nobody stands behind it."""
    use(name, habit)
    before = kept()
    for cookie in ("0123456789abcdefghijklmnopqrstuv", "x", "é" * 32, "a:b:c" * 20):
        found = visit(cookie)
        assert identities(found) == [[], [], []]
        assert not found.session.session_key
        assert not found.session.items()
    assert kept() == before


@each_engine
@each_habit
def test_a_session_that_has_expired_writes_nothing(use, kept, settings, name, habit):
    """Also by the engine of files, which replaces it."""
    session = log_in(use(name, Plain))
    session.set_expiry(-1)
    session.save()
    settings.SESSION_COOKIE_AGE = -1  # which is what signed cookies go by
    use(name, habit)
    rows, files, cached = kept()
    assert identities(visit(session.session_key)) == [[], [], []]
    assert kept()[:2] == (rows, files)
    assert kept()[2].items() <= cached.items()  # it forgets by itself what has expired


@each_engine
@each_habit
def test_a_session_that_has_been_deleted_writes_nothing(use, kept, name, habit):
    """A socket that comes later finds nobody; a signed cookie is never deleted."""
    session = log_in(use(name, Plain))
    key = session.session_key
    session.delete()
    use(name, habit)
    before = kept()
    expected = [["john"], ["chatters"], [key]] if name == "signed_cookies" else [[], [], []]
    assert identities(visit(key)) == expected
    assert kept() == before


@each_engine
@each_habit
def test_a_password_that_has_been_changed(use, kept, name, habit):
    """Nobody is logged in, and the session is left as it is."""
    key = log_in(use(name, Plain)).session_key
    use(name, habit)
    john = User.objects.get()
    john.set_password("another")
    john.save()
    before = kept()
    found = visit(key)
    assert identities(found) == [[], [], [key]]
    assert not found.user.is_authenticated
    assert kept() == before


@each_engine
@each_habit
def test_a_key_that_is_being_rotated(use, kept, settings, name, habit):
    """The user is found by the old key, and the session is left as it is."""
    key = log_in(use(name, Plain)).session_key
    use(name, habit)
    before = kept()
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert identities(visit(key)) == [["john"], ["chatters"], [key]]
        assert kept() == before


@each_engine
@pytest.mark.parametrize("method", ["flush", "delete"])
def test_an_engine_that_ends_a_session_while_it_loads_it(use, kept, name, method):
    """It does so for a foreign address, say. The session is nobody's, and is left to HTTP."""

    class Wary:
        def load(self):
            data = super().load()
            self._session_cache = {}
            getattr(self, method)()
            return data

    key = log_in(use(name, Plain)).session_key
    use(name, Wary)
    before = kept()
    assert identities(visit(key)) == [[], [], []]
    assert kept() == before


@each_engine
@each_habit
def test_a_session_that_a_middleware_has_loaded(use, name, habit):
    """What is made up has no key; what exists keeps its key, and what has been changed."""
    key = log_in(use(name, Plain)).session_key
    store = use(name, habit)
    forged = store("0123456789abcdefghijklmnopqrstuv")
    forged.get("a")
    assert session_key(forged) != "0123456789abcdefghijklmnopqrstuv"
    found = request(session=SimpleLazyObject(lambda: forged))
    drop_forged_session(found)
    assert found.session.session_key != "0123456789abcdefghijklmnopqrstuv"
    real = store(key)
    real["b"] = 2
    found = request(session=SimpleLazyObject(lambda: real))
    drop_forged_session(found)
    assert found.session is not real
    assert found.session["b"] == 2


@each_engine
@each_habit
def test_a_publisher_that_is_the_first_to_look(use, kept, name, habit):
    """It writes nothing, and what a view saves later does not get the key that was made up."""
    store, chosen = use(name, habit), "0123456789abcdefghijklmnopqrstuv"
    before = kept()
    session = store(chosen)
    assert session_key(session) is None
    assert kept() == before
    assert session.is_empty()
    session["a"] = 1
    session.save()
    assert session.session_key not in (None, chosen)
    assert session_key(session) == session.session_key


@pytest.mark.server
@pytest.mark.django_db(transaction=True)
@each_habit
async def test_sockets_with_an_engine_that_writes(use, kept, redis_client, habit):
    """A user's socket hears; one with a cookie that is made up does not, and leaves nothing."""
    session = await sync_to_async(log_in)(use("db", Plain))
    use("db", habit)
    before = await sync_to_async(kept)()
    heard = []
    for cookie in (session.session_key, "0123456789abcdefghijklmnopqrstuv"):
        flags = "subscribe-user&subscribe-session&subscribe-group&subscribe-broadcast"
        client = WebsocketCommunicator(router, f"/ws/foo?{flags}")
        client.scope["headers"] = [(b"cookie", f"sessionid={cookie}".encode())]
        assert (await client.connect(10))[0]
        for audience in ({"users": ["john"]}, {"groups": ["chatters"]}, {"sessions": [cookie]}):
            publisher = RedisPublisher(facility="foo", **audience)
            await publisher.apublish_message(next(iter(audience)), expire=0)
        await RedisPublisher(facility="foo", broadcast=True).apublish_message("all", expire=0)
        while (text := await client.receive_from(10)) != "all":
            heard.append(text)
        await client.disconnect()
    assert heard == ["users", "groups", "sessions"]
    assert await sync_to_async(kept)() == before
