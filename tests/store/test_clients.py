"""Clients and connections of redis-py: how they are made from the settings."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from channels_ws4redis.store.clients import (
    NEEDS,
    Pool,
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
        ({"host": None, "port": None, "db": "", "unix_socket_path": None}, {}),
        ({"ssl_cert_reqs": None, "retry": None}, {"ssl_cert_reqs": None, "retry": None}),
        ({"socket_timeout": None, "ssl_ca_certs": ""}, {"socket_timeout": None}),
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


def arguments(make, *args, **kwargs):
    """Return what the connections of a new client are made with."""
    return make(*args, **kwargs).connection_pool.connection_kwargs


@pytest.mark.parametrize("make", [make_client, make_async_client])
def test_what_is_wrong_with_the_hosts_of_a_layer_is_named(make):
    """As with the package's own setting."""
    with pytest.raises(ImproperlyConfigured, match=r"hosts\['port'\] is 'redis'"):
        make({"host": "h", "port": "redis"})


@pytest.mark.parametrize("make", [make_client, make_async_client])
@pytest.mark.parametrize("key", ["socket_timeout", "socket_connect_timeout", "socket_keepalive"])
def test_none_is_kept(settings, make, key):
    """None says "without a bound", or "not so", to redis-py, also in the hosts of a layer."""
    settings.WS4REDIS_CONNECTION = {"host": "h", key: None}
    assert arguments(make)[key] is None
    assert arguments(make, {"host": "h", key: None})[key] is None


@pytest.mark.parametrize("make", [make_client, make_async_client])
def test_no_certificate_is_asked_for_if_the_settings_say_so(settings, make):
    """None is what redis-py calls that."""
    settings.WS4REDIS_CONNECTION = {"host": "h", "ssl": True, "ssl_cert_reqs": None}
    assert arguments(make)["ssl_cert_reqs"] is None


#: What the package cannot do with, as text, which is what the query of a URL gives.
DISTURBING = {
    "protocol": "3",
    "decode_responses": "True",
    "encoding": "utf-16",
    "health_check_interval": "1",
}
QUERY = "&".join(f"{key}={value}" for key, value in DISTURBING.items())
VALUES = {"protocol": 3, "decode_responses": True, "encoding": "utf-16", "health_check_interval": 1}

DISTURBED = [
    {"url": f"redis://h/0?{QUERY}"},
    {"url": f"unix:///a?{QUERY}"},
    {"url": "redis://h/0"} | VALUES,
    {"host": "h"} | VALUES,
    {"unix_socket_path": "/a"} | VALUES,
    {"sentinels": [("h", 1)]} | VALUES,
]


@pytest.mark.parametrize("make", [make_client, make_async_client])
@pytest.mark.parametrize("connection", DISTURBED)
def test_what_the_package_needs_wins(make, connection):
    """Over a URL's query, and over a dict, be it the package's own or the hosts of a layer."""
    found = arguments(make, connection)
    assert {key: found[key] for key in NEEDS} == NEEDS


def test_what_the_package_needs_wins_over_a_client(redis_url):
    """A caller's client lends its address, and not its habits."""
    with redis.Redis.from_url(redis_url, **VALUES) as client:
        connection = Pool(client.connection_pool).take()
        assert (connection.protocol, connection.health_check_interval) == (2, 0)
        connection.disconnect()


@pytest.mark.parametrize("connection", [DISTURBED[0], DISTURBED[3]])
def test_what_the_caller_of_a_client_needs_wins(connection):
    """The link has no timeout, whatever a URL says."""
    connection = connection | {"socket_timeout": 1}
    assert arguments(make_async_client, connection, socket_timeout=None)["socket_timeout"] is None


def keepalive(connection):
    """Return how the system looks after the socket of a connection."""
    if isinstance(connection, redis.asyncio.Connection):
        end = connection._writer.get_extra_info("socket")
    else:
        end = connection._sock
    options = socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT
    return [end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)] + [
        end.getsockopt(socket.IPPROTO_TCP, option) for option in options
    ]


async def test_an_idle_connection_is_kept_alive(redis_url):
    """So that no firewall forgets it; the settings may say otherwise."""
    for more, expected in [({}, [1, 30, 5, 3]), ({"socket_keepalive": False}, [0])]:
        client, async_client = make_client(**more), make_async_client(**more)
        ours = Pool(client.connection_pool).take()
        theirs = client.connection_pool.get_connection()
        third = await async_client.connection_pool.get_connection()
        for connection in (ours, theirs, third):
            assert keepalive(connection)[: len(expected)] == expected
        ours.disconnect()
        client.connection_pool.disconnect()
        await disconnect(async_client)


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


@pytest.mark.parametrize("make", [make_client, make_async_client])
@pytest.mark.parametrize("own", [None, {}, {"password": "p"}, {"socket_timeout": 0.5}])
def test_a_sentinel_has_bounds_of_its_own(make, own):
    """Short ones, as there are others to ask, and no repetition; also beside own arguments."""
    client = make({"sentinels": [("h", 1), ("h", 2)], "sentinel_kwargs": own})
    for sentinel in client.connection_pool.sentinel_manager.sentinels:
        found = sentinel.connection_pool.connection_kwargs
        assert found["socket_connect_timeout"] == 1
        assert found["socket_timeout"] == (own or {}).get("socket_timeout", 1)
        assert found["password"] == (own or {}).get("password")
        assert found["retry"]._retries == 0


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
