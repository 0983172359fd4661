"""Fixtures: a real Redis, real servers, and a Redis that is empty at the start of each test.

A test that needs a server has the marker ``server``. It gets the marker from here if it asks for a
fixture that starts one, or if its module is named below. A test that starts a server by itself is
marked by hand. ``make quick`` runs the others, which find no Redis at all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from channels_ws4redis.handshake import policies
from channels_ws4redis.handshake.refusals import few_lines
from testproject.embedded import RedisServer, find_free_port
from tests.clients import Visitor
from tests.servers import ROOT, AsgiServer
from tests.silent import SilentClient

#: Every kind of server and channel layer that passes the same behavioural tests.
SITES = ["daphne-redis", "uvicorn-redis", "daphne-pubsub", "daphne-core", "daphne-memory"]

Serve = Callable[..., AsgiServer]

#: Modules whose tests speak to Redis through the package, without a fixture that would tell.
SPEAKING_TO_REDIS = {
    "fanout/test_groups.py",
    "fanout/test_publishing.py",
    "fanout/test_reading.py",
    "handshake/test_hooks.py",
    "store/test_clients.py",
    "store/test_commands.py",
    "store/test_pubsub.py",
    "store/test_runner.py",
    "test_faults.py",
    "test_layers.py",
    "test_legacy_surface.py",
    "test_open_socket.py",
    "test_publisher.py",
    "test_routing.py",
    "test_templatetags.py",
}

#: Where the others look for Redis; the path is what their error says.
NO_REDIS = "unix:///a-test-that-speaks-to-Redis-needs-the-marker-server"

TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, before any are left out by their markers."""
    for item in items:
        module = item.path.relative_to(TESTS).as_posix()
        fixtures = getattr(item, "fixturenames", ())
        if {"redis_url", "quiet_redis"} & {*fixtures} or module in SPEAKING_TO_REDIS:
            item.add_marker(pytest.mark.server)


LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count, by module, the tests that do not run because they need a server."""
    for item in items:
        if item.get_closest_marker("server"):
            counts = item.config.stash.setdefault(LEFT_OUT, Counter())
            counts[item.path.relative_to(TESTS.parent).as_posix()] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what ``make quick`` leaves out."""
    counts = terminalreporter.config.stash.get(LEFT_OUT, None)
    if counts and terminalreporter.config.option.markexpr == "not server":
        total = counts.total()
        terminalreporter.section(f"{total} tests were left out, as they need a server")
        for module, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:5} {module}")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The address of the server in REDIS_URL, or of one that is started for this worker's tests."""
    url = os.environ.get("REDIS_URL")
    if url:
        if "PYTEST_XDIST_WORKER" in os.environ:
            pytest.fail("Tests side by side would empty each other's REDIS_URL: use WORKERS=0.")
        yield url
        return
    with RedisServer(port=0) as server:
        yield server.url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client to look into Redis with, past the package."""
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture
def quiet_redis(settings) -> Iterator[redis.Redis]:
    """A client to look into a Redis to which nobody speaks but the test.

    On the other one, the sites that several tests share ask every two seconds whether it is there.
    """
    with RedisServer(port=0) as server, redis.Redis.from_url(server.url) as client:
        settings.WS4REDIS_CONNECTION = server.url
        yield client


@pytest.fixture(autouse=True)
def empty_redis(request: pytest.FixtureRequest, settings) -> None:
    """Point the package at the tests' Redis and empty that, or at none if the test needs none."""
    few_lines.forget()  # the tests of a minute log more than a server may
    settings.WS4REDIS_HEARTBEAT = None
    for name in ("WS4REDIS_HISTORY", "WS4REDIS_HISTORY_EXPIRE", "WS4REDIS_REPLAY"):
        delattr(settings, name)
    settings.WS4REDIS_ALLOWED_CHANNELS = None
    if request.node.get_closest_marker("server") is None:
        settings.WS4REDIS_CONNECTION = NO_REDIS
        return
    redis_url = request.getfixturevalue("redis_url")
    settings.WS4REDIS_CONNECTION = redis_url
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    client.close()


@pytest.fixture
def no_policies() -> Iterator[None]:
    """No policies but those that the test makes."""
    before = list(policies.policies)
    policies.policies.clear()
    policies._remembered.cache_clear()
    yield
    policies.policies[:] = before
    policies._remembered.cache_clear()


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with john and mary, both in the auth group chatters."""
    path = tmp_path_factory.mktemp("database") / "db.sqlite3"
    for command in (["migrate", "--verbosity", "0"], ["loaddata", "--verbosity", "0", "demo"]):
        subprocess.run(
            [sys.executable, str(ROOT / "testproject" / "manage.py"), *command],
            check=True,
            env=os.environ | {"WS4REDIS_TEST_DATABASE": str(path), "PYTHONPATH": str(ROOT)},
        )
    return path


@pytest.fixture
def serve(redis_url: str, database: Path) -> Iterator[Serve]:
    """Start servers with settings of the test's own; they end with the test."""
    running = []

    def start(kind: str = "daphne", layer: str = "redis", **kwargs) -> AsgiServer:
        environment = {
            "REDIS_URL": redis_url,
            "WS4REDIS_TEST_LAYER": layer,
            "WS4REDIS_TEST_DATABASE": str(database),
        }
        server = AsgiServer(kind, **(environment | kwargs)).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def _sites(redis_url: str, database: Path) -> Iterator[dict[str, AsgiServer]]:
    running: dict[str, AsgiServer] = {}
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture
def site(
    request: pytest.FixtureRequest,
    _sites: dict[str, AsgiServer],
    redis_url: str,
    database: Path,
) -> AsgiServer:
    """A server that lives through all tests; by parametrising, on another layer than our own."""
    name = getattr(request, "param", SITES[0])
    if name not in _sites:
        kind, layer = name.split("-")
        _sites[name] = AsgiServer(
            kind,
            REDIS_URL=redis_url,
            WS4REDIS_TEST_LAYER=layer,
            WS4REDIS_TEST_DATABASE=str(database),
        ).start()
    return _sites[name]


@pytest.fixture
def visitor(site: AsgiServer) -> Visitor:
    """A browser, as far as HTTP and WebSockets go, that has not logged in."""
    return Visitor(site)


@pytest.fixture
def john(site: AsgiServer) -> Visitor:
    """A visitor that has logged in as john."""
    return Visitor(site).login("john")


@pytest.fixture
def mary(site: AsgiServer) -> Visitor:
    """A visitor that has logged in as mary."""
    return Visitor(site).login("mary")


@pytest.fixture
def persistent() -> Iterator[RedisServer]:
    """A Redis that comes back with its data."""
    with RedisServer(port=0, appendonly=True, options={"appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def free_port() -> int:
    """A loopback port on which nobody listens."""
    return find_free_port()


@pytest.fixture
def silent_client() -> Iterator[Callable[..., SilentClient]]:
    """Make silent clients, and let them go in the end."""
    clients = []

    def make(port: int, path: str, subprotocol: str | None = None) -> SilentClient:
        clients.append(SilentClient(port, path, subprotocol))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
