"""The object that joins groups for all sockets of an event loop and hands messages to them.

A hand-written consumer owns a channel of the layer for every socket; there every delivery costs a
queue, a decoding and two task switches. Here one channel serves all sockets of an event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import redis

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.fanout.choice import backend_of
from channels_ws4redis.fanout.counting import answer
from channels_ws4redis.fanout.group import Group
from channels_ws4redis.fanout.memberships import Memberships
from channels_ws4redis.fanout.pulse import Pulse
from channels_ws4redis.fanout.reading import GRACE, PAUSE, Readings, Start
from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.protocol.messages import Event, Question, is_heartbeat
from channels_ws4redis.protocol.texts import escaped
from channels_ws4redis.store.clients import OF_REDIS, UNREACHABLE
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.runner import get_runner

logger = logging.getLogger(__name__)

#: Seconds between attempts to read the history while Redis is away.
RETRY_INTERVAL = 0.3


class FanOut:
    """Receives from a channel layer once and delivers to every local socket.

    A socket joins, which lets the messages of its channels reach this process; it enters, which
    reads what is stored and makes it live in the same step; and it leaves.
    """

    def __init__(self, backend: Backend) -> None:
        self._groups: dict[str, Group] = {}
        #: The names of the channels that each socket listens on.
        self._sockets: dict[Recipient, tuple[str, ...]] = {}
        self._backend = backend
        self._feed = backend.feed(self)
        self._memberships = Memberships(self._feed, self._groups)
        self._readings = Readings(backend, self._groups, self._catch_up_soon)
        self._opening: asyncio.Task[None] | None = None
        self._pulse = Pulse(self._sockets.keys())
        self._catching_up = False
        self._relinked = False

    # Sockets

    async def join(self, socket: Recipient, channels: Iterable[str]) -> None:
        """Let the messages of channels reach this process; the socket hears them once it enters.

        :raises redis.exceptions.ConnectionError: if the channel layer cannot be reached.
        :raises redis.exceptions.RedisError: if Redis refuses one of the channels.
        """
        self._sockets.setdefault(socket, ())
        await self._open()
        if socket not in self._sockets:
            return  # it has left meanwhile
        groups = []
        for name in dict.fromkeys(channels):
            group = self._groups.get(name)
            if group is None:
                group = self._groups[name] = Group(name)
            group.sockets.add(socket)
            groups.append(group)
        # Each socket keeps the names of the groups, not those that it has made for itself.
        names = dict.fromkeys([*self._sockets[socket], *(group.channel for group in groups)])
        self._sockets[socket] = tuple(names)
        await self._memberships.join(groups)

    def keep(self, socket: Recipient) -> None:
        """Have a socket among all others that hears nothing, until it leaves."""
        self._sockets.setdefault(socket, ())

    async def put_first(self, channel: str) -> None:
        """Wait until a joined channel is heard, if the link was just lost.

        What was missed of it is made good before anything of all others.

        :raises redis.exceptions.ConnectionError: if it takes too long.
        """
        self._readings.first = channel
        await self._feed.ensure(channel)

    def channels_of(self, socket: Recipient) -> tuple[str, ...]:
        """Return the names of the channels that a socket listens on."""
        return self._sockets.get(socket, ())

    def due_to(self, socket: Recipient) -> list[Event]:
        """Return the messages that have been taken, and are still on their way to a socket."""
        groups = [self._groups.get(name) for name in self.channels_of(socket)]
        lines = [group.line for group in groups if group is not None]
        return [event for line in lines if line is not None for event in line.due_to(socket)]

    def leave_others(self, socket: Recipient, wanted: Iterable[str]) -> list[str]:
        """Leave all channels but those that a socket wants; return what it has still to join."""
        names, own = dict.fromkeys(wanted), dict.fromkeys(self.channels_of(socket))
        self.leave(socket, [name for name in own if name not in names])
        return [name for name in names if name not in own]

    async def enter(self, socket: Recipient, channels: Sequence[str], start: Start) -> None:
        """Read what is stored of joined channels, and let the socket go live on them.

        :param start: called with it, in the step in which the socket goes live.
        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        await self._readings.enter(socket, channels, start)

    def leave(self, socket: Recipient, channels: Iterable[str] | None = None) -> None:
        """Forget a socket, or only some of its channels; the layer is told in the background."""
        own = self._sockets.get(socket)
        if own is None:
            return
        gone = dict.fromkeys(own if channels is None else channels)
        empty = []
        for name in gone:
            group = self._groups.get(name)
            if group is not None and socket in group.sockets:
                group.leave(socket)
                if not group.sockets:
                    empty.append(group)
        if empty:
            self._memberships.leave(empty)
        if channels is not None:
            self._sockets[socket] = tuple(name for name in own if name not in gone)
            return
        del self._sockets[socket]
        if not self._sockets:
            this_loop().forget((FanOut, self._backend), self)
            this_loop().spawn(self._close(), "ws4redis-close")

    # Life

    async def _open(self) -> None:
        """Begin to receive, once for all who connect at the same time."""
        if self._opening is None:
            self._opening = this_loop().spawn(self._start(), "ws4redis-open")
        try:
            await asyncio.shield(self._opening)
        except UNREACHABLE as error:
            self._opening = None
            raise redis.exceptions.ConnectionError(str(error)) from error
        except Exception:
            self._opening = None
            raise

    async def _start(self) -> None:
        await self._feed.open()
        self._pulse.start()

    async def _close(self) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening])
        self._pulse.stop()
        try:
            await self._memberships.leave(list(self._groups.values()))
        finally:
            await self._feed.close()

    # Receiving

    def receive(self, event: Event | Question) -> asyncio.Future[None] | None:
        """Take a message, and deliver what may be delivered now; or answer a question."""
        group = self._groups.get(event.channel)
        if group is None:
            return None
        if isinstance(event, Question):
            this_loop().spawn(answer(event, len(group.sockets)), "ws4redis-answer")
            return None
        if not event.offset and is_heartbeat(event.payload, settings.WS4REDIS_HEARTBEAT):
            return None  # a foreign program's; each socket has its own
        for due in group.track.receive(event):
            group.hand_out(due)
        if group.track.behind:
            self._catch_up_soon()
        return None if group.line is None else group.line.done

    def channels(self) -> list[str]:
        """Return the names of the channels that are listened on."""
        return [name for name, group in self._groups.items() if group.joined]

    async def refresh(self, channels: Sequence[str]) -> None:
        """Read the histories of channels, and make good what they have that did not arrive."""
        await self._readings.ask(channels)

    def suspect(self, channel: str) -> None:
        """Make good the messages of a channel that were too many to be handed on."""
        group = self._groups.get(channel)
        if group is not None:
            group.track.suspect()
            self._catch_up_soon()

    def refuse(self, channel: str, error: Exception) -> None:
        """End the sockets of a channel that Redis refuses from now on, and no others."""
        group = self._groups.get(channel)
        if group is not None and group.joined:
            group.joined = False
            group.refuse(error)

    def suspect_all(self) -> None:
        """Make good whatever may have been lost on any channel: the link had been lost."""
        self._relinked = True
        for group in self._groups.values():
            group.track.suspect()
        self._catch_up_soon()

    def _catch_up_soon(self) -> None:
        if not self._catching_up:
            self._catching_up = True
            this_loop().spawn(self._catch_up(), "ws4redis-catch-up")

    async def _catch_up(self) -> None:
        """Read the history of every channel that is behind, until none is."""
        told, pause, left = "", 0.0, math.inf
        try:
            if not self._backend.atomic:
                await asyncio.sleep(GRACE)  # what seems to be missing may only be late
            while behind := [name for name, group in self._groups.items() if group.track.behind]:
                # A reading that has brought nothing on is not repeated at once.
                pause = 0.0 if len(behind) < left else min(pause + PAUSE, RETRY_INTERVAL)
                left = len(behind)
                await asyncio.sleep(pause)
                if self._relinked:
                    self._relinked = False
                    get_runner().renew()  # what has ended one connection may end another
                try:
                    await self._readings.ask(behind)
                except OF_REDIS as error:
                    # The runner says that Redis is away, once for all.
                    if str(error) != told and not isinstance(error, UNREACHABLE):
                        told = str(error)
                        logger.warning(
                            "Messages wait, as histories cannot be read: %s", escaped(told)
                        )
                    pause = RETRY_INTERVAL
        finally:
            self._catching_up = False


def get_fanout(layer: Any) -> FanOut:
    """Return the running event loop's fan-out for a channel layer."""
    backend = backend_of(layer)
    return this_loop().get((FanOut, backend), lambda: FanOut(backend))
