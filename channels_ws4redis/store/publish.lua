-- Gives a message the next number on each of some channels, stores it, and publishes it.
-- KEYS, for each channel: C, {C}:history, {C}:meta, and with an idempotency key {C}:once:<key>
-- ARGV: 1 payload, 2 sender, 3 seconds to store the message (0: not), 4 seconds that {C}:meta lives at
--       least, 5 messages in a history, 6 bytes of payload in a history, 7 keys for each channel,
--       8 '1' to publish the bare payload on C as well, for legacy servers,
--       9 what stands before {C}:events in the name of its pub/sub channel; absent where a channel
--       layer sends the message
-- Returns 1, or without 9 "epoch offset" of each channel. A failure on one channel keeps no
-- other channel from its message; the first failure is returned in the end.
local ONCE_EXPIRE = 86400  -- seconds for which an idempotency key is remembered
local payload, sender, expire, lifetime = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local size, limit = ARGV[5], tonumber(ARGV[6])
local keys_each, mirrors, prefix = tonumber(ARGV[7]), ARGV[8] == '1', ARGV[9]
local meta_expire = math.max(lifetime, 2 * expire)
local ends = expire > 0 and milliseconds(expire * 1000)
local envelope_end = ' ' .. sender .. (mirrors and ' 1\n' or ' 0\n') .. payload

-- What another program keeps under one of the names is not to be replaced: whoever opens a socket
-- may choose a part of them.
local function require_type(key, kind)
  local found = call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    error({err = 'WRONGTYPE The key ' .. key .. ' is a ' .. found .. ' of another program; '
      .. 'set WS4REDIS_PREFIX, or rename that key'})
  end
end

-- Redis's user may have no right to a pub/sub channel. Redis before 7 says so only when it is too late.
local function require_publish(channel)
  if redis.acl_check_cmd and not redis.acl_check_cmd('PUBLISH', channel, '') then
    error({err = 'NOPERM ACL failure in script: no right to publish on ' .. channel})
  end
end

-- Names a numbering by the clock: by its microseconds, which repeat after 71 minutes.
local function new_numbering()
  local time = call('TIME')
  return string.format('%08x', (time[1] * 1000000 + time[2]) % 4294967296)
end

local function bytes(text) return tonumber(text or 0) or 0 end

-- Drops the oldest messages of a history until the others are within the limit, or only the last is
-- left. Returns the bytes that were written before the oldest one left. Each entry knows that number as
-- b, so hardly more is looked at than is dropped, however long the history is.
local function shorten(history, written)
  local left, from, count = call('XLEN', history), '-', 1
  while true do
    for _, entry in ipairs(call('XRANGE', history, from, '+', 'COUNT', count)) do
      local before = bytes(entry[2][8])
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
  local epoch, offset, past, renewed, written, dropped = standing(meta)
  written, dropped = bytes(written), bytes(dropped)
  if once then
    local done = call('GET', once)
    if done then return epoch or '', done end
  end
  local events = prefix and prefix .. '{' .. name .. '}:events'
  if events then require_publish(events) end
  if mirrors then require_publish(name) end
  if expire > 0 then require_type(name, 'string') end
  if not epoch then
    require_type(history, 'stream')
    require_type(meta, 'hash')
    epoch, past = new_numbering() .. '.' .. reign, blank_epoch(name, history, lifetime) .. ':0 '
    call('DEL', history)  -- of a numbering that is lost
  end
  offset = offset + 1
  -- What can fail comes first: a publish that fails must leave nothing behind.
  if expire > 0 then
    call('XADD', history, 'MAXLEN', size, offset .. '-0', 'p', payload, 's', sender, 'x', ends,
      'b', written)
    written = written + #payload
    if written - dropped > limit then dropped = shorten(history, written) end
    keep_seconds(history, expire)
  end
  if renewed then
    call('HSET', meta, 'epoch', epoch, 'offset', offset, 'past', past, 'written', written, 'dropped',
      dropped)
  else
    call('HSET', meta, 'offset', offset, 'written', written, 'dropped', dropped)
  end
  keep_seconds(meta, meta_expire)
  if expire > 0 then call('SET', name, payload, 'EX', expire) end
  if once then call('SET', once, offset, 'EX', ONCE_EXPIRE) end
  if events then
    call('PUBLISH', events, epoch .. ' ' .. offset .. envelope_end)
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
    elseif not prefix then
      positions[#positions + 1] = epoch .. ' ' .. offset
    end
  end
  if failure then error(failure, 0) end
  return prefix and 1 or table.concat(positions, ' ')
end)
