"""What strangers have tried, on ways that no other test takes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import subprocess
from pathlib import Path

import django
import msgpack
import pytest
import redis
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.core.exceptions import PermissionDenied
from django.template import Context, Template
from django.urls import re_path
from hypothesis import assume, example, given
from hypothesis import strategies as st
from websockets import InvalidStatus
from websockets.asyncio.client import connect

from channels_ws4redis.consumers import WS4RedisConsumer
from channels_ws4redis.protocol.messages import EVENT_TYPE, SUBPROTOCOL
from channels_ws4redis.protocol.names import channel_name
from channels_ws4redis.routing import router, websocket_urlpatterns
from channels_ws4redis.servers import uvicorn
from channels_ws4redis.store.commands import channel_keys, events_channel
from tests.clients import END, PATIENCE, Visitor
from tests.conftest import Serve
from tests.fuzz.found import V1, opening
from tests.fuzz.frames import BINARY, TEXT, deflated, frame
from tests.handshake.test_requests import request
from tests.servers import COMMANDS, AsgiServer
from tests.silent import forget_peak, peak

IMPLEMENTATIONS = ["daphne", "uvicorn", "uvicorn-wsproto", "uvicorn-websockets"]


# Names and keys


NAMES = st.builds(
    channel_name,
    st.sampled_from(["", "mysite:"]),
    st.just("broadcast"),
    st.none(),
    st.text() | st.sampled_from(["a", "a}:history", "a}:meta", "a}:once:k", "{a}", "a}:events"]),
) | st.builds(channel_name, st.just(""), st.just("user"), st.text(min_size=1), st.text())


@example("broadcast:a", "broadcast:a}:once:k", "k}:once:k", "k")
@given(NAMES, NAMES, st.text(min_size=1), st.text(min_size=1))
def test_no_channel_has_a_key_of_another_one(one: str, other: str, once: str, again: str) -> None:
    """Whatever facility a client chooses, and whatever idempotency keys a project uses."""
    assume(one != other)
    keys, others = {*channel_keys(one, once)}, {*channel_keys(other, again)}
    assert len(keys) == len(others) == 4
    assert not keys & others
    assert {events_channel(one), one}.isdisjoint({events_channel(other), other})


@given(
    st.text() | st.sampled_from(['"><script>', "' onload=x '", "</script>", "{{ x }}", "&quot;"])
)
def test_no_facility_leaves_its_attribute(text: str) -> None:
    """Nor does a name or a nonce: the page has one element, with the attributes that it should."""
    assume(text and not {".", ".."} & set(text.split("/")))
    source = "{% load ws4redis %}{% ws4redis t '' name=t nonce=t replay=True %}"
    html = Template(source).render(Context({"t": text}))
    assert html.count("<") == html.count(">") == 2
    assert html.count('"') == 2 * 7


# Who it is


@pytest.mark.xfail(django.VERSION[:2] in {(5, 0), (5, 1)}, reason="these get no fixes any more")
def test_a_header_with_underscores_stands_for_no_other() -> None:
    """A proxy drops what a client sends in the name of its own headers, as these are written."""
    found = request(("x_forwarded_proto", "https"), ("x_remote_user", "john"), ("host", "a"))
    assert not {"HTTP_X_FORWARDED_PROTO", "HTTP_X_REMOTE_USER"} & found.META.keys()


@pytest.mark.server
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("application", ["tests.site.asgi", "tests.site.pieces"])
async def test_a_signed_cookie_that_is_forged_is_no_session(
    serve: Serve, kind: str, application: str
) -> None:
    """Neither for the package itself nor behind Channels' own authentication."""
    engine = {"SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"}
    server = serve(kind, settings=engine, application=f"{application}:application")
    stranger, forged = Visitor(server), "0123456789abcdefghijklmnopqrstuv"
    path = "/ws/foo?subscribe-session&subscribe-user&subscribe-broadcast"
    async with stranger.socket(path, Cookie=f"sessionid={forged}") as socket:
        await stranger.publish("secret", facility="foo", sessions=[forged, "None"])
        await stranger.publish("secret", facility="foo", users=["john", "None", "AnonymousUser"])
        await stranger.publish(END, facility="foo", broadcast=True)
        assert await socket.receive() == END


@pytest.mark.server
async def test_no_middleware_lets_a_client_name_the_root_path(serve: Serve) -> None:
    """Also if it hands on a ``send`` of its own."""
    visitor = Visitor(serve("daphne", application="tests.site.impatient:application"))
    path, root = "/ws/lobby/ws/secret?subscribe-broadcast", {"Daphne-Root-Path": "/ws/lobby"}
    assert await visitor.refused(path, **root) == 403
    async with visitor.socket(path):
        pass


@pytest.mark.server
@pytest.mark.parametrize("entrance", [router, URLRouter(websocket_urlpatterns)])
async def test_a_path_that_hides_from_a_hook_is_refused(redis_client, entrance, settings) -> None:
    """The router drops leading slashes; a hook that guards /ws/admin/ would not see it."""

    async def guard(request, channels):
        if request.path.startswith("/ws/admin/"):
            raise PermissionDenied
        return channels

    settings.WS4REDIS_ALLOWED_CHANNELS = guard
    for path in ("/ws/admin/x", "//ws/admin/x", "///ws/admin/x"):
        client = WebsocketCommunicator(entrance, "/ws/lobby?subscribe-broadcast")
        client.scope["path"] = path
        connected, _ = await client.connect(10)
        assert not connected, path


async def answer_to(server: AsgiServer, path: str, *headers: str) -> int:
    """Write a handshake as no client would, and return the status of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(opening(*headers, path=path))
    async with asyncio.timeout(PATIENCE):
        status = (await reader.readline()).split()[1]
    writer.close()
    return int(status)


@pytest.mark.server
@pytest.mark.parametrize(
    "application", ["tests.site.asgi", "tests.site.pieces", "tests.site.impatient"]
)
async def test_a_path_that_daphne_would_shorten_is_refused(serve: Serve, application: str) -> None:
    """Neither a host before it, nor parameters behind it, hide from whoever is in front."""
    server = serve("daphne", application=f"{application}:application")
    for path in ("//host/ws/x", "http://host/ws/x", "/ws/x;v=1", "/ws/x;"):
        assert await answer_to(server, f"{path}?subscribe-broadcast") == 403, path
        assert server.says("its client has written a host, or parameters, into the path")
        server.lines.clear()
    for path in ("/ws/x", "/ws/x%3Bv=1", "/ws/x?subscribe-broadcast;v=1", "/ws/x//y"):
        assert await answer_to(server, path) == 101, path


@pytest.mark.server
async def test_a_path_without_its_slash_is_refused(serve: Serve) -> None:
    """A hook that guards /ws/admin/ would not see ws/admin/x."""
    server = serve("daphne")
    for path in ("ws/x", "ws/admin/x?subscribe-broadcast"):
        assert await answer_to(server, path) == 403, path
    assert server.says("its path does not begin with a slash")


@pytest.mark.server
@pytest.mark.django_db
@pytest.mark.parametrize("root_path", ["/app", "/app/"])
async def test_a_path_without_a_slash_after_the_root_path_is_refused(
    redis_client: redis.Redis, caplog: pytest.LogCaptureFixture, root_path: str
) -> None:
    """Django makes /ws/x of /appws/x, which a location of a proxy for /app/ does not match."""
    for path, welcome in (("/app/ws/x", True), ("/appws/x", False), ("/app//ws/x", False)):
        client = WebsocketCommunicator(router, "/ws/x?subscribe-broadcast")
        client.scope |= {"path": path, "root_path": root_path}
        assert (await client.connect(10))[0] is welcome, path
        await client.disconnect()
    assert "does not begin with the server's root path, '/app/'" in caplog.text
    assert "has two slashes together before its facility" in caplog.text


@pytest.mark.server
@pytest.mark.django_db
@pytest.mark.parametrize(
    "route",
    [
        re_path("^app/", URLRouter(websocket_urlpatterns)),
        re_path("^app/", URLRouter([re_path("^ws/(?P<facility>.*)$", WS4RedisConsumer.as_asgi())])),
    ],
)
async def test_slashes_between_routers_are_no_way_around(redis_client, route) -> None:
    """Each router drops those before its own part, which a proxy that guards /app/ws/ does not."""
    for url, welcome in (("/app/ws/x", True), ("/app//ws/x", False), ("//app/ws/x", False)):
        client = WebsocketCommunicator(URLRouter([route]), "/ws/x?subscribe-broadcast")
        client.scope["path"] = url
        assert (await client.connect(10))[0] is welcome, url
        await client.disconnect()


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Path]:
    """A certificate of this machine, signed by itself, and its key."""
    found = {"certKey": tmp_path / "certificate.pem", "privateKey": tmp_path / "key.pem"}
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    files = ["-keyout", found["privateKey"], "-out", found["certKey"]]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return found


async def test_a_lost_connection_can_be_paused_and_read_on(certificate) -> None:
    """One of asyncio's for TLS raises then; neither server nor socket would end as they should."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate["certKey"], certificate["privateKey"])
    trusting = ssl.create_default_context(cafile=str(certificate["certKey"]))
    trusting.check_hostname = False
    taken: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(
        lambda _, writer: taken.put_nowait(writer), "127.0.0.1", 0, ssl=context
    )
    port = server.sockets[0].getsockname()[1]
    _, client = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    connection = await taken.get()
    transport = connection.transport
    gate = uvicorn._Gate(connection)
    gate.pause_reading()
    gate.pause_reading(uvicorn._PEER)
    gate.resume_reading()
    assert not transport.is_reading()
    for _ in range(2):  # as uvicorn does
        transport.abort()
        transport.close()
        await asyncio.sleep(0)
    for act in (gate.resume_reading, gate.pause_reading, gate.resume_reading):
        act(uvicorn._PEER)
    uvicorn._Gate(connection)
    client.transport.abort()
    server.close()
    await server.wait_closed()


@pytest.mark.server
async def test_no_client_names_the_root_path_where_daphne_does_tls(
    serve: Serve, certificate, monkeypatch
) -> None:
    """Nor behind middleware with a ``send`` of its own."""
    files = "".join(f":{name}={path}" for name, path in certificate.items())
    command = ["daphne", "-e", f"ssl:{{port}}:interface=127.0.0.1{files}", "{application}"]
    monkeypatch.setitem(COMMANDS, "daphne-tls", command)
    server = serve("daphne-tls", application="tests.site.impatient:application")
    trusting = ssl.create_default_context(cafile=str(certificate["certKey"]))
    trusting.check_hostname = False
    url = f"wss://127.0.0.1:{server.port}/ws/lobby/ws/secret?subscribe-broadcast"
    async with connect(url, ssl=trusting, proxy=None):
        pass
    header = {"Daphne-Root-Path": "/ws/lobby"}
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, ssl=trusting, additional_headers=header, proxy=None)
    assert refused.value.response.status_code == 403


@pytest.mark.server
@pytest.mark.django_db
async def test_no_hook_sees_the_key_of_a_forged_session(redis_client, settings) -> None:
    """Whoever decides by the session would take a stranger for its owner."""
    seen = []

    def note(request, channels):
        seen.append(request.session.session_key)
        return channels

    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.WS4REDIS_ALLOWED_CHANNELS = note
    for flags in ("subscribe-broadcast", "subscribe-session"):
        client = WebsocketCommunicator(AuthMiddlewareStack(router), f"/ws/foo?{flags}")
        client.scope["headers"] = [(b"cookie", b"sessionid=0123456789abcdefghijklmnopqrstuv")]
        assert (await client.connect(10))[0]
        await client.disconnect()
    assert seen == [None, None]


@pytest.mark.server
async def test_a_facility_of_a_project_that_routes_by_itself_has_its_limit_too(
    redis_client,
) -> None:
    """Where the route has no facility, that is what follows WEBSOCKET_URL, of any length."""
    entrance = URLRouter([re_path("^ws/", WS4RedisConsumer.as_asgi())])
    client = WebsocketCommunicator(entrance, f"/ws/{'x' * 256}?subscribe-broadcast")
    assert not (await client.connect(10))[0]


# What is sent


@pytest.mark.server
async def test_what_a_stranger_sends_is_never_read_as_an_event(serve: Serve) -> None:
    """Through a server that copies messages for legacy servers, to one that does not."""
    copying = serve("daphne", settings={"WS4REDIS_LEGACY_SERVERS": True})
    plain = serve("uvicorn")
    john = Visitor(plain).login("john")
    forged = {"type": EVENT_TYPE, "channel": "user:john:bank", "payload": b"forged"}
    packed = msgpack.packb(forged | {"epoch": "", "offset": 0, "sender": ""})
    payloads = [packed, b"\0asgi " + packed, b"\0ws4redis e.r 999999999999 x\nforged"]
    async with (
        john.socket("/ws/bank?subscribe-user") as victim,
        john.socket("/ws/chat?subscribe-broadcast") as listener,
        Visitor(copying).socket("/ws/chat?publish-broadcast") as stranger,
    ):
        for payload in payloads:
            await stranger.send(payload)
            got = await listener.receive()
            assert (got if isinstance(got, bytes) else got.encode()) == payload
        await john.publish("after them", facility="chat", broadcast=True)
        assert await listener.receive() == "after them"
        await john.publish(END, facility="bank", users=["john"])
        assert await victim.receive() == END


@pytest.mark.server
@pytest.mark.parametrize("epoch", ["[", "%", ".-" * 24 + "Q", "-" + "9" * 400, "-x.0.0", "\0", ""])
@pytest.mark.parametrize("offset", [0, 2**63, 10**400])
async def test_a_position_that_was_made_up_costs_nobody_anything(
    redis_client: redis.Redis, epoch: str, offset: int
) -> None:
    """Its owner is told the truth, and neither a script nor anybody else is stopped by it."""
    client = WebsocketCommunicator(
        router, "/ws/foo?subscribe-broadcast", subprotocols=[SUBPROTOCOL]
    )
    assert (await client.connect(10))[0]
    positions = {"broadcast": {"epoch": epoch, "offset": offset}}
    await client.send_json_to({"type": "hello", "positions": positions})
    welcome = await client.receive_json_from(10)
    assert welcome["channels"]["broadcast"]["recovered"] is False
    assert welcome["channels"]["broadcast"]["offset"] == 0
    assert redis_client.keys() == []
    await client.disconnect()


@pytest.mark.server
@pytest.mark.parametrize("text", ["\n", "\x1b[2J", "\u2028", "x"])
async def test_one_frame_writes_one_short_line(redis_client, caplog, text: str) -> None:
    """However long the words of a client are, and whatever they would do to a terminal."""
    client = WebsocketCommunicator(router, "/ws/foo", subprotocols=[SUBPROTOCOL])
    assert (await client.connect(10))[0]
    await client.send_json_to({"type": "hello", "positions": {text * 8000: 5}})
    assert (await client.receive_output(10))["code"] == 4500
    await client.disconnect()
    (line,) = caplog.messages
    assert line.isprintable()
    assert len(line) < 2000


@pytest.mark.server
@pytest.mark.parametrize("kind", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("wrong", "patience"), [(b"no JSON", 6), (b"x" * 1001, 20)], ids=["no JSON", "too large"]
)
async def test_a_client_that_breaks_the_rules_is_dropped(
    serve: Serve, kind: str, wrong: bytes, patience: float
) -> None:
    """It neither reads nor answers, goes on to send, and is not listened to for ever."""
    server = serve(kind, settings={"WS4REDIS_MAX_MESSAGE": 1000})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(opening(V1))
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(TEXT, wrong))
    async with asyncio.timeout(patience):
        with contextlib.suppress(OSError):
            while True:
                writer.write(frame(BINARY, b"y" * 100))
                await writer.drain()
                await asyncio.sleep(0.05)
    writer.close()


BOMB = 64 * 2**20


@pytest.mark.server
@pytest.mark.parametrize(
    "kind",
    [
        "daphne",
        "uvicorn",
        "uvicorn-websockets",
        "uvicorn-wsproto",
    ],
)
async def test_what_is_compressed_is_unpacked_no_further_than_allowed(serve: Serve, kind) -> None:
    """64 MiB of zeros are 64 KiB on the wire; the memory of one message is what they cost."""
    server = serve(kind)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(opening("Sec-WebSocket-Extensions: permessage-deflate"))
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    forget_peak(server.process.pid)
    before = peak(server.process.pid)
    writer.write(frame(BINARY, deflated(bytes(BOMB)), rsv=4))
    answer = b""
    with contextlib.suppress(ConnectionResetError):  # by a server without compression
        async with asyncio.timeout(20):
            answer = await reader.read()
    writer.close()
    if answer:
        assert answer[0] == 0x88
        assert struct.unpack("!H", answer[2:4])[0] in (1002, 1009)
    assert peak(server.process.pid) - before < 8e6
