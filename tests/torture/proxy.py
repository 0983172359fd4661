"""A TCP proxy that can be slow, be cut, or go silent without closing anything."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

#: Bytes read at once.
CHUNK = 65536


class Proxy:
    """Forwards a loopback port to another one.

    :param delay: seconds that everything takes, each way.
    """

    def __init__(self, target: int, delay: float = 0.0) -> None:
        self.port = 0
        #: How often a client has sent something after an answer, or for the first time.
        self.round_trips = 0
        self._target = target
        self._delay = delay
        #: None while it is cut. It is no server of asyncio, as that one loses sight of a connection
        #: that it has accepted and does not serve yet. Nobody closes such a connection then.
        self._listening: socket.socket | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._stalled: list[asyncio.Event] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=100)
        self._listening.setblocking(False)
        self.port = self._listening.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    async def cut(self) -> None:
        """Reset all connections and refuse new ones, until `start`."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        for writer in list(self._writers):
            writer.transport.abort()

    def silence(self) -> None:
        """Keep all connections and forward nothing, as if a cable had been pulled."""
        self._open.clear()

    def resume(self) -> None:
        """Forward again, including what had been held back."""
        self._open.set()

    def stall(self) -> None:
        """Let the present connections be silent for ever; new ones work."""
        self._open.clear()
        self._stalled.append(self._open)
        self._open = asyncio.Event()
        self._open.set()

    def lead_to(self, target: int) -> None:
        """Lead new connections to another port; the present ones stay where they are."""
        self._target = target

    def drop(self) -> None:
        """Reset all connections and take new ones at once."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """End the proxy."""
        for opened in [self._open, *self._stalled]:
            opened.set()
        await self.cut()
        while self._tasks:  # noqa: ASYNC110 # there is nothing to be told by
            await asyncio.sleep(0.01)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):  # its client has gone meanwhile
            connection, _ = listening.accept()
            task = asyncio.ensure_future(self._serve(connection, listening))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket, listening: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        self._writers.add(writer)
        try:
            if self._listening is listening:  # else it has been cut meanwhile
                await self._connect(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = self._open
        try:
            await opened.wait()
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            return
        self._writers.add(there[1])
        heard = asyncio.Event()
        heard.set()

        def count(chunk: bytes) -> None:
            self.round_trips += heard.is_set()
            heard.clear()

        ways = [
            asyncio.ensure_future(_forward(reader, there[1], opened, self._delay, count)),
            asyncio.ensure_future(
                _forward(there[0], writer, opened, self._delay, lambda chunk: heard.set())
            ),
        ]
        try:
            await asyncio.wait(ways, return_when="FIRST_COMPLETED")
        finally:
            for way in ways:
                way.cancel()
            self._writers.discard(there[1])
            there[1].transport.abort()


async def _forward(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    opened: asyncio.Event,
    delay: float,
    tell: Callable[[bytes], None],
) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            await opened.wait()
            tell(chunk)
            if delay:
                loop.call_later(delay, writer.write, chunk)
            else:
                writer.write(chunk)
            await writer.drain()
