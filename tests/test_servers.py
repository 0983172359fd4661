"""What is particular to a server is found, changed and put back; the same sockets on each."""

from __future__ import annotations

import asyncio
import functools
import json
import time
import warnings
from collections.abc import Iterator

import pytest
import websockets
from channels.sessions import InstanceSessionWrapper
from channels.testing import WebsocketCommunicator
from uvicorn import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from uvicorn.server import ServerState

from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.routing import router
from channels_ws4redis.servers import Peer, behind
from channels_ws4redis.servers.incoming import WATCH_AFTER
from channels_ws4redis.servers.uvicorn import UvicornPeer
from tests.clients import Visitor
from tests.servers import COMMANDS, AsgiServer
from tests.silent import forget_peak, peak
from tests.site.peers import Lazy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # uvicorn announces that this one will go
    from uvicorn.protocols.websockets.websockets_impl import WebSocketProtocol

#: Uvicorn's own use of websockets.
pytestmark = pytest.mark.filterwarnings("ignore:remove second argument of ws_handler")

PATIENCE = 10

UVICORNS = [WebSocketsSansIOProtocol, WSProtocol, WebSocketProtocol]


def uvicorn_protocol(kind: type):
    """Return uvicorn's side of a connection that has not been made yet, and its ``send``."""
    config = Config(app="tests.site.asgi:application", timeout_graceful_shutdown=4)
    config.load()
    protocol = kind(config=config, server_state=ServerState(), app_state={})
    return protocol, getattr(protocol, "asgi_send", protocol.send)


@pytest.fixture
async def protocol() -> WebSocketsSansIOProtocol:
    """A connection of uvicorn's that has been accepted."""
    protocol, _ = uvicorn_protocol(WebSocketsSansIOProtocol)
    protocol.handshake_complete = True
    return protocol


@pytest.mark.parametrize("kind", UVICORNS)
async def test_uvicorn_is_found_behind_channels_own_middleware(kind) -> None:
    _, send = uvicorn_protocol(kind)
    scope = {"type": "websocket", "cookies": {}, "session": {}}
    wrapped = InstanceSessionWrapper(scope, InstanceSessionWrapper(scope, send).send).send
    for each in (send, wrapped):
        peer = behind(each)
        assert type(peer) is UvicornPeer
        assert peer.writable


@pytest.mark.parametrize("kind", UVICORNS)
async def test_a_send_that_is_not_uvicorns_own_is_not_run_on_the_spot(kind, monkeypatch) -> None:
    """Not that of a subclass, nor one that was decorated, however well it looks like the own."""
    _, send = uvicorn_protocol(kind)
    name = send.__name__

    async def overridden(self, message) -> None:
        await getattr(super(child, self), name)(message)

    child = type("Child", (kind,), {name: overridden})
    _, send = uvicorn_protocol(child)
    assert type(behind(send)) is UvicornPeer
    assert not behind(send).writable

    own = getattr(kind, name)

    @functools.wraps(own)
    async def decorated(self, message) -> None:
        await own(self, message)

    monkeypatch.setattr(kind, name, decorated)
    _, send = uvicorn_protocol(kind)
    assert not behind(send).writable


async def test_other_servers_are_left_alone() -> None:
    async def send(frame: dict) -> None:
        sent.append(frame)

    sent: list[dict] = []
    queue: asyncio.Queue = asyncio.Queue()
    attributes = dir(queue)
    for each in (send, queue.put):
        peer = behind(each)
        assert type(peer) is Peer
        assert not peer.writable
        task = asyncio.current_task()
        assert task is not None
        peer.on_stop(task, task.cancel)
        peer.on_gone(task.cancel)
        peer.abort()
        await peer.drained()
        await peer.close(1001, 1)
        peer.release()
    assert sent == [queue.get_nowait()] == [{"type": "websocket.close", "code": 1001}]
    assert dir(queue) == attributes


# Stopping


async def test_a_socket_that_has_ended_is_not_shut_down_again(protocol, settings) -> None:
    """Nothing of ours stays on the protocol, and a shutdown that is still due does nothing."""
    settings.WS4REDIS_CLOSE_WINDOW = 0
    peer = behind(protocol.send)
    peer.on_stop(asyncio.current_task(), lambda: None)
    problems: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    protocol.shutdown()
    peer.release()
    assert "shutdown" not in vars(protocol)
    await asyncio.sleep(0.01)
    assert problems == []


@pytest.mark.parametrize(("window", "latest"), [(1, 1), (60, 2)])
async def test_the_delay_is_within_the_window_and_half_of_the_servers_patience(
    protocol, settings, monkeypatch, window: int, latest: int
) -> None:
    settings.WS4REDIS_CLOSE_WINDOW = window
    loop = asyncio.get_running_loop()
    delays = []
    monkeypatch.setattr(loop, "call_later", lambda delay, *_: delays.append(delay))
    behind(protocol.send).on_stop(asyncio.current_task(), lambda: None)
    for _ in range(500):
        protocol.shutdown()
    assert 0 <= min(delays) < latest / 10
    assert latest * 0.9 < max(delays) <= latest


@pytest.mark.parametrize("kind", UVICORNS)
async def test_a_handshake_that_is_under_way_is_not_put_off(kind, settings, monkeypatch) -> None:
    settings.WS4REDIS_CLOSE_WINDOW = 60
    protocol, send = uvicorn_protocol(kind)
    delays = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, *_: delays.append(delay))
    behind(send).on_stop(asyncio.current_task(), lambda: None)
    protocol.shutdown()
    assert delays == [0]


# Real servers

#: The peer that is found on a server, by what is around its send; a plain one where not told.
FOUND = {"own": True, "session": True, "talkative": False}

WRAPPERS = ["own", "session", "talkative", "timeout", "variables", "future", "lazy"]


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest) -> Iterator[AsgiServer]:
    """Each server, and each of uvicorn's implementations, with an application that takes orders."""
    with AsgiServer(request.param, application="tests.site.peers:application") as running:
        yield running


@pytest.mark.server
@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_order_is_kept_through_any_send_however_slowly_the_client_reads(
    server, wrapper: str
) -> None:
    """Ten megabytes are more than lies between a server and a client that does not read."""
    known = "DaphnePeer" if server.kind == "daphne" else "UvicornPeer"
    found = [known, FOUND[wrapper]] if wrapper in FOUND else ["Peer", False]
    async with Visitor(server).socket(f"/{wrapper}", max_queue=1) as client:
        assert json.loads(await client.receive()) == found
        await client.send("count 10000")
        await asyncio.sleep(0.3)  # a slow client
        numbers = [int(message[:6]) for message in await client.receive_many(10_000)]
        assert numbers == list(range(10_000))
        await client.send("count 10")
        assert [int(message[:6]) for message in await client.receive_many(10)] == list(range(10))


@pytest.mark.server
@pytest.mark.parametrize("subprotocol", [None, SUBPROTOCOL], ids=["raw", "v1"])
@pytest.mark.parametrize("awaitable", [asyncio.ensure_future, Lazy])
async def test_send_and_receive_need_be_no_coroutines(
    redis_url, settings, awaitable, subprotocol: str | None
) -> None:
    """A socket opens after a while, gets what was stored, hears, publishes, and is closed."""
    settings.WS4REDIS_PROCESS_REQUEST = "tests.test_servers.dawdle"
    publisher = RedisPublisher(facility="foo", broadcast=True)
    await publisher.apublish_message("stored")

    async def application(scope, receive, send) -> None:
        await router(scope, lambda: awaitable(receive()), lambda frame: awaitable(send(frame)))

    client = WebsocketCommunicator(
        application,
        "/ws/foo?subscribe-broadcast&publish-broadcast&echo",
        subprotocols=[] if subprotocol is None else [subprotocol],
    )
    assert (await client.connect(PATIENCE))[0]
    if subprotocol is not None:
        await client.send_json_to({"type": "hello"})
        while (await client.receive_json_from(PATIENCE))["type"] != "message":
            pass
        await client.send_to("none of the protocol")
        async with asyncio.timeout(PATIENCE):
            while (frame := await client.receive_output(PATIENCE))["type"] != "websocket.close":
                pass
        assert frame["code"] == 4500
        return
    assert await client.receive_from(PATIENCE) == "stored"
    await client.send_to("mine")
    assert await client.receive_from(PATIENCE) == "mine"
    await publisher.apublish_message("live")
    assert await client.receive_from(PATIENCE) == "live"
    await client.disconnect()


async def dawdle(request) -> None:
    """Take so long that the client is watched, as WS4REDIS_PROCESS_REQUEST."""
    await asyncio.sleep(2 * WATCH_AFTER)


@pytest.mark.server
@pytest.mark.parametrize("code", [1000, 1001, 1011, 1013, 4002])
@pytest.mark.parametrize("wrapper", ["own", "session"])
async def test_a_socket_is_closed_with_any_code(server, wrapper: str, code: int) -> None:
    async with Visitor(server).socket(f"/{wrapper}") as client:
        await client.receive()
        await client.send(f"close {code}")
        assert await client.close_code() == code


@pytest.mark.server
@pytest.mark.parametrize("wrapper", ["own", "session", "talkative"])
async def test_a_socket_is_aborted_without_a_word(server, wrapper: str) -> None:
    async with Visitor(server).socket(f"/{wrapper}") as client:
        await client.receive()
        await client.send("abort 0")
        with pytest.raises(websockets.ConnectionClosedError) as caught:
            await client.receive()
    assert caught.value.rcvd is None


@pytest.mark.server
@pytest.mark.parametrize("wrapper", ["own", "session"])
async def test_a_client_has_its_whole_time_to_answer_on_daphne(
    serve, silent_client, wrapper: str
) -> None:
    """Of the second that the peer is told, autobahn would leave it none to all."""
    server = serve("daphne", application="tests.site.peers:application")
    clients = [silent_client(server.port, f"/{wrapper}") for _ in range(2)]
    for client in clients:
        client.say("close 1000")
        frames = client.frames()
        while next(frames)[0] != 8:
            pass
        begun = time.monotonic()
        assert next(frames, None) is None
        assert time.monotonic() - begun > 0.95


@pytest.mark.server
async def test_a_server_has_nothing_to_complain_about(server) -> None:
    """Neither a coroutine that nobody awaited nor an exception; runs last."""
    log = server.log
    assert "never awaited" not in log
    assert "Traceback" not in log


@pytest.mark.server
async def test_a_client_cannot_name_the_root_path(serve):
    """Daphne would take it from a header; a hook that looks at the path would see another one."""
    server = serve("daphne")
    path, root = "/ws/lobby/ws/secret?subscribe-broadcast", {"Daphne-Root-Path": "/ws/lobby"}
    assert await Visitor(server).refused(path, **root) == 403
    assert server.says("Daphne-Root-Path")


@pytest.mark.server
async def test_the_root_path_of_a_foreign_router_is_not_the_clients(serve):
    """The facility has been matched already, so the socket is refused, and the log says why."""
    server = serve("daphne", application="tests.site.pieces:application")
    visitor = Visitor(server)
    path = "/ws/lobby/ws/secret?subscribe-broadcast"
    assert await visitor.refused(path, **{"Daphne-Root-Path": "/ws/lobby"}) == 403
    assert server.says("Daphne-Root-Path")
    assert await visitor.refused(path, Origin="http://evil.example") == 403
    async with visitor.socket(path, Origin=server.url("").rstrip("/")):
        pass


@pytest.mark.server
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_router_before_ours_may_lengthen_the_root_path(serve, kind):
    """Starlette's ``Mount`` does; but no client may, there either."""
    visitor = Visitor(serve(kind, application="tests.site.mounted:application"))
    async with visitor.socket("/app/ws/foo?subscribe-broadcast") as socket:
        await visitor.publish("Hello", facility="foo", broadcast=True)
        assert await socket.receive() == "Hello"
    if kind == "daphne":
        header = {"Daphne-Root-Path": "/ws/lobby"}
        assert await visitor.refused("/app/ws/lobby/ws/foo?subscribe-broadcast", **header) == 403


LARGE = 48 * 2**20


@pytest.mark.server
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_client_that_does_not_read_is_not_read(serve, silent_client, kind):
    """Its pings would be answered into memory; what it reads then are all of the answers."""
    server = serve(kind)
    client = silent_client(server.port, "/ws/foo?subscribe-broadcast")
    forget_peak(server.process.pid)
    before = peak(server.process.pid)
    assert await asyncio.to_thread(client.send, 9, b"p" * 125, LARGE) < LARGE / 2
    assert peak(server.process.pid) - before < 8e6
    answers = client.frames()
    assert [next(answers) for _ in range(10_000)] == [(10, b"p" * 125)] * 10_000


@pytest.mark.server
@pytest.mark.parametrize("kind", ["daphne", "uvicorn", "uvicorn-websockets", "uvicorn-wsproto"])
async def test_a_client_that_does_not_read_gets_no_further_by_messages(serve, silent_client, kind):
    """A message among its pings, which is taken, does not make the server read on."""
    server = serve(kind)
    client = silent_client(server.port, "/ws/foo?subscribe-broadcast")
    forget_peak(server.process.pid)
    before = peak(server.process.pid)

    def send() -> int:
        """Send both kinds in turn until the server takes no more, and return the bytes."""
        sent = 0
        while sent < LARGE and (step := client.send(9, b"p" * 125, 1)):
            sent += step
            if not client.send(1, b"x" * 1000, 1):
                break
        return sent

    assert await asyncio.to_thread(send) < LARGE / 2
    assert peak(server.process.pid) - before < 8e6


@pytest.mark.server
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_client_waits_until_what_it_has_sent_is_published(serve, silent_client, kind):
    """What it sends faster than that stays with it, and others go on."""
    server = serve(kind, settings={"WS4REDIS_SUBSCRIBER": "tests.site.slow.SlowSubscriber"})
    client = silent_client(server.port, "/ws/foo?publish-broadcast")
    forget_peak(server.process.pid)
    before = peak(server.process.pid)
    assert await asyncio.to_thread(client.send, 2, b"x" * 60_000, LARGE) < LARGE / 2
    assert peak(server.process.pid) - before < 8e6
    async with Visitor(server).socket(
        "/ws/foo?subscribe-broadcast&publish-broadcast&echo"
    ) as other:
        await other.send("Hello")
        async with asyncio.timeout(10):
            while await other.receive() != "Hello":
                pass
