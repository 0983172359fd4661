"""What waits to be written to one socket, and the one place that writes it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.servers import Peer
from channels_ws4redis.store.fairness import TimeSlice

logger = logging.getLogger(__name__)

#: Seconds for the server to say that the client has gone, after it has refused a frame.
FAILURE_PATIENCE = 5.0


#: Makes a frame at the moment at which it is written.
MakeFrame = Callable[[], Frame]


class _Item(NamedTuple):
    """One frame that waits."""

    frame: Frame | MakeFrame
    size: int
    #: Whether it is of a message from the history.
    stored: bool
    #: Which of the socket's subscriptions has put it here; None for what is of none.
    owner: object


class _Waiting:
    """What waits for a socket, and how much room it takes.

    What is stored adds to the room, until nothing of any kind waits any more. So a client that
    reads a long history at its own pace is not too slow for what is published meanwhile.
    """

    __slots__ = ("bytes", "frames", "stored", "stored_bytes")

    def __init__(self) -> None:
        self.frames: deque[_Item] = deque()
        self.bytes = self.stored = self.stored_bytes = 0

    def add(self, item: _Item) -> None:
        self.frames.append(item)
        self.bytes += item.size
        if item.stored:
            self.stored += 1
            self.stored_bytes += item.size

    def take(self) -> Frame:
        item = self.frames.popleft()
        self.bytes -= item.size
        return item.frame if isinstance(item.frame, Frame) else item.frame()

    def drop(self, owner: object) -> None:
        """Forget what is of one subscription, and the room that it has added."""
        kept: deque[_Item] = deque()
        for item in self.frames:
            if item.owner is not owner:
                kept.append(item)
                continue
            self.bytes -= item.size
            if item.stored:
                self.stored -= 1
                self.stored_bytes -= item.size
        self.frames = kept

    def live(self) -> tuple[int, int]:
        """Return the number and the bytes that count against the bounds."""
        return len(self.frames) - self.stored, self.bytes - self.stored_bytes


class Outbox:
    """A bounded queue of frames in front of a peer.

    Until `open` is called all frames wait. From then on a frame is handed to the peer on the spot
    as long as the peer takes it, which on servers that we know is nearly always, and costs no task
    switch. Otherwise frames wait, and a task writes them when it may.

    :param peer: the socket.
    :param max_messages: frames that may wait.
    :param max_bytes: bytes that may wait, on the wire or in memory; a single frame larger than that
        still passes.
    :param on_overflow: called once, when a bound is exceeded.
    :param on_failure: called some time after a frame could not be handed over, with the reason. If
        the client is still there then, its socket would be mute otherwise.
    """

    __slots__ = ("_max_bytes", "_max_messages", "_on_failure", "_on_overflow", "_opened", "_peer",
                 "_waiting", "_writer", "closed")  # fmt: skip

    def __init__(
        self,
        peer: Peer,
        max_messages: int,
        max_bytes: int,
        on_overflow: Callable[[], None],
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self._peer = peer
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._on_overflow = on_overflow
        self._on_failure = on_failure
        self._opened = False
        #: None while frames go out on the spot: an empty deque takes 0.7 KiB.
        self._waiting: _Waiting | None = _Waiting()
        #: Runs while the peer is open and something waits.
        self._writer: asyncio.Task[None] | None = None
        #: True once no frame is taken any more: by `close`, for a bound, or as the socket is gone.
        self.closed = False

    def open(self) -> None:
        """Hand over what waits, and write at once from now on; the socket has been accepted."""
        if self._opened or self.closed:
            return
        self._opened = True
        if len(self):
            self._start_writer(None)
        else:
            self._waiting = None

    @property
    def busy(self) -> bool:
        """True if a frame that is put now has to wait."""
        return self._waiting is not None or not self._peer.writable

    def put(self, frame: Frame, owner: object = None) -> None:
        """Write a frame, now or as soon as the server takes it.

        :param owner: which of the socket's subscriptions it is of, for `drop`.
        """
        if self._waiting is None and self._peer.writable:
            try:
                rest = self._peer.write(frame)
            except Exception as error:  # noqa: BLE001 # whatever a server raises
                self._fail(error)
            else:
                if rest is not None:
                    self._start_writer(rest)
        else:
            self._put_off(_Item(frame, frame.size, stored=False, owner=owner))

    def put_stored(self, make: MakeFrame, size: int, owner: object = None) -> None:
        """Have a frame made and written as soon as the server takes it.

        It is of a message from the history, which has its own bound. It does not count against
        ours, or a client whose history is larger could never come back. A frame may be much larger
        than its message, so it is not made before.

        :param size: bytes that ``make`` holds.
        :param owner: as in `put`.
        """
        self._put_off(_Item(make, size, stored=True, owner=owner))

    def holds(self, owner: object) -> bool:
        """Tell whether anything waits that one of the socket's subscriptions has put here."""
        return self._waiting is not None and any(
            item.owner is owner for item in self._waiting.frames
        )

    def drop(self, owner: object) -> None:
        """Forget what waits of a subscription that is over."""
        if self._waiting is not None:
            self._waiting.drop(owner)

    def _put_off(self, item: _Item) -> None:
        """Let a frame wait, if there is room for it."""
        if self.closed:
            return
        if self._waiting is None:
            self._waiting = _Waiting()
        self._waiting.add(item)
        if not item.stored and not self.has_room_for(*self._waiting.live()):
            self.overflow()
        elif self._opened and self._writer is None:
            self._start_writer(None)

    def overflow(self) -> None:
        """Give the socket up: more waits for it than there is room for."""
        if not self.closed:
            self.close()
            self._on_overflow()

    def _fail(self, error: Exception) -> None:
        """Take no more; usually the client has gone, and the server is about to say so."""
        logger.debug("A frame could not be handed over", exc_info=error)
        if not self.closed:
            self.close()
            if self._on_failure is not None:
                loop = asyncio.get_running_loop()
                loop.call_later(FAILURE_PATIENCE, self._on_failure, error)

    def has_room_for(self, messages: int, size: int) -> bool:
        """Tell whether so many messages of so many bytes altogether are within the bounds."""
        return messages <= self._max_messages and (size <= self._max_bytes or messages <= 1)

    def _start_writer(self, rest: Awaitable[None] | None) -> None:
        if self._waiting is None:
            self._waiting = _Waiting()
        loop = asyncio.get_running_loop()
        self._writer = loop.create_task(self._write(rest), context=self._peer.context)

    async def _write(self, rest: Awaitable[None] | None) -> None:
        """Write what waits, after the rest of a frame that has been begun.

        A client that reads as fast as we write never makes us wait. So that a long history does not
        hold up the event loop, others have their turn in between.
        """
        time_slice, clock = TimeSlice(), asyncio.get_running_loop().time
        try:
            if rest is not None:
                await rest
            while (waiting := self._waiting) is not None and not self.closed:
                await self._peer.drained()
                if not waiting.frames:
                    self._waiting = None
                    return
                begun, frame = clock(), waiting.take()
                rest = self._peer.write(frame)
                if rest is not None:
                    await rest
                time_slice.spend(frame.size, clock() - begun)
                await time_slice.end_if_due(turns=1)
        except Exception as error:  # noqa: BLE001 # whatever a server raises
            self._fail(error)
        except asyncio.CancelledError:
            if not self.closed:  # not by us
                self._fail(ConnectionAbortedError("The task that writes was cancelled."))
            raise
        finally:
            self._writer = None
            if self._waiting is not None:
                self.close()

    async def flush(self) -> None:
        """Wait until everything has been handed to the server, unless the outbox is not open."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def close(self) -> None:
        """Drop what waits and take no more."""
        self.closed = True
        self._waiting = _Waiting()
        if self._writer is not None:
            self._writer.cancel()

    def __len__(self) -> int:
        return 0 if self._waiting is None else len(self._waiting.frames)


def _closed() -> Outbox:
    outbox = Outbox(Peer(_send_nothing), 0, 0, lambda: None)
    outbox.closed = True
    return outbox


async def _send_nothing(event: object) -> None:
    pass


#: That of all subscriptions which are over: it takes nothing.
CLOSED = _closed()
