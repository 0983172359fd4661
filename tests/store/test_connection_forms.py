"""Every form of WS4REDIS_CONNECTION, end to end: stored, published, and heard by a socket."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from channels_ws4redis.layers import RedisChannelLayer
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.store.process import get_client, this_process
from testproject.embedded import RedisServer, find_free_port, find_server_binary
from tests.clients import Visitor
from tests.servers import ROOT
from tests.silent import frozen_server, gone_server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis server of the test's own."""
    with RedisServer(port=0) as server:
        yield server


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls_port(server: RedisServer, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS in front of the server, whose binary is built without it."""
    port = find_free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tls_proxy", str(port), str(server.port), str(certificate)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        yield port
        process.kill()
        process.wait()


async def assert_works(serve, connection, kind: str = "daphne") -> None:
    """Start a site with this connection, and see that it stores, publishes and hears."""
    visitor = Visitor(serve(kind, settings={"WS4REDIS_CONNECTION": connection}))
    async with visitor.socket("/ws/foo?subscribe-broadcast&publish-broadcast&echo") as socket:
        await visitor.publish("Hello", facility="foo", broadcast=True)
        assert await socket.receive() == "Hello"
        await socket.send("there")
        assert await socket.receive() == "there"
    async with visitor.socket("/ws/foo?subscribe-broadcast") as socket:
        assert await socket.receive() == "there"
    assert (await visitor.arequest("/test/fetch?facility=foo")).body == b"there"


async def test_partial_dict(serve, server):
    """A dict may name the port alone, as text, with an empty password."""
    await assert_works(serve, {"port": str(server.port), "password": "", "db": "2"})
    assert redis.Redis(port=server.port, db=2).get("broadcast:foo") == b"there"


async def test_url(serve, server):
    """A URL does as well."""
    await assert_works(serve, server.url)


@pytest.mark.parametrize("as_url", [True, False])
async def test_unix_socket(serve, as_url):
    """A path of a UNIX socket, in a dict or a URL."""
    with RedisServer() as server:
        path = server.url.removeprefix("unix://").partition("?")[0]
        await assert_works(serve, server.url if as_url else {"unix_socket_path": path})


@pytest.mark.parametrize("as_url", [True, False])
async def test_tls(serve, tls_port, certificate, as_url):
    """TLS, by ``ssl`` in a dict or a rediss:// URL, with the certificate verified."""
    if as_url:
        connection = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={certificate}"
    else:
        connection = {
            "host": "127.0.0.1",
            "port": tls_port,
            "ssl": True,
            "ssl_ca_certs": str(certificate),
        }
    await assert_works(serve, connection)


@pytest.mark.parametrize("as_url", [True, False])
async def test_tls_without_a_certificate_that_is_known(serve, tls_port, as_url):
    """Verification can be switched off, in the words of redis-py: None in a dict."""
    if as_url:
        query = "ssl_cert_reqs=none&ssl_check_hostname=false"
        connection = f"rediss://127.0.0.1:{tls_port}/0?{query}"
    else:
        connection = {
            "host": "127.0.0.1",
            "port": tls_port,
            "ssl": True,
            "ssl_cert_reqs": None,
            "ssl_check_hostname": False,
        }
    await assert_works(serve, connection)


#: Options that would disturb the package, as they may stand in settings made for other software.
OPTIONS = {
    "protocol": 3,
    "decode_responses": True,
    "socket_timeout": 1,
    "health_check_interval": 1,
}


@pytest.mark.parametrize("form", ["url", "dict"])
async def test_options_that_disturb(serve, server, form):
    """Whatever options WS4REDIS_CONNECTION has, the package takes those that it needs."""
    query = "&".join(f"{key}={value}" for key, value in OPTIONS.items())
    connection = f"{server.url}?{query}" if form == "url" else {"port": server.port} | OPTIONS
    await assert_works(serve, connection)


@pytest.mark.parametrize("form", ["url", "dict", "address", "port as text"])
async def test_options_that_disturb_the_layer(server, form):
    """The same in the layer's ``hosts``, on which the link neither breaks nor falls silent."""
    query = "&".join(f"{key}={value}" for key, value in OPTIONS.items())
    hosts = {
        "url": f"{server.url}?{query}",
        "dict": {"host": "127.0.0.1", "port": server.port} | OPTIONS,
        "address": {"address": f"{server.url}?{query}"},
        "port as text": {"host": "127.0.0.1", "port": str(server.port), "password": ""},
    }[form]
    layer = RedisChannelLayer(hosts=[hosts])
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "test", "text": "☃"})
    async with asyncio.timeout(5):
        assert await layer.receive(channel) == {"type": "test", "text": "☃"}
    with redis.Redis.from_url(server.url) as client:
        (link,) = client.client_list(_type="pubsub")
        assert link["resp"] == "2"
    await layer.flush()


@contextlib.contextmanager
def sentinel(master: RedisServer, folder: Path) -> Iterator[int]:
    """Run a sentinel that fails over within two seconds."""
    port = find_free_port()
    configuration = folder / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n"
    )
    process = subprocess.Popen(
        [find_server_binary(), str(configuration), "--sentinel"],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def replicas(port: int) -> list[dict]:
    """Return the replicas that a sentinel knows and can reach."""
    with contextlib.suppress(redis.exceptions.ConnectionError), redis.Redis(port=port) as client:
        return [
            replica
            for replica in client.sentinel_slaves("main")
            if replica["master-link-status"] == "ok"
        ]
    return []


async def test_sentinel(serve, server, tmp_path):
    """With sentinels a site finds the master, and finds the new one after a failover.

    One of the sentinels is gone, and swallows what is sent to it.
    """
    options = {"replicaof": f"127.0.0.1 {server.port}"}
    with (
        RedisServer(port=0, options=options) as replica,
        sentinel(server, tmp_path) as port,
        gone_server() as silent_port,
    ):
        deadline = time.monotonic() + 30
        while not replicas(port):
            assert time.monotonic() < deadline, "the sentinel has not found the replica"
            await asyncio.sleep(0.1)
        sentinels = [["127.0.0.1", silent_port], ["127.0.0.1", port]]
        connection = {"sentinels": sentinels, "service_name": "main", "db": "0"}
        await assert_works(serve, connection)
        visitor = Visitor(serve(settings={"WS4REDIS_CONNECTION": connection}))
        async with visitor.socket("/ws/foo?subscribe-broadcast") as socket:
            assert await socket.receive() == "there"
            server.kill()
            body = {"to": {"facility": "foo", "broadcast": True}, "messages": ["after"]}
            while (await visitor.arequest("/test/publish", body)).status != 200:
                assert time.monotonic() < deadline + 30, "nothing can be published any more"
                await asyncio.sleep(0.2)
            assert await socket.receive() == "after"
        assert redis.Redis(port=replica.port).get("broadcast:foo") == b"after"


@pytest.mark.parametrize("silent", [gone_server, frozen_server])
@pytest.mark.parametrize("own", [None, {"client_name": "site"}, {"socket_timeout": 0.5}])
async def test_a_silent_sentinel(settings, server, tmp_path, silent, own):
    """It costs a second of the first publish of a process, and later ones ask the other first.

    A socket's handshake has four seconds to find the primary. Sentinels are asked side by side.
    """
    with sentinel(server, tmp_path) as port, silent() as first, silent() as second:
        sentinels = [("127.0.0.1", each) for each in (first, second, port)]
        settings.WS4REDIS_CONNECTION = {"sentinels": sentinels, "sentinel_kwargs": own}
        settings.WS4REDIS_CONNECTION |= {"service_name": "main"}
        await until_it_answers(port)
        publisher = RedisPublisher(facility="foo", broadcast=True)
        # From several threads, which learn at the same time which one answers.
        first_ones = (asyncio.to_thread(publisher.publish_message, "first") for _ in range(6))
        assert await seconds(asyncio.gather(*first_ones)) < 4
        this_process().pool_of(get_client()).drop_idle()
        assert await seconds(asyncio.to_thread(publisher.publish_message, "second")) < 0.8
        assert await seconds(publisher.apublish_message("third")) < 0.8
        layer = RedisChannelLayer()
        assert await seconds(layer.new_channel()) < 0.8
        await layer.flush()


async def until_it_answers(port: int) -> None:
    """Wait for a sentinel that has just been started."""
    deadline = time.monotonic() + 10
    with redis.Redis(port=port) as client:
        while True:
            with contextlib.suppress(redis.exceptions.ConnectionError):
                if client.sentinel_masters():
                    return
            assert time.monotonic() < deadline, "the sentinel does not answer"
            await asyncio.sleep(0.05)


async def seconds(work: Awaitable[object]) -> float:
    """Return how long some work takes."""
    began = time.monotonic()
    await work
    return time.monotonic() - began


async def test_no_sentinel_knows_the_primary(settings, server, tmp_path, free_port):
    """The error names each of them, and what is wrong with it."""
    with sentinel(server, tmp_path) as port:
        await until_it_answers(port)
        sentinels = [("127.0.0.1", free_port), ("127.0.0.1", port)]
        settings.WS4REDIS_CONNECTION = {"sentinels": sentinels, "service_name": "another"}
        publisher = RedisPublisher(facility="foo", broadcast=True)
        for publishing in (
            lambda: asyncio.to_thread(publisher.publish_message, "x"),
            lambda: publisher.apublish_message("x"),
        ):
            with pytest.raises(redis.exceptions.ConnectionError) as raised:
                await publishing()
            assert f"127.0.0.1:{free_port}: Error 111" in str(raised.value)
            assert f"127.0.0.1:{port}: does not watch over this service" in str(raised.value)
