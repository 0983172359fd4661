"""A client that counts: it speaks the package's own protocol and comes back after everything."""

from __future__ import annotations

import asyncio
import json
import random

import websockets
from websockets.asyncio.client import ClientConnection, connect

from channels_ws4redis.protocol.messages import SUBPROTOCOL
from tests.torture.oracle import Ledger
from tests.torture.track import Outcome, Tracks

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
        self._tracks = Tracks({})
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
            await socket.send(json.dumps({"type": "hello", "positions": self._tracks.positions}))
        clock = asyncio.get_running_loop().time
        while True:
            await self.thawed.wait()
            frame = json.loads(await socket.recv())
            if self._stock:
                self.ledger.take(frame["n"], clock())
                continue
            for outcome in self._tracks.received(frame):
                self._note(outcome, clock())
            if frame["type"] == "welcome":
                self._arrived(socket)
            elif frame["type"] == "ping":
                await socket.send('{"type":"pong"}')

    def _arrived(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.connected.set()

    def _note(self, outcome: Outcome, now: float) -> None:
        match outcome.kind:
            case "message":
                self.ledger.take(json.loads(outcome.data)["n"], now)
            case "repeated":
                # A client can bear this, but the server must never let it happen.
                self.ledger.duplicated += 1
            case "lost":
                self.ledger.report()
            case "recovered":
                self.ledger.recovered += outcome.messages
