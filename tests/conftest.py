"""Fixtures: a real Redis, real servers, and a Redis that is empty at the start of each test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from testproject.embedded import RedisServer, find_free_port
from tests.clients import Visitor
from tests.servers import ROOT, AsgiServer

#: Every kind of server and channel layer that passes the same behavioural tests.
SITES = ["daphne-redis", "uvicorn-redis", "daphne-pubsub", "daphne-core", "daphne-memory"]

Serve = Callable[..., AsgiServer]


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The address of the server in REDIS_URL, or of one that is started for the tests."""
    url = os.environ.get("REDIS_URL")
    if url:
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


@pytest.fixture(autouse=True)
def empty_redis(request: pytest.FixtureRequest, redis_url: str, settings) -> None:
    """Point the package at the tests' Redis, and empty that."""
    settings.WS4REDIS_CONNECTION = redis_url
    settings.WS4REDIS_HEARTBEAT = None
    settings.WS4REDIS_HISTORY = 1
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    client.close()


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
def free_port() -> int:
    """A loopback port on which nobody listens."""
    return find_free_port()
