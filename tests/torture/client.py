"""A client that counts: it speaks the package's own protocol and comes back after everything."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect

from channels_ws4redis.protocol.messages import SUBPROTOCOL
from tests.torture.oracle import Ledger

#: The only channel of a torture client.
LABEL = "broadcast"

#: Seconds before coming back: at most, in the first and in later attempts, with full jitter.
BACKOFF = 0.2, 2.0

#: Close codes from which on a client must not come back.
TERMINAL = 4500


class TortureClient:
    """One socket after the other, and one ledger over all of them."""

    def __init__(self, url: str, facility: int, ledger: Ledger, stock: bool) -> None:
        self.facility = facility
        self.ledger = ledger
        #: Cleared while the client is frozen: it reads nothing.
        self.thawed = asyncio.Event()
        self.thawed.set()
        #: Set once the client has been connected for the first time.
        self.connected = asyncio.Event()
        self._url = url
        self._stock = stock
        self._position: dict[str, Any] | None = None
        self._replay = 0
        self._socket: ClientConnection | None = None

    async def run(self) -> None:
        """Connect and take messages, again and again, until cancelled."""
        delay = BACKOFF[0]
        while True:
            try:
                async with connect(
                    self._url,
                    subprotocols=None if self._stock else [SUBPROTOCOL],  # type: ignore[list-item] # a NewType of str
                    compression=None,
                    open_timeout=5,
                    close_timeout=0.5,
                    ping_interval=5,
                    ping_timeout=10,
                    max_size=None,
                    proxy=None,
                ) as socket:
                    await self._attend(socket)
            except (OSError, websockets.WebSocketException, EOFError):
                pass  # whatever has happened, the answer is to come back
            if self._socket is not None:
                if (self._socket.close_code or 0) >= TERMINAL:
                    raise RuntimeError(f"Told to stay away: {self._socket.close_reason!r}")
                delay = BACKOFF[0]
                self.ledger.reconnects += 1
                self._socket = None
            await asyncio.sleep(random.uniform(0, delay))  # no secret
            delay = min(2 * delay, BACKOFF[1])

    def drop(self) -> None:
        """Lose the connection without a word."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def _attend(self, socket: ClientConnection) -> None:
        if self._stock:
            self._arrived(socket)
        else:
            positions = {} if self._position is None else {LABEL: self._position}
            await socket.send(json.dumps({"type": "hello", "positions": positions}))
        clock = asyncio.get_running_loop().time
        while True:
            await self.thawed.wait()
            body = json.loads(await socket.recv())
            if self._stock:
                self.ledger.take(body["n"], clock())
            elif body["type"] == "welcome":
                self._welcome(body["channels"][LABEL])
                self._arrived(socket)
            elif body["type"] == "message":
                self._take(body, clock())
            elif body["type"] in ("lost", "position"):
                if body["type"] == "lost":
                    self.ledger.report()
                self._position = {"epoch": body["epoch"], "offset": body["offset"]}
            elif body["type"] == "ping":
                await socket.send('{"type":"pong"}')

    def _arrived(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.connected.set()

    def _welcome(self, channel: dict[str, Any]) -> None:
        self._replay = channel["replay"]
        if channel["recovered"] is False:
            self.ledger.report()
        if channel["recovered"] is not True:
            # A client may be cut off within the replay, so it does not take the top for granted.
            self._position = {"epoch": channel["epoch"], "offset": 0}
        if not self._replay:
            self._position = {"epoch": channel["epoch"], "offset": channel["offset"]}

    def _take(self, body: dict[str, Any], now: float) -> None:
        position = self._position
        assert position is not None
        if body["epoch"] == position["epoch"] and body["offset"] <= position["offset"]:
            # The server must never let this happen, so it counts.
            self.ledger.duplicated += 1
            return
        self._position = {"epoch": body["epoch"], "offset": body["offset"]}
        if self._replay:
            self._replay -= 1
            self.ledger.recovered += 1
        self.ledger.take(json.loads(body["data"])["n"], now)
