"""The outbox: what waits for a client that reads slowly, and what becomes of one that does not."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import pytest

from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.protocol.messages import SUBPROTOCOL, json_frame
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.servers import Peer, Send, behind
from channels_ws4redis.servers.peer import KnownPeer
from channels_ws4redis.serving.ending import SLOW_CLOSE_TIMEOUT
from tests.clients import Visitor
from tests.silent import forget_peak, peak

#: Megabytes; WS4REDIS_TEST_FLOOD=300 makes it thorough.
FLOOD = int(os.environ.get("WS4REDIS_TEST_FLOOD", "48"))

FRAME = Frame("x" * 100)


class Server:
    """The ``send`` of a server that waits while its client does not read."""

    def __init__(self) -> None:
        self.sent: list[dict] = []
        self.writable = asyncio.Event()
        self.writable.set()
        self.broken = False

    async def send(self, frame: dict) -> None:
        """Take a frame."""
        if self.broken:
            raise ConnectionResetError
        self.sent.append(frame)
        await self.writable.wait()

    @property
    def numbers(self) -> list[int]:
        """What was sent, of what `number` has made."""
        return [int(frame["text"]) for frame in self.sent]


class Overflow:
    """Counts how often it is told."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


#: How a server's send is called: on the spot if it is known to be its own, else in a task.
WAYS: dict[str, Callable[[Send], Peer]] = {
    "own": lambda send: KnownPeer(send, None, own=True),
    "other": Peer,
}


@pytest.fixture
def overflow() -> Overflow:
    return Overflow()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(params=WAYS)
def peer(request: pytest.FixtureRequest, server: Server) -> Peer:
    """The server's socket, by either way."""
    return WAYS[request.param](server.send)


def opened(peer: Peer, *rest) -> Outbox:
    """Return an outbox that may write."""
    outbox = Outbox(peer, *rest)
    outbox.open()
    return outbox


def number(index: int) -> Frame:
    return Frame(str(index))


async def test_a_frame_is_sent_on_the_spot(server, overflow) -> None:
    """Without a task switch, while the server takes it."""
    outbox = opened(WAYS["own"](server.send), 10, 1000, overflow)
    outbox.put(FRAME)
    assert server.sent == [FRAME.event]
    assert len(outbox) == 0
    assert len(asyncio.all_tasks()) == 1


async def test_order_is_kept_when_the_server_holds_us_up(server, peer, overflow) -> None:
    outbox = opened(peer, 100, 1000, overflow)
    outbox.put(number(0))
    await outbox.flush()
    server.writable.clear()
    for index in range(1, 50):
        outbox.put(number(index))
    await asyncio.sleep(0)
    assert len(outbox) == 48
    server.writable.set()
    await outbox.flush()
    for index in range(50, 60):
        outbox.put(number(index))
    await outbox.flush()
    assert server.numbers == list(range(60))
    assert not overflow.count


async def test_order_is_kept_between_the_ways(server, peer, overflow) -> None:
    """Whenever the server waits, and for however long, between being written to on the spot."""
    outbox = opened(peer, 10_000, 10**6, overflow)
    waits = random.Random(1)
    for index in range(3000):
        if waits.random() < 0.1:
            server.writable.clear()
        elif waits.random() < 0.3:
            server.writable.set()
        if waits.random() < 0.2:
            await asyncio.sleep(0)
        if waits.random() < 0.5:
            outbox.put_stored(partial(number, index), 1)
        else:
            outbox.put(number(index))
    server.writable.set()
    await outbox.flush()
    assert server.numbers == list(range(3000))
    assert len(asyncio.all_tasks()) == 1


async def test_nothing_is_written_before_the_outbox_is_open(server, peer, overflow) -> None:
    """Then all that has waited is, before anything else."""
    outbox = Outbox(peer, 10, 1000, overflow)
    for index in range(5):
        outbox.put(number(index))
    await outbox.flush()
    await asyncio.sleep(0)
    assert server.sent == []
    assert len(outbox) == 5
    outbox.open()
    for index in range(5, 8):
        outbox.put(number(index))
    await outbox.flush()
    assert server.numbers == list(range(8))
    outbox.open()
    outbox.put(number(8))
    await outbox.flush()
    assert server.numbers == list(range(9))


async def test_what_waits_for_the_opening_is_bounded(server, peer, overflow) -> None:
    outbox = Outbox(peer, 5, 1000, overflow)
    for index in range(6):
        if index < 2:
            outbox.put_stored(partial(number, index), 1)
        else:
            outbox.put(number(index))
    assert not overflow.count
    for _ in range(5):
        outbox.put(FRAME)
    assert overflow.count == 1
    outbox.open()
    outbox.put(FRAME)
    await asyncio.sleep(0)
    assert server.sent == []
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(("messages", "size"), [(5, 10**6), (1000, 500)], ids=["number", "size"])
async def test_a_bound_that_is_exceeded_closes_the_outbox_once(
    server, peer, overflow, messages, size
) -> None:
    server.writable.clear()
    outbox = opened(peer, messages, size, overflow)
    outbox.put(FRAME)
    await asyncio.sleep(0)
    for _ in range(5):
        outbox.put(FRAME)
    assert not overflow.count
    for _ in range(6):
        outbox.put(FRAME)
    assert overflow.count == 1
    assert outbox.closed
    assert len(outbox) == 0
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_single_large_frame_passes(server, peer, overflow) -> None:
    server.writable.clear()
    outbox = opened(peer, 10, 50, overflow)
    outbox.put(FRAME)
    await asyncio.sleep(0)
    outbox.put(FRAME)
    assert not overflow.count
    outbox.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "text", ["☃" * 1000, "x" * 999 + "\U0001f600"], ids=["on the wire", "in memory"]
)
async def test_bytes_are_counted_and_not_characters(server, peer, overflow, text) -> None:
    """A snowman takes three bytes on the wire; with an emoji every character takes four here."""
    server.writable.clear()
    outbox = opened(peer, 100, 9000, overflow)
    outbox.put(Frame(text))
    await asyncio.sleep(0)
    for _ in range(2):
        outbox.put(Frame(text))
    assert not overflow.count
    for _ in range(2):
        outbox.put(Frame(text))
    assert overflow.count == 1
    await asyncio.sleep(0)


async def test_what_is_stored_is_encoded_when_the_client_takes_it(server, peer, overflow) -> None:
    """One at a time, and nothing of it for a client that never reads."""
    made = []

    def make(index: int) -> Frame:
        made.append(index)
        return number(index)

    outbox = Outbox(peer, 3, 250, overflow)
    for index in range(20):
        outbox.put_stored(partial(make, index), 1)
    assert made == []
    server.writable.clear()
    outbox.open()
    await asyncio.sleep(0.01)
    assert made == [0]
    server.writable.set()
    await outbox.flush()
    assert server.numbers == made == list(range(20))


async def test_the_history_does_not_count_against_the_bounds(server, peer, overflow) -> None:
    """Or a client whose history is larger than its outbox could never come back."""
    server.writable.clear()
    outbox = opened(peer, 3, 250, overflow)
    for _ in range(20):
        outbox.put_stored(lambda: FRAME, 100)
    for _ in range(2):
        outbox.put(FRAME)
    assert not overflow.count
    outbox.put(FRAME)
    assert overflow.count == 1
    await asyncio.sleep(0)


async def test_a_client_may_take_its_time_for_a_history(server, peer, overflow) -> None:
    """What is published while it reads on finds the room of what it has read."""

    def make(index: int) -> Frame:
        if index == 10:
            server.writable.clear()
        return number(index)

    outbox = opened(peer, 3, 250, overflow)
    for index in range(20):
        outbox.put_stored(partial(make, index), 100)
    await asyncio.sleep(0.01)
    assert server.numbers == list(range(11))
    for _ in range(11 + 2):
        outbox.put(FRAME)
    assert not overflow.count
    outbox.put(FRAME)
    assert overflow.count == 1
    await asyncio.sleep(0)


async def test_a_long_history_leaves_time_to_others(server, peer, overflow) -> None:
    """Also if its client reads as fast as the server writes, and nothing ever makes us wait."""
    outbox = opened(peer, 3, 250, overflow)
    for _ in range(10_000):
        outbox.put_stored(lambda: FRAME, 100)
    at_once, before = 0, 0
    while len(outbox):
        await asyncio.sleep(0)
        at_once, before = max(at_once, len(server.sent) - before), len(server.sent)
    assert at_once < 500
    assert len(server.sent) == 10_000


async def test_room_for_the_history_is_made_once(server, peer, overflow) -> None:
    server.writable.clear()
    outbox = opened(peer, 3, 10**6, overflow)
    for _ in range(20):
        outbox.put_stored(lambda: FRAME, 100)
    server.writable.set()
    await outbox.flush()
    server.writable.clear()
    for _ in range(5):
        outbox.put(FRAME)
    assert overflow.count == 1
    await asyncio.sleep(0)


async def test_a_socket_that_is_gone_is_no_error(server, peer, overflow) -> None:
    outbox = opened(peer, 10, 1000, overflow)
    server.broken = True
    outbox.put(FRAME)
    outbox.put(FRAME)
    await outbox.flush()
    assert outbox.closed
    assert not overflow.count


async def test_a_socket_that_goes_while_frames_wait_is_no_error(server, peer, overflow) -> None:
    server.writable.clear()
    outbox = opened(peer, 10, 10000, overflow)
    for _ in range(3):
        outbox.put(FRAME)
    await asyncio.sleep(0)
    server.broken = True
    server.writable.set()
    await outbox.flush()
    assert outbox.closed
    assert not overflow.count


async def test_closing_leaves_no_task(server, peer, overflow) -> None:
    server.writable.clear()
    outbox = opened(peer, 10, 10000, overflow)
    outbox.put(FRAME)
    outbox.put(json_frame({}))
    assert len(asyncio.all_tasks()) == 2
    outbox.close()
    outbox.put(FRAME)
    await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) == 1
    assert len(outbox) == 0


# Whatever awaitable a send returns, and whatever it does meanwhile


def put_by_another(outbox: Outbox, *frames: Frame) -> asyncio.Task[None]:
    """Put frames in a task that goes on to wait, as the one does that listens for all sockets."""

    async def listen() -> None:
        for frame in frames:
            outbox.put(frame)
        await outbox.flush()
        await asyncio.sleep(0.2)

    return asyncio.create_task(listen())


async def test_a_timeout_around_send_ends_this_socket_and_nothing_else(server, overflow) -> None:
    async def send(frame: dict) -> None:
        async with asyncio.timeout(0.05):
            await server.send(frame)

    outbox = opened(behind(send), 10, 1000, overflow)
    server.writable.clear()
    listener = put_by_another(outbox, FRAME, FRAME)
    await listener
    assert not listener.cancelled()
    assert outbox.closed
    assert server.sent == [FRAME.event]


async def test_a_send_that_is_cancelled_from_within_ends_this_socket_only(overflow) -> None:
    async def send(frame: dict) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    outbox = opened(behind(send), 10, 1000, overflow)
    listener = put_by_another(outbox, FRAME, FRAME)
    await listener
    assert outbox.closed
    assert len(asyncio.all_tasks()) == 1


async def test_send_sees_the_context_that_the_socket_began_in(server, overflow) -> None:
    """And may set and reset variables around its waiting."""
    request: ContextVar[str] = ContextVar("request")
    seen = []

    async def send(frame: dict) -> None:
        token = request.set(f"{request.get()}'s frame")
        await asyncio.sleep(0)
        await server.send(frame)
        seen.append(request.get())
        request.reset(token)

    async def begin() -> Outbox:
        request.set("john")
        return opened(behind(send), 10, 1000, overflow)

    outbox = await asyncio.create_task(begin())
    request.set("mary")
    await put_by_another(outbox, number(0), number(1))
    outbox.put(number(2))
    await outbox.flush()
    assert server.numbers == [0, 1, 2]
    assert seen == ["john's frame"] * 3


async def test_a_future_is_awaited(server, overflow) -> None:
    futures: list[asyncio.Future[None]] = []

    def send(frame: dict) -> asyncio.Future[None]:
        server.sent.append(frame)
        futures.append(asyncio.get_running_loop().create_future())
        return futures[-1]

    outbox = opened(behind(send), 10, 1000, overflow)
    for index in range(3):
        outbox.put(number(index))
    for index in range(3):
        await asyncio.sleep(0.01)
        assert server.numbers == list(range(index + 1))
        futures[-1].set_result(None)
    await outbox.flush()
    outbox.put(number(3))
    await asyncio.sleep(0)
    futures[-1].set_exception(ConnectionResetError())
    await outbox.flush()
    assert outbox.closed


async def test_a_send_that_raises_before_it_returns_anything_closes_the_outbox(overflow) -> None:
    def send(frame: dict) -> asyncio.Future[None]:
        raise ConnectionResetError

    outbox = opened(behind(send), 10, 1000, overflow)
    outbox.put(FRAME)
    await outbox.flush()
    assert outbox.closed


# Real servers


def flood(facility: str, megabytes: int) -> None:
    """Publish 64 KiB at a time, no faster than a client can read."""
    publisher = RedisPublisher(facility=facility, broadcast=True)
    for index in range(megabytes * 16):
        publisher.publish_message(f"{index:8}" + "x" * (64 * 1024 - 8))
        time.sleep(0.004)


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_memory_stays_bounded_however_slow_the_clients(
    serve, silent_client, kind: str
) -> None:
    """Of a thousand clients fifty do not read and are told to come back; nobody else notices."""
    server = serve(kind)
    pid = server.process.pid
    others = [silent_client(server.port, "/ws/quiet?subscribe-broadcast") for _ in range(949)]
    async with Visitor(server).socket("/ws/flood?subscribe-broadcast") as reader:
        flooding = asyncio.ensure_future(asyncio.to_thread(flood, "flood", 2))
        await reader.receive_many(32)
        await flooding
        silent = [silent_client(server.port, "/ws/flood?subscribe-broadcast") for _ in range(50)]
        forget_peak(pid)
        before, begun = peak(pid), time.monotonic()
        flooding = asyncio.ensure_future(asyncio.to_thread(flood, "flood", FLOOD))
        received = await reader.receive_many(FLOOD * 16)
        await flooding
        # Without bounds fifty times the flood would have piled up. With them it is 1 MiB each, and
        # what the server has taken: asyncio and Twisted say "enough" at 64 KiB.
        grown = peak(pid) - before
        assert grown < 50 * 1.25 * 2**20 + 10e6, f"{grown / 1e6:.0f} MB"
        assert [int(message[:8]) for message in received] == list(range(FLOOD * 16))
    for client in silent:
        _, code = await asyncio.to_thread(client.read_to_the_end)
        # Who is read later than the server waits for it is left without a close frame.
        assert code == 4002 or time.monotonic() - begun > SLOW_CLOSE_TIMEOUT
    RedisPublisher(facility="quiet", broadcast=True).publish_message("still here?")
    for client in others:
        assert await asyncio.to_thread(client.read) == b"still here?"


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_history_larger_than_the_outbox_arrives(serve, kind: str, settings) -> None:
    """A client that comes back gets it all, though it is more than may wait for it."""
    settings.WS4REDIS_HISTORY, settings.WS4REDIS_HISTORY_BYTES = 100, 10 * 2**20
    server = serve(kind, settings={"WS4REDIS_REPLAY": "all", "WS4REDIS_OUTBOX_BYTES": 64 * 1024})
    await asyncio.to_thread(flood, "large", 6)
    async with Visitor(server).socket(
        "/ws/large?subscribe-broadcast", subprotocols=[SUBPROTOCOL]
    ) as client:
        await client.send_json({"type": "hello", "positions": {}})
        welcome = await client.receive_json()
        assert welcome["channels"]["broadcast"]["replay"] == 96
        await asyncio.sleep(1)  # a slow client
        offsets = [(await client.receive_json())["offset"] for _ in range(96)]
    assert offsets == list(range(1, 97))


@pytest.mark.parametrize("subprotocol", [None, SUBPROTOCOL], ids=["raw", "protocol"])
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_the_history_costs_no_more_than_an_outbox(
    serve, silent_client, settings, kind: str, subprotocol: str | None
) -> None:
    """Twenty newcomers that never read a history that is six times as large in JSON.

    As a text of Python it is four times as large. Of each client's share the kernel takes some two
    MiB, so less would not show.
    """
    server = serve(kind, settings={"WS4REDIS_REPLAY": "all"})
    settings.WS4REDIS_HISTORY, settings.WS4REDIS_HISTORY_BYTES = 1000, 4 * 2**20
    publisher = RedisPublisher(facility="full", broadcast=True)
    for _ in range(500):
        publisher.publish_message("\x01" * 10236 + "\U0001f600")  # four bytes
    pid = server.process.pid
    forget_peak(pid)
    before = peak(pid)
    for _ in range(20):  # one by one, so that none shares a reading with another
        client = silent_client(server.port, "/ws/full?subscribe-broadcast", subprotocol)
        if subprotocol is not None:
            client.say('{"type":"hello","positions":{}}')
        client.wait()
    async with Visitor(server).socket("/ws/full?subscribe-broadcast") as reader:
        # After all the others were served; what did not fit is gone.
        assert len(await reader.receive_many(409)) == 409
    grown = peak(pid) - before
    assert grown < 20 * 4.5 * 2**20 + 10e6, f"{grown / 1e6:.0f} MB"
    assert not [line for line in server.lines if "Closing" in line]


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_client_that_never_reads_again_does_not_stay(
    serve, silent_client, kind: str
) -> None:
    """Its socket is closed for good after a while, whatever it does."""
    server = serve(kind)
    silent_client(server.port, "/ws/gone?subscribe-broadcast")
    await asyncio.to_thread(flood, "gone", 12)
    for _ in range(150):
        if not _connections(server.port):
            break
        await asyncio.sleep(0.2)
    assert not _connections(server.port)


async def test_middleware_that_gives_up_on_a_client_harms_nobody_else(serve, silent_client) -> None:
    """The process goes on to listen, for those that are there and for those that come."""
    server = serve(
        "uvicorn",
        application="tests.site.impatient:application",
        settings={"WS4REDIS_OUTBOX_BYTES": 64 * 1024 * 1024},  # the middleware is to be first
    )
    silent_client(server.port, "/ws/patience?subscribe-broadcast")
    async with Visitor(server).socket("/ws/patience?subscribe-broadcast") as reader:
        flooding = asyncio.ensure_future(asyncio.to_thread(flood, "patience", 16))
        received = await reader.receive_many(16 * 16)
        await flooding
        assert [int(message[:8]) for message in received] == list(range(16 * 16))
        async with Visitor(server).socket("/ws/patience?subscribe-broadcast") as newcomer:
            assert int((await newcomer.receive())[:8]) == 16 * 16 - 1
            await asyncio.to_thread(
                RedisPublisher(facility="patience", broadcast=True).publish_message, "still here?"
            )
            assert await reader.receive() == await newcomer.receive() == "still here?"


def _connections(port: int) -> int:
    """Count the connections that are established at a server's port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = f"0100007F:{port:04X}"
    return sum(line.split()[1] == local and line.split()[3] == "01" for line in lines)


async def test_what_one_subscription_has_put_there_is_dropped(server, overflow) -> None:
    """With the room that it has made; all else keeps its order."""
    server.writable.clear()
    outbox = opened(Peer(server.send), 10, 1000, overflow)
    one, two = object(), object()
    for index in range(6):
        outbox.put(number(index), one if index % 2 else two)
        outbox.put_stored(partial(number, 10 + index), 5, one if index % 2 else two)
    outbox.put(number(99))
    assert outbox.holds(one)
    outbox.drop(one)
    assert not outbox.holds(one)
    assert outbox.holds(two)
    outbox.drop(two)
    assert outbox._waiting is not None
    assert outbox._waiting.live() == (1, 2)
    server.writable.set()
    await outbox.flush()
    assert server.numbers[-1] == 99
    assert len(server.numbers) <= 2  # one was on its way
    assert not overflow.count
