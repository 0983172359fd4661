"""Stopping a server: every client is told to come back, not all at once, and hooks run."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from channels_ws4redis.protocol.messages import SUBPROTOCOL
from channels_ws4redis.store.process import get_client
from channels_ws4redis.subscriber import RedisSubscriber
from tests.clients import Socket, Visitor

#: Sockets that are open when the server is told to stop.
SOCKETS = 30

#: Seconds over which servers are told to spread the closing.
WINDOW = 2.0


class CountingSubscriber(RedisSubscriber):
    """Counts in Redis how many sockets have been released."""

    def release(self) -> None:
        """Count."""
        super().release()
        self._connection.incr("released")


async def stop(server, sockets: list[Socket]) -> tuple[float, list[int | None], list[float]]:
    """Stop a server and return how long it took, and each socket's close code and when it came."""
    begun = time.monotonic()

    async def end(socket: Socket) -> tuple[int | None, float]:
        return await socket.close_code(), time.monotonic() - begun

    stopping = asyncio.ensure_future(asyncio.to_thread(server.stop, signal.SIGTERM))
    ends = await asyncio.gather(*map(end, sockets))
    await stopping
    return time.monotonic() - begun, [code for code, _ in ends], [when for _, when in ends]


@pytest.mark.parametrize(("kind", "code"), [("daphne", 1001), ("uvicorn", 1012)])
@pytest.mark.parametrize("subprotocol", [None, SUBPROTOCOL], ids=["raw", "v1"])
async def test_every_socket_is_told_to_come_back(
    serve, redis_client, kind: str, code: int, subprotocol: str | None
) -> None:
    server = serve(
        kind,
        settings={
            "WS4REDIS_SUBSCRIBER": "tests.test_shutdown.CountingSubscriber",
            "WS4REDIS_CLOSE_WINDOW": WINDOW,
        },
    )
    visitor = Visitor(server)
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(
                visitor.socket(
                    "/ws/stop?subscribe-broadcast",
                    subprotocols=None if subprotocol is None else [subprotocol],
                )
            )
            for _ in range(SOCKETS)
        ]
        seconds, codes, times = await stop(server, sockets)
    assert codes == [code] * SOCKETS
    assert seconds < WINDOW + 8
    assert int(redis_client.get("released")) == SOCKETS
    assert max(times) - min(times) > WINDOW / 2


async def test_a_server_with_less_patience_than_the_window_closes_them_sooner(
    serve, redis_client
) -> None:
    settings = {
        "WS4REDIS_SUBSCRIBER": "tests.test_shutdown.CountingSubscriber",
        "WS4REDIS_CLOSE_WINDOW": 30,
    }
    visitor = Visitor(serve("uvicorn", settings=settings, patience=1))
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(visitor.socket("/ws/stop?subscribe-broadcast"))
            for _ in range(SOCKETS)
        ]
        seconds, codes, times = await stop(visitor.site, sockets)
    assert codes == [1012] * SOCKETS
    assert seconds < 8
    assert max(times) - min(times) > 0.2
    assert int(redis_client.get("released")) == SOCKETS


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_nothing_holds_up_the_end(serve, kind: str) -> None:
    """Not a client that never says hello, nor one that reads nothing, nor a Redis that is away."""
    server = serve(kind)
    visitor = Visitor(server)
    async with (
        visitor.socket("/ws/stop?subscribe-broadcast", subprotocols=[SUBPROTOCOL]),
        visitor.socket("/ws/stop?subscribe-broadcast"),
    ):
        begun = time.monotonic()
        await asyncio.to_thread(server.stop, signal.SIGTERM)
        assert time.monotonic() - begun < WINDOW + 8


SERVERS = ["daphne", "uvicorn", "uvicorn-wsproto", "uvicorn-websockets"]

#: What a raw connection sends to open a socket.
HANDSHAKE = (
    b"GET /ws/stop?subscribe-broadcast HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)


@asynccontextmanager
async def stopping(server) -> AsyncIterator[None]:
    """Have a server stop, with open sockets that it must close first."""
    visitor = Visitor(server)
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(visitor.socket("/ws/stop?subscribe-broadcast"))
            for _ in range(20)
        ]
        ending = [asyncio.ensure_future(socket.close_code()) for socket in sockets]
        server.process.send_signal(signal.SIGTERM)
        await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        assert not all(end.done() for end in ending)
        yield
        codes = await asyncio.gather(*ending)
        assert set(codes) <= {1001, 1012}


@pytest.mark.parametrize("kind", SERVERS)
async def test_nobody_is_let_in_by_a_server_that_stops(serve, kind: str) -> None:
    """A client that comes back is refused at once, and does not take the dying server for good."""
    server = serve(kind, settings={"WS4REDIS_CLOSE_WINDOW": WINDOW})

    async def come_back() -> None:
        with pytest.raises(ConnectionRefusedError):
            async with Visitor(server).socket("/ws/stop?subscribe-broadcast"):
                pass

    async with stopping(server):
        begun = time.monotonic()
        await asyncio.gather(*(come_back() for _ in range(20)))
        assert time.monotonic() - begun < WINDOW / 2


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Return the first line of an HTTP response; nothing if the connection is closed instead."""
    async with asyncio.timeout(1):
        with suppress(ConnectionResetError):
            return (await reader.readline()).strip()
    return b""


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_connection_from_before_the_stop_opens_no_socket_after_it(serve, kind: str) -> None:
    """Such as one that a proxy keeps for the next request."""
    server = serve(kind, settings={"WS4REDIS_CLOSE_WINDOW": WINDOW})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with stopping(server):
        writer.write(HANDSHAKE)
        status = await answer(reader)
    assert status == (b"HTTP/1.1 503 Shutting down" if kind == "daphne" else b"")
    writer.close()


async def linger(request) -> None:
    """Take long to find out who connects, as WS4REDIS_PROCESS_REQUEST."""
    get_client().rpush("lingering", "yes")
    await asyncio.sleep(30)


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_handshake_that_is_under_way_is_refused_at_once(
    serve, redis_client, kind: str
) -> None:
    """A client is not left waiting for a server that will never answer."""
    server = serve(
        kind,
        settings={
            "WS4REDIS_CLOSE_WINDOW": 60,
            "WS4REDIS_PROCESS_REQUEST": "tests.test_shutdown.linger",
        },
        patience=2,
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HANDSHAKE)
    await asyncio.to_thread(redis_client.blpop, "lingering", 10)
    server.process.send_signal(signal.SIGTERM)
    status = await answer(reader)
    assert status[:12] == (b"HTTP/1.1 503" if kind == "daphne" else b"HTTP/1.1 500")
    writer.close()


async def test_a_stopped_server_can_be_started_again_at_once(serve) -> None:
    server = serve()
    async with Visitor(server).socket("/ws/stop?subscribe-broadcast") as socket:
        await stop(server, [socket])
    server.start()
    async with Visitor(server).socket("/ws/stop?subscribe-broadcast"):
        pass
