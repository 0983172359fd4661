"""What every socket is sent from time to time, so that its client and proxies know it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout import sockets
from channels_ws4redis.fanout.handing import AT_ONCE, turn_of_many
from channels_ws4redis.fanout.sockets import Recipient, Socket
from channels_ws4redis.protocol.frames import Frame
from channels_ws4redis.protocol.messages import json_frame
from channels_ws4redis.store.loops import this_loop

#: Seconds between heartbeats to raw clients. Legacy promises "at least every four seconds".
HEARTBEAT_INTERVAL = 3.5


class Pulse:
    """Sends heartbeats to the raw clients among some sockets, and pings to the others.

    One frame serves all of them, and one timer for each kind.

    :param sockets: those of a fan-out, whoever they are at the time.
    """

    def __init__(self, sockets: Collection[Recipient]) -> None:
        self._sockets = sockets
        self._timers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, until `stop` is called."""
        self._timers = [
            this_loop().spawn(self._repeat(interval, make, speak_protocol), "ws4redis-timer")
            for interval, make, speak_protocol in (
                (HEARTBEAT_INTERVAL, _heartbeat, False),
                (sockets.PING_INTERVAL, _ping, True),
            )
        ]

    def stop(self) -> None:
        """Send nothing more."""
        for timer in self._timers:
            timer.cancel()

    async def _repeat(
        self, interval: float, make: Callable[[], Frame | None], speak_protocol: bool
    ) -> None:
        """Send a frame to all sockets of one kind, again and again."""
        while True:
            await asyncio.sleep(interval)
            frame = make()
            if frame is not None:
                await self._send_to_all(frame, speak_protocol)

    async def _send_to_all(self, frame: Frame, speak_protocol: bool) -> None:
        everybody = list(self._sockets)
        for first in range(0, len(everybody), AT_ONCE):
            async with turn_of_many():
                for socket in everybody[first : first + AT_ONCE]:
                    # One of each socket, whatever else its client has subscribed to.
                    if not isinstance(socket, Socket) or not socket.replayed or socket.number:
                        continue
                    if speak_protocol == (socket.labels is not None):
                        socket.outbox.put(frame)  # that of a socket which has left takes nothing


def _heartbeat() -> Frame | None:
    heartbeat = settings.WS4REDIS_HEARTBEAT
    return None if heartbeat is None else Frame(heartbeat)


def _ping() -> Frame:
    return json_frame({"type": "ping"})
