"""One group of the channel layer, and the local sockets in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from channels_ws4redis.fanout.handing import Line, hand, served_at_once
from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.protocol.history import Outcome
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.protocol.track import Track


class Group:
    """Hands on what is published on a channel, to the sockets that are live by then."""

    __slots__ = ("channel", "joined", "line", "live", "moving", "sockets", "track")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        #: All sockets that want to hear the channel.
        self.sockets: set[Recipient] = set()
        #: Those to which messages are delivered, in the order in which they came.
        self.live: dict[Recipient, None] = {}
        self.track = Track()
        #: What is on its way to the live sockets; None if nothing is.
        self.line: Line | None = None
        self.joined = False
        #: Joins or leaves the group at the moment; returns what could not be joined.
        self.moving: asyncio.Task[Mapping[str, Exception]] | None = None

    def refuse(self, error: Exception) -> None:
        """End all sockets, as Redis refuses the channel from now on."""
        self.live.clear()
        self.track = Track()
        if self.line is not None:
            self.line.clear()
        for socket in list(self.sockets):
            socket.end(error)

    def leave(self, socket: Recipient) -> None:
        """Forget a socket, which gets nothing more from now on."""
        self.sockets.discard(socket)
        self.live.pop(socket, None)
        if self.line is not None:
            self.line.leave(socket)

    def hand_out(self, what: Event | Outcome) -> None:
        """Hand a message, or what was missed, to every live socket, after all that came before.

        That is done at once, unless there are many, or much was missed.
        """
        if self.line is None and len(self.live) <= served_at_once(what):
            hand(what, list(self.live))
            if isinstance(what, Event):
                what.forget_wire()
            return
        if self.line is None:
            self.line = Line(self._on_end_of_line)
        self.line.add(what, self.live)

    def _on_end_of_line(self) -> None:
        self.line = None
