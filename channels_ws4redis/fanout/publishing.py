"""Publishing and reading by the scripts in Redis, on whichever channel layer the project has."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.fanout.counting import TRIES, Count
from channels_ws4redis.protocol.history import Reading
from channels_ws4redis.protocol.messages import Event, Positions, Question
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store import runner
from channels_ws4redis.store.clients import OF_REDIS
from channels_ws4redis.store.commands import (
    Publication,
    parse_published,
    publish_command,
    unkept_command,
    unkept_events,
)
from channels_ws4redis.store.process import get_client
from channels_ws4redis.store.readings import parse_readings, read_command
from channels_ws4redis.store.refusals import (
    SCRIPTS_NEED,
    explained,
    is_of_many_slots,
    is_refusal_as_a_whole,
)
from channels_ws4redis.store.scripts import Command, Result


class _Rest(NamedTuple):
    """What one round trip leaves to be done."""

    #: Where the channels stand that were published to.
    positions: Positions
    #: What is stored, and has still to be sent.
    to_send: list[Event]
    #: What was refused as a whole, and is published again with one channel at a time.
    apart: list[Publication]
    #: The first error that this cannot mend.
    error: Exception | None


class RedisBackend(Backend):
    """Stores by a script, which also sends if it can; else `send` sends afterwards."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        #: See `events_channel`; None where `send` sends.
        self.prefix: str | None = None
        #: A client, and what its Redis has said of itself and its user, see `publish_command`.
        self._said: tuple[Any, bytes] = None, b""
        #: Channels that one run of the script serves: few enough not to hold up Redis for a
        #: millisecond. A Redis in cluster mode takes one at a time, be it of one node only.
        self.channels_at_once = 50

    @abstractmethod
    def send(self, events: Sequence[Event | Question]) -> None:
        """Send what has been stored, or questions, where no script does."""

    @abstractmethod
    async def asend(self, events: Sequence[Event | Question]) -> None:
        """Send what has been stored, or questions; asyncio twin of `send`."""

    def publish(self, publication: Publication, client: Any = None) -> Positions:
        """Store a message and send it to its groups."""
        if self._is_for_layer(publication):
            self.send(unkept_events(publication))
            return {}
        client = client or get_client()
        positions: Positions = {}
        first_error: Exception | None = None
        parts = _parts(publication, self.channels_at_once)
        while parts:
            replies = runner.run(client, self._commands(parts, client))
            found, to_send, parts, error = self._sort(parts, replies, client)
            positions |= found
            first_error = first_error or error
            if to_send:
                self.send(to_send)
        if first_error is not None:
            raise first_error
        return positions

    async def apublish(self, publication: Publication) -> Positions:
        """Store a message and send it to its groups; asyncio twin of `publish`."""
        if self._is_for_layer(publication):
            await self.asend(unkept_events(publication))
            return {}
        client = get_client()
        positions: Positions = {}
        first_error: Exception | None = None
        parts = _parts(publication, self.channels_at_once)
        await runner.get_runner().require_answers()
        while parts:
            replies = await runner.get_runner().run(self._commands(parts, client))
            found, to_send, parts, error = self._sort(parts, replies, client)
            positions |= found
            first_error = first_error or error
            if to_send:
                await self.asend(to_send)
        if first_error is not None:
            raise first_error
        return positions

    def _is_for_layer(self, publication: Publication) -> bool:
        """Tell whether only the channel layer has to do with a message."""
        return not (publication.keep or self.atomic or settings.WS4REDIS_LEGACY_SERVERS)

    def _commands(self, parts: Sequence[Publication], client: Any) -> list[Command]:
        mirror = settings.WS4REDIS_LEGACY_SERVERS
        of, said = self._said
        return [
            publish_command(part, self.prefix, mirror, said if of is client else b"")
            if part.keep
            else unkept_command(part, self.prefix, mirror)
            for part in parts
        ]

    def _sort(self, parts: Sequence[Publication], replies: Sequence[Result], client: Any) -> _Rest:
        positions: Positions = {}
        to_send: list[Event] = []
        apart: list[Publication] = []
        error = None
        for part, reply in zip(parts, replies, strict=True):
            if not isinstance(reply, Exception):
                if not part.keep:
                    to_send += [] if self.atomic else unkept_events(part)
                    continue
                published = parse_published(part.channels, reply)
                positions |= published.positions
                self._said = client, published.said
                if not self.atomic:
                    to_send += published.events(part)
            elif len(part.channels) > 1 and self._may_take_apart(reply):
                apart += _parts(part, 1)
            else:
                what = f"publish to {_named(part.channels)}"
                error = error or explained(reply, client, what, SCRIPTS_NEED)
        return _Rest(positions, to_send, apart, error)

    def _may_take_apart(self, error: Exception) -> bool:
        """Tell whether a script has not run at all because it was for several channels."""
        if is_of_many_slots(error):
            self.channels_at_once = 1
            return True
        return is_refusal_as_a_whole(error)

    def read(
        self, channels: Sequence[str], client: Any = None, *, position_only: bool = False
    ) -> list[Reading | Exception]:
        """Return what is kept of each channel, or why that cannot be told."""
        commands = [read_command(channel, position_only) for channel in channels]
        try:
            return _readings(channels, runner.run(client or get_client(), commands))
        except OF_REDIS as error:
            return [error] * len(channels)

    async def aread(
        self, channels: Sequence[str], *, position_only: bool = False
    ) -> list[Reading | Exception]:
        """Return what is kept of each channel; asyncio twin of `read`."""
        commands = [read_command(channel, position_only) for channel in channels]
        try:
            return _readings(channels, await runner.get_runner().run(commands))
        except OF_REDIS as error:
            return [error] * len(channels)

    def count(self, channels: Sequence[str], client: Any = None) -> dict[str, int]:
        """Ask all processes how many sockets hear each channel."""
        client = client or get_client()
        for seconds in TRIES:
            count = Count(channels, client)
            if self.prefix is None:
                self.send(count.questions)
            else:
                count.asked(runner.run(client, count.commands(self.prefix)))
            for pause, commands in count.looks(seconds):
                time.sleep(pause)
                count.take(runner.run(client, commands))
            if count.answered:
                break
        return count.counts

    async def acount(self, channels: Sequence[str]) -> dict[str, int]:
        """Ask all processes how many sockets hear each channel; asyncio twin of `count`."""
        run = runner.get_runner().run
        for seconds in TRIES:
            count = Count(channels, get_client())
            if self.prefix is None:
                await self.asend(count.questions)
            else:
                count.asked(await run(count.commands(self.prefix)))
            for pause, commands in count.looks(seconds):
                await asyncio.sleep(pause)
                count.take(await run(commands))
            if count.answered:
                break
        return count.counts


def _readings(channels: Sequence[str], replies: Sequence[Result]) -> list[Reading | Exception]:
    client = get_client()
    return [
        outcome
        if isinstance(outcome, Reading)
        else explained(outcome, client, f"read what is stored of {shown(channel)}", SCRIPTS_NEED)
        for channel, outcome in zip(channels, parse_readings(channels, replies), strict=True)
    ]


def _named(channels: Sequence[str]) -> str:
    others = len(channels) - 1
    return f"{shown(channels[0])} or one of {others} others" if others else shown(channels[0])


def _parts(publication: Publication, size: int) -> list[Publication]:
    """Split a publication into those that one run of the script serves each."""
    channels = publication.channels
    if len(channels) <= size:
        return [publication]
    return [
        publication._replace(channels=channels[first : first + size])
        for first in range(0, len(channels), size)
    ]
