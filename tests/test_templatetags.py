"""The template tag that renders the browser client and a socket's address."""

from __future__ import annotations

import json
import re
from html import unescape
from urllib.parse import unquote

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.template import Context, Template, TemplateSyntaxError
from django.test import RequestFactory

from channels_ws4redis.publisher import RedisPublisher


def render(source: str, user=None) -> dict[str, str]:
    """Render the tag and return the attributes of the script element."""
    request = RequestFactory().get("/")
    request.user = user or AnonymousUser()
    request.session = {}
    html = Template("{% load ws4redis %}" + source).render(
        Context({"request": request, "n": "x&y"})
    )
    found = re.fullmatch(r"<script ([^>]*)></script>", html)
    assert found, html
    return {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', found[1])}


def test_address():
    """The element carries the address in a data attribute, quoted for URL and HTML."""
    attributes = render('{% ws4redis "a b/ü?" "subscribe-broadcast, publish-user echo" %}')
    assert attributes["src"] == "/static/js/ws4redis.js"
    uri = "/ws/a%20b/%C3%BC%3F?subscribe-broadcast&publish-user&echo"
    assert attributes["data-ws4redis-uri"] == uri
    assert attributes["data-ws4redis-name"] == "a b/ü?"


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


def test_no_inline_code():
    """Nothing but attributes is rendered, with the nonce of the page's policy."""
    attributes = render('{% ws4redis "chat" "" name="n" nonce=n %}')
    assert attributes["nonce"] == "x&y"
    assert attributes["data-ws4redis-name"] == "n"
    assert attributes["data-ws4redis-uri"] == "/ws/chat"


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
    assert "data-ws4redis-positions" not in render(
        '{% ws4redis "chat" "subscribe-broadcast" replay=True %}'
    )


def test_redis_down(settings, free_port):
    """Without Redis the page is rendered without positions."""
    settings.WS4REDIS_CONNECTION = f"redis://127.0.0.1:{free_port}/0"
    attributes = render('{% ws4redis "chat" "subscribe-broadcast" %}')
    assert "data-ws4redis-positions" not in attributes


def test_unknown_flag():
    """A flag that no socket knows is an error that names the known ones."""
    with pytest.raises(TemplateSyntaxError, match=r"'broadcast' is no flag.*subscribe-broadcast"):
        render('{% ws4redis "chat" "broadcast" %}')
