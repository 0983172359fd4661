"""Publishing and reading by the scripts in Redis, on whichever channel layer the project has."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import redis

from channels_ws4redis.conf import settings
from channels_ws4redis.fanout.backends import Backend
from channels_ws4redis.fanout.counting import TRIES, Question
from channels_ws4redis.protocol.history import Reading
from channels_ws4redis.protocol.messages import Event
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store import runner
from channels_ws4redis.store.commands import (
    Publication,
    parse_published,
    parse_readings,
    publish_command,
    read_command,
)
from channels_ws4redis.store.process import get_client
from channels_ws4redis.store.refusals import SCRIPTS_NEED, explained
from channels_ws4redis.store.scripts import Command, Result


class RedisBackend(Backend):
    """Stores by a script, which also sends if it can; else `send` sends afterwards."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        #: See `events_channel`; None where `send` sends.
        self.prefix: str | None = None
        #: Channels that one run of the script serves: few enough not to hold up Redis for a
        #: millisecond. A Redis in cluster mode takes one at a time, be it of one node only.
        self.channels_at_once = 50

    @abstractmethod
    def send(self, events: Sequence[Event]) -> None:
        """Send what has been stored, where the script does not."""

    @abstractmethod
    async def asend(self, events: Sequence[Event]) -> None:
        """Send what has been stored; asyncio twin of `send`."""

    def publish(self, publication: Publication, client: Any = None) -> None:
        """Store a message and send it to its groups."""
        self._publish(_parts(publication, self.channels_at_once), client or get_client())

    def _publish(self, parts: list[Publication], client: Any) -> None:
        replies = runner.run(client, self._commands(parts))
        apart = self._take_apart(parts, replies)
        events, error = self._outcome(parts, replies, client)
        if events:
            self.send(events)
        if apart:
            try:
                self._publish(apart, client)
            except redis.exceptions.ResponseError as refusal:
                error = error or refusal
        if error is not None:
            raise error

    async def apublish(self, publication: Publication) -> None:
        """Store a message and send it to its groups; asyncio twin of `publish`."""
        await self._apublish(_parts(publication, self.channels_at_once))

    async def _apublish(self, parts: list[Publication]) -> None:
        replies = await runner.get_runner().run(self._commands(parts))
        apart = self._take_apart(parts, replies)
        events, error = self._outcome(parts, replies, get_client())
        if events:
            await self.asend(events)
        if apart:
            try:
                await self._apublish(apart)
            except redis.exceptions.ResponseError as refusal:
                error = error or refusal
        if error is not None:
            raise error

    def _commands(self, parts: Sequence[Publication]) -> list[Command]:
        mirror = settings.WS4REDIS_LEGACY_SERVERS
        return [publish_command(part, self.prefix, mirror) for part in parts]

    def _take_apart(self, parts: list[Publication], replies: list[Result]) -> list[Publication]:
        """Take out what was refused as a whole, and return it with one channel at a time."""
        apart: list[Publication] = []
        for index in reversed(range(len(parts))):
            reply = replies[index]
            if len(parts[index].channels) == 1 or not isinstance(
                reply, redis.exceptions.ResponseError
            ):
                continue
            if _has_many_slots(reply):
                self.channels_at_once = 1
            elif not _refuses_a_key(reply):
                continue
            apart = _parts(parts.pop(index), 1) + apart
            del replies[index]
        return apart

    def _outcome(
        self, parts: Sequence[Publication], replies: Sequence[Result], client: Any
    ) -> tuple[list[Event], Exception | None]:
        """Return what has still to be sent, and the first error among the replies."""
        events: list[Event] = []
        error = None
        for part, reply in zip(parts, replies, strict=True):
            if isinstance(reply, Exception):
                error = error or explained(
                    reply, client, f"publish to {_named(part.channels)}", SCRIPTS_NEED
                )
            elif not self.atomic:
                events += parse_published(part, reply)
        return events, error

    def read(self, channels: Sequence[str]) -> list[Reading | Exception]:
        """Return all that is kept of each channel, or why that cannot be told."""
        commands = [read_command(channel) for channel in channels]
        try:
            return _readings(channels, runner.run(get_client(), commands))
        except (redis.exceptions.RedisError, OSError) as error:
            return [error] * len(channels)

    async def aread(self, channels: Sequence[str]) -> list[Reading | Exception]:
        """Return all that is kept of each channel; asyncio twin of `read`."""
        commands = [read_command(channel) for channel in channels]
        try:
            return _readings(channels, await runner.get_runner().run(commands))
        except (redis.exceptions.RedisError, OSError) as error:
            return [error] * len(channels)

    def count(self, channels: Sequence[str], client: Any = None) -> dict[str, int]:
        """Ask all processes how many sockets hear each channel."""
        client = client or get_client()
        for seconds in TRIES:
            question = Question(channels, client)
            if self.prefix is None:
                self.send(question.events())
            else:
                question.asked(runner.run(client, question.commands(self.prefix)))
            for pause, commands in question.looks(seconds):
                time.sleep(pause)
                question.take(runner.run(client, commands))
            if question.answered:
                break
        return question.counts

    async def acount(self, channels: Sequence[str]) -> dict[str, int]:
        """Ask all processes how many sockets hear each channel; asyncio twin of `count`."""
        run = runner.get_runner().run
        for seconds in TRIES:
            question = Question(channels, get_client())
            if self.prefix is None:
                await self.asend(question.events())
            else:
                question.asked(await run(question.commands(self.prefix)))
            for pause, commands in question.looks(seconds):
                await asyncio.sleep(pause)
                question.take(await run(commands))
            if question.answered:
                break
        return question.counts


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


def _has_many_slots(error: redis.exceptions.ResponseError) -> bool:
    """Tell whether a Redis in cluster mode, be it of one node only, has refused a script's keys.

    By its text: redis-py 5 makes it a plain ResponseError, later ones take the code off.
    """
    return "to the same slot" in str(error)


def _refuses_a_key(error: redis.exceptions.ResponseError) -> bool:
    """Tell whether an ACL has kept a script from running, perhaps for the keys of one channel.

    What is refused within the script has no effect on the other channels; Redis says so then.
    """
    return isinstance(error, redis.exceptions.NoPermissionError) and "script" not in str(error)
