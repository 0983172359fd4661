"""The request of a handshake, and who stands behind it."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser, User
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.handshake.origins import origin_allowed
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.handshake.sessions import authenticate


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
