"""The scope of a further subscription: that of its socket, with another facility."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied

from channels_ws4redis.handshake.derived import derive, path_for
from channels_ws4redis.handshake.requests import WebSocketRequest


def scope(**more: Any) -> dict[str, Any]:
    """Return that of a socket on the facility foo."""
    return {
        "type": "websocket",
        "path": "/ws/foo",
        "raw_path": b"/ws/foo",
        "query_string": b"subscribe-user&token=abc",
        "headers": [(b"cookie", b"sessionid=1")],
        "user": "whoever",
        "url_route": {"args": (), "kwargs": {"facility": "foo"}},
    } | more


@pytest.mark.parametrize("name", ["", "orders/7", "ä ☃", "a%2Fb", "?x#y", "../x", "/x"])
def test_it_is_that_of_a_socket_of_its_own(name: str) -> None:
    """Whatever looks at the request finds the facility, and the user as before."""
    found = derive(scope(), name, ["subscribe-broadcast", "echo"]).scope()
    request = WebSocketRequest(found)
    assert (request.facility, request.path) == (name, f"/ws/{name}")
    assert path_for(scope(), name) == f"/ws/{name}"
    assert request.COOKIES == {"sessionid": "1"}
    assert list(request.GET.items()) == [
        ("subscribe-broadcast", ""),
        ("echo", ""),
        ("token", "abc"),
    ]
    assert found["user"] == "whoever"
    assert found["raw_path"].isascii()


def test_no_flag_of_the_socket_is_taken_over() -> None:
    """However it is spelt; and what a client writes among the flags stays one."""
    query = b"SUBSCRIBE-user&%65cho=1&publish-x&+echo+&&a=b&subscribe-group=%26"
    found = derive(scope(query_string=query), "bar", ["x=1&subscribe-user"]).scope()
    assert found["query_string"] == b"x%3D1%26subscribe-user&a=b"


@pytest.mark.parametrize(
    ("root_path", "url", "path"),
    [
        ("/app", "/ws/", "/app/ws/foo"),
        ("/app", "/app/ws/", "/app/ws/foo"),
        ("", "/", "/foo"),
        ("", "/ws/foo", "/ws/foofoo"),
    ],
)
def test_a_project_below_a_path(settings, root_path: str, url: str, path: str) -> None:
    """The new path is below it too."""
    settings.WEBSOCKET_URL = url
    found = derive(scope(root_path=root_path, path=path), "bar", []).scope()
    assert found["path"] == path.removesuffix("foo") + "bar"


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "/ws/live/foo"},
        {"path": "/ws/bar"},
        {"path": "/news/", "url_route": {"args": (), "kwargs": {"facility": "foo"}}},
        {"path": "/ws/7", "url_route": {"args": (), "kwargs": {"facility": 7}}},
        {"url_route": {"args": ("foo",), "kwargs": {}}},
        {"url_route": {}},
    ],
    ids=["longer", "another", "default", "number", "positional", "none"],
)
def test_a_route_of_the_project(wrong: dict[str, Any]) -> None:
    """It may mean anything by its path."""
    with pytest.raises(PermissionDenied, match="route of the project's own"):
        derive(scope(**wrong), "bar", [])
