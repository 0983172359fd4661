"""Where sockets are below a mount: the page, the router and the hooks mean the same place."""

from __future__ import annotations

import pytest
from django.core.exceptions import PermissionDenied
from django.test import RequestFactory, override_settings
from django.urls import set_script_prefix
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.handshake.paths import (
    address_for_pages,
    facility_of,
    path_info_of,
    require_plain_path,
    sockets_below,
)
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.routing import FacilityPattern
from tests.handshake.test_requests import scope

URLS = ["/ws/", "ws/", "/app/ws/", "app/ws/", "/stream", "/", "/app", "/a/b/"]


@pytest.fixture
def below():
    """Have pages rendered below a mount, as a handler of Django does."""
    yield set_script_prefix
    set_script_prefix("/")


@pytest.mark.parametrize(
    ("url", "mount", "path"),
    [
        ("/ws/", "", "/ws/"),
        ("ws/", "/", "/ws/"),
        ("/ws/", "/app", "/app/ws/"),
        ("/ws/", "/app/", "/app/ws/"),
        ("/app/ws/", "/app", "/app/ws/"),
        ("/app/ws/", "", "/app/ws/"),
        ("/apps/", "/app", "/app/apps/"),
        ("/ws/", "/ws", "/ws/"),
        ("/", "/app", "/app/"),
    ],
)
def test_the_setting_is_written_with_the_mount_or_without(settings, url, mount, path):
    """And with its leading slash or without."""
    settings.WEBSOCKET_URL = url
    assert sockets_below(mount) == path


@given(st.sampled_from(URLS), st.sampled_from(["", "/app", "/app/", "/a b", "/ws"]), st.text())
def test_page_router_and_hooks_agree(url, mount, facility):
    """What a page opens, the router matches, and what follows the setting in ``path_info``."""
    with override_settings(WEBSOCKET_URL=url):
        told = scope(sockets_below(mount) + facility, root_path=mount)
        path_info = path_info_of(told)
        assert FacilityPattern().match(path_info.removeprefix("/")) == (
            "",
            (),
            {"facility": facility},
        )
        request = WebSocketRequest(told)
        assert request.facility == facility
        assert request.path_info == request.META["PATH_INFO"] == "/" + url.lstrip("/") + facility


@given(
    st.sampled_from(["/ws/", "/app/ws/"]),
    st.sampled_from(["", "/app"]),
    st.text("/apws", max_size=12),
)
def test_one_facility_has_one_path(url, root_path, rest):
    """A second path would get past a proxy's rule for the first."""
    with override_settings(WEBSOCKET_URL=url):
        told = scope(f"/{rest}/ws/admin", root_path=root_path)
        try:
            facility = facility_of(WebSocketRequest(told))
            require_plain_path(told, facility)
        except PermissionDenied:
            return
        assert told["path"] == sockets_below(root_path) + facility


@pytest.mark.parametrize("force", [None, "/app"])
def test_the_forced_name_of_the_script_does_not_change_the_path(settings, force):
    """What is below WEBSOCKET_URL for the router is so for a hook that looks at ``path_info``."""
    settings.FORCE_SCRIPT_NAME, settings.WEBSOCKET_URL = force, "/app/ws/"
    request = WebSocketRequest(scope("/app/ws/foo"))
    assert request.path_info == "/app/ws/foo"
    assert request.facility == "foo"


def test_a_page_writes_an_address_that_stays_on_its_host(settings, below):
    """Whatever a server was told of the mount, by a header of the client at worst."""
    below("/a b/größe/")
    assert address_for_pages() == "/a%20b/gr%C3%B6%C3%9Fe/ws/"
    below("/\\evil.example/")
    assert address_for_pages() == "/%5Cevil.example/ws/"
    below("/app/")
    settings.WEBSOCKET_URL = "/@live:1/"
    assert address_for_pages() == "/app/@live:1/"


def test_a_request_of_django_itself():
    """Tests of legacy code have no request of a socket."""
    assert facility_of(RequestFactory().get("/ws/foo/bar")) == "foo/bar"


def test_a_route_without_a_facility_elsewhere_has_none():
    """It would hear a channel that nobody publishes on; the error names path and remedy."""
    for path in ("/live/foo", "/ws", "/app/ws/foo"):
        request = WebSocketRequest(scope(path, url_route={"args": (), "kwargs": {"room": "foo"}}))
        with pytest.raises(PermissionDenied, match=r"WEBSOCKET_URL, '/ws/'; write the route as"):
            _ = request.facility


@pytest.mark.parametrize(
    ("path", "root_path", "problem"),
    [
        ("/ws/x", "", None),
        ("/ws//x", "", None),
        ("/ws/y//x", "", None),
        ("/app/ws/x", "/app", None),
        ("//ws/x", "", "two slashes"),
        ("ws/x", "", "begin with a slash"),
        ("/app//ws/x", "/app/", "two slashes"),
        ("/app//ws/x", "/app", "two slashes"),
        ("/appws/x", "/app", "root path, '/app/'; have"),
        ("/ws/x", "/app", "root path, '/app/'; have the proxy pass the path on"),
    ],
)
def test_a_plain_path(path, root_path, problem):
    """Any other is refused, with the cause; the facility may have any slashes."""
    told, facility = scope(path, root_path=root_path), path.partition("ws/")[2]
    if problem is None:
        require_plain_path(told, facility)
        return
    with pytest.raises(PermissionDenied, match=problem):
        require_plain_path(told, facility)
