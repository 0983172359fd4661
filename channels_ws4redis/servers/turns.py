"""The turns of one socket: its events are handled one after the other, also while it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from channels_ws4redis.servers.incoming import AsgiEvent, Incoming, running_task

#: Seconds for what a client has sent before it left, or before its socket was closed. After ten
#: seconds daphne cancels the task of a client that has left (``--application-close-timeout``).
LEAVE_PATIENCE = 8.0

#: Seconds for the server to hand over one more event of a socket that has been closed. Servers that
#: we know do so at once.
HAND_OVER_PATIENCE = 0.05


class Turns:
    """Handles the events of one socket in its task, one after the other.

    What is being done for an event is not cut off when the socket has to end, nor when its client
    has gone: it may be a message of the client that is being published. It has `LEAVE_PATIENCE`.

    :param incoming: the events.
    :param handle: handles one of them.
    """

    __slots__ = (
        "_busy",
        "_cancelled",
        "_deadline",
        "_handle",
        "_stopped",
        "incoming",
        "left",
        "task",
    )

    def __init__(self, incoming: Incoming, handle: Callable[[AsgiEvent], Awaitable[None]]) -> None:
        self.incoming = incoming
        self._handle = handle
        self.task = running_task()
        #: True from the moment at which an event is taken until it has been handled to its end.
        self._busy = False
        #: True once `run` has returned, or is going to.
        self._stopped = False
        #: True once the task has been cancelled from here.
        self._cancelled = False
        #: Cuts off the event that is being handled.
        self._deadline: asyncio.TimerHandle | None = None
        #: True once the client has gone, or its socket was closed. What it has sent before is still
        #: handled, and nothing else is to be done for it.
        self.left = False

    async def run(self) -> None:
        """Handle events until `stop` is called, or until a client that has gone has had its time.

        :raises asyncio.CancelledError: if somebody else cancels the task.
        """
        cancellations = self.task.cancelling()
        try:
            while not self._stopped:
                await self._take_turn(await self.incoming.take())
        except asyncio.CancelledError:
            # If others have cancelled the task as well, that goes on.
            if self.task.cancelling() > cancellations + self._cancelled:
                raise
        finally:
            self._stopped = True
            if self._deadline is not None:
                self._deadline.cancel()
            if self._cancelled:
                self.task.uncancel()

    @property
    def cut_off(self) -> bool:
        """True if an event could not be handled to its end; then none may be handled after it."""
        return self._busy

    async def drain(self) -> bool:
        """Handle what the server has yet to hand over of a socket that has been closed.

        :returns: False if there is more than can be handled in time.
        """
        self.left = True
        try:
            async with asyncio.timeout(LEAVE_PATIENCE) as limit:
                while (event := await self.incoming.take_soon(HAND_OVER_PATIENCE)) is not None:
                    await self._take_turn(event)
        except TimeoutError:
            if not limit.expired():
                raise
            return False
        return True

    async def _take_turn(self, event: AsgiEvent) -> None:
        self._busy = True
        await self._handle(event)
        self._busy = False

    def stop(self, finish: bool = True) -> None:
        """Have `run` return, now or as soon as the event at hand has been handled.

        :param finish: or else that event is cut off.
        """
        if self._stopped:
            return
        self._stopped = True
        if self._busy and finish:
            self._hurry()
        else:
            self._cancel()

    def leave(self) -> None:
        """Note that the client has gone; what it has sent before is handled, if there is time."""
        self.left = True
        if not self._stopped:
            self._hurry()

    def _hurry(self) -> None:
        self.incoming.let_go()
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(LEAVE_PATIENCE, self._cancel)

    def _cancel(self) -> None:
        self._stopped = True
        if not self._cancelled:
            self._cancelled = True
            self.task.cancel()
