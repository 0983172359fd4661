"""What waits to be written to one socket, and the one place that writes it."""

from __future__ import annotations

import asyncio
import logging
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from channels_ws4redis.protocol.messages import Frame
from channels_ws4redis.servers import TwistedTransport

logger = logging.getLogger(__name__)

Send = Callable[[Frame], Coroutine[Any, Any, None]]


class Outbox:
    """A bounded queue of frames in front of a server's ``send``.

    A frame is handed to the server on the spot as long as the server takes it without waiting,
    which is nearly always, and costs no task switch. Only when the server holds us up (the client
    reads too slowly) do frames queue here, and a task writes them when it may.

    :param max_messages: frames that may wait.
    :param max_bytes: bytes that may wait; a single frame larger than that still passes.
    :param on_overflow: called once, when a bound is exceeded or the server refuses a frame.
    """

    __slots__ = ("_bytes", "_extra_bytes", "_extra_messages", "_frames", "_max_bytes",
                 "_max_messages", "_on_overflow", "_send", "_transport", "_writer",
                 "closed")  # fmt: skip

    def __init__(
        self, send: Send, max_messages: int, max_bytes: int, on_overflow: Callable[[], None]
    ) -> None:
        self._send = send
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._on_overflow = on_overflow
        #: None while nothing waits, which is nearly always: an empty deque takes 0.7 KiB.
        self._frames: deque[Frame] | None = None
        self._bytes = 0
        #: Room made for stored messages, until the outbox has been empty.
        self._extra_messages = 0
        self._extra_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._transport = TwistedTransport.behind(send)
        self.closed = False

    def put(self, frame: Frame, stored: bool = False) -> None:
        """Write a frame, now or as soon as the server takes it.

        :param stored: the frame comes from the history, which has its own bound. It does not count
            against ours, or a client whose history is larger could never come back.
        """
        if self.closed:
            return
        if self._writer is None and (self._transport is None or self._transport.writable):
            try:
                self._write(frame)
            except Exception:
                # Servers raise whatever they like for a socket that is already gone.
                logger.debug("The socket is gone", exc_info=True)
                self.close()
            return
        size = _size(frame)
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frame)
        self._bytes += size
        if stored:
            self._extra_messages += 1
            self._extra_bytes += size
        elif not self.has_room_for(
            len(self._frames) - self._extra_messages, self._bytes - self._extra_bytes
        ):
            self.close()
            self._on_overflow()
            return
        if self._writer is None:
            self._writer = asyncio.ensure_future(self._drain(None))

    def has_room_for(self, messages: int, size: int) -> bool:
        """Tell whether so many messages of so many bytes altogether are within the bounds."""
        return messages <= self._max_messages and (size <= self._max_bytes or messages <= 1)

    def _write(self, frame: Frame) -> None:
        """Run ``send`` up to where it would wait; only then give it a task to wait in."""
        sending = self._send(frame)
        try:
            waiting_for = sending.send(None)
        except StopIteration:
            return
        self._writer = asyncio.ensure_future(self._drain(_resume(sending, waiting_for)))

    async def _drain(self, first: Awaitable[None] | None) -> None:
        try:
            if first is not None:
                await first
            while True:
                if self._transport is not None:
                    await self._transport.wait()
                if not self._frames:
                    self._extra_messages = self._extra_bytes = 0
                    self._frames = None
                    return
                frame = self._frames.popleft()
                self._bytes -= _size(frame)
                await self._send(frame)
        except Exception:
            logger.debug("The socket is gone", exc_info=True)
            self.close()
        finally:
            self._writer = None

    async def flush(self) -> None:
        """Wait until everything has been handed to the server."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def close(self) -> None:
        """Drop what waits and take no more."""
        self.closed = True
        self._frames = None
        self._bytes = 0
        if self._writer is not None:
            self._writer.cancel()
        if self._transport is not None:
            self._transport.release()

    def __len__(self) -> int:
        return len(self._frames or ())


def _size(frame: Frame) -> int:
    text = frame.get("text")
    return len(text if text is not None else frame.get("bytes", b""))


@types.coroutine
def _resume(sending: Coroutine[Any, Any, None], waiting_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was started by hand and has come to wait for something."""
    while True:
        try:
            result = yield waiting_for
        except BaseException as error:  # noqa: BLE001 # passed on, whatever it is
            try:
                waiting_for = sending.throw(error)
            except StopIteration:
                return
        else:
            try:
                waiting_for = sending.send(result)
            except StopIteration:
                return
