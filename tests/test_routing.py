"""Routing, in the process: what a server would be told for every path and origin."""

from __future__ import annotations

import pytest
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.urls import path, re_path
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.consumers import WS4RedisConsumer
from channels_ws4redis.routing import (
    FacilityPattern,
    Router,
    router,
    websocket_urlpatterns,
)


async def accepting(scope, receive, send):
    """Accept a socket, to tell its facility as the subprotocol."""
    await receive()
    facility = scope.get("url_route", {"kwargs": {}})["kwargs"].get("facility")
    await send({"type": "websocket.accept", "subprotocol": facility})


async def failing(scope, receive, send):
    """Fail in a way that a router must not mistake for an unknown path."""
    raise ValueError("No route found, or something else")


def routes(view=accepting):
    """Return the package's own pattern in front of another application."""
    pattern = websocket_urlpatterns[0]
    return [type(pattern)(pattern.pattern, view)]


async def connect(application, path, **headers):
    """Open a socket in the process and return whether it was accepted, and its subprotocol."""
    socket = WebsocketCommunicator(
        application, path, [(name.encode(), value.encode()) for name, value in headers.items()]
    )
    accepted, answer = await socket.connect()
    await socket.wait()
    return accepted, answer


@pytest.mark.parametrize(
    ("path", "facility"),
    [
        ("/ws/foo", "foo"),
        ("/ws/", ""),
        ("/ws/a//b/", "a//b/"),
        ("/ws/x%0Ay", "x\ny"),
        ("/ws/ä", "ä"),
    ],
)
async def test_facility(path, facility):
    """The router hands the rest of the path to the consumer."""
    assert await connect(Router(routes()), path) == (True, facility)


@pytest.mark.parametrize("path", ["/", "/w", "/ws", "/wsx", "/elsewhere/ws/foo", "/WS/foo"])
async def test_unknown_path(path, caplog):
    """A path that is not under WEBSOCKET_URL is refused before a consumer sees it."""
    accepted, code = await connect(router, path)
    assert (accepted, code) == (False, 1000)
    (record,) = caplog.records
    assert record.message.startswith(
        f"Refused the socket '{path}': '{path}' does not begin with WEBSOCKET_URL, '/ws/'; "
    )


async def test_websocket_url(settings):
    """WEBSOCKET_URL is read for every socket, and may be without its slashes."""
    settings.WEBSOCKET_URL = "live/"
    assert await connect(Router(routes()), "/live/foo") == (True, "foo")
    settings.WEBSOCKET_URL = "/stream"
    assert await connect(Router(routes()), "/stream/foo") == (True, "/foo")
    assert (await connect(Router(routes()), "/ws/foo"))[0] is False


async def test_errors_pass():
    """An error of the application itself is no unknown path."""
    with pytest.raises(ValueError, match="No route found, or something else"):
        await connect(Router(routes(failing)), "/ws/foo")


async def test_in_a_router_of_the_project():
    """The patterns fit into a project's own URLRouter, beside its routes."""
    mine = URLRouter([path("mine/", accepting), *routes()])
    assert await connect(mine, "/mine/") == (True, None)
    assert await connect(mine, "/ws/foo") == (True, "foo")


async def test_nested_router():
    """Inside another router an unknown path is refused as well."""
    nested = URLRouter([path("", Router(routes()))])
    assert await connect(nested, "/ws/foo") == (True, "foo")
    assert (await connect(nested, "/elsewhere"))[0] is False


OWN_ROUTES = [
    (path("live/<path:facility>", WS4RedisConsumer.as_asgi()), "/live/a/b", "a/b"),
    (path("live/<int:facility>", WS4RedisConsumer.as_asgi()), "/live/7", "7"),
    (path("live/", WS4RedisConsumer.as_asgi(), {"facility": "news"}), "/live/", "news"),
    (re_path("^ws/", WS4RedisConsumer.as_asgi()), "/ws/a/b", "a/b"),
    (path("app/", URLRouter(websocket_urlpatterns)), "/app/ws/a/b", "a/b"),
    (path("app/", Router(websocket_urlpatterns)), "/app/ws/a/b", "a/b"),
    (re_path(r"^(?P<facility>\w+)/", URLRouter(websocket_urlpatterns)), "/app/ws/a/b", "a/b"),
    (path("<slug:site>/<path:facility>", WS4RedisConsumer.as_asgi()), "/app/ws/x", "ws/x"),
]


@pytest.mark.parametrize(("route", "url", "facility"), OWN_ROUTES)
@pytest.mark.parametrize("root_path", ["", "/site"])
async def test_a_route_of_the_project(redis_client, route, url, facility, root_path):
    """The socket hears the facility that was matched, wherever the route is, and no other."""
    socket = WebsocketCommunicator(URLRouter([route]), f"{root_path}{url}?subscribe-broadcast")
    socket.scope["root_path"] = root_path
    assert (await socket.connect(10))[0]
    assert redis_client.pubsub_channels("broadcast:*") == [f"broadcast:{facility}".encode()]
    await socket.disconnect()


@pytest.mark.parametrize(
    ("route", "url"),
    [
        (path("live/<path:room>", WS4RedisConsumer.as_asgi()), "/live/foo"),
        (path("live/", WS4RedisConsumer.as_asgi()), "/live/"),
        (path("app/", URLRouter([re_path("^ws/", WS4RedisConsumer.as_asgi())])), "/app/ws/foo"),
    ],
)
async def test_a_route_of_the_project_without_a_facility(caplog, route, url):
    """A socket on no facility would hear nothing, and say so nowhere; this one says it."""
    assert not (await connect(URLRouter([route]), f"{url}?subscribe-broadcast"))[0]
    assert f"Refused the socket '{url}': PermissionDenied: its route has no facility" in caplog.text


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": "testserver"}, True),
        ({"host": "testserver", "origin": "http://testserver"}, True),
        ({"host": "testserver", "origin": "http://evil.example"}, False),
        ({"host": "evil.example", "origin": "http://evil.example"}, False),
    ],
)
@pytest.mark.parametrize("entrance", [router, URLRouter(websocket_urlpatterns)])
async def test_origin(entrance, headers, allowed):
    """A page of a foreign origin is refused, whichever piece a project has taken."""
    assert (await connect(entrance, "/ws/foo?subscribe-broadcast", **headers))[0] is allowed


async def test_a_project_may_check_origins_itself():
    """By saying so where it routes to the consumer."""
    consumer = WS4RedisConsumer.as_asgi(check_origin=False)
    headers = {"host": "testserver", "origin": "http://evil.example"}
    assert (await connect(Router(routes(consumer)), "/ws/foo", **headers))[0]


@given(st.text())
def test_pattern(facility):
    """The pattern takes any facility, and its regular expression takes what has no line break."""
    pattern = FacilityPattern()
    assert pattern.match(f"ws/{facility}") == ("", (), {"facility": facility})
    if "\n" not in facility:
        assert pattern.regex.match(f"ws/{facility}")["facility"] == facility
    assert str(pattern) == "ws/"
