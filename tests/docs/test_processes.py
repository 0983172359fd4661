"""Every way of the page on several processes shares sockets out, and a restart loses nothing."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import websockets
from websockets.asyncio.client import connect

from channels_ws4redis.publisher import RedisPublisher
from testproject.embedded import find_free_port
from tests.browser import give_up
from tests.clients import Visitor
from tests.conftest import Serve
from tests.docs import test_deploy as deploy
from tests.docs.blocks import Block, read_page
from tests.docs.project import Project, Worker, listens
from tests.docs.test_deploy import certificate  # noqa: F401 # a fixture
from tests.processes import children, connections, wait_until
from tests.servers import PATIENCE, ROOT
from tests.torture.client import TortureClient
from tests.torture.oracle import Facility, Ledger, Tally

pytestmark = pytest.mark.server

PAGE = read_page(ROOT / "docs" / "howto" / "processes.md", ROOT)

#: Where the page has the programs of a project.
VENV = "/srv/mysite/venv/bin/"

#: Clients, and how many more there may be until each process has one.
CLIENTS, MOST_CLIENTS = 12, 100

#: Seconds between two messages, and between two who try to get in.
PAUSE = 0.05


class Site(NamedTuple):
    """Two processes that serve one site."""

    #: Where sockets are opened.
    url: str
    #: Where the processes themselves have them.
    ports: list[int]
    #: Returns the numbers of the processes that serve at the moment.
    processes: Callable[[], list[int]]
    #: Replaces one process after the other, and returns when all are new.
    restart: Callable[[], None]


class Following(NamedTuple):
    """What a way is tried with: the page's project, and where to put things."""

    project: Project
    worker: Worker
    folder: Path
    certificate: Path


def the_block(text: str, blocks: tuple[Block, ...] = PAGE.blocks) -> Block:
    """Return the one block with a text."""
    (found,) = [block for block in blocks if text in block.text]
    return found


# The ways of the page


@contextlib.contextmanager
def a_port_each(following: Following) -> Iterator[Site]:
    """A daphne and a uvicorn behind nginx, as the page on deployment has it."""
    project, folder = following.project, following.folder
    blocks = {8001: the_block("$ daphne -b"), 8002: the_block("$ uvicorn --port 8002")}
    for block in blocks.values():
        project.do(block)
    ports, front = [project.port(number) for number in blocks], find_free_port()
    replacements = {
        "127.0.0.1:8001": f"127.0.0.1:{ports[0]}",
        "127.0.0.1:8002": f"127.0.0.1:{ports[1]}",
        "listen 80;": f"listen 127.0.0.1:{find_free_port()};",
        "listen 443 ssl;": f"listen 127.0.0.1:{front} ssl;",
        "/etc/ssl/certs/example.com.pem": str(following.certificate),
        "/etc/ssl/private/example.com.key": str(following.certificate),
    }
    command = deploy.in_nginx(deploy.configuration("nginx", replacements), folder)

    def restart() -> None:
        for port, block in zip(ports, blocks.values(), strict=True):
            project.stop(port)
            project.do(block)

    with deploy.run_front(command, front, [], folder):
        pids = lambda: [project.pid(port) for port in ports]  # noqa: E731
        yield Site(f"wss://127.0.0.1:{front}", ports, pids, restart)


def under_a_parent(following: Following, port: int) -> Site:
    """Processes of a parent that replaces them when it is told so."""
    own_port = following.project.port(port)
    parent = following.project.pid(own_port)

    def restart() -> None:
        old = set(children(parent))
        os.kill(parent, signal.SIGHUP)
        wait_until(lambda: len(new := set(children(parent))) == 2 and not old & new)

    return Site(f"ws://127.0.0.1:{own_port}", [own_port], lambda: children(parent), restart)


@contextlib.contextmanager
def workers(following: Following) -> Iterator[Site]:
    """Uvicorn's own."""
    assert unit("ExecReload=", following)["ExecReload"] == "/bin/kill -HUP $MAINPID"
    following.project.do(the_block("$ uvicorn --port 8003"))
    yield under_a_parent(following, 8003)


@contextlib.contextmanager
def gunicorn(following: Following) -> Iterator[Site]:
    """As the page on deployment starts it."""
    for text in ("class Worker(UvicornWorker)", "$ gunicorn -b"):
        following.project.do(the_block(text, deploy.PAGE.blocks))
    yield under_a_parent(following, 8001)


def unit(text: str, following: Following) -> configparser.SectionProxy:
    """Return the main section of a configuration of the page, with its programs being ours."""
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names keep their case
    source = the_block(text).text.replace(VENV, f"{Path(sys.executable).parent}/")
    parser.read_string(source.replace("\\\n", ""))
    return parser["Socket" if "[Socket]" in source else "Service"]


@contextlib.contextmanager
def by_systemd(following: Following, options: str = "") -> Iterator[Site]:
    """What systemd does with the page's units: it opens the socket, and starts each instance.

    :param options: of uvicorn, if that takes daphne's place.
    """
    host, _ = unit("ListenStream=127", following)["ListenStream"].split(":")
    command = unit("Sockets=", following)["ExecStart"]
    if options:
        program = Path(sys.executable).with_name("uvicorn")
        command = f"{program} --fd 3 {options} mysite.asgi:application"
    with socket.create_server((host, 0), backlog=100) as listener, contextlib.ExitStack() as stack:

        def start(number: int) -> subprocess.Popen[bytes]:
            log = stack.enter_context((following.folder / f"{number}.log").open("ab"))
            return subprocess.Popen(
                ["bash", "-c", f"exec 3<&{listener.fileno()}; exec {command}"],
                cwd=following.project.folder,
                env=following.worker.environment,
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=log,
            )

        def end(process: subprocess.Popen[bytes]) -> None:
            process.terminate()
            process.wait(PATIENCE)

        def restart() -> None:
            for number in (0, 1):
                end(running[number])
                running[number] = start(number)

        running = [start(0), start(1)]
        stack.callback(lambda: [end(process) for process in running])
        port = listener.getsockname()[1]
        pids = lambda: [process.pid for process in running]  # noqa: E731
        yield Site(f"ws://127.0.0.1:{port}", [port], pids, restart)


def uvicorn_by_systemd(following: Following) -> contextlib.AbstractContextManager[Site]:
    """Uvicorn in daphne's place."""
    options = "--ws-per-message-deflate false --timeout-graceful-shutdown 10"
    assert options in " ".join(unit("ExecReload=", following)["ExecStart"].split())
    return by_systemd(following, options)


SUPERVISORD = """
[supervisord]
nodaemon=true
{user}
[unix_http_server]
file=supervisor.sock

[supervisorctl]
serverurl=unix://supervisor.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

"""


@contextlib.contextmanager
def by_supervisor(following: Following) -> Iterator[Site]:
    """Supervisor itself, with the page's section."""
    program = Path(sys.executable).with_name("supervisord")
    if not program.exists():
        give_up("supervisor is not installed")
    port = find_free_port()
    section = the_block("[fcgi-program:mysite]").text
    for old, new in {
        "127.0.0.1:8001": f"127.0.0.1:{port}",
        VENV: f"{program.parent}/",
        "directory=/srv/mysite": f"directory={following.project.folder}",
        "user=www-data\n": "",
    }.items():
        assert old in section
        section = section.replace(old, new)
    path = following.folder / "supervisord.conf"
    path.write_text(SUPERVISORD.format(user="user=root" if os.geteuid() == 0 else "") + section)
    process = subprocess.Popen(
        [str(program), "-c", str(path)],
        cwd=following.folder,
        env=following.worker.environment,
        stdout=subprocess.DEVNULL,
    )

    def restart() -> None:
        for line in the_block("$ supervisorctl").text.splitlines():
            command = shlex.split(line.removeprefix("$ "))
            command[:1] = [str(program.with_name("supervisorctl")), "-c", str(path)]
            subprocess.run(command, cwd=following.folder, check=True, stdout=subprocess.DEVNULL)

    try:
        yield Site(f"ws://127.0.0.1:{port}", [port], lambda: children(process.pid), restart)
    finally:
        process.terminate()
        process.wait(PATIENCE)


WAYS = {
    "a port each": a_port_each,
    "uvicorn --workers": workers,
    "gunicorn": gunicorn,
    "daphne --fd by systemd": by_systemd,
    "uvicorn --fd by systemd": uvicorn_by_systemd,
    "daphne --fd by supervisor": by_supervisor,
}


# What holds in each of them


@pytest.fixture
def following(
    tmp_path: Path,
    base: Path,
    worker: Worker,
    certificate: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Following]:
    """The page's project."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # to believe the web server
    with Project(tmp_path, base, worker, PAGE) as project:
        yield Following(project, worker, tmp_path, certificate)


class Crowd:
    """Clients that come back after everything, and count what they get."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/ws/7?subscribe-broadcast"
        self._facility = Facility("7")
        self._ledgers: list[Ledger] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Have one more client, from when it is connected."""
        ledger = Ledger(self._facility)
        client = TortureClient(self._url, 7, ledger, stock=False)
        self._ledgers.append(ledger)
        self._tasks.append(asyncio.create_task(client.run()))
        async with asyncio.timeout(PATIENCE):
            await client.connected.wait()

    def publish(self) -> None:
        """Publish the next message."""
        number = self._facility.last + 1
        publisher = RedisPublisher(facility="7", broadcast=True)
        publisher.publish_message(json.dumps({"n": number}))
        self._facility.times.append(time.monotonic())

    async def end(self) -> Tally:
        """Return what all have got, once the last message has arrived everywhere."""
        complete = lambda: all(ledger.complete for ledger in self._ledgers)  # noqa: E731
        await asyncio.to_thread(wait_until, complete)
        tally = Tally(published=self._facility.last)
        for ledger, task in zip(self._ledgers, self._tasks, strict=True):
            ledger.close(tally)
            task.cancel()
        await asyncio.wait(self._tasks)
        assert all(ledger.reconnects for ledger in self._ledgers)
        return tally


@contextlib.asynccontextmanager
async def again_and_again(act: Callable[[], object]) -> AsyncIterator[None]:
    """Do something again and again until the end of the block."""

    async def repeat() -> None:
        while True:
            done = act()
            if asyncio.iscoroutine(done):
                await done
            await asyncio.sleep(PAUSE)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        assert not task.done(), task.exception()
        task.cancel()


@pytest.mark.parametrize("way", WAYS)
async def test_two_processes_share_the_sockets_and_are_restarted_without_a_loss(
    way: str, following: Following, redis_url: str
) -> None:
    """Each has sockets and the links to Redis that the page says; nobody is turned away twice."""
    redis_port = urlsplit(redis_url).port or 6379
    turned_away: dict[str, list[str]] = {"first": [], "second": []}
    with WAYS[way](following) as site:

        async def knock() -> None:
            for attempt in ("first", "second"):
                try:
                    async with connect(f"{site.url}/ws/8?subscribe-broadcast", proxy=None):
                        return
                except (OSError, websockets.WebSocketException, EOFError) as error:
                    turned_away[attempt].append(repr(error))

        wait_until(lambda: len(site.processes()) == 2)
        wait_until(lambda: all(map(listens, site.ports)))
        old, crowd = site.processes(), Crowd(site.url)
        for number in range(MOST_CLIENTS):
            await crowd.join()
            await asyncio.sleep(PAUSE)  # one process may be ready before the other
            shares = [connections(pid, near=site.ports) for pid in old]
            if number >= CLIENTS and all(shares):
                break
        assert all(shares), f"one process has all sockets: {shares}"
        async with again_and_again(crowd.publish), again_and_again(knock):
            await asyncio.sleep(1)
            await asyncio.to_thread(site.restart)
            await asyncio.sleep(1)
        new = site.processes()
        assert not set(old) & set(new)
        links = [connections(pid, far=[redis_port]) for pid in new]
        tally = await crowd.end()
    assert not tally.violated, tally
    assert not tally.reported_lost, tally
    assert tally.recovered, tally
    assert not turned_away["second"], turned_away
    assert len(turned_away["first"]) <= len(old), turned_away  # it came while one was stopping
    assert max(links) <= 3


@pytest.mark.parametrize(
    ("setting", "limit", "let_in"),
    [("MAX_SOCKETS", 2, 4), ("MAX_SOCKETS_PER_USER", 1, 2), ("HANDSHAKE_RATE", 1, 10)],
)
async def test_a_limit_counts_for_each_process(
    setting: str, limit: int, let_in: int, serve: Serve, tmp_path: Path
) -> None:
    """Two let in twice as many; one more is closed with 1013."""
    servers = [serve("daphne", settings={f"WS4REDIS_{setting}": limit}) for _ in range(2)]
    port = find_free_port()
    upstream = "".join(f"server 127.0.0.1:{server.port};" for server in servers)
    page = (
        f"upstream two {{ least_conn; {upstream} }}"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://two;"
        "proxy_http_version 1.1; proxy_set_header Host $http_host;"
        'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; }}'
    )
    headers = {"Cookie": Visitor(servers[0]).login("john").cookie}

    async def fate(stack: contextlib.AsyncExitStack) -> int | None:
        url = f"ws://127.0.0.1:{port}/ws/limits?subscribe-user"
        opening = connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE)
        socket = await stack.enter_async_context(opening)
        with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
            async with asyncio.timeout(1):
                await socket.recv()
        return socket.close_code

    with deploy.run_front(deploy.in_nginx(page, tmp_path), port, servers, tmp_path):
        async with contextlib.AsyncExitStack() as stack:
            fates = await asyncio.gather(*(fate(stack) for _ in range(let_in + 2)))
    assert sorted(fates, key=str) == [1013] * 2 + [None] * let_in
