-- Publishes a message that is not kept. Nothing is written.
-- KEYS: the channels C
-- ARGV: 1 the head of the envelope, 2 payload, 3 whether to publish the bare payload on C as well, for
--       legacy servers, as 0 or 1, 4 what stands before {C}:events in the name of its pub/sub channel;
--       absent where a channel layer sends the message
-- Returns 1. A failure on one channel keeps no other channel from its message; the first failure is
-- returned in the end.
local head, payload, prefix = ARGV[1], ARGV[2], ARGV[4]
local mirrors = ARGV[3] == '1'

local function publish(name)
  local events = prefix and prefix .. '{' .. name .. '}:events'
  if events then require_publish(events) end
  if mirrors then require_publish(name) end
  if events then call('PUBLISH', events, head .. payload) end
  if mirrors then call('PUBLISH', name, payload) end
end

return answer(function()
  -- A replica takes what is published, and only those hear it who have stayed with that replica.
  local about = redis.pcall('INFO', 'replication')
  if type(about) == 'string' and string.find(about, 'role:slave', 1, true) then
    error({err = 'READONLY This is a replica; those who listen are at its primary'})
  end
  local failure
  for _, name in ipairs(KEYS) do
    local done, reason = pcall(publish, name)
    if not done then failure = failure or reason end
  end
  if failure then error(failure, 0) end
  return 1
end)
