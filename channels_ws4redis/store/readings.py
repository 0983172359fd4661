"""Reading what Redis keeps of a channel. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol.history import Kept, Reading
from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.commands import channel_keys, load_script
from channels_ws4redis.store.scripts import Command

_READ = load_script("standing.lua", "read.lua")


def read_command(name: str, position_only: bool = False) -> Command:
    """Return the command that reads what is kept of a channel, and writes nothing.

    :param position_only: read where the channel stands, and nothing of its messages.
    """
    args = [settings.WS4REDIS_META_EXPIRE, int(not position_only)]
    return Command(_READ, channel_keys(name), args)


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
    epoch, offset, past, entries, value, stored, now = reply
    position = Position(epoch.decode(), offset)
    kept = [_parse_entry(name, position.epoch, entry) for entry in entries]
    number = int(stored) if stored and stored.isdigit() else 0
    return Reading.of(name, position, _parse_past(past.decode()), kept, value, number, int(now))


def _parse_entry(name: str, epoch: str, entry: Any) -> Kept:
    entry_id, (_, payload, _, sender, _, until, *_) = entry
    offset = int(entry_id.partition(b"-")[0])
    return Kept(Event(name, payload, epoch, offset, sender.decode()), int(until))


def _parse_past(text: str) -> dict[str, int]:
    """Read ``epoch:offset`` of each epoch that has ended, the latest first."""
    ended = (entry.rpartition(":") for entry in text.split())
    return {epoch: int(offset) for epoch, _, offset in ended}
