"""The web server's configuration of the page on deployment, in front of real servers."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import websockets
from websockets.asyncio.client import connect

from testproject.embedded import find_free_port
from tests.servers import PATIENCE, ROOT, AsgiServer

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None
        and not os.environ.get("CI"),
        reason="nginx is not installed",
    ),
]

PAGE = ROOT / "docs" / "howto" / "deploy.md"

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


class Front(NamedTuple):
    """Nginx with TLS, and the servers behind it."""

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
    async def socket(self, origin: str):
        """Open a socket from a page of an origin."""
        url = f"wss://127.0.0.1:{self.port}/ws/front?subscribe-broadcast"
        async with connect(url, origin=origin, ssl=trusting(), proxy=None) as socket:
            yield socket


def trusting() -> ssl.SSLContext:
    """Return a context that believes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def configuration(replacements: dict[str, str]) -> str:
    """Return the page's first nginx block with its names replaced; each must be there."""
    block = re.search(r"^```nginx\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    text = block[1]
    for old, new in replacements.items():
        assert old in text, f"the configuration no longer has {old!r}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate with its key, in one file."""
    path = tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=front"]
    subprocess.run(
        [*command, "-keyout", str(path), "-out", str(tmp_path / "crt.pem")],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + (tmp_path / "crt.pem").read_text())
    return path


@pytest.fixture
def front(serve, certificate: Path, tmp_path: Path) -> Iterator[Front]:
    """The page's nginx, as an ordinary user, before two daphnes."""
    settings = {
        "WS4REDIS_HEARTBEAT": "--heartbeat--",
        "SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"],
    }
    servers = [serve("daphne", settings=settings) for _ in range(2)]
    port = find_free_port()
    page = configuration(
        {
            "listen 80;": f"listen 127.0.0.1:{find_free_port()};",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "127.0.0.1:8001": f"127.0.0.1:{servers[0].port}",
            "127.0.0.1:8002": f"127.0.0.1:{servers[1].port}",
            "/etc/ssl/certs/example.com.pem": str(certificate),
            "/etc/ssl/private/example.com.key": str(certificate),
            "/srv/mysite/static/": f"{ROOT / 'channels_ws4redis' / 'static'}/",
        }
    )
    (tmp_path / "nginx.conf").write_text(AROUND.format(page=page, idle=IDLE))
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    process = subprocess.Popen(
        [shutil.which("nginx", path=path) or "nginx", "-p", str(tmp_path), "-c", "nginx.conf"],
        stderr=subprocess.PIPE,
    )
    front = Front(port, servers)
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(front):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline, (tmp_path / "error.log").read_text()
        yield front
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def answers(front: Front) -> bool:
    """Tell whether nginx has begun to listen."""
    try:
        front.get("/static/js/ws4redis.js")
    except OSError:
        return False
    return True


async def test_the_pages_nginx_serves_pages_files_and_the_sockets_of_its_own_pages(
    front: Front,
) -> None:
    script, kind = front.get("/static/js/ws4redis.mjs")
    assert script == (ROOT / "channels_ws4redis/static/js/ws4redis.mjs").read_bytes()
    assert kind == "text/javascript"
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
    async with front.socket(front.origin) as socket:
        begun = time.monotonic()
        while time.monotonic() - begun < IDLE + 2:
            assert await socket.recv() == "--heartbeat--"
    front.servers[0].stop()
    for _ in range(4):
        async with front.socket(front.origin) as socket:
            assert await socket.recv() == "--heartbeat--"
