"""The readings that make groups whole and let newcomers go live."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import redis

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.fanout.group import Group
from channels_ws4redis.fanout.held import Entry
from channels_ws4redis.fanout.sockets import Recipient
from channels_ws4redis.protocol.history import Lost, Reading
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.protocol.track import Asked, Lag, Track
from channels_ws4redis.store.clients import UNREACHABLE
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.refusals import is_refusal

logger = logging.getLogger(__name__)

#: Channels, and bytes of their histories, that are read in one pipeline.
READ_AT_ONCE, READ_BYTES = 500, 64 * 1024 * 1024

#: Looks for messages that a reading has overtaken, before it is made anew, or before they count as
#: lost if none has arrived meanwhile; and the seconds between looks. Looks are counted, not time:
#: while the event loop is held up, too, the link has had its turn between them.
LOOKS, PAUSE = 40, 0.005

#: The seconds that they take, for what can only be waited for.
GRACE = LOOKS * PAUSE


#: Called in the step in which a newcomer goes live, with what was read of each of its channels.
Start = Callable[[Sequence[Entry]], None]


class Asker(NamedTuple):
    """Somebody who waits for readings."""

    channels: Sequence[str]
    #: Done once they have been taken in.
    done: asyncio.Future[None]
    #: The newcomer, None if only the groups are to be made whole.
    socket: Recipient | None = None
    start: Start | None = None


#: What a newcomer gets of a channel; None if it has to ask again.
Found = Entry | Exception | None


class Readings:
    """Asks for readings and gives them to the groups.

    Those who ask while a reading is under way share the next one: five hundred sockets that connect
    at once cost a handful of round trips, and one decoding of each message. Answers are taken in in
    the order in which they were asked for.
    """

    def __init__(
        self, backend: Backend, groups: Mapping[str, Group], on_behind: Callable[[], None]
    ) -> None:
        self._backend = backend
        self._groups = groups
        #: Called if a group is behind in spite of a reading.
        self._on_behind = on_behind
        #: While this one is behind it is taken in before all others, whoever asks for those.
        self.first = ""
        self._waiting: list[Asker] = []
        #: Those whose readings are under way.
        self._batch: list[Asker] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, channels: Sequence[str]) -> None:
        """Read channels, and let their groups take the readings in.

        :raises redis.exceptions.RedisError: if Redis cannot be reached or refuses.
        """
        size = _at_once()
        for first in range(0, len(channels), size):
            await self._ask(channels[first : first + size])

    async def enter(self, socket: Recipient, channels: Sequence[str], start: Start) -> None:
        """Read channels as `ask` does, all in one go, and let a newcomer go live in that step."""
        await self._ask(channels, socket, start)

    async def _ask(
        self, channels: Sequence[str], socket: Recipient | None = None, start: Start | None = None
    ) -> None:
        done = asyncio.get_running_loop().create_future()
        self._add(Asker(channels, done, socket, start))
        await done

    def _add(self, asker: Asker) -> None:
        self._waiting.append(asker)
        if self._task is None:
            self._begin()

    def _begin(self) -> None:
        self._task = this_loop().spawn(self._read_all(), "ws4redis-readings")
        self._task.add_done_callback(self._on_done)

    async def _read_all(self) -> None:
        while self._waiting:
            self._batch = self._next_batch()
            await self._read(self._batch)
            self._batch = []

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """Let nobody wait for a task that has ended too soon, perhaps before its first step."""
        self._task = None
        unanswered, self._batch = self._batch, []
        if task.cancelled():
            unanswered, self._waiting = [*unanswered, *self._waiting], []
        for asker in unanswered:
            _fail(asker, redis.exceptions.ConnectionError("The reading was broken off."))
        if self._waiting:
            self._begin()

    def _next_batch(self) -> list[Asker]:
        count, taken, at_once = 0, 0, _at_once()
        for asker in self._waiting:
            if taken and count + len(asker.channels) > at_once:
                break
            count += len(asker.channels)
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    async def _read(self, batch: Sequence[Asker]) -> None:
        names = dict.fromkeys(name for asker in batch for name in asker.channels)
        first = self._groups.get(self.first)
        if first is not None and first.track.behind:
            names = {self.first: None, **names}
        groups = [self._groups[name] for name in names if name in self._groups]
        under_way = [(group, group.track, group.track.ask()) for group in groups]
        found: dict[str, Found] = {}
        try:
            outcomes = await self._aread([group.channel for group in groups])
            moving = await self._let_arrive({t: group for group, t, _ in under_way}, outcomes)
            for outcome in outcomes:
                group, track, asked = under_way.pop(0)
                if track in moving:
                    track.give_up()
                    found[group.channel] = None
                else:
                    found[group.channel] = _take(group, track, asked, outcome)
        finally:
            for _, track, _ in under_way:
                track.give_up()
        for asker in batch:
            self._answer(asker, found)
        if any(group.track.behind for group in groups):
            self._on_behind()

    async def _aread(self, channels: Sequence[str]) -> list[Reading | Exception]:
        """Read channels in as many pipelines as their histories may need."""
        size, outcomes = _at_once(), list[Reading | Exception]()
        for first in range(0, len(channels), size):
            part = await self._backend.aread(channels[first : first + size])
            if isinstance(part[0], UNREACHABLE):
                return [*outcomes, *part[:1] * (len(channels) - first)]  # and none of the others
            outcomes += part
        return outcomes

    async def _let_arrive(
        self, group_of: Mapping[Track, Group], outcomes: Sequence[Reading | Exception]
    ) -> list[Track]:
        """Wait for messages that readings have overtaken.

        :returns: the tracks that are still on the way to where their reading stands. Taking it in
            would skip what is on the link; no time is too long for that, as long as it arrives. And
            those to whose sockets so much is on its way that nothing more can be handed out.
        """
        readings = {
            track: outcome
            for track, outcome in zip(group_of, outcomes, strict=True)
            if isinstance(outcome, Reading)
        }
        begun = lags = self._lags(readings)
        slow: set[Track] = set()
        for _ in range(LOOKS):
            # What waits while the message before it is handed to many sockets is not late. That may
            # take long, and all others would wait for it here.
            slow |= {track for track in lags if group_of[track].line is not None}
            if slow.issuperset(lags):
                break
            await asyncio.sleep(PAUSE)
            lags = self._lags({track: readings[track] for track in lags})
        moving = [track for track, lag in lags.items() if track in slow or lag != begun[track]]
        full = [track for track in readings if _is_full(group_of[track]) and track not in moving]
        return moving + full

    def _lags(self, readings: Mapping[Track, Reading]) -> dict[Track, Lag]:
        """Return the tracks that a reading has overtaken, and how far they have come."""
        lags = {}
        for track, reading in readings.items():
            lag = track.lag(reading, self._backend.atomic)
            if lag is not None:
                lags[track] = lag
        return lags

    def _answer(self, asker: Asker, found: Mapping[str, Found]) -> None:
        """Let a newcomer go live, in the step in which its readings have been taken in."""
        mine = [found.get(name) for name in asker.channels if self._is_wanted(name, asker.socket)]
        error = next((each for each in mine if isinstance(each, Exception)), None)
        if asker.done.done():
            return  # whoever asked has gone
        if error is not None:
            _fail(asker, error)
        elif asker.socket is None or asker.start is None:
            asker.done.set_result(None)
        elif None in mine:
            self._put_off(asker)  # more is on the way, or has come, than can be held
        else:
            try:
                self._go_live(asker.socket, asker.channels)
                asker.start([each for each in mine if isinstance(each, Entry)])
            except Exception as failure:  # noqa: BLE001 # whoever asked is to get it, and no other
                _fail(asker, failure)
            else:
                if not asker.done.done():  # its outbox may have overflowed, and ended it just now
                    asker.done.set_result(None)

    def _put_off(self, asker: Asker) -> None:
        """Have a newcomer ask again, where sockets are many once they have what is on its way."""
        groups = (self._groups.get(name) for name in asker.channels)
        lines = [group.line for group in groups if group is not None and group.line is not None]
        if lines:
            lines[0].done.add_done_callback(lambda _: self._ask_again(asker))
        else:
            self._waiting.append(asker)

    def _ask_again(self, asker: Asker) -> None:
        if not asker.done.done():  # or the event loop may be about to end
            self._add(asker)

    def _is_wanted(self, name: str, socket: Recipient | None) -> bool:
        """Tell whether a newcomer still listens on a channel: it may have had to leave it."""
        group = self._groups.get(name)
        return group is not None and (socket is None or socket in group.sockets)

    def _go_live(self, socket: Recipient, channels: Sequence[str]) -> None:
        for name in channels:
            if self._is_wanted(name, socket):
                self._groups[name].live[socket] = None


def _is_full(group: Group) -> bool:
    return group.line is not None and group.line.full


def _at_once() -> int:
    """Return how many channels are read in one pipeline, even if all histories are full."""
    return min(READ_AT_ONCE, max(1, READ_BYTES // settings.WS4REDIS_HISTORY_BYTES))


def _fail(asker: Asker, error: Exception) -> None:
    if not asker.done.done():
        asker.done.set_exception(error)
        asker.done.exception()  # nobody need be waiting any more


def _take(
    group: Group, track: Track, asked: Asked, outcome: Reading | Exception
) -> Entry | Exception | None:
    """Take a reading in and return what a newcomer gets, None if it has to ask again."""
    if isinstance(outcome, Exception):
        track.give_up()
        if is_refusal(outcome):
            group.refuse(outcome)
        return outcome
    live, newcomer = track.take(outcome, asked)
    if any(isinstance(item, Lost) for item in live):
        logger.warning("Messages on %s could not be recovered", shown(group.channel))
    if live:
        group.hand_out(live)
    return None if newcomer is None else Entry(outcome, newcomer)
