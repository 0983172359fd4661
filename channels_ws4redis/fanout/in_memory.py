"""The backend of Channels' in-memory layer, which reaches the sockets of one process only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from asgiref.sync import SyncToAsync

from channels_ws4redis.conf import OWN_LAYER
from channels_ws4redis.fanout.backends import Hearing, Receiver
from channels_ws4redis.fanout.stock import StockBackend, StockHearing, Work
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.store.loops import running_loop, this_loop

logger = logging.getLogger(__name__)


class InMemoryBackend(StockBackend):
    """Channels' in-memory layer, which works on the event loop of its first consumer only."""

    one_process = True

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        #: The event loop on which the layer is listened to.
        self._home: asyncio.AbstractEventLoop | None = None
        self._told = False

    def send(self, events: Sequence[Event]) -> None:
        """Send events from synchronous code, on the loop where they are listened for."""
        home = self._find_home()
        if home is None:
            self._tell_once()
            super().send(events)
        elif home is running_loop():
            # We hold up the very loop that would have to send; it does so in its next turn.
            this_loop().spawn(self._send(events))
        else:
            asyncio.run_coroutine_threadsafe(self._send(events), home).result()

    async def asend(self, events: Sequence[Event]) -> None:
        """Send events; asyncio twin of `send`."""
        home, sending = self._find_home(), self._send(events)
        if home is None or home is running_loop():
            await sending
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(sending, home))

    def _tell_once(self) -> None:
        """Log that nobody is reached, where the code is run by no server that may serve sockets."""
        # What a server runs in a thread has its event loop noted there.
        server = running_loop() or getattr(SyncToAsync.threadlocal, "main_event_loop", None)
        if server is None and not self._told:
            self._told = True
            logger.warning(
                "A message is published in a process without sockets, and the in-memory channel "
                "layer reaches no other process: it arrives there late, or never if it is not "
                "stored; set %s",
                OWN_LAYER,
            )

    def _find_home(self) -> asyncio.AbstractEventLoop | None:
        home = self._home
        return home if home is not None and home.is_running() else None

    def hearing(self, receiver: Receiver) -> Hearing:
        """Return what receives on the running event loop."""
        self._home = asyncio.get_running_loop()
        return _InMemoryHearing(self, receiver)


class _InMemoryHearing(StockHearing):
    """Joining has effect at once, and there is no link to watch."""

    _waits = False

    def _work(self) -> list[Work]:
        return self._upkeep()
