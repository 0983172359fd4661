"""How long others wait for a server: a handshake, a page, and a message of another channel.

A process of its own, as the load generator is busy with what its sockets get. It prints the seconds
that each of them took, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import django
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

#: Seconds between the end of one attempt and the next of its kind.
PAUSE = 0.005

#: Where nobody of the crowd listens.
FACILITY = "elsewhere"


class Hearer(WSListener):
    """A socket that tells when it hears something."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Tell."""
        if frame.msg_type == WSMsgType.TEXT:
            self.heard.set()


class Probe:
    """Asks one server again and again."""

    def __init__(self, port: int, path: str, cookie: str | None) -> None:
        self.port = port
        self.path = path
        self.headers = {"Origin": f"http://127.0.0.1:{port}"}
        if cookie:
            self.headers["Cookie"] = cookie

    async def run(self, seconds: float) -> dict[str, list[float]]:
        """Return how long each took."""
        from channels_ws4redis.publisher import RedisPublisher

        hearer = Hearer()
        transport, _ = await self.connect(hearer, f"/ws/{FACILITY}?subscribe-broadcast")
        publisher = RedisPublisher(facility=FACILITY, broadcast=True)

        async def message() -> None:
            hearer.heard.clear()
            await publisher.apublish_message("x", 0)
            await hearer.heard.wait()

        kinds = {"handshake": self.handshake, "page": self.page, "message": message}
        works = (self.repeat(work, seconds) for work in kinds.values())
        found = dict(zip(kinds, await asyncio.gather(*works), strict=True))
        transport.disconnect()
        return found

    async def repeat(self, work: Callable[[], Awaitable[None]], seconds: float) -> list[float]:
        """Do something again and again, and return how long it took each time."""
        took, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            begun = time.perf_counter()
            await work()
            took.append(time.perf_counter() - begun)
            await asyncio.sleep(PAUSE)
        return took

    async def connect(self, listener: WSListener, path: str) -> Any:
        """Open a socket."""
        return await ws_connect(
            lambda: listener,
            f"ws://127.0.0.1:{self.port}{path}",
            extra_headers=self.headers,
            websocket_handshake_timeout=60,
        )

    async def handshake(self) -> None:
        """Open a socket and close it."""
        transport, _ = await self.connect(Hearer(), self.path)
        transport.disconnect()

    async def page(self) -> None:
        """Get a page over a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /page HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]


def main() -> None:
    """Probe the server that the plan on standard input names."""
    plan = json.load(sys.stdin)
    django.setup()
    probe = Probe(plan["port"], plan["path"], plan["cookie"])
    json.dump(uvloop.run(probe.run(plan["seconds"])), sys.stdout)


if __name__ == "__main__":
    main()
