"""Reading what Redis keeps of a channel. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol.history import Reading
from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.commands import channel_keys, load_script
from channels_ws4redis.store.scripts import Command

_READ = load_script("standing.lua", "read.lua")


def read_command(name: str) -> Command:
    """Return the command that reads all that is kept of a channel, and writes nothing."""
    return Command(_READ, channel_keys(name), [settings.WS4REDIS_META_EXPIRE])


def parse_readings(names: Sequence[str], replies: Sequence[Any]) -> list[Reading | Exception]:
    """Return what `read_command` has found out about each channel, or why that cannot be told.

    What is kept of one channel may be none of ours, and must not keep anybody from the others.
    """
    return [_try_parse(name, reply) for name, reply in zip(names, replies, strict=True)]


def _try_parse(name: str, reply: Any) -> Reading | Exception:
    if isinstance(reply, Exception):
        return reply
    try:
        return parse_reading(name, reply)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        return redis.exceptions.DataError(
            f"What Redis keeps of {shown(name)} was not written by this package ({error}); delete "
            f"'{{{name}}}:history' and '{{{name}}}:meta'."
        )


def parse_reading(name: str, reply: Any) -> Reading:
    """Return what `read_command` has found out about a channel."""
    epoch, offset, past, value, entries, now = reply
    position = Position(epoch.decode(), offset)
    events = [_parse_entry(name, position.epoch, entry) for entry in entries if _lives(entry, now)]
    stored = _stored(name, value, events, entries)
    return Reading(name, position, _parse_past(past.decode()), events, stored)


def _parse_entry(name: str, epoch: str, entry: Any) -> Event:
    entry_id, (_, payload, _, sender, *_) = entry
    return Event(name, payload, epoch, int(entry_id.partition(b"-")[0]), sender.decode())


def _lives(entry: Any, now: bytes) -> bool:
    """Tell whether an entry has not expired; Redis expires whole keys only."""
    _, fields = entry
    return len(fields) < 6 or int(fields[5]) >= int(now)


def _stored(name: str, value: bytes | None, events: list[Event], entries: Any) -> Sequence[Event]:
    """Return what a newcomer is sent.

    If the value is gone before the last entry has expired, somebody has deleted it to that end.
    """
    last_lives = bool(events) and events[-1].offset == int(entries[-1][0].partition(b"-")[0])
    if value is None:
        return [] if last_lives else events
    if last_lives and events[-1].payload == value:
        return events
    # A policy may have more of them kept than the setting says.
    return [*events, Event(name, value)][-max(settings.WS4REDIS_HISTORY, len(events)) :]


def _parse_past(text: str) -> dict[str, int]:
    """Read ``epoch:offset`` of each epoch that has ended, the latest first."""
    ended = (entry.rpartition(":") for entry in text.split())
    return {epoch: int(offset) for epoch, _, offset in ended}
