-- Where a channel stands. This text stands before publish.lua and read.lua; it writes nothing.
--
-- {C}:meta is a hash: epoch "<numbering>.<reign>", offset, and past, the epochs before this one as
-- "epoch:last offset ", the latest first. See protocol/history.py for what the words mean. There is
-- also how many bytes of payload have been written to the history in this numbering, and how many of
-- these, at least, have been dropped from it; the difference is what it may hold. There is keeps, what
-- publishers have asked for, as "messages:second " each: so many messages are kept until that second; and
-- asked, what was asked for last, as "messages:seconds", with due, the second until which nothing has to be
-- renewed for that. And there are stored, the offset of the message whose payload was put into C last, and
-- version, that of the last message which has one.

-- The same as call, but a key of another type counts as absent. That something is forbidden does not.
local function look(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply) end
    return nil
  end
  return reply
end

local clock = call('TIME')  -- seconds, and microseconds beside them
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)  -- milliseconds

-- Asks the server about itself, once. It takes as long as a publish, and so does making functions that
-- are not needed: what follows from the answer is in here.
local server
local function ask()
  if server then return server end

  -- What the server tells, or nothing if the user of Redis may not ask.
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
  server = {told = told, reign = reign}

  function server.is_under(of) return of == reign or not told and string.sub(of, 1, 8) == reign end

  -- Names the reign that follows on an epoch. A process that becomes primary for the second time has its
  -- old address, and needs another name than the first time.
  function server.next_reign(epoch, offset)
    return told and reign or reign .. string.sub(redis.sha1hex(epoch .. ' ' .. offset), 1, 8)
  end

  -- The epoch of a channel that nothing has been published to: the reign, how often a database was
  -- wiped, a sign if something is kept of the channel all the same, and the time in tenths of what
  -- {C}:meta lives at least. It tells whether another numbering can have come and gone meanwhile. What is
  -- not noticed is that all keys of a channel were deleted, moved or evicted one by one, that the server
  -- has forgotten its statistics after a wipe, or that a crash has undone a wipe; and without INFO a wipe.
  local wiping = {flushall = true, flushdb = true, swapdb = true}
  local wipes  -- asked for once
  function server.blank_epoch(name, history, lifetime)
    if not wipes then
      wipes = 0
      for command, calls in string.gmatch(info('commandstats'), 'cmdstat_(%a+):calls=(%d+)') do
        if wiping[command] then wipes = wipes + calls end
      end
    end
    local kept = call('EXISTS', name, history) > 0 and '+' or ''
    return string.format('-%s.%d%s.%d', reign, wipes, kept, clock[1] * 10 / lifetime)
  end

  return server
end

-- Returns epoch and offset of a channel; past, if the reign has changed since all that was written, which
-- burns one number; and written, dropped, due and asked, as texts in a list. The epoch is nil if there
-- is no numbering. The server is not asked if the channel is under the reign that is given.
local function standing(meta, given)
  local found = look('HMGET', meta, 'epoch', 'offset', 'written', 'dropped', 'due', 'asked') or {}
  local epoch, offset = found[1], tonumber(found[2] or '')
  local numbering, of = string.match(epoch or '', '^(%w+)%.(%w+)$')
  -- None, or none of ours.
  if not of or not offset or offset < 0 or offset >= 1e15 or offset % 1 > 0 then return nil, 0, nil, {} end
  if of == given or ask().is_under(of) then return epoch, offset, nil, found end
  local past = epoch .. ':' .. offset .. ' ' .. (call('HMGET', meta, 'past')[1] or '')
  if #past > 400 then past = string.match(string.sub(past, 1, 400), '^.* ') end
  return numbering .. '.' .. ask().next_reign(epoch, offset), offset + 1, past, found
end
