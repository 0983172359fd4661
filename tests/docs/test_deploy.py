"""What the page on deployment starts serves: web servers in front of real servers, and these."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import django
import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.sync.client import connect as connect_in_thread

from testproject.embedded import find_free_port
from tests.browser import give_up
from tests.conftest import Serve
from tests.docs.blocks import Block, read_page
from tests.docs.project import Project, Worker, listens
from tests.processes import connections
from tests.servers import COMMANDS, PATIENCE, ROOT, AsgiServer

#: Seconds between two looks at whether a web server listens.
POLL = 0.05

pytestmark = pytest.mark.server

PAGE = read_page(ROOT / "docs" / "howto" / "deploy.md", ROOT)

#: The static file whose type some servers get wrong.
MODULE = ROOT / "channels_ws4redis" / "static" / "js" / "ws4redis.mjs"

#: Seconds of silence after which nginx closes a connection here: more than a heartbeat, and less
#: than the pings of the server.
IDLE = 6

AROUND = """
daemon off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 64; }}
http {{
    include /etc/nginx/mime.types;
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    proxy_read_timeout {idle};
    {page}
}}
"""

#: Without what Caddy does beside serving: an interface for its own commands, and port 80.
AROUND_CADDY = """
{{
    admin off
    auto_https disable_redirects
}}
{page}
"""

#: Where Debian has nginx, which an ordinary user's PATH leaves out.
PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin"


class Front(NamedTuple):
    """A web server with TLS, and the servers behind it."""

    port: int
    servers: list[AsgiServer]

    @property
    def origin(self) -> str:
        """What a browser sends as the origin of the site's pages."""
        return f"https://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[bytes, str]:
        """Fetch a page by HTTPS, and return it with its type."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting())
        )
        with opener.open(self.origin + path, timeout=PATIENCE) as response:
            return response.read(), response.headers["Content-Type"]

    @asynccontextmanager
    async def socket(self, origin: str, path: str = "/ws/front?subscribe-broadcast"):
        """Open a socket from a page of an origin."""
        url = f"wss://127.0.0.1:{self.port}{path}"
        async with connect(url, origin=origin, ssl=trusting(), proxy=None) as socket:
            yield socket


def trusting() -> ssl.SSLContext:
    """Return a context that believes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def configuration(language: str, replacements: dict[str, str], index: int = 0) -> str:
    """Return a configuration of the page with its names replaced; each must be there."""
    text = [block for block in PAGE.blocks if block.language == language][index].text
    for old, new in replacements.items():
        assert old in text, f"the configuration no longer has {old!r}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate with its key, in one file.

    It names the address, or Caddy makes one of its own, and listens before it has it.
    """
    path = tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=front"]
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command, *name, "-keyout", str(path), "-out", str(tmp_path / "crt.pem")],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + (tmp_path / "crt.pem").read_text())
    return path


@contextmanager
def run_front(command: list[str], port: int, servers: list[AsgiServer], folder: Path):
    """Run a web server as an ordinary user, from when it listens."""
    program = shutil.which(command[0], path=PROGRAMS)
    if program is None:
        give_up(f"{command[0]} is not installed")
    log = folder / "front.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *command[1:]],
            cwd=folder,
            env=os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    front = Front(port, servers)
    try:
        deadline = time.monotonic() + PATIENCE
        while not listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(POLL)
        yield front
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


@pytest.fixture(params=["nginx", "caddy"])
def front(
    request: pytest.FixtureRequest, serve: Serve, certificate: Path, tmp_path: Path
) -> Iterator[Front]:
    """One of the page's web servers, before two daphnes."""
    settings = {
        "WS4REDIS_HEARTBEAT": "--heartbeat--",
        "SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"],
    }
    servers = [serve("daphne", settings=settings) for _ in range(2)]
    port = find_free_port()
    replacements = {
        "127.0.0.1:8001": f"127.0.0.1:{servers[0].port}",
        "127.0.0.1:8002": f"127.0.0.1:{servers[1].port}",
        "/srv/mysite/static": str(ROOT / "channels_ws4redis" / "static"),
    }
    if request.param == "nginx":
        replacements |= {
            "listen 80;": f"listen 127.0.0.1:{find_free_port()};",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "/etc/ssl/certs/example.com.pem": str(certificate),
            "/etc/ssl/private/example.com.key": str(certificate),
        }
        command = in_nginx(configuration("nginx", replacements), tmp_path)
    else:
        site = f"https://127.0.0.1:{port} {{\n\ttls {certificate} {certificate}"
        page = configuration("caddy", {"example.com {": site} | replacements)
        (tmp_path / "Caddyfile").write_text(AROUND_CADDY.format(page=page))
        command = ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
    with run_front(command, port, servers, tmp_path) as running:
        yield running


def in_nginx(page: str, folder: Path) -> list[str]:
    """Write a configuration with what has to be around it; returns the command."""
    (folder / "nginx.conf").write_text(AROUND.format(page=page, idle=IDLE))
    return ["nginx", "-p", str(folder), "-c", "nginx.conf"]


async def test_a_web_server_serves_pages_files_and_the_sockets_of_its_own_pages(
    front: Front,
) -> None:
    """What is configured is enough for pages, modules and sockets, and lets no others in."""
    script, kind = front.get("/static/js/ws4redis.mjs")
    assert script == MODULE.read_bytes()
    assert kind.split(";")[0] == "text/javascript"
    assert front.get("/")[1].startswith("text/html")
    async with front.socket(front.origin) as socket:
        assert await socket.recv() == "--heartbeat--"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with front.socket("https://elsewhere.example.com"):
            pass
    assert refused.value.response.status_code == 403


async def test_a_quiet_socket_stays_open_and_new_ones_find_the_server_that_still_runs(
    front: Front,
) -> None:
    """Heartbeats keep a socket, and the stop of one server turns nobody away."""
    async with front.socket(front.origin) as socket:
        begun = time.monotonic()
        while time.monotonic() - begun < IDLE + 2:
            assert await socket.recv() == "--heartbeat--"
    front.servers[0].stop()
    for _ in range(4):
        async with front.socket(front.origin) as socket:
            assert await socket.recv() == "--heartbeat--"


async def test_a_server_that_was_restarted_gets_the_new_sockets(front: Front) -> None:
    """Until it has as many as the other one; the other one has them meanwhile."""
    restarted = front.servers[0]
    restarted.stop()
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(front.socket(front.origin))
        restarted.start()
        await asyncio.sleep(1)  # for which Caddy leaves it out
        for _ in range(4):
            await stack.enter_async_context(front.socket(front.origin))
        shares = [connections(server.process.pid, near=[server.port]) for server in front.servers]
    assert shares == [4, 4]


#: The ways to serve a project below a path: its configuration of nginx on the page, the options of
#: the server, and the settings.
BELOW = {
    "daphne --root-path": (1, ["--root-path", "/app"], {}),
    "uvicorn --root-path": (2, ["--root-path", "/app"], {}),
    "uvicorn": (2, [], {"FORCE_SCRIPT_NAME": "/app"}),
    "daphne": (1, [], {"FORCE_SCRIPT_NAME": "/app", "WEBSOCKET_URL": "/app/ws/"}),
}


@pytest.mark.parametrize("way", BELOW)
async def test_a_project_below_a_path_is_served_with_its_sockets(
    serve: Serve, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """In each of the page's ways, a page there opens its socket there."""
    index, options, below = BELOW[way]
    if "WEBSOCKET_URL" in below and django.VERSION < (5, 0):
        pytest.skip("the page says so")
    monkeypatch.setitem(COMMANDS, way, [*COMMANDS[way.partition(" ")[0]], *options])
    server = serve(way, settings=below | {"WS4REDIS_HEARTBEAT": "--heartbeat--"})
    port, replaced = find_free_port(), f"127.0.0.1:{8000 + index}"
    location = configuration("nginx", {replaced: f"127.0.0.1:{server.port}"}, index)
    page = (
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificate};"
        f"ssl_certificate_key {certificate};\n{location} }}"
    )
    with run_front(in_nginx(page, tmp_path), port, [server], tmp_path) as front:
        html, _ = front.get("/app/test/page/listen")
        address = re.search(rb'data-ws4redis-uri="([^"]+)"', html)
        assert address, html
        async with front.socket(front.origin, address[1].decode().replace("&amp;", "&")) as socket:
            assert await socket.recv() == "--heartbeat--"


PUBLISH = """
from channels_ws4redis.publisher import RedisPublisher

RedisPublisher(facility="front", broadcast=True).publish_message("Hello", expire=0)
"""

#: As many as it takes for each of a server's processes to have some.
SOCKETS = 8


@pytest.mark.parametrize(
    ("command", "port", "code"),
    [("daphne -b", 8001, 1001), ("uvicorn --port", 8002, 1012), ("gunicorn -b", 8001, 1012)],
)
def test_a_server_serves_files_and_sockets_and_closes_them_when_it_stops(
    command: str, port: int, code: int, tmp_path: Path, base: Path, worker: Worker
) -> None:
    """Every server that the page starts serves all that a project needs, static files included."""
    with Project(tmp_path, base, worker, PAGE) as project, ExitStack() as stack:
        for block in blocks_until(f"$ {command}"):
            project.do(block)
        request = urllib.request.Request(
            project.url("/static/js/ws4redis.mjs", port), headers={"Host": "example.com"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            assert response.read() == MODULE.read_bytes()
            assert response.headers.get_content_type() == "text/javascript"
        url = f"ws://127.0.0.1:{project.port(port)}/ws/front?subscribe-broadcast"
        sockets = [stack.enter_context(connect_in_thread(url, proxy=None)) for _ in range(SOCKETS)]
        assert worker.do("python", project.folder, source=PUBLISH, setup="", page="test")[0] == 0
        assert [socket.recv(PATIENCE) for socket in sockets] == ["Hello"] * SOCKETS
        project.stop(project.port(port))
        for socket in sockets:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                socket.recv(PATIENCE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code


def blocks_until(text: str) -> list[Block]:
    """Return the page's blocks down to the first one with a text."""
    last = next(index for index, block in enumerate(PAGE.blocks) if text in block.text)
    return list(PAGE.blocks[: last + 1])
