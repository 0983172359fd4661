"""The request of a handshake, and who stands behind it."""

from __future__ import annotations

import datetime
from importlib import import_module

import pytest
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user,
)
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.models import Session
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.handshake.origins import origin_allowed
from channels_ws4redis.handshake.requests import (
    SessionSnapshot,
    WebSocketRequest,
    authenticate,
    drop_forged_session,
)
from channels_ws4redis.redis_store import own_identities, session_key

ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]


def scope(path="/ws/foo", query_string=b"", headers=(), **more):
    """Return the scope of a WebSocket as daphne makes it."""
    return {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query_string,
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "client": ["10.1.2.3", 5555],
        "server": ["10.0.0.1", 80],
        "subprotocols": [],
        **more,
    }


def request(*headers, **kwargs):
    """Return a request with these headers."""
    return WebSocketRequest(scope(headers=headers, **kwargs))


def test_path_and_query():
    """The request has the path and the query of the socket, and is a GET."""
    found = request(path="/ws/Größe/a b", query_string=b"subscribe-user&ts=1%20&a=%C3%A4")
    assert found.method == "GET"
    assert found.path == found.path_info == "/ws/Größe/a b"
    assert found.GET.dict() == {"subscribe-user": "", "ts": "1 ", "a": "ä"}
    assert found.META["QUERY_STRING"] == "subscribe-user&ts=1%20&a=%C3%A4"
    assert found.META["PATH_INFO"] == "/ws/Größe/a b"
    assert found.META["REMOTE_ADDR"] == "10.1.2.3"
    assert found.POST.dict() == {}
    assert found.body == b""


def test_environ():
    """Hooks written for WSGI find their environment."""
    found = request(("cookie", "a=b"))
    assert found.environ is found.META
    assert found.environ["PATH_INFO"] == "/ws/foo"
    assert found.environ["HTTP_COOKIE"] == "a=b"
    assert found.environ["REQUEST_METHOD"] == "GET"


def test_headers_and_cookies():
    """Headers are those of the handshake, and cookies are parsed."""
    found = request(("host", "testserver"), ("x-thing", "1"), ("cookie", 'a=b; c="d e"; =; f'))
    assert found.headers["X-Thing"] == found.META["HTTP_X_THING"] == "1"
    assert found.COOKIES["a"] == "b"
    assert found.COOKIES["c"] == "d e"
    assert found.get_host() == "testserver"


@pytest.mark.parametrize(("scheme", "secure"), [("ws", False), ("wss", True), (None, False)])
def test_is_secure(scheme, secure):
    """A socket over TLS is a secure request."""
    more = {} if scheme is None else {"scheme": scheme}
    found = request(("host", "testserver"), **more)
    assert found.is_secure() is secure
    assert found.build_absolute_uri("/x") == f"http{'s' * secure}://testserver/x"


def test_is_secure_behind_a_proxy(settings):
    """Django's own setting for a proxy that ends TLS holds for sockets, too."""
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert request(("x-forwarded-proto", "https"), scheme="ws").is_secure()
    assert not request(("x-forwarded-proto", "http"), scheme="ws").is_secure()


def test_root_path():
    """Below a root path Django sees the script name apart from the path."""
    found = request(path="/site/ws/foo", root_path="/site")
    assert (found.META["SCRIPT_NAME"], found.path_info) == ("/site", "/ws/foo")


@given(st.binary(), st.binary(), st.text(), st.binary())
def test_garbage(query_string, cookie, path, origin):
    """No query, cookie, path or origin keeps a request from being made and judged."""
    found = WebSocketRequest(
        scope(path, query_string)
        | {"headers": [(b"cookie", cookie), (b"origin", origin), (b"host", b"testserver")]}
    )
    assert found.path == path
    assert isinstance(found.COOKIES, dict)
    assert origin_allowed(found) in (True, False)


def test_nobody():
    """Before anybody has been found out there is no session, and the user is anonymous."""
    found = request()
    assert found.session is None
    assert isinstance(found.user, AnonymousUser)


def test_scope_of_a_middleware():
    """Session and user that the project's own middleware found are taken from the scope."""
    user, session = User(username="john"), object()
    found = request(user=user, session=session)
    assert (found.user, found.session) == (user, session)


@pytest.fixture(params=ENGINES)
def engine(request, settings, tmp_path, db):
    """Every session engine of Django."""
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    return import_module(settings.SESSION_ENGINE)


def log_in(engine, username="john"):
    """Return a saved session in which a user has logged in."""
    user = User.objects.create_user(username, password="secret")
    session = engine.SessionStore()
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
    session = log_in(engine)
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
    session = log_in(engine)
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
    session = log_in(engine)
    assert not visit(session.session_key).user.is_authenticated
    found = request(("cookie", f"mine={session.session_key}"))
    authenticate(found)
    assert found.user.username == "john"


@pytest.mark.django_db
def test_inactive_and_deleted_users(settings):
    """A session outlives its user: who is inactive or gone is nobody."""
    session = log_in(import_module(settings.SESSION_ENGINE))
    User.objects.update(is_active=False)
    assert not visit(session.session_key).user.is_authenticated
    User.objects.all().delete()
    assert not visit(session.session_key).user.is_authenticated


@pytest.mark.django_db
def test_stale_hash(settings):
    """After a change of password the session names nobody, and is left as it is."""
    session = log_in(import_module(settings.SESSION_ENGINE))
    john = User.objects.get()
    john.set_password("another")
    john.save()
    before = Session.objects.values().get()
    assert not visit(session.session_key).user.is_authenticated
    assert Session.objects.values().get() == before


@pytest.mark.django_db
def test_key_rotation(settings):
    """While SECRET_KEY is rotated a socket sees the user, and changes neither key nor session."""
    session = log_in(import_module(settings.SESSION_ENGINE))
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
    session = log_in(import_module(settings.SESSION_ENGINE))
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
def test_nobody_counts_as_false():
    """Hooks of legacy, where such a request has no user, refuse strangers by that."""
    stranger, forged = request(), request(("cookie", "sessionid=forged"))
    authenticate(forged)
    for each in (stranger.user, forged.user):
        assert not each
        assert isinstance(each, AnonymousUser)
        assert not each.is_authenticated
        assert each == AnonymousUser()
        assert AnonymousUser() == each
        assert hash(each) == hash(AnonymousUser())


def test_the_facility_is_what_the_router_has_matched():
    """The path may say something else, below a prefix of the project's."""
    matched = request(path="/app/ws/foo/ws/", url_route={"args": (), "kwargs": {"facility": "foo"}})
    assert matched.facility == "foo"
    assert request(path="/ws/foo/bar").facility == "foo/bar"


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
