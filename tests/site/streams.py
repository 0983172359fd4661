"""An application that sends its client messages made from a seed, by both ways in turn.

The client's first message is an `Order` in JSON. What comes after it is taken and forgotten.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from operator import attrgetter
from random import Random
from typing import Any

from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.servers import Peer, Send, behind, straight
from channels_ws4redis.servers.straight import NONE

#: Bytes around which a frame has another form.
_EDGES = [10, 20, 125, 126, 1000, 1024, 1025, 2**16 - 1, 2**16]


@dataclass(frozen=True)
class Order:
    """What a client asks for."""

    seed: int = 1
    count: int = 300
    #: Bytes of the largest messages.
    top: int = 2000
    #: How many of a hundred frames are not to be written straight, though they might.
    whims: int = 30
    #: Bytes that may wait; when there are more, the socket is closed with 4002.
    room: int = 10**9
    #: Done after the last message: "report" the ways, "close", "abort", "tamper", or "nothing".
    end: str = "report"

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    def messages(self) -> Iterator[str | bytes]:
        """Yield the messages; each begins with its number."""
        chance = Random(self.seed)
        sizes = [size for size in _EDGES if size <= self.top]
        for number in range(self.count):
            size = chance.choice([chance.choice(sizes), chance.randrange(10, self.top)])
            letter = chance.choice(["x", "☃", "\U0001f600"])
            text = f"{number:06}" + letter * ((size - 6) // len(letter.encode()))
            yield text.encode() if chance.random() < 0.3 else text


async def application(scope: Any, receive: Any, send: Send) -> None:
    """Serve one socket."""
    if scope["type"] != "websocket":
        raise NotImplementedError
    peer = behind(send)
    peer.limit_messages(2**20)  # as the consumer does; on wsproto there is no compression then
    await receive()
    await send({"type": "websocket.accept"})
    order = Order(**json.loads((await receive())["text"]))
    full = asyncio.Event()
    outbox = Outbox(peer, 10**6, order.room, full.set)
    outbox.open()
    tasks = [
        asyncio.create_task(stream(peer, outbox, order)),
        asyncio.create_task(stop(peer, full, order)),
    ]
    while (await receive())["type"] != "websocket.disconnect":
        pass
    for task in tasks:
        task.cancel()
    outbox.close()
    peer.release()


async def stop(peer: Peer, full: asyncio.Event, order: Order) -> None:
    """Close a socket for which too much waits."""
    await full.wait()
    print(f"too slow for messages of {order.top} bytes", flush=True)
    await peer.close(4002, 10)


async def stream(peer: Any, outbox: Outbox, order: Order) -> None:
    """Send the messages, with pauses and with pings of the server's own between them."""
    chance, whims = Random(order.seed), Random(order.seed)
    ways, room = Counter[str](), peer._room

    def capricious(protocol: Any) -> float:
        found = NONE if whims.randrange(100) < order.whims else room(protocol)
        ways["by send" if found == NONE else "straight"] += 1
        return found

    if room is not None:
        peer._room = capricious
    for message in order.messages():
        outbox.put(Frame(message))
        if chance.random() < 0.1:
            await asyncio.sleep(0.001)
        elif chance.random() < 0.1:
            await ping(peer._protocol)
    if order.end == "abort":
        peer.abort()
        return
    await outbox.flush()
    if order.end == "nothing":
        return
    if order.end == "close":
        await peer.close(4000, 5, "enough")
        outbox.put(Frame("too late"))
    else:
        found = ways if order.end == "report" else dict(tamper(peer._protocol))
        outbox.put(Frame(json.dumps(found)))


async def ping(protocol: Any) -> None:
    """Have the server ping its client."""
    if hasattr(protocol, "sendPing"):  # daphne
        protocol.sendPing(b"ping")
    elif hasattr(protocol, "send_keepalive_ping"):  # uvicorn, on wsproto and websockets-sansio
        protocol.send_keepalive_ping()
    elif not protocol._paused:  # on websockets, which bears one task that waits for its client
        await protocol.ping()


def tamper(protocol: Any) -> Iterator[tuple[str, bool]]:
    """Change what has to be as it is about a server, and yield each change and whether it counts.

    Functions are wrapped in both ways, and what logs each frame is switched on.
    """
    known = straight._IMPLEMENTATIONS[f"{type(protocol).__module__}.{type(protocol).__qualname__}"]
    changes: list[tuple[str, Any]] = [(name, True) for name in known.off]
    for name in itertools.chain(*known.passed_over.values()):
        function = attrgetter(name)(protocol)
        changes += [(name, watched(function)), (name, Likeness(function))]
    for name, change in changes:
        path, _, attribute = name.rpartition(".")
        owner = attrgetter(path)(protocol) if path else protocol
        before = vars(owner).copy()
        setattr(owner, attribute, change)
        yield f"{name}: {change}", straight.room_of(protocol) is None
        vars(owner).pop(attribute)
        vars(owner).update(before)
    if known.log:
        logger = logging.getLogger(known.log)
        logger.setLevel(logging.DEBUG)
        yield known.log, straight.room_of(protocol) is None
        logger.setLevel(logging.NOTSET)
    yield "nothing", straight.room_of(protocol) is not None


def watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


class Likeness:
    """Wraps a function and has all its attributes and its class, as wrappers of wrapt have."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @property
    def __class__(self) -> type:
        return type(self._function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)
