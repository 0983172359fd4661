-- Publishes a message that is not kept. Nothing is written.
-- KEYS: the channels C
-- ARGV: 1 the envelope, 2 the bare payload to publish it on C as well, for legacy servers, or nothing,
--       3 what stands before {C}:events in the name of its pub/sub channel; absent where a channel
--       layer sends the message
-- Returns 1. A failure on one channel keeps no other channel from its message; the first failure is
-- returned in the end.
local envelope, payload, prefix = unpack(ARGV)

local function publish(name)
  local events = prefix and prefix .. '{' .. name .. '}:events'
  if events then require_publish(events) end
  if payload ~= '' then require_publish(name) end
  if events then call('PUBLISH', events, envelope) end
  if payload ~= '' then call('PUBLISH', name, payload) end
end

return answer(function()
  -- A replica takes what is published, and only those hear it who have stayed with that replica.
  local about = redis.pcall('INFO', 'replication')
  if type(about) == 'string' and string.find(about, 'role:slave', 1, true) then
    error({err = 'READONLY This is a replica, and not who hears what is published'})
  end
  local failure
  for _, name in ipairs(KEYS) do
    local done, reason = pcall(publish, name)
    if not done then failure = failure or reason end
  end
  if failure then error(failure, 0) end
  return 1
end)
