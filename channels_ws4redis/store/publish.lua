-- Gives a message the next number on each of some channels, stores it, and publishes it.
-- KEYS, for each channel: C, {C}:history, {C}:meta, and with an idempotency key {C}:once:<key>
-- ARGV: 1 payload, 2 sender, 3 seconds to store the message (0: not), 4 what the server has said in an
--       earlier run, or nothing, 5 what stands before {C}:events in the name of its pub/sub channel; absent
--       where a channel layer sends the message
-- What the settings say is in local variables that stand before all this text, as to pass it would take
-- time in every run: lifetime, the seconds that {C}:meta lives at least; size and limit, the messages and
-- the bytes of payload in a history; keys_each, the keys for each channel; and mirrors, true to publish
-- the bare payload on C as well, for legacy servers.
-- Returns what the server has said, a line feed, and "epoch offset" of each channel. A failure on one
-- channel keeps no other channel from its message; the first failure is returned in the end.
local ONCE_EXPIRE = 86400  -- seconds for which an idempotency key is remembered
local payload, sender, expire, said, prefix = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local meta_expire = math.max(lifetime, 2 * expire)
local mirrored = mirrors and ' 1\n' or ' 0\n'

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

local function publish(name, history, meta, once)
  local epoch, offset, written, dropped, due, past = standing(meta, given)
  written, dropped = tonumber(written or 0) or 0, tonumber(dropped or 0) or 0
  if once then
    local done = call('GET', once)
    if done then return epoch or '', done end
  end
  local events = prefix and prefix .. '{' .. name .. '}:events'
  if may_publish ~= 'yes' then
    if events then require_publish(events) end
    if mirrors then require_publish(name) end
  end
  if expire > 0 then require_type(name, 'string') end
  if not epoch then
    require_type(history, 'stream')
    require_type(meta, 'hash')
    -- A numbering is named by the clock, by its microseconds, which repeat after 71 minutes.
    local numbering = string.format('%08x', (clock[1] * 1000000 + clock[2]) % 4294967296)
    epoch = numbering .. '.' .. ask().reign
    past = ask().blank_epoch(name, history, lifetime) .. ':0 '
    call('DEL', history)  -- of a numbering that is lost
  end
  offset = string.format('%d', offset + 1)
  -- What can fail comes first: a publish that fails must leave nothing behind.
  if expire > 0 then
    call('XADD', history, 'MAXLEN', size, offset .. '-0', 'p', payload, 's', sender, 'x',
      now + expire * 1000, 'b', written)
    written = written + #payload
    if written - dropped > limit then
      dropped = shorten(history, written)
      call('HSET', meta, 'dropped', dropped)
    end
    keep_seconds(history, expire)
  end
  call('HSET', meta, 'offset', offset, 'written', written)
  if past then call('HSET', meta, 'epoch', epoch, 'past', past, 'dropped', dropped) end
  if clock[1] + meta_expire > (tonumber(due or 0) or 0) then
    local seconds = math.ceil(1.02 * meta_expire)  -- some more, so that the next message need not
    keep_seconds(meta, seconds)
    call('HSET', meta, 'due', clock[1] + seconds)
  end
  if expire > 0 then call('SET', name, payload, 'EX', expire) end
  if once then call('SET', once, offset, 'EX', ONCE_EXPIRE) end
  if events then
    call('PUBLISH', events, epoch .. ' ' .. offset .. ' ' .. sender .. mirrored .. payload)
  end
  if mirrors then call('PUBLISH', name, payload) end
  return epoch, offset
end

return answer(function()
  local positions, failure = {}, nil
  for first = 1, #KEYS, keys_each do
    local done, epoch, offset = pcall(publish, unpack(KEYS, first, first + keys_each - 1))
    if not done then
      failure = failure or epoch
    else
      positions[#positions + 1] = epoch .. ' ' .. offset
    end
  end
  if failure then error(failure, 0) end
  if server and server.told then
    -- Only who may publish everywhere may publish on a channel without a name.
    local free = not redis.acl_check_cmd or redis.acl_check_cmd('PUBLISH', '', '')
    said = string.format('%s %.0f %s %s', server.reign, now, free and 'yes' or 'no', tostring(redis))
  end
  return said .. '\n' .. table.concat(positions, ' ')
end)
