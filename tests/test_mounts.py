"""A project below a path, on real servers: the page's own address leads to its facility."""

from __future__ import annotations

import re
from html import unescape
from typing import Any, NamedTuple

import django
import pytest

from tests.clients import END, Visitor
from tests.conftest import Serve
from tests.servers import COMMANDS, AsgiServer

pytestmark = pytest.mark.server

FORCE = {"FORCE_SCRIPT_NAME": "/app"}


class Mount(NamedTuple):
    """How a project comes to be below /app."""

    options: list[str] = []  # noqa: RUF012 # never changed
    settings: dict[str, Any] = {}  # noqa: RUF012
    #: True if the proxy takes /app off.
    strips: bool = False
    application: str = "tests.site.asgi"


ROOT_PATH = ["--root-path", "/app"]
WITH = {"WEBSOCKET_URL": "/app/ws/"}

MOUNTS = {
    "daphne-root": Mount(ROOT_PATH),
    "daphne-root-with": Mount(ROOT_PATH, WITH),
    "daphne-runserver": Mount(ROOT_PATH, FORCE),
    "daphne-runserver-with": Mount(ROOT_PATH, FORCE | WITH),
    "uvicorn-root": Mount(ROOT_PATH, {}, strips=True),
    "uvicorn-root-with": Mount(ROOT_PATH, WITH, strips=True),
    "uvicorn-root-force": Mount(ROOT_PATH, FORCE, strips=True),
    "daphne-force": Mount([], FORCE, strips=True),
    "daphne-force-relative": Mount([], FORCE | {"WEBSOCKET_URL": "ws/"}, strips=True),
    "uvicorn-force": Mount([], FORCE, strips=True),
    "daphne-force-with": Mount([], FORCE | WITH),
    "uvicorn-force-with": Mount([], FORCE | WITH),
    "daphne-mount": Mount(application="tests.site.mounted"),
    "uvicorn-mount": Mount(application="tests.site.mounted"),
    "daphne-pieces": Mount(ROOT_PATH, application="tests.site.pieces"),
    "uvicorn-pieces": Mount(ROOT_PATH, strips=True, application="tests.site.pieces"),
}


def start(name: str, mount: Mount, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> AsgiServer:
    """Start the server of a mount."""
    kind = name.partition("-")[0]
    monkeypatch.setitem(COMMANDS, name, [*COMMANDS[kind], *mount.options])
    return serve(name, settings=mount.settings, application=f"{mount.application}:application")


@pytest.mark.parametrize("name", MOUNTS)
async def test_a_page_below_a_path_opens_its_socket(serve: Serve, monkeypatch, name: str) -> None:
    """On the facility that it names, and on no other path."""
    mount = MOUNTS[name]
    if "force-with" in name and django.VERSION < (5, 0):
        pytest.skip("such pages are not found by Django itself")
    server = start(name, mount, serve, monkeypatch)
    prefix = "" if mount.strips else "/app"
    visitor = Visitor(server)
    page = visitor.request(f"{prefix}/test/page/listen?facility=a/b").body.decode()
    address = unescape(re.findall(r'data-ws4redis-uri="([^"]*)"', page)[0])
    assert address == "/app/ws/a/b?subscribe-broadcast"
    legacy = visitor.request(f"{prefix}/test/page/legacy").body.decode()
    assert "/app/ws/" in legacy
    arrives = prefix + address.removeprefix("/app")
    async with visitor.socket(arrives) as socket:
        body = {"to": {"facility": "a/b", "broadcast": True}, "messages": [END]}
        await visitor.arequest(f"{prefix}/test/publish", body)
        assert await socket.receive() == END
    if mount.application != "tests.site.pieces":  # Channels' own router ends with a traceback
        again = "/app" + arrives
        assert await visitor.refused(again) == 403
        assert server.says("does not begin with WEBSOCKET_URL")


REFUSED = {
    "daphne-root-stripped": (
        Mount(ROOT_PATH),
        "/ws/foo",
        "does not begin with the server's root path, '/app/'; have the proxy pass",
    ),
    "daphne-force-passed-on": (
        Mount([], FORCE),
        "/app/ws/foo",
        "'/app/ws/foo' does not begin with WEBSOCKET_URL, '/ws/'; if a proxy passes",
    ),
    "uvicorn-force-with-stripped": (
        Mount([], FORCE | WITH),
        "/ws/foo",
        "'/ws/foo' does not begin with WEBSOCKET_URL, '/app/ws/'",
    ),
    "uvicorn-root-passed-on": (
        Mount(ROOT_PATH),
        "/app/ws/foo",
        "'/app/ws/foo' does not begin with WEBSOCKET_URL, '/ws/'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_does_not_fit_is_refused_with_a_line(
    serve: Serve, monkeypatch, name: str
) -> None:
    """The line names the path, and what to change."""
    mount, path, line = REFUSED[name]
    server = start(name, mount, serve, monkeypatch)
    assert await Visitor(server).refused(f"{path}?subscribe-broadcast") == 403
    assert server.says(line)


@pytest.mark.parametrize("options", [[], ROOT_PATH])
async def test_a_header_of_the_proxy_counts_if_the_server_says_the_same(
    serve: Serve, monkeypatch, options: list[str]
) -> None:
    """Otherwise a client may have written it."""
    server = start("daphne-header", Mount(options), serve, monkeypatch)
    visitor, header = Visitor(server), {"Daphne-Root-Path": "/app"}
    if options:
        async with visitor.socket("/app/ws/foo?subscribe-broadcast", **header):
            return
    assert await visitor.refused("/app/ws/foo?subscribe-broadcast", **header) == 403
    assert server.says("start daphne with --root-path, and have the proxy drop that header")
