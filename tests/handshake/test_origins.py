"""From which pages a socket may be opened."""

from __future__ import annotations

import pytest

from channels_ws4redis.handshake.origins import origin_allowed, require_allowed_origin
from channels_ws4redis.handshake.refusals import RefusedError
from tests.handshake.test_requests import request


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "testserver", True),
        ("http://testserver", "testserver", True),
        ("https://testserver", "testserver", True),
        ("HTTP://TestServer", "testserver", True),
        ("http://testserver:80", "testserver", True),
        ("http://testserver", "testserver:80", True),
        ("http://testserver:8000", "testserver:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("https://testserver:443", "testserver", True),
        ("http://testserver:8000", "testserver", False),
        ("http://testserver", "testserver:8000", False),
        ("http://testserver.evil.example", "testserver", False),
        ("http://evil.example", "testserver", False),
        ("http://evil.example", "evil.example", False),
        ("http://testserver@evil.example", "testserver", False),
        ("http://evil.example#testserver", "testserver", False),
        ("file://", "testserver", False),
        ("file://testserver", "testserver", False),
        ("ftp://testserver", "testserver", False),
        ("null", "testserver", False),
        ("", "testserver", False),
        ("garbage", "testserver", False),
        ("http://[", "testserver", False),
        ("http://testserver:port", "testserver", False),
        ("http://testserver:99999", "testserver", False),
        ("http://testserver", "test server", False),
    ],
)
def test_origin(origin, host, allowed):
    """A page may open sockets to its own host, a client without an Origin may anyway."""
    headers = [("host", host)] + ([] if origin is None else [("origin", origin)])
    assert origin_allowed(request(*headers)) is allowed


@pytest.mark.parametrize(
    ("patterns", "origin", "allowed"),
    [
        (["https://app.example"], "https://app.example", True),
        (["https://app.example/"], "https://app.example", True),
        (["https://APP.example"], "https://app.EXAMPLE", True),
        (["https://app.example"], "http://app.example", False),
        (["https://app.example"], "https://app.example:8443", False),
        (["https://app.example:8443"], "https://app.example:8443", True),
        (["https://app.example"], "https://app.example.evil.example", False),
        (["https://*.example.com"], "https://a.example.com", True),
        (["https://*.example.com"], "https://a.b.example.com", True),
        (["https://*.example.com"], "https://evilexample.com", False),
        (["https://*.example.com"], "http://a.example.com", False),
        (["https://*.example.com"], "https://a.example.com.evil.example", False),
        (["https://*.example.com"], "https://evil.example/.example.com", False),
        (["https://*.example.com"], "https://evil.example?.example.com", False),
        (["https://*.example.com"], "https://evil.example#.example.com", False),
        (["https://*.example.com"], "https://evil.example\thttps://a.example.com", False),
        (["https://*.example.com"], "https://a.example.com:8443", False),
        (["https://*.example.com"], "https://*.example.com", False),
        (["https://*.example.com"], "https://.example.com", False),
        (["https://*.example.com"], "https://a.example.com,https://evil.example", False),
        (["https://*.example.com:8443"], "https://a.example.com:8443", True),
        (["https://*"], "https://evil.example", False),
        (["https://*."], "https://evil.example", False),
        (["*.example.com", ".example.com"], "https://a.example.com", False),
        (["https://example.com"], "https://example.com.", False),
        ([""], "", False),
        ([], "https://app.example", False),
        (["app.example"], "https://app.example", False),
    ],
)
@pytest.mark.parametrize("setting", ["WS4REDIS_ALLOWED_ORIGINS", "CSRF_TRUSTED_ORIGINS"])
def test_allowed_origins(settings, setting, patterns, origin, allowed):
    """Further pages may if a setting names them, the scheme and the port included."""
    setattr(settings, setting, patterns)
    assert origin_allowed(request(("host", "testserver"), ("origin", origin))) is allowed


@pytest.mark.parametrize("origin", ["https://anyone.example", "null", "file://", "x-app://a"])
def test_a_setting_of_the_package_may_name_any_origin(settings, origin):
    """A star means all there, and nothing in Django's own setting."""
    found = request(("host", "testserver"), ("origin", origin))
    settings.CSRF_TRUSTED_ORIGINS = ["*"]
    assert not origin_allowed(found)
    for named in (["*"], [origin], ["https://other.example", origin]):
        settings.WS4REDIS_ALLOWED_ORIGINS = named
        assert origin_allowed(found)


def test_a_page_that_is_not_secure_opens_no_socket_on_a_secure_server(settings):
    """Somebody between the user and the server could have written the page."""
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    secure = ("host", "testserver"), ("x-forwarded-proto", "https")
    assert not origin_allowed(request(*secure, ("origin", "http://testserver")))
    assert origin_allowed(request(*secure, ("origin", "https://testserver")))


def test_two_origins_are_none():
    """A client that sends the header twice is let in by neither."""
    headers = [("host", "testserver"), ("origin", "http://testserver")]
    assert not origin_allowed(request(*headers, ("origin", "http://evil.example")))
    assert not origin_allowed(request(("origin", "http://evil.example"), *headers))


def test_forwarded_host(settings):
    """Behind a proxy the host is the one that Django is told to believe in."""
    headers = [
        ("host", "backend"),
        ("x-forwarded-host", "testserver"),
        ("origin", "http://testserver"),
    ]
    assert not origin_allowed(request(*headers))
    settings.USE_X_FORWARDED_HOST = True
    assert origin_allowed(request(*headers))


FOREIGN = (
    "a page of the foreign origin 'http://evil.example\\n' opens it on the host 'testserver'; name"
)
UNKNOWN = (
    "a page of the origin 'http://evil.example\\n' opens it, and its host '{}' is not in ALLOWED"
)


@pytest.mark.parametrize(
    ("host", "forwarded", "reason", "text"),
    [
        ("testserver", None, "origin", FOREIGN),
        ("evil.example\n", None, "host", UNKNOWN.format("evil.example\\n")),
        ("backend", "other.example", "host", UNKNOWN.format("other.example")),
    ],
)
def test_a_refusal_says_what_was_compared(settings, host, forwarded, reason, text):
    """On one line: the origin, and the host as Django knows it."""
    settings.USE_X_FORWARDED_HOST = True
    headers = [("host", host)] + ([] if forwarded is None else [("x-forwarded-host", forwarded)])
    with pytest.raises(RefusedError) as caught:
        require_allowed_origin(request(*headers, ("origin", "http://evil.example\n")))
    assert caught.value.reason == reason
    assert str(caught.value).startswith(text)


def test_who_may_is_not_refused():
    """Nor a client without an origin."""
    require_allowed_origin(request(("host", "testserver")))
    require_allowed_origin(request(("host", "testserver"), ("origin", "http://testserver")))
