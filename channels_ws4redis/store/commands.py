"""What Redis keeps of a channel, and the two scripts that write and read it.

Per channel name C there are three keys, in one Redis Cluster slot:

``C``
    the last stored message, as raw bytes, exactly where and how legacy ws4redis keeps it;
``{C}:history``
    a stream of the last messages; the id of an entry is its offset. With ``WS4REDIS_HISTORY = 1``
    there is none, as ``C`` is all that it would hold;
``{C}:meta``
    a hash with the epoch and the offset of the channel, and with offset, sender and check sum of
    the message in ``C``. It outlives the history, so that a client can be told "you have missed
    nothing" after the entries have expired.

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
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

from channels_ws4redis.conf import settings
from channels_ws4redis.protocol.messages import Event, Position
from channels_ws4redis.store.scripts import Command, Script

#: First bytes of a published event; what does not begin so was published by a foreign program.
ENVELOPE = b"\0ws4redis "

#: Seconds for which an idempotency key is remembered.
ONCE_EXPIRE = 86400

# pcall: whoever may not ask for INFO is told that nothing is certain, and a key of another type is
# no history. Other errors are raised as the tables that redis.pcall returns, because Redis before 7
# would put their codes into a sentence.
_LUA = """
local function call(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then error(reply) end
  return reply
end

local function info_has(section, line)
  local info = redis.pcall('INFO', section)
  return type(info) == 'string' and string.find(info, line, 1, true)
end

-- Tells, asking once, whether Redis has come back with all that it had.
local exact
local function came_back_whole()
  exact = exact or (info_has('persistence', 'aof_enabled:1')
    and info_has('replication', 'second_repl_offset:-1') and '1' or '0')
  return exact
end

-- Returns the epoch if there is one, the offset, the epochs before, whether a new one begins now,
-- and offset, check sum and sender of the message that was stored last.
local function find(meta)
  local found = redis.pcall('HMGET', meta,
    'epoch', 'offset', 'run', 'past', 'stored', 'check', 'sender')
  local epoch, offset, past = found[1], tonumber(found[2]) or 0, found[4] or ''
  if not epoch then return nil, 0, '', true, {} end
  local stored = found[5] and {found[5], found[6], found[7]} or {}
  local renewed = found[3] ~= RUN
  if renewed then
    past = epoch .. ':' .. offset .. ':' .. came_back_whole() .. ' ' .. past
    if #past > 400 then past = string.match(string.sub(past, 1, 400), '^.* ') end
  end
  return epoch, offset, past, renewed, stored
end
"""

# A failure on one channel keeps no other channel from its message.
_PUBLISH = Script(
    _LUA
    + f"\nlocal ONCE_EXPIRE = {ONCE_EXPIRE}"
    + """
local payload, check, sender, fresh = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local expire, meta_expire, size = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local keys_each = tonumber(ARGV[8])
local mirrors, head, tail = ARGV[9] == '1', ARGV[10], ARGV[11]
local ends = expire > 0 and size > 1 and redis.call('TIME')[1] + expire
local envelope_end = ' ' .. sender .. '\\n' .. payload

local function publish(name, history, meta, once)
  local epoch, offset, past, renewed = find(meta)
  if once then
    local done = call('GET', once)
    if done then return epoch or '', done end
  end
  if renewed then
    if not epoch then call('DEL', history) end
    epoch = fresh
    call('HSET', meta, 'epoch', epoch, 'run', RUN, 'past', past)
  end
  offset = offset + 1
  if expire > 0 then
    call('HSET', meta, 'offset', offset, 'stored', offset, 'check', check, 'sender', sender)
    call('SET', name, payload, 'EX', expire)
    if size > 1 then
      call('XADD', history, 'MAXLEN', size, offset .. '-0', 'p', payload, 's', sender, 'x', ends)
      if call('TTL', history) < expire then call('EXPIRE', history, expire) end
    end
  else
    call('HSET', meta, 'offset', offset)
  end
  call('EXPIRE', meta, meta_expire)
  if once then call('SET', once, offset, 'EX', ONCE_EXPIRE) end
  if head then
    call('PUBLISH', head .. name .. tail,
      '\\0ws4redis ' .. epoch .. ' ' .. offset .. envelope_end)
  end
  if mirrors then call('PUBLISH', name, payload) end
  return epoch, offset
end

local positions, failure = {}, nil
for first = 1, #KEYS, keys_each do
  local done, epoch, offset = pcall(publish, unpack(KEYS, first, first + keys_each - 1))
  if not done then
    failure = failure or epoch
  elseif not head then
    positions[#positions + 1] = epoch .. ' ' .. offset
  end
end
if type(failure) == 'string' then return redis.error_reply(failure) end
return failure or (head and 1) or table.concat(positions, ' ')
"""
)

# pcall: a full or read-only Redis must not keep anyone from connecting to what it has, nor a key
# of another type under a channel's name from reading the other channels.
_READ = Script(
    _LUA
    + """
local epoch, offset, past, renewed, stored = find(KEYS[3])
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
return {epoch, offset, past, value, stored, entries, redis.call('TIME')[1]}
"""
)


class Publication(NamedTuple):
    """One message for some channels."""

    channels: Sequence[str]
    payload: bytes
    #: Seconds to store the message; 0 leaves an older stored message in place.
    expire: int
    #: Identity of the publishing socket, "" for Django code.
    sender: str = ""
    #: Idempotency key, "" for none.
    key: str = ""


class Affixes(NamedTuple):
    """What stands before and after a channel's name in the name of its Redis pub/sub channel."""

    head: str
    tail: str


def publish_command(publication: Publication, affixes: Affixes | None, mirror: bool) -> Command:
    """Return the command that stores a message and, if there are ``affixes``, publishes it.

    :param mirror: also publish the bare payload on the channel name, for legacy servers.
    """
    channels, payload, expire, sender, key = publication
    args: list[str | bytes | int] = [
        payload,
        _check(payload),
        sender,
        _new_epoch(),
        expire,
        _meta_expire(expire),
        settings.WS4REDIS_HISTORY,
        4 if key else 3,  # keys of a channel
        int(mirror),
        *(affixes or ()),
    ]
    keys = list(chain.from_iterable(_keys(name, key) for name in channels))
    return Command(_PUBLISH, keys, args)


def _keys(name: str, once: str = "") -> list[str]:
    keys = [name, f"{{{name}}}:history", f"{{{name}}}:meta"]
    if once:
        keys.append(f"{{{name}}}:once:{once}")
    return keys


def _check(payload: bytes) -> int:
    """Return what tells our stored message from one that a foreign program has put in its place."""
    return zlib.crc32(payload)


def parse_published(publication: Publication, reply: bytes) -> list[Event]:
    """Return the events of a message that was stored and not published, with their positions."""
    words = reply.decode().split(" ")
    _, payload, _, sender, _ = publication
    return [
        Event(channel, payload, epoch, int(offset), sender)
        for channel, epoch, offset in zip(
            publication.channels, words[::2], words[1::2], strict=True
        )
    ]


def read_command(name: str, witness: Position | None = None) -> Command:
    """Return the command that reads all that is stored of a channel.

    :param witness: a position that events have reached for certain. If it lies beyond what a
        restarted Redis came back with, Redis has lost some.
    """
    epoch, offset = witness or Position("", 0)
    args: list[str | bytes | int] = [
        _new_epoch(),
        _meta_expire(settings.WS4REDIS_EXPIRE),
        epoch or "none",  # as an empty pattern would match anything
        offset,
    ]
    return Command(_READ, _keys(name), args)


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
    #: Offset of our last stored message if a foreign program has stored another in its place.
    replaced: int = 0

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
        if self.value is not None and not complete and self.replaced > seen:
            events.append(Event(self.channel, self.value))  # it is what is current
        return Missed(complete, seen, events, torn)

    def succeeds(self, epoch: str) -> bool:
        """Tell whether an epoch is one that has ended before this one."""
        return self._index(epoch) >= 0

    def _index(self, epoch: str) -> int:
        return next((index for index, past in enumerate(self.past) if past.epoch == epoch), -1)


def parse_snapshot(name: str, reply: Any) -> Snapshot:
    """Return what :func:`read_command` found out about a channel."""
    epoch, offset, past, value, stored, entries, now = reply
    position = Position(epoch.decode(), offset)
    events = []
    for entry_id, fields in entries:
        entry = dict(zip(fields[::2], fields[1::2], strict=True))
        if int(entry.get(b"x", now)) >= int(now):
            at = _offset(entry_id)
            events.append(Event(name, entry[b"p"], position.epoch, at, entry[b"s"].decode()))
    replaced = 0
    if stored:
        at, check, sender = int(stored[0]), int(stored[1]), stored[2].decode()
        if not entries or at > _offset(entries[-1][0]):
            events = []  # the history has been cut down to one since
        if value is not None and check != _check(value):
            replaced = at
        elif value is not None and not (events and at == events[-1].offset):
            events.append(Event(name, value, position.epoch, at, sender))
    return Snapshot(name, position, _parse_past(past.decode()), value, events, replaced)


def _offset(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _parse_past(text: str) -> list[Past]:
    """Read ``epoch:offset:exact`` of each epoch."""
    ended = (entry.split(":") for entry in text.split())
    return [Past(epoch, int(offset), exact == "1") for epoch, offset, exact in ended]
