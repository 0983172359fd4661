"""The straight way to the wire, where a server has its connections from somebody else.

Somebody else opens the listening socket, or the server does and hands it to its workers; a web
server stands in front; or the server does TLS. Clients do there what honest ones do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from websockets.asyncio.client import connect

from channels_ws4redis.publisher import RedisPublisher
from testproject.embedded import find_free_port
from tests.docs.project import listens
from tests.docs.test_deploy import in_nginx, run_front
from tests.fuzz.found import opening
from tests.fuzz.frames import TEXT, frame
from tests.fuzz.watch import LOGGING, errors
from tests.processes import children, connections, wait_until
from tests.servers import PATIENCE, ROOT
from tests.silent import forget_peak, peak
from tests.site.streams import Order
from tests.streams import Stream
from tests.test_straight import LARGE, certificate, check, trusting  # noqa: F401 # two are fixtures

pytestmark = pytest.mark.server

DAPHNE = ["daphne", "--ping-timeout", "600"]
UVICORN = ["uvicorn", "--timeout-graceful-shutdown", "5", "--ws-ping-timeout", "600"]
UVICORN += ["--ws", "websockets-sansio"]

#: The options of a server by the way in which it gets its connections.
WAYS = {
    "daphne --fd": [*DAPHNE, "--fd", "{fd}"],
    "uvicorn --fd": [*UVICORN, "--fd", "{fd}", "--loop", "uvloop"],
    "uvicorn --fd, asyncio": [*UVICORN, "--fd", "{fd}", "--loop", "asyncio"],
    "uvicorn --fd, wsproto": [*UVICORN[:-1], "wsproto", "--fd", "{fd}"],
    "uvicorn --workers": [*UVICORN, "--port", "{port}", "--workers", "2"],
    "uvicorn --workers, asyncio": [
        *(*UVICORN, "--port", "{port}", "--workers", "2", "--loop", "asyncio")
    ],
    "uvicorn --fd --workers": [*UVICORN, "--fd", "{fd}", "--workers", "2"],
    "daphne with TLS": [
        *("daphne", "-e", "ssl:{port}:interface=127.0.0.1:privateKey={pem}:certKey={pem}")
    ],
    "uvicorn with TLS": [*UVICORN, "--port", "{port}", "--ssl-certfile", "{pem}"],
    "daphne behind nginx": [*DAPHNE, "-p", "{port}"],
    "uvicorn behind nginx": [*UVICORN, "--port", "{port}"],
}

#: Text that fills what the system and a server hold for a client.
LARGE_TEXT = "x" * (2**20 - 10)


class Tls(NamedTuple):
    """A certificate with its key, and what a client trusts."""

    pem: Path
    context: ssl.SSLContext


class Site(NamedTuple):
    """A server, and the way to it."""

    port: int
    #: Where the server itself has its connections.
    own_port: int
    tls: ssl.SSLContext | None
    process: subprocess.Popen[bytes]
    path: Path

    @property
    def log(self) -> str:
        """What the server has printed."""
        return self.path.read_text(errors="replace")

    @property
    def pids(self) -> list[int]:
        """The processes that serve."""
        return children(self.process.pid) or [self.process.pid]

    def opened(self, path: str, *headers: str) -> socket.socket:
        """Open a socket with little room for what it does not read."""
        bare = socket.socket()
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bare.settimeout(20)
        bare.connect(("127.0.0.1", self.port))
        found = bare if self.tls is None else self.tls.wrap_socket(bare)
        found.sendall(opening(*headers, path=path))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += found.recv(1)
        assert b" 101 " in answer, answer
        return found


@contextlib.contextmanager
def running(
    way: str, application: str, folder: Path, pem: Path, environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a server until the end of the block, from when it listens; yields its port too."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        values = {"fd": listener.fileno(), "port": find_free_port(), "pem": pem}
        is_handed = "--fd" in way
        port = listener.getsockname()[1] if is_handed else values["port"]
        if not is_handed:
            listener.close()
        command = [part.format_map(values) for part in WAYS[way]]
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, application],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'testproject'}"} | environment,
                pass_fds=[listener.fileno()] if is_handed else [],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: listens(port) or process.poll() is not None)
            yield process, port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


@contextlib.contextmanager
def site(way: str, application: str, folder: Path, tls: Tls, **environment: str) -> Iterator[Site]:
    """Run a server, and what stands in front of it."""
    with (
        running(way, application, folder, tls.pem, environment) as (process, own_port),
        contextlib.ExitStack() as stack,
    ):
        port = own_port
        if "nginx" in way:
            port = find_free_port()
            page = (
                f"server {{ listen 127.0.0.1:{port}; location / {{"
                f"proxy_pass http://127.0.0.1:{own_port}; proxy_http_version 1.1;"
                "proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;"
                'proxy_set_header Connection "upgrade"; }}'
            )
            stack.enter_context(run_front(in_nginx(page, folder), port, [], folder))
        context = tls.context if "TLS" in way else None
        yield Site(port, own_port, context, process, folder / "server.log")


@pytest.fixture(scope="module")
def tls(certificate, trusting) -> Tls:  # noqa: F811 # fixtures
    return Tls(certificate, trusting)


@pytest.fixture(scope="module", params=WAYS)
def stream_site(request, tmp_path_factory, tls) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("front")
    with site(request.param, "tests.site.streams:application", folder, tls) as found:
        yield found


@pytest.mark.parametrize("order", [Order(), LARGE], ids=["small", "large"])
def test_messages_are_whole_and_in_order(stream_site: Site, order: Order) -> None:
    """Whichever way each of them takes, and however slowly the client reads large ones."""
    slow = order.top > 10_000
    check(Stream(stream_site.port, order, tls=stream_site.tls, slow=slow), order)


@pytest.fixture(params=WAYS)
def real_site(request, tmp_path, tls, redis_url, database) -> Iterator[Site]:
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.site.settings",
        "WS4REDIS_TEST_SETTINGS": json.dumps({"LOGGING": LOGGING, "WS4REDIS_CLOSE_WINDOW": 0.5}),
        "WS4REDIS_TEST_LAYER": "redis",
        "WS4REDIS_TEST_DATABASE": str(database),
        "REDIS_URL": redis_url,
    }
    application = "tests.site.asgi:application"
    with site(request.param, application, tmp_path, tls, **environment) as found:
        yield found


def publish(text: str) -> None:
    """Publish to all that a test has opened."""
    RedisPublisher(facility="front", broadcast=True).publish_message(text, expire=0)


def honest(found: Site, compressed: bool = False) -> connect:
    """Open a socket that reads all there is."""
    scheme = "ws" if found.tls is None else "wss"
    return connect(
        f"{scheme}://127.0.0.1:{found.port}/ws/front?subscribe-broadcast",
        ssl=found.tls,
        compression="deflate" if compressed else None,
        max_size=None,
        proxy=None,
        open_timeout=PATIENCE,
    )


def test_a_message_does_not_wait_until_the_client_has_confirmed_the_last_one(
    real_site: Site,
) -> None:
    """As it would for 40 ms with Nagle's algorithm; this client confirms as late as it may."""
    waits = []
    with real_site.opened("/ws/front?subscribe-broadcast") as client:
        for _ in range(20):
            for text in ("first", "second"):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
                begun = time.monotonic()
                publish(text)
                expected = frame(TEXT, text.encode(), masked=False)
                assert client.recv(len(expected)) == expected
            waits.append(time.monotonic() - begun)
    assert statistics.median(waits) < 0.02


def reset(connection: socket.socket) -> None:
    """Go without a word; what is under way is lost."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def hostile(found: Site) -> Iterator[socket.socket]:
    """Open sockets of clients of every kind; each reads nothing but what is said here."""
    path = "/ws/front?subscribe-broadcast&publish-broadcast"
    pack = "Sec-WebSocket-Extensions: permessage-deflate"
    for number in range(20):
        yield found.opened(path, *([pack] if number % 2 else []))
    for _ in range(5):  # has sent the half of a frame, and the other half never comes
        client = found.opened(path)
        client.sendall(frame(TEXT, b"x" * 10, size=1000))
        yield client
    for _ in range(5):
        client = found.opened(path)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        yield client


async def test_hostile_clients_cost_nobody_else_anything(real_site: Site) -> None:
    """Nor much memory, nor connections that nobody has any more, nor an error in the log."""
    path = "/ws/front?subscribe-broadcast&publish-broadcast"
    async with (
        honest(real_site) as plain,
        honest(real_site, compressed=True) as packed,
        contextlib.AsyncExitStack() as stack,
    ):

        def open_connections() -> int:
            return sum(connections(pid, near=[real_site.own_port]) for pid in real_site.pids)

        crowd = await asyncio.to_thread(lambda: list(hostile(real_site)))
        for client in crowd:
            stack.callback(client.close)
        for pid in real_site.pids:
            forget_peak(pid)
        before = sum(map(peak, real_site.pids))
        for number in range(20):
            leaving = await asyncio.to_thread(real_site.opened, path)
            for text in (f"{number}", LARGE_TEXT + str(number)):
                await asyncio.to_thread(publish, text)
                if text == str(number):
                    # In the middle of what it sends, and of what it is sent.
                    leaving.sendall(frame(TEXT, b"x", size=1000))
                for socket_ in (plain, packed):
                    async with asyncio.timeout(PATIENCE):
                        assert await socket_.recv() == text
            await asyncio.to_thread(leaving.recv, 1000)
            reset(leaving)
        grown = sum(map(peak, real_site.pids)) - before
        assert real_site.log.count("reads too slowly") >= 10
        for client in crowd:
            reset(client)
        await asyncio.to_thread(wait_until, lambda: open_connections() <= 2)
        publish("end")
        assert [await plain.recv(), await packed.recv()] == ["end", "end"]
    assert grown < 100e6
    assert not errors(real_site.log)
