"""What Redis keeps of a channel, and the two scripts that write and read it.

Per channel name C there are three keys, in one Redis Cluster slot:

``C``
    the last stored message, as raw bytes, exactly where and how legacy ws4redis keeps it;
``{C}:history``
    a stream of the last messages; the id of an entry is its offset;
``{C}:meta``
    a hash with the epoch and the offset of the channel. It outlives the history, so that a client
    can be told "you have missed nothing" after the entries have expired.

The **epoch** is the identity of a history. It changes when Redis has lost the hash, and when Redis
has restarted, because a server that comes back with an older snapshot hands out offsets for the
second time. A restart is no loss in itself: ``past`` names the epochs before it, each with the
offset at which it ended, which is enough to tell what a client of that epoch missed, provided that
Redis came back with all it had. That is certain if it writes an append-only file and is no promoted
replica, and if nobody is known to have been further.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from channels_ws4redis.conf import settings
from channels_ws4redis.connections import Command, Script
from channels_ws4redis.messages import Event, Position

#: First bytes of a published event; what does not begin so was published by a foreign program.
ENVELOPE = b"\0ws4redis "

#: Seconds for which an idempotency key is remembered.
ONCE_EXPIRE = 86400

# pcall: whoever may not ask for INFO is told that nothing is certain.
_META = """
local function info_has(section, line)
  local info = redis.pcall('INFO', section)
  return type(info) == 'string' and string.find(info, line, 1, true)
end
local meta = redis.call('HMGET', KEYS[3], 'epoch', 'offset', 'run', 'past')
local epoch, offset, past = meta[1], tonumber(meta[2]) or 0, meta[4] or ''
local renewed = not epoch or meta[3] ~= RUN
if not epoch then
  offset, past = 0, ''
elseif renewed then
  local exact = '0'
  if info_has('persistence', 'aof_enabled:1') and info_has('replication', 'second_repl_offset:-1')
  then exact = '1' end
  past = epoch .. ':' .. offset .. ':' .. exact .. ' ' .. past
  if #past > 400 then past = string.match(string.sub(past, 1, 400), '^.* ') end
end
"""

_PUBLISH = Script(
    _META
    + """
local payload, expire, size, meta_expire = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
if KEYS[4] then
  local done = redis.call('GET', KEYS[4])
  if done then
    return {epoch or '', tonumber(done), 0}
  end
end
if renewed then
  if not epoch then redis.call('DEL', KEYS[2]) end
  epoch = ARGV[5]
  redis.call('HSET', KEYS[3], 'epoch', epoch, 'run', RUN, 'past', past)
end
offset = redis.call('HINCRBY', KEYS[3], 'offset', 1)
redis.call('EXPIRE', KEYS[3], meta_expire)
if expire > 0 then
  redis.call('SET', KEYS[1], payload, 'EX', expire)
  if size == 1 then
    redis.call('XADD', KEYS[2], 'MAXLEN', 1, offset .. '-0', 'p', payload, 's', ARGV[6])
    redis.call('EXPIRE', KEYS[2], expire)
  else
    local now = redis.call('TIME')
    redis.call('XADD', KEYS[2], 'MAXLEN', size, offset .. '-0',
      'p', payload, 's', ARGV[6], 'x', now[1] + expire)
    if redis.call('TTL', KEYS[2]) < expire then redis.call('EXPIRE', KEYS[2], expire) end
  end
end
if KEYS[4] then redis.call('SET', KEYS[4], offset, 'EX', ARGV[8]) end
local receivers = 0
if ARGV[7] ~= '' then
  receivers = redis.call('PUBLISH', ARGV[7],
    '\\0ws4redis ' .. epoch .. ' ' .. offset .. ' ' .. ARGV[6] .. '\\n' .. payload)
end
if ARGV[9] == '1' then receivers = receivers + redis.call('PUBLISH', KEYS[1], payload) end
return {epoch, offset, receivers}
"""
)

# pcall: a full or read-only Redis must not keep anyone from connecting to what it has, nor a key
# of another type under a channel's name from reading the other channels.
_READ = Script(
    _META
    + """
local ended = tonumber(string.match(past, ARGV[3] .. ':(%d+):') or ARGV[4])
local torn = tonumber(ARGV[4]) > ended
if torn then past = string.gsub(past, ':1 ', ':0 ') end
if renewed or torn then
  local wrote = redis.pcall('HSET', KEYS[3], 'epoch', renewed and ARGV[1] or epoch, 'run', RUN,
    'offset', offset, 'past', past)
  if type(wrote) == 'table' and wrote.err then
    epoch = epoch or ''
  elseif renewed then
    if not epoch then redis.call('DEL', KEYS[2]) end
    epoch = ARGV[1]
    redis.call('EXPIRE', KEYS[3], ARGV[2])
  end
end
local value, entries = redis.pcall('GET', KEYS[1]), redis.pcall('XRANGE', KEYS[2], '-', '+')
if type(value) == 'table' then value = false end
if entries.err then entries = {} end
return {epoch, offset, past, value, entries, redis.call('TIME')[1]}
"""
)


class Publication(NamedTuple):
    """One message for one channel."""

    channel: str
    payload: bytes
    #: Seconds to store the message; 0 leaves an older stored message in place.
    expire: int
    #: Identity of the publishing socket, "" for Django code.
    sender: str = ""
    #: Idempotency key, "" for none.
    key: str = ""


def publish_command(publication: Publication, pubsub_channel: str, mirror: bool) -> Command:
    """Return the command that stores a message and, if ``pubsub_channel``, publishes it.

    :param mirror: also publish the bare payload on the channel name, for legacy servers.
    """
    name, payload, expire, sender, key = publication
    keys = [name, f"{{{name}}}:history", f"{{{name}}}:meta"]
    if key:
        keys.append(f"{{{name}}}:once:{key}")
    args: list[str | bytes | int] = [
        payload,
        expire,
        settings.WS4REDIS_HISTORY,
        _meta_expire(expire),
        _new_epoch(),
        sender,
        pubsub_channel,
        ONCE_EXPIRE,
        int(mirror),
    ]
    return Command(_PUBLISH, keys, args)


def parse_published(publication: Publication, reply: Any) -> Event:
    """Return the event of a message that has been stored, with its place in the history."""
    epoch, offset, _ = reply
    return Event(
        publication.channel, publication.payload, epoch.decode(), offset, publication.sender
    )


def read_command(name: str, witness: Position | None = None) -> Command:
    """Return the command that reads all that is stored of a channel.

    :param witness: a position that events have reached for certain. If it lies beyond what a
        restarted Redis came back with, Redis has lost some.
    """
    keys = [name, f"{{{name}}}:history", f"{{{name}}}:meta"]
    epoch, offset = witness or Position("", 0)
    # "none", as an empty pattern would match anything.
    return Command(
        _READ,
        keys,
        [_new_epoch(), _meta_expire(settings.WS4REDIS_EXPIRE), epoch or "none", offset],
    )


def _meta_expire(expire: int) -> int:
    return max(settings.WS4REDIS_META_EXPIRE, 2 * expire)


def _new_epoch() -> str:
    return secrets.token_hex(6)


def parse_envelope(channel: str, data: bytes) -> Event:
    """Return the event in what was published on a channel's pub/sub channel.

    Data without our envelope come from a foreign program and are the payload alone.
    """
    if data.startswith(ENVELOPE):
        head, _, payload = data[len(ENVELOPE) :].partition(b"\n")
        with contextlib.suppress(ValueError):  # it only begins like ours
            epoch, offset, sender = head.decode().split(" ")
            return Event(channel, payload, epoch, int(offset), sender)
    return Event(channel, data)


_FETCH = Script("return redis.call('GET', KEYS[1])")


def fetch_command(name: str) -> Command:
    """Return the command that reads the stored message of a channel and nothing else."""
    return Command(_FETCH, [name], [])


class Past(NamedTuple):
    """An epoch that has ended."""

    epoch: str
    #: Its last offset that Redis knows of.
    offset: int
    #: True if there was none after it, for certain.
    exact: bool


class Missed(NamedTuple):
    """What a client with an older position has to be sent."""

    #: True if ``events`` are all that it missed; False if some are gone, and they are what is left.
    complete: bool
    #: The offset up to which the client has everything that is still known; -1 if unknown.
    seen: int
    events: list[Event]
    #: Offsets after which Redis may have lost messages without leaving a gap.
    torn: Sequence[int] = ()


class Snapshot(NamedTuple):
    """All that Redis had of a channel at one moment."""

    channel: str
    position: Position
    #: The epochs before this one, the last one first.
    past: Sequence[Past]
    #: The stored message; None if it has expired or was deleted by hand.
    value: bytes | None
    #: The history, oldest first, without what has expired.
    events: list[Event]

    def replay(self) -> list[Event]:
        """Return the messages for a client that has no position.

        An empty message clears what came before it, as applications of legacy use it. A value that
        is not the last one of the history was stored by a foreign program: it follows the others.
        """
        events = self.events
        last = events[-1] if events else None
        if self.value is None and last is not None and last.offset == self.position.offset:
            return []  # deleted by hand
        if self.value is not None and (last is None or last.payload != self.value):
            events = [*events, Event(self.channel, self.value)][-settings.WS4REDIS_HISTORY :]
        for index in range(len(events) - 1, -1, -1):
            if not events[index].payload:
                return events[index + 1 :]
        return events

    def since(self, position: Position) -> Missed:
        """Return what was published after ``position``, all of it or an admission.

        Offsets that a restarted server handed out a second time are those above the end of an
        epoch; a client of that epoch has seen none of them, whatever its own offset says. If it was
        further, so may others have been, and what they saw is gone.
        """
        seen = position.offset
        torn: list[int] = []
        if position.epoch != self.position.epoch:
            index = self._index(position.epoch)
            known = self.past if index < 0 else self.past[: index + 1]
            torn = [past.offset for past in known if not past.exact]
            if index < 0:
                return Missed(False, -1, self.replay(), torn)
            end = self.past[index].offset
            if seen > end:
                seen = end
                torn.append(end)
        events = [event for event in self.events if event.offset > seen]
        complete = not torn and len(events) == self.position.offset - seen
        return Missed(complete, seen, events, torn)

    def succeeds(self, epoch: str) -> bool:
        """Tell whether an epoch is one that has ended before this one."""
        return self._index(epoch) >= 0

    def _index(self, epoch: str) -> int:
        return next((index for index, past in enumerate(self.past) if past.epoch == epoch), -1)


def parse_snapshot(name: str, reply: Any) -> Snapshot:
    """Return what :func:`read_command` found out about a channel."""
    epoch, offset, past, value, entries, now = reply
    position = Position(epoch.decode(), offset)
    events = []
    for entry_id, fields in entries:
        entry = dict(zip(fields[::2], fields[1::2], strict=True))
        if int(entry.get(b"x", now)) >= int(now):
            events.append(
                Event(
                    name,
                    entry[b"p"],
                    position.epoch,
                    int(entry_id.partition(b"-")[0]),
                    entry[b"s"].decode(),
                )
            )
    return Snapshot(name, position, _parse_past(past.decode()), value, events)


def _parse_past(text: str) -> list[Past]:
    """Read ``epoch:offset:exact`` of each epoch."""
    ended = (entry.split(":") for entry in text.split())
    return [Past(epoch, int(offset), exact == "1") for epoch, offset, exact in ended]
