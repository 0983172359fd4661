-- Where a channel stands. This text stands before publish.lua and read.lua; it writes nothing.
--
-- {C}:meta is a hash: epoch "<numbering>.<reign>", offset, and past, the epochs before this one as
-- "epoch:last offset ", the latest first. See protocol/history.py for what the words mean. There is
-- also how many bytes of payload have been written to the history in this numbering, and how many of
-- these, at least, have been dropped from it; the difference is what it may hold.

-- The same as call, but a key of another type counts as absent. That something is forbidden does not.
local function look(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply) end
    return nil
  end
  return reply
end

-- What the server tells about itself, or nothing if the user of Redis may not ask.
local function info(section)
  local reply = redis.pcall('INFO', section)
  return type(reply) == 'string' and reply or ''
end

-- What the server itself says: the replication id is another one after a restart and on a promoted
-- replica. The run id is for servers that know of no replication. Without INFO it is where this very
-- process keeps the library of its scripts: processes begin at an address that is drawn by lot. After
-- SCRIPT FLUSH the address may be another one without need.
local told = string.match(info('replication'), 'master_replid:(%w+)')
  or string.match(info('server'), 'run_id:(%w+)')
local reign = string.sub(told or redis.sha1hex(tostring(redis)), 1, 8)

local function is_under_reign(of) return of == reign or not told and string.sub(of, 1, 8) == reign end

-- Names the reign that follows on an epoch. A process that becomes primary for the second time has its
-- old address, and needs another name than the first time.
local function next_reign(epoch, offset)
  return told and reign or reign .. string.sub(redis.sha1hex(epoch .. ' ' .. offset), 1, 8)
end

-- The epoch of a channel that nothing has been published to: the reign, how often a database was
-- wiped, a sign if something is kept of the channel all the same, and the time in tenths of what
-- {C}:meta lives at least. It tells whether another numbering can have come and gone meanwhile. What is
-- not noticed is that all keys of a channel were deleted, moved or evicted one by one, that the server
-- has forgotten its statistics after a wipe, or that a crash has undone a wipe; and without INFO a wipe.
local WIPES = {flushall = true, flushdb = true, swapdb = true}
local state, tenth  -- asked for once
local function blank_epoch(name, history, lifetime)
  if not state then
    local wipes = 0
    for command, calls in string.gmatch(info('commandstats'), 'cmdstat_(%a+):calls=(%d+)') do
      if WIPES[command] then wipes = wipes + calls end
    end
    state = '-' .. reign .. '.' .. wipes
    tenth = string.format('.%d', call('TIME')[1] * 10 / lifetime)
  end
  return state .. (call('EXISTS', name, history) > 0 and '+' or '') .. tenth
end

-- Returns the time in milliseconds, as text.
local function milliseconds(more)
  local time = call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + more)
end

-- Returns epoch, offset and past of a channel, whether the reign has changed since they were written,
-- and the bytes written and dropped, as text. A change burns one number. The epoch is nil if there is no
-- numbering.
local function standing(meta)
  local found = look('HMGET', meta, 'epoch', 'offset', 'past', 'written', 'dropped') or {}
  local epoch, offset, past = found[1], found[2], found[3] or ''
  if not epoch then return nil, 0, '', true end
  local numbering, of = string.match(epoch, '^(%w+)%.(%w+)$')
  offset = string.match(offset or '', '^%d+$')
  if not of or not offset or #offset > 15 then return nil, 0, '', true end  -- none of ours
  offset = tonumber(offset)
  if is_under_reign(of) then return epoch, offset, past, false, found[4], found[5] end
  past = epoch .. ':' .. offset .. ' ' .. past
  if #past > 400 then past = string.match(string.sub(past, 1, 400), '^.* ') end
  return numbering .. '.' .. next_reign(epoch, offset), offset + 1, past, true, found[4], found[5]
end
