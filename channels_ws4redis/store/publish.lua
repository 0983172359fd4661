-- Gives a message the next number on each of some channels, keeps it, and publishes it. Or purges the
-- channels: what is kept of them is deleted, and those who hear them are told so under the next number.
-- KEYS, for each channel: C, {C}:history, {C}:meta, and with an idempotency key {C}:once:<key>
-- ARGV: 1 payload, 2 sender, 3 seconds to store the message in C (0: not), 4 what the server has said in
--       an earlier run, or nothing, 5 what stands before {C}:events in the name of its pub/sub channel
--       and, if they are not those of the settings, 6 the version of the message, or nothing, 7 the
--       messages in the history, and 8 the seconds for which it is kept
-- What the settings say is in local variables that stand before all this text, as to pass it would take
-- time in every run: lifetime, the seconds that {C}:meta lives at least; size, keep and limit, the
-- messages in a history, the seconds for which it is kept and the bytes of payload in it; asked, the first
-- two as a text, with a colon between them; keys_each, the keys for each channel; mirrors, true to publish
-- the bare payload on C as well, for legacy servers; sends, false if a channel layer sends the message; and
-- purges.
-- Returns what the server has said, a line feed, and "epoch offset" of each channel, with a = before it if
-- the channel has had the version already, and got nothing. A failure on one channel keeps no other
-- channel from its message; the first failure is returned in the end.
local ONCE_EXPIRE = 86400  -- seconds for which an idempotency key is remembered
local CLAIMS = 8  -- publishers that ask for something else than others, and are remembered
local payload, sender, expire, said, prefix = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local version = ARGV[6] ~= '' and ARGV[6]
if ARGV[7] then size, keep, asked = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[7] .. ':' .. ARGV[8] end
lifetime = math.max(lifetime, 2 * keep)
local second = tonumber(clock[1])
local slack = math.ceil(0.02 * keep)  -- some seconds more, so that not every message has to renew a life
local tail = purges and ' purged\n' or mirrors and ' 1\n' or ' 0\n'

-- What another program keeps under one of the names is not to be replaced: whoever opens a socket
-- may choose a part of them.
local function require_type(key, kind)
  local found = call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    error({err = 'WRONGTYPE The key ' .. key .. ' is a ' .. found .. ' of another program; '
      .. 'set WS4REDIS_PREFIX, or rename that key'})
  end
end

-- What the server has said is its reign, the time in milliseconds, whether Redis's user may publish on
-- whatever channel, as yes or no, and where this very process keeps the library of its scripts. It counts
-- for a moment. The same process has another reign only if it has been a replica meanwhile. It lacks
-- something only if it has then taken over all data of another server, which takes longer.
local MOMENT = 100  -- milliseconds
local given, time, may_publish, process = string.match(said, '^(%w+) (%d+) (%l+) (.*)$')
local age = given and now - time
if not age or age < 0 or age >= MOMENT or process ~= tostring(redis) then given, may_publish = nil end

-- Drops the oldest messages of a history until the others are within the limit, or only the last is
-- left. Returns the bytes that were written before the oldest one left. Each entry knows that number as
-- b, so hardly more is looked at than is dropped, however long the history is.
local function shorten(history, written)
  local left, from, count = call('XLEN', history), '-', 1
  while true do
    for _, entry in ipairs(call('XRANGE', history, from, '+', 'COUNT', count)) do
      local before = tonumber(entry[2][8] or 0) or 0
      if written - before <= limit or left == 1 then
        call('XTRIM', history, 'MAXLEN', left)
        return before
      end
      left, from = left - 1, string.match(entry[1], '%d+') .. '-1'
    end
    count = 2 * count
  end
end

-- Returns the messages that a history has room for, which is as many as whoever asks for most of them, while
-- that is due; the second until which it lives; and what is to be noted of that. What is less than what is
-- asked for now, or by anybody else, or over, is forgotten. Of too many the last ones are taken together,
-- as if somebody had asked for as many as any of them, and for as long.
local function claims(meta)
  local till = second + keep + slack
  local most, last, noted, others = size, till, size .. ':' .. till, {}

  local function take(messages, due)
    for at = #others, 1, -1 do
      local other = others[at]
      if other[1] >= messages and other[2] >= due then return end
      if other[1] <= messages and other[2] <= due then table.remove(others, at) end
    end
    local tail = #others == CLAIMS and table.remove(others) or {0, 0}
    table.insert(others, {math.max(messages, tail[1]), math.max(due, tail[2])})
  end

  for messages, due in string.gmatch(call('HMGET', meta, 'keeps')[1] or '', '(%d+):(%d+)') do
    messages, due = tonumber(messages), tonumber(due)
    if due >= second and due < second + 2e9 and messages < 1e9 and (messages > size or due > till) then
      take(messages, due)
    end
  end
  for _, other in ipairs(others) do
    most, last = math.max(most, other[1]), math.max(last, other[2])
    noted = noted .. ' ' .. other[1] .. ':' .. other[2]
  end
  return most, last, noted
end

local function publish(name, history, meta, once)
  local epoch, offset, past, found = standing(meta, given)
  local written, dropped = tonumber(found[3] or 0) or 0, tonumber(found[4] or 0) or 0
  -- Whoever asks for what was noted last need not note it again before that is due. That is put off, as it
  -- takes as long as all the rest.
  local calm = found[6] == asked and second < (tonumber(found[5]) or 0) and 2 * expire <= lifetime
  if once then
    local done = call('GET', once)
    if done then return done end
  end
  if version and epoch then
    -- They are whole numbers, and may have more digits than Lua counts.
    local last = call('HMGET', meta, 'version')[1]
    if last and (#version < #last or #version == #last and version <= last) then
      return string.format('=%s %d', epoch, offset)
    end
  end
  local events = sends and prefix .. '{' .. name .. '}:events'
  if may_publish ~= 'yes' then
    if events then require_publish(events) end
    if mirrors then require_publish(name) end
  end
  if expire > 0 or purges then require_type(name, 'string') end
  if not epoch or purges then require_type(history, 'stream') end
  if not epoch then
    require_type(meta, 'hash')
    -- A numbering is named by the clock, by its microseconds, which repeat after 71 minutes.
    local numbering = string.format('%08x', (clock[1] * 1000000 + clock[2]) % 4294967296)
    epoch = numbering .. '.' .. ask().reign
    past = ask().blank_epoch(name, history, lifetime) .. ':0 '
    -- Of a numbering that is lost. Once a script has written, Redis lets it go past maxmemory: a stranger
    -- who names new channels is not to get that far by deleting nothing.
    if call('EXISTS', history, meta) > 0 then call('DEL', history, meta) end
  end
  offset = string.format('%d', offset + 1)
  -- What can fail comes first: a publish that fails must leave nothing behind.
  if purges then
    call('DEL', name, history)
    call('HSET', meta, 'offset', offset, 'dropped', written, 'stored', '', 'asked', '')
    keep_seconds(meta, lifetime)
  else
    local most, last, noted = size, nil, nil
    if not calm then most, last, noted = claims(meta) end
    local id, till = offset .. '-0', expire > 0 and now + expire * 1000 or 0
    -- A stream that exists lives for as long as is noted. Redis before 7 may not know how to ask for one.
    if not redis.REDIS_VERSION_NUM or not call('XADD', history, 'NOMKSTREAM', 'MAXLEN', most, id,
        'p', payload, 's', sender, 'x', till, 'b', written) then
      if calm then most, last, noted = claims(meta) end
      calm = false
      call('XADD', history, 'MAXLEN', most, id, 'p', payload, 's', sender, 'x', till, 'b', written)
    end
    written = written + #payload
    if written - dropped > limit then
      dropped = shorten(history, written)
      call('HSET', meta, 'dropped', dropped)
    end
    if expire > 0 then
      call('HSET', meta, 'offset', offset, 'written', written, 'stored', offset)
      call('SET', name, payload, 'EX', expire)
    else
      call('HSET', meta, 'offset', offset, 'written', written)
    end
    if not calm then
      call('EXPIRE', history, last - second)
      keep_seconds(meta, math.max(lifetime, 2 * expire) + slack)
      call('HSET', meta, 'keeps', noted)
      -- Whoever asks for less than others has to look at that each time.
      if most == size then call('HSET', meta, 'due', second + slack, 'asked', asked) end
    end
  end
  if version then call('HSET', meta, 'version', version) end
  if past then call('HSET', meta, 'epoch', epoch, 'past', past, 'dropped', dropped) end
  local position = epoch .. ' ' .. offset
  if once then call('SET', once, position, 'EX', ONCE_EXPIRE) end
  if events then call('PUBLISH', events, position .. ' ' .. sender .. tail .. payload) end
  if mirrors then call('PUBLISH', name, payload) end
  return position
end

return answer(function()
  local positions, failure = nil, nil
  for first = 1, #KEYS, keys_each do
    local done, position = pcall(publish, unpack(KEYS, first, first + keys_each - 1))
    if not done then
      failure = failure or position
    else
      positions = positions and positions .. ' ' .. position or position
    end
  end
  if failure then error(failure, 0) end
  if server and server.told then
    -- Only who may publish everywhere may publish on a channel without a name.
    local free = not redis.acl_check_cmd or redis.acl_check_cmd('PUBLISH', '', '')
    said = string.format('%s %.0f %s %s', server.reign, now, free and 'yes' or 'no', tostring(redis))
  end
  return said .. '\n' .. positions
end)
