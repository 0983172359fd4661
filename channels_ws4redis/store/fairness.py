"""Taking turns on the event loop: one task that always has work must leave time to the others."""

from __future__ import annotations

import asyncio

#: Seconds of delivering, and bytes handed to a socket, after which others get their turns.
MAX_SLICE = 0.01
MAX_SLICE_BYTES = 32 * 1024

#: A server needs up to three turns to write what a socket has been given. Without them clients
#: would seem slow that are not.
TURNS_OF_OTHERS = 3

#: Seconds that a turn takes in which nobody has anything to do, or nearly nothing.
IDLE_TURN = 0.0001


class TimeSlice:
    """How long a task may hand messages to sockets until all others have their turns.

    Bytes are counted for each lane apart, as they are a matter of the sockets that get them.
    """

    __slots__ = ("_bytes", "_seconds")

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}
        self._seconds = 0.0

    def spend(self, size: int, seconds: float, lane: str = "") -> None:
        """Note that a message of so many bytes was handed to sockets, and how long that took."""
        self._bytes[lane] = self._bytes.get(lane, 0) + size
        self._seconds += seconds

    @property
    def is_over(self) -> bool:
        """True once all others on the event loop must have their turns."""
        return self._seconds > MAX_SLICE

    def is_over_for(self, lane: str = "") -> bool:
        """Tell whether nothing more may be handed to the sockets of a lane."""
        return self.is_over or self._bytes.get(lane, 0) > MAX_SLICE_BYTES

    def renew(self) -> None:
        """Begin anew, as others have had their turns."""
        self._bytes.clear()
        self._seconds = 0.0

    async def end_if_due(self, turns: int = TURNS_OF_OTHERS) -> None:
        """Let others have their turns, so many each, if the slice is used up."""
        if self.is_over_for():
            await let_others(turns)
            self.renew()


async def let_others(turns: int) -> None:
    """Let all other tasks that can go on do so, a number of times."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def let_others_finish(most: float) -> None:
    """Let all others have their turns for as long as they have something to do.

    A handshake takes many small steps. By this it gets as far as it can: it waits for its client,
    for Redis or for a thread then, and not for us.

    :param most: seconds after which we go on all the same.
    """
    clock = asyncio.get_running_loop().time
    now = clock()
    end, idle = now + most, 0
    while idle < TURNS_OF_OTHERS and now < end:
        begun = now
        await asyncio.sleep(0)
        now = clock()
        idle = idle + 1 if now - begun < IDLE_TURN else 0
