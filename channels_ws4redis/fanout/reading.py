"""Groups, and the readings that make them whole and let newcomers go live."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import redis

from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.fanout.sockets import Entry, Socket
from channels_ws4redis.protocol.history import Lost, Outcome, Reading
from channels_ws4redis.protocol.track import Asked, Track
from channels_ws4redis.store.loops import this_loop

logger = logging.getLogger(__name__)

#: Channels whose history is read in one pipeline.
READ_AT_ONCE = 500

#: Seconds that messages which a reading has overtaken get to arrive, and between looks at them.
GRACE, PAUSE = 0.2, 0.005


class Group:
    """A channel-layer group and the local sockets in it."""

    __slots__ = ("channel", "joined", "live", "lock", "sockets", "track")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        #: All sockets that want to hear the channel.
        self.sockets: set[Socket] = set()
        #: Those to which messages are delivered, in the order in which they came.
        self.live: dict[Socket, None] = {}
        self.track = Track()
        self.joined = False
        #: Held while joining or leaving, so that these never overtake each other.
        self.lock = asyncio.Lock()

    def deliver(self, items: Outcome, stored: bool = False) -> None:
        """Send messages, and word of losses, to every live socket.

        :param stored: they come from the history.
        """
        for item in items:
            for socket in list(self.live):
                if isinstance(item, Lost):
                    socket.tell(item)
                else:
                    socket.deliver(item, stored)


#: Called in the step in which a newcomer goes live, with what was read of each of its channels.
Start = Callable[[Sequence[Entry]], None]


class Request(NamedTuple):
    """Somebody who waits for readings."""

    channels: Sequence[str]
    #: Done once they have been taken in.
    done: asyncio.Future[None]
    #: The newcomer, None if only the groups are to be made whole.
    socket: Socket | None = None
    start: Start | None = None


class Readings:
    """Asks for readings and gives them to the groups.

    Those who ask while a reading is under way share the next one: five hundred sockets that connect
    at once cost a handful of round trips, and one decoding of each message. Answers are taken in in
    the order in which they were asked for.
    """

    def __init__(
        self,
        backend: Backend,
        groups: Mapping[str, Group],
        ordered: bool,
        on_behind: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._groups = groups
        #: Whether messages arrive in their order.
        self._ordered = ordered
        #: Called if a group is behind in spite of a reading.
        self._on_behind = on_behind
        self._waiting: list[Request] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(
        self, channels: Sequence[str], socket: Socket | None = None, start: Start | None = None
    ) -> None:
        """Read channels and take the readings in.

        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(Request(channels, done, socket, start))
        if self._task is None or self._task.done():
            self._task = this_loop().spawn(self._read_all(), "ws4redis-readings")
        await done

    async def _read_all(self) -> None:
        batch: list[Request] = []
        try:
            while self._waiting:
                batch = self._next_batch()
                await self._read(batch)
                batch = []
        finally:
            unanswered, self._waiting = [*batch, *self._waiting], []
            for request in unanswered:
                _fail(request, redis.exceptions.ConnectionError("The reading was broken off."))

    def _next_batch(self) -> list[Request]:
        count = taken = 0
        for request in self._waiting:
            if taken and count + len(request.channels) > READ_AT_ONCE:
                break
            count += len(request.channels)
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    async def _read(self, batch: Sequence[Request]) -> None:
        names = dict.fromkeys(name for request in batch for name in request.channels)
        groups = [self._groups[name] for name in names if name in self._groups]
        asked = [(group, group.track, group.track.ask()) for group in groups]
        outcomes: list[Reading | Exception] = []
        try:
            if groups:
                outcomes = await self._backend.read([group.channel for group in groups])
        finally:
            for _, track, _ in asked[len(outcomes) :]:
                track.give_up()
        await self._let_arrive(
            [(track, outcome) for (_, track, _), outcome in zip(asked, outcomes, strict=True)]
        )
        entries: dict[str, Entry | Exception | None] = {}
        for (group, track, when), outcome in zip(asked, outcomes, strict=True):
            entries[group.channel] = _take(group, track, when, outcome)
        for request in batch:
            self._answer(request, entries)
        if any(group.track.behind for group in groups):
            self._on_behind()

    async def _let_arrive(self, read: Sequence[tuple[Track, Reading | Exception]]) -> None:
        """Wait for messages that the readings have overtaken, while more is to be expected."""
        lagging = [(track, reading) for track, reading in read if isinstance(reading, Reading)]
        clock = asyncio.get_running_loop().time
        deadline = clock() + GRACE
        while lagging and clock() < deadline:
            lagging = [each for each in lagging if each[0].waits_for(each[1], self._ordered)]
            if lagging:
                await asyncio.sleep(PAUSE)

    def _answer(self, request: Request, entries: Mapping[str, Entry | Exception | None]) -> None:
        """Let a newcomer go live, in the step in which its readings have been taken in."""
        found = [entries.get(name) for name in request.channels if name in self._groups]
        error = next((entry for entry in found if isinstance(entry, Exception)), None)
        if request.done.done():
            return  # whoever asked has gone
        if error is not None:
            _fail(request, error)
            return
        if request.socket is not None and request.start is not None:
            if None in found:
                self._waiting.append(request)  # more has come meanwhile than is held
                return
            request.start([entry for entry in found if isinstance(entry, Entry)])
            for name in request.channels:
                group = self._groups.get(name)
                if group is not None and request.socket in group.sockets:
                    group.live[request.socket] = None
        request.done.set_result(None)


def _fail(request: Request, error: Exception) -> None:
    if not request.done.done():
        request.done.set_exception(error)
        request.done.exception()  # nobody need be waiting any more


def _take(
    group: Group, track: Track, asked: Asked, outcome: Reading | Exception
) -> Entry | Exception | None:
    """Take a reading in and return what a newcomer gets, None if it has to ask again."""
    if isinstance(outcome, Exception):
        track.give_up()
        return outcome
    live, newcomer = track.take(outcome, asked)
    if any(isinstance(item, Lost) for item in live):
        logger.warning("Messages on %s could not be recovered", group.channel)
    group.deliver(live, stored=True)
    return None if newcomer is None else Entry(outcome, newcomer)
