-- Where a channel stands. This text stands before publish.lua and read.lua; it writes nothing.
--
-- {C}:meta is a hash: epoch "<numbering>.<reign>", offset, and past, the epochs before this one as
-- "epoch:last offset ", the latest first. See protocol/history.py for what the words mean.

-- Errors are raised as the tables that redis.pcall returns: Redis before 7 puts the codes of errors
-- that redis.call raises into a sentence.
local function call(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then error(reply) end
  return reply
end

-- What the server itself says: the replication id is another one after a restart and on a promoted
-- replica. The run id is for servers that know of no replication.
local reign = string.sub(
  string.match(call('INFO', 'replication'), 'master_replid:(%w+)')
  or string.match(call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)

-- The epoch of a channel that nothing has been published to, asked for once: the reign, how often a
-- database was wiped, and the time in tenths of what {C}:meta lives at least. It tells whether another
-- numbering can have come and gone meanwhile. What is not noticed is that {C}:meta was deleted by its
-- name, or evicted, or that a wipe was undone by a crash.
local blank
local function blank_epoch(lifetime)
  if not blank then
    local wipes = 0
    for calls in string.gmatch(call('INFO', 'commandstats'), 'cmdstat_flush%a+:calls=(%d+)') do
      wipes = wipes + calls
    end
    local now = call('TIME')[1]
    blank = '-' .. reign .. '.' .. wipes .. '.' .. string.format('%d', now * 10 / lifetime)
  end
  return blank
end

-- Returns epoch, offset and past of a channel, and whether the reign has changed since they were
-- written. A change burns one number. The epoch is nil if there is no numbering.
local function standing(meta)
  local found = redis.pcall('HMGET', meta, 'epoch', 'offset', 'past')
  local epoch, offset, past = found[1], tonumber(found[2]) or 0, found[3] or ''
  if not epoch then return nil, 0, '', true end
  local numbering, of = string.match(epoch, '^(%w+)%.(%w+)$')
  if not of then return nil, 0, '', true end  -- none of ours
  if of == reign then return epoch, offset, past, false end
  past = epoch .. ':' .. offset .. ' ' .. past
  if #past > 400 then past = string.match(string.sub(past, 1, 400), '^.* ') end
  return numbering .. '.' .. reign, offset + 1, past, true
end
