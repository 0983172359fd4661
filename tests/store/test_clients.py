"""Clients and connections of redis-py: how they are made from the settings."""

from __future__ import annotations

import subprocess
import sys

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.store.clients import (
    connection_kwargs,
    disconnect,
    make_async_client,
    make_client,
)
from channels_ws4redis.store.process import get_client
from testproject.embedded import RedisServer, find_free_port, find_server_binary


@pytest.fixture
def server():
    """A server of the test's own, to stop and to pause."""
    with RedisServer(port=0) as server:
        yield server


@pytest.mark.parametrize(
    ("setting", "kwargs"),
    [
        ("redis://h:1/2", {"url": "redis://h:1/2"}),
        ({"host": "h"}, {"host": "h"}),
        ({"host": "h", "port": "6379", "db": "3"}, {"host": "h", "port": 6379, "db": 3}),
        ({"host": "h", "password": "", "username": None}, {"host": "h"}),
        ({"host": "h", "decode_responses": True}, {"host": "h"}),
        ({"unix_socket_path": "/a"}, {"unix_socket_path": "/a"}),
        (None, {"host": "localhost", "port": 6379, "db": 0}),
    ],
)
def test_connection_kwargs(settings, setting, kwargs):
    """WS4REDIS_CONNECTION is a URL, or a dict as legacy projects have it, ports as text too."""
    settings.WS4REDIS_CONNECTION = setting
    assert connection_kwargs() == kwargs


@pytest.mark.parametrize("key", ["port", "db"])
@pytest.mark.parametrize("value", ["redis", [6379], "63.79"])
def test_wrong_port(settings, key, value):
    """A port that is no number is named, together with the value."""
    settings.WS4REDIS_CONNECTION = {"host": "h", key: value}
    with pytest.raises(ImproperlyConfigured, match=key):
        get_client()


def test_nothing_connects_before_use(free_port):
    """A client can be made while Redis is down."""
    make_client({"host": "127.0.0.1", "port": free_port}).close()
    make_client({"url": f"redis://127.0.0.1:{free_port}"}).close()


async def assert_works(**more):
    """Connect both kinds of client by the present settings."""
    client = make_client(**more)
    assert client.ping()
    assert client.set("a", b"\xff")
    assert client.get("a") == b"\xff"
    client.connection_pool.disconnect()
    async_client = make_async_client(**more)
    assert await async_client.get("a") == b"\xff"
    await disconnect(async_client)


async def test_url_and_dict(settings, redis_url):
    """A URL and a dict lead to the same server."""
    await assert_works()
    parts = redis.connection.parse_url(redis_url)
    settings.WS4REDIS_CONNECTION = parts | {"port": str(parts.get("port", 6379)), "password": ""}
    await assert_works()


async def test_unix_socket(settings):
    """A UNIX socket works as URL and in a dict, which may name a host as well."""
    with RedisServer() as server:
        settings.WS4REDIS_CONNECTION = server.url
        await assert_works(max_connections=2)
        path = server.url.removeprefix("unix://").partition("?")[0]
        settings.WS4REDIS_CONNECTION = {"unix_socket_path": path, "host": "elsewhere", "port": 1}
        await assert_works(max_connections=2)


async def test_password(settings):
    """A password works in a URL and in a dict, whatever characters are in it."""
    with RedisServer(port=0, password="p@ss:w/rd?%") as server:
        settings.WS4REDIS_CONNECTION = server.url
        await assert_works()
        settings.WS4REDIS_CONNECTION = {
            "host": "127.0.0.1",
            "port": server.port,
            "password": server.password,
        }
        await assert_works()
        settings.WS4REDIS_CONNECTION = {"host": "127.0.0.1", "port": server.port}
        with pytest.raises(redis.exceptions.AuthenticationError):
            make_client().ping()


async def test_sentinel(settings, server, tmp_path):
    """With sentinels named, they are asked for the master."""
    port = find_free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor themaster 127.0.0.1 {server.port} 1\n"
    )
    process = subprocess.Popen(  # noqa: ASYNC220 # nothing else is to run meanwhile
        [find_server_binary(), str(conf), "--sentinel"], stdout=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout:
            if "Sentinel ID" in line:
                break
        settings.WS4REDIS_CONNECTION = {
            "sentinels": [("127.0.0.1", port)],
            "service_name": "themaster",
            "db": "0",
        }
        await assert_works(max_connections=2)
        assert make_client().info("server")["tcp_port"] == server.port
    finally:
        process.kill()
        process.communicate()


def test_a_system_without_fork():
    """The package can be imported and used where there is no fork, as on Windows."""
    code = (
        # What imports these names itself comes first.
        "import asyncio, concurrent.futures, logging, multiprocessing, random, threading\n"
        "import channels.layers, daphne.server, django, os, pkgutil, redis.asyncio, sys\n"
        "del os.fork, os.register_at_fork\n"
        "sys.modules |= dict.fromkeys(['fcntl', 'grp', 'pwd', 'resource', 'termios'])\n"
        "from django.conf import settings\n"
        "apps = ['django.contrib.contenttypes', 'django.contrib.auth', 'channels_ws4redis']\n"
        "settings.configure(INSTALLED_APPS=apps)\n"
        "django.setup()\n"
        "import channels_ws4redis\n"
        "for module in pkgutil.walk_packages(channels_ws4redis.__path__, 'channels_ws4redis.'):\n"
        "    __import__(module.name)\n"
        "from channels_ws4redis.store.process import get_client\n"
        "get_client()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_connects_nowhere():
    """Importing the package needs neither Redis nor configured settings."""
    code = (
        "import socket; socket.socket.connect = None\n"
        "import channels_ws4redis.publisher, channels_ws4redis.routing, channels_ws4redis.layers"
    )
    subprocess.run([sys.executable, "-W", "error::ResourceWarning", "-c", code], check=True)
