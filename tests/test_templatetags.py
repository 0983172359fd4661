"""The template tag that renders the browser client and a socket's address."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from html import unescape
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpResponse
from django.template import Context, Template, TemplateSyntaxError
from django.test import AsyncClient, RequestFactory
from django.urls import path, set_script_prefix
from django.utils.functional import SimpleLazyObject, empty

from channels_ws4redis.context_processors import default
from channels_ws4redis.pages.rendering import PATIENCE
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.stamps import Stamp, astamp, stamp
from channels_ws4redis.subscriber import RedisSubscriber


def render(source: str, user=None, **context) -> dict[str, str]:
    """Render the tag and return the attributes of the script element."""
    request = RequestFactory().get("/")
    request.user = AnonymousUser() if user is None else user
    request.session = {}
    html = Template("{% load ws4redis %}" + source).render(
        Context({"request": request, "n": "x&y", **context})
    )
    found = re.fullmatch(r"<script ([^>]*)></script>", html)
    assert found, html
    return {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', found[1])}


def stamp_in(tag: str, user=None, **context) -> str:
    """Render a template and return the stamp in it."""
    return render(tag, user, **context)["data-ws4redis-positions"]


def test_address():
    """The element carries the address in a data attribute, quoted for URL and HTML."""
    attributes = render('{% ws4redis "a b/ü?" "subscribe-broadcast, publish-user echo" %}')
    assert attributes["src"] == "/static/js/ws4redis.js"
    uri = "/ws/a%20b/%C3%BC%3F?subscribe-broadcast&publish-user&echo"
    assert attributes["data-ws4redis-uri"] == uri
    assert attributes["data-ws4redis-name"] == attributes["data-ws4redis-facility"] == "a b/ü?"
    assert attributes["data-ws4redis-flags"] == "subscribe-broadcast publish-user echo"


@pytest.mark.parametrize("facility", ["..", ".", "../../admin/x", "a/../b", "a/./b", "a/.."])
def test_a_facility_that_browsers_rewrite(facility):
    """The page would open another socket, whatever the spelling; the error says so."""
    with pytest.raises(ValueError, match=r"cannot be opened by a browser"):
        render(f'{{% ws4redis "{facility}" "subscribe-broadcast" %}}')


@pytest.mark.parametrize("facility", ["...", "a..b", ".hidden", "%2e%2e/x", "a\\..", "//evil/x"])
def test_a_facility_that_only_looks_like_it(facility):
    """Browsers open these as they are."""
    template = '{% ws4redis facility "" %}'.replace("facility", f'"{facility}"')
    path = render(template)["data-ws4redis-uri"]
    assert unquote(path) == f"/ws/{facility}"


@pytest.mark.parametrize("facility", ["/evil.example/x", "//evil.example"])
def test_a_path_that_is_another_host_to_browsers(settings, facility):
    """Where sockets have no path of their own, a facility may not begin with a slash."""
    settings.WEBSOCKET_URL = "/"
    with pytest.raises(ValueError, match=rf"'/{facility}' is an address on another host"):
        render(f'{{% ws4redis "{facility}" "subscribe-broadcast" %}}')
    assert render('{% ws4redis "x//y" "" %}')["data-ws4redis-uri"] == "/x//y"


@pytest.mark.parametrize("url", ["/ws/", "ws/", "/app/ws/"])
def test_address_below_a_path(settings, url):
    """The browser needs all of it; WEBSOCKET_URL may have been written with it or without."""
    settings.WEBSOCKET_URL = url
    set_script_prefix("/app/")
    try:
        assert render('{% ws4redis "chat" "" %}')["data-ws4redis-uri"] == "/app/ws/chat"
        uri = default(RequestFactory().get("/"))["WEBSOCKET_URI"]
        assert uri == "ws://testserver/app/ws/"
        set_script_prefix("//evil.example/")
        with pytest.raises(ValueError, match="is an address on another host"):
            render('{% ws4redis "chat" "" %}')
    finally:
        set_script_prefix("/")


def test_no_inline_code():
    """Nothing but attributes is rendered, with the nonce of the page's policy."""
    attributes = render('{% ws4redis "chat" "" name="n" nonce=n %}')
    assert attributes["nonce"] == "x&y"
    assert attributes["data-ws4redis-name"] == "n"
    assert attributes["data-ws4redis-uri"] == "/ws/chat"


class LazyNonce(SimpleLazyObject):
    """What Django 6 and django-csp 4 put into the context: false until it has been rendered."""

    def __bool__(self) -> bool:
        return self._wrapped is not empty


def test_lazy_nonce():
    """A nonce that is made when it is rendered first is rendered here."""
    made = []
    nonce = LazyNonce(lambda: made.append("abc") or "abc")
    assert not nonce
    attributes = render('{% ws4redis "chat" "" nonce=csp_nonce %}', csp_nonce=nonce)
    assert attributes["nonce"] == "abc"
    assert made == ["abc"]


@pytest.mark.parametrize("context", [{}, {"csp_nonce": None}, {"csp_nonce": ""}])
def test_no_nonce(context):
    """Where the page has no policy there is no attribute, and not the text of nothing."""
    assert "nonce" not in render('{% ws4redis "chat" "" nonce=csp_nonce %}', **context)


def test_nonce_of_django():
    """Django's own nonce, where Django has it, is rendered and sent in the header."""
    csp = pytest.importorskip("django.utils.csp", reason="Django 6 and later")
    nonce = csp.LazyNonce()
    attributes = render('{% ws4redis "chat" "" nonce=csp_nonce %}', csp_nonce=nonce)
    assert attributes["nonce"] == str(nonce) != ""
    assert nonce  # by which its middleware puts it into the header


def test_positions():
    """The page is stamped with where the visitor's channels stand when it is rendered."""
    RedisPublisher(facility="chat", broadcast=True, users=["john"]).publish_message("1")
    attributes = render(
        '{% ws4redis "chat" "subscribe-broadcast subscribe-user" %}', User(username="john")
    )
    positions = json.loads(attributes["data-ws4redis-positions"])
    assert {label: position["offset"] for label, position in positions.items()} == {
        "broadcast": 1,
        "user": 1,
    }


def test_replay():
    """A page that wants the stored messages is not stamped."""
    assert stamp_in('{% ws4redis "chat" "subscribe-broadcast" replay=True %}') == "{}"


def test_a_stamp(settings, free_port):
    """The page is stamped with what its view has taken, and nobody is asked when it is rendered."""
    publisher = RedisPublisher(facility="chat", broadcast=True)
    publisher.publish_message("1")
    at = stamp(None, "chat", "subscribe-broadcast")
    publisher.publish_message("2")
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}/0"
    attributes = render('{% ws4redis "chat" "echo,subscribe-broadcast" at=at %}', at=at)
    positions = json.loads(attributes["data-ws4redis-positions"])
    assert positions == at
    assert positions["broadcast"]["offset"] == 1


def test_a_stamp_for_nobody():
    """A visitor without channels has an empty stamp, which is a stamp all the same."""
    at = stamp(None, "chat", "subscribe-user")
    attributes = render('{% ws4redis "chat" "subscribe-user" at=at %}', at=at)
    assert attributes["data-ws4redis-positions"] == "{}"


@pytest.mark.parametrize(
    ("tag", "problem"),
    [
        pytest.param('"room" "subscribe-user" at=at', "the facility 'chat', .* 'room'", id="of"),
        pytest.param('"chat" "subscribe-broadcast" at=at', "for the flags 'subscribe-u", id="for"),
        pytest.param('"chat" "echo" at=at', "for the flags 'subscribe-user', .* has ''", id="none"),
        pytest.param('"chat" "subscribe-user" at=stmp', "at='' is no stamp", id="misspelt"),
        pytest.param('"chat" "subscribe-user" at=n', "at='x&y' is no stamp", id="other"),
        pytest.param('"chat" "subscribe-user" at=at replay=True', "at= is for a page", id="replay"),
    ],
)
def test_a_stamp_that_does_not_fit(tag, problem):
    """The page would have positions of other channels, or none; the error says so."""
    with pytest.raises(ValueError, match=problem):
        render(f"{{% ws4redis {tag} %}}", at=Stamp({}, "chat", ["subscribe-user"]))


def test_redis_down(settings, free_port):
    """Without Redis the page is rendered without positions."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}/0"
    attributes = render('{% ws4redis "chat" "subscribe-broadcast" %}')
    assert attributes["data-ws4redis-positions"] == "{}"


def test_no_log_of_a_stamp_names_a_session(caplog, redis_client):
    """Whoever knows the key of a session can be that visitor."""
    request = RequestFactory().get("/")
    request.user, request.session = AnonymousUser(), SimpleNamespace(session_key="abcdef")
    RedisPublisher(facility="chat", sessions=["abcdef"]).publish_message("x", expire=0)
    redis_client.hset("{session:abcdef:chat}:meta", "past", "of another program")
    render('{% ws4redis "chat" "subscribe-session" %}', request=request)
    assert "could not be stamped" in caplog.text
    assert "session:…:chat" in caplog.text
    assert "abcdef" not in caplog.text


@pytest.fixture
def patient(monkeypatch):
    """Wait for Redis for as long as a busy machine may take."""
    monkeypatch.setattr("channels_ws4redis.pages.rendering.PATIENCE", 10.0)


@pytest.mark.usefixtures("patient")
async def test_positions_in_an_asynchronous_view():
    """A page that is rendered on an event loop is stamped as well."""
    await RedisPublisher(facility="chat", broadcast=True, users=["john"]).apublish_message("1")
    attributes = render(
        '{% ws4redis "chat" "subscribe-broadcast subscribe-user" %}', User(username="john")
    )
    assert json.loads(attributes["data-ws4redis-positions"]).keys() == {"broadcast", "user"}


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("flag", ["subscribe-user", "subscribe-group"])
async def test_a_user_in_the_database_in_an_asynchronous_view(caplog, flag):
    """The database cannot be asked: broadcasts are stamped, and the log says what to write."""
    user = SimpleLazyObject(lambda: User.objects.get(username="john"))
    attributes = render(f'{{% ws4redis "chat" "subscribe-broadcast {flag}" %}}', user)
    assert json.loads(attributes["data-ws4redis-positions"]).keys() == {"broadcast"}
    assert "pass at=await astamp(…), which loads the visitor" in caplog.text
    assert stamp_in(f'{{% ws4redis "chat" "{flag}" %}}', user) == "{}"


async def view(request):
    """What the log says to write."""
    at = await astamp(request, "chat", "subscribe-user,subscribe-session")
    template = Template(
        '{% load ws4redis %}{% ws4redis "chat" "subscribe-user,subscribe-session" at=at %}'
    )
    return HttpResponse(template.render(Context({"request": request, "at": at})))


urlpatterns = [path("", view)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.urls(__name__)
async def test_a_stamp_loads_the_user_in_an_asynchronous_view(settings, caplog):
    """With what the log says to write, all channels are stamped, and the log says nothing."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    settings.DEBUG = True
    client = AsyncClient()
    user = await sync_to_async(User.objects.create_user)("john")
    await sync_to_async(client.force_login)(user)
    page = unescape((await client.get("/")).content.decode())
    assert all(f'"{label}": ' in page for label in ("user", "session"))
    assert caplog.text == ""


async def test_a_silent_redis_in_an_asynchronous_view(settings, caplog):
    """The event loop stands still once, and briefly; the pages come without positions."""
    caplog.set_level(logging.ERROR, "channels_ws4redis")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.WS4REDIS_CONNECTION = {
            "host": "127.0.0.1",
            "port": silent.getsockname()[1],
            "socket_timeout": 1.0,
        }
        before = time.monotonic()
        for _ in range(10):
            attributes = render('{% ws4redis "chat" "subscribe-broadcast" %}')
            assert attributes["data-ws4redis-positions"] == "{}"
        assert time.monotonic() - before < 10 * PATIENCE
        assert caplog.text == ""  # the connection itself tells, once


@pytest.mark.usefixtures("patient")
async def test_redis_is_asked_again_after_a_failure(settings, redis_url, free_port):
    """What has failed before does not keep a page from its stamp."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}/0"
    assert stamp_in('{% ws4redis "chat" "subscribe-broadcast" %}') == "{}"
    settings.WS4REDIS_CONNECTION = redis_url
    assert stamp_in('{% ws4redis "chat" "subscribe-broadcast" %}') != "{}"


@pytest.mark.parametrize(
    ("flag", "similar"),
    [
        ("broadcast", "subscribe-broadcast"),
        ("subscribe-users", "subscribe-user"),
        ("publish-brodcast", "publish-broadcast"),
        ("Subscribe-user", "subscribe-user"),
        ("subscribe-server", "subscribe-user"),
    ],
)
def test_unknown_flag(flag, similar):
    """A flag that no socket knows is an error that names the one that was meant, and all others."""
    with pytest.raises(
        TemplateSyntaxError, match=rf"'{flag}' is no flag.*mean '{similar}'.*echo, publish-broad"
    ):
        render(f'{{% ws4redis "chat" "subscribe-broadcast {flag}" %}}')


class Server(RedisSubscriber):
    """Knows one more flag."""

    subscription_channels = [*RedisSubscriber.subscription_channels, "subscribe-server"]  # noqa: RUF012 # as projects write it


def test_flag_of_a_subscriber(settings):
    """What the project's own subscriber knows is a flag."""
    settings.WS4REDIS_SUBSCRIBER = f"{__name__}.Server"
    uri = render('{% ws4redis "chat" "subscribe-server" %}')["data-ws4redis-uri"]
    assert uri == "/ws/chat?subscribe-server"


def test_a_variable_that_is_misspelt():
    """The template has nothing under that name, which would be a facility of nobody's."""
    with pytest.raises(ValueError, match="facility='' names nothing"):
        render('{% ws4redis facilty "subscribe-broadcast" %}', facility="chat")
