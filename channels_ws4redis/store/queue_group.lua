-- Sends a message to the channels of processes in a group.
-- KEYS: the named channels of the group, see queue_join.lua
-- ARGV: 1 the pub/sub channel on which processes hear the group, 2 the packed message
-- Returns the named channels, for each of which there is a queue to put the message into.
return answer(function()
  local named = call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
  call('PUBLISH', ARGV[1], ARGV[2])
  return named
end)
