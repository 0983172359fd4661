"""What has been read from the link to Redis and waits to be handed on.

Redis keeps for each reader what that reader has not read yet, and cuts the reader off when that
becomes too much (``client-output-buffer-limit pubsub``). All channels of a process share one link.
So reading must go on while a message is handed to many sockets. If too much waits, the
messages of the channels that have most of it are given up here, and all others are kept.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.fairness import MAX_SLICE_BYTES, TURNS_OF_OTHERS, TimeSlice, let_others
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)

#: Bytes that may wait in all, half of what Redis keeps by default before it cuts a reader off. If
#: they are exceeded, the lanes that hold most are given up until half of the room is free.
MAX_BYTES = 16 * 1024 * 1024

#: Bytes that an item takes beside its payload, roughly: short messages have to count, too.
ITEM_BYTES = 512

#: Bytes that make reading busy if they arrive while others have their turns, and the seconds for
#: which busy reading is waited for at most. Newcomers wait for messages on the link for 0.2 s
#: (`GRACE` in ``fanout/reading``), in which each lane must have had its turn.
BUSY_BYTES = 2 * MAX_SLICE_BYTES
MAX_READING = 0.1

#: Seconds between lines in the log that say that items are given up.
COMPLAINT_INTERVAL = 10.0

T = TypeVar("T")


class _Lane(Generic[T]):
    """What waits of one channel, in the order in which it was read."""

    __slots__ = ("bytes", "items")

    def __init__(self) -> None:
        self.items: deque[tuple[T, int]] = deque()
        self.bytes = 0


class Inbox(Generic[T]):
    """Hands on what has been read, now or later, and in the order of each lane.

    In the normal case nothing waits: an item is handed on by whoever puts it in. An item waits if
    the time slice is over for its lane, if others of its lane wait, or if the one before it is
    still on its way. A task then lets reading have its turn, hands on from lane to lane, and ends
    when nothing waits any more that may go on.

    :param hand_on: called with each item. It may return what is done when the next item of the lane
        may follow.
    :param give_up: called with the items of a lane that are not handed on, as they are too many.
    :param on_end: called with the reason if the task has ended too soon. What `hand_on` calls may
        cancel it.
    """

    def __init__(
        self,
        hand_on: Callable[[T], asyncio.Future[None] | None],
        give_up: Callable[[Sequence[T]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._hand_on = hand_on
        self._give_up = give_up
        self._on_end = on_end
        #: Those that hold anything; the first one has its turn.
        self._lanes: dict[str, _Lane[T]] = {}
        #: Those of which the last item is still on its way, whether they hold anything or not.
        self._held: dict[str, _Lane[T]] = {}
        self._bytes = 0
        #: Bytes of payload that were ever put in.
        self._read = 0
        self._slice = TimeSlice()
        #: Hands on what waits; None while items are handed on at once.
        self._task: asyncio.Task[None] | None = None

    def put(self, lane: str, item: T, size: int) -> None:
        """Hand an item on, or let it wait if the slice is over or others of its lane wait.

        Not to be called by what `hand_on` calls.
        """
        self._read += size
        waiting = self._lanes.get(lane) or self._held.get(lane)
        if waiting is None and not self._slice.is_over_for(lane):
            self._spend(lane, item, size)
            if self._task is None and self._slice.is_over_for(lane):
                self._begin()
            return
        if waiting is None:
            waiting = self._lanes[lane] = _Lane()
        waiting.items.append((item, size))
        waiting.bytes += size + ITEM_BYTES
        self._bytes += size + ITEM_BYTES
        if self._bytes > MAX_BYTES:
            self._make_room()
        self.go_on()

    def go_on(self) -> None:
        """Hand on what waits, also if the task for that had ended too soon."""
        if self._lanes and self._task is None:
            self._begin()

    def clear(self) -> None:
        """Forget all that waits."""
        self._lanes.clear()
        self._held.clear()
        self._bytes = 0
        if self._task is not None and self._task is not asyncio.current_task():
            task, self._task = self._task, None
            task.cancel()

    def __len__(self) -> int:
        return sum(len(lane.items) for lane in self._all.values())

    @property
    def _all(self) -> dict[str, _Lane[T]]:
        return self._lanes | self._held

    def _spend(self, name: str, item: T, size: int) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        on_its_way = self._hand_on(item)
        self._slice.spend(size, clock() - begun, name)
        if on_its_way is not None:
            lane: _Lane[T] = self._lanes.pop(name) if name in self._lanes else _Lane()
            self._held[name] = lane
            on_its_way.add_done_callback(lambda _: self._let_go(name, lane))

    def _let_go(self, name: str, lane: _Lane[T]) -> None:
        """Go on with a lane, unless it has been forgotten meanwhile."""
        if self._held.get(name) is lane:
            del self._held[name]
            if lane.items:
                self._lanes[name] = lane
                self.go_on()

    def _begin(self) -> None:
        self._task = this_loop().spawn(self._work(), "ws4redis-inbox")
        self._task.add_done_callback(self._on_done)

    async def _work(self) -> None:
        while True:
            await self._let_read()
            self._slice.renew()
            if not self._lanes:
                self._task = None  # from now on items are handed on at once
                return
            for name in list(self._lanes):
                if self._slice.is_over:
                    break
                self._serve(name)

    def _serve(self, name: str) -> None:
        """Give a lane its turn; what is left of it has the next one after the others."""
        while name in self._lanes and not self._slice.is_over_for(name):
            self._spend(name, *self._take(name))
        if name in self._lanes:
            self._lanes[name] = self._lanes.pop(name)

    async def _let_read(self) -> None:
        """Let others have their turns, reading among them, for as long as there is much to read."""
        clock = asyncio.get_running_loop().time
        end = clock() + MAX_READING
        busy = True
        while busy and clock() < end:
            read = self._read
            await let_others(TURNS_OF_OTHERS)
            busy = self._read - read > BUSY_BYTES

    def _take(self, name: str) -> tuple[T, int]:
        lane = self._lanes[name]
        item, size = lane.items.popleft()
        lane.bytes -= size + ITEM_BYTES
        self._bytes -= size + ITEM_BYTES
        if not lane.items:
            del self._lanes[name]
        return item, size

    def _make_room(self) -> None:
        for name, lane in sorted(self._all.items(), key=lambda each: -each[1].bytes):
            if self._bytes <= MAX_BYTES // 2:
                break
            self._lanes.pop(name, None)
            items, self._bytes = [item for item, _ in lane.items], self._bytes - lane.bytes
            lane.items, lane.bytes = deque(), 0
            self._give_up(items)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task is self._task:  # neither by itself nor by us
            self._task = None
            self._on_end("the task that hands on was cancelled")


class Complaint:
    """Says in the log, from time to time, that messages are given up."""

    def __init__(self) -> None:
        #: Messages that are not in the log yet, and when the last ones were.
        self._given_up, self._told = 0, -math.inf

    def note(self, count: int, where: str) -> None:
        """Note that so many messages were given up, the last of them on this channel."""
        self._given_up += count
        now = asyncio.get_running_loop().time()
        if now - self._told > COMPLAINT_INTERVAL:
            logger.warning(
                "More arrives than can be handed on; dropped %s messages, the last of them on %s",
                self._given_up,
                shown(where),
            )
            self._given_up, self._told = 0, now
