"""Taking turns on the event loop: one task that always has work must leave time to the others."""

from __future__ import annotations

import asyncio

#: Seconds of delivering, and bytes handed to a socket, after which others get their turns.
MAX_TURN = 0.05
MAX_TURN_BYTES = 32 * 1024

#: A server needs up to three turns to write what a socket has been given. Without them clients
#: would seem slow that are not.
TURNS_OF_OTHERS = 3


class Turn:
    """The turn of a task that hands messages to sockets."""

    __slots__ = ("_begun", "_bytes", "_clock")

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._begun = self._clock()
        self._bytes = 0

    def spend(self, size: int) -> None:
        """Note that a message of so many bytes was handed to sockets."""
        self._bytes += size

    async def end_if_due(self) -> None:
        """Let others have their turns if this one has been long enough."""
        if self._bytes > MAX_TURN_BYTES or self._clock() - self._begun > MAX_TURN:
            for _ in range(TURNS_OF_OTHERS):
                await asyncio.sleep(0)
            self._begun, self._bytes = self._clock(), 0
