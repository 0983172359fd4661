"""The backend of any other channel layer, and what those need that do not tell what they lose.

The layers of channels_redis and the in-memory layer take part through the layer specification
alone. They spell group names their way, drop what finds no room without a word, may change the
order, and do not say when their link to Redis was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import redis

from channels_ws4redis.fanout.backends import Feed, Receiver
from channels_ws4redis.fanout.probes import Probes
from channels_ws4redis.fanout.publishing import RedisBackend
from channels_ws4redis.fanout.stock_layers import (
    carried_by,
    carrying,
    encode_name,
    place_of,
    refused,
)
from channels_ws4redis.layers import FANOUT_PREFIX
from channels_ws4redis.protocol.messages import Event, Question
from channels_ws4redis.store.clients import UNREACHABLE
from channels_ws4redis.store.fairness import TimeSlice
from channels_ws4redis.store.inbox import Complaint, Inbox
from channels_ws4redis.store.loops import this_loop
from channels_ws4redis.store.outages import Outage
from channels_ws4redis.store.process import background_loop
from channels_ws4redis.store.pubsub import JOIN_TIMEOUT

logger = logging.getLogger(__name__)

#: Seconds between tests of the layer, and the seconds that a test may take.
PROBE_INTERVAL, PROBE_TIMEOUT = 2.0, 3.0

#: Seconds between readings of histories without an occasion, and how many are read each time: of
#: a dropped message only the next one would tell.
AUDIT_INTERVAL = 5.0
AUDITED_AT_ONCE = 200

#: Seconds between joining all groups again. Layers forget members after ``group_expiry``, a day.
REJOIN_INTERVAL = 6 * 3600.0

#: Seconds between attempts while the layer fails.
RETRY_INTERVAL = 0.3

#: Something that goes on for as long as it is let.
Work = Callable[[], Coroutine[Any, Any, None]]


class StockBackend(RedisBackend):
    """Stores a message first, and sends it through the layer afterwards."""

    def group_name(self, channel: str) -> str:
        """Return the name under which the layer carries the group of a channel.

        It is the channel name itself wherever the layer takes it. Channels' own layers take
        letters, digits, hyphens, underscores and periods only, fewer than 100 of them: there every
        other byte becomes ``_`` and two hex digits, and what is too long then becomes a digest. No
        two channels share a name.
        """
        try:
            check = self.layer.require_valid_group_name
        except (AttributeError, RuntimeError):
            return channel  # channels_redis.pubsub checks nothing and takes all
        try:
            check(channel)
        except TypeError:
            return encode_name(channel)
        return channel

    def send(self, events: Sequence[Event | Question]) -> None:
        """Send events from synchronous code, on a loop that lives on."""
        sending = self._send(events)
        asyncio.run_coroutine_threadsafe(sending, background_loop()).result()

    async def asend(self, events: Sequence[Event | Question]) -> None:
        """Send events; asyncio twin of `send`."""
        await self._send(events)

    async def _send(self, events: Sequence[Event | Question]) -> None:
        for event in events:
            group = self.group_name(event.channel)
            with refused(event.channel):
                await self.layer.group_send(group, carrying(event))

    def feed(self, receiver: Receiver) -> Feed:
        """Return what receives on the running event loop."""
        return StockFeed(self, receiver)


class StockFeed(Feed):
    """Receives on one channel of the layer for all sockets, and watches the layer.

    As with the package's own layer, what cannot be handed on at once waits in an inbox, where the
    channels take turns: one that many sockets hear holds up no other.
    """

    #: Few, as each test message has to find room in the layer.
    at_once = 50

    #: True if joining is over before the layer's Redis knows of it.
    _waits = True

    def __init__(self, backend: StockBackend, receiver: Receiver) -> None:
        self._backend = backend
        self._layer = backend.layer
        self._receiver = receiver
        self._channel = ""
        self._probes = Probes(self._layer)
        self._inbox = Inbox(self._hand_on, self._give_up, self._go_on_later)
        self._complaint = Complaint()
        #: What is done, and the task that does it; empty once the feed is closed.
        self._tasks: dict[Work, asyncio.Task[None]] = {}
        self._outage = Outage(lambda: place_of(self._layer))
        #: Channels that audits have come to.
        self._audited = 0

    async def open(self) -> None:
        """Begin to receive."""
        self._channel = await self._layer.new_channel(FANOUT_PREFIX)
        for work in self._work():
            self._begin(work)

    def _work(self) -> list[Work]:
        """Return what is to be done for as long as the feed is open."""
        return [*self._upkeep(), partial(_each, PROBE_INTERVAL, self._watch)]

    def _upkeep(self) -> list[Work]:
        return [
            self._receive,
            partial(_each, REJOIN_INTERVAL, self._join_again),
            partial(_each, AUDIT_INTERVAL, self._audit),
        ]

    def _begin(self, work: Work) -> None:
        task = self._tasks[work] = this_loop().spawn(work(), "ws4redis-stock-layer")
        task.add_done_callback(partial(self._on_done, work))

    def _on_done(self, work: Work, task: asyncio.Task[None]) -> None:
        """Begin anew what has ended: a layer may cancel the task that receives from it."""
        if self._tasks.get(work) is task:
            # Later, as an event loop that ends cancels all tasks, and must not get new ones.
            asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._begin_again, work)

    def _begin_again(self, work: Work) -> None:
        if work in self._tasks:
            logger.warning("The task that attends the channel layer has ended, beginning anew")
            self._begin(work)
            self._receiver.suspect_all()

    async def join(self, channels: Sequence[str]) -> dict[str, Exception]:
        """Listen on channels; done once what is sent through their groups comes back."""
        outcomes = await asyncio.gather(*map(self._join, channels), return_exceptions=True)
        found = zip(channels, outcomes, strict=True)
        return {channel: outcome for channel, outcome in found if isinstance(outcome, Exception)}

    async def _join(self, channel: str) -> None:
        group = self._backend.group_name(channel)
        with refused(channel):
            await self._layer.group_add(group, self._channel)
        if self._waits:
            # The layer has only sent its request. Once our own message comes back through the
            # group, everything that is published from now on will.
            await self._probes.send(self._channel, group, JOIN_TIMEOUT)

    async def leave(self, channels: Sequence[str]) -> None:
        """Listen no more on channels."""
        discarding = (
            self._layer.group_discard(self._backend.group_name(channel), self._channel)
            for channel in channels
        )
        for outcome in await asyncio.gather(*discarding, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def close(self) -> None:
        """Receive no more."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._inbox.clear()

    async def _receive(self) -> None:
        time_slice, clock = TimeSlice(), asyncio.get_running_loop().time
        while True:
            await time_slice.end_if_due()  # receiving does not wait while there are messages
            try:
                message = await self._layer.receive(self._channel)
            except redis.exceptions.TimeoutError:
                continue  # channels_redis.core on redis-py >= 8: an idle channel times out
            except Exception as error:  # noqa: BLE001 # whatever a third-party layer raises
                self._outage.begin(error)
                await asyncio.sleep(RETRY_INTERVAL)
                self._receiver.suspect_all()
                continue
            begun, size = clock(), 0
            try:
                size = self._take(message)
            except Exception:
                logger.exception("A message of the channel layer could not be delivered")
            time_slice.spend(size, clock() - begun)

    def _take(self, message: dict[str, Any]) -> int:
        """Take a message, and return the bytes of its payload."""
        self._probes.take(message)
        event = carried_by(message)
        if event is None:
            return 0
        size = len(event.payload) if isinstance(event, Event) else 0
        self._inbox.put(event.channel, event, size)
        return size

    def _hand_on(self, event: Event | Question) -> asyncio.Future[None] | None:
        try:
            return self._receiver.receive(event)
        except Exception:
            logger.exception("A message could not be delivered")
            return None

    def _give_up(self, events: Sequence[Event | Question]) -> None:
        for channel in {event.channel for event in events}:
            self._receiver.suspect(channel)
        self._complaint.note(len(events), events[-1].channel)

    def _go_on_later(self, why: str) -> None:
        """Hand on what waits, as the task for that has ended; not at once, as in `_on_done`."""
        asyncio.get_running_loop().call_later(RETRY_INTERVAL, self._inbox.go_on)

    async def _join_again(self) -> None:
        for channel in self._receiver.channels():
            await self._layer.group_add(self._backend.group_name(channel), self._channel)

    async def _audit(self) -> None:
        names = self._receiver.channels()
        # Another part of them each time.
        first = self._audited % len(names) if names else 0
        self._audited = first + AUDITED_AT_ONCE
        await self._receiver.refresh(names[first : first + AUDITED_AT_ONCE])

    async def _watch(self) -> None:
        """Find out whether the layer still delivers; if it did not, make good what was missed."""
        lost = False
        while True:
            try:
                await self._probes.send(self._channel, None, PROBE_TIMEOUT)
                if lost:
                    await self._join_again()
                    self._receiver.suspect_all()
                self._outage.end()
                return
            except Exception as error:  # noqa: BLE001 # whatever a third-party layer raises
                self._outage.begin(error)
                lost = True
                await asyncio.sleep(RETRY_INTERVAL)


async def _each(interval: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do some work again and again; a failure of one time does not end it."""
    while True:
        await asyncio.sleep(interval)
        try:
            await work()
        except UNREACHABLE as error:
            logger.debug("The channel layer cannot be reached: %s", error)
        except Exception:
            logger.exception("Looking after the channel layer failed")
