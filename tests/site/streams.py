"""An application that sends its client messages made from a seed, by both ways in turn.

The client's first message is an `Order` in JSON. What comes after it is taken and forgotten.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from channels_ws4redis.fanout.outbox import Outbox
from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.servers import Send, behind
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
    #: What is done after the last message: "report" the ways, "close", or "abort".
    end: str = "report"

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    def messages(self) -> Iterator[str | bytes]:
        """Yield the messages; each begins with its number."""
        chance = Random(self.seed)
        sizes = [size for size in _EDGES if size <= self.top]
        for number in range(self.count):
            size = chance.choice([*sizes, chance.randrange(10, self.top)])
            letter = chance.choice(["x", "☃", "\U0001f600"])
            text = f"{number:06}" + letter * ((size - 6) // len(letter.encode()))
            yield text.encode() if chance.random() < 0.3 else text


async def application(scope: Any, receive: Any, send: Send) -> None:
    """Serve one socket."""
    if scope["type"] != "websocket":
        raise NotImplementedError
    peer = behind(send)
    outbox = Outbox(peer, 10**6, 10**9, lambda: None)
    await receive()
    await send({"type": "websocket.accept"})
    outbox.open()
    order = Order(**json.loads((await receive())["text"]))
    streaming = asyncio.create_task(stream(peer, outbox, order))
    while (await receive())["type"] != "websocket.disconnect":
        pass
    streaming.cancel()
    outbox.close()
    peer.release()


async def stream(peer: Any, outbox: Outbox, order: Order) -> None:
    """Send the messages, with pauses and with pings of the server's own between them."""
    chance, ways, room = Random(order.seed), Counter[str](), peer._room

    def capricious(protocol: Any) -> float:
        found = NONE if chance.randrange(100) < order.whims else room(protocol)
        ways["by send" if found == NONE else "straight"] += 1
        return found

    if room is not None:
        peer._room = capricious
    for message in order.messages():
        outbox.put(Frame(message))
        if chance.random() < 0.1:
            await asyncio.sleep(0.001)
        elif chance.random() < 0.03:
            await ping(peer._protocol)
    if order.end == "report":
        outbox.put(Frame(json.dumps(ways)))
    elif order.end == "close":
        await outbox.flush()
        await peer.close(4000, 5, "enough")
    elif order.end == "abort":
        peer.abort()


async def ping(protocol: Any) -> None:
    """Have the server ping its client."""
    if hasattr(protocol, "sendPing"):  # daphne
        protocol.sendPing(b"ping")
    elif hasattr(protocol, "send_keepalive_ping"):  # uvicorn, on wsproto and websockets-sansio
        protocol.send_keepalive_ping()
    elif not protocol._paused:  # on websockets, which bears one task that waits for its client
        await protocol.ping()
