"""Messages that are written straight to a server's transport, and those that its ``send`` writes.

What a client reads is understood by wsproto, which none of the writers has.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
from channels.sessions import InstanceSessionWrapper
from daphne.server import Server as DaphneServer
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from wsproto import events
from wsproto.connection import Connection, ConnectionType

from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.servers import Send, behind
from channels_ws4redis.servers.daphne import DaphnePeer
from tests.servers import COMMANDS, AsgiServer
from tests.silent import forget_peak, peak
from tests.site.streams import Likeness, Order
from tests.streams import PIECES, Stream
from tests.test_servers import WebSocketProtocol, uvicorn_protocol

#: Uvicorn's own use of websockets.
pytestmark = pytest.mark.filterwarnings("ignore:remove second argument of ws_handler")

APPLICATION = "tests.site.streams:application"

#: The servers to which frames are written straight.
KINDS = ["daphne", "uvicorn", "uvicorn-wsproto", "uvicorn-websockets"]
#: Uvicorn's classes for connections.
UVICORNS = [WebSocketsSansIOProtocol, WSProtocol, WebSocketProtocol]

#: Seeds of `test_messages_are_whole_and_in_order`; WS4REDIS_TEST_STREAMS=100 makes it thorough.
SEEDS = range(1, 1 + int(os.environ.get("WS4REDIS_TEST_STREAMS", "3")))

LARGE = Order(count=60, top=300_000)


# Frames


def understood(wire: bytes, chance: Random) -> list[str | bytes]:
    """Return the messages in the bytes of a server, which arrive in pieces."""
    connection, messages, parts = Connection(ConnectionType.CLIENT), [], []
    while wire:
        size = chance.choice(PIECES)
        connection.receive_data(wire[:size])
        wire = wire[size:]
        for event in connection.events():
            assert isinstance(event, events.Message), event
            parts.append(event.data)
            if event.message_finished:
                messages.append(type(event.data)().join(parts))
                parts.clear()
    assert not parts
    return messages


payloads = st.text() | st.binary() | st.sampled_from([125, 126, 2**16 - 1, 2**16]).map(bytes)


@given(st.lists(payloads, max_size=10), st.integers())
def test_a_frame_is_understood_however_its_bytes_arrive(messages, seed: int) -> None:
    wire = b"".join(Frame(message).wire for message in messages)
    assert understood(wire, Random(seed)) == messages


@pytest.mark.parametrize("size", [0, 125, 126, 2**16 - 1, 2**16])
def test_a_frame_has_the_shortest_head_for_its_size(size: int) -> None:
    """Other ones are not valid (RFC 6455, section 5.2)."""
    head = 2 if size < 126 else 4 if size < 2**16 else 10
    assert len(Frame(bytes(size)).wire) == head + size


def test_half_of_a_surrogate_pair_cannot_be_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        Frame("\ud83d").wire  # noqa: B018 # it is made when it is asked for


def test_a_frame_is_made_for_connections_once_and_may_be_forgotten() -> None:
    frame = Frame("x" * 1000)
    assert frame.wire is frame.wire
    before = frame.wire
    frame.forget_wire()
    assert frame.wire is not before
    assert frame.wire == before


# Real servers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine, signed by itself, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    key = path.with_name("key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(path)]
    subprocess.run([*command, *files], check=True, capture_output=True)
    path.write_text(path.read_text() + key.read_text())
    return path


@pytest.fixture(scope="module")
def trusting(certificate: Path) -> ssl.SSLContext:
    """What a client trusts."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    return context


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[AsgiServer]:
    with AsgiServer(request.param, application=APPLICATION) as running:
        yield running


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of a Unix socket at which daphne listens."""
    path = str(tmp_path_factory.mktemp("unix") / "socket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COMMANDS, "daphne-unix", [*COMMANDS["daphne"], "-u", path])
        with AsgiServer("daphne-unix", application=APPLICATION):
            deadline = time.monotonic() + 30
            while not Path(path).exists():  # daphne opens its port first
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield path


@pytest.fixture(scope="module", params=KINDS)
def tls_server(request: pytest.FixtureRequest, certificate: Path) -> Iterator[AsgiServer]:
    command = [*COMMANDS[request.param], "--ssl-certfile", str(certificate)]
    if request.param == "daphne":
        files = f"privateKey={certificate}:certKey={certificate}"
        endpoint = f"ssl:{{port}}:interface=127.0.0.1:{files}"
        command = ["daphne", "-e", endpoint, "{application}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COMMANDS, f"{request.param}-tls", command)
        with AsgiServer(f"{request.param}-tls", application=APPLICATION) as running:
            yield running


def check(stream: Stream, order: Order) -> None:
    """All messages come, in their order, and by both ways."""
    with stream:
        messages = stream.messages()
        assert list(islice(messages, order.count)) == list(order.messages())
        ways = json.loads(next(messages))
        assert ways["straight"] > order.count / 4, ways
        assert ways["by send"] > order.count / 10, ways
        assert stream.pings


@pytest.mark.server
@pytest.mark.parametrize("seed", SEEDS)
def test_messages_are_whole_and_in_order(server, seed: int) -> None:
    """Whichever way each of them takes, with pings and pongs of both ends between them."""
    order = Order(seed)
    check(Stream(server.port, order), order)


@pytest.mark.server
@pytest.mark.parametrize("seed", SEEDS)
def test_messages_that_are_not_compressed_stand_among_those_that_are(server, seed: int) -> None:
    """Larger ones are compressed by the server, with a memory of what it has compressed before."""
    if server.kind in {"daphne", "uvicorn-wsproto"}:
        pytest.skip("no compression is agreed on")
    order = Order(seed)
    check(Stream(server.port, order, compressed=True), order)


@pytest.mark.server
@pytest.mark.parametrize("order", [Order(), LARGE], ids=["small", "large"])
def test_order_is_kept_through_a_unix_socket(path, order: Order) -> None:
    check(Stream(path, order, slow=order.top > 10_000), order)


@pytest.mark.server
def test_a_client_that_reads_slowly_gets_large_messages_whole_and_in_order(server) -> None:
    """The kernel takes a part of a frame, the server waits for the rest, and then goes on."""
    check(Stream(server.port, LARGE, slow=True), LARGE)


@pytest.mark.server
@pytest.mark.parametrize("order", [Order(), LARGE], ids=["small", "large"])
def test_order_is_kept_through_tls(tls_server, trusting, order: Order) -> None:
    check(Stream(tls_server.port, order, tls=trusting, slow=order.top > 10_000), order)


@pytest.mark.server
@pytest.mark.parametrize("top", [1000, 100_000])
def test_the_close_frame_comes_after_all_messages_and_nothing_after_it(server, top: int) -> None:
    """Small messages are read byte by byte, or something might hide behind the close frame."""
    order = Order(count=60, top=top, whims=0, end="close")
    slow = top > 1000
    with Stream(server.port, order, slow=slow, pieces=PIECES if slow else [1]) as stream:
        assert list(stream.messages()) == list(order.messages())
        assert stream.closed is not None
        assert (stream.closed.code, stream.closed.reason) == (4000, "enough")


@pytest.mark.server
@pytest.mark.parametrize("slow", [False, True], ids=["swift", "slow"])
def test_what_came_before_an_abort_is_whole(server, slow: bool) -> None:
    """The last frame may be cut off; there is no close frame."""
    order = Order(count=60, top=100_000, end="abort")
    with Stream(server.port, order, slow=slow) as stream:
        got = list(stream.messages())
        assert got == list(order.messages())[: len(got)]
        assert stream.closed is None


@pytest.mark.server
def test_a_client_that_closes_in_the_middle_gets_its_answer_after_whole_messages(server) -> None:
    order = Order(count=3000)
    with Stream(server.port, order) as stream:
        messages = stream.messages()
        got = list(islice(messages, 50))
        stream.close()
        got += messages
        assert got == list(order.messages())[: len(got)]
        assert stream.closed is not None
        assert stream.closed.code == 1000


@pytest.mark.server
@pytest.mark.parametrize("top", [10_000, 2**20])
def test_what_waits_for_a_client_that_does_not_read_is_bounded(server, top: int) -> None:
    """By the outbox, and by what a server takes before it says that it is full."""
    order = Order(count=2**25 // top, top=top, room=2**20, whims=0, end="nothing")
    with Stream(server.port, order, slow=True) as stream:
        forget_peak(server.process.pid)
        before = peak(server.process.pid)
        assert server.says(f"too slow for messages of {top} bytes")
        assert peak(server.process.pid) - before < 12e6
        got = list(stream.messages())
        assert got == list(order.messages())[: len(got)]
        assert len(got) < order.count
        assert stream.closed is not None
        assert stream.closed.code == 4002


@pytest.mark.server
def test_what_others_have_changed_about_a_server_is_not_passed_over(server) -> None:
    """As tools do that watch what an application sends; nor a server that logs each frame."""
    order = Order(end="tamper")
    with Stream(server.port, order) as stream:
        *messages, noticed = islice(stream.messages(), order.count + 1)
        assert messages == list(order.messages())
        changes = json.loads(noticed)
        assert changes
        assert changes == dict.fromkeys(changes, True)


@pytest.mark.server
def test_a_server_has_nothing_to_complain_about(server) -> None:
    """Runs last."""
    assert "Traceback" not in server.log
    assert "never awaited" not in server.log
    assert "socket.send() raised" not in server.log


# Which implementations


class Transport:
    """A transport that takes anything."""

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True

    def get_extra_info(self, name: str) -> None: ...


def connected(kind: type) -> tuple[Any, Send]:
    """Return uvicorn's side of a connection that has just been made, and its ``send``."""
    protocol, send = uvicorn_protocol(kind)
    protocol.transport = Transport()
    return protocol, send


@pytest.mark.parametrize("kind", UVICORNS)
async def test_an_implementation_that_is_as_expected_is_passed_over(kind, caplog) -> None:
    caplog.set_level(logging.DEBUG, "channels_ws4redis")
    _, send = connected(kind)
    assert behind(send)._room is not None
    assert not caplog.messages


async def expect_send(send: Send, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """A socket is served by ``send``, and the log says so once, and why."""
    caplog.set_level(logging.DEBUG, "channels_ws4redis")
    peer = behind(send)
    assert peer._room is None
    assert peer.writable
    (line,) = caplog.messages
    assert reason in line


@pytest.mark.parametrize("kind", UVICORNS)
async def test_a_send_that_looks_like_the_servers_own_is_not_passed_over(kind) -> None:
    """Wrappers of tools that trace have all attributes of what they wrap."""
    _, send = connected(kind)
    within_sessions = InstanceSessionWrapper({"type": "websocket", "cookies": {}}, send).send
    assert behind(within_sessions).writable
    for wrapped in (Likeness(send), Likeness(within_sessions)):
        peer = behind(wrapped)
        assert not peer.writable
        assert peer._room is None


def test_a_likeness_of_daphnes_send_is_not_its_own() -> None:
    send = functools.partial(DaphneServer.handle_reply, None)
    assert DaphnePeer.is_own(send)
    assert not DaphnePeer.is_own(Likeness(send))


@pytest.mark.parametrize("kind", UVICORNS)
async def test_another_release_with_other_attributes_is_served_by_its_send(kind, caplog) -> None:
    protocol, send = connected(kind)
    (name,) = {"disconnected", "_paused"} & vars(protocol).keys()
    delattr(protocol, name)
    await expect_send(send, caplog, name)


@pytest.mark.parametrize("kind", UVICORNS)
async def test_a_subclass_is_served_by_its_send(kind, caplog) -> None:
    """It may do anything in what the frames pass through."""
    _, send = connected(type("Child", (kind,), {}))
    await expect_send(send, caplog, "Child")
